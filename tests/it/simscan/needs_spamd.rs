//! With the real spamd.

use mailtree_tests::spamd::{GTUBE, Spamd};

use super::*;

fn asking(spamd: &Spamd, simcontrol: &str) -> Host {
    setup(simcontrol, &scanner(spamd.port())).start()
}

fn scanner(address: SocketAddr) -> String {
    format!("spamd: \"{address}\"")
}

#[test]
fn check_finds_it() {
    let spamd = Spamd::start();
    let setup = setup(":spam=yes\n", &format!("spamd: \"{}\"", spamd.port()));
    setup.write();
    let said = setup.run(&["check"]).stdout;
    assert!(said.contains(&format!("scanners.spamd: {} answers", spamd.port())), "{said}");
}

#[test]
fn the_points_decide() {
    let spamd = Spamd::start();
    for (simcontrol, points, reply, state) in [
        (":spam=yes", "1000", "554", "SPAM REJECT (1000.00/5.00/5.00)"),
        (":spam=yes", "7", "554", "SPAM REJECT (7.00/5.00/5.00)"),
        (":spam=yes", "3", "250", "CLEAN (3.00/5.00/5.00)"),
        (":spam=yes", "0", "250", "CLEAN (0.00/5.00/5.00)"),
        (":spam=yes,spam_passthru=yes", "7", "250", "PASSTHRU (7.00/5.00/5.00)"),
        (":spam=yes,spam_passthru=yes", "3", "250", "CLEAN (3.00/5.00/5.00)"),
        (":spam=yes,spam_hits=10", "7", "250", "SPAM PASS (7.00/5.00/10.00)"),
        (":spam=yes,spam_hits=10", "1000", "554", "SPAM REJECT (1000.00/5.00/10.00)"),
        (":spam=yes,spam_hits=7.0", "7", "554", "SPAM REJECT (7.00/5.00/7.00)"),
        (":spam=yes,spam_hits=2.5,spam_passthru=yes", "3", "554", "SPAM REJECT (3.00/5.00/2.50)"),
        (":spam=yes,spam_hits=2.5", "0", "250", "CLEAN (0.00/5.00/2.50)"),
    ] {
        let host = asking(&spamd, simcontrol);
        let (subject, body) = match points {
            "1000" => ("a: test", GTUBE),
            "7" => ("seven: of them", "x"),
            "3" => ("three", "x"),
            _ => ("none", "x"),
        };
        let text = format!("From: <sender@mx.test>\nSubject: {subject}\n\n{body}\n");
        let answered = answer(&host, &text);
        let expected = match reply {
            "554" => format!("554 5.7.1 Your email is considered spam ({points}.00 spam-hits)"),
            _ => "250 2.* ok * qp *".to_owned(),
        };
        assert!(like(&expected, &answered), "{simcontrol} {points}: {answered}");
        let subject = subject.replace(':', "_");
        expect_said(
            &host,
            &[&format!("simscan:[P]:{state}:T:{subject}:127.0.0.1:sender@mx.test:bob@mx.test")],
        );
    }
}

#[test]
fn what_passes_has_the_fields_of_spamassassin_below_the_trace() {
    let spamd = Spamd::start();
    let host = asking(&spamd, ":spam=yes,spam_passthru=yes\n");
    let text = "From: <sender@mx.test>\nSubject: seven\n\nx\n";
    assert!(answer(&host, text).starts_with("250 "));
    let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
    let trace = trace(&delivered, text);
    assert!(like("Received: by simscan * ppid: *, pid: *, t: *s", &trace[0]), "{delivered}");
    assert_eq!(trace[1], "\tscanners: none", "{delivered}");
    assert!(trace.contains(&"X-Spam-Flag: YES".to_owned()), "{delivered}");
    assert!(
        trace.contains(&"X-Spam-Status: Yes, score=7.0 required=5.0 tests=SEVEN".to_owned()),
        "{delivered}"
    );
    assert!(trace[2..].iter().all(|line| line.starts_with("X-Spam-")), "{delivered}");
}

#[test]
fn a_quarter_of_a_megabyte_is_not_shown_to_spamassassin() {
    let spamd = Spamd::start();
    let host = asking(&spamd, ":spam=yes\n");
    let text = format!("Subject: large\n\n{GTUBE}\n{}", "0123456789\n".repeat(25_000));
    assert!(answer(&host, &text).starts_with("250 "));
    let smaller = format!("Subject: small\n\n{GTUBE}\n{}", "0123456789\n".repeat(22_000));
    assert!(answer(&host, &smaller).starts_with("554 "));
    expect_said(
        &host,
        &["simscan:[P]:SPAM REJECT (1000.00/5.00/5.00):T:small:127.0.0.1:sender@mx.test:bob@mx.test"],
    );
}

#[test]
fn spam_leaves_a_copy_in_quarantine() {
    let spamd = Spamd::start();
    let dir = tempfile::tempdir().unwrap();
    mailtree_tests::maildir::open_to_all(dir.path());
    let scanners = format!("{}, quarantine: Some(\"{}\")", scanner(spamd.port()), dir.path().display());
    let host = setup(":spam=yes\n", &scanners).start();
    assert!(answer(&host, &format!("Subject: x\n\n{GTUBE}\n")).starts_with("554 "));
    assert!(quarantined(dir.path())[0].ends_with(&format!("Subject: x\n\n{GTUBE}\n")));
}

#[test]
fn spamuser_is_told_for_one_recipient_and_not_for_two() {
    let spamd = Spamd::start();
    let host = asking(&spamd, ":spam=yes\nbob@mx.test:spamuser=bob-likes-it\n");
    let users = || spamd.log().matches("checking message (unknown) for bob-likes-it:").count();
    let anybody = || spamd.log().matches("checking message (unknown) for (unknown):").count();
    assert!(answer_from(&host, "a@a.test", &["bob@mx.test"], "Subject: x\n\nx\n").starts_with("250 "));
    assert_eq!((users(), anybody()), (1, 0), "{}", spamd.log());
    let to = ["bob@mx.test", "sender@mx.test"];
    assert!(answer_from(&host, "a@a.test", &to, "Subject: x\n\nx\n").starts_with("250 "));
    assert_eq!((users(), anybody()), (1, 1), "{}", spamd.log());
}

#[test]
fn spam_comes_before_attachments_and_viruses() {
    let spamd = Spamd::start();
    let host =
        setup(":spam=yes,attach=.exe,regex=^Subject..a.file$\nfree.test:regex=\n", &scanner(spamd.port()))
            .start();
    let filter = "554 5.7.1 Your email was rejected because it matches a filter (#0)";
    assert_eq!(answer(&host, &named("a.exe")), filter);
    let text = named("a.exe").replace("a file", "seven");
    let spam = "554 5.7.1 Your email is considered spam (7.00 spam-hits)";
    assert_eq!(answer(&host, &text), spam);
    let reply = answer_from(&host, "x@free.test", &["bob@mx.test"], &named("a.exe"));
    assert_eq!(reply, format!("{SUSPECT}a.exe"));
    expect_said(
        &host,
        &[
            "simscan:[P]:REGEX:T:#0:127.0.0.1:sender@mx.test:bob@mx.test",
            "simscan:[P]:SPAM REJECT (7.00/5.00/5.00):T:seven:127.0.0.1:sender@mx.test:bob@mx.test",
            "simscan:[P]:CLEAN (0.00/5.00/5.00):T:a file:127.0.0.1:x@free.test:bob@mx.test",
            "simscan:[P]:ATTACH:T:a.exe:127.0.0.1:x@free.test:bob@mx.test",
        ],
    );
}

#[test]
fn what_a_sender_says_of_his_own_spam_is_not_believed() {
    let spamd = Spamd::start();
    let host = asking(&spamd, ":spam=yes,spam_passthru=yes\n");
    let text = "X-Spam-Status: No, score=-9\nX-Spam-Forged: 1\nSubject: seven\n\nx\n";
    assert!(answer(&host, text).starts_with("250 "));
    let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
    let first = delivered.lines().find(|line| line.starts_with("X-Spam-Status:")).unwrap();
    assert_eq!(first, "X-Spam-Status: Yes, score=7.0 required=5.0 tests=SEVEN", "{delivered}");
}
