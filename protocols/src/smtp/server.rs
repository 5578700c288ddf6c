//! qmail-smtpd's dialogue: a session as a value that eats bytes and writes replies.
//!
//! The driver gives [`Session::receive`] what came over the network, sends `out`, stores `body`, empties both and does
//! what [`Next`] says, until it says [`Next::Close`]. How the bytes were cut into reads changes nothing.

use std::net::IpAddr;

use super::command::{self, Command};
use super::data::{DataReader, Progress};
use super::line::Line;
pub use super::line::MAX_LINE;
use crate::address;
use crate::auth::Credentials;
use crate::auth::exchange::{Exchange, Step};
use crate::auth::smtpauth::SmtpAuth;
use crate::reply::{self, Refusal};

/// Mail data one [`Session::receive`] reads at most, in bytes: the bound of what it adds to `body`.
pub const MAX_CHUNK: usize = 64 * 1024;

/// Bytes of replies after which [`Session::receive`] stops to have them sent.
pub const MAX_REPLIES: usize = 16 * 1024;

/// Errors answered in one session; the next one is answered with 421.
pub const MAX_ERRORS: u32 = 20;

/// Transactions in a row that come to no recipient; each may cost the host a hundred questions. The next one is an error.
pub const MAX_IDLE: u32 = 20;

/// What the host decided for this connection before the first byte, from control files and tcp.smtp.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `control/smtpgreeting`, without ` ESMTP`.
    pub greeting: String,
    /// `control/databytes` or DATABYTES, in bytes; 0 for no limit.
    pub databytes: u64,
    /// Recipients one transaction may have.
    pub recipients: usize,
    /// `control/brtlimit` or BRTLIMIT: refused recipients after which the session ends; 0 for no limit.
    pub brtlimit: u32,
    /// Our address on this connection, and the host that `user@[address]` stands for (`control/localiphost`).
    pub localiphost: Option<(IpAddr, Vec<u8>)>,
    /// STARTTLS is offered (RFC 3207): there is a certificate, no DISABLETLS, and the connection is not secured yet.
    pub starttls: bool,
    /// The connection is secured from its first byte (SMTPS).
    pub secured: bool,
    /// Without TLS there are no mail transactions (FORCETLS).
    pub tls_required: bool,
    /// SMTPAUTH; `None`: no AUTH.
    pub auth: Option<SmtpAuth>,
    /// AUTH is offered without TLS too.
    pub auth_in_clear: bool,
    /// `PID.TIME@HOST`: with a number in front the challenges of CRAM-MD5 (RFC 2195 2).
    pub unique: String,
}

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send `out`, store `body`; then receive again, with what was left of the input or with more.
    Read,
    /// STARTTLS was said: send `out`, throw away all input that has come, secure the connection, then call
    /// [`Session::secured`].
    Starttls,
    /// HELO or EHLO was said: look at [`Session::name`], then call [`Session::greeted`].
    Helo,
    /// AUTH was said to its end: check [`Session::credentials`], then call [`Session::authenticated`].
    Authenticate,
    /// MAIL was said: look at the sender of [`Session::transaction`], then call [`Session::sender`].
    Sender,
    /// RCPT was said: look at [`Session::forward_path`], then call [`Session::recipient`].
    Recipient,
    /// DATA was said: get ready to store the message of [`Session::transaction`], then call [`Session::opened`].
    Open,
    /// The message is whole: make it durable, then call [`Session::queued`].
    Commit,
    /// The message is whole and refused, and the reply is written: drop what was stored.
    Discard,
    /// QUIT was said: call [`Session::left`].
    Quit,
    /// Send `out` and close; a message that was open is dropped.
    Close,
}

/// What the driver thinks of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sender {
    /// Welcome.
    Accepted,
    /// Refused, and MAIL is answered so.
    Refused(Refusal),
    /// Refused, and each RCPT is answered so, as qmail-smtpd does: a client that gives up at MAIL tries again for ever.
    RefusedAtRcpt(Refusal),
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
    /// SIZE of MAIL in bytes (RFC 1870), as the client declared it.
    pub size: Option<u64>,
    refusal: Option<Refusal>,
}

enum Phase {
    Command,
    /// STARTTLS was said, the driver has not answered.
    Starttls,
    /// HELO or EHLO was said, with this name and whether it was EHLO; the driver has not answered.
    Helo(Vec<u8>, bool),
    /// An AUTH exchange waits for the client's next line.
    Exchange(Exchange),
    /// An AUTH exchange ended, the driver has not answered.
    Authenticate(Credentials),
    /// MAIL was said, the driver has not answered.
    Sender,
    /// RCPT was said, the driver has not answered.
    Recipient(Vec<u8>),
    /// DATA was said, the driver has not answered.
    Open,
    Data(DataReader),
    /// The data ended, the driver has not answered.
    Commit,
    /// QUIT was said, the driver has not answered.
    Quit,
    Closed,
}

/// One SMTP session, server side.
pub struct Session {
    policy: Policy,
    phase: Phase,
    line: Line,
    helo: Option<Vec<u8>>,
    extended: bool,
    secured: bool,
    user: Option<Vec<u8>>,
    mechanism: &'static str,
    exchanges: u32,
    transaction: Option<Transaction>,
    errors: u32,
    refused_recipients: u32,
    /// Transactions since the last recipient.
    idle: u32,
}

impl Session {
    /// A session on which nothing has been said.
    pub const fn new(policy: Policy) -> Self {
        let secured = policy.secured;
        Self {
            policy,
            phase: Phase::Command,
            line: Line::new(),
            helo: None,
            extended: false,
            secured,
            user: None,
            mechanism: "",
            exchanges: 0,
            transaction: None,
            errors: 0,
            refused_recipients: 0,
            idle: 0,
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
        let utf8 = self.transaction.as_ref().is_some_and(|transaction| transaction.smtputf8);
        match (utf8, self.secured, self.user.is_some()) {
            (true, false, false) => "UTF8SMTP",
            (true, false, true) => "UTF8SMTPA",
            (true, true, false) => "UTF8SMTPS",
            (true, true, true) => "UTF8SMTPSA",
            (false, true, true) => "ESMTPSA",
            (false, true, false) => "ESMTPS",
            (false, false, true) => "ESMTPA",
            (false, false, false) if self.extended => "ESMTP",
            (false, false, false) => "SMTP",
        }
    }

    /// Who the client has shown to be (AUTH).
    pub fn user(&self) -> Option<&[u8]> {
        self.user.as_deref()
    }

    /// What the client shows to be who it says; there from [`Next::Authenticate`] until [`Session::authenticated`].
    pub const fn credentials(&self) -> Option<&Credentials> {
        match &self.phase {
            Phase::Authenticate(credentials) => Some(credentials),
            _ => None,
        }
    }

    /// The name being looked at; there from [`Next::Helo`] until [`Session::greeted`].
    pub fn name(&self) -> Option<&[u8]> {
        match &self.phase {
            Phase::Helo(name, _) => Some(name),
            _ => None,
        }
    }

    /// The mechanism of the last exchange of AUTH; empty before one.
    pub const fn mechanism(&self) -> &'static str {
        self.mechanism
    }

    /// The recipient being looked at; there from [`Next::Recipient`] until [`Session::recipient`].
    pub fn forward_path(&self) -> Option<&[u8]> {
        match &self.phase {
            Phase::Recipient(forward_path) => Some(forward_path),
            _ => None,
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
    ///
    /// One thing depends on how the bytes were cut: STARTTLS and each line of AUTH must be the last that the client has
    /// sent (RFC 3207 4, RFC 4954 4). What came together with it was sent by somebody who does not wait for the answer,
    /// or by somebody else, and ends the session.
    pub fn receive(&mut self, input: &[u8], out: &mut Vec<u8>, body: &mut Vec<u8>) -> (usize, Next) {
        let (mut read, mut chunk, replies) = (0, 0, out.len());
        loop {
            let rest = &input[read..];
            match &mut self.phase {
                Phase::Starttls => return (read, Next::Starttls),
                Phase::Helo(..) => return (read, Next::Helo),
                Phase::Authenticate(_) => return (read, Next::Authenticate),
                Phase::Sender => return (read, Next::Sender),
                Phase::Recipient(_) => return (read, Next::Recipient),
                Phase::Open => return (read, Next::Open),
                Phase::Commit => return (read, Next::Commit),
                Phase::Quit => return (read, Next::Quit),
                Phase::Closed => return (read, Next::Close),
                _ if rest.is_empty() || chunk == MAX_CHUNK || out.len() - replies >= MAX_REPLIES => {
                    return (read, Next::Read);
                }
                Phase::Command | Phase::Exchange(_) => {
                    let said = out.len();
                    let (length, event) = self.line.read(rest);
                    read += length;
                    let whole = event.is_some();
                    match event {
                        Some(Ok(())) => self.line(out),
                        Some(Err(refusal)) => self.refuse(&refusal, out),
                        None => {}
                    }
                    let must_wait =
                        matches!(self.phase, Phase::Starttls | Phase::Exchange(_) | Phase::Authenticate(_));
                    if whole && must_wait && read < input.len() {
                        out.truncate(said);
                        self.close(&Refusal::protocol_violation(), out);
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

    /// The driver's answer to [`Next::Helo`]; after a refusal the session is where it was. At any other time it says
    /// nothing.
    pub fn greeted(&mut self, answer: Result<(), Refusal>, out: &mut Vec<u8>) {
        let (name, extended) = match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Helo(name, extended) => (name, extended),
            other => {
                self.phase = other;
                return;
            }
        };
        if let Err(refusal) = answer {
            return self.refuse(&refusal, out);
        }
        self.helo = Some(name);
        self.extended = extended;
        self.transaction = None;
        if extended {
            self.ehlo(out);
        } else {
            reply::helo(out, &self.policy.greeting);
        }
    }

    /// The driver's answer to [`Next::Quit`]: the session is closed. At any other time it says nothing.
    pub fn left(&mut self, out: &mut Vec<u8>) {
        if matches!(self.phase, Phase::Quit) {
            self.phase = Phase::Closed;
            reply::bye(self.extended, &self.policy.greeting, out);
        }
    }

    /// Another sender in place of the one that was said, between [`Next::Sender`] and [`Session::sender`]. At any other
    /// time it does nothing.
    pub fn change_reverse_path(&mut self, path: Vec<u8>) {
        if let (Phase::Sender, Some(transaction)) = (&self.phase, &mut self.transaction) {
            transaction.reverse_path = path;
        }
    }

    /// Nobody is served: the refusal takes the place of the greeting; the session is closed.
    pub fn turn_away(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        self.close(refusal, out);
    }

    /// The session is closed, and nothing is said of it.
    pub fn hang_up(&mut self) {
        self.transaction = None;
        self.phase = Phase::Closed;
    }

    /// The client was silent too long: says so; the session is closed.
    pub fn timeout(&mut self, out: &mut Vec<u8>) {
        self.close(&Refusal::timeout(), out);
    }

    /// The host is stopping: says so; the session is closed.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) {
        self.close(&Refusal::shutdown(), out);
    }

    /// The driver's answer to [`Next::Starttls`] once the connection is secured: everything the client said before is
    /// forgotten (RFC 3207 4.2). At any other time it says nothing.
    pub fn secured(&mut self) {
        if !matches!(self.phase, Phase::Starttls) {
            return;
        }
        self.phase = Phase::Command;
        self.policy.starttls = false;
        self.secured = true;
        self.line = Line::new();
        self.helo = None;
        self.extended = false;
        self.user = None;
        self.transaction = None;
    }

    /// The driver's answer to [`Next::Authenticate`]. At any other time it says nothing.
    pub fn authenticated(&mut self, answer: Result<(), Refusal>, out: &mut Vec<u8>) {
        let credentials = match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Authenticate(credentials) => credentials,
            other => {
                self.phase = other;
                return;
            }
        };
        match answer {
            Ok(()) => {
                self.user = Some(credentials.user);
                reply::AUTHENTICATED.write(self.extended, out);
            }
            Err(refusal) => self.refuse(&refusal, out),
        }
    }

    /// The driver's answer to [`Next::Sender`]. At any other time it says nothing.
    pub fn sender(&mut self, answer: Sender, out: &mut Vec<u8>) {
        if !matches!(self.phase, Phase::Sender) {
            return;
        }
        self.phase = Phase::Command;
        match answer {
            Sender::Refused(refusal) => {
                self.transaction = None;
                return self.refuse(&refusal, out);
            }
            Sender::RefusedAtRcpt(refusal) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.refusal = Some(refusal);
                }
            }
            Sender::Accepted => {}
        }
        reply::SENDER_OK.write(self.extended, out);
    }

    /// The driver's answer to [`Next::Recipient`]: the recipient as the queue is to store it, or the refusal. At any
    /// other time it says nothing.
    pub fn recipient(&mut self, answer: Result<Vec<u8>, Refusal>, out: &mut Vec<u8>) {
        if !matches!(self.phase, Phase::Recipient(_)) {
            return;
        }
        self.phase = Phase::Command;
        match (answer, &mut self.transaction) {
            (Ok(forward_path), Some(transaction)) => {
                self.idle = 0;
                transaction.forward_paths.push(forward_path);
                reply::RECIPIENT_OK.write(self.extended, out);
            }
            (Ok(_), None) => {}
            (Err(refusal), _) => self.refuse_recipient(&refusal, out),
        }
    }

    /// Whether the client has named as many bad recipients as brtlimit allows; the session is closed then.
    pub const fn over_brtlimit(&self) -> bool {
        self.policy.brtlimit != 0 && self.refused_recipients >= self.policy.brtlimit
    }

    fn line(&mut self, out: &mut Vec<u8>) {
        let line = self.line.take();
        match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Exchange(exchange) => {
                let step = exchange.line(&line);
                self.exchange(step, out);
            }
            _ => {
                if let Err(refusal) = command::parse(&line).and_then(|command| self.obey(command, out)) {
                    self.refuse(&refusal, out);
                }
            }
        }
    }

    /// One step of an AUTH exchange (RFC 4954 4).
    fn exchange(&mut self, step: Step, out: &mut Vec<u8>) {
        match step {
            Step::Challenge(challenge, exchange) => {
                reply::challenge(&challenge, out);
                self.phase = Phase::Exchange(exchange);
            }
            Step::Done(credentials) => self.phase = Phase::Authenticate(credentials),
            Step::Refused(refusal) => self.refuse(&refusal, out),
        }
    }

    fn obey(&mut self, command: Command<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        match command {
            Command::Helo(name) => self.phase = Phase::Helo(name.to_vec(), false),
            Command::Ehlo(name) => self.phase = Phase::Helo(name.to_vec(), true),
            Command::Starttls => {
                if !self.policy.starttls {
                    return Err(Refusal::unimplemented());
                }
                reply::READY_FOR_TLS.write(false, out);
                self.phase = Phase::Starttls;
            }
            Command::Auth { mechanism, initial } => {
                let step = self.auth(mechanism, initial)?;
                self.exchange(step, out);
            }
            Command::Mail(mail) => {
                self.mail(mail)?;
                self.phase = Phase::Sender;
            }
            Command::Rcpt(forward_path) => self.rcpt(forward_path, out)?,
            Command::Data => {
                let transaction = self.transaction.as_ref().ok_or_else(Refusal::mail_first)?;
                if transaction.forward_paths.is_empty() {
                    return Err(Refusal::rcpt_first());
                }
                self.phase = Phase::Open;
            }
            Command::Bdat => self.close(&Refusal::unimplemented(), out),
            Command::Rset => {
                self.transaction = None;
                reply::FLUSHED.write(self.extended, out);
            }
            Command::Noop => reply::OK.write(self.extended, out),
            Command::Vrfy => reply::VRFY.write(self.extended, out),
            Command::Help => reply::HELP.write(self.extended, out),
            Command::Quit => self.phase = Phase::Quit,
        }
        Ok(())
    }

    fn ehlo(&self, out: &mut Vec<u8>) {
        let limit = self.policy.databytes;
        let mut keywords = vec!["PIPELINING".to_owned(), "8BITMIME".to_owned()];
        // RFC 1870 4.
        keywords.push(if limit == 0 { "SIZE".to_owned() } else { format!("SIZE {limit}") });
        keywords.push("ENHANCEDSTATUSCODES".to_owned());
        if self.policy.starttls {
            keywords.push("STARTTLS".to_owned());
        }
        if let (Some(auth), None) = (self.auth_here(), &self.user) {
            keywords.extend(auth.capability().map(str::to_owned));
        }
        keywords.push("SMTPUTF8".to_owned());
        reply::ehlo(out, &self.policy.greeting, &keywords);
    }

    /// The mechanisms that may be used as things are: without TLS only if the host says so.
    fn auth_here(&self) -> Option<&SmtpAuth> {
        self.policy.auth.as_ref().filter(|_| self.secured || self.policy.auth_in_clear)
    }

    /// RFC 4954 4.
    fn auth(&mut self, mechanism: &[u8], initial: Option<&[u8]>) -> Result<Step, Refusal> {
        if self.policy.auth.is_none() {
            return Err(Refusal::unimplemented());
        }
        if self.user.is_some() {
            return Err(Refusal::auth_already());
        }
        if self.transaction.is_some() {
            return Err(Refusal::auth_in_transaction());
        }
        self.exchanges += 1;
        let challenge = format!("<{}.{}>", self.exchanges, self.policy.unique);
        let known = ["PLAIN", "LOGIN", "CRAM-MD5"];
        let said = known.into_iter().find(|name| mechanism.eq_ignore_ascii_case(name.as_bytes()));
        self.mechanism = said.unwrap_or_default();
        let auth = self.auth_here().ok_or_else(Refusal::auth_without_tls)?;
        Ok(Exchange::start(mechanism, initial, auth, challenge.as_bytes()))
    }

    fn mail(&mut self, mail: command::Mail) -> Result<(), Refusal> {
        if self.transaction.is_some() {
            return Err(Refusal::nested_mail());
        }
        if self.policy.tls_required && !self.secured {
            return Err(Refusal::starttls_first());
        }
        if self.user.is_none() && self.policy.auth.as_ref().is_some_and(|auth| auth.required) {
            return Err(Refusal::auth_required());
        }
        self.idle = self.idle.saturating_add(1);
        if self.idle > MAX_IDLE {
            return Err(Refusal::nobody_to_send_to());
        }
        let limit = self.policy.databytes;
        if limit != 0 && mail.size.is_some_and(|size| size > limit) {
            return Err(Refusal::databytes());
        }
        self.transaction = Some(Transaction {
            reverse_path: self.with_localiphost(mail.reverse_path),
            forward_paths: Vec::new(),
            smtputf8: mail.smtputf8,
            size: mail.size,
            refusal: None,
        });
        Ok(())
    }

    fn rcpt(&mut self, forward_path: Vec<u8>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let forward_path = self.with_localiphost(forward_path);
        let transaction = self.transaction.as_ref().ok_or_else(Refusal::mail_first)?;
        command::allowed(&forward_path, transaction.smtputf8)?;
        if transaction.forward_paths.len() >= self.policy.recipients {
            return Err(Refusal::too_many_recipients());
        }
        match transaction.refusal.clone() {
            Some(refusal) => self.refuse_recipient(&refusal, out),
            None => self.phase = Phase::Recipient(forward_path),
        }
        Ok(())
    }

    /// Answers RCPT with a refusal; one refused for good too many ends the session (brtlimit).
    fn refuse_recipient(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        self.refused_recipients = self.refused_recipients.saturating_add(u32::from(refusal.is_permanent()));
        if self.over_brtlimit() {
            self.close(&Refusal::brtlimit(), out);
        } else {
            self.refuse(refusal, out);
        }
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

    /// A session that is closed says no more.
    fn close(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        self.transaction = None;
        self.phase = Phase::Closed;
        refusal.write(self.extended, out);
    }
}
