//! qmail-smtpd's dialogue: a session as a value that eats bytes and writes replies.
//!
//! The driver gives [`Session::receive`] what came over the network, sends `out`, stores `body`, empties both and does
//! what [`Next`] says, until it says [`Next::Close`]. How the bytes were cut into reads changes nothing.

use std::net::IpAddr;
use std::sync::Arc;

use super::command::{self, Command};
use super::data::{DataReader, Progress};
use crate::address;
use crate::reply::{self, Refusal};

/// Longest command line in bytes, CRLF included.
pub const MAX_LINE: usize = 2048;

/// Mail data one [`Session::receive`] reads at most, in bytes: the bound of what it adds to `body`.
pub const MAX_CHUNK: usize = 64 * 1024;

/// Bytes of replies after which [`Session::receive`] stops to have them sent.
pub const MAX_REPLIES: usize = 16 * 1024;

/// Errors answered in one session; the next one is answered with 421.
pub const MAX_ERRORS: u32 = 20;

/// A question the host's control files answer.
pub type Listed = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A question that control files answer, if they can be read.
pub type Allowed = Arc<dyn Fn(&[u8]) -> Result<bool, Refusal> + Send + Sync>;

/// What the host decided for this connection before the first byte, from control files and tcp.smtp.
#[derive(Clone)]
pub struct Policy {
    /// `control/smtpgreeting`, without ` ESMTP`.
    pub greeting: String,
    /// `control/databytes` or DATABYTES, in bytes; 0 for no limit.
    pub databytes: u64,
    /// Recipients one transaction may have.
    pub recipients: usize,
    /// RELAYCLIENT: when set, rcpthosts is ignored and the value is appended to each recipient.
    pub relayclient: Option<Vec<u8>>,
    /// Whether mail for this domain, in lower case, is taken (`control/rcpthosts`).
    pub rcpthosts: Allowed,
    /// Whether this reverse-path, never empty, is refused (`control/badmailfrom`).
    pub badmailfrom: Listed,
    /// Our address on this connection, and the host that `user@[address]` stands for (`control/localiphost`).
    pub localiphost: Option<(IpAddr, Vec<u8>)>,
}

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send `out`, store `body`; then receive again, with what was left of the input or with more.
    Read,
    /// DATA was said: get ready to store the message of [`Session::transaction`], then call [`Session::opened`].
    Open,
    /// The message is whole: make it durable, then call [`Session::queued`].
    Commit,
    /// The message is whole and refused, and the reply is written: drop what was stored.
    Discard,
    /// Send `out` and close; a message that was open is dropped.
    Close,
}

/// What the queue says of a message it took: `250 ok TIME qp QP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Seconds since 1970.
    pub time: u64,
    /// qmail-queue's number for the message.
    pub qp: u64,
}

/// The envelope of a mail transaction (RFC 5321 3.3), addresses as the queue stores them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Empty for `<>`.
    pub reverse_path: Vec<u8>,
    /// Accepted recipients, RELAYCLIENT appended.
    pub forward_paths: Vec<Vec<u8>>,
    /// MAIL said SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    badmailfrom: bool,
}

enum Phase {
    Command,
    /// DATA was said, the driver has not answered.
    Open,
    Data(DataReader),
    /// The data ended, the driver has not answered.
    Commit,
    Closed,
}

/// One SMTP session, server side.
pub struct Session {
    policy: Policy,
    phase: Phase,
    line: Line,
    helo: Option<Vec<u8>>,
    extended: bool,
    transaction: Option<Transaction>,
    errors: u32,
}

impl Session {
    /// A session on which nothing has been said.
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            phase: Phase::Command,
            line: Line::new(),
            helo: None,
            extended: false,
            transaction: None,
            errors: 0,
        }
    }

    /// The 220 that opens the dialogue.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        reply::greeting(out, &self.policy.greeting);
    }

    /// What HELO or EHLO said, as it came: any bytes but control characters, perhaps none. `None` before it.
    pub fn helo(&self) -> Option<&[u8]> {
        self.helo.as_deref()
    }

    /// The word behind `with` in the Received line (RFC 3848, RFC 6531 4.3).
    pub fn protocol(&self) -> &'static str {
        match (&self.transaction, self.extended) {
            (Some(Transaction { smtputf8: true, .. }), _) => "UTF8SMTP",
            (_, true) => "ESMTP",
            (_, false) => "SMTP",
        }
    }

    /// The transaction under way; whole from [`Next::Open`] until [`Session::queued`].
    pub const fn transaction(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
    }

    /// True from 354 to the end of the data.
    pub const fn in_data(&self) -> bool {
        matches!(self.phase, Phase::Data(_))
    }

    /// Reads `input`, appends replies to `out` and mail data (unstuffed, LF line ends, as `mess` holds it) to `body`,
    /// and stops at the first thing the driver must do. Returns how much of `input` was read; the driver gives the rest
    /// again. Each call adds at most [`MAX_CHUNK`] bytes to `body` and about [`MAX_REPLIES`] to `out`.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>, body: &mut Vec<u8>) -> (usize, Next) {
        let (mut read, mut chunk, replies) = (0, 0, out.len());
        loop {
            let rest = &input[read..];
            match &mut self.phase {
                Phase::Open => return (read, Next::Open),
                Phase::Commit => return (read, Next::Commit),
                Phase::Closed => return (read, Next::Close),
                _ if rest.is_empty() || chunk == MAX_CHUNK || out.len() - replies >= MAX_REPLIES => {
                    return (read, Next::Read);
                }
                Phase::Command => {
                    let (length, event) = self.line.read(rest);
                    read += length;
                    match event {
                        Some(Ok(())) => self.command(out),
                        Some(Err(refusal)) => self.refuse(&refusal, out),
                        None => {}
                    }
                }
                Phase::Data(reader) => {
                    let (length, progress) = reader.read(&rest[..rest.len().min(MAX_CHUNK - chunk)], body);
                    read += length;
                    chunk += length;
                    match progress {
                        Progress::More => {}
                        Progress::End => match reader.verdict() {
                            Ok(()) => self.phase = Phase::Commit,
                            Err(refusal) => {
                                self.end_transaction();
                                refusal.write(self.extended, out);
                                return (read, Next::Discard);
                            }
                        },
                        Progress::StrayNewline => self.close(&Refusal::stray_newline(), out),
                    }
                }
            }
        }
    }

    /// The driver's answer to [`Next::Open`]: 354, or the refusal and the transaction is over. At any other time it says
    /// nothing.
    pub fn opened(&mut self, answer: Result<(), Refusal>, out: &mut Vec<u8>) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        match answer {
            Ok(()) => {
                self.phase = Phase::Data(DataReader::new(self.policy.databytes));
                reply::go_ahead(out);
            }
            Err(refusal) => self.abandon(&refusal, out),
        }
    }

    /// The driver's answer to [`Next::Commit`]; the transaction is over. At any other time it says nothing.
    pub fn queued(&mut self, answer: Result<Accepted, Refusal>, out: &mut Vec<u8>) {
        if !matches!(self.phase, Phase::Commit) {
            return;
        }
        match answer {
            Ok(Accepted { time, qp }) => {
                self.end_transaction();
                reply::queued(self.extended, time, qp, out);
            }
            Err(refusal) => self.abandon(&refusal, out),
        }
    }

    /// The client was silent too long: says so; the session is closed.
    pub fn timeout(&mut self, out: &mut Vec<u8>) {
        self.close(&Refusal::timeout(), out);
    }

    /// The host is stopping: says so; the session is closed.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) {
        self.close(&Refusal::shutdown(), out);
    }

    fn command(&mut self, out: &mut Vec<u8>) {
        let line = self.line.take();
        if let Err(refusal) = command::parse(&line).and_then(|command| self.obey(command, out)) {
            self.refuse(&refusal, out);
        }
    }

    fn obey(&mut self, command: Command<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        match command {
            Command::Helo(name) => {
                self.greeted(name, false);
                reply::helo(out, &self.policy.greeting);
            }
            Command::Ehlo(name) => {
                self.greeted(name, true);
                reply::ehlo(out, &self.policy.greeting, self.policy.databytes);
            }
            Command::Mail(mail) => {
                self.mail(mail)?;
                reply::SENDER_OK.write(self.extended, out);
            }
            Command::Rcpt(forward_path) => {
                self.rcpt(forward_path)?;
                reply::RECIPIENT_OK.write(self.extended, out);
            }
            Command::Data => {
                let transaction = self.transaction.as_ref().ok_or_else(Refusal::mail_first)?;
                if transaction.forward_paths.is_empty() {
                    return Err(Refusal::rcpt_first());
                }
                self.phase = Phase::Open;
            }
            Command::Rset => {
                self.transaction = None;
                reply::FLUSHED.write(self.extended, out);
            }
            Command::Noop => reply::OK.write(self.extended, out),
            Command::Vrfy => reply::VRFY.write(self.extended, out),
            Command::Help => reply::HELP.write(self.extended, out),
            Command::Quit => {
                self.phase = Phase::Closed;
                reply::bye(self.extended, &self.policy.greeting, out);
            }
        }
        Ok(())
    }

    fn greeted(&mut self, name: &[u8], extended: bool) {
        self.helo = Some(name.to_vec());
        self.extended = extended;
        self.transaction = None;
    }

    fn mail(&mut self, mail: command::Mail) -> Result<(), Refusal> {
        if self.transaction.is_some() {
            return Err(Refusal::nested_mail());
        }
        let limit = self.policy.databytes;
        if limit != 0 && mail.size.is_some_and(|size| size > limit) {
            return Err(Refusal::databytes());
        }
        let reverse_path = self.with_localiphost(mail.reverse_path);
        let badmailfrom = !reverse_path.is_empty() && (self.policy.badmailfrom)(&reverse_path);
        self.transaction = Some(Transaction {
            reverse_path,
            forward_paths: Vec::new(),
            smtputf8: mail.smtputf8,
            badmailfrom,
        });
        Ok(())
    }

    fn rcpt(&mut self, forward_path: Vec<u8>) -> Result<(), Refusal> {
        let mut forward_path = self.with_localiphost(forward_path);
        let transaction = self.transaction.as_mut().ok_or_else(Refusal::mail_first)?;
        command::allowed(&forward_path, transaction.smtputf8)?;
        if transaction.badmailfrom {
            return Err(Refusal::badmailfrom());
        }
        if transaction.forward_paths.len() >= self.policy.recipients {
            return Err(Refusal::too_many_recipients());
        }
        if let Some(suffix) = &self.policy.relayclient {
            forward_path.extend_from_slice(suffix);
        } else if let (_, Some(domain)) = address::split(&forward_path)
            && !(self.policy.rcpthosts)(&domain.to_ascii_lowercase())?
        {
            return Err(Refusal::rcpthosts());
        }
        transaction.forward_paths.push(forward_path);
        Ok(())
    }

    /// `user@[our address]` is `user@localiphost` (qmail-smtpd.8).
    fn with_localiphost(&self, path: Vec<u8>) -> Vec<u8> {
        let Some((ours, host)) = &self.policy.localiphost else { return path };
        match address::split(&path) {
            (local, Some(domain)) if address::literal(domain) == Some(*ours) => [local, b"@", host].concat(),
            _ => path,
        }
    }

    /// Answers with a refusal; 421 ends the session (RFC 5321 3.8), and so does one error of the client too many.
    fn refuse(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        self.errors = self.errors.saturating_add(u32::from(refusal.is_client_error()));
        if refusal.code() == 421 {
            self.close(refusal, out);
        } else if refusal.is_client_error() && self.errors > MAX_ERRORS {
            self.close(&Refusal::too_many_errors(), out);
        } else {
            refusal.write(self.extended, out);
        }
    }

    /// The driver refused the message: the transaction is over, and after 421 the session too (RFC 5321 3.8).
    fn abandon(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        self.end_transaction();
        refusal.write(self.extended, out);
        if refusal.code() == 421 {
            self.phase = Phase::Closed;
        }
    }

    fn end_transaction(&mut self) {
        self.transaction = None;
        self.phase = Phase::Command;
    }

    fn close(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        self.transaction = None;
        self.phase = Phase::Closed;
        refusal.write(self.extended, out);
    }
}

/// The command line being read. Only CRLF ends it. A line that is too long or has a bare LF is answered at once, and
/// what is left of it up to its CRLF is dropped: nothing behind a bare LF is ever taken for a command.
struct Line {
    bytes: Vec<u8>,
    after_cr: bool,
    dropping: bool,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: Vec::new(), after_cr: false, dropping: false }
    }

    /// Reads up to the next LF at most: `Some(Ok)` when a line is whole, `Some(Err)` when it turned out bad.
    fn read(&mut self, input: &[u8]) -> (usize, Option<Result<(), Refusal>>) {
        let newline = memchr::memchr(b'\n', input);
        let end = newline.unwrap_or(input.len());
        let piece = &input[..end];
        if let Some(&last) = piece.last() {
            self.after_cr = last == b'\r';
        }
        // With the LF that is still to come a line of this length breaks the limit.
        if !self.dropping && self.bytes.len() + piece.len() >= MAX_LINE {
            self.dropping = true;
            self.bytes.clear();
            return (end, Some(Err(Refusal::line_too_long())));
        }
        if !self.dropping {
            self.bytes.extend_from_slice(piece);
        }
        if newline.is_none() {
            return (end, None);
        }
        let crlf = std::mem::take(&mut self.after_cr);
        match (crlf, self.dropping) {
            (true, true) => {
                self.dropping = false;
                (end + 1, None)
            }
            (true, false) => {
                self.bytes.truncate(self.bytes.len() - 1);
                (end + 1, Some(Ok(())))
            }
            (false, true) => (end + 1, None),
            (false, false) => {
                self.dropping = true;
                self.bytes.clear();
                (end + 1, Some(Err(Refusal::bare_newline())))
            }
        }
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}
