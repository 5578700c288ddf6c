//! The limited SMTP conversation of a rejected client (rblsmtpd.c).

use std::net::IpAddr;

/// Bytes of the text that are said.
pub const MAX_TEXT: usize = 200;

/// Seconds the whole conversation may take (`-t`); with 0 the rejection is said at once, without a conversation.
pub const TIMEOUT: u64 = 60;

/// Bytes of replies after which [`Session::receive`] stops to have them sent.
pub const MAX_REPLIES: usize = 16 * 1024;

/// Bytes kept of a verb: a known one has four, and two more tell that a word is longer, with a CR behind it or not.
const MAX_VERB: usize = 6;

/// What a rejected client is told: `451 TEXT` or `553 TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    reply: String,
}

impl Rejection {
    /// The text is cut at [`MAX_TEXT`] bytes, and what is not printable ASCII becomes `?`.
    pub fn new(permanent: bool, text: &[u8]) -> Self {
        let mut reply = String::from(if permanent { "553 " } else { "451 " });
        let safe = |&b: &u8| if matches!(b, 32..=126) { char::from(b) } else { '?' };
        reply.extend(text.iter().take(MAX_TEXT).map(safe));
        Self { reply }
    }

    /// The reply without its line end.
    pub fn reply(&self) -> &str {
        &self.reply
    }

    /// The line in the log, `rblsmtpd: IP pid PID: 451 TEXT`; an IPv4-mapped address is shown as IPv4.
    pub fn log(&self, client: IpAddr, pid: u64) -> String {
        format!("rblsmtpd: {} pid {pid}: {}", client.to_canonical(), self.reply)
    }

    /// Says it once: all that a client hears with `-t 0`.
    pub fn write(&self, out: &mut Vec<u8>) {
        say(out, &self.reply);
    }
}

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send `out`; then receive again, with what was left of the input or with more.
    Read,
    /// Send `out` and close.
    Close,
}

/// One conversation. Of a line only its verb is kept, so a line may be of any length. LF ends a line, CR before it or
/// not: no command here has effects, so nothing can be smuggled in.
#[derive(Debug, Clone)]
pub struct Session {
    rejection: Rejection,
    verb: Vec<u8>,
    in_verb: bool,
    closed: bool,
}

impl Session {
    /// A conversation in which nothing has been said.
    pub const fn new(rejection: Rejection) -> Self {
        Self { rejection, verb: Vec::new(), in_verb: true, closed: false }
    }

    /// The 220 that opens it.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        say(out, "220 rblsmtpd.local");
    }

    /// Reads `input` and appends replies to `out`, about [`MAX_REPLIES`] bytes at most in one call. Returns how much of
    /// `input` was read; the driver gives the rest again.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Next) {
        let replies = out.len();
        for (n, &byte) in input.iter().enumerate() {
            if self.closed {
                return (n, Next::Close);
            }
            if out.len() - replies >= MAX_REPLIES {
                return (n, Next::Read);
            }
            match byte {
                b'\n' => self.command(out),
                b' ' => self.in_verb = false,
                _ if self.in_verb && self.verb.len() < MAX_VERB => self.verb.push(byte),
                _ => {}
            }
        }
        (input.len(), if self.closed { Next::Close } else { Next::Read })
    }

    fn command(&mut self, out: &mut Vec<u8>) {
        let verb = self.verb.strip_suffix(b"\r").unwrap_or(&self.verb);
        match verb.to_ascii_lowercase().as_slice() {
            b"helo" | b"ehlo" | b"mail" | b"rset" | b"noop" => say(out, "250 rblsmtpd.local"),
            b"quit" => {
                say(out, "221 rblsmtpd.local");
                self.closed = true;
            }
            _ => self.rejection.write(out),
        }
        self.verb.clear();
        self.in_verb = true;
    }
}

fn say(out: &mut Vec<u8>, reply: &str) {
    out.extend_from_slice(reply.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is said to `input` given in pieces of `size` bytes, and whether the conversation is over.
    fn said(input: &[u8], size: usize) -> (String, Next) {
        let mut session = Session::new(Rejection::new(false, b"no"));
        let mut out = Vec::new();
        let mut next = Next::Read;
        for piece in input.chunks(size) {
            let mut rest = piece;
            while !rest.is_empty() && next == Next::Read {
                let (read, then) = session.receive(rest, &mut out);
                (rest, next) = (&rest[read..], then);
            }
        }
        (String::from_utf8(out).unwrap(), next)
    }

    #[test]
    fn a_conversation() {
        let mut out = Vec::new();
        Session::new(Rejection::new(false, b"no")).greeting(&mut out);
        assert_eq!(out, b"220 rblsmtpd.local\r\n");
        for (line, reply) in [
            ("HELO x", "250 rblsmtpd.local"),
            ("ehlo", "250 rblsmtpd.local"),
            ("MAIL FROM:<a@b>", "250 rblsmtpd.local"),
            ("RSET", "250 rblsmtpd.local"),
            ("NoOp", "250 rblsmtpd.local"),
            ("RCPT TO:<a@b>", "451 no"),
            ("DATA", "451 no"),
            ("STARTTLS", "451 no"),
            ("QUITE", "451 no"),
            ("MAILX", "451 no"),
            ("mail\r\r", "451 no"),
            ("", "451 no"),
            (" HELO", "451 no"),
        ] {
            let expected = (format!("{reply}\r\n"), Next::Read);
            for end in ["\r\n", "\n"] {
                assert_eq!(said(format!("{line}{end}").as_bytes(), 1000), expected, "{line}");
            }
        }
    }

    #[test]
    fn quit_ends_it() {
        let expected = ("451 no\r\n221 rblsmtpd.local\r\n".to_owned(), Next::Close);
        assert_eq!(said(b"DATA\r\nQUIT\r\nRCPT\r\n", 1000), expected);
    }

    #[test]
    fn replies_in_one_call_are_bounded() {
        let mut session = Session::new(Rejection::new(true, &[b'x'; 200]));
        let (mut out, input) = (Vec::new(), [b'\n'; 10_000]);
        let (read, next) = session.receive(&input, &mut out);
        assert!(read < input.len() && next == Next::Read);
        assert!(out.len() < MAX_REPLIES + 300);
    }

    proptest! {
        #[test]
        fn how_the_bytes_were_cut_changes_nothing(
            input in "(helo|MAIL |quitx|quit |x{0,9}|\r|\n|\r\n){0,20}",
            size in 1usize..9,
        ) {
            prop_assert_eq!(said(input.as_bytes(), size), said(input.as_bytes(), 1000));
        }
    }

    #[test]
    fn log_lines() {
        for (permanent, text, ip, line) in [
            (false, "halt thy spam!", "192.0.2.1", "rblsmtpd: 192.0.2.1 pid 10082: 451 halt thy spam!"),
            (true, "x\r\ny\u{e9}", "::ffff:192.0.2.1", "rblsmtpd: 192.0.2.1 pid 10082: 553 x??y??"),
            (true, "", "2001:db8::1", "rblsmtpd: 2001:db8::1 pid 10082: 553 "),
        ] {
            let rejection = Rejection::new(permanent, text.as_bytes());
            assert_eq!(rejection.log(ip.parse().unwrap(), 10082), line);
        }
        assert_eq!(Rejection::new(true, &[b'x'; 999]).reply().len(), 4 + 200);
    }

    #[test]
    fn without_a_conversation_the_rejection_is_said_once() {
        let mut out = Vec::new();
        Rejection::new(true, b"go").write(&mut out);
        assert_eq!(out, b"553 go\r\n");
    }
}
