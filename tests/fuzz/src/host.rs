//! A driver of the SMTP server that keeps everything in memory and checks what must hold after every call.

use mailtree_protocols::address;
use mailtree_protocols::auth::smtpauth::SmtpAuth;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::{
    Accepted, MAX_CHUNK, MAX_REPLIES, Next, Policy, Sender, Session, Transaction,
};

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Open(Transaction),
    Starttls,
    Commit(Vec<u8>),
    Discard,
    Close,
}

pub struct Host {
    session: Session,
    opens: bool,
    pub out: Vec<u8>,
    body: Vec<u8>,
    pub events: Vec<Event>,
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
    pub fn new(policy: Policy, opens: bool) -> Self {
        let session = Session::new(policy);
        Self { session, opens, out: Vec::new(), body: Vec::new(), events: Vec::new() }
    }

    pub fn feed(&mut self, mut input: &[u8]) {
        while self.events.last() != Some(&Event::Close) {
            let (out, body) = (self.out.len(), self.body.len());
            let (read, next) = self.session.receive(input, &mut self.out, &mut self.body);
            assert!(self.body.len() - body <= MAX_CHUNK.min(read), "the body grows more than was read");
            assert!(self.out.len() - out <= MAX_REPLIES + 512, "replies without bound");
            assert!(next == Next::Discard || self.body.len() == body || next != Next::Open);
            input = &input[read..];
            match next {
                Next::Read if input.is_empty() => return,
                Next::Read => assert!(read > 0, "receive stands still"),
                Next::Starttls => {
                    self.events.push(Event::Starttls);
                    self.session.secured();
                    assert!(self.session.user().is_none() && self.session.helo().is_none());
                    assert!(self.session.transaction().is_none());
                    return;
                }
                Next::Authenticate => {
                    let user = &self.session.credentials().expect("credentials are there").user;
                    let answer = if user == b"u" { Ok(()) } else { Err(Refusal::auth_failed()) };
                    self.session.authenticated(answer, &mut self.out);
                }
                Next::Sender => {
                    let path = &self.session.transaction().expect("a transaction is open").reverse_path;
                    let answer = match path.as_slice() {
                        b"bad@e.c" => Sender::RefusedAtRcpt(Refusal::badmailfrom()),
                        b"no@e.c" => Sender::Refused(Refusal::sender_denied()),
                        _ => Sender::Accepted,
                    };
                    self.session.sender(answer, &mut self.out);
                }
                Next::Recipient => {
                    let path = self.session.forward_path().expect("a recipient is there").to_vec();
                    let domain = address::split(&path).1.map(<[u8]>::to_ascii_lowercase);
                    let ours = domain.is_none_or(|domain| domain == b"e.c");
                    let answer = if ours { Ok(path) } else { Err(Refusal::rcpthosts()) };
                    self.session.recipient(answer, &mut self.out);
                }
                Next::Open => {
                    let transaction = self.session.transaction().expect("Open without transaction");
                    check(transaction);
                    self.events.push(Event::Open(transaction.clone()));
                    let answer = if self.opens { Ok(()) } else { Err(Refusal::no_room()) };
                    self.session.opened(answer, &mut self.out);
                }
                Next::Commit => {
                    self.events.push(Event::Commit(std::mem::take(&mut self.body)));
                    self.session.queued(Ok(Accepted { time: 1, qp: 2 }), &mut self.out);
                }
                Next::Discard => {
                    self.body.clear();
                    self.events.push(Event::Discard);
                }
                Next::Close => self.events.push(Event::Close),
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

/// Whole lines of printable ASCII within 512 bytes, each a reply or part of one.
pub fn check_replies(out: &[u8]) {
    assert!(out.is_empty() || out.ends_with(b"\r\n"));
    for line in out.split_inclusive(|&b| b == b'\n') {
        assert!(line.len() <= 512);
        let text = line.strip_suffix(b"\r\n").expect("a line without CRLF");
        assert!(text.iter().all(|b| matches!(b, 32..=126)));
        assert!(matches!(text, [b'2'..=b'5', b'0'..=b'5', b'0'..=b'9', b' ' | b'-', ..]));
    }
}
