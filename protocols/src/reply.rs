//! Every text the SMTP server sends (qmail-smtpd.c, qmail.c; RFC 5321 4.2, RFC 3463, RFC 2034).
//!
//! qmail puts the enhanced status code in parentheses behind the text; RFC 2034 puts it in front. A client that said
//! EHLO gets both, so that log tools and libraries each find what they know.

use std::borrow::Cow;

use crate::logfield;

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
    /// The enhanced code is said to a client of HELO too.
    always_enhanced: bool,
}

impl Refusal {
    const fn fixed(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        Self { code, status: (subject, detail), text: Cow::Borrowed(text), always_enhanced: false }
    }

    /// For texts of patches that have the enhanced code in front, and nowhere else, by themselves.
    pub(crate) const fn enhanced_first(code: u16, subject: u16, detail: u16, text: &'static str) -> Self {
        Self { code, status: (subject, detail), text: Cow::Borrowed(text), always_enhanced: true }
    }

    /// For texts of programs that chose code and enhanced code, which is in front for everybody if they put it there.
    pub(crate) fn quoted(code: u16, status: (u16, u16), text: String, enhanced_first: bool) -> Self {
        Self { code, status, text: text.into(), always_enhanced: enhanced_first }
    }

    /// `451` with enhanced code 4.`subject`.`detail`: the client is to try again.
    pub fn temporary(subject: u16, detail: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code: 451, status: (subject, detail), text: text.into(), always_enhanced: false }
    }

    /// `554` with enhanced code 5.`subject`.`detail`: the client is to give up.
    pub fn permanent(subject: u16, detail: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code: 554, status: (subject, detail), text: text.into(), always_enhanced: false }
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

    /// True for what counts towards the limit of errors a session: unknown commands, bad syntax, bad sequence, wrong
    /// passwords, or too many of them.
    pub(crate) const fn is_client_error(&self) -> bool {
        matches!(self.code, 454 | 500..=504 | 535 | 555)
    }

    /// Appends the reply line; `enhanced` when the client has said EHLO. A 421 always carries its enhanced code: qmail
    /// has no such text to keep.
    pub fn write(&self, enhanced: bool, out: &mut Vec<u8>) {
        let status = (enhanced || self.always_enhanced || self.code == 421).then_some(self.status);
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

    /// Bytes where the client must wait for an answer: before the greeting, behind STARTTLS, behind a line of AUTH.
    pub const fn protocol_violation() -> Self {
        Self::fixed(554, 5, 1, "SMTP protocol violation")
    }

    /// MAIL after many that came to no recipient.
    pub const fn nobody_to_send_to() -> Self {
        Self::fixed(503, 5, 1, "too many transactions without a recipient (#5.5.1)")
    }

    /// MAIL without TLS where FORCETLS asks for it (RFC 3207 4).
    pub const fn starttls_first() -> Self {
        Self::fixed(530, 7, 0, "Must issue a STARTTLS command first (#5.7.0)")
    }

    /// STARTTLS with a parameter (RFC 3207 4).
    pub const fn starttls_parameters() -> Self {
        Self::fixed(501, 5, 4, "Syntax error (no parameters allowed) (#5.5.4)")
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

    /// Larger than what simscan can look at (RFC 1870 6.1). qmail has no such text.
    pub const fn too_large_to_scan() -> Self {
        Self::fixed(552, 3, 4, "sorry, that message is too large to be scanned (#5.3.4)")
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

    /// A plugin of qmail-spp failed: it could not be run, did not end, or said nothing that makes sense.
    pub const fn spp_failure() -> Self {
        Self::fixed(451, 3, 0, "qmail-spp failure (#4.3.0)")
    }

    /// The same in place of the greeting, where RFC 5321 3.1 knows 421 alone.
    pub const fn spp_failure_at_connection() -> Self {
        Self::fixed(421, 3, 0, "qmail-spp failure (#4.3.0)")
    }

    /// qmail-queue 11: the envelope cannot be stored.
    pub const fn qq_address_too_long() -> Self {
        Self::fixed(554, 1, 3, "envelope address too long for qq (#5.1.3)")
    }

    /// qmail-queue 31: refused for good.
    pub const fn qq_rejected() -> Self {
        Self::fixed(554, 3, 0, "mail server permanently rejected message (#5.3.0)")
    }

    /// Reverse-path in `badmailfrom` or `badmailfromnorelay` by a regular expression (qregex patch); said at RCPT.
    pub const fn sender_denied() -> Self {
        Self::fixed(553, 7, 1, "sorry, your envelope sender has been denied (#5.7.1)")
    }

    /// Forward-path in `badrcptto` or `badrcpttonorelay` (qregex patch).
    pub const fn recipient_denied() -> Self {
        Self::fixed(553, 7, 1, "sorry, your envelope recipient has been denied (#5.7.1)")
    }

    /// Name in `badhelo` or `badhelonorelay` (qregex patch); said at RCPT.
    pub const fn helo_denied() -> Self {
        Self::fixed(553, 7, 1, "sorry, your HELO host name has been denied (#5.7.1)")
    }

    /// Recipient not in `validrcptto` (validrcptto patch).
    pub const fn validrcptto() -> Self {
        Self::fixed(553, 7, 1, "sorry, this recipient is not in my validrcptto list (#5.7.1)")
    }

    /// As many bad recipients as `control/brtlimit` allows (realrcptto patch); the session ends.
    pub const fn brtlimit() -> Self {
        Self::fixed(421, 3, 0, "too many invalid addresses, goodbye (#4.3.0)")
    }

    /// More recipients than `control/maxrcpt` allows. The patch says 5.7.1 behind a temporary code; in front is what
    /// RFC 3463 has for it.
    pub const fn maxrcpt() -> Self {
        Self::fixed(452, 5, 3, "max rcpt limit exceeded (#5.7.1)")
    }

    /// SPF forbids the sender; `text` says why (one line; what is too long is cut). Said at RCPT.
    pub fn spf_failed(text: &str) -> Self {
        let text: String = text.chars().take(MAX_TEXT - 40).collect();
        Self { code: 550, status: (7, 1), text: format!("{text} (#5.7.1)").into(), always_enhanced: false }
    }

    /// DNS did not answer a question of SPF.
    pub const fn spf_temporary() -> Self {
        Self::fixed(451, 3, 0, "SPF lookup failure (#4.3.0)")
    }

    /// AUTH: the name or the proof is wrong (RFC 4954 6).
    pub const fn auth_failed() -> Self {
        Self::fixed(535, 7, 8, "authentication failed (#5.7.8)")
    }

    /// AUTH in a session that is authenticated.
    pub const fn auth_already() -> Self {
        Self::fixed(503, 5, 1, "you're already authenticated (#5.5.1)")
    }

    /// AUTH between MAIL and the end of the message.
    pub const fn auth_in_transaction() -> Self {
        Self::fixed(503, 5, 1, "no auth during mail transaction (#5.5.1)")
    }

    /// AUTH with a mechanism that is not offered.
    pub const fn auth_type_unimplemented() -> Self {
        Self::fixed(504, 5, 4, "auth type unimplemented (#5.5.4)")
    }

    /// The client ended the exchange with `*`.
    pub const fn auth_canceled() -> Self {
        Self::fixed(501, 7, 0, "auth exchange canceled (#5.7.0)")
    }

    /// Bad base64, or a response the mechanism does not know.
    pub const fn auth_malformed() -> Self {
        Self::fixed(501, 5, 2, "malformed auth input (#5.5.2)")
    }

    /// AUTH could not be decided: what verifies passwords failed.
    pub const fn auth_temporary() -> Self {
        Self::fixed(454, 7, 0, "oops, problem with child and I can't auth (#4.7.0)")
    }

    /// AUTH is not tried: too many failures before (RFC 4954 6). qmail has no such text.
    pub const fn auth_too_many_failures() -> Self {
        Self::fixed(454, 7, 0, "oops, too many failures and I can't auth (#4.7.0)")
    }

    /// Mail before authentication where it is required.
    pub const fn auth_required() -> Self {
        Self::fixed(530, 7, 0, "Authorization required (#5.7.0)")
    }

    /// AUTH with a password on a connection without TLS.
    pub const fn auth_without_tls() -> Self {
        Self::fixed(538, 7, 11, "auth not available without TLS (#5.7.11)")
    }

    /// The envelope sender is none of the addresses of who has authenticated (Postfix, reject_sender_login_mismatch). What
    /// is too long of the name is cut.
    pub fn sender_not_owned(user: &[u8]) -> Self {
        let mut text = "sorry, sender address rejected: not owned by user ".to_owned();
        logfield::push(&mut text, user, None);
        text.push_str(" (#5.7.1)");
        Self { code: 553, status: (7, 1), text: text.into(), always_enhanced: false }
    }

    /// Whose the envelope sender is could not be found out.
    pub const fn sender_unknown() -> Self {
        Self::fixed(451, 3, 0, "unable to look up whose sender address this is (#4.3.0)")
    }

    /// qmail-queue 11 to 40 without a text of its own: refused for good.
    pub const fn qq_permanent() -> Self {
        Self::fixed(554, 3, 0, "qq permanent problem (#5.3.0)")
    }

    /// qmail-queue 51: no memory.
    pub const fn qq_memory() -> Self {
        Self::fixed(451, 3, 0, "qq out of memory (#4.3.0)")
    }

    /// qmail-queue 54: the message or the envelope could not be read.
    pub const fn qq_read_error() -> Self {
        Self::fixed(451, 3, 0, "qq read error (#4.3.0)")
    }

    /// qmail-queue 55: a control file of the queue program could not be read.
    pub const fn qq_configuration() -> Self {
        Self::fixed(451, 3, 0, "qq unable to read configuration (#4.3.0)")
    }

    /// qmail-queue 56: the queue program could not reach its server.
    pub const fn qq_network() -> Self {
        Self::fixed(451, 3, 0, "qq trouble making network connection (#4.3.0)")
    }

    /// qmail-queue 61: no way into qmail's home directory.
    pub const fn qq_home() -> Self {
        Self::fixed(451, 3, 0, "qq trouble in home directory (#4.3.0)")
    }

    /// qmail-queue 71: refused for now.
    pub const fn qq_temporarily_rejected() -> Self {
        Self::fixed(451, 3, 0, "mail server temporarily rejected message (#4.3.0)")
    }

    /// qmail-queue 72: the server of the queue program did not answer in time.
    pub const fn qq_connection_timeout() -> Self {
        Self::fixed(451, 4, 1, "connection to mail server timed out (#4.4.1)")
    }

    /// qmail-queue 73: the server of the queue program did not take the connection.
    pub const fn qq_connection_rejected() -> Self {
        Self::fixed(451, 4, 1, "connection to mail server rejected (#4.4.1)")
    }

    /// qmail-queue 74: the connection to the server of the queue program broke.
    pub const fn qq_communication() -> Self {
        Self::fixed(451, 4, 2, "communication with mail server failed (#4.4.2)")
    }

    /// qmail-queue 81 and 91: a bug, or an envelope that is none.
    pub const fn qq_internal_bug() -> Self {
        Self::fixed(451, 3, 0, "qq internal bug (#4.3.0)")
    }

    /// qmail-queue 120: the program could not be executed.
    pub const fn qq_exec() -> Self {
        Self::fixed(451, 3, 0, "unable to exec qq (#4.3.0)")
    }

    /// How the queue program ended could not be learnt.
    pub const fn qq_waitpid() -> Self {
        Self::fixed(451, 3, 0, "qq waitpid surprise (#4.3.0)")
    }

    /// Any other exit code of qmail-queue.
    pub const fn qq_temporary() -> Self {
        Self::fixed(451, 3, 0, "qq temporary problem (#4.3.0)")
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

/// The answer to EHLO (RFC 5321 4.1.1.1).
pub(crate) fn ehlo(out: &mut Vec<u8>, name: &str, keywords: &[String]) {
    let lines = std::iter::once(name).chain(keywords.iter().map(String::as_str));
    for (n, part) in lines.enumerate() {
        out.extend_from_slice(if n == keywords.len() { b"250 " } else { b"250-" });
        text(out, part.as_bytes());
    }
}

/// A positive answer that no part of the message's way changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Positive(u16, (u16, u16), &'static str);

pub(crate) const OK: Positive = Positive(250, (0, 0), "ok");
pub(crate) const SENDER_OK: Positive = Positive(250, (1, 0), "ok");
pub(crate) const RECIPIENT_OK: Positive = Positive(250, (1, 5), "ok");
pub(crate) const FLUSHED: Positive = Positive(250, (0, 0), "flushed");
pub(crate) const VRFY: Positive = Positive(252, (0, 0), "send some mail, i'll try my best");
pub(crate) const READY_FOR_TLS: Positive = Positive(220, (0, 0), "ready for tls");
pub(crate) const AUTHENTICATED: Positive = Positive(235, (7, 0), "ok, go ahead (#2.0.0)");
pub(crate) const HELP: Positive = Positive(214, (0, 0), "notqmail home page: https://notqmail.org");

impl Positive {
    pub(crate) fn write(self, enhanced: bool, out: &mut Vec<u8>) {
        line(out, self.0, enhanced.then_some(self.1), self.2.as_bytes());
    }
}

/// `334 CHALLENGE`: intermediate, so without enhanced code.
pub(crate) fn challenge(challenge: &[u8], out: &mut Vec<u8>) {
    line(out, 334, None, challenge);
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
pub(crate) fn text(out: &mut Vec<u8>, words: &[u8]) {
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
    fn a_text_with_its_enhanced_code_in_front_is_the_same_after_helo_and_ehlo() {
        for enhanced in [false, true] {
            let mut out = Vec::new();
            Refusal::enhanced_first(550, 1, 1, "no (chkuser)").write(enhanced, &mut out);
            assert_eq!(out, b"550 5.1.1 no (chkuser)\r\n");
        }
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
            Refusal::spp_failure(),
            Refusal::spp_failure_at_connection(),
            Refusal::qq_address_too_long(),
            Refusal::qq_rejected(),
            Refusal::sender_denied(),
            Refusal::recipient_denied(),
            Refusal::helo_denied(),
            Refusal::validrcptto(),
            Refusal::brtlimit(),
            Refusal::spf_failed("no"),
            Refusal::spf_temporary(),
            Refusal::auth_failed(),
            Refusal::auth_already(),
            Refusal::auth_in_transaction(),
            Refusal::auth_type_unimplemented(),
            Refusal::auth_canceled(),
            Refusal::auth_malformed(),
            Refusal::auth_temporary(),
            Refusal::auth_too_many_failures(),
            Refusal::auth_required(),
            Refusal::auth_without_tls(),
            Refusal::sender_not_owned(b"joe@a.example"),
            Refusal::sender_unknown(),
            Refusal::qq_permanent(),
            Refusal::qq_memory(),
            Refusal::qq_read_error(),
            Refusal::qq_configuration(),
            Refusal::qq_network(),
            Refusal::qq_home(),
            Refusal::qq_temporarily_rejected(),
            Refusal::qq_connection_timeout(),
            Refusal::qq_connection_rejected(),
            Refusal::qq_communication(),
            Refusal::qq_internal_bug(),
            Refusal::qq_exec(),
            Refusal::qq_waitpid(),
            Refusal::qq_temporary(),
        ];
        for refusal in all {
            let (class, subject, detail) = refusal.enhanced();
            let tail = format!("(#{class}.{subject}.{detail})");
            assert!(refusal.text().ends_with(&tail), "{refusal:?}");
        }
    }
}
