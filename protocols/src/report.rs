//! What became of a delivery, and how it is said in the log (qmail-send: del_status, logsafe).

/// Longest report text that is kept, in bytes (qmail-send: REPORTMAX).
pub const MAX: usize = 10_000;

/// The three ends of a delivery attempt for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// `K`: accepted by the mailbox or the next host.
    Success,
    /// `Z`: will be tried again.
    Deferral,
    /// `D`: will never work; bounced.
    Failure,
}

impl Class {
    /// The word in the log and the metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Deferral => "deferral",
            Self::Failure => "failure",
        }
    }
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub class: Class,
    /// For the log and the bounce; lines end in LF, the last one too.
    pub text: String,
}

impl Report {
    fn new(class: Class, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.len() > MAX {
            let cut = (0..=MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(cut);
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Self { class, text }
    }

    /// `K`.
    pub fn success(text: impl Into<String>) -> Self {
        Self::new(Class::Success, text)
    }

    /// `Z`.
    pub fn deferral(text: impl Into<String>) -> Self {
        Self::new(Class::Deferral, text)
    }

    /// `D`.
    pub fn failure(text: impl Into<String>) -> Self {
        Self::new(Class::Failure, text)
    }

    /// The last attempt: a deferral becomes a failure that says so.
    #[must_use]
    pub fn at_the_end_of_its_life(mut self) -> Self {
        if self.class == Class::Deferral {
            self.class = Class::Failure;
            self.text.push_str("I'm not going to try again; this message has been in the queue too long.\n");
        }
        self
    }
}

/// Text as a log line may carry it: bytes below 33, above 126 and `%` become `_`, LF becomes `/`.
#[must_use]
pub fn safe(text: &[u8]) -> String {
    text.iter()
        .map(|byte| match byte {
            b'\n' => '/',
            b'%' => '_',
            33..=126 => char::from(*byte),
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_logged_on_one_line() {
        let report = Report::success("127.0.0.1 accepted message.\nRemote host said: 250 ok 100%\n");
        assert_eq!(
            safe(report.text.as_bytes()),
            "127.0.0.1_accepted_message./Remote_host_said:_250_ok_100_/"
        );
        assert_eq!(safe("ä\x7f\0".as_bytes()), "____");
    }

    #[test]
    fn the_last_deferral_is_a_failure() {
        let report = Report::deferral("try later").at_the_end_of_its_life();
        assert_eq!(report.class, Class::Failure);
        assert_eq!(
            report.text,
            "try later\nI'm not going to try again; this message has been in the queue too long.\n"
        );
        assert_eq!(Report::success("did 1+0+0").at_the_end_of_its_life(), Report::success("did 1+0+0"));
    }

    #[test]
    fn a_long_report_is_cut_between_characters() {
        assert_eq!(Report::failure("ä".repeat(MAX)).text.len(), MAX + 1);
        assert_eq!(Report::failure(format!("x{}", "ä".repeat(MAX))).text.len(), MAX);
    }
}
