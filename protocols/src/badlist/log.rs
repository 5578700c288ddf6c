//! What qmail-smtpd logs of refused senders, recipients and HELO names (qregex and realrcptto patches).

use std::net::IpAddr;

use crate::logfield;

/// The list that refuses; a `norelay` list logs as its sibling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `badhelo`.
    BadHelo,
    /// `badmailfrom`.
    BadMailFrom,
    /// `badrcptto`.
    BadRcptTo,
}

impl List {
    const fn name(self) -> &'static str {
        match self {
            Self::BadHelo => "badhelo:",
            Self::BadMailFrom => "badmailfrom:",
            Self::BadRcptTo => "badrcptto:",
        }
    }
}

/// `qmail-smtpd: badmailfrom: <A> at IP`.
pub fn refused(list: List, subject: &[u8], client: IpAddr) -> String {
    about(list.name(), subject, "> at ") + &client.to_canonical().to_string()
}

/// With LOGREGEX: `qmail-smtpd: badmailfrom: <A> matches pattern: LINE`.
pub fn refused_by(list: List, subject: &[u8], line: &str) -> String {
    // The line is the administrator's: spaces and brackets stay, controls do not reach the log.
    let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    about(list.name(), subject, "> matches pattern: ") + &line
}

/// The client has named `brtlimit` bad recipients.
pub fn hanging_up(client: IpAddr) -> String {
    let client = client.to_canonical();
    format!("qmail-smtpd: badrcptto: excessive rcptto violations hanging up on {client}")
}

/// `qmail-smtpd: validrcptto: accepted address <A> at IP`.
pub fn accepted(recipient: &[u8], client: IpAddr) -> String {
    about("validrcptto: accepted address", recipient, "> at ") + &client.to_canonical().to_string()
}

/// `qmail-smtpd: validrcptto: drop address <A> at IP`.
pub fn dropped(recipient: &[u8], client: IpAddr) -> String {
    about("validrcptto: drop address", recipient, "> at ") + &client.to_canonical().to_string()
}

/// `qmail-smtpd: sender: <A> is not owned by user U at IP`.
pub fn not_owned(sender: &[u8], user: &[u8], client: IpAddr) -> String {
    let mut line = about("sender:", sender, "> is not owned by user ");
    logfield::push(&mut line, user, None);
    line + " at " + &client.to_canonical().to_string()
}

fn about(what: &str, subject: &[u8], then: &str) -> String {
    let mut line = format!("qmail-smtpd: {what} <");
    logfield::push(&mut line, subject, None);
    line.push_str(then);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let ip: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        for (line, expected) in [
            (
                refused(List::BadMailFrom, b"a@b.example", ip),
                "qmail-smtpd: badmailfrom: <a@b.example> at 192.0.2.7",
            ),
            (refused(List::BadHelo, b"x> at y\n", ip), "qmail-smtpd: badhelo: <x??at?y?> at 192.0.2.7"),
            (
                refused_by(List::BadRcptTo, b"a@b", r"!\.example$"),
                r"qmail-smtpd: badrcptto: <a@b> matches pattern: !\.example$",
            ),
            (hanging_up(ip), "qmail-smtpd: badrcptto: excessive rcptto violations hanging up on 192.0.2.7"),
            (accepted(b"a@b", ip), "qmail-smtpd: validrcptto: accepted address <a@b> at 192.0.2.7"),
            (
                not_owned(b"a@b.example", b"j j@c.example", ip),
                "qmail-smtpd: sender: <a@b.example> is not owned by user j?j@c.example at 192.0.2.7",
            ),
            (dropped(b"a@b", ip), "qmail-smtpd: validrcptto: drop address <a@b> at 192.0.2.7"),
        ] {
            assert_eq!(line, expected);
        }
    }
}
