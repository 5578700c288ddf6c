//! What clients must not send, and disks that fill up.

use std::io::Write;
use std::time::Duration;

use mailtree_tests::chance::Chance;
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::probe::resident;
use mailtree_tests::smtp::{Client, dial, play};
use mailtree_tests::wait::{tick, wait_until};

/// The host still works, and nothing but `count` letters came to bob.
fn well(host: &Host, count: usize) {
    host.send("sender@mx.test", &["bob@mx.test"], &letter("well", 300));
    host.maildir("bob").wait(count + 1, PATIENCE);
    host.wait_queue_empty(PATIENCE);
    assert!(host.status().iter().all(|row| row["restarts"] == 0), "{:#?}", host.status());
}

#[test]
fn a_line_too_long_is_refused_and_the_session_goes_on() {
    let host = Host::start();
    let mut client = host.smtp();
    client.say("HELO client.test", 250);
    client.say(&format!("MAIL FROM:<{}@mx.test>", "a".repeat(100_000)), 500);
    client.say(&format!("NOOP {}", "a".repeat(3000)), 500);
    client.say("NOOP", 250);
    well(&host, 0);
}

#[test]
fn nul_bytes_in_commands_are_refused() {
    let host = Host::start();
    for line in ["NO\0OP", "MAIL FROM:<a\0b@mx.test>", "RCPT TO:<bob@mx.test\0.evil.test>", "\0"] {
        let mut client = host.smtp();
        client.say("HELO client.test", 250);
        if line.starts_with("RCPT") {
            client.say("MAIL FROM:<sender@mx.test>", 250);
        }
        let reply = client.command(line).unwrap();
        assert!((500..600).contains(&reply.code), "{line:?}: {}", reply.text());
    }
    well(&host, 0);
}

#[test]
fn binary_mail_data_arrives_byte_for_byte() {
    let host = Host::start();
    // Every byte but CR and LF, which have a meaning.
    let line: Vec<u8> = (0..=255_u8).filter(|byte| !b"\r\n".contains(byte)).collect();
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client.say("MAIL FROM:<sender@mx.test>", 250);
    client.say("RCPT TO:<bob@mx.test>", 250);
    client.say("DATA", 354);
    client.send(&[b"Subject: bytes\r\n\r\n", &line[..], b"\r\n.\r\n"].concat()).unwrap();
    client.reply().unwrap().expect(250);
    wait_until("the message", PATIENCE, || host.maildir("bob").count() == 1);
    let delivered = host.maildir("bob").messages().remove(0);
    assert!(delivered.ends_with(&[b"Subject: bytes\n\n", &line[..], b"\n"].concat()));
}

#[test]
fn a_line_of_one_mib_in_the_data_arrives() {
    let host = Host::start();
    let text = format!("Subject: wide\n\n{}\n", "w".repeat(1 << 20));
    host.send("sender@mx.test", &["bob@mx.test"], &text);
    assert!(host.maildir("bob").wait(1, PATIENCE)[0].ends_with(&text));
}

/// RFC 5321 2.3.8 and 4.1.1.4: CRLF.CRLF alone ends the data. What others take for an end must not smuggle a second message.
#[test]
fn nothing_is_smuggled_behind_other_line_ends() {
    let host = Host::start();
    for end in ["\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\r\n.\r\r\n", "\n\n.\r\n"] {
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        client.say("MAIL FROM:<sender@mx.test>", 250);
        client.say("RCPT TO:<bob@mx.test>", 250);
        client.say("DATA", 354);
        let second = "MAIL FROM:<sender@mx.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\nQUIT\r\n";
        client.send(format!("Subject: first\r\n\r\nx{end}{second}").as_bytes()).unwrap();
        let rest = client.rest().unwrap_or_default();
        let taken = rest.lines().filter(|line| line.starts_with("250") && line.contains(" qp ")).count();
        assert!(taken <= 1, "{end:?} ended the data:\n{rest}");
    }
    // One that ends in a bare LF is refused with qmail's words and the connection is closed.
    let mut client = host.smtp();
    client.say("HELO client.test", 250);
    client.say("MAIL FROM:<sender@mx.test>", 250);
    client.say("RCPT TO:<bob@mx.test>", 250);
    client.say("DATA", 354);
    client.send(b"a line with a bare \n inside\r\n").unwrap();
    assert_eq!(client.rest().unwrap(), "451 See https://cr.yp.to/docs/smtplf.html.\r\n");
}

#[test]
fn noise_is_answered_and_ends_the_session() {
    let host = Host::start();
    let mut chance = Chance::new();
    for _ in 0..50 {
        let mut stream = dial(host.address().get()).unwrap();
        // Noise before the greeting gets no session at all.
        stream.peek(&mut [0]).unwrap();
        let noise: Vec<u8> = (0..chance.between(1, 20_000)).map(|_| chance.bits() as u8).collect();
        // The server may hang up in the middle of it.
        stream.write_all(&noise).ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut rest).ok();
        assert!(rest.starts_with(b"220 "), "{:?}", String::from_utf8_lossy(&rest));
    }
    well(&host, 0);
}

#[test]
fn twenty_errors_are_enough() {
    let host = Host::start();
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    let mut replies = Vec::new();
    for _ in 0..30 {
        match client.command("BLAH") {
            Ok(reply) => replies.push(reply.text()),
            Err(_) => break,
        }
    }
    assert!(replies.len() <= 21, "{} errors answered", replies.len());
    let last = replies.last().unwrap();
    assert!(last.starts_with("421 4.7.0 "), "{last}");
}

#[test]
fn a_silent_client_is_told_the_time_is_up() {
    let host = Setup::new().control("timeoutsmtpd", "1\n").start();
    play(
        host.address().get(),
        "S: 220 mx.test ESMTP
         S: 451 timeout (#4.4.2)
         S: (closes)",
    );
    let mut client = host.smtp();
    client.say("HELO client.test", 250);
    client.say("MAIL FROM:<sender@mx.test>", 250);
    client.say("RCPT TO:<bob@mx.test>", 250);
    client.say("DATA", 354);
    client.send(b"Subject: half").unwrap();
    assert_eq!(client.reply().unwrap().text(), "451 timeout (#4.4.2)");
    assert!(client.closed());
    well(&host, 0);
}

#[test]
fn half_a_message_is_no_message() {
    let host = Host::start();
    for half in [
        "Subject: x\r\n\r\nhalf a line",
        "Subject: x\r\n\r\na line\r\n",
        "Subject: x\r\n\r\na line\r\n.",
        "Subject: x\r\n\r\na line\r\n.\r",
    ] {
        let mut client = host.smtp();
        client.say("HELO client.test", 250);
        client.say("MAIL FROM:<sender@mx.test>", 250);
        client.say("RCPT TO:<bob@mx.test>", 250);
        client.say("DATA", 354);
        client.send(half.as_bytes()).unwrap();
        client.half_close().unwrap();
        assert_eq!(client.rest().unwrap(), "", "{half:?}");
    }
    well(&host, 0);
}

#[test]
fn a_slow_writer_is_served_and_delays_nobody() {
    let host = Host::start();
    let address = host.address().get();
    let slow = std::thread::spawn(move || {
        let mut client = Client::connect(address).unwrap();
        let text = letter("slow", 200);
        client.say("HELO client.test", 250);
        client.say("MAIL FROM:<sender@mx.test>", 250);
        client.say("RCPT TO:<bob@mx.test>", 250);
        client.say("DATA", 354);
        for byte in mailtree_tests::smtp::wire(&text) {
            client.send(&[byte]).unwrap();
            tick(Duration::from_millis(3));
        }
        client.reply().unwrap().expect(250);
    });
    let start = std::time::Instant::now();
    host.send("sender@mx.test", &["sender@mx.test"], &letter("quick", 200));
    assert!(start.elapsed() < Duration::from_secs(2));
    host.maildir("sender").wait(1, PATIENCE);
    slow.join().unwrap();
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn a_hundred_half_open_connections_are_cleared_away() {
    let host = Setup::new().control("timeoutsmtpd", "1\n").start();
    let open: Vec<_> = (0..100).map(|_| dial(host.address().get()).unwrap()).collect();
    wait_until("all sessions to end", PATIENCE, || {
        host.metrics().series("mailtree_permits_in_use").values().all(|value| *value == 0.0)
    });
    drop(open);
    well(&host, 0);
}

#[test]
fn odd_addresses_are_taken_or_refused_and_never_misread() {
    let host = Host::start();
    let table = [
        ("RCPT TO:<bob@mx.test>", 250),
        ("RCPT TO: <bob@mx.test>", 250),
        ("rcpt to:<bob@mx.test>", 250),
        ("RCPT TO:<\"bob\"@mx.test>", 250),
        ("RCPT TO:<@relay.test:bob@mx.test>", 250),
        ("RCPT TO:<>", 555),
        ("RCPT TO:<bob@mx.test> NOTIFY=NEVER", 555),
        ("RCPT bob@mx.test", 555),
    ];
    for (line, code) in table {
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        client.say("MAIL FROM:<sender@mx.test>", 250);
        let reply = client.command(line).unwrap();
        assert_eq!(reply.code, code, "{line}: {}", reply.text());
    }
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client.say(&format!("MAIL FROM:<{}@mx.test>", "a".repeat(1000)), 555);
    client.say("MAIL FROM:<gr\u{fc}n@mx.test>", 553);
}

#[test]
fn ten_thousand_sessions_leave_nothing_behind() {
    let host = Host::start();
    let cycle = |count| {
        for _ in 0..count {
            let client = host.smtp();
            drop(client);
        }
    };
    cycle(2000);
    let before = resident(host.pid());
    cycle(8000);
    let grown = resident(host.pid()).saturating_sub(before);
    assert!(grown < 6 << 10, "memory grew by {grown} KiB");
}

mod needs_root {
    use mailtree_tests::disk::Disk;
    use mailtree_tests::load::{Load, Plan};
    use mailtree_tests::maildir::Arrivals;

    use super::*;

    #[test]
    fn below_the_floor_of_free_space_mail_is_refused_for_now() {
        let disk = Disk::new(40);
        let host = Setup::at(disk.path().join("home")).field("queue", "(free_bytes: 67108864)").start();
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        let reply =
            client.transact("sender@mx.test", &["bob@mx.test"], &letter("full", 300)).unwrap().expect(452);
        assert!(reply.text().starts_with("452 4.3.1 "), "{}", reply.text());
    }

    #[test]
    fn a_disk_that_really_fills_up_loses_nothing() {
        let disk = Disk::new(24);
        let host = Setup::at(disk.path().join("home"))
            .field("queue", "(free_bytes: 0, free_inodes: 0)")
            .control("concurrencylocal", "0\n")
            .start();
        // The home stands on its own disk; what fills it stands beside it.
        let ballast = disk.path().join("ballast");
        let full = disk.path().join("home");
        std::fs::write(&ballast, vec![b'x'; 8 << 20]).unwrap();
        let load =
            Load::start(host.address(), &Plan { size: 64 << 10, ..Plan::to("bob@mx.test", "full", 2000) });
        wait_until("the disk to be full", Duration::from_secs(60), || {
            load.refusals().iter().any(|reply| reply.starts_with("451 ") || reply.starts_with("452 "))
        });
        for reply in load.refusals() {
            assert!(reply.starts_with("451 ") || reply.starts_with("452 "), "{reply}");
        }
        let accepted = load.stop();
        std::fs::remove_file(&ballast).unwrap();
        assert!(full.is_dir() && !accepted.is_empty());
        host.control("concurrencylocal", "10\n");
        host.ask(&["svc", "-t", "send"]);
        let mut bob = Arrivals::new(host.maildir("bob"));
        wait_until("all accepted letters", Duration::from_secs(60), || {
            bob.look();
            host.run(&["svc", "-a", "send"]);
            bob.missing(&accepted).is_empty()
        });
        host.wait_up();
        host.send("sender@mx.test", &["bob@mx.test"], &letter("after", 300));
    }
}
