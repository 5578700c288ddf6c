//! qmail-local: what a delivery by a `.qmail` file says to programs and reads in their exit codes.

mod environment;
pub mod sender;

pub use environment::{Envelope, dtline, one_line, rpline};

/// How a program of a `.qmail` file ended, as qmail-command.8 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// 0: the next line is obeyed.
    Well,
    /// 99: well, and no further line is obeyed. Addresses on earlier lines still get the message.
    Last,
    /// 100 and what sysexits.h means for ever: the message bounces.
    Hard,
    /// Anything else: the whole delivery is tried again later.
    Soft,
}

impl Ended {
    /// By its exit code.
    #[must_use]
    pub fn with(code: u8) -> Self {
        match code {
            0 => Self::Well,
            99 => Self::Last,
            100 | 64 | 65 | 70 | 76 | 77 | 78 | 112 => Self::Hard,
            _ => Self::Soft,
        }
    }
}

/// Longest text of programs that is kept of one delivery, in bytes (qmail-lspawn: truncreport).
pub const MAX_REPORT: usize = 3000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_say_what_becomes_of_the_message() {
        let codes =
            |ended: Ended| -> Vec<u8> { (0..=255).filter(|code| Ended::with(*code) == ended).collect() };
        assert_eq!(codes(Ended::Well), [0]);
        assert_eq!(codes(Ended::Last), [99]);
        assert_eq!(codes(Ended::Hard), [64, 65, 70, 76, 77, 78, 100, 112]);
        assert_eq!(codes(Ended::Soft).len(), 256 - 10);
    }
}
