//! With the real rspamd.

use mailtree_tests::rspamd::{GTUBE, Rspamd};

use super::*;

fn asking(address: impl std::fmt::Display, simcontrol: &str) -> Host {
    setup(simcontrol, &scanner(address)).start()
}

/// Nobody listens where spamd would be.
fn scanner(address: impl std::fmt::Display) -> String {
    format!("spamd: \"{NOBODY}\", rspamd: \"{address}\"")
}

fn mail(subject: &str) -> String {
    format!("From: <sender@mx.test>\nSubject: {subject}\n\nx\n")
}

#[test]
fn check_finds_it() {
    let rspamd = Rspamd::start();
    let setup = setup(":spam=yes\n", &format!("rspamd: \"{}\"", rspamd.port()));
    setup.write();
    let said = setup.run(&["check"]).stdout;
    assert!(said.contains(&format!("scanners.rspamd: {} answers", rspamd.port())), "{said}");
}

#[test]
fn what_rspamd_says_decides() {
    let rspamd = Rspamd::start();
    let spam = |points: &str| format!("554 5.7.1 Your email is considered spam ({points} spam-hits)");
    for (simcontrol, messages) in [
        (
            ":spam=yes\n",
            vec![
                ("none", "250 *".to_owned(), "CLEAN (0.00/15.00/15.00)"),
                ("five", "250 *".to_owned(), "CLEAN (5.00/15.00/15.00)"),
                ("seven", "250 *".to_owned(), "PASSTHRU (7.00/15.00/15.00)"),
                ("twelve", "250 *".to_owned(), "PASSTHRU (12.50/15.00/15.00)"),
                ("twenty", spam("20.00"), "SPAM REJECT (20.00/15.00/15.00)"),
                ("later", "451 4.7.1 come again".to_owned(), "SOFT REJECT (0.00/15.00/15.00)"),
                ("forced", "554 5.7.1 a virus??250 ok".to_owned(), "SPAM REJECT (0.00/15.00/15.00)"),
            ],
        ),
        (
            ":spam=yes,spam_passthru=yes\n",
            vec![
                ("twenty", "250 *".to_owned(), "PASSTHRU (20.00/15.00/15.00)"),
                ("later", "451 4.7.1 come again".to_owned(), "SOFT REJECT (0.00/15.00/15.00)"),
                ("forced", "554 5.7.1 a virus??250 ok".to_owned(), "SPAM REJECT (0.00/15.00/15.00)"),
            ],
        ),
        (
            ":spam=yes,spam_hits=7\n",
            vec![
                ("five", "250 *".to_owned(), "CLEAN (5.00/15.00/7.00)"),
                ("seven", spam("7.00"), "SPAM REJECT (7.00/15.00/7.00)"),
            ],
        ),
        (
            ":spam=yes,spam_hits=30\n",
            vec![
                ("twenty", "250 *".to_owned(), "SPAM PASS (20.00/15.00/30.00)"),
                ("forced", "554 5.7.1 a virus??250 ok".to_owned(), "SPAM REJECT (0.00/15.00/30.00)"),
            ],
        ),
    ] {
        let host = asking(rspamd.port(), simcontrol);
        let mut lines = Vec::new();
        for (subject, expected, state) in messages {
            let answered = answer(&host, &mail(subject));
            assert!(like(&expected, &answered), "{simcontrol} {subject}: {answered}");
            lines.push(format!("simscan:[P]:{state}:T:{subject}:127.0.0.1:sender@mx.test:bob@mx.test"));
        }
        expect_said(&host, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn spam_leaves_a_copy_in_quarantine_also_if_it_is_large() {
    let rspamd = Rspamd::start();
    let dir = tempfile::tempdir().unwrap();
    mailtree_tests::maildir::open_to_all(dir.path());
    let socket = scanner(rspamd.socket().display());
    let scanners = format!("{socket}, quarantine: Some(\"{}\")", dir.path().display());
    let host = setup(":spam=yes\n", &scanners).start();
    // Twice what is shown to spamd.
    let large = format!("Subject: twenty\n\n{}", "0123456789\n".repeat(50_000));
    for (text, reply) in [
        (format!("Subject: x\n\n{GTUBE}\n"), "554 5.7.1 Gtube pattern"),
        (large, "554 5.7.1 Your email is considered spam (20.00 spam-hits)"),
    ] {
        assert_eq!(answer(&host, &text), reply);
        assert!(quarantined(dir.path()).iter().any(|copy| copy.ends_with(&text)));
    }
    assert_eq!(host.metrics().sum("mailtree_simscan_scans_total", &["scanner=\"rspamd\""]), 2.0);
}

#[test]
fn what_passes_has_its_fields_below_the_trace() {
    let rspamd = Rspamd::start();
    let host = asking(rspamd.port(), ":spam=yes\n");
    for (subject, fields) in [
        (
            "seven twelve no more",
            "X-Spam: Yes\nX-Spam-Flag: YES\nX-Spam-Status: Yes, score=19.50 required=15.00\n\ttests=SEVEN,TWELVE",
        ),
        ("none", "X-Spam-Status: No, score=0.00 required=15.00"),
    ] {
        let host = if subject == "none" { &host } else { &asking(rspamd.port(), ":spam=yes,spam_hits=99\n") };
        let text = format!("X-Spam-Status: No, score=-9\n{}", mail(subject));
        assert!(answer(host, &text).starts_with("250 "));
        let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
        let trace = trace(&delivered, &text);
        assert!(like("Received: by simscan * ppid: *, pid: *, t: *s", &trace[0]), "{delivered}");
        assert_eq!(trace[1], "\tscanners: none", "{delivered}");
        assert_eq!(trace[2..].join("\n"), fields, "{delivered}");
    }
}

#[test]
fn rspamd_knows_the_client_and_the_envelope() {
    let rspamd = Rspamd::start();
    let host = asking(rspamd.port(), ":spam=yes\nbob@mx.test:spamuser=joe\n");
    let told = |from: &str, to: &[&str]| answer_from(&host, from, to, &mail("tell"));
    let one = told("Sender@far.test", &["bob@mx.test"]);
    assert!(like("451 4.7.1 127.0.0.1 client.test * - Sender@far.test bob@mx.test * joe", &one), "{one}");
    let two = told("", &["bob@mx.test", "\"odd one\"@mx.test"]);
    let expected = "451 4.7.1 127.0.0.1 client.test * -  bob@mx.test,odd one@mx.test *";
    assert!(like(expected, &two) && !two.ends_with("joe"), "{two}");
    // Far more than rspamd reads: it hears of those it takes.
    let many: Vec<_> = (0..100).map(|n| format!("{}{n}@mx.test", "x".repeat(850))).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let reply = answer_from(&host, "a@far.test", &many, &format!("Subject: x\n\n{GTUBE}\n"));
    assert_eq!(reply, "554 5.7.1 Gtube pattern");
}

#[test]
fn rspamd_goes_and_comes_again() {
    let mut rspamd = Rspamd::start();
    let host = asking(rspamd.port(), ":spam=yes\n");
    assert!(answer(&host, &mail("none")).starts_with("250 "));
    rspamd.stop();
    assert_eq!(answer(&host, &mail("none")), TEMPORARY);
    rspamd.again();
    assert!(answer(&host, &mail("none")).starts_with("250 "));
    host.maildir("bob").wait(2, PATIENCE);
}

/// It closes without a word: nobody can tell it from an rspamd that has just died.
#[test]
fn a_message_beyond_its_max_message_is_refused_for_now() {
    let rspamd = Rspamd::start();
    let host = asking(rspamd.port(), ":spam=yes\n");
    assert_eq!(answer(&host, &letter("too-large", 4_000_000)), TEMPORARY);
    host.wait_log("simscan:[*]: warning: rspamd: connection lost: *; refused for now");
    assert!(answer(&host, &mail("none")).starts_with("250 "));
}

#[test]
fn twenty_at_once_are_all_answered() {
    let rspamd = Rspamd::start();
    let host = asking(rspamd.port(), ":spam=yes\n");
    let subjects = ["none", "twenty"].repeat(10);
    let replies: Vec<_> = std::thread::scope(|scope| {
        let send = |subject: &'static str| {
            let host = &host;
            scope.spawn(move || answer(host, &mail(subject)))
        };
        let sent: Vec<_> = subjects.iter().map(|subject| send(subject)).collect();
        sent.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    for (subject, reply) in subjects.iter().zip(replies) {
        assert!(reply.starts_with(if *subject == "none" { "250 " } else { "554 " }), "{subject}: {reply}");
    }
}

#[test]
fn a_controller_is_told_its_password_and_nobody_else_is() {
    let rspamd = Rspamd::start();
    for (password, taken) in [(None, false), (Some("wrong\n"), false), (Some("secret word\n"), true)] {
        let mut scanners = scanner(rspamd.controller());
        if password.is_some() {
            scanners.push_str(", rspamd_password: \"control/rspamd\"");
        }
        let host = setup(":spam=yes\n", &scanners).control("rspamd", password.unwrap_or("")).start();
        let reply = answer(&host, &mail("none"));
        if taken {
            assert!(reply.starts_with("250 "), "{reply}");
        } else {
            assert_eq!(reply, TEMPORARY);
            host.wait_log("simscan:[*]: warning: rspamd: rspamd: 401 *Unauthorized*; refused for now");
        }
        let password = password.unwrap_or("secret word").trim();
        assert!(!host.log().contains(password), "{}", host.log());
    }
}
