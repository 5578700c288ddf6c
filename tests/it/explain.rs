//! `mailtree explain`: what a client or a recipient would meet, and why, says what the host then does.

use mailtree_tests::dns::Dns;
use mailtree_tests::host::{Host, ME, Setup};

const RULES: &str = "\
127.:allow,RELAYCLIENT=\"\"
18.23.0.32:deny
22.33.44.55:allow,RBLSMTPD=\"halt thy spam!\"
33.44.55.66:allow,RBLSMTPD=\"-halt thy spam!\"
11.22.33.44:allow,SPFBEHAVIOR=\"0\",RBLSMTPD=\"\"
:allow,QMAILQUEUE=\"/var/qmail/bin/simscan\",DATABYTES=\"5000\"
";

/// The lines of an answer as `what: found`.
fn explained(setup: &Setup, words: &[&str]) -> String {
    let args: Vec<&str> = ["explain"].into_iter().chain(words.iter().copied()).collect();
    let answer = setup.run(&args).expect(0).stdout;
    answer
        .lines()
        .map(|line| line.split_once(' ').map_or(line.to_owned(), |(a, b)| format!("{a}: {}\n", b.trim())))
        .collect()
}

#[track_caller]
fn assert_says(answer: &str, lines: &[&str]) {
    for line in lines {
        assert!(answer.lines().any(|said| said.starts_with(line)), "{line}\nis not in\n{answer}");
    }
}

#[test]
fn a_client_meets_its_rule() {
    let setup = Setup::new().control("spfbehavior", "3\n").rules(RULES);
    for (ip, lines) in [
        (
            "127.0.0.1",
            &[
                "rule: 127.: allow",
                "variable: RELAYCLIENT=\"\"  (the rule)",
                "relay: RELAYCLIENT is set",
                "spf: not checked: the client may relay",
                "verdict: may send to any recipient",
            ][..],
        ),
        ("18.23.0.32", &["rule: 18.23.0.32: deny", "verdict: the connection is closed at once"]),
        (
            "22.33.44.55",
            &[
                "rblsmtpd: RBLSMTPD is set: 451 halt thy spam!",
                "verdict: every recipient is answered 451 halt thy spam!",
            ],
        ),
        ("33.44.55.66", &["verdict: every recipient is answered 553 halt thy spam!"]),
        (
            "11.22.33.44",
            &["rblsmtpd: RBLSMTPD is set: accepted", "spf: not checked (behavior 0)", "data: the queue"],
        ),
        (
            "2001:db8::1",
            &[
                "rule: the empty address, which is everybody's: allow",
                "size: 5000 bytes",
                "data: simscan, then the queue",
                "spf: behavior 3",
                "relay: only to rcpthosts",
                "verdict: may send to the recipients that rcpthosts and chkuser allow",
            ],
        ),
    ] {
        assert_says(&explained(&setup, &["ip", ip]), lines);
    }
}

#[test]
fn a_client_that_a_list_has_is_told_which() {
    let dns = Dns::start();
    dns.address_of("7.2.0.192.list.test", "127.0.0.2");
    let setup = Setup::new()
        .smtpd("rblsmtpd: [\"-r\", \"list.test:see %IP%\"]")
        .resolver(dns.address())
        .rules(":allow\n");
    let listed = explained(&setup, &["ip", "192.0.2.7"]);
    assert_says(&listed, &["rblsmtpd: listed in list.test: 451 see 192.0.2.7"]);
    let free = explained(&setup, &["ip", "192.0.2.8"]);
    assert_says(&free, &["rblsmtpd: not listed in list.test", "verdict: may send"]);
}

#[test]
fn a_recipient_meets_the_lists_then_chkuser() {
    let setup = Setup::new()
        .smtpd("environment: {\"CHKUSER_START\": \"ALWAYS\", \"CHKUSER_RCPT_MX_NOCHECK\": \"\"}")
        .control("badrcptto", "^spamtrap@\n")
        .rules(RULES);
    for (recipient, ip, lines) in [
        (
            "bob@mx.test",
            "192.0.2.1",
            &["chkuser: accepted rcpt: found existing recipient", "verdict: 250 ok"][..],
        ),
        (
            "nobody@mx.test",
            "192.0.2.1",
            &[
                "chkuser: refuses: 550 sorry, no mailbox here by that name (chkuser)",
                "verdict: 550 sorry, no mailbox here by that name (chkuser)",
            ],
        ),
        (
            "x@far.test",
            "192.0.2.1",
            &["verdict: 553 sorry, that domain isn't in my list of allowed rcpthosts"],
        ),
        ("x@far.test", "127.0.0.1", &["chkuser: relaying rcpt: client allowed to relay", "verdict: 250 ok"]),
        (
            "spamtrap@mx.test",
            "127.0.0.1",
            &["badrcptto: refuses", "verdict: 553 sorry, your envelope recipient has been denied"],
        ),
        ("bob@mx.test", "18.23.0.32", &["verdict: the client does not come so far"]),
    ] {
        assert_says(&explained(&setup, &["rcpt", recipient, "--ip", ip]), lines);
    }
}

#[test]
fn what_a_client_says_in_helo_is_asked_of_badhelo_and_spf() {
    let dns = Dns::start();
    dns.txt("good.test", "v=spf1 ip4:192.0.2.7 -all").txt("other.test", "v=spf1 -all");
    let setup = Setup::new()
        .control("badhelo", "^localhost$\n")
        .control("spfbehavior", "3\n")
        .resolver(dns.address())
        .rules(":allow\n");
    let client = ["ip", "192.0.2.7", "--helo"];
    let with = |words: &[&str]| explained(&setup, &[&client[..], words].concat());
    let verdict = "verdict: mail from this sender is answered 553 sorry, your HELO host name has been denied";
    assert_says(&with(&["localhost"]), &["helo: localhost: badhelo line ^localhost$: 553 ", verdict]);
    assert_says(
        &with(&["good.test"]),
        &["helo: good.test: not on the list", "spf: behavior 3", "verdict: may send"],
    );
    assert_says(&with(&["good.test", "--from", "<>"]), &["helo: good.test: ", "spf: pass (behavior 3)"]);
    assert_says(&with(&["other.test", "--from", "<>"]), &["spf: fail (behavior 3): 550 "]);
    let answer = explained(&setup, &["rcpt", "bob@mx.test", "--ip", "192.0.2.7", "--helo", "localhost"]);
    assert_says(&answer, &["verdict: 553 "]);
}

#[test]
fn the_host_does_what_was_explained() {
    let setup = Setup::new()
        .smtpd("environment: {\"CHKUSER_START\": \"ALWAYS\"}")
        .rules("127.:allow,DATABYTES=\"100\"\n");
    assert_says(&explained(&setup, &["ip", "127.0.0.1"]), &["size: 100 bytes"]);
    let refused = explained(&setup, &["rcpt", "nobody@mx.test", "--ip", "127.0.0.1"]);
    assert_says(&refused, &["verdict: 550 sorry, no mailbox here by that name (chkuser)"]);
    let host: Host = setup.start();
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client.say("MAIL FROM:<> SIZE=101", 552);
    client.say("MAIL FROM:<>", 250);
    client.say(&format!("RCPT TO:<nobody@{ME}>"), 550);
}

#[test]
fn the_service_can_be_chosen_and_must_be_there() {
    let setup = Setup::new().rules(RULES);
    let wrong = setup.run(&["explain", "ip", "192.0.2.1", "--service", "pop3d"]).expect(100);
    assert!(
        wrong.stderr.contains("--service pop3d: host.ron has no such service of SMTP"),
        "{}",
        wrong.stderr
    );
    let json = setup.run(&["explain", "ip", "18.23.0.32", "--json"]).json();
    assert_eq!(json["service"], "smtpd");
    std::fs::write(setup.home().join("tcp.smtp.cdb"), "short").unwrap();
    let broken = setup.run(&["explain", "ip", "192.0.2.1"]).expect(111);
    assert!(broken.stderr.contains("tcp.smtp.cdb"), "{}", broken.stderr);
}
