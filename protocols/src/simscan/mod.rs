//! simscan (Inter7): which messages are scanned by what, what the scanners say, and what becomes of the message.

pub mod attachment;
pub mod clamd;
mod decoders;
pub mod hits;
pub mod log;
mod names;
pub mod opinion;
pub mod options;
pub mod regex;
pub mod rspamd;
pub mod simcontrol;
pub mod spamc;
pub mod verdict;

/// Longest text of a scanner that is passed on, in bytes.
const MAX_TEXT: usize = 200;

/// What a scanner says, for the log and for clients: printable ASCII, `?` in place of anything else, cut.
fn printable(text: &[u8]) -> String {
    let shown = text.iter().take(MAX_TEXT);
    shown.map(|&b| if matches!(b, b' '..=b'~') { char::from(b) } else { '?' }).collect()
}
