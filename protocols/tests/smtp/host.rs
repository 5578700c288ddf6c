//! A driver of the server side that keeps everything in memory.

use mailtree_protocols::address;
use mailtree_protocols::auth::Proof;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::{Accepted, Next, Policy, Sender, Session};

/// What the driver was told to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Open { from: String, to: Vec<String>, with: &'static str },
    Starttls,
    Commit(Vec<u8>),
    Discard,
    Close,
}

/// Answers to Open and Commit.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) opened: Result<(), Refusal>,
    pub(crate) queued: Result<Accepted, Refusal>,
}

pub(crate) const ACCEPT: Answers =
    Answers { opened: Ok(()), queued: Ok(Accepted { time: 1_763_000_000, qp: 4711 }) };

pub(crate) struct Host {
    pub(crate) session: Session,
    /// RELAYCLIENT.
    relayclient: Option<&'static str>,
    pub(crate) rcpthosts_unreadable: bool,
    answers: Answers,
    pub(crate) out: Vec<u8>,
    body: Vec<u8>,
    pub(crate) events: Vec<Event>,
    /// The most one call added to the body and to the replies.
    pub(crate) most: (usize, usize),
}

/// Takes mail for example.com, not from spammer@ and the domain spam.example.
pub(crate) fn policy() -> Policy {
    Policy {
        greeting: "mx.example.com".to_owned(),
        databytes: 0,
        recipients: 3,
        brtlimit: 0,
        localiphost: Some(("192.0.2.25".parse().unwrap(), b"example.com".to_vec())),
        starttls: false,
        secured: false,
        tls_required: false,
        auth: None,
        auth_in_clear: false,
        unique: "4711.1763000000@mx.example.com".to_owned(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Host {
    pub(crate) fn new(policy: Policy, answers: Answers) -> Self {
        let session = Session::new(policy);
        let mut out = Vec::new();
        session.greeting(&mut out);
        Self {
            session,
            relayclient: None,
            rcpthosts_unreadable: false,
            answers,
            out,
            body: Vec::new(),
            events: Vec::new(),
            most: (0, 0),
        }
    }

    /// What the host thinks of the recipient being looked at.
    fn recipient(&self) -> Result<Vec<u8>, Refusal> {
        let recipient = self.session.forward_path().expect("a recipient is there").to_vec();
        let relays = self.session.user().is_some();
        if self.rcpthosts_unreadable {
            return Err(Refusal::controls());
        }
        match (self.relayclient, address::split(&recipient).1) {
            (Some(suffix), _) => Ok([&recipient, suffix.as_bytes()].concat()),
            (None, Some(domain)) if !relays && !domain.eq_ignore_ascii_case(b"example.com") => {
                Err(Refusal::rcpthosts())
            }
            (None, _) => Ok(recipient),
        }
    }

    fn closed(&self) -> bool {
        self.events.last() == Some(&Event::Close)
    }

    /// Feeds what one read brought.
    pub(crate) fn feed(&mut self, mut input: &[u8]) {
        while !self.closed() {
            let (out, body) = (self.out.len(), self.body.len());
            let (read, next) = self.session.receive(input, &mut self.out, &mut self.body);
            self.most = (self.most.0.max(self.body.len() - body), self.most.1.max(self.out.len() - out));
            input = &input[read..];
            match next {
                Next::Read if input.is_empty() => return,
                Next::Read => assert!(read > 0, "receive stands still"),
                Next::Starttls => {
                    self.events.push(Event::Starttls);
                    self.session.secured();
                    return;
                }
                Next::Helo => {
                    assert!(self.session.name().is_some(), "a name is there");
                    self.session.greeted(Ok(()), &mut self.out);
                }
                Next::Quit => self.session.left(&mut self.out),
                Next::Authenticate => {
                    let credentials = self.session.credentials().expect("credentials are there");
                    let right = match &credentials.proof {
                        Proof::Password(password) => password.as_slice() == b"secret",
                        Proof::Cram { .. } => false,
                    };
                    let answer = if right { Ok(()) } else { Err(Refusal::auth_failed()) };
                    self.session.authenticated(answer, &mut self.out);
                }
                Next::Sender => {
                    let transaction = self.session.transaction().expect("a transaction is open");
                    let path = &transaction.reverse_path;
                    let answer = if path.starts_with(b"spammer@") || path.ends_with(b"@spam.example") {
                        Sender::RefusedAtRcpt(Refusal::badmailfrom())
                    } else if path.ends_with(b"@nowhere.example") {
                        Sender::Refused(Refusal::sender_denied())
                    } else {
                        Sender::Accepted
                    };
                    self.session.sender(answer, &mut self.out);
                }
                Next::Recipient => {
                    let answer = self.recipient();
                    self.session.recipient(answer, &mut self.out);
                }
                Next::Open => {
                    let transaction = self.session.transaction().expect("a transaction is open");
                    let event = Event::Open {
                        from: text(&transaction.reverse_path),
                        to: transaction.forward_paths.iter().map(|path| text(path)).collect(),
                        with: self.session.protocol(),
                    };
                    self.events.push(event);
                    self.session.opened(self.answers.opened.clone(), &mut self.out);
                }
                Next::Commit => {
                    assert!(self.session.transaction().is_some());
                    self.events.push(Event::Commit(std::mem::take(&mut self.body)));
                    self.session.queued(self.answers.queued.clone(), &mut self.out);
                }
                Next::Discard => {
                    self.body.clear();
                    self.events.push(Event::Discard);
                }
                Next::Close => self.events.push(Event::Close),
            }
        }
    }

    pub(crate) fn messages(&self) -> Vec<&[u8]> {
        let messages = self.events.iter().filter_map(|event| match event {
            Event::Commit(body) => Some(body.as_slice()),
            Event::Open { .. } | Event::Starttls | Event::Discard | Event::Close => None,
        });
        messages.collect()
    }

    /// The last reply, without CRLF.
    pub(crate) fn last_reply(&self) -> String {
        text(&self.out).trim_end().rsplit("\r\n").next().unwrap_or_default().to_owned()
    }
}

/// Plays a transcript: `C: ` lines are sent (lines that follow each other in one piece), `S: ` lines must come back, no
/// more and no fewer.
pub(crate) fn play(policy: Policy, answers: Answers, transcript: &str) -> Vec<Event> {
    play_with(Host::new(policy, answers), transcript)
}

/// The same with a client that has RELAYCLIENT.
pub(crate) fn play_relayclient(suffix: &'static str, transcript: &str) -> Vec<Event> {
    play_with(Host { relayclient: Some(suffix), ..Host::new(policy(), ACCEPT) }, transcript)
}

fn play_with(mut host: Host, transcript: &str) -> Vec<Event> {
    let (mut said, mut heard, mut expected) = (Vec::new(), 0, String::new());
    let lines = transcript.lines().map(str::trim_start).filter(|line| !line.is_empty());
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        if let Some(line) = line.strip_prefix("C: ").or_else(|| line.strip_prefix("C:")) {
            said.extend_from_slice(line.as_bytes());
            said.extend_from_slice(b"\r\n");
        } else {
            // An empty challenge is `334 ` with its space.
            let line = if line == "S: 334" { "S: 334 " } else { line };
            let line = line.strip_prefix("S: ").expect("a line begins with C: or S: ");
            expected.push_str(line);
            expected.push_str("\r\n");
        }
        let turn = match lines.peek() {
            Some(next) => line.starts_with("S: ") && next.starts_with("C:"),
            None => true,
        };
        if turn || said.ends_with(b"\r\n") && lines.peek().is_some_and(|next| next.starts_with("S: ")) {
            host.feed(&std::mem::take(&mut said));
        }
        if turn {
            assert_eq!(text(&host.out[heard..]), expected, "in the transcript{transcript}");
            heard = host.out.len();
            expected.clear();
        }
    }
    host.events
}
