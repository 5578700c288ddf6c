//! More work than permits: some wait, nobody is lost, memory stays.

use std::io::{BufReader, Read};
use std::time::{Duration, Instant};

use mailtree_tests::host::{PATIENCE, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::load::{Load, Plan};
use mailtree_tests::maildir::Arrivals;
use mailtree_tests::probe::resident;
use mailtree_tests::smtp::{dial, play, read_reply, wire};
use mailtree_tests::wait::{holds_for, tick, wait_until};

#[test]
fn ten_times_concurrencyincoming_connections_are_served_in_turn() {
    let host = Setup::new().control("concurrencyincoming", "20\n").start();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("warm", 300));
    let before = resident(host.pid());
    let mut waiting: Vec<_> = (0..200).map(|_| dial(host.address().get()).unwrap()).collect();
    for stream in &waiting {
        stream.set_nonblocking(true).unwrap();
    }
    let mut most = 0.0_f64;
    let mut served = 0;
    let start = Instant::now();
    let mut buffer = [0; 512];
    // Who is greeted holds on for a while, then sends a letter and leaves: the next one's turn.
    while !waiting.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "{served} of 200 served");
        let (greeted, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|stream| stream.peek(&mut buffer).is_ok_and(|read| read > 0));
        waiting = rest;
        assert!(greeted.len() <= 20, "{} sessions at the same time", greeted.len());
        let sessions = host.metrics().sum("mailtree_permits_in_use", &["smtpd"]);
        most = most.max(sessions);
        assert!(sessions <= 20.0, "{sessions} permits in use");
        for stream in greeted {
            stream.set_nonblocking(false).unwrap();
            let mut stream = BufReader::new(stream);
            read_reply(&mut stream).unwrap().expect(220);
            let say = |stream: &mut BufReader<std::net::TcpStream>, bytes: &[u8], code| {
                std::io::Write::write_all(stream.get_mut(), bytes).unwrap();
                read_reply(stream).unwrap().expect(code);
            };
            say(&mut stream, b"HELO client.test\r\n", 250);
            say(&mut stream, b"MAIL FROM:<sender@mx.test>\r\n", 250);
            say(&mut stream, b"RCPT TO:<bob@mx.test>\r\n", 250);
            say(&mut stream, b"DATA\r\n", 354);
            say(&mut stream, &wire(&letter(&format!("turn-{served}"), 500)), 250);
            say(&mut stream, b"QUIT\r\n", 221);
            served += 1;
        }
    }
    assert!(most > 0.0, "the permits never showed in the metrics");
    let mut bob = Arrivals::new(host.maildir("bob"));
    wait_until("200 letters", PATIENCE, || {
        bob.look();
        bob.copies.len() == 201
    });
    let grown = resident(host.pid()).saturating_sub(before);
    assert!(grown < 16 << 10, "memory grew by {grown} KiB");
}

#[test]
fn a_connection_beyond_the_permits_waits_for_its_greeting() {
    let host = Setup::new().control("concurrencyincoming", "5\n").start();
    let mut greeted = Vec::new();
    for _ in 0..5 {
        greeted.push(host.smtp());
    }
    let late = dial(host.address().get()).unwrap();
    late.set_nonblocking(true).unwrap();
    let mut byte = [0];
    holds_for("no greeting for the sixth", Duration::from_millis(500), || late.peek(&mut byte).is_err());
    greeted.pop();
    wait_until("the greeting of the sixth", PATIENCE, || late.peek(&mut byte).is_ok_and(|read| read == 1));
}

#[test]
fn one_address_cannot_take_all_permits() {
    let host = Setup::new().smtpd("per_ip: 2, unlimited: []").start();
    let held = (host.smtp(), host.smtp());
    let mut third = BufReader::new(dial(host.address().get()).unwrap());
    let reply = read_reply(&mut third).unwrap().expect(421).text();
    assert!(reply.starts_with("421 "), "{reply}");
    let mut rest = String::new();
    third.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "after {reply}");
    drop(held);
    wait_until("the permits back", PATIENCE, || {
        mailtree_tests::smtp::Client::connect(host.address().get())
            .is_ok_and(|client| client.greeting.code == 220)
    });
}

#[test]
fn messages_being_received_are_bounded() {
    let host = Setup::new().field("queue", "(receiving: 3, segment: \"4MiB\")").start();
    let mut senders = Vec::new();
    let mut refused = 0;
    for _ in 0..5 {
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        client.say("MAIL FROM:<sender@mx.test>", 250);
        client.say("RCPT TO:<bob@mx.test>", 250);
        let reply = client.command("DATA").unwrap();
        match reply.code {
            354 => senders.push(client),
            452 => {
                assert!(reply.text().starts_with("452 4.3.1 "), "{}", reply.text());
                refused += 1;
            }
            _ => panic!("{}", reply.text()),
        }
    }
    assert_eq!((senders.len(), refused), (3, 2));
    for mut client in senders {
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n").unwrap();
        client.reply().unwrap().expect(250);
    }
    host.send("sender@mx.test", &["bob@mx.test"], &letter("again", 300));
    host.maildir("bob").wait(4, PATIENCE);
}

#[test]
fn a_client_that_reads_no_replies_costs_no_memory() {
    let host = Setup::new().control("timeoutsmtpd", "2\n").start();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("warm", 300));
    let before = resident(host.pid());
    let mut deaf = dial(host.address().get()).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let commands = b"HELP\r\n".repeat(10_000);
    // The replies fill both windows; then our writes stop too.
    let mut sent = 0_u64;
    while sent < 64 << 20 {
        match std::io::Write::write(&mut deaf, &commands) {
            Ok(written) => sent += written as u64,
            Err(_) => break,
        }
    }
    assert!(sent < 64 << 20, "the server read 64 MiB of commands whose replies nobody reads");
    let grown = resident(host.pid()).saturating_sub(before);
    assert!(grown < 8 << 10, "memory grew by {grown} KiB");
    play(host.address().get(), "S: 220 mx.test ESMTP\nC: QUIT\nS: 221 mx.test\nS: (closes)");
}

#[test]
fn a_full_queue_of_deferred_mail_does_not_grow_with_attempts() {
    let closed = mailtree_tests::host::free_port("127.0.0.1");
    let routes = format!("far.test:[127.0.0.1]:{}\n", closed.port());
    let host = Setup::new().control("smtproutes", &routes).start();
    Load::start(host.address(), &Plan::to("x@far.test", "deferred", 1000)).finish(Duration::from_secs(60));
    let attempts = |host: &mailtree_tests::host::Host| {
        host.metrics().sum("mailtree_deliveries_total", &["remote", "defer"])
    };
    wait_until("all deferred once", Duration::from_secs(60), || attempts(&host) >= 1000.0);
    let before = resident(host.pid());
    for round in 2..=5 {
        host.ask(&["svc", "-a", "send"]);
        wait_until("one more round", Duration::from_secs(60), || {
            attempts(&host) >= f64::from(round) * 1000.0
        });
    }
    let grown = resident(host.pid()).saturating_sub(before);
    assert!(grown < 8 << 10, "memory grew by {grown} KiB over 4000 attempts");
    // New local mail does not wait behind it.
    let start = Instant::now();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("prompt", 300));
    while host.maildir("bob").count() == 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "local mail waits behind deferred mail");
        tick(Duration::from_millis(10));
    }
}
