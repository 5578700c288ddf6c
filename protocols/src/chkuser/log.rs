//! The line that chkuser writes to the log of qmail-smtpd.

use std::net::IpAddr;

use super::event::Event;
use crate::logfield;

/// The two forms of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// `from <SENDER:REMOTEINFO:ID> remote <HELO:HOST:IP> rcpt <RCPT>`: what most log readers know.
    #[default]
    Classic,
    /// `from <SENDER|remoteinfo/auth:AUTH|chkuser-identify:ID> remote <helo:H|remotehostname:R|remotehostip:IP> …` of
    /// later 2.0.9.
    Named,
}

/// Whom a line is about. Everything but the address is what others say: it is shown with `?` for what could end its
/// field, and cut when too long.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Reverse-path; empty for the null sender.
    pub sender: &'a [u8],
    /// Forward-path; empty at MAIL.
    pub rcpt: &'a [u8],
    /// The user who has authenticated, or what ident says of the client (TCPREMOTEINFO).
    pub remoteinfo: &'a [u8],
    /// `CHKUSER_IDENTIFY`.
    pub identify: &'a [u8],
    /// What HELO or EHLO said; shown only where it is not the client's name, as qmail-smtpd keeps it.
    pub helo: &'a [u8],
    /// The client's name by reverse DNS; `unknown` without one.
    pub host: Option<&'a [u8]>,
    /// The client's address; IPv4-mapped is shown as IPv4.
    pub ip: IpAddr,
}

/// The line, without a newline.
pub fn line(layout: Layout, event: Event, subject: &Subject<'_>) -> String {
    let (title, description) = event.words();
    let host = subject.host.unwrap_or(b"unknown");
    let helo = if subject.helo.eq_ignore_ascii_case(host) { &[] } else { subject.helo };
    let (separator, names) = match layout {
        Layout::Classic => (b':', [":", ":", "", ":", ":"]),
        Layout::Named => {
            (b'|', ["|remoteinfo/auth:", "|chkuser-identify:", "helo:", "|remotehostname:", "|remotehostip:"])
        }
    };
    let mut line = format!("CHKUSER {title}: from <");
    let mut field = |before: &str, field: &[u8], separator: Option<u8>| {
        line.push_str(before);
        logfield::push(&mut line, field, separator);
    };
    let separator = Some(separator);
    field("", subject.sender, separator);
    field(names[0], subject.remoteinfo, separator);
    field(names[1], subject.identify, separator);
    field("> remote <", &[], None);
    field(names[2], helo, separator);
    field(names[3], host, separator);
    // Nothing but the end of the brackets follows an address: its colons may stay.
    field(names[4], subject.ip.to_canonical().to_string().as_bytes(), None);
    field("> rcpt <", subject.rcpt, None);
    line.push_str("> : ");
    line.push_str(description);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Subject<'_> = Subject {
        sender: b"u@f.example",
        rcpt: b"",
        remoteinfo: b"",
        identify: b"",
        helo: b"[192.168.88.150]",
        host: None,
        ip: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    };

    #[test]
    fn lines_as_log_readers_know_them() {
        let user: &[u8] = b"u@f.example";
        let rcpt: &[u8] = b"a@b.example";
        for (event, subject, expected) in [
            (
                Event::SenderAccepted,
                CLIENT,
                "CHKUSER accepted sender: from <u@f.example::> remote <[192.168.88.150]:unknown:192.0.2.1> \
                 rcpt <> : sender accepted",
            ),
            (
                Event::AnyRecipientOfDomain,
                Subject { rcpt, ..CLIENT },
                "CHKUSER accepted any rcpt: from <u@f.example::> remote \
                 <[192.168.88.150]:unknown:192.0.2.1> rcpt <a@b.example> : accepted any recipient for this domain",
            ),
            (
                Event::NotRelaying,
                Subject { rcpt, helo: b"HELO", ..CLIENT },
                "CHKUSER rejected relaying: from <u@f.example::> remote <HELO:unknown:192.0.2.1> \
                 rcpt <a@b.example> : client not allowed to relay",
            ),
            (
                Event::Relaying,
                Subject { rcpt, helo: b"", ..CLIENT },
                "CHKUSER relaying rcpt: from <u@f.example::> remote <:unknown:192.0.2.1> \
                 rcpt <a@b.example> : client allowed to relay",
            ),
            (
                Event::SenderAccepted,
                Subject { remoteinfo: user, helo: b"[HELO]", ..CLIENT },
                "CHKUSER accepted sender: from <u@f.example:u@f.example:> remote \
                 <[HELO]:unknown:192.0.2.1> rcpt <> : sender accepted",
            ),
            (
                Event::Relaying,
                Subject { remoteinfo: user, rcpt, helo: b"[HELO]", ..CLIENT },
                "CHKUSER relaying rcpt: from <u@f.example:u@f.example:> remote \
                 <[HELO]:unknown:192.0.2.1> rcpt <a@b.example> : client allowed to relay",
            ),
            (
                Event::NoRecipient,
                Subject {
                    rcpt,
                    identify: b"office",
                    helo: b"MAIL.example",
                    host: Some(b"mail.example"),
                    ..CLIENT
                },
                "CHKUSER rejected rcpt: from <u@f.example::office> remote <:mail.example:192.0.2.1> \
                 rcpt <a@b.example> : not existing recipient",
            ),
        ] {
            assert_eq!(line(Layout::Classic, event, &subject), expected);
        }
    }

    #[test]
    fn the_named_layout() {
        let subject = Subject {
            rcpt: b"a@b.example",
            remoteinfo: b"u",
            identify: b"id",
            host: Some(b"mail.example"),
            ..CLIENT
        };
        assert_eq!(
            line(Layout::Named, Event::FoundRecipient, &subject),
            "CHKUSER accepted rcpt: from <u@f.example|remoteinfo/auth:u|chkuser-identify:id> remote \
             <helo:[192.168.88.150]|remotehostname:mail.example|remotehostip:192.0.2.1> rcpt <a@b.example> : \
             found existing recipient"
        );
    }

    #[test]
    fn nobody_forges_a_field_or_a_line() {
        let subject = Subject {
            sender: b"a:b> remote <x:y:192.0.2.99> rcpt <c",
            helo: b"x\r\nCHKUSER accepted rcpt|:",
            rcpt: b"d:e> : found",
            ip: "2001:db8::1".parse().unwrap(),
            ..CLIENT
        };
        assert_eq!(
            line(Layout::Classic, Event::NoRecipient, &subject),
            "CHKUSER rejected rcpt: from <a?b??remote??x?y?192.0.2.99??rcpt??c::> remote \
             <x??CHKUSER?accepted?rcpt|?:unknown:2001:db8::1> rcpt <d:e??:?found> : not existing recipient"
        );
    }
}
