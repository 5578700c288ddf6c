//! Every text the SMTP server sends (qmail-smtpd.c, qmail.c; RFC 5321 4.2, RFC 3463, RFC 2034).
//!
//! qmail puts the enhanced status code in parentheses behind the text; RFC 2034 puts it in front. A client that said
//! EHLO gets both, so that log tools and libraries each find what they know.

use std::borrow::Cow;

/// Longest text of a reply in bytes: code, enhanced code, text and CRLF stay within the 512 of RFC 5321 4.5.3.1.5.
const MAX_TEXT: usize = 480;

/// A negative answer, 4xx or 5xx: what goes over the wire and whether it is worth trying again.
///
/// The class digit of the enhanced code is taken from the reply code, so the two never disagree (RFC 2034 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: u16,
    status: (u16, u16),
    text: Cow<'static, str>,
}

impl Refusal {
    const fn fixed(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        Self { code, status: (subject, detail), text: Cow::Borrowed(text) }
    }

    /// `451` with enhanced code 4.`subject`.`detail`: the client is to try again.
    pub fn temporary(subject: u16, detail: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code: 451, status: (subject, detail), text: text.into() }
    }

    /// `554` with enhanced code 5.`subject`.`detail`: the client is to give up.
    pub fn permanent(subject: u16, detail: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code: 554, status: (subject, detail), text: text.into() }
    }

    /// The reply code, 400 to 599.
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code (RFC 3463): class, subject, detail.
    pub const fn enhanced(&self) -> (u16, u16, u16) {
        (self.code / 100, self.status.0, self.status.1)
    }

    /// The text as qmail has it, without reply code.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True for 5xx.
    pub const fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// True for what counts towards the limit of errors a session: unknown commands, bad syntax, bad sequence.
    pub(crate) const fn is_client_error(&self) -> bool {
        matches!(self.code, 500..=504 | 555)
    }

    /// Appends the reply line; `enhanced` when the client has said EHLO. A 421 always carries its enhanced code: qmail
    /// has no such text to keep.
    pub fn write(&self, enhanced: bool, out: &mut Vec<u8>) {
        let status = (enhanced || self.code == 421).then_some(self.status);
        line(out, self.code, status, self.text.as_bytes());
    }

    /// Unknown command.
    pub const fn unimplemented() -> Self {
        Self::fixed(502, 5, 1, "unimplemented (#5.5.1)")
    }

    /// MAIL or RCPT whose path or parameters cannot be read.
    pub const fn syntax() -> Self {
        Self::fixed(555, 5, 4, "syntax error (#5.5.4)")
    }

    /// A control character in a verb.
    pub const fn unrecognised() -> Self {
        Self::fixed(500, 5, 2, "unrecognised (#5.5.2)")
    }

    /// A control character in an argument.
    pub const fn control_character() -> Self {
        Self::fixed(501, 5, 2, "control character in argument (#5.5.2)")
    }

    /// A command line longer than the limit.
    pub const fn line_too_long() -> Self {
        Self::fixed(500, 5, 2, "line too long (#5.5.2)")
    }

    /// LF without CR in a command line.
    pub const fn bare_newline() -> Self {
        Self::fixed(500, 5, 2, "lines end with CR LF (#5.5.2)")
    }

    /// RCPT or DATA outside a mail transaction.
    pub const fn mail_first() -> Self {
        Self::fixed(503, 5, 1, "MAIL first (#5.5.1)")
    }

    /// DATA without an accepted RCPT.
    pub const fn rcpt_first() -> Self {
        Self::fixed(503, 5, 1, "RCPT first (#5.5.1)")
    }

    /// MAIL inside a mail transaction (RFC 5321 4.1.4).
    pub const fn nested_mail() -> Self {
        Self::fixed(503, 5, 1, "nested MAIL (#5.5.1)")
    }

    /// Reverse-path in `control/badmailfrom`; said at RCPT.
    pub const fn badmailfrom() -> Self {
        Self::fixed(553, 7, 1, "sorry, your envelope sender is in my badmailfrom list (#5.7.1)")
    }

    /// Domain not in `control/rcpthosts`.
    pub const fn rcpthosts() -> Self {
        Self::fixed(553, 7, 1, "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)")
    }

    /// Non-ASCII address without SMTPUTF8, or not UTF-8 (RFC 6531 3.5).
    pub const fn address_not_ascii() -> Self {
        Self::fixed(553, 6, 7, "non-ASCII addresses need SMTPUTF8 and UTF-8 (#5.6.7)")
    }

    /// More recipients than one transaction may have (RFC 5321 4.5.3.1.10).
    pub const fn too_many_recipients() -> Self {
        Self::fixed(452, 5, 3, "too many recipients (#4.5.3)")
    }

    /// Larger than `control/databytes`.
    pub const fn databytes() -> Self {
        Self::fixed(552, 3, 4, "sorry, that message size exceeds my databytes limit (#5.3.4)")
    }

    /// A hundred or more Received and Delivered-To lines.
    pub const fn too_many_hops() -> Self {
        Self::fixed(554, 4, 6, "too many hops, this message is looping (#5.4.6)")
    }

    /// CR or LF alone in the message.
    pub const fn stray_newline() -> Self {
        Self::fixed(451, 5, 2, "See https://cr.yp.to/docs/smtplf.html.")
    }

    /// The client was silent for `control/timeoutsmtpd` seconds.
    pub const fn timeout() -> Self {
        Self::fixed(451, 4, 2, "timeout (#4.4.2)")
    }

    /// The host is stopping (RFC 5321 3.8).
    pub const fn shutdown() -> Self {
        Self::fixed(421, 3, 2, "mail server is stopping, try again later")
    }

    /// The limit of errors a session is reached.
    pub const fn too_many_errors() -> Self {
        Self::fixed(421, 7, 0, "too many errors")
    }

    /// No permit for one more connection, in all or from this address.
    pub const fn too_many_connections() -> Self {
        Self::fixed(421, 7, 0, "too many connections, try again later")
    }

    /// No room: disk, inodes or the byte budget (RFC 3463 X.3.1).
    pub const fn no_room() -> Self {
        Self::fixed(452, 3, 1, "insufficient system storage (#4.3.1)")
    }

    /// A control file could not be read.
    pub const fn controls() -> Self {
        Self::fixed(421, 3, 0, "unable to read controls (#4.3.0)")
    }

    /// The queue could not be reached at all.
    pub const fn qqt_failure() -> Self {
        Self::fixed(451, 3, 0, "qqt failure (#4.3.0)")
    }

    /// qmail-queue 53: a file of the queue could not be written or made durable.
    pub const fn qq_write_error() -> Self {
        Self::fixed(451, 3, 0, "qq write error or disk full (#4.3.0)")
    }

    /// qmail-queue 63: a file of the queue could not be created.
    pub const fn qq_files() -> Self {
        Self::fixed(451, 3, 0, "qq trouble creating files in queue (#4.3.0)")
    }

    /// qmail-queue 52: the queue did not answer in time.
    pub const fn qq_timeout() -> Self {
        Self::fixed(451, 3, 0, "qq timeout (#4.3.0)")
    }

    /// The queue ended while it had the message.
    pub const fn qq_crashed() -> Self {
        Self::fixed(451, 3, 0, "qq crashed (#4.3.0)")
    }

    /// qmail-queue 11: the envelope cannot be stored.
    pub const fn qq_address_too_long() -> Self {
        Self::fixed(554, 1, 3, "envelope address too long for qq (#5.1.3)")
    }

    /// qmail-queue 31: refused for good.
    pub const fn qq_rejected() -> Self {
        Self::fixed(554, 3, 0, "mail server permanently rejected message (#5.3.0)")
    }
}

/// `220 GREETING ESMTP`.
pub(crate) fn greeting(out: &mut Vec<u8>, name: &str) {
    line(out, 220, None, format!("{name} ESMTP").as_bytes());
}

/// The answer to HELO.
pub(crate) fn helo(out: &mut Vec<u8>, name: &str) {
    line(out, 250, None, name.as_bytes());
}

/// The answer to EHLO; `databytes` 0 for no limit (RFC 1870 4).
pub(crate) fn ehlo(out: &mut Vec<u8>, name: &str, databytes: u64) {
    let size = if databytes == 0 { "SIZE".to_owned() } else { format!("SIZE {databytes}") };
    for part in [name, "PIPELINING", "8BITMIME", &size, "ENHANCEDSTATUSCODES"] {
        out.extend_from_slice(b"250-");
        text(out, part.as_bytes());
    }
    out.extend_from_slice(b"250 SMTPUTF8\r\n");
}

/// A positive answer that no part of the message's way changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Positive(u16, (u16, u16), &'static str);

pub(crate) const OK: Positive = Positive(250, (0, 0), "ok");
pub(crate) const SENDER_OK: Positive = Positive(250, (1, 0), "ok");
pub(crate) const RECIPIENT_OK: Positive = Positive(250, (1, 5), "ok");
pub(crate) const FLUSHED: Positive = Positive(250, (0, 0), "flushed");
pub(crate) const VRFY: Positive = Positive(252, (0, 0), "send some mail, i'll try my best");
pub(crate) const HELP: Positive = Positive(214, (0, 0), "notqmail home page: https://notqmail.org");

impl Positive {
    pub(crate) fn write(self, enhanced: bool, out: &mut Vec<u8>) {
        line(out, self.0, enhanced.then_some(self.1), self.2.as_bytes());
    }
}

/// `354 go ahead`: intermediate, so without enhanced code (RFC 2034 4).
pub(crate) fn go_ahead(out: &mut Vec<u8>) {
    line(out, 354, None, b"go ahead");
}

/// `250 ok UNIXTIME qp PID`.
pub(crate) fn queued(enhanced: bool, time: u64, qp: u64, out: &mut Vec<u8>) {
    line(out, 250, enhanced.then_some((0, 0)), format!("ok {time} qp {qp}").as_bytes());
}

/// `221 GREETING`.
pub(crate) fn bye(enhanced: bool, name: &str, out: &mut Vec<u8>) {
    line(out, 221, enhanced.then_some((0, 0)), name.as_bytes());
}

fn line(out: &mut Vec<u8>, code: u16, status: Option<(u16, u16)>, words: &[u8]) {
    out.extend_from_slice(format!("{code} ").as_bytes());
    if let Some((subject, detail)) = status {
        out.extend_from_slice(format!("{}.{subject}.{detail} ", code / 100).as_bytes());
    }
    text(out, words);
}

/// Texts may quote what another program said: no byte of theirs may end the line or leave ASCII.
fn text(out: &mut Vec<u8>, words: &[u8]) {
    let safe = |&b: &u8| if matches!(b, 32..=126) { b } else { b'?' };
    out.extend(words.iter().take(MAX_TEXT).map(safe));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_text_stays_one_line() {
        let mut out = Vec::new();
        Refusal::permanent(7, 1, format!("no\r\n250 ok\0\u{e9}{}", "x".repeat(4000))).write(true, &mut out);
        assert!(out.starts_with(b"554 5.7.1 no??250 ok???xxx"));
        assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1);
        assert!(out.len() <= 512);
    }

    #[test]
    fn the_code_behind_the_text_is_the_one_in_front() {
        let all = [
            Refusal::unimplemented(),
            Refusal::syntax(),
            Refusal::unrecognised(),
            Refusal::control_character(),
            Refusal::line_too_long(),
            Refusal::bare_newline(),
            Refusal::mail_first(),
            Refusal::rcpt_first(),
            Refusal::nested_mail(),
            Refusal::badmailfrom(),
            Refusal::rcpthosts(),
            Refusal::address_not_ascii(),
            Refusal::too_many_recipients(),
            Refusal::databytes(),
            Refusal::too_many_hops(),
            Refusal::timeout(),
            Refusal::no_room(),
            Refusal::controls(),
            Refusal::qqt_failure(),
            Refusal::qq_write_error(),
            Refusal::qq_files(),
            Refusal::qq_timeout(),
            Refusal::qq_crashed(),
            Refusal::qq_address_too_long(),
            Refusal::qq_rejected(),
        ];
        for refusal in all {
            let (class, subject, detail) = refusal.enhanced();
            let tail = format!("(#{class}.{subject}.{detail})");
            assert!(refusal.text().ends_with(&tail), "{refusal:?}");
        }
    }
}
