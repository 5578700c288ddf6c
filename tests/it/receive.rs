//! SMTP in, and local delivery to Maildirs.

use std::fs;
use std::time::Duration;

use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::{letter, read};
use mailtree_tests::smtp::like;

#[test]
fn the_dialogue_after_helo_is_qmails() {
    Host::start().play(
        "S: 220 mx.test ESMTP
         C: HELO client.test
         S: 250 mx.test
         C: NOOP
         S: 250 ok
         C: VRFY bob
         S: 252 *
         C: HELP
         S: 214 *
         C: RCPT TO:<bob@mx.test>
         S: 503 MAIL first (#5.5.1)
         C: DATA
         S: 503 MAIL first (#5.5.1)
         C: MAIL FROM:<sender@mx.test>
         S: 250 ok
         C: DATA
         S: 503 RCPT first (#5.5.1)
         C: RCPT TO:<bob@mx.test>
         S: 250 ok
         C: RSET
         S: 250 flushed
         C: MAIL FROM:<>
         S: 250 ok
         C: RCPT TO:<bob@mx.test>
         S: 250 ok
         C: DATA
         S: 354 go ahead
         C: Subject: one
         C:
         C: ..a dot
         C: .
         S: 250 ok * qp *
         C: BLAH
         S: 502 unimplemented (#5.5.1)
         C: QUIT
         S: 221 mx.test
         S: (closes)",
    );
}

#[test]
fn the_dialogue_after_ehlo_has_extensions_and_enhanced_codes() {
    let host = Host::start();
    let mut client = host.smtp();
    let reply = client.say("EHLO client.test", 250);
    assert_eq!(reply.lines[0], "250-mx.test");
    let offers =
        |keyword: &str| reply.lines[1..].iter().any(|line| line[4..].split(' ').next() == Some(keyword));
    for keyword in ["PIPELINING", "8BITMIME", "SIZE", "ENHANCEDSTATUSCODES", "STARTTLS", "SMTPUTF8"] {
        assert!(offers(keyword), "{keyword} is missing: {}", reply.text());
    }
    for keyword in ["AUTH", "CHUNKING", "DSN"] {
        assert!(!offers(keyword), "{keyword} is offered and does not exist: {}", reply.text());
    }
    assert_eq!(client.say("MAIL FROM:<sender@mx.test> SIZE=100 BODY=8BITMIME", 250).text(), "250 2.1.0 ok");
    assert_eq!(client.say("RCPT TO:<bob@mx.test>", 250).text(), "250 2.1.5 ok");
    client.say("DATA", 354);
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n").unwrap();
    let reply = client.reply().unwrap().expect(250).text();
    assert!(like("250 2.* ok * qp *", &reply), "{reply}");
}

#[test]
fn a_message_arrives_whole_with_its_trace() {
    let host = Host::start();
    let text = letter("trace", 5000);
    host.send("sender@mx.test", &["bob@mx.test"], &text);
    let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
    assert_eq!(read(delivered.as_bytes()), Ok("trace".to_owned()));
    let head = delivered.strip_suffix(&text).unwrap();
    let lines: Vec<_> = head.lines().collect();
    assert_eq!(lines[0], "Return-Path: <sender@mx.test>");
    assert_eq!(lines[1], "Delivered-To: bob@mx.test");
    assert!(like("Received: (qmail * invoked *); * -0000", lines[2]), "{head}");
    assert!(like("Received: from * (HELO client.test) (127.0.0.1)", lines[3]), "{head}");
    assert!(like("  by * with ESMTP; * -0000", lines[4]), "{head}");
    assert_eq!(lines.len(), 5, "{head}");
    assert_eq!(host.maildir("bob").unfinished(), 0);
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn one_local_delivery_is_logged_as_qmail_send_logs_it() {
    let host = Host::start();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("log", 100));
    let end = host.wait_log("end msg *");
    let id = end.strip_prefix("end msg ").unwrap();
    let log = host.log_lines();
    let at = log.iter().position(|line| *line == format!("new msg {id}")).expect("new msg");
    let story = [
        format!("new msg {id}"),
        format!("info msg {id}: bytes * from <sender@mx.test> qp * uid *"),
        format!("starting delivery 1: msg {id} to local mx.test-bob@mx.test"),
        "status: local 1/100 remote 0/100".to_owned(),
        "delivery 1: success: did_*".to_owned(),
        "status: local 0/100 remote 0/100".to_owned(),
        format!("end msg {id}"),
    ];
    let send = |line: &&String| {
        ["new", "info", "starting", "status:", "delivery", "end"].iter().any(|word| line.starts_with(word))
    };
    let said: Vec<_> = log[at..].iter().filter(send).collect();
    assert_eq!(said.len(), story.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(&story) {
        assert!(like(expected, said), "expected {expected:?}, logged {said:?}");
    }
}

#[test]
fn every_log_line_has_a_tai64n_stamp() {
    let host = Host::start();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("stamp", 100));
    host.wait_log("end msg *");
    for line in host.log().lines() {
        let stamp = line.split(' ').next().unwrap();
        let fits = stamp.len() == 25
            && stamp.starts_with("@4")
            && stamp[1..].bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(fits, "no stamp: {line:?}");
    }
}

#[test]
fn a_whole_transaction_in_one_packet() {
    let host = Host::start();
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client
        .send(b"MAIL FROM:<sender@mx.test>\r\nRCPT TO:<bob@mx.test>\r\nRCPT TO:<sender@mx.test>\r\nDATA\r\n")
        .unwrap();
    for code in [250, 250, 250, 354] {
        client.reply().unwrap().expect(code);
    }
    client.send(b"Subject: p\r\n\r\np\r\n.\r\nMAIL FROM:<>\r\nRSET\r\nQUIT\r\n").unwrap();
    for code in [250, 250, 250, 221] {
        client.reply().unwrap().expect(code);
    }
    assert!(client.closed());
    host.maildir("bob").wait(1, PATIENCE);
    host.maildir("sender").wait(1, PATIENCE);
}

#[test]
fn a_message_of_8_mib_is_streamed_not_held() {
    use mailtree_tests::probe::peak_resident;
    let host = Host::start();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("warm", 1000));
    let before = peak_resident(host.pid());
    let text = letter("large", 8 << 20);
    host.send("sender@mx.test", &["bob@mx.test"], &text);
    let delivered = host.maildir("bob").wait(2, PATIENCE);
    assert!(delivered.iter().any(|message| message.ends_with(&text)), "the large message is not whole");
    let grown = peak_resident(host.pid()).saturating_sub(before);
    assert!(grown < 6 << 10, "peak memory grew by {grown} KiB for a message of 8 MiB");
}

#[test]
fn databytes_refuses_by_declared_and_by_real_size() {
    let host = Setup::new().control("databytes", "5000\n").start();
    let mut client = host.smtp();
    let reply = client.say("EHLO client.test", 250);
    assert!(reply.lines.iter().any(|line| line[4..] == *"SIZE 5000"), "{}", reply.text());
    let refusal = "552 5.3.4 sorry, that message size exceeds my databytes limit (#5.3.4)";
    assert_eq!(client.say("MAIL FROM:<sender@mx.test> SIZE=5001", 552).text(), refusal);
    let reply = client.transact("sender@mx.test", &["bob@mx.test"], &letter("long", 20_000)).unwrap();
    assert_eq!(reply.text(), refusal);
    client.transact("sender@mx.test", &["bob@mx.test"], &letter("short", 3000)).unwrap().expect(250);
    host.maildir("bob").wait(1, PATIENCE);
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn a_message_that_went_round_a_hundred_times_is_refused() {
    let host = Host::start();
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    let hops = |count| {
        format!("{}Subject: x\n\nReceived: in the body is no hop\n", "Received: from a by b\n".repeat(count))
    };
    let reply = client.transact("sender@mx.test", &["bob@mx.test"], &hops(100)).unwrap().expect(554).text();
    assert_eq!(reply, "554 5.4.6 too many hops, this message is looping (#5.4.6)");
    client.transact("sender@mx.test", &["bob@mx.test"], &hops(90)).unwrap().expect(250);
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn badmailfrom_is_told_at_rcpt_and_read_anew_for_each_session() {
    let host = Setup::new().control("badmailfrom", "spammer@evil.test\n@worse.test\n").start();
    let refused = |from: &str| {
        let mut client = host.smtp();
        client.say("HELO client.test", 250);
        client.say(&format!("MAIL FROM:<{from}>"), 250);
        client.command("RCPT TO:<bob@mx.test>").unwrap().text()
    };
    let refusal = "553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)";
    assert_eq!(refused("spammer@evil.test"), refusal);
    assert_eq!(refused("SPAMMER@EVIL.test"), refusal);
    assert_eq!(refused("anyone@worse.test"), refusal);
    assert_eq!(refused("friend@evil.test"), "250 ok");
    host.control("badmailfrom", "@nowhere.test\n");
    assert_eq!(refused("spammer@evil.test"), "250 ok");
}

#[test]
fn aliases_deliver_to_maildirs_and_forward() {
    let setup = Setup::new().control("locals", "alias.test\n");
    let alias = setup.home().join("alias");
    for dir in ["cur", "new", "tmp"] {
        fs::create_dir_all(alias.join("Team").join(dir)).unwrap();
    }
    fs::write(alias.join(".qmail-team"), "# the team\n./Team/\n&bob@mx.test\nsender@mx.test\n").unwrap();
    setup.give(&alias);
    let host = setup.start();
    host.send("sender@mx.test", &["team@alias.test"], &letter("team", 300));
    let kept = mailtree_tests::maildir::Maildir::new(alias.join("Team")).wait(1, PATIENCE);
    assert!(kept[0].contains("Delivered-To: team@alias.test\n"), "{}", kept[0]);
    for user in ["bob", "sender"] {
        let forwarded = host.maildir(user).wait(1, PATIENCE).remove(0);
        assert_eq!(read(forwarded.as_bytes()), Ok("team".to_owned()));
        assert!(forwarded.contains(&format!("Delivered-To: {user}@mx.test\n")), "{forwarded}");
        assert!(forwarded.contains("Delivered-To: team@alias.test\n"), "{forwarded}");
    }
    host.wait_log("delivery *: success: did_1+2+0/*");
}

#[test]
fn a_new_domain_and_a_new_user_receive_without_a_restart() {
    let host = Host::start();
    host.run(&["vadddomain", "other.test", "secret-of-the-test"]).expect(0);
    host.run(&["vadduser", "ann@other.test", "secret-of-the-test"]).expect(0);
    host.send("sender@mx.test", &["ann@other.test", "postmaster@other.test"], &letter("new", 300));
    host.maildir_of("other.test", "ann").wait(1, PATIENCE);
    host.maildir_of("other.test", "postmaster").wait(1, PATIENCE);
}

#[test]
fn names_of_domains_and_users_match_in_any_case() {
    let host = Host::start();
    host.send("sender@mx.test", &["Bob@MX.Test"], &letter("case", 300));
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn a_thousand_recipients_and_not_one_more() {
    let host = Host::start();
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client.say("MAIL FROM:<sender@mx.test>", 250);
    for _ in 0..1000 {
        client.say("RCPT TO:<bob@mx.test>", 250);
    }
    let reply = client.say("RCPT TO:<bob@mx.test>", 452).text();
    assert!(reply.starts_with("452 4.5.3 "), "{reply}");
    client.say("RSET", 250);
}

#[test]
fn two_services_of_one_kind_listen_side_by_side() {
    let services = "{ \"smtpd\": smtpd(listen: [\"127.0.0.1:0\", \"[::1]:0\"]), \"second\": smtpd(listen: [\"127.0.0.1:0\"]) }";
    let host = Setup::new().field("services", services).start();
    let listens = host.service("smtpd").unwrap()["listen"].as_array().unwrap().clone();
    assert_eq!(listens.len(), 2);
    for address in
        [listens[0].as_str().unwrap(), listens[1].as_str().unwrap(), &host.listens("second").to_string()]
    {
        mailtree_tests::smtp::play(
            address.parse().unwrap(),
            "S: 220 mx.test ESMTP\nC: QUIT\nS: 221 mx.test\nS: (closes)",
        );
    }
}

mod needs_postfix {
    use std::collections::BTreeSet;

    use mailtree_tests::postfix::source;

    use super::*;

    #[test]
    fn smtp_source_2000_messages_at_20_sessions_arrive_once_and_equal() {
        let host = Host::start();
        source(host.address().get(), "sender@mx.test", "bob@mx.test", 2000, 1024, 20);
        let limit = Duration::from_secs(60);
        let messages = host.maildir("bob").wait(2000, limit);
        let bodies: BTreeSet<_> =
            messages.iter().map(|message| message.split_once("\n\n").unwrap().1).collect();
        assert_eq!(bodies.len(), 1, "bodies differ: {bodies:?}");
        let body = bodies.first().unwrap();
        assert!(
            body.len() >= 1000
                && body.trim_end().chars().all(|byte| byte == 'X' || byte == '\n' || byte.is_ascii_digit()),
            "{body:?}"
        );
        let id = |message: &str| {
            message.lines().find_map(|line| line.strip_prefix("Message-Id: ").map(str::to_owned))
        };
        let ids: BTreeSet<_> = messages.iter().map(|message| id(message).expect("Message-Id")).collect();
        assert_eq!(ids.len(), 2000, "some message came twice and another never");
        host.wait_queue_empty(limit);
        assert_eq!(host.maildir("bob").unfinished(), 0);
    }
}

mod needs_root {
    use std::process::Command;

    use mailtree_tests::host::Ran;

    use super::*;

    /// In a network namespace of its own, where 192.0.2.7 is a client that may not relay.
    const STRANGER: &[&str] = &[
        "unshare",
        "-n",
        "sh",
        "-c",
        "ip link set lo up && ip addr add 192.0.2.7/32 dev lo && exec \"$@\"",
        "sh",
    ];

    /// What smtpd answers a stranger's `RCPT TO:<mailbox>` (the reply's code).
    fn rcpt_from_outside(host: &Host, mailbox: &str) -> u16 {
        let script = format!(
            "import smtplib\n\
             s = smtplib.SMTP('192.0.2.7', 2525, source_address=('192.0.2.7', 0), timeout=20)\n\
             s.helo('out.test'); s.mail('a@out.test')\n\
             print(s.rcpt('{mailbox}')[0])"
        );
        let pid = host.pid().to_string();
        let ran =
            Ran::new(Command::new("nsenter").args(["-t", &pid, "-n", "python3", "-c", &script])).expect(0);
        ran.stdout.trim().parse().unwrap()
    }

    fn with_rcpthosts(rcpthosts: Option<&str>) -> Host {
        let setup = Setup::new()
            .under(STRANGER)
            .field("services", "{ \"smtpd\": smtpd(listen: [\"0.0.0.0:2525\"]) }");
        let file = setup.home().join("control/rcpthosts");
        match rcpthosts {
            Some(text) => fs::write(file, text).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
        setup.start()
    }

    #[test]
    fn strangers_reach_rcpthosts_only() {
        let host = with_rcpthosts(Some("mx.test\n.sub.test\n"));
        let table = [
            ("bob@mx.test", 250),
            ("bob@MX.TEST", 250),
            ("x@a.sub.test", 250),
            ("x@sub.test", 553),
            ("x@out.test", 553),
            ("x@notmx.test", 553),
            ("bob%out.test@mx.test", 250),
            ("x@out.test.", 553),
            ("postmaster", 250),
        ];
        for (mailbox, code) in table {
            assert_eq!(rcpt_from_outside(&host, mailbox), code, "{mailbox}");
        }
    }

    #[test]
    fn without_rcpthosts_strangers_reach_nobody() {
        let host = with_rcpthosts(None);
        assert_eq!(rcpt_from_outside(&host, "bob@mx.test"), 553);
        assert_eq!(rcpt_from_outside(&host, "x@out.test"), 553);
    }
}
