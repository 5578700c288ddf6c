//! qmail-remote's side, against scripted servers.

use mailtree_protocols::report::{Class, Report};
use mailtree_protocols::smtp::client::{Client, DataError, Mail, Outcome, Wait, Want};
use proptest::prelude::*;

fn mail(to: &[&str]) -> Mail {
    Mail {
        helo: "me.example".to_owned(),
        ip: "192.0.2.1".to_owned(),
        reverse_path: b"joe@me.example".to_vec(),
        forward_paths: to.iter().map(|path| path.as_bytes().to_vec()).collect(),
        eight_bit: false,
        size: 123,
    }
}

/// Plays a transcript: `S: ` lines are what the server says, in one piece up to the next `C: `; `C: ` lines are what the
/// client must say. `C: <data>` is the message with its final dot; `!` at the end: the connection dies.
fn play(mail: Mail, transcript: &str) -> Outcome {
    let mut client = Client::new(mail);
    let mut said = Vec::new();
    let mut want = client.poll(&mut said);
    assert_eq!(want, Want::Read(Wait::Greeting));
    for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(line) = line.strip_prefix("S: ") {
            let reply = format!("{line}\r\n").into_bytes();
            let mut rest = reply.as_slice();
            while !rest.is_empty() {
                let read = client.step(rest);
                assert!(read > 0, "the client does not read {line:?}");
                rest = &rest[read..];
                want = client.poll(&mut said);
            }
            if want == Want::SendData {
                said.extend_from_slice(b"<data>\r\n");
                client.data_sent(Ok(()));
                let dot = said.len();
                want = client.poll(&mut said);
                assert_eq!(said.split_off(dot), b".\r\n");
            }
        } else if line == "!" {
            client.connection_died();
            want = client.poll(&mut said);
        } else {
            let expected = format!("{}\r\n", line.strip_prefix("C: ").expect("S: , C: or !"));
            assert!(
                said.starts_with(expected.as_bytes()),
                "{expected:?} expected in{transcript}, said {:?}",
                String::from_utf8_lossy(&said)
            );
            said.drain(..expected.len());
        }
    }
    assert_eq!(String::from_utf8_lossy(&said), "", "said more in{transcript}");
    assert_eq!(want, Want::Done, "not done after{transcript}");
    client.outcome().expect("done")
}

/// As `K`, `Z`, `D` and text.
fn line(report: &Report) -> String {
    let letter = match report.class {
        Class::Success => 'K',
        Class::Deferral => 'Z',
        Class::Failure => 'D',
    };
    format!("{letter}{}", report.text)
}

fn report(outcome: &Outcome, recipient: usize) -> String {
    line(&outcome.report(recipient).expect("a report"))
}

#[test]
fn a_plain_server() {
    let outcome = play(
        mail(&["ann@there.example"]),
        "
        S: 220 there.example
        C: EHLO me.example
        S: 502 unimplemented
        C: HELO me.example
        S: 250 there.example
        C: MAIL FROM:<joe@me.example>
        S: 250 ok
        C: RCPT TO:<ann@there.example>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: <data>
        S: 250 ok 1 qp 2
        C: QUIT
        ",
    );
    assert!(outcome.greeted);
    assert_eq!(report(&outcome, 0), "K192.0.2.1 accepted message.\nRemote host said: 250 ok 1 qp 2\n");
    assert_eq!(outcome.report(1), None);
}

#[test]
fn a_server_with_everything() {
    let outcome = play(
        Mail {
            reverse_path: Vec::new(),
            eight_bit: true,
            ..mail(&["a b@there.example", "j\u{f6}@there.example"])
        },
        "
        S: 220-there.example
        S: 220 is here
        C: EHLO me.example
        S: 250-there.example
        S: 250-pipelining
        S: 250-SIZE 1000
        S: 250-8BITMIME
        S: 250 SMTPUTF8
        C: MAIL FROM:<> SIZE=123 BODY=8BITMIME SMTPUTF8
        C: RCPT TO:<\"a b\"@there.example>
        C: RCPT TO:<j\u{f6}@there.example>
        S: 250 ok
        S: 250 ok
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: <data>
        S: 250-first
        S: 250 last
        C: QUIT
        ",
    );
    let expected = "K192.0.2.1 accepted message.\nRemote host said: 250-first\n250 last\n";
    assert_eq!([report(&outcome, 0), report(&outcome, 1)], [expected, expected]);
}

#[test]
fn one_recipient_of_three_is_good() {
    let outcome = play(
        mail(&["ann@there.example", "bob@there.example", "cat@there.example"]),
        "
        S: 220 there.example
        C: EHLO me.example
        S: 250-there.example
        S: 250 PIPELINING
        C: MAIL FROM:<joe@me.example>
        C: RCPT TO:<ann@there.example>
        C: RCPT TO:<bob@there.example>
        C: RCPT TO:<cat@there.example>
        S: 250 ok
        S: 550 no ann
        S: 250 ok
        S: 450 later
        C: DATA
        S: 354 go ahead
        C: <data>
        S: 250 ok
        C: QUIT
        ",
    );
    let expected = [
        "D192.0.2.1 does not like recipient.\nRemote host said: 550 no ann\n",
        "K192.0.2.1 accepted message.\nRemote host said: 250 ok\n",
        "Z192.0.2.1 does not like recipient.\nRemote host said: 450 later\n",
    ];
    assert_eq!([report(&outcome, 0), report(&outcome, 1), report(&outcome, 2)], expected);
}

#[test]
fn no_recipient_is_good() {
    let outcome = play(
        mail(&["ann@there.example", "bob@there.example"]),
        "
        S: 220 there.example
        C: EHLO me.example
        S: 250 there.example
        C: MAIL FROM:<joe@me.example>
        S: 250 ok
        C: RCPT TO:<ann@there.example>
        S: 550 no
        C: RCPT TO:<bob@there.example>
        S: 451 later
        C: QUIT
        ",
    );
    let no = "D192.0.2.1 does not like recipient.\nRemote host said: 550 no\nGiving up on 192.0.2.1.\n";
    let later = "Z192.0.2.1 does not like recipient.\nRemote host said: 451 later\nGiving up on 192.0.2.1.\n";
    assert_eq!([report(&outcome, 0), report(&outcome, 1)], [no, later]);
}

#[test]
fn refused_at_each_step() {
    let greeting = "S: 220 x\nC: EHLO me.example\n";
    let named = format!("{greeting}S: 250 x\nC: MAIL FROM:<joe@me.example>\n");
    let asked = format!("{named}S: 250 ok\nC: RCPT TO:<ann@there.example>\nS: 250 ok\nC: DATA\n");
    let sent = format!("{asked}S: 354 go\nC: <data>\n");
    let cases = [
        (String::new(), "554 no", "DConnected to 192.0.2.1 but greeting failed."),
        (String::new(), "421 no", "ZConnected to 192.0.2.1 but greeting failed."),
        (String::new(), "250 no", "ZConnected to 192.0.2.1 but greeting failed."),
        (greeting.to_owned(), "421 no", "ZConnected to 192.0.2.1 but my name was rejected."),
        (
            format!("{greeting}S: 500 what\nC: HELO me.example\n"),
            "550 no",
            "DConnected to 192.0.2.1 but my name was rejected.",
        ),
        (named.clone(), "550 no", "DConnected to 192.0.2.1 but sender was rejected."),
        (named.clone(), "451 no", "ZConnected to 192.0.2.1 but sender was rejected."),
        (named, "354 no", "ZConnected to 192.0.2.1 but sender was rejected."),
        (asked.clone(), "554 no", "D192.0.2.1 failed on DATA command."),
        (asked.clone(), "451 no", "Z192.0.2.1 failed on DATA command."),
        (asked, "250 no", "Z192.0.2.1 failed on DATA command."),
        (sent.clone(), "554 no", "D192.0.2.1 failed after I sent the message."),
        (sent, "452 no", "Z192.0.2.1 failed after I sent the message."),
    ];
    for (before, reply, expected) in cases {
        let outcome = play(mail(&["ann@there.example"]), &format!("{before}S: {reply}\nC: QUIT"));
        assert_eq!(report(&outcome, 0), format!("{expected}\nRemote host said: {reply}\n"));
        assert_eq!(outcome.greeted, !before.is_empty());
    }
}

#[test]
fn the_connection_dies_at_each_step() {
    let steps = ["S: 220 x\nC: EHLO me.example", "S: 250 x\nC: MAIL FROM:<joe@me.example>"];
    let steps = [steps[0], steps[1], "S: 250 ok\nC: RCPT TO:<ann@there.example>", "S: 250 ok\nC: DATA"];
    for done in 0..=steps.len() {
        let outcome = play(mail(&["ann@there.example"]), &format!("{}\n!", steps[..done].join("\n")));
        assert_eq!(report(&outcome, 0), "ZConnected to 192.0.2.1 but connection died. (#4.4.2)\n");
        assert_eq!(outcome.greeted, done > 0);
    }
    let outcome =
        play(mail(&["ann@there.example"]), &format!("{}\nS: 354 go\nC: <data>\n!", steps.join("\n")));
    let duplicate = "ZConnected to 192.0.2.1 but connection died. Possible duplicate! (#4.4.2)\n";
    assert_eq!(report(&outcome, 0), duplicate);
}

/// Up to the 354.
fn at_data() -> Client {
    let mut client = Client::new(mail(&["ann@there.example"]));
    for reply in ["220 x\n", "250 x\n", "250 ok\n", "250 ok\n", "354 go\n"] {
        assert_eq!(client.step(reply.as_bytes()), reply.len());
        client.poll(&mut Vec::new());
    }
    client
}

#[test]
fn a_message_that_cannot_be_sent_gets_no_dot() {
    let cases = [
        (DataError::PartialLine, "DSMTP cannot transfer messages with partial final lines. (#5.6.2)\n"),
        (DataError::Unreadable, "ZUnable to read message. (#4.3.0)\n"),
    ];
    for (error, expected) in cases {
        let mut client = at_data();
        client.data_sent(Err(error));
        let mut out = Vec::new();
        assert_eq!(client.poll(&mut out), Want::Done);
        assert_eq!(out, b"");
        assert_eq!(report(&client.outcome().unwrap(), 0), expected);
    }
    let mut client = at_data();
    client.connection_died();
    let expected = "ZConnected to 192.0.2.1 but connection died. (#4.4.2)\n";
    assert_eq!(report(&client.outcome().unwrap(), 0), expected);
}

#[test]
fn what_the_host_cannot_be_given() {
    let greeting = "S: 220 x\nC: EHLO me.example\n";
    let cases = [
        (
            mail(&["ann@there.example"]),
            "S: 250-x\nS: 250 SIZE 122\nC: QUIT",
            "D192.0.2.1 takes messages of up to 122 bytes; this one has 123. (#5.3.4)\n",
        ),
        (
            Mail { reverse_path: "j\u{f6}@me.example".into(), ..mail(&["ann@there.example"]) },
            "S: 250 x\nC: QUIT",
            "D192.0.2.1 does not take non-ASCII addresses (SMTPUTF8). (#5.6.7)\n",
        ),
        (
            Mail { reverse_path: b"joe\r\nRSET@me.example".to_vec(), ..mail(&["ann@there.example"]) },
            "S: 250 x\nC: QUIT",
            "DSorry, SMTP cannot carry that address. (#5.1.7)\n",
        ),
        (
            mail(&["ann@there.example> SIZE=1"]),
            "S: 250 x\nC: QUIT",
            "DSorry, SMTP cannot carry that address. (#5.1.3)\nGiving up on 192.0.2.1.\n",
        ),
        (
            mail(&["j\u{f6}@there.example"]),
            "S: 250 x\nC: QUIT",
            "D192.0.2.1 does not take non-ASCII addresses (SMTPUTF8). (#5.6.7)\nGiving up on 192.0.2.1.\n",
        ),
    ];
    for (mail, transcript, expected) in cases {
        assert_eq!(report(&play(mail, &format!("{greeting}{transcript}")), 0), expected);
    }
}

#[test]
fn a_good_recipient_is_not_lost_for_a_bad_one() {
    let outcome = play(
        mail(&["j\u{f6}@there.example", "ann@there.example"]),
        "
        S: 220 x
        C: EHLO me.example
        S: 250 x
        C: MAIL FROM:<joe@me.example>
        S: 250 ok
        C: RCPT TO:<ann@there.example>
        S: 250 ok
        C: DATA
        S: 354 go
        C: <data>
        S: 250 ok
        C: QUIT
        ",
    );
    assert_eq!(report(&outcome, 0), "D192.0.2.1 does not take non-ASCII addresses (SMTPUTF8). (#5.6.7)\n");
    assert_eq!(report(&outcome, 1), "K192.0.2.1 accepted message.\nRemote host said: 250 ok\n");
}

#[test]
fn many_recipients_go_in_batches() {
    let to: Vec<Vec<u8>> = (0..250).map(|n| format!("u{n}@there.example").into_bytes()).collect();
    let mut client = Client::new(Mail { forward_paths: to, ..mail(&[]) });
    assert_eq!(client.step(b"220 x\r\n"), 7);
    client.poll(&mut Vec::new());
    client.step(b"250-x\r\n250 PIPELINING\r\n");
    let mut batches = Vec::new();
    loop {
        let mut out = Vec::new();
        let want = client.poll(&mut out);
        if want != Want::Read(Wait::Envelope) {
            assert_eq!(out, b"DATA\r\n");
            break;
        }
        let lines = out.iter().filter(|&&b| b == b'\n').count();
        batches.push(lines);
        let replies = b"250 ok\r\n".repeat(lines);
        assert_eq!(client.step(&replies), replies.len());
    }
    assert_eq!(batches, [100, 100, 51]);
}

#[test]
fn a_reply_to_what_was_not_said_is_not_read() {
    let mut client = Client::new(mail(&["ann@there.example"]));
    assert_eq!(client.step(b"220 x\r\n250 x\r\n250 ok\r\n"), 7);
    let mut out = Vec::new();
    client.poll(&mut out);
    assert_eq!(out, b"EHLO me.example\r\n");
}

#[test]
fn what_is_not_smtp() {
    let long = "x".repeat(300_000);
    let many = "220-x\r\n".repeat(200);
    for noise in
        ["SSH-2.0-OpenSSH\r\n", "\r\n", "22\r\n", "220x\r\n", "999 x\r\n", "\u{f6}\u{f6}\r\n", &long, &many]
    {
        let mut client = Client::new(mail(&["ann@there.example"]));
        client.step(noise.as_bytes());
        let mut out = Vec::new();
        assert_eq!(client.poll(&mut out), Want::Done, "{:.20}", noise);
        assert_eq!(out, b"");
        let outcome = client.outcome().unwrap();
        assert_eq!(report(&outcome, 0), "ZConnected to 192.0.2.1 but its reply is not SMTP. (#4.5.0)\n");
        assert!(!outcome.greeted);
    }
    let mut client = at_data();
    client.data_sent(Ok(()));
    client.poll(&mut Vec::new());
    client.step(b"HTTP\r\n");
    let expected = "ZConnected to 192.0.2.1 but its reply is not SMTP. Possible duplicate! (#4.5.0)\n";
    assert_eq!(report(&client.outcome().unwrap(), 0), expected);
}

#[test]
fn what_is_kept_of_a_reply_is_bounded_and_printable() {
    let mut client = Client::new(mail(&["ann@there.example"]));
    client.step(format!("554-{}\r\n554 \0\u{1b}[2J\r\n", "x".repeat(100_000)).as_bytes());
    let report = client.outcome().unwrap().message;
    let head = "Connected to 192.0.2.1 but greeting failed.\nRemote host said: 554-xxx";
    assert!(report.text.starts_with(head) && report.text.ends_with("x\n554 ??[2J\n"));
    assert_eq!(report.text.len(), head.len() - 7 + 2048 + 1 + "554 ??[2J\n".len());

    let mut client = Client::new(mail(&["ann@there.example"]));
    let mut replies = format!("554-{}\r\n", "x".repeat(1000)).repeat(100);
    replies.push_str("554 end\r\n");
    client.step(replies.as_bytes());
    let text = client.outcome().unwrap().message.text;
    assert_eq!(text.split_once("said: ").unwrap().1.len(), 5000 + 1);
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        &b"220 x\r\n"[..],
        b"250 ok\r\n",
        b"250-x\r\n",
        b"250-PIPELINING\r\n",
        b"250 SIZE 5\r\n",
        b"354 go\n",
        b"450 no\r\n",
        b"550 no\r\n",
        b"554-no\r\n",
        b"\r\n",
        b"\0",
    ])
    .prop_map(<[u8]>::to_vec);
    let pieces = prop_oneof![9 => known, 1 => prop::collection::vec(any::<u8>(), 0..6)];
    prop::collection::vec(pieces, 0..20).prop_map(|pieces| [b"220 x\r\n".to_vec(), pieces.concat()].concat())
}

/// Everything a client says and reports when it hears these bytes, cut into reads like this, and then the end.
fn hear(input: &[u8], cut: usize) -> (Vec<u8>, Outcome) {
    let mut client = Client::new(mail(&["ann@there.example", "bob@there.example"]));
    let (mut out, mut rest) = (Vec::new(), input);
    loop {
        match client.poll(&mut out) {
            Want::Done => break,
            Want::SendData => client.data_sent(Ok(())),
            Want::Read(_) if rest.is_empty() => client.connection_died(),
            Want::Read(_) => rest = &rest[client.step(&rest[..rest.len().min(cut)])..],
        }
    }
    (out, client.outcome().expect("done"))
}

proptest! {
    #[test]
    fn where_the_reads_end_changes_nothing(input in noise(), cut in 1usize..20) {
        prop_assert_eq!(hear(&input, cut), hear(&input, usize::MAX));
    }
}
