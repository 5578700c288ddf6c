//! `control/badmailfrom` (qmail-smtpd): senders whose mail is refused.

use crate::domains::Domains;

/// Addresses and `@host`s.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BadMailFrom {
    entries: Domains,
}

impl BadMailFrom {
    /// The lines of the file.
    pub fn new(entries: Domains) -> Self {
        Self { entries }
    }

    /// Whether the sender, or `@` and its host, is listed.
    pub fn matches(&self, sender: &[u8]) -> bool {
        self.entries.contains(sender)
            || memchr::memrchr(b'@', sender).is_some_and(|at| self.entries.contains(&sender[at..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_senders_are_bad() {
        let bad = BadMailFrom::new(["spam@example.org", "@bad.example"].into_iter().collect());
        for (sender, expected) in [
            ("spam@example.org", true),
            ("SPAM@Example.ORG", true),
            ("ham@example.org", false),
            ("any@bad.example", true),
            ("a@b@BAD.example", true),
            ("any@sub.bad.example", false),
            ("bad.example", false),
            ("", false),
        ] {
            assert_eq!(bad.matches(sender.as_bytes()), expected, "{sender}");
        }
    }
}
