//! Bounces in qmail's format (QSBMF), and who gets them (qmail-send: addbounce, injectbounce).

use jiff::Timestamp;

use crate::received::date;

/// Reverse-path of a double bounce; what bounces from there is discarded.
pub const DOUBLE_BOUNCE_SENDER: &[u8] = b"#@[]";

/// Who says it: the values of the control files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// `bouncefrom`.
    pub bouncefrom: String,
    /// `bouncehost`.
    pub bouncehost: String,
    /// `doublebounceto` @ `doublebouncehost`.
    pub doublebounceto: Vec<u8>,
}

/// What happens to a message that could not be delivered to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bounce {
    /// A bounce goes to the sender, from nobody.
    Single {
        /// Envelope recipient.
        to: Vec<u8>,
    },
    /// The message was a bounce itself: it goes to the postmaster, from [`DOUBLE_BOUNCE_SENDER`].
    Double {
        /// Envelope recipient.
        to: Vec<u8>,
    },
    /// It was a double bounce: discarded.
    Triple,
}

impl Bounce {
    /// The rule, by the failed message's `sender`.
    #[must_use]
    pub fn of(sender: &[u8], from: &From) -> Self {
        match strip_verp(sender) {
            DOUBLE_BOUNCE_SENDER => Self::Triple,
            b"" => Self::Double { to: from.doublebounceto.clone() },
            sender => Self::Single { to: sender.to_vec() },
        }
    }

    /// Reverse-path and forward-path of the bounce; none for a triple bounce.
    #[must_use]
    pub fn envelope(&self) -> Option<(&[u8], &[u8])> {
        match self {
            Self::Single { to } => Some((b"", to)),
            Self::Double { to } => Some((DOUBLE_BOUNCE_SENDER, to)),
            Self::Triple => None,
        }
    }

    /// Everything above the copy of the failed message: header, explanation, one paragraph for each failed recipient
    /// (`paragraphs` is the content of `bounce/ID`), and the failed message's Return-Path.
    #[must_use]
    pub fn head(&self, from: &From, now: Timestamp, sender: &[u8], paragraphs: &[u8]) -> Vec<u8> {
        let Some((_, to)) = self.envelope() else { return Vec::new() };
        let mut head =
            format!("Date: {}\nFrom: {}@{}\nTo: ", date(now), from.bouncefrom, from.bouncehost).into_bytes();
        head.extend(shown(to));
        head.extend_from_slice(b"\nSubject: failure notice\n\nHi. This is the qmail-send program at ");
        head.extend_from_slice(from.bouncehost.as_bytes());
        let (intro, separator): (&[u8], &[u8]) = match self {
            Self::Double { .. } => (
                b".\nI tried to deliver a bounce message to this address, but the bounce bounced!\n\n",
                b"--- Below this line is the original bounce.\n\n",
            ),
            Self::Single { .. } | Self::Triple => (
                b".\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\
                  This is a permanent error; I've given up. Sorry it didn't work out.\n\n",
                b"--- Below this line is a copy of the message.\n\n",
            ),
        };
        head.extend_from_slice(intro);
        head.extend_from_slice(paragraphs);
        head.extend_from_slice(separator);
        head.extend_from_slice(b"Return-Path: <");
        head.extend(shown(strip_verp(sender)));
        head.extend_from_slice(b">\n");
        head
    }
}

/// An address in a header field of ours. One that no quoting can carry is shown as the log shows it.
fn shown(address: &[u8]) -> Vec<u8> {
    crate::address::quoted(address).unwrap_or_else(|| crate::report::safe(address).into_bytes())
}

/// The paragraph that `bounce/ID` gets for a failed recipient, its virtual domain's prefix taken off (`shown`).
#[must_use]
pub fn paragraph(shown: &[u8], report: &str) -> Vec<u8> {
    let mut text = vec![b'<'];
    text.extend(shown.iter().map(|byte| if *byte == b'\n' { b'_' } else { *byte }));
    text.extend_from_slice(b">:\n");
    for byte in report.trim_end_matches('\n').bytes() {
        // A blank line would end the paragraph.
        let blank = byte == b'\n' && text.last() == Some(&b'\n');
        text.push(if blank { b'/' } else { byte });
    }
    text.extend_from_slice(b"\n\n");
    text
}

/// The reverse-path to use for `recipient`: a sender that ends in `-@[]` becomes `owner-user=dom@host` (VERP).
#[must_use]
pub fn sender_for(sender: &[u8], recipient: &[u8]) -> Vec<u8> {
    let Some((local, host)) = verp(sender) else { return sender.to_vec() };
    let mut result = local.to_vec();
    match recipient.iter().rposition(|byte| *byte == b'@') {
        Some(at) => {
            result.extend_from_slice(&recipient[..at]);
            result.push(b'=');
            result.extend_from_slice(&recipient[at + 1..]);
        }
        None => result.extend_from_slice(recipient),
    }
    result.push(b'@');
    result.extend_from_slice(host);
    result
}

/// Whether each recipient has a reverse-path of its own.
#[must_use]
pub fn is_verp(sender: &[u8]) -> bool {
    verp(sender).is_some()
}

/// `owner-@host-@[]`: the parts `owner-` and `host`.
fn verp(sender: &[u8]) -> Option<(&[u8], &[u8])> {
    let owner = sender.strip_suffix(b"-@[]")?;
    let at = owner.iter().rposition(|byte| *byte == b'@')?;
    Some((&owner[..at], &owner[at + 1..]))
}

/// A VERP sender's own address: `owner-@host`.
fn strip_verp(sender: &[u8]) -> &[u8] {
    if is_verp(sender) { &sender[..sender.len() - b"-@[]".len()] } else { sender }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from() -> From {
        From {
            bouncefrom: "MAILER-DAEMON".into(),
            bouncehost: "mx.test".into(),
            doublebounceto: b"postmaster@mx.test".to_vec(),
        }
    }

    #[test]
    fn who_gets_the_bounce() {
        for (sender, bounce) in [
            (&b"a@x"[..], Bounce::Single { to: b"a@x".to_vec() }),
            (b"l-@x-@[]", Bounce::Single { to: b"l-@x".to_vec() }),
            (b"", Bounce::Double { to: b"postmaster@mx.test".to_vec() }),
            (b"#@[]", Bounce::Triple),
        ] {
            assert_eq!(Bounce::of(sender, &from()), bounce, "{sender:?}");
        }
    }

    #[test]
    fn a_bounce_reads_as_qmail_send_writes_it() {
        let paragraphs =
            paragraph(b"b@y.test", "10.0.0.1 does not like recipient.\n\n\nRemote host said: 550\n");
        let head =
            Bounce::of(b"a@x.test", &from()).head(&from(), Timestamp::UNIX_EPOCH, b"a@x.test", &paragraphs);
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "Date: 1 Jan 1970 00:00:00 -0000\n\
             From: MAILER-DAEMON@mx.test\n\
             To: a@x.test\n\
             Subject: failure notice\n\
             \n\
             Hi. This is the qmail-send program at mx.test.\n\
             I'm afraid I wasn't able to deliver your message to the following addresses.\n\
             This is a permanent error; I've given up. Sorry it didn't work out.\n\
             \n\
             <b@y.test>:\n\
             10.0.0.1 does not like recipient.\n/\nRemote host said: 550\n\
             \n\
             --- Below this line is a copy of the message.\n\
             \n\
             Return-Path: <a@x.test>\n"
        );
    }

    #[test]
    fn verp_gives_each_recipient_its_own_sender() {
        assert_eq!(sender_for(b"list-@x.test-@[]", b"bob@y.test"), b"list-bob=y.test@x.test");
        assert_eq!(sender_for(b"a@x.test", b"bob@y.test"), b"a@x.test");
        assert_eq!(sender_for(b"#@[]", b"bob@y.test"), b"#@[]");
    }
}
