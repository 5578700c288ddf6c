//! qmail-remote's dialogue: one mail transaction over one connection, and what is reported of it.
//!
//! The driver sends what [`Client::poll`] appends, then does what [`Want`] says: gives what came over the network to
//! [`Client::step`], or streams the message through a [`super::stuff::DotStuffer`] and tells [`Client::data_sent`].
//! When the connection ends or the time of a [`Wait`] is over it calls [`Client::connection_died`]. After
//! [`Want::Done`] it sends what is left, closes without waiting for an answer to QUIT, and takes [`Client::outcome`].

use crate::address;
use crate::report::{Class, Report};

/// Longest part of a reply line that is kept, in bytes.
const MAX_LINE: usize = 2048;

/// Longest text of a reply that is kept, in bytes (HUGESMTPTEXT in qmail-remote.c).
const MAX_TEXT: usize = 5000;

/// Lines one reply may have.
const MAX_LINES: usize = 200;

/// Bytes one reply may have, kept or not.
const MAX_REPLY: usize = 256 * 1024;

/// Commands sent before their replies are read: small enough that neither side blocks on writing (RFC 2920 3.1).
const MAX_PIPELINE: usize = 100;

/// The mail transaction to be made.
#[derive(Debug, Clone)]
pub struct Mail {
    /// `control/helohost`.
    pub helo: String,
    /// The peer's address, as the reports show it.
    pub ip: String,
    /// Stored form; empty for a bounce.
    pub reverse_path: Vec<u8>,
    /// Stored form, in the order of the reports.
    pub forward_paths: Vec<Vec<u8>>,
    /// Whether any byte of the message is above 127.
    pub eight_bit: bool,
    /// Size of the message in bytes, CRLF counted as two if that is known (RFC 1870 6.3 allows an estimate).
    pub size: u64,
}

/// What is being waited for (RFC 5321 4.5.3.2 has a time for each).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The 220.
    Greeting,
    /// The reply to EHLO or HELO.
    Helo,
    /// The replies to MAIL and RCPT.
    Envelope,
    /// The 354.
    Data,
    /// The reply to the final dot.
    End,
}

/// What the driver does next, after sending what was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Read, and give it to [`Client::step`].
    Read(Wait),
    /// Send the stuffed message, without the final dot; then call [`Client::data_sent`] and poll for the dot.
    SendData,
    /// Send, close, take the outcome.
    Done,
}

/// Why the message could not be sent as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataError {
    /// [`super::stuff::PartialLine`].
    PartialLine,
    /// The message could not be read from the queue.
    Unreadable,
}

/// qmail-remote's report on one recipient: `r`, or `h` and `s` with the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientReport {
    /// `r`: accepted or never asked for; the report on the message holds.
    Accepted,
    /// `h`, a failure, or `s`, a deferral.
    Refused(Report),
}

/// What qmail-remote reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One for each forward-path, in order.
    pub recipients: Vec<RecipientReport>,
    /// `K`, `Z` or `D`, on the message.
    pub message: Report,
    /// A 220 was read. If not, no command was said and another address may be tried.
    pub greeted: bool,
}

impl Outcome {
    /// What became of the recipient with this number: both reports in one (report in qmail-rspawn.c). `None` if there
    /// is no such recipient.
    pub fn report(&self, recipient: usize) -> Option<Report> {
        Some(match self.recipients.get(recipient)? {
            RecipientReport::Accepted => self.message.clone(),
            RecipientReport::Refused(own) => {
                let says_why = match self.message.class {
                    Class::Failure => true,
                    Class::Deferral => own.class == Class::Deferral,
                    Class::Success => false,
                };
                let text = if says_why { own.text.clone() + &self.message.text } else { own.text.clone() };
                match own.class {
                    Class::Failure => Report::failure(text),
                    Class::Deferral | Class::Success => Report::deferral(text),
                }
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ehlo,
    Helo,
    Envelope,
    Data,
    Sending,
    End,
    Done,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Mail,
    /// The number of the recipient.
    Rcpt(usize),
}

/// What EHLO offered.
#[derive(Debug, Default)]
struct Offer {
    pipelining: bool,
    eight_bit: bool,
    smtputf8: bool,
    /// SIZE, with its limit in bytes; 0 for none.
    size: Option<u64>,
}

/// The client's side of one mail transaction.
#[derive(Debug)]
pub struct Client {
    mail: Mail,
    phase: Phase,
    greeted: bool,
    reply: ReplyReader,
    offer: Offer,
    pending: Vec<u8>,
    /// MAIL and RCPT in order, with the bytes to send.
    envelope: Vec<(Asked, Vec<u8>)>,
    sent: usize,
    answered: usize,
    accepted: bool,
    /// The last reply, until a report has said it (smtptext in qmail-remote.c).
    said: String,
    recipients: Vec<RecipientReport>,
    message: Option<Report>,
}

impl Client {
    /// A transaction over a connection that has just been made.
    pub fn new(mail: Mail) -> Self {
        Self {
            phase: Phase::Greeting,
            greeted: false,
            reply: ReplyReader::default(),
            offer: Offer::default(),
            pending: Vec::new(),
            envelope: Vec::new(),
            sent: 0,
            answered: 0,
            accepted: false,
            said: String::new(),
            recipients: vec![RecipientReport::Accepted; mail.forward_paths.len()],
            message: None,
            mail,
        }
    }

    /// Appends what is to be sent now and says what comes next.
    pub fn poll(&mut self, out: &mut Vec<u8>) -> Want {
        out.append(&mut self.pending);
        match self.phase {
            Phase::Greeting => Want::Read(Wait::Greeting),
            Phase::Ehlo | Phase::Helo => Want::Read(Wait::Helo),
            Phase::Envelope => Want::Read(Wait::Envelope),
            Phase::Data => Want::Read(Wait::Data),
            Phase::Sending => Want::SendData,
            Phase::End => Want::Read(Wait::End),
            Phase::Done => Want::Done,
        }
    }

    /// Reads replies; returns how much of `input` was read. The rest waits for the next poll: a reply to something that
    /// was not yet said is not read before it is said.
    pub fn step(&mut self, input: &[u8]) -> usize {
        let mut read = 0;
        while read < input.len()
            && !matches!(self.phase, Phase::Sending | Phase::Done)
            && self.pending.is_empty()
        {
            let (length, reply) = self.reply.read(&input[read..]);
            read += length;
            match reply {
                Some(Ok(reply)) => self.replied(reply),
                Some(Err(NotSmtp)) => self.not_smtp(),
                None => {}
            }
        }
        read
    }

    /// The message has been sent up to the final dot, which the next poll appends; or it could not be, and the connection
    /// must be closed without that dot.
    pub fn data_sent(&mut self, result: Result<(), DataError>) {
        if self.phase != Phase::Sending {
            return;
        }
        match result {
            Ok(()) => {
                self.pending.extend_from_slice(b".\r\n");
                self.phase = Phase::End;
            }
            Err(DataError::PartialLine) => self
                .end(Report::failure("SMTP cannot transfer messages with partial final lines. (#5.6.2)\n")),
            Err(DataError::Unreadable) => self.end(Report::deferral("Unable to read message. (#4.3.0)\n")),
        }
    }

    /// The connection ended, could not be written to, or was silent too long.
    pub fn connection_died(&mut self) {
        if self.phase == Phase::Done {
            return;
        }
        let text = format!(
            "Connected to {} but connection died. {}(#4.4.2)\n",
            self.mail.ip,
            if self.phase == Phase::End { "Possible duplicate! " } else { "" }
        );
        self.pending.clear();
        self.end(Report::deferral(text));
    }

    /// What is reported, once [`Want::Done`] was said.
    pub fn outcome(self) -> Option<Outcome> {
        self.message.map(|message| Outcome { recipients: self.recipients, message, greeted: self.greeted })
    }

    fn replied(&mut self, reply: Reply) {
        self.said = String::from_utf8_lossy(&reply.text).into_owned();
        let code = reply.code;
        match self.phase {
            Phase::Greeting if code == 220 => {
                self.greeted = true;
                self.say(&format!("EHLO {}", self.mail.helo));
                self.phase = Phase::Ehlo;
            }
            Phase::Greeting => self.quit(class(code), "Connected to ", " but greeting failed"),
            Phase::Ehlo if is_ok(code) => {
                self.offer = Offer::read(&reply.text);
                self.start();
            }
            Phase::Ehlo if code >= 500 => {
                self.say(&format!("HELO {}", self.mail.helo));
                self.phase = Phase::Helo;
            }
            Phase::Helo if is_ok(code) => self.start(),
            Phase::Ehlo | Phase::Helo => self.quit(class(code), "Connected to ", " but my name was rejected"),
            Phase::Envelope => self.envelope_replied(code),
            Phase::Data if code == 354 => self.phase = Phase::Sending,
            Phase::Data => self.quit(class(code), "", " failed on DATA command"),
            Phase::End if is_ok(code) => self.quit(Class::Success, "", " accepted message"),
            Phase::End => self.quit(class(code), "", " failed after I sent the message"),
            Phase::Sending | Phase::Done => {}
        }
    }

    fn envelope_replied(&mut self, code: u16) {
        let Some(&(asked, _)) = self.envelope.get(self.answered) else { return };
        self.answered += 1;
        match asked {
            Asked::Mail if is_ok(code) => {}
            Asked::Mail => return self.quit(class(code), "Connected to ", " but sender was rejected"),
            Asked::Rcpt(_) if is_ok(code) => self.accepted = true,
            Asked::Rcpt(number) => {
                let said = self.remote_said();
                let text = format!("{} does not like recipient.\n{said}", self.mail.ip);
                let report = if code >= 500 { Report::failure(text) } else { Report::deferral(text) };
                self.refused(number, report);
            }
        }
        if self.answered == self.sent {
            self.ask();
        }
    }

    /// Decides what can be sent to this host at all, then begins the envelope.
    fn start(&mut self) {
        self.said.clear();
        let Mail { ip, size, .. } = &self.mail;
        if let Some(limit) = self.offer.size.filter(|&limit| limit != 0 && *size > limit) {
            let text = format!("{ip} takes messages of up to {limit} bytes; this one has {size}. (#5.3.4)\n");
            return self.give_up(Report::failure(text));
        }
        let reverse_path = match self.wire_address(&self.mail.reverse_path, "5.1.7") {
            Ok(path) => path,
            Err(report) => return self.give_up(report),
        };
        let forward_paths: Vec<_> =
            self.mail.forward_paths.iter().map(|path| self.wire_address(path, "5.1.3")).collect();
        let smtputf8 = !reverse_path.is_ascii()
            || forward_paths.iter().any(|path| path.as_ref().is_ok_and(|path| !path.is_ascii()));

        let mut from = [b"MAIL FROM:<", reverse_path.as_slice(), b">"].concat();
        if self.offer.size.is_some() {
            from.extend_from_slice(format!(" SIZE={}", self.mail.size).as_bytes());
        }
        if self.offer.eight_bit && (self.mail.eight_bit || smtputf8) {
            from.extend_from_slice(b" BODY=8BITMIME");
        }
        if smtputf8 {
            from.extend_from_slice(b" SMTPUTF8");
        }
        from.extend_from_slice(b"\r\n");
        self.envelope.push((Asked::Mail, from));
        for (number, path) in forward_paths.into_iter().enumerate() {
            match path {
                Ok(path) => {
                    let line = [b"RCPT TO:<", path.as_slice(), b">\r\n"].concat();
                    self.envelope.push((Asked::Rcpt(number), line));
                }
                Err(report) => self.refused(number, report),
            }
        }
        self.phase = Phase::Envelope;
        if self.envelope.len() == 1 {
            return self.quit(Class::Failure, "Giving up on ", "");
        }
        self.ask();
    }

    /// Sends the next commands of the envelope, or DATA when all are answered and a recipient was accepted.
    fn ask(&mut self) {
        let batch = if self.offer.pipelining { MAX_PIPELINE } else { 1 };
        let until = self.envelope.len().min(self.sent + batch);
        for (_, line) in &self.envelope[self.sent..until] {
            self.pending.extend_from_slice(line);
        }
        if until > self.sent {
            self.sent = until;
        } else if self.accepted {
            self.say("DATA");
            self.phase = Phase::Data;
        } else {
            self.quit(Class::Failure, "Giving up on ", "");
        }
    }

    /// The address between the brackets, if this host can be given it.
    fn wire_address(&self, stored: &[u8], status: &str) -> Result<Vec<u8>, Report> {
        let Some(wire) = address::quoted(stored) else {
            return Err(Report::failure(format!("Sorry, SMTP cannot carry that address. (#{status})\n")));
        };
        if wire.is_ascii() {
            Ok(wire)
        } else if std::str::from_utf8(&wire).is_err() {
            Err(Report::failure("Sorry, that address is neither ASCII nor UTF-8. (#5.6.7)\n"))
        } else if self.offer.smtputf8 {
            Ok(wire)
        } else {
            let ip = &self.mail.ip;
            Err(Report::failure(format!("{ip} does not take non-ASCII addresses (SMTPUTF8). (#5.6.7)\n")))
        }
    }

    fn refused(&mut self, number: usize, report: Report) {
        if let Some(recipient) = self.recipients.get_mut(number) {
            *recipient = RecipientReport::Refused(report);
        }
    }

    fn not_smtp(&mut self) {
        let duplicate = if self.phase == Phase::End { "Possible duplicate! " } else { "" };
        let text = format!("Connected to {} but its reply is not SMTP. {duplicate}(#4.5.0)\n", self.mail.ip);
        self.end(Report::deferral(text));
    }

    fn say(&mut self, line: &str) {
        self.pending.extend(line.bytes().filter(|b| !b.is_ascii_control()));
        self.pending.extend_from_slice(b"\r\n");
    }

    /// quit in qmail-remote.c: the report names the host and says what it answered, if no report has said that yet.
    fn quit(&mut self, class: Class, before: &str, after: &str) {
        let said = self.remote_said();
        let text = format!("{before}{}{after}.\n{said}", self.mail.ip);
        self.give_up(match class {
            Class::Success => Report::success(text),
            Class::Deferral => Report::deferral(text),
            Class::Failure => Report::failure(text),
        });
    }

    fn give_up(&mut self, report: Report) {
        self.say("QUIT");
        self.end(report);
    }

    fn end(&mut self, report: Report) {
        self.message = Some(report);
        self.phase = Phase::Done;
    }

    fn remote_said(&mut self) -> String {
        let said = std::mem::take(&mut self.said);
        if said.is_empty() { said } else { format!("Remote host said: {said}") }
    }
}

const fn is_ok(code: u16) -> bool {
    matches!(code, 200..=299)
}

/// The class of a reply that is not the one hoped for: what is neither 4xx nor 5xx proves nothing, so it is temporary.
const fn class(code: u16) -> Class {
    if code >= 500 { Class::Failure } else { Class::Deferral }
}

impl Offer {
    /// Reads the lines behind the first of an EHLO reply (RFC 5321 4.1.1.1).
    fn read(text: &[u8]) -> Self {
        let mut offer = Self::default();
        for line in text.split(|&b| b == b'\n').skip(1) {
            let words = line.get(4..).unwrap_or_default().trim_ascii();
            let mut words = words.split(|&b| matches!(b, b' ' | b'='));
            match words.next().unwrap_or_default().to_ascii_uppercase().as_slice() {
                b"PIPELINING" => offer.pipelining = true,
                b"8BITMIME" => offer.eight_bit = true,
                b"SMTPUTF8" => offer.smtputf8 = true,
                b"SIZE" => {
                    let limit = words.next().and_then(|w| std::str::from_utf8(w).ok()?.parse().ok());
                    offer.size = Some(limit.unwrap_or(0));
                }
                _ => {}
            }
        }
        offer
    }
}

struct Reply {
    code: u16,
    /// All lines, codes included, LF line ends, without NUL and other control characters.
    text: Vec<u8>,
}

/// What came is not a reply of RFC 5321 4.2, or one out of all proportion.
struct NotSmtp;

/// Reads one reply; lines may end in LF alone.
#[derive(Debug, Default)]
struct ReplyReader {
    line: Vec<u8>,
    text: Vec<u8>,
    lines: usize,
    bytes: usize,
}

impl ReplyReader {
    fn read(&mut self, input: &[u8]) -> (usize, Option<Result<Reply, NotSmtp>>) {
        let mut read = 0;
        while read < input.len() {
            let rest = &input[read..];
            let newline = memchr::memchr(b'\n', rest);
            let piece = &rest[..newline.unwrap_or(rest.len())];
            let length = piece.len() + usize::from(newline.is_some());
            read += length;
            self.bytes = self.bytes.saturating_add(length);
            let room = MAX_LINE - self.line.len();
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if self.bytes > MAX_REPLY {
                return (read, Some(Err(NotSmtp)));
            }
            if newline.is_some() {
                match self.end_line() {
                    Ok(None) => {}
                    Ok(Some(reply)) => return (read, Some(Ok(reply))),
                    Err(NotSmtp) => return (read, Some(Err(NotSmtp))),
                }
            }
        }
        (read, None)
    }

    /// The code of the last line is the reply's.
    fn end_line(&mut self) -> Result<Option<Reply>, NotSmtp> {
        let line = std::mem::take(&mut self.line);
        self.lines += 1;
        let (code, last) = match line.trim_ascii_end() {
            [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
                let digit = |d: &u8| u16::from(d - b'0');
                let code = digit(a) * 100 + digit(b) * 10 + digit(c);
                match rest.first() {
                    None | Some(b' ') => (code, true),
                    Some(b'-') => (code, false),
                    Some(_) => return Err(NotSmtp),
                }
            }
            _ => return Err(NotSmtp),
        };
        let printable =
            line.iter().filter(|&&b| b != b'\r').map(|&b| if b.is_ascii_control() { b'?' } else { b });
        self.text.extend(printable.chain([b'\n']).take(MAX_TEXT - self.text.len()));
        if last {
            let text = std::mem::take(self).text;
            return Ok(Some(Reply { code, text }));
        }
        if self.lines >= MAX_LINES { Err(NotSmtp) } else { Ok(None) }
    }
}
