//! What stands before the dialogue, and beside it: rblsmtpd's conversation and its lists, the PROXY header, the exchange of
//! AUTH, the answers of a qmail-queue program. Any bytes, no harm, bounded words.
//!
//! The first byte of the input says which.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use mailtree_protocols::auth::exchange::{Exchange, LINE_MAX, NAME_MAX, Step};
use mailtree_protocols::auth::smtpauth::SmtpAuth;
use mailtree_protocols::auth::vchkpw::{Login, Outcome, Service};
use mailtree_protocols::auth::{Credentials, Proof, checkpassword};
use mailtree_protocols::proxy;
use mailtree_protocols::qmail_queue;
use mailtree_protocols::rblsmtpd::arguments::Arguments;
use mailtree_protocols::rblsmtpd::conversation::{MAX_REPLIES, MAX_TEXT, Next, Rejection, Session};
use mailtree_protocols::rblsmtpd::decision::{self, Decision};
use mailtree_protocols::rblsmtpd::source::{Answer, Kind, Lookup};
use mailtree_protocols::reply::Refusal;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind & 7 {
        0 => rejected(data),
        1 => lists(data),
        2 | 3 => proxied(data),
        4 | 5 => authenticates(data),
        _ => queued(data),
    }
});

/// The text, a cut, and what the client says: the same replies however it is cut.
fn rejected(data: &[u8]) {
    let mut lines = data.splitn(2, |&b| b == b'\n');
    let (text, said) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let cut = usize::from(text.first().copied().unwrap_or_default()) % 9 + 1;
    let Decision::Reject { permanent, text, .. } = decision::from_env(Some(text)) else { return };
    let rejection = Rejection::new(permanent, &text);
    assert!(rejection.reply().len() <= MAX_TEXT + 4);
    let whole = hear(&rejection, said, usize::MAX);
    assert_eq!(whole, hear(&rejection, said, cut));
    assert_eq!(whole, replies(&rejection, said));
    assert!(whole.split(|&b| b == b'\n').all(|line| line.is_empty() || printable(&line[..line.len() - 1])));
    let log = rejection.log(IpAddr::from([192, 0, 2, 1]), 1);
    assert!(printable(log.as_bytes()));
}

/// What a plain reading of the lines gives.
fn replies(rejection: &Rejection, said: &[u8]) -> Vec<u8> {
    let mut replies = vec!["220 rblsmtpd.local"];
    for line in said.split_inclusive(|&b| b == b'\n').filter_map(|line| line.strip_suffix(b"\n")) {
        let verb = line.split(|&b| b == b' ').next().unwrap_or_default();
        let verb = verb.strip_suffix(b"\r").unwrap_or(verb).to_ascii_uppercase();
        match verb.as_slice() {
            b"HELO" | b"EHLO" | b"MAIL" | b"RSET" | b"NOOP" => replies.push("250 rblsmtpd.local"),
            b"QUIT" => {
                replies.push("221 rblsmtpd.local");
                break;
            }
            _ => replies.push(rejection.reply()),
        }
    }
    replies.iter().flat_map(|reply| [reply.as_bytes(), b"\r\n"].concat()).collect()
}

fn hear(rejection: &Rejection, said: &[u8], cut: usize) -> Vec<u8> {
    let mut session = Session::new(rejection.clone());
    let mut out = Vec::new();
    session.greeting(&mut out);
    let mut rest = said;
    while !rest.is_empty() {
        let before = out.len();
        let (read, next) = session.receive(&rest[..rest.len().min(cut)], &mut out);
        assert!(out.len() - before <= MAX_REPLIES + MAX_TEXT + 6, "replies without bound");
        if next == Next::Close {
            let closed = out.len();
            assert_eq!(session.receive(b"QUIT\r\n", &mut out), (0, Next::Close));
            assert_eq!(out.len(), closed);
            break;
        }
        assert!(read > 0, "receive stands still");
        rest = &rest[read..];
    }
    out
}

/// Words of the command line in a line, then what the lists answer.
fn lists(data: &[u8]) {
    let mut lines = data.splitn(3, |&b| b == b'\n');
    let [words, ip, answers] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let words = String::from_utf8_lossy(words);
    let Ok(arguments) = Arguments::parse(&words.split('\t').collect::<Vec<_>>()) else { return };
    let ip = std::str::from_utf8(ip)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(IpAddr::from([10, 0, 0, 1]));
    let sources = &arguments.options.sources;
    let mut known: Vec<Option<Answer>> = vec![None; sources.len()];
    let (answers, _) = answers.as_chunks::<8>();
    let mut decided = None;
    for (n, source) in sources.iter().enumerate() {
        let name = source.query(ip);
        assert!(name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len())));
        let Some(&[kind, a, b, c, d, rest @ ..]) = answers.get(n) else { break };
        let codes = match kind & 3 {
            0 => Lookup::NoName,
            1 => Lookup::Failed,
            2 => Lookup::Records(Vec::new()),
            _ => Lookup::Records(vec![Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(127, 0, 0, 2)]),
        };
        let texts = if kind & 4 == 0 { Lookup::Records(vec![rest.to_vec()]) } else { Lookup::NoName };
        let answer = source.answer(ip, &codes, &texts);
        assert!(source.kind() == Kind::Rbl || !matches!(&answer, Answer::Listed(text) if !text.is_empty()));
        known[n] = Some(answer);
        let now = decision::decide(&arguments.options, &known);
        // What is decided does not change when more answers come.
        assert!(decided.is_none() || now == decided);
        decided = now;
        if let Some(Decision::Reject { permanent, text, .. }) = &decided {
            assert!(arguments.options.bounce || !permanent);
            assert!(Rejection::new(*permanent, text).reply().len() <= MAX_TEXT + 4);
        }
    }
}

/// The first bytes of a connection, as they come: the first answer is final.
fn proxied(data: &[u8]) {
    let data = &data[..data.len().min(proxy::MAX_HEADER)];
    let whole = proxy::parse(data);
    match whole {
        Ok(None) => assert!(data.len() < proxy::MAX_HEADER, "a header without end"),
        Ok(Some((_, length))) => {
            assert!((1..=data.len()).contains(&length));
            assert_eq!(proxy::parse(&data[..length]), whole);
        }
        Err(_) => {}
    }
    let early = (0..data.len()).map(|end| proxy::parse(&data[..end])).find(|answer| *answer != Ok(None));
    assert!(early.is_none_or(|early| early == whole || early.is_err() && whole.is_err()));
}

/// SMTPAUTH, the words of AUTH, and the client's lines; `!` in front of a line puts it into base64.
fn authenticates(data: &[u8]) {
    let mut lines = data.split(|&b| b == b'\n');
    let Ok(offered) = SmtpAuth::parse(lines.next().unwrap_or_default()) else { return };
    let mut lines = lines.map(|line| match line.strip_prefix(b"!") {
        Some(bytes) => STANDARD.encode(bytes).into_bytes(),
        None => line.to_vec(),
    });
    let mechanism = lines.next().unwrap_or_default();
    let initial = lines.next().filter(|initial| !initial.is_empty());
    let challenge = b"<1.2.3@mx.example.com>";
    let mut step = Exchange::start(&mechanism, initial.as_deref(), &offered, challenge);
    for _ in 0..2 {
        let Step::Challenge(text, exchange) = step else { break };
        let text = STANDARD.decode(text).expect("base64");
        assert!([&b""[..], b"Username:", b"Password:", challenge].contains(&&*text));
        step = exchange.line(&lines.next().unwrap_or_default());
    }
    match step {
        Step::Challenge(..) => panic!("an exchange without end"),
        Step::Refused(refusal) => assert!([501, 504, 535].contains(&refusal.code()), "{refusal:?}"),
        Step::Done(credentials) => {
            assert!(offered.password || matches!(credentials.proof, Proof::Cram { .. }));
            check_credentials(&credentials);
        }
    }
}

fn check_credentials(credentials: &Credentials) {
    let user = &credentials.user;
    assert!((1..=NAME_MAX).contains(&user.len()) && !user.iter().any(u8::is_ascii_control));
    if let Proof::Password(password) = &credentials.proof {
        assert!((1..=LINE_MAX).contains(&password.len()) && !password.contains(&0));
    }
    if let Ok(input) = checkpassword::input(credentials, b"") {
        assert!(input.len() <= checkpassword::INPUT_MAX && input.ends_with(b"\0"));
        assert_eq!(input.iter().filter(|&&b| b == 0).count(), 3);
    }
    let outcome = match Login::parse(user, Some(b"a.example")) {
        Ok(login) => {
            let domain = login.domain.split(|&b| b == b'.');
            assert!(domain.clone().all(|label| !label.is_empty()), "a directory of another domain");
            assert!(!login.user.contains(&b'/') && !login.user.starts_with(b"."));
            Outcome::WrongPassword
        }
        Err(outcome) => outcome,
    };
    assert_ne!(outcome, Outcome::Success);
    let line = outcome.log(&Service::of_port(25), user, &credentials.proof, IpAddr::from([192, 0, 2, 1]));
    assert!(printable(line.as_bytes()) && line.matches(':').count() <= 2 && line.len() <= 300, "{line}");
}

/// An exit code, and what the program wrote to its two descriptors.
fn queued(data: &[u8]) {
    let Some((&code, data)) = data.split_first() else { return };
    let mut texts = data.splitn(2, |&b| b == 0xff);
    let texts = std::array::from_fn(|_| texts.next().unwrap_or_default());
    // Half of the time the code that has a text.
    let code = if code & 1 == 0 { Some(82) } else { (code != 255).then_some(code >> 1) };
    if let Err(refusal) = qmail_queue::outcome(code, texts) {
        assert!(code != Some(0) && matches!(refusal.code(), 451 | 554));
        check_refusal(&refusal);
    }
}

fn check_refusal(refusal: &Refusal) {
    let mut out = Vec::new();
    refusal.write(true, &mut out);
    let text = out.strip_suffix(b"\r\n").expect("a line without CRLF");
    assert!(text.len() <= 510 && printable(text));
    let (class, subject, detail) = refusal.enhanced();
    assert!(text.starts_with(format!("{} {class}.{subject}.{detail} ", refusal.code()).as_bytes()));
}

fn printable(text: &[u8]) -> bool {
    text.iter().all(|b| matches!(b, 32..=126))
}
