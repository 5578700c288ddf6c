//! A whole session: commands, STARTTLS, AUTH, data, answers of the driver, timeouts, cuts anywhere. What must hold, the
//! driver in `host.rs` checks after every step.
//!
//! The input is lines. The first holds the letters of the policy. Each other line is a command that is sent with CRLF,
//! or with `!` in front: `!rBYTES` sends bytes without CRLF, `!n` an LF; `!bBYTES` the bytes in base64, a line of AUTH;
//! `!pBYTES` AUTH PLAIN with them; `!aDIGITS` gives the answers of the driver to MAIL, RCPT, DATA, the message and
//! AUTH; `!kC` cuts what is sent into pieces; `!j` sends what follows in one packet, up to the next `!j`; `!u` answers
//! what was not asked; `!t` is a timeout and `!s` the stop of the host.

#![no_main]

mod host;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::{Answer, Answers, Host};
use libfuzzer_sys::fuzz_target;
use mailtree_protocols::auth::smtpauth::SmtpAuth;
use mailtree_protocols::smtp::server::Policy;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|&b| b == b'\n');
    let mut client =
        Client { host: Host::new(policy(lines.next().unwrap_or_default())), cut: 255, packet: None };
    for line in lines {
        client.step(line);
    }
    client.packet();
    host::check_replies(&client.host.out);
});

fn policy(letters: &[u8]) -> Policy {
    let is = |letter| letters.contains(&letter);
    let text: &[u8] = match (is(b'r'), is(b'c')) {
        (false, false) => b"+cram",
        (true, false) => b"!+cram",
        (false, true) => b"cram",
        (true, true) => b"!cram",
    };
    Policy {
        starttls: !is(b's'),
        secured: is(b's'),
        tls_required: is(b't'),
        auth: SmtpAuth::parse(text).ok(),
        auth_in_clear: !is(b'e'),
        ..host::secure_policy(if is(b'd') { 20 } else { 0 })
    }
}

struct Client {
    host: Host,
    cut: u8,
    packet: Option<Vec<u8>>,
}

impl Client {
    fn step(&mut self, line: &[u8]) {
        match line {
            [b'!', b'r', bytes @ ..] => self.send(bytes),
            [b'!', b'n', ..] => self.send(b"\n"),
            [b'!', b'b', bytes @ ..] => self.send(&[STANDARD.encode(bytes).as_bytes(), b"\r\n"].concat()),
            [b'!', b'p', bytes @ ..] => {
                self.send(&[b"AUTH PLAIN ", STANDARD.encode(bytes).as_bytes(), b"\r\n"].concat());
            }
            [b'!', b'a', digits @ ..] => self.host.answers = answers(digits),
            [b'!', b'k', cut, ..] => self.cut = *cut,
            [b'!', b'j', ..] => {
                if !self.packet() {
                    self.packet = Some(Vec::new());
                }
            }
            [b'!', b'u', ..] => self.host.answer_unasked(),
            [b'!', end @ (b't' | b's'), ..] if !self.host.closed() => self.host.end(*end == b's'),
            _ => self.send(&[line, b"\r\n"].concat()),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        match &mut self.packet {
            Some(packet) => packet.extend_from_slice(bytes),
            None if self.cut == 255 => self.host.feed(bytes),
            None => self.host.feed_in_pieces(bytes, &[self.cut]),
        }
    }

    /// Sends the packet, if there is one.
    fn packet(&mut self) -> bool {
        let packet = self.packet.take();
        packet.iter().for_each(|packet| self.send(packet));
        packet.is_some()
    }
}

fn answers(digits: &[u8]) -> Answers {
    let answer = |n| match digits.get(n).map_or(0, |digit: &u8| digit & 3) {
        0 => Answer::Fair,
        1 => Answer::Permanent,
        2 => Answer::Temporary,
        _ => Answer::Goodbye,
    };
    Answers { sender: answer(0), recipient: answer(1), open: answer(2), commit: answer(3), login: answer(4) }
}
