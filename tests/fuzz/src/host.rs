//! A driver of the SMTP server that keeps everything in memory and checks what must hold after every call.

// Each target is a program of its own and uses a part of it.
#![allow(dead_code)]

use mailtree_protocols::address;
use mailtree_protocols::auth::smtpauth::SmtpAuth;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::{
    Accepted, MAX_CHUNK, MAX_ERRORS, MAX_REPLIES, Next, Policy, Sender, Session, Transaction,
};

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Open(Transaction),
    Starttls,
    Commit(Vec<u8>),
    Discard,
    Close,
}

/// What the driver says to a question.
#[derive(Clone, Copy, Default)]
pub enum Answer {
    /// What the address or the name deserves.
    #[default]
    Fair,
    Permanent,
    Temporary,
    Goodbye,
}

impl Answer {
    fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Fair => None,
            Self::Permanent => Some(Refusal::permanent(7, 1, "no\r\n250 ok")),
            Self::Temporary => Some(Refusal::temporary(3, 0, "not now")),
            Self::Goodbye => Some(Refusal::shutdown()),
        }
    }

    fn or<T>(self, fair: Result<T, Refusal>) -> Result<T, Refusal> {
        self.refusal().map_or(fair, Err)
    }
}

/// What the driver says to each question.
#[derive(Clone, Copy, Default)]
pub struct Answers {
    pub sender: Answer,
    pub recipient: Answer,
    pub open: Answer,
    pub commit: Answer,
    pub login: Answer,
}

pub struct Host {
    session: Session,
    policy: Policy,
    pub answers: Answers,
    pub out: Vec<u8>,
    body: Vec<u8>,
    pub events: Vec<Event>,
    /// Who the driver has let in.
    user: Option<Vec<u8>>,
    secured: bool,
    /// What the driver has accepted since MAIL.
    reverse_path: Option<Vec<u8>>,
    forward_paths: Vec<Vec<u8>>,
    /// The driver has said yes to a message that has not ended.
    storing: bool,
}

/// Takes mail for `e.c` alone.
pub fn policy(databytes: u64) -> Policy {
    Policy {
        greeting: "mx.example.com".to_owned(),
        databytes,
        recipients: 5,
        brtlimit: 0,
        localiphost: Some(([192, 0, 2, 1].into(), b"e.c".to_vec())),
        starttls: false,
        secured: false,
        tls_required: false,
        auth: None,
        auth_in_clear: false,
        unique: "1.2@e.c".to_owned(),
    }
}

/// The same with STARTTLS and AUTH.
pub fn secure_policy(databytes: u64) -> Policy {
    Policy {
        starttls: true,
        auth: SmtpAuth::parse(b"+cram").ok(),
        auth_in_clear: true,
        brtlimit: 9,
        ..policy(databytes)
    }
}

impl Host {
    pub fn new(policy: Policy) -> Self {
        Self {
            session: Session::new(policy.clone()),
            answers: Answers::default(),
            out: Vec::new(),
            body: Vec::new(),
            events: Vec::new(),
            user: None,
            secured: policy.secured,
            reverse_path: None,
            forward_paths: Vec::new(),
            storing: false,
            policy,
        }
    }

    pub fn closed(&self) -> bool {
        self.events.last() == Some(&Event::Close)
    }

    pub fn feed(&mut self, mut input: &[u8]) {
        while !self.closed() {
            let (out, body) = (self.out.len(), self.body.len());
            let (read, next) = self.session.receive(input, &mut self.out, &mut self.body);
            assert!(self.body.len() - body <= MAX_CHUNK.min(read), "the body grows more than was read");
            assert!(self.out.len() - out <= MAX_REPLIES + 512, "replies without bound");
            assert!(next == Next::Discard || self.body.len() == body || next != Next::Open);
            assert!(self.storing || self.body.len() == body, "a body nobody asked for");
            self.check_session(next);
            input = &input[read..];
            match next {
                Next::Read if input.is_empty() => return,
                Next::Read => assert!(read > 0, "receive stands still"),
                Next::Starttls => return self.starttls(),
                Next::Helo => self.session.greeted(Ok(()), &mut self.out),
                Next::Quit => self.session.left(&mut self.out),
                Next::Authenticate => self.authenticate(),
                Next::Sender => self.sender(),
                Next::Recipient => self.recipient(),
                Next::Open => self.open(),
                Next::Commit => {
                    assert!(std::mem::take(&mut self.storing), "a message nobody opened");
                    self.events.push(Event::Commit(std::mem::take(&mut self.body)));
                    let answer = self.answers.commit.or(Ok(Accepted { time: 1, qp: 2 }));
                    self.session.queued(answer, &mut self.out);
                    assert!(self.session.transaction().is_none());
                }
                Next::Discard => {
                    assert!(std::mem::take(&mut self.storing), "a message nobody opened");
                    self.body.clear();
                    self.events.push(Event::Discard);
                }
                Next::Close => self.close(),
            }
        }
    }

    /// Feeds `input` in pieces whose lengths `cuts` gives, over and over.
    pub fn feed_in_pieces(&mut self, mut input: &[u8], cuts: &[u8]) {
        let mut cuts = cuts.iter().map(|&cut| usize::from(cut) + 1).cycle();
        while let Some(cut) = cuts.next().filter(|_| !input.is_empty()) {
            let (piece, rest) = input.split_at(cut.min(input.len()));
            self.feed(piece);
            input = rest;
        }
    }

    /// The client is silent too long, or the host stops: one reply, and it is over.
    pub fn end(&mut self, stopping: bool) {
        let out = self.out.len();
        if stopping {
            self.session.shutdown(&mut self.out);
        } else {
            self.session.timeout(&mut self.out);
        }
        assert_eq!(self.out[out..].iter().filter(|&&b| b == b'\n').count(), 1);
        self.feed(b"");
        assert!(self.closed());
    }

    /// Answers to questions that were not asked are not heard.
    pub fn answer_unasked(&mut self) {
        let out = self.out.len();
        self.session.opened(Ok(()), &mut self.out);
        self.session.queued(Ok(Accepted { time: 1, qp: 2 }), &mut self.out);
        self.session.secured();
        self.session.authenticated(Ok(()), &mut self.out);
        self.session.sender(Sender::Accepted, &mut self.out);
        self.session.recipient(Ok(b"x@y.z".to_vec()), &mut self.out);
        assert_eq!(self.out.len(), out);
        self.check_user();
    }

    fn starttls(&mut self) {
        assert!(self.policy.starttls && !self.secured, "STARTTLS that was not offered");
        self.events.push(Event::Starttls);
        self.session.secured();
        (self.secured, self.user) = (true, None);
        assert!(self.session.user().is_none() && self.session.helo().is_none());
        assert!(self.session.transaction().is_none());
        self.check_user();
    }

    fn authenticate(&mut self) {
        let user = self.session.credentials().expect("credentials are there").user.clone();
        assert!(self.secured || self.policy.auth_in_clear, "a password in clear");
        assert!(self.user.is_none() && self.session.transaction().is_none(), "AUTH out of sequence");
        assert!((1..=255).contains(&user.len()) && !user.iter().any(u8::is_ascii_control));
        let fair = if user == b"u" { Ok(()) } else { Err(Refusal::auth_failed()) };
        let answer = self.answers.login.or(fair);
        self.user = answer.is_ok().then_some(user);
        self.session.authenticated(answer, &mut self.out);
    }

    fn sender(&mut self) {
        let path = self.session.transaction().expect("a transaction is open").reverse_path.clone();
        let fair = match path.as_slice() {
            b"bad@e.c" => Sender::RefusedAtRcpt(Refusal::badmailfrom()),
            b"no@e.c" => Sender::Refused(Refusal::sender_denied()),
            _ => Sender::Accepted,
        };
        let answer = self.answers.sender.refusal().map_or(fair, Sender::Refused);
        let refused = matches!(answer, Sender::Refused(_));
        self.reverse_path = (answer == Sender::Accepted).then_some(path);
        self.forward_paths.clear();
        self.session.sender(answer, &mut self.out);
        assert_eq!(self.session.transaction().is_none(), refused);
    }

    fn recipient(&mut self) {
        assert!(self.reverse_path.is_some(), "a recipient for a sender that is refused");
        let path = self.session.forward_path().expect("a recipient is there").to_vec();
        let domain = address::split(&path).1.map(<[u8]>::to_ascii_lowercase);
        let ours = domain.is_none_or(|domain| domain == b"e.c");
        let answer = self.answers.recipient.or(if ours { Ok(path) } else { Err(Refusal::rcpthosts()) });
        self.forward_paths.extend(answer.iter().cloned());
        self.session.recipient(answer, &mut self.out);
    }

    fn open(&mut self) {
        let transaction = self.session.transaction().expect("Open without transaction");
        check(transaction);
        assert_eq!(Some(&transaction.reverse_path), self.reverse_path.as_ref());
        assert_eq!(transaction.forward_paths, self.forward_paths);
        self.events.push(Event::Open(transaction.clone()));
        let answer = self.answers.open.or(Ok(()));
        self.storing = answer.is_ok();
        self.session.opened(answer, &mut self.out);
        assert_eq!(self.session.in_data(), self.storing);
    }

    fn close(&mut self) {
        self.events.push(Event::Close);
        self.storing = false;
        self.body.clear();
        self.answer_unasked();
        let out = self.out.len();
        self.session.timeout(&mut self.out);
        self.session.shutdown(&mut self.out);
        let (read, next) = self.session.receive(b"NOOP\r\n", &mut self.out, &mut self.body);
        assert_eq!((read, next), (0, Next::Close));
        assert!(self.out.len() == out && self.body.is_empty(), "a closed session speaks");
    }

    fn check_session(&self, next: Next) {
        self.check_user();
        assert_eq!(self.session.credentials().is_some(), next == Next::Authenticate);
        assert_eq!(self.session.forward_path().is_some(), next == Next::Recipient);
        assert_eq!(self.session.in_data(), next == Next::Read && self.storing);
        if self.session.transaction().is_some() {
            assert!(self.secured || !self.policy.tls_required, "mail without TLS");
            let required = self.policy.auth.is_some_and(|auth| auth.required);
            assert!(self.user.is_some() || !required, "mail without AUTH");
        }
    }

    fn check_user(&self) {
        assert_eq!(self.session.user(), self.user.as_deref());
        let protocol = self.session.protocol().split_once("SMTP").expect("a word with SMTP").1;
        assert_eq!((protocol.contains('S'), protocol.contains('A')), (self.secured, self.user.is_some()));
    }
}

/// No host we do not serve, nothing that could break a queue file, a log line or a command.
fn check(transaction: &Transaction) {
    assert!(!transaction.forward_paths.is_empty() && transaction.forward_paths.len() <= 5);
    for path in &transaction.forward_paths {
        assert!(!path.is_empty());
        let domain = path.iter().rposition(|&b| b == b'@').map(|at| path[at + 1..].to_ascii_lowercase());
        assert!(domain.is_none_or(|domain| domain == b"e.c"), "relayed");
    }
    for path in transaction.forward_paths.iter().chain([&transaction.reverse_path]) {
        assert!(path.len() <= 900 && !path.iter().any(u8::is_ascii_control));
        assert!(path.is_ascii() || transaction.smtputf8 && std::str::from_utf8(path).is_ok());
        assert!(mailtree_protocols::address::quoted(path).is_some(), "a stored address no client can send");
    }
}

/// Whole lines of printable ASCII within 512 bytes, each a reply or part of one; no more errors than are answered.
pub fn check_replies(out: &[u8]) {
    assert!(out.is_empty() || out.ends_with(b"\r\n"));
    let mut errors = 0;
    for line in out.split_inclusive(|&b| b == b'\n') {
        assert!(line.len() <= 512);
        let text = line.strip_suffix(b"\r\n").expect("a line without CRLF");
        assert!(text.iter().all(|b| matches!(b, 32..=126)));
        assert!(matches!(text, [b'2'..=b'5', b'0'..=b'5', b'0'..=b'9', b' ' | b'-', ..]));
        errors += u32::from(matches!(text, [b'5', b'0', b'0'..=b'4', ..] | [b'5', b'5', b'5', ..]));
    }
    assert!(errors <= MAX_ERRORS);
}
