//! SMTP smuggling: whatever a client takes for the end of a message, the host and everybody else agree on one end.

use std::io::{Read, Write};
use std::net::TcpStream;

use mailtree_protocols::smtp::server::{Accepted, MAX_CHUNK, Next, Policy, Sender, Session};
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::wait::wait_until;

/// What comes of data in which something looks like an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Refused, and the connection is closed.
    Refused,
    /// It is text: all of it is one message.
    Text,
}
use Verdict::{Refused, Text};

/// Everything that some server was seen to take for the end of a message, and its neighbours.
const ENDINGS: &[(&[u8], Verdict)] = &[
    // CR or LF alone.
    (b"\n.\n", Refused),
    (b"\n.\r\n", Refused),
    (b"\n.\r", Refused),
    (b"\r\n.\n", Refused),
    (b"\r\n.\r", Refused),
    (b"\r.\r", Refused),
    (b"\r.\r\n", Refused),
    (b"\r.\n", Refused),
    (b"\n\n.\n\n", Refused),
    (b"\r\n\n.\r\n", Refused),
    (b"\r\n\r.\r\n", Refused),
    (b"\n\r.\n\r", Refused),
    (b"\r\r\n.\r\r\n", Refused),
    (b"\r\r\n.\r\n", Refused),
    (b"\r\n.\r\r\n", Refused),
    (b"\r\n.\n\r\n", Refused),
    (b"\r\n.\n\n", Refused),
    (b"\n..\r\n", Refused),
    (b"\n..\n", Refused),
    (b"\r\n..\n", Refused),
    (b"\r\n..\r", Refused),
    // NUL.
    (b"\r\n\0.\r\n", Text),
    (b"\r\n.\0\r\n", Text),
    (b"\0.\0", Text),
    (b"\r\0\n.\r\n", Refused),
    (b"\r\n.\r\0\n", Refused),
    (b"\n\0.\n", Refused),
    (b"\n.\0\n", Refused),
    (b"\r\n\0.\n", Refused),
    (b"\r\0.\r\0", Refused),
    // White space and other invisible things around the dot.
    (b"\r\n. \r\n", Text),
    (b"\r\n.\t\r\n", Text),
    (b"\r\n .\r\n", Text),
    (b"\r\n\t.\r\n", Text),
    (b"\r\n.\x08\r\n", Text),
    (b"\r\n.\x7f\r\n", Text),
    (b"\r\n.\x1a\r\n", Text),
    (b"\r\n\xef\xbb\xbf.\r\n", Text),
    (b"\r\n.\xef\xbb\xbf\r\n", Text),
    (b"\r\n. \n", Refused),
    (b"\r\n.\x0b\n", Refused),
    // What is a line end elsewhere.
    (b"\x0b.\x0b", Text),
    (b"\x0c.\x0c", Text),
    (b"\x1e.\x1e", Text),
    (b"\x85.\x85", Text),
    (b"\xc2\x85.\xc2\x85", Text),
    (b"\xe2\x80\xa8.\xe2\x80\xa8", Text),
    (b"\xe2\x80\xa9.\xe2\x80\xa9", Text),
    (b"\x8d\x8a.\x8d\x8a", Text),
    (b"\r\n\xae\r\n", Text),
    (b"\r\n.\x8d\x8a", Text),
    // Written out.
    (b"=0D=0A.=0D=0A", Text),
    (b"\r\n=2E\r\n", Text),
    (b"\\r\\n.\\r\\n", Text),
    (b"%0d%0a.%0d%0a", Text),
    // Dots doubled.
    (b"\r\n..\r\n", Text),
    (b"\r\n...\r\n", Text),
    (b"\r\n.. \r\n", Text),
    (b"\r\n\r\n..\r\n", Text),
    (b"\r\n.x\r\n", Text),
    // Words that end data in other protocols.
    (b"\r\nQUIT\r\n", Text),
    (b"\r\nRSET\r\n", Text),
    (b"\r\nBDAT 0 LAST\r\n", Text),
    (b"\x03\x04\x1a", Text),
];

/// What stands in front of such an end: a whole message, half a header, nothing.
const BEFORE: [&[u8]; 3] = [b"Subject: outer\r\n\r\nouter", b"Subject: outer", b""];

/// The message that is to be smuggled in, with its envelope.
const SMUGGLED: &[u8] = b"MAIL FROM:<evil@far.test>\r\nRCPT TO:<sender@mx.test>\r\nDATA\r\n\
    Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n";

fn data(before: &[u8], ending: &[u8]) -> Vec<u8> {
    [before, ending, SMUGGLED].concat()
}

/// Data that ends at its end, as the queue must have it.
fn as_text(data: &[u8]) -> Vec<u8> {
    let lines = String::from_utf8_lossy(data).into_owned();
    assert!(lines.ends_with("\r\n.\r\n"));
    let mut text = Vec::new();
    let mut rest = &data[..data.len() - 3];
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let line = &rest[..end];
        text.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        text.push(b'\n');
        rest = &rest[end + 2..];
    }
    text
}

const ENVELOPE: &[u8] = b"HELO client.test\r\nMAIL FROM:<a@far.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\n";

const SMTPLF: &str = "451 See https://cr.yp.to/docs/smtplf.html.\r\n";

/// What a session alone makes of bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Recipient and data of each message.
    messages: Vec<(Vec<u8>, Vec<u8>)>,
    replies: String,
    closed: bool,
}

/// A session whose host takes everything, fed with these reads.
fn session<'a>(reads: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut session = Session::new(Policy {
        greeting: "mx.test".to_owned(),
        databytes: 0,
        recipients: 100,
        brtlimit: 0,
        localiphost: None,
        starttls: true,
        secured: false,
        tls_required: false,
        auth: None,
        auth_in_clear: false,
        unique: "1.2@mx.test".to_owned(),
    });
    let mut outcome = Outcome::default();
    let (mut out, mut body) = (Vec::new(), Vec::new());
    'reads: for mut rest in reads {
        loop {
            let (read, next) = session.receive(rest, &mut out, &mut body);
            rest = &rest[read..];
            match next {
                Next::Read if rest.is_empty() => continue 'reads,
                Next::Read => {}
                Next::Helo => session.greeted(Ok(()), &mut out),
                Next::Quit => session.left(&mut out),
                Next::Sender => session.sender(Sender::Accepted, &mut out),
                Next::Recipient => {
                    let forward_path = session.forward_path().unwrap().to_vec();
                    session.recipient(Ok(forward_path), &mut out);
                }
                Next::Open => session.opened(Ok(()), &mut out),
                Next::Commit => {
                    let to = session.transaction().unwrap().forward_paths.join(&b","[..]);
                    outcome.messages.push((to, std::mem::take(&mut body)));
                    session.queued(Ok(Accepted { time: 1, qp: 2 }), &mut out);
                }
                Next::Discard => body.clear(),
                Next::Starttls | Next::Authenticate | Next::Close => {
                    outcome.closed = true;
                    break 'reads;
                }
            }
        }
    }
    outcome.replies = String::from_utf8(out).unwrap();
    outcome
}

/// What must come of the envelope and this data.
fn expected(data: &[u8], verdict: Verdict) -> Outcome {
    let begin = "250 mx.test\r\n250 ok\r\n250 ok\r\n354 go ahead\r\n";
    match verdict {
        Refused => Outcome { messages: vec![], replies: format!("{begin}{SMTPLF}"), closed: true },
        Text => Outcome {
            messages: vec![(b"bob@mx.test".to_vec(), as_text(data))],
            replies: format!("{begin}250 ok 1 qp 2\r\n"),
            closed: false,
        },
    }
}

#[test]
fn no_ending_but_one_ends_a_message_however_the_bytes_are_cut() {
    for (ending, verdict) in ENDINGS {
        for before in BEFORE {
            let data = data(before, ending);
            let expected = expected(&data, *verdict);
            let all = [ENVELOPE, &data].concat();
            let shown = ending.escape_ascii();
            assert_eq!(session([&all[..]]), expected, "{shown} in one read");
            assert_eq!(session(all.chunks(1)), expected, "{shown} in single bytes");
            for at in 1..all.len() {
                let (head, tail) = all.split_at(at);
                assert_eq!(session([head, tail]), expected, "{shown} cut at {at}");
            }
            for size in 2..9 {
                assert_eq!(session(all.chunks(size)), expected, "{shown} in reads of {size}");
            }
        }
    }
}

#[test]
fn the_one_ending_ends_a_message_however_the_bytes_are_cut() {
    let all = [ENVELOPE, &data(BEFORE[0], b"\r\n.\r\n")].concat();
    let two = session([&all[..]]);
    let messages = [
        (b"bob@mx.test".to_vec(), b"Subject: outer\n\nouter\n".to_vec()),
        (b"sender@mx.test".to_vec(), b"Subject: smuggled\n\nsmuggled\n".to_vec()),
    ];
    assert_eq!(two.messages, messages);
    for at in 1..all.len() {
        let (head, tail) = all.split_at(at);
        assert_eq!(session([head, tail]), two, "cut at {at}");
    }
}

#[test]
fn endings_at_the_borders_of_chunks() {
    for border in [16 * 1024, MAX_CHUNK, 2 * MAX_CHUNK] {
        for (ending, verdict) in ENDINGS {
            // The ending begins up to six bytes before the border.
            for early in 0..=6 {
                let length = border - early;
                let mut before = b"x\r\n".repeat(length / 3);
                before.resize(length, b'y');
                let data = data(&before, ending);
                let expected = expected(&data, *verdict);
                let shown = ending.escape_ascii();
                let reads = || ENVELOPE.chunks(ENVELOPE.len()).chain(data.chunks(16 * 1024));
                assert_eq!(session(reads()), expected, "{shown} {early} before {border}");
                assert_eq!(session([ENVELOPE, &data]), expected, "{shown} {early} before {border}, one read");
            }
        }
    }
}

#[test]
fn data_that_begins_with_something_like_its_end() {
    for (begin, verdict) in [
        (&b".\n"[..], Refused),
        (b".\r", Refused),
        (b".\r\r\n", Refused),
        (b"\n.\r\n", Refused),
        (b"\r.\r\n", Refused),
        (b".\0\r\n", Text),
        (b"\0.\r\n", Text),
        (b" .\r\n", Text),
        (b". \r\n", Text),
        (b"..\r\n", Text),
    ] {
        let data = data(b"", begin);
        let all = [ENVELOPE, &data].concat();
        for at in 1..all.len() {
            let (head, tail) = all.split_at(at);
            assert_eq!(
                session([head, tail]),
                expected(&data, verdict),
                "{} cut at {at}",
                begin.escape_ascii()
            );
        }
    }
}

#[test]
fn a_stray_cr_or_lf_is_refused_wherever_it_stands() {
    let message = b"Subject: outer\r\nTo: <bob@mx.test>\r\n\r\n..dot\r\nbody\r\n.\r\n";
    let good = session([ENVELOPE, message]);
    assert_eq!(good.messages.len(), 1);
    for stray in [b'\r', b'\n'] {
        // Up to the CR of the last line: behind it the end is whole, and the stray byte no part of the data.
        for at in 0..message.len() - 1 {
            let mut torn = message.to_vec();
            torn.insert(at, stray);
            let outcome = session([ENVELOPE, &torn]);
            let shown = torn.escape_ascii();
            assert!(outcome.closed && outcome.messages.is_empty(), "{shown}: {outcome:?}");
        }
        let behind = [&message[..], &[stray]].concat();
        assert_eq!(session([ENVELOPE, &behind]).messages, good.messages);
    }
}

#[test]
fn what_stands_behind_a_bare_lf_in_a_command_is_no_command() {
    let bare = [
        &b"NOOP\nRCPT TO:<sender@mx.test>\r\n"[..],
        b"NOOP\n\nRCPT TO:<sender@mx.test>\nRSET\r\n",
        b"RCPT TO:<bob@mx.test>\nRCPT TO:<sender@mx.test>\r\n",
    ];
    let hidden = [
        &b"NOOP \rRCPT TO:<sender@mx.test>\r\n"[..],
        b"RCPT TO:<bob@mx.test>\0\rRCPT TO:<sender@mx.test>\r\n",
    ];
    for (line, reply) in bare.into_iter().map(|line| (line, "500 ")).chain(hidden.map(|line| (line, "5"))) {
        let all = [
            b"HELO client.test\r\nMAIL FROM:<a@far.test>\r\nRCPT TO:<bob@mx.test>\r\n",
            line,
            b"DATA\r\nSubject: one\r\n\r\none\r\n.\r\n",
        ]
        .concat();
        let whole = session([&all[..]]);
        let shown = line.escape_ascii();
        assert_eq!(whole.messages, [(b"bob@mx.test".to_vec(), b"Subject: one\n\none\n".to_vec())], "{shown}");
        let refusal = whole.replies.lines().nth(3).unwrap();
        assert!(refusal.starts_with(reply), "{shown}: {refusal}");
        for at in 1..all.len() {
            let (head, tail) = all.split_at(at);
            assert_eq!(session([head, tail]), whole, "{shown} cut at {at}");
        }
    }
}

/// All that the server still says, in whatever way it ends.
fn rest(stream: &mut TcpStream) -> String {
    let (mut heard, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        heard.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// A transaction on a connection of its own up to 354, then these writes, then QUIT; what is said to them.
fn transact<'a>(host: &Host, writes: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut client = host.smtp();
    client.say("HELO client.test", 250);
    client.say("MAIL FROM:<a@far.test>", 250);
    client.say("RCPT TO:<bob@mx.test>", 250);
    client.say("DATA", 354);
    for bytes in writes {
        // The server may have closed already.
        drop(client.send(bytes));
    }
    drop(client.send(b"QUIT\r\n"));
    rest(&mut client.stream().try_clone().unwrap())
}

#[test]
fn a_host_takes_one_message_or_none_and_never_the_smuggled_one() {
    let host = Setup::new().smtpd("per_ip: 100").start();
    let mut taken = Vec::new();
    for (ending, verdict) in ENDINGS {
        let long = [b"Subject: outer\r\n\r\n".to_vec(), b"x".repeat(16 * 1024 - 20)].concat();
        for before in [BEFORE[0], &long] {
            let data = data(before, ending);
            let middle = before.len() + ending.len() / 2;
            let behind = before.len() + ending.len();
            for cuts in [&[][..], &[middle], &[before.len(), middle, behind]] {
                let mut writes = Vec::new();
                let mut from = 0;
                for &to in cuts.iter().chain([&data.len()]) {
                    writes.push(&data[from..to]);
                    from = to;
                }
                let said = transact(&host, writes);
                let shown = ending.escape_ascii();
                match verdict {
                    Refused => assert_eq!(said, SMTPLF, "{shown}"),
                    Text => {
                        assert!(said.starts_with("250 ok "), "{shown}: {said}");
                        assert!(said.ends_with("\r\n221 mx.test\r\n"), "{shown}: {said}");
                        assert_eq!(said.lines().count(), 2, "{shown}: {said}");
                        taken.push(as_text(&data));
                    }
                }
            }
        }
    }
    let delivered = host.maildir("bob");
    wait_until("the messages to arrive", PATIENCE, || delivered.count() >= taken.len());
    host.wait_queue_empty(PATIENCE);
    let mut arrived: Vec<Vec<u8>> = delivered
        .messages()
        .iter()
        .map(|message| {
            // Three lines of trace of the delivery and the queue, two of smtpd.
            message.splitn(6, |byte| *byte == b'\n').nth(5).unwrap().to_vec()
        })
        .collect();
    arrived.sort();
    taken.sort();
    assert!(arrived == taken, "{} arrived, {} were taken, or they differ", arrived.len(), taken.len());
    assert_eq!(host.maildir("sender").count(), 0, "a message was smuggled in");
    let accepted = host.metrics().sum("mailtree_queue_accepted_messages_total", &[]);
    assert_eq!(accepted, taken.len() as f64);
}

#[test]
fn bdat_is_not_offered_and_nothing_comes_of_it() {
    let host = Host::start();
    let chunk = b"RSET\r\nMAIL FROM:<evil@far.test>\r\nRCPT TO:<sender@mx.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n";
    for word in ["BDAT", "bdat"] {
        let envelope = ENVELOPE.strip_suffix(b"DATA\r\n").unwrap();
        let all = [envelope, format!("{word} {} LAST\r\n", chunk.len()).as_bytes(), chunk].concat();
        for at in 1..all.len() {
            let (head, tail) = all.split_at(at);
            assert_eq!(session([head, tail]).messages, [], "cut at {at}");
        }
        let mut client = host.smtp();
        let offered = client.say("EHLO client.test", 250);
        assert!(!offered.text().contains("CHUNKING"), "{}", offered.text());
        client.say("MAIL FROM:<a@far.test>", 250);
        client.say("RCPT TO:<bob@mx.test>", 250);
        client.send(&[format!("{word} {} LAST\r\n", chunk.len()).as_bytes(), chunk].concat()).unwrap();
        drop(client.send(b"QUIT\r\n"));
        let said = rest(&mut client.stream().try_clone().unwrap());
        assert!(said.starts_with("502 "), "{said}");
        assert!(!said.contains("354"), "{said}");
    }
    assert_eq!(host.metrics().sum("mailtree_queue_accepted_messages_total", &[]), 0.0);
}

#[test]
fn a_whole_session_before_the_greeting_is_refused_as_a_whole() {
    let setup = Setup::new();
    std::fs::write(setup.home().join("tcp.smtp"), ":allow,SMTPD_GREETDELAY=\"1\"\n").unwrap();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    let host = setup.start();
    for talk in [
        &[ENVELOPE, b"Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"].concat()[..],
        b"POST / HTTP/1.1\r\nHost: mx.test\r\n\r\nEHLO x\r\n",
        b"\r\n",
        b"\x16\x03\x01\0\x05",
    ] {
        let mut stream = mailtree_tests::smtp::dial(host.address().get()).unwrap();
        stream.write_all(talk).unwrap();
        assert_eq!(rest(&mut stream), "554 SMTP protocol violation\r\n", "{}", talk.escape_ascii());
    }
    assert_eq!(host.metrics().sum("mailtree_queue_accepted_messages_total", &[]), 0.0);
}

#[test]
fn commands_behind_starttls_in_one_packet_end_the_session() {
    let host = Host::start();
    for behind in ["MAIL FROM:<a@far.test>\r\n", "NOOP\r\n", "Q", "\x16\x03\x01"] {
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        client.send(format!("STARTTLS\r\n{behind}").as_bytes()).unwrap();
        let said = rest(&mut client.stream().try_clone().unwrap());
        assert!(said.ends_with("554 5.5.1 SMTP protocol violation\r\n"), "{behind:?}: {said}");
        assert!(!said.contains("250"), "{behind:?}: {said}");
    }
    // Later, but in the clear: the handshake fails, and nobody obeys.
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client.say("STARTTLS", 220);
    client.send(b"MAIL FROM:<a@far.test>\r\nRCPT TO:<bob@mx.test>\r\n").unwrap();
    let said = rest(&mut client.stream().try_clone().unwrap());
    assert!(!said.contains("250"), "{said}");
    host.wait_log("qmail-smtpd: pid * tls from 127.0.0.1 failed: *");
}

#[test]
fn commands_behind_auth_in_one_packet_end_the_session() {
    let host = Setup::new().smtpd("environment: {\"SMTPAUTH\": \"\"}, auth_in_clear: true").start();
    // sender@mx.test with its password.
    let plain = "AHNlbmRlckBteC50ZXN0AHNlY3JldC1vZi10aGUtdGVzdA==";
    let mut good = host.smtp();
    good.say("EHLO client.test", 250);
    good.say(&format!("AUTH PLAIN {plain}"), 235);
    for talk in [
        format!("AUTH PLAIN {plain}\r\nMAIL FROM:<a@far.test>\r\n"),
        format!("AUTH PLAIN\r\n{plain}\r\n"),
        "AUTH LOGIN\r\nc2VuZGVy\r\n".to_owned(),
    ] {
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        client.send(talk.as_bytes()).unwrap();
        let said = rest(&mut client.stream().try_clone().unwrap());
        assert!(said.ends_with("554 5.5.1 SMTP protocol violation\r\n"), "{talk:?}: {said}");
        assert!(!said.contains("235") && !said.contains("250"), "{talk:?}: {said}");
    }
    // A command in place of a response is a response.
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client.say("AUTH LOGIN", 334);
    client.say("MAIL FROM:<a@far.test>", 501);
    client.say("RCPT TO:<bob@mx.test>", 503);
}
