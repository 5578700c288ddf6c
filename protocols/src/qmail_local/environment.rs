//! The lines qmail-local puts before a message, and the variables its programs see (qmail-command.8).

use jiff::Timestamp;

use crate::address;
use crate::mbox::from_line_of;

/// Who sends a message to whom, as qmail-local knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Reverse-path; empty for a bounce.
    pub sender: &'a [u8],
    /// Reverse-path of the message that goes on to other addresses ([`super::sender`]).
    pub newsender: &'a [u8],
    /// Account name.
    pub user: &'a [u8],
    /// Home directory.
    pub home: &'a [u8],
    /// Local part of the recipient, with what `virtualdomains` puts before it.
    pub local: &'a [u8],
    /// Domain of the recipient.
    pub host: &'a [u8],
    /// Extension of the address.
    pub ext: &'a [u8],
    /// What `default` in the name of the `.qmail` file stands for.
    pub default: Option<&'a [u8]>,
    /// The address in Delivered-To.
    pub delivered_to: &'a [u8],
    /// When.
    pub now: Timestamp,
}

impl Envelope<'_> {
    /// `From SENDER DATE`, with its LF: the first line of a message in an mbox.
    #[must_use]
    pub fn ufline(&self) -> Vec<u8> {
        from_line_of(self.sender, self.now)
    }

    /// [`rpline`] of its sender.
    #[must_use]
    pub fn rpline(&self) -> Vec<u8> {
        rpline(self.sender)
    }

    /// [`dtline`] of the address in it.
    #[must_use]
    pub fn dtline(&self) -> Vec<u8> {
        dtline(self.delivered_to)
    }

    /// The variables, `PATH` aside.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, Vec<u8>)> {
        let after_dash = |text: &[u8]| match text.iter().position(|byte| *byte == b'-') {
            Some(at) => text[at + 1..].to_vec(),
            None => Vec::new(),
        };
        let before_dot = |text: &[u8]| match text.iter().rposition(|byte| *byte == b'.') {
            Some(at) => text[..at].to_vec(),
            None => text.to_vec(),
        };
        let ext2 = after_dash(self.ext);
        let ext3 = after_dash(&ext2);
        let ext4 = after_dash(&ext3);
        let host2 = before_dot(self.host);
        let host3 = before_dot(&host2);
        let host4 = before_dot(&host3);
        let mut variables = vec![
            ("SENDER", self.sender.to_vec()),
            ("NEWSENDER", self.newsender.to_vec()),
            ("RECIPIENT", [self.local, b"@", self.host].concat()),
            ("USER", self.user.to_vec()),
            ("HOME", self.home.to_vec()),
            ("HOST", self.host.to_vec()),
            ("HOST2", host2),
            ("HOST3", host3),
            ("HOST4", host4),
            ("LOCAL", self.local.to_vec()),
            ("EXT", self.ext.to_vec()),
            ("EXT2", ext2),
            ("EXT3", ext3),
            ("EXT4", ext4),
            ("DTLINE", self.dtline()),
            ("RPLINE", self.rpline()),
            ("UFLINE", self.ufline()),
        ];
        if let Some(default) = self.default {
            variables.push(("DEFAULT", default.to_vec()));
        }
        // No variable holds a NUL; an address from the queue has none.
        variables.iter_mut().for_each(|(_, value)| value.retain(|byte| *byte != 0));
        variables
    }
}

/// `Return-Path: <SENDER>`, with its LF.
#[must_use]
pub fn rpline(sender: &[u8]) -> Vec<u8> {
    let quoted = address::quoted(sender).unwrap_or_else(|| sender.to_vec());
    [b"Return-Path: <", &*one_line(&quoted), b">\n"].concat()
}

/// `Delivered-To: ADDRESS`, with its LF.
#[must_use]
pub fn dtline(address: &[u8]) -> Vec<u8> {
    [b"Delivered-To: ", &*one_line(address), b"\n"].concat()
}

/// An address on a header line.
#[must_use]
pub fn one_line(address: &[u8]) -> Vec<u8> {
    address.iter().map(|byte| if byte.is_ascii_control() { b'_' } else { *byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_see_what_qmail_command_8_says() {
        let envelope = Envelope {
            sender: b"god@heaven.af.mil",
            newsender: b"bob-list-owner@a.b.c.example.org",
            user: b"bob",
            home: b"/home/bob",
            local: b"bob-list-x-y-z",
            host: b"a.b.c.example.org",
            ext: b"list-x-y-z",
            default: Some(b"x-y-z"),
            delivered_to: b"bob-list-x-y-z@a.b.c.example.org",
            now: Timestamp::from_second(812_088_000).unwrap(),
        };
        let said: Vec<(&str, String)> = envelope
            .variables()
            .into_iter()
            .map(|(name, value)| (name, String::from_utf8(value).unwrap()))
            .collect();
        let expected = [
            ("SENDER", "god@heaven.af.mil"),
            ("NEWSENDER", "bob-list-owner@a.b.c.example.org"),
            ("RECIPIENT", "bob-list-x-y-z@a.b.c.example.org"),
            ("USER", "bob"),
            ("HOME", "/home/bob"),
            ("HOST", "a.b.c.example.org"),
            ("HOST2", "a.b.c.example"),
            ("HOST3", "a.b.c"),
            ("HOST4", "a.b"),
            ("LOCAL", "bob-list-x-y-z"),
            ("EXT", "list-x-y-z"),
            ("EXT2", "x-y-z"),
            ("EXT3", "y-z"),
            ("EXT4", "z"),
            ("DTLINE", "Delivered-To: bob-list-x-y-z@a.b.c.example.org\n"),
            ("RPLINE", "Return-Path: <god@heaven.af.mil>\n"),
            ("UFLINE", "From god@heaven.af.mil Tue Sep 26 04:00:00 1995\n"),
            ("DEFAULT", "x-y-z"),
        ];
        assert_eq!(said, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn lines_stay_lines() {
        let envelope = Envelope {
            sender: b"a b\nc\td@x",
            newsender: b"",
            user: b"u",
            home: b"/",
            local: b"l\nX: y",
            host: b"nodots",
            ext: b"",
            default: None,
            delivered_to: b"l\nX: y@nodots",
            now: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(envelope.ufline(), b"From a-b-c-d@x Thu Jan 01 00:00:00 1970\n");
        assert_eq!(envelope.rpline(), b"Return-Path: <a b_c_d@x>\n");
        assert_eq!(envelope.dtline(), b"Delivered-To: l_X: y@nodots\n");
        let bounce = Envelope { sender: b"", ..envelope };
        assert_eq!(bounce.ufline(), b"From MAILER-DAEMON Thu Jan 01 00:00:00 1970\n");
        assert_eq!(bounce.rpline(), b"Return-Path: <>\n");
        let host = |wanted: &str| {
            let found = bounce.variables().into_iter().find(|(name, _)| *name == wanted);
            String::from_utf8(found.unwrap().1).unwrap()
        };
        assert_eq!(
            (host("HOST2"), host("HOST4"), host("EXT2")),
            ("nodots".into(), "nodots".into(), String::new())
        );
    }
}
