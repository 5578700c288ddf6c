//! What is said to a qmail-queue program and what its exit code answers (qmail-queue.8, qmail.c; the custom-error patch).

mod records;
pub mod socket;

use crate::envelope::{self, push};
use crate::reply::Refusal;
pub use records::{Fault, MAX_ENVELOPE, Reader, Scanner};

/// Exit codes of qmail-queue that this host's own gives (qmail-queue.8).
pub mod exit {
    /// An address is too long.
    pub const ADDRESS: u8 = 11;
    /// No memory.
    pub const MEMORY: u8 = 51;
    /// It took too long.
    pub const TIMEOUT: u8 = 52;
    /// A file could not be written, or the disk is full.
    pub const WRITE: u8 = 53;
    /// Message or envelope could not be read, or the envelope has no end.
    pub const READ: u8 = 54;
    /// No way into the home.
    pub const HOME: u8 = 61;
    /// No way into the queue.
    pub const QUEUE: u8 = 62;
    /// No file can be made in `pid`.
    pub const PID: u8 = 63;
    /// No file can be made in `mess` or `intd`.
    pub const MESS: u8 = 64;
    /// No file can be made in `todo`.
    pub const TODO: u8 = 66;
    /// The host refuses it for now.
    pub const REFUSED: u8 = 71;
    /// The host did not take the connection in time.
    pub const CONNECT: u8 = 72;
    /// The connection to the host broke.
    pub const COMMUNICATION: u8 = 74;
    /// The envelope is none.
    pub const FORMAT: u8 = 91;
}

/// Longest custom text, in bytes, with its first letter; what follows is not read.
pub const MAX_CUSTOM: usize = 255;

/// The bytes of descriptor 1: `F` sender, `T` each recipient, and a final NUL.
///
/// # Errors
/// The refusal of an address longer than [`envelope::MAX_ADDRESS`], or with NUL in it.
pub fn envelope(sender: &[u8], recipients: &[Vec<u8>]) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    push(&mut bytes, b'F', sender).map_err(refusal)?;
    for recipient in recipients {
        push(&mut bytes, b'T', recipient).map_err(refusal)?;
    }
    bytes.push(0);
    Ok(bytes)
}

fn refusal(error: envelope::Error) -> Refusal {
    match error {
        envelope::Error::TooLong { .. } => Refusal::qq_address_too_long(),
        _ => Refusal::qq_internal_bug(),
    }
}

/// What the exit code means; `None` for death by a signal. `custom` is what the program wrote to descriptor 6 (notqmail)
/// and to descriptor 4 (the custom-error patch): the first of them that is a custom error counts, and only with exit
/// code 82.
///
/// # Errors
/// The refusal to send, for every code but 0.
pub fn outcome(exit: Option<u8>, custom: [&[u8]; 2]) -> Result<(), Refusal> {
    Err(match exit {
        Some(0) => return Ok(()),
        Some(11 | 115) => Refusal::qq_address_too_long(),
        Some(31) => Refusal::qq_rejected(),
        Some(12..=40) => Refusal::qq_permanent(),
        Some(51) => Refusal::qq_memory(),
        Some(52) => Refusal::qq_timeout(),
        Some(53) => Refusal::qq_write_error(),
        Some(54) => Refusal::qq_read_error(),
        Some(55) => Refusal::qq_configuration(),
        Some(56) => Refusal::qq_network(),
        Some(61) => Refusal::qq_home(),
        Some(62..=66) => Refusal::qq_files(),
        Some(71) => Refusal::qq_temporarily_rejected(),
        Some(72) => Refusal::qq_connection_timeout(),
        Some(73) => Refusal::qq_connection_rejected(),
        Some(74) => Refusal::qq_communication(),
        Some(81 | 91) => Refusal::qq_internal_bug(),
        Some(82) => custom.into_iter().find_map(custom_error).unwrap_or_else(Refusal::qq_temporary),
        Some(120) => Refusal::qq_exec(),
        Some(_) => Refusal::qq_temporary(),
        None => Refusal::qq_crashed(),
    })
}

/// `DTEXT` or `ZTEXT`, at least three bytes; the newline of a script's `echo` is not part of it.
fn custom_error(bytes: &[u8]) -> Option<Refusal> {
    let bytes = bytes.get(..MAX_CUSTOM).unwrap_or(bytes).trim_ascii_end();
    let (letter, words) = bytes.split_first().filter(|(_, words)| words.len() >= 2)?;
    let words = String::from_utf8_lossy(words).into_owned();
    match letter {
        b'D' => {
            let (subject, detail) = status(&words, "5").unwrap_or((3, 0));
            Some(Refusal::permanent(subject, detail, words))
        }
        b'Z' => {
            let (subject, detail) = status(&words, "4").unwrap_or((3, 0));
            Some(Refusal::temporary(subject, detail, words))
        }
        _ => None,
    }
}

/// Subject and detail of a `(#CLASS.S.D)` at the end.
fn status(words: &str, class: &str) -> Option<(u16, u16)> {
    let (_, code) = words.strip_suffix(')')?.rsplit_once("(#")?;
    let (subject, detail) = code.strip_prefix(class)?.strip_prefix('.')?.split_once('.')?;
    let number = |digits: &str| {
        let sound = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        if sound { digits.parse().ok() } else { None }
    };
    Some((number(subject)?, number(detail)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The reply line to a client that has said EHLO.
    fn said(exit: Option<u8>, custom: [&[u8]; 2]) -> String {
        let mut line = Vec::new();
        match outcome(exit, custom) {
            Ok(()) => line.extend_from_slice(b"ok\r\n"),
            Err(refusal) => refusal.write(true, &mut line),
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    #[test]
    fn each_exit_code_has_its_text() {
        for (exit, line) in [
            (Some(0), "ok"),
            (Some(1), "451 4.3.0 qq temporary problem (#4.3.0)"),
            (Some(10), "451 4.3.0 qq temporary problem (#4.3.0)"),
            (Some(11), "554 5.1.3 envelope address too long for qq (#5.1.3)"),
            (Some(12), "554 5.3.0 qq permanent problem (#5.3.0)"),
            (Some(31), "554 5.3.0 mail server permanently rejected message (#5.3.0)"),
            (Some(40), "554 5.3.0 qq permanent problem (#5.3.0)"),
            (Some(41), "451 4.3.0 qq temporary problem (#4.3.0)"),
            (Some(51), "451 4.3.0 qq out of memory (#4.3.0)"),
            (Some(52), "451 4.3.0 qq timeout (#4.3.0)"),
            (Some(53), "451 4.3.0 qq write error or disk full (#4.3.0)"),
            (Some(54), "451 4.3.0 qq read error (#4.3.0)"),
            (Some(55), "451 4.3.0 qq unable to read configuration (#4.3.0)"),
            (Some(56), "451 4.3.0 qq trouble making network connection (#4.3.0)"),
            (Some(61), "451 4.3.0 qq trouble in home directory (#4.3.0)"),
            (Some(62), "451 4.3.0 qq trouble creating files in queue (#4.3.0)"),
            (Some(66), "451 4.3.0 qq trouble creating files in queue (#4.3.0)"),
            (Some(71), "451 4.3.0 mail server temporarily rejected message (#4.3.0)"),
            (Some(72), "451 4.4.1 connection to mail server timed out (#4.4.1)"),
            (Some(73), "451 4.4.1 connection to mail server rejected (#4.4.1)"),
            (Some(74), "451 4.4.2 communication with mail server failed (#4.4.2)"),
            (Some(81), "451 4.3.0 qq internal bug (#4.3.0)"),
            (Some(82), "451 4.3.0 qq temporary problem (#4.3.0)"),
            (Some(91), "451 4.3.0 qq internal bug (#4.3.0)"),
            (Some(115), "554 5.1.3 envelope address too long for qq (#5.1.3)"),
            (Some(120), "451 4.3.0 unable to exec qq (#4.3.0)"),
            (Some(255), "451 4.3.0 qq temporary problem (#4.3.0)"),
            (None, "451 4.3.0 qq crashed (#4.3.0)"),
        ] {
            assert_eq!(said(exit, [b"", b""]), line, "{exit:?}");
        }
    }

    #[test]
    fn a_custom_error_speaks_for_itself() {
        let generic = "451 4.3.0 qq temporary problem (#4.3.0)";
        for (six, four, line) in [
            (&b"Dspam"[..], &b""[..], "554 5.3.0 spam"),
            (b"", b"Dspam\n", "554 5.3.0 spam"),
            (b"Zlater", b"Dnever", "451 4.3.0 later"),
            (b"junk", b"Dnever", "554 5.3.0 never"),
            (b"Dno (#5.7.1)", b"", "554 5.7.1 no (#5.7.1)"),
            (b"Zno (#5.7.1)", b"", "451 4.3.0 no (#5.7.1)"),
            (b"Dno (#5.+7.1)", b"", "554 5.3.0 no (#5.+7.1)"),
            (b"Dno (#5.7777.1)", b"", "554 5.3.0 no (#5.7777.1)"),
            (b"Dno\r\n250 ok", b"", "554 5.3.0 no??250 ok"),
            (b"Da\n", b"Z", generic),
            (b"dspam", b"554 spam", generic),
        ] {
            assert_eq!(said(Some(82), [six, four]), line);
        }
        assert_eq!(
            said(Some(31), [b"Dspam", b""]),
            "554 5.3.0 mail server permanently rejected message (#5.3.0)"
        );
        let long = [&b"D"[..], &[b'x'; 400]].concat();
        assert_eq!(said(Some(82), [&long, b""]).len(), "554 5.3.0 ".len() + MAX_CUSTOM - 1);
    }

    #[test]
    fn the_envelope_ends_in_a_nul_of_its_own() {
        let to = [b"b@y".to_vec(), b"c@z".to_vec()];
        assert_eq!(envelope(b"a@x", &to).unwrap(), b"Fa@x\0Tb@y\0Tc@z\0\0");
        assert_eq!(envelope(b"", &[]).unwrap(), b"F\0\0");
        assert!(envelope(&[b'a'; 1003], &[vec![b'b'; 1003]]).is_ok());
        assert_eq!(envelope(&[b'a'; 1004], &[]), Err(Refusal::qq_address_too_long()));
        assert_eq!(envelope(b"", &[vec![b'a'; 1004]]), Err(Refusal::qq_address_too_long()));
        assert_eq!(envelope(b"a\0Tb", &[]), Err(Refusal::qq_internal_bug()));
    }

    proptest! {
        #[test]
        fn any_custom_text_is_one_consistent_line(six: Vec<u8>, four: Vec<u8>) {
            let refusal = outcome(Some(82), [&six, &four]).unwrap_err();
            prop_assert_eq!(refusal.enhanced().0, refusal.code() / 100);
            prop_assert_eq!(refusal.is_permanent(), refusal.code() == 554);
        }
    }
}
