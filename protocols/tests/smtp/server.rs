//! qmail-smtpd's side.

use mailtree_protocols::auth::smtpauth::SmtpAuth;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::{MAX_CHUNK, MAX_ERRORS, MAX_IDLE, MAX_LINE, MAX_REPLIES, Policy};
use proptest::prelude::*;

use crate::host::{ACCEPT, Answers, Event, Host, play, play_relayclient, policy};

fn open(from: &str, to: &[&str], with: &'static str) -> Event {
    Event::Open { from: from.to_owned(), to: to.iter().map(|&t| t.to_owned()).collect(), with }
}

#[test]
fn a_helo_client_hears_qmail() {
    let events = play(
        policy(),
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: HELO client.example
        S: 250 mx.example.com
        C: MAIL FROM:<joe@elsewhere.example>
        S: 250 ok
        C: RCPT TO:<ann@example.com>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: Subject: hello
        C:
        C: ..dot
        C: .
        S: 250 ok 1763000000 qp 4711
        C: RSET
        S: 250 flushed
        C: NOOP
        S: 250 ok
        C: VRFY ann
        S: 252 send some mail, i'll try my best
        C: HELP
        S: 214 notqmail home page: https://notqmail.org
        C: EXPN list
        S: 502 unimplemented (#5.5.1)
        C: QUIT
        S: 221 mx.example.com
        ",
    );
    let body = b"Subject: hello\n\n.dot\n".to_vec();
    let opened = open("joe@elsewhere.example", &["ann@example.com"], "SMTP");
    assert_eq!(events, [opened, Event::Commit(body), Event::Close]);
}

#[test]
fn an_ehlo_client_hears_enhanced_codes() {
    let events = play(
        Policy { databytes: 1000, ..policy() },
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: ehlo client.example
        S: 250-mx.example.com
        S: 250-PIPELINING
        S: 250-8BITMIME
        S: 250-SIZE 1000
        S: 250-ENHANCEDSTATUSCODES
        S: 250 SMTPUTF8
        C: mail from:<> size=1000 body=8bitmime auth=<>
        S: 250 2.1.0 ok
        C: rcpt to:<ann@example.com>
        S: 250 2.1.5 ok
        C: rcpt to:<ann@example.org>
        S: 553 5.7.1 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)
        C: data
        S: 354 go ahead
        C: .
        S: 250 2.0.0 ok 1763000000 qp 4711
        C: rset
        S: 250 2.0.0 flushed
        C: vrfy
        S: 252 2.0.0 send some mail, i'll try my best
        C: starttls
        S: 502 5.5.1 unimplemented (#5.5.1)
        C: quit
        S: 221 2.0.0 mx.example.com
        ",
    );
    assert_eq!(events, [open("", &["ann@example.com"], "ESMTP"), Event::Commit(Vec::new()), Event::Close]);
}

#[test]
fn commands_out_of_sequence() {
    play(
        policy(),
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: RCPT TO:<ann@example.com>
        S: 503 MAIL first (#5.5.1)
        C: DATA
        S: 503 MAIL first (#5.5.1)
        C: MAIL FROM:<a@b.example>
        S: 250 ok
        C: DATA
        S: 503 RCPT first (#5.5.1)
        C: MAIL FROM:<a@b.example>
        S: 503 nested MAIL (#5.5.1)
        C: RCPT TO:<ann@example.com>
        S: 250 ok
        C: HELO again
        S: 250 mx.example.com
        C: RCPT TO:<ann@example.com>
        S: 503 MAIL first (#5.5.1)
        ",
    );
}

#[test]
fn replies_to_one_command() {
    let syntax = "555 5.5.4 syntax error (#5.5.4)";
    let not_ascii = "553 5.6.7 non-ASCII addresses need SMTPUTF8 and UTF-8 (#5.6.7)";
    let unimplemented = "502 5.5.1 unimplemented (#5.5.1)";
    let cases: &[(&str, &str)] = &[
        ("MAIL FROM: <a@b.example>", "250 2.1.0 ok"),
        ("MAIL FROM : a@b.example", "250 2.1.0 ok"),
        ("MAIL FROM:a@b.example SIZE=10", "250 2.1.0 ok"),
        ("MAIL FROM:<@x.example:a@b.example>", "250 2.1.0 ok"),
        ("MAIL FROM:<a@b.example> SIZE=99999999999999999999", "250 2.1.0 ok"),
        ("MAIL FROM:<j\u{f6}@b.example> SMTPUTF8", "250 2.1.0 ok"),
        ("MAIL FROM:<j\u{f6}@b.example>", not_ascii),
        ("MAIL", syntax),
        ("MAIL a@b.example", syntax),
        ("MAIL FROM", syntax),
        ("MAIL FROM:", syntax),
        ("MAIL TO:<a@b.example>", syntax),
        ("MAIL FROM:<a@b.example", syntax),
        ("MAIL FROM:<a@b.example>x", syntax),
        ("MAIL FROM:<a\0@b.example>", syntax),
        ("MAIL FROM:<a@b.example> SIZE=", syntax),
        ("MAIL FROM:<a@b.example> SIZE=-1", syntax),
        ("MAIL FROM:<a@b.example> SIZE=100000000000000000000", syntax),
        ("MAIL FROM:<a@b.example> BODY=BINARYMIME", syntax),
        ("MAIL FROM:<a@b.example> RET=HDRS", syntax),
        ("", unimplemented),
        ("GET / HTTP/1.1", unimplemented),
        ("MAILFROM:<a@b.example>", unimplemented),
        ("\0\0\0", "500 5.5.2 unrecognised (#5.5.2)"),
        ("NOOP \0", "501 5.5.2 control character in argument (#5.5.2)"),
        ("NOOP a\rb", "501 5.5.2 control character in argument (#5.5.2)"),
        ("NOOP a\nNOOP", "500 5.5.2 lines end with CR LF (#5.5.2)"),
        ("NOOP \u{f6}", "250 2.0.0 ok"),
        ("  NOOP", unimplemented),
        ("NOOP  ", "250 2.0.0 ok"),
    ];
    for (command, expected) in cases {
        let mut host = Host::new(policy(), ACCEPT);
        host.feed(b"EHLO x\r\n");
        host.feed(format!("{command}\r\n").as_bytes());
        assert_eq!(host.last_reply(), *expected, "{command:?}");
        host.feed(b"NOOP\r\n");
        assert_eq!(host.last_reply(), "250 2.0.0 ok", "after {command:?}");
    }
}

#[test]
fn recipients() {
    let syntax = "555 5.5.4 syntax error (#5.5.4)";
    let rcpthosts = "553 5.7.1 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)";
    let cases: &[(&str, Result<&str, &str>)] = &[
        ("<ann@example.com>", Ok("ann@example.com")),
        ("<ann@EXAMPLE.com>", Ok("ann@EXAMPLE.com")),
        ("<\"a b\"@example.com>", Ok("a b@example.com")),
        ("<postmaster>", Ok("postmaster")),
        ("<ann@[192.0.2.25]>", Ok("ann@example.com")),
        ("<ann@[192.0.2.26]>", Err(rcpthosts)),
        ("<ann@example.org>", Err(rcpthosts)),
        ("<@example.com:ann@example.org>", Err(rcpthosts)),
        ("<\"ann@example.org\"@example.com>", Ok("ann@example.org@example.com")),
        ("<ann@example.com@example.org>", Err(rcpthosts)),
        ("<\"ann@example.org\">", Err(rcpthosts)),
        ("<>", Err(syntax)),
        ("<ann@example.com> NOTIFY=NEVER", Err(syntax)),
        ("<ann@example.com", Err(syntax)),
        ("<j\u{f6}@example.com>", Err("553 5.6.7 non-ASCII addresses need SMTPUTF8 and UTF-8 (#5.6.7)")),
    ];
    for (path, expected) in cases {
        let mut host = Host::new(policy(), ACCEPT);
        host.feed(format!("EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:{path}\r\n").as_bytes());
        let stored = host.session.transaction().unwrap().forward_paths.clone();
        match expected {
            Ok(address) => {
                assert_eq!(host.last_reply(), "250 2.1.5 ok", "{path}");
                assert_eq!(stored, [address.as_bytes()], "{path}");
            }
            Err(reply) => {
                assert_eq!(host.last_reply(), *reply, "{path}");
                assert!(stored.is_empty(), "{path}");
            }
        }
    }
}

#[test]
fn rcpthosts_that_cannot_be_read_end_the_session() {
    let mut host = Host::new(policy(), ACCEPT);
    host.rcpthosts_unreadable = true;
    host.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\n");
    assert_eq!(host.last_reply(), "421 4.3.0 unable to read controls (#4.3.0)");
    assert_eq!(host.events, [Event::Close]);
}

#[test]
fn relayclient_opens_and_is_appended() {
    let events = play_relayclient(
        "@gateway",
        "
        S: 220 mx.example.com ESMTP
        C: MAIL FROM:<a@b.example>
        C: RCPT TO:<ann@example.org>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 354 go ahead
        ",
    );
    assert_eq!(events, [open("a@b.example", &["ann@example.org@gateway"], "SMTP")]);
}

#[test]
fn badmailfrom_is_answered_at_rcpt() {
    for from in ["spammer@b.example", "joe@spam.example"] {
        let mut host = Host::new(policy(), ACCEPT);
        host.feed(format!("MAIL FROM:<{from}>\r\n").as_bytes());
        assert_eq!(host.last_reply(), "250 ok");
        host.feed(b"RCPT TO:<ann@example.com>\r\n");
        assert_eq!(host.last_reply(), "553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)");
    }
}

#[test]
fn more_recipients_than_the_limit() {
    play(
        policy(),
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: MAIL FROM:<a@b.example>
        C: RCPT TO:<a@example.com>
        C: RCPT TO:<b@example.com>
        C: RCPT TO:<c@example.com>
        C: RCPT TO:<d@example.com>
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 250 ok
        S: 452 too many recipients (#4.5.3)
        ",
    );
}

#[test]
fn what_follows_data_in_one_piece_is_not_lost() {
    let events = play(
        policy(),
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: MAIL FROM:<a@b.example>
        C: RCPT TO:<a@example.com>
        C: DATA
        C: body
        C: .
        C: MAIL FROM:<c@d.example>
        C: RCPT TO:<b@example.com>
        C: DATA
        C: second
        C: .
        C: QUIT
        C: NOOP
        S: 250 ok
        S: 250 ok
        S: 354 go ahead
        S: 250 ok 1763000000 qp 4711
        S: 250 ok
        S: 250 ok
        S: 354 go ahead
        S: 250 ok 1763000000 qp 4711
        S: 221 mx.example.com
        ",
    );
    let expected = [
        open("a@b.example", &["a@example.com"], "SMTP"),
        Event::Commit(b"body\n".to_vec()),
        open("c@d.example", &["b@example.com"], "SMTP"),
        Event::Commit(b"second\n".to_vec()),
        Event::Close,
    ];
    assert_eq!(events, expected);
}

#[test]
fn when_data_is_refused_what_follows_are_commands() {
    let answers = Answers { opened: Err(Refusal::no_room()), ..ACCEPT };
    let events = play(
        policy(),
        answers,
        "
        S: 220 mx.example.com ESMTP
        C: MAIL FROM:<a@b.example>
        C: RCPT TO:<a@example.com>
        C: DATA
        C: NOOP
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 452 insufficient system storage (#4.3.1)
        S: 250 ok
        S: 503 MAIL first (#5.5.1)
        ",
    );
    assert_eq!(events, [open("a@b.example", &["a@example.com"], "SMTP")]);
}

#[test]
fn the_queue_refuses() {
    let cases = [
        (Refusal::qq_write_error(), "451 4.3.0 qq write error or disk full (#4.3.0)", false),
        (Refusal::qq_rejected(), "554 5.3.0 mail server permanently rejected message (#5.3.0)", false),
        (Refusal::permanent(7, 1, "no\r\n250 ok"), "554 5.7.1 no??250 ok", false),
        (Refusal::temporary(7, 1, "later"), "451 4.7.1 later", false),
        (Refusal::controls(), "421 4.3.0 unable to read controls (#4.3.0)", true),
    ];
    for (refusal, expected, closes) in cases {
        let mut host = Host::new(policy(), Answers { queued: Err(refusal), ..ACCEPT });
        host.feed(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\nx\r\n.\r\n");
        assert_eq!(host.last_reply(), expected);
        assert_eq!(host.session.transaction(), None);
        assert_eq!(host.events.last() == Some(&Event::Close), closes, "{expected}");
    }
}

#[test]
fn databytes_at_mail_and_after_the_data() {
    let small = || Policy { databytes: 10, ..policy() };
    let events = play(
        small(),
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: MAIL FROM:<> SIZE=11
        S: 552 sorry, that message size exceeds my databytes limit (#5.3.4)
        C: MAIL FROM:<> SIZE=10
        C: RCPT TO:<a@example.com>
        C: DATA
        S: 250 ok
        S: 250 ok
        S: 354 go ahead
        C: 123456789
        C: .
        S: 250 ok 1763000000 qp 4711
        C: MAIL FROM:<>
        C: RCPT TO:<a@example.com>
        C: DATA
        C: 1234567890
        C: .
        C: NOOP
        S: 250 ok
        S: 250 ok
        S: 354 go ahead
        S: 552 sorry, that message size exceeds my databytes limit (#5.3.4)
        S: 250 ok
        ",
    );
    let opened = open("", &["a@example.com"], "SMTP");
    assert_eq!(events, [opened.clone(), Event::Commit(b"123456789\n".to_vec()), opened, Event::Discard]);

    let mut host = Host::new(small(), ACCEPT);
    host.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n");
    host.feed(&b"x".repeat(1_000_000));
    assert!(host.most.0 <= 10, "a refused body does not grow");
}

#[test]
fn a_hundred_hops_are_a_loop() {
    let send = |header: &str| {
        let mut host = Host::new(policy(), ACCEPT);
        host.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n");
        host.feed(format!("{header}\r\nReceived: in the body\r\n.\r\n").as_bytes());
        host.last_reply()
    };
    let (ok, looping) = ("250 ok 1763000000 qp 4711", "554 too many hops, this message is looping (#5.4.6)");
    assert_eq!(send(&"Received: x\r\n".repeat(99)), ok);
    assert_eq!(send(&"Received: x\r\n".repeat(100)), looping);
    assert_eq!(send(&["rEcEiVeD: x\r\n", "Delivered-To: y\r\n"].concat().repeat(50)), looping);
    assert_eq!(send(&"X-Received: x\r\n".repeat(200)), ok);
    assert_eq!(send(&format!("X: y\r\n\r\n{}", "Received: x\r\n".repeat(200))), ok);
    assert_eq!(send(&"Received\r\n".repeat(100)), looping);
}

#[test]
fn the_longest_line_and_one_more() {
    let line = |n: usize| format!("NOOP {}\r\n", "x".repeat(n - "NOOP \r\n".len()));
    let cases = [
        (line(MAX_LINE), "250 ok"),
        (line(MAX_LINE + 1), "500 line too long (#5.5.2)"),
        (line(10 * MAX_LINE), "500 line too long (#5.5.2)"),
        (format!("{}\nQUIT\r\n", "x".repeat(MAX_LINE)), "500 line too long (#5.5.2)"),
    ];
    for (line, expected) in cases {
        let mut host = Host::new(policy(), ACCEPT);
        host.feed(line.as_bytes());
        assert_eq!(host.last_reply(), expected, "{}", line.len());
        let replies = host.out.len();
        host.feed(b"NOOP\r\n");
        assert_eq!(&host.out[replies..], b"250 ok\r\n");
    }
}

#[test]
fn nothing_behind_a_bare_newline_is_a_command() {
    let mut host = Host::new(policy(), ACCEPT);
    host.feed(b"NOOP\nMAIL FROM:<a@b.example>\nQUIT\nQUIT\r\nRCPT TO:<a@example.com>\r\n");
    let expected =
        "220 mx.example.com ESMTP\r\n500 lines end with CR LF (#5.5.2)\r\n503 MAIL first (#5.5.1)\r\n";
    assert_eq!(String::from_utf8_lossy(&host.out), expected);
}

#[test]
fn errors_are_counted() {
    for bad in ["WHAT\r\n", "DATA\r\n", "MAIL\r\n", "A\nB\r\n", &format!("{}\r\n", "x".repeat(3000))] {
        let mut host = Host::new(policy(), ACCEPT);
        for _ in 0..MAX_ERRORS {
            host.feed(bad.as_bytes());
            assert!(host.last_reply().starts_with('5'), "{bad}");
        }
        host.feed(b"NOOP\r\n");
        assert_eq!(host.last_reply(), "250 ok");
        host.feed(bad.as_bytes());
        assert_eq!(host.last_reply(), "421 4.7.0 too many errors");
        assert_eq!(host.events, [Event::Close]);
    }
}

#[test]
fn a_refused_recipient_is_no_error_of_the_client() {
    let mut host = Host::new(policy(), ACCEPT);
    host.feed(b"MAIL FROM:<>\r\n");
    for _ in 0..10 * MAX_ERRORS {
        host.feed(b"RCPT TO:<a@example.org>\r\n");
    }
    assert!(host.events.is_empty());
    assert!(host.last_reply().starts_with("553 "));
}

#[test]
fn the_host_ends_the_session() {
    let openings =
        ["", "EHLO x\r\n", "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\nhalf a li"];
    for opening in openings {
        let mut host = Host::new(policy(), ACCEPT);
        host.feed(opening.as_bytes());
        host.session.shutdown(&mut host.out);
        assert!(host.last_reply().starts_with("421 4.3.2 "), "{opening}");
        host.feed(b"");
        assert_eq!(host.events.last(), Some(&Event::Close));

        let mut host = Host::new(policy(), ACCEPT);
        host.feed(opening.as_bytes());
        host.session.timeout(&mut host.out);
        assert!(host.last_reply().ends_with("timeout (#4.4.2)") && host.last_reply().starts_with("451 "));
        host.feed(b"");
        assert_eq!(host.events.last(), Some(&Event::Close));
    }
}

#[test]
fn smtputf8_shows_in_the_protocol() {
    let mut host = Host::new(policy(), ACCEPT);
    host.feed("EHLO x\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<j\u{f6}@example.com>\r\nDATA\r\n".as_bytes());
    assert_eq!(host.events, [open("", &["j\u{f6}@example.com"], "UTF8SMTP")]);

    let mut host = Host::new(policy(), ACCEPT);
    host.feed(b"EHLO x\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:<j\xf6@example.com>\r\n");
    assert!(host.last_reply().starts_with("553 5.6.7 "));
}

#[test]
fn what_one_call_adds_is_bounded() {
    let mut host = Host::new(policy(), ACCEPT);
    host.feed(&b"EHLO x\r\n".repeat(50_000));
    assert!(host.most.1 <= MAX_REPLIES + 512, "{:?}", host.most);
    assert_eq!(host.out.iter().filter(|&&b| b == b'\n').count(), 1 + 6 * 50_000);

    let line = [b"x".repeat(998), b"\r\n".to_vec()].concat();
    host.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n");
    host.feed(&line.repeat(2000));
    host.feed(b".\r\n");
    assert!(host.most.0 <= MAX_CHUNK, "{:?}", host.most);
    assert_eq!(host.messages()[0].len(), 2000 * 999);
}

/// Pieces that lead into every state, and noise.
fn script() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        &b"EHLO x\r\n"[..],
        b"HELO x\r\n",
        b"MAIL FROM:<a@b.example>\r\n",
        b"MAIL FROM:<spammer@b.example>\r\n",
        b"RCPT TO:<a@example.com>\r\n",
        b"MAIL FROM:<a@b.example>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n",
        b"DATA\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
        b"Received: x\r\n",
        b"a line of text\r\n",
        b"..\r\n",
        b"\r\n.\r\n",
        b".\r\n",
        b"\n",
        b"\r",
        b".",
        b"\0",
    ])
    .prop_map(<[u8]>::to_vec);
    let noise = prop::collection::vec(any::<u8>(), 0..8);
    let long = (2040usize..2052).prop_map(|n| b"x".repeat(n));
    let piece = prop_oneof![20 => known, 2 => noise, 1 => long];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn where_the_reads_end_changes_nothing(
        script in script(),
        cuts in prop::collection::vec(1usize..40, 1..20),
        databytes in prop::sample::select(vec![0u64, 20]),
    ) {
        let policy = Policy { databytes, ..policy() };
        let mut whole = Host::new(policy.clone(), ACCEPT);
        whole.feed(&script);
        let mut split = Host::new(policy, ACCEPT);
        let (mut rest, mut cut) = (script.as_slice(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(*cut.next().unwrap()));
            split.feed(piece);
            rest = tail;
        }
        prop_assert_eq!(String::from_utf8_lossy(&split.out), String::from_utf8_lossy(&whole.out));
        prop_assert_eq!(split.events, whole.events);
    }
}

fn auth(text: &str) -> Option<SmtpAuth> {
    Some(SmtpAuth::parse(text.as_bytes()).unwrap())
}

#[test]
fn starttls_forgets_what_was_said_before() {
    let policy = Policy { starttls: true, tls_required: true, auth: auth(""), ..policy() };
    let events = play(
        policy,
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: EHLO client.example
        S: 250-mx.example.com
        S: 250-PIPELINING
        S: 250-8BITMIME
        S: 250-SIZE
        S: 250-ENHANCEDSTATUSCODES
        S: 250-STARTTLS
        S: 250 SMTPUTF8
        C: AUTH PLAIN AGpvZQBzZWNyZXQ=
        S: 538 5.7.11 auth not available without TLS (#5.7.11)
        C: MAIL FROM:<a@b.example>
        S: 530 5.7.0 Must issue a STARTTLS command first (#5.7.0)
        C: STARTTLS now
        S: 501 5.5.4 Syntax error (no parameters allowed) (#5.5.4)
        C: STARTTLS
        S: 220 ready for tls
        C: STARTTLS
        S: 502 unimplemented (#5.5.1)
        C: EHLO client.example
        S: 250-mx.example.com
        S: 250-PIPELINING
        S: 250-8BITMIME
        S: 250-SIZE
        S: 250-ENHANCEDSTATUSCODES
        S: 250-AUTH LOGIN PLAIN
        S: 250 SMTPUTF8
        C: AUTH PLAIN AGpvZQBzZWNyZXQ=
        S: 235 2.7.0 ok, go ahead (#2.0.0)
        C: MAIL FROM:<a@b.example>
        C: RCPT TO:<ann@elsewhere.example>
        C: DATA
        S: 250 2.1.0 ok
        S: 250 2.1.5 ok
        S: 354 go ahead
        ",
    );
    assert_eq!(events, [Event::Starttls, open("a@b.example", &["ann@elsewhere.example"], "ESMTPSA")]);
}

#[test]
fn auth_line_by_line() {
    play(
        Policy { auth: auth("!+cram"), auth_in_clear: true, ..policy() },
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: HELO client.example
        S: 250 mx.example.com
        C: MAIL FROM:<a@b.example>
        S: 530 Authorization required (#5.7.0)
        C: AUTH GSSAPI
        S: 504 auth type unimplemented (#5.5.4)
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: *
        S: 501 auth exchange canceled (#5.7.0)
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: am9l
        S: 334 UGFzc3dvcmQ6
        C: d3Jvbmc=
        S: 535 authentication failed (#5.7.8)
        C: AUTH CRAM-MD5
        S: 334 PDQuNDcxMS4xNzYzMDAwMDAwQG14LmV4YW1wbGUuY29tPg==
        C: !
        S: 501 malformed auth input (#5.5.2)
        C: AUTH PLAIN
        S: 334
        C: AGpvZQBzZWNyZXQ=
        S: 235 ok, go ahead (#2.0.0)
        C: AUTH PLAIN
        S: 503 you're already authenticated (#5.5.1)
        C: MAIL FROM:<a@b.example>
        S: 250 ok
        ",
    );
}

#[test]
fn nothing_may_come_behind_starttls_or_a_line_of_auth() {
    let policy = || Policy { starttls: true, auth: auth("+cram"), auth_in_clear: true, ..policy() };
    for (before, line) in [
        ("", "STARTTLS"),
        ("", "AUTH LOGIN"),
        ("", "AUTH PLAIN AGpvZQBzZWNyZXQ="),
        ("AUTH LOGIN", "am9l"),
        ("AUTH PLAIN", "AGpvZQBzZWNyZXQ="),
        ("AUTH CRAM-MD5", "am9lIDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"),
    ] {
        let mut host = Host::new(policy(), ACCEPT);
        host.feed(b"EHLO x\r\n");
        if !before.is_empty() {
            host.feed(format!("{before}\r\n").as_bytes());
        }
        host.feed(format!("{line}\r\nMAIL FROM:<a@b.example>\r\n").as_bytes());
        assert_eq!(host.last_reply(), "554 5.5.1 SMTP protocol violation", "{line}");
        let replies = String::from_utf8(host.out.clone()).unwrap();
        assert!(!replies.contains("ready for tls"), "{line}: two answers");
        assert_eq!(host.events, [Event::Close], "{line}");
        assert!(host.session.user().is_none() && host.session.credentials().is_none(), "{line}");
    }
}

#[test]
fn brtlimit_ends_the_session() {
    play(
        Policy { brtlimit: 2, ..policy() },
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: MAIL FROM:<a@b.example>
        S: 250 ok
        C: RCPT TO:<ann@elsewhere.example>
        S: 553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)
        C: RCPT TO:<ann@example.com>
        S: 250 ok
        C: RCPT TO:<ann@elsewhere.example>
        S: 421 4.3.0 too many invalid addresses, goodbye (#4.3.0)
        ",
    );
}

#[test]
fn a_sender_that_is_refused_at_mail_leaves_no_transaction() {
    play(
        policy(),
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: MAIL FROM:<a@nowhere.example>
        C: RCPT TO:<ann@example.com>
        S: 553 sorry, your envelope sender has been denied (#5.7.1)
        S: 503 MAIL first (#5.5.1)
        C: MAIL FROM:<a@b.example>
        S: 250 ok
        ",
    );
}

#[test]
fn who_authenticated_before_starttls_is_nobody_after_it() {
    let policy = Policy { starttls: true, auth: auth("!"), auth_in_clear: true, ..policy() };
    play(
        policy,
        ACCEPT,
        "
        S: 220 mx.example.com ESMTP
        C: HELO client.example
        S: 250 mx.example.com
        C: AUTH PLAIN AGpvZQBzZWNyZXQ=
        S: 235 ok, go ahead (#2.0.0)
        C: STARTTLS
        S: 220 ready for tls
        C: MAIL FROM:<a@b.example>
        S: 530 Authorization required (#5.7.0)
        ",
    );
}

#[test]
fn transactions_without_a_recipient_are_counted() {
    let mut host = Host::new(policy(), ACCEPT);
    for _ in 0..MAX_IDLE {
        host.feed(b"MAIL FROM:<a@b.example>\r\nRSET\r\n");
        assert_eq!(host.last_reply(), "250 flushed");
    }
    host.feed(b"MAIL FROM:<a@b.example>\r\n");
    assert_eq!(host.last_reply(), "503 too many transactions without a recipient (#5.5.1)");
    let mut host = Host::new(policy(), ACCEPT);
    for _ in 0..2 * MAX_IDLE {
        host.feed(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<ann@example.com>\r\nRSET\r\n");
        assert_eq!(host.last_reply(), "250 flushed", "a recipient is no waste");
    }
}

#[test]
fn what_follows_bdat_is_never_read_as_commands() {
    let mut host = Host::new(policy(), ACCEPT);
    host.feed(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<ann@example.com>\r\nBDAT 6 LAST\r\nDATA\r\n");
    assert_eq!(host.last_reply(), "502 unimplemented (#5.5.1)");
    assert_eq!(host.events, [Event::Close]);
}
