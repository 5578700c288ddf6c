//! The lists of bad names, senders and recipients, and of the good ones: what they refuse, what is logged, what `check`
//! says of a bad line. Each edit is obeyed by the next connection.

use std::fs;

use mailtree_protocols::cdb::CdbMake;
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::smtp::like;
use mailtree_tests::stranger::{PROXIES, rcpt, talk};

const BADMAILFROM: &str = "553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)";
const SENDER_DENIED: &str = "553 sorry, your envelope sender has been denied (#5.7.1)";
const RECIPIENT_DENIED: &str = "553 sorry, your envelope recipient has been denied (#5.7.1)";
const HELO_DENIED: &str = "553 sorry, your HELO host name has been denied (#5.7.1)";
const RCPTHOSTS: &str = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)";
const VALIDRCPTTO: &str = "553 sorry, this recipient is not in my validrcptto list (#5.7.1)";
const OK: &str = "250 ok";

/// A client that may not relay, and one that may.
const STRANGER: &str = "192.0.2.1";
const FRIEND: &str = "127.0.0.2";

fn host() -> Host {
    Setup::new().smtpd(PROXIES).start()
}

/// What each client hears at RCPT for a sender and bob.
#[track_caller]
fn senders(host: &Host, table: &[(&str, &str, &str)]) {
    for (ip, from, expected) in table {
        assert_eq!(rcpt(host.from(ip), from, "bob@mx.test"), *expected, "{from} from {ip}");
    }
}

/// What each client hears at RCPT for a recipient.
#[track_caller]
fn recipients(host: &Host, table: &[(&str, &str, &str)]) {
    for (ip, to, expected) in table {
        assert_eq!(rcpt(host.from(ip), "a@good.test", to), *expected, "{to} from {ip}");
    }
}

/// What each client hears at RCPT after a name in HELO.
#[track_caller]
fn names(host: &Host, table: &[(&str, &str, &str)]) {
    for (ip, helo, expected) in table {
        let lines = [
            (&*format!("HELO {helo}"), "250 mx.test"),
            ("MAIL FROM:<a@good.test>", OK),
            ("RCPT TO:<bob@mx.test>", expected),
        ];
        talk(&mut host.from(ip), &lines);
    }
}

#[test]
fn badmailfrom_has_senders_and_their_hosts_as_ever_and_expressions() {
    let host = host();
    host.control("badmailfrom", "spam@bad.test\n@evil.test\n^[0-9]{4,}@\n!^[^@]+@[^@]+$\n# joe@good.test\n");
    senders(
        &host,
        &[
            (STRANGER, "spam@bad.test", BADMAILFROM),
            (STRANGER, "SPAM@Bad.Test", BADMAILFROM),
            (STRANGER, "ham@bad.test", OK),
            (STRANGER, "any@EVIL.test", BADMAILFROM),
            (STRANGER, "any@sub.evil.test", OK),
            (STRANGER, "any@evil.test.example", OK),
            (STRANGER, "12345@good.test", SENDER_DENIED),
            (STRANGER, "123@good.test", OK),
            (STRANGER, "joe@good.test", OK),
            // `!`: everything that does not match.
            (STRANGER, "nodomain", SENDER_DENIED),
            (STRANGER, "", OK),
            (FRIEND, "spam@bad.test", BADMAILFROM),
            (FRIEND, "12345@good.test", SENDER_DENIED),
        ],
    );
    host.wait_log("qmail-smtpd: badmailfrom: <spam@bad.test> at 192.0.2.1");
    host.wait_log("qmail-smtpd: badmailfrom: <12345@good.test> at 192.0.2.1");
    host.wait_log("qmail-smtpd: badmailfrom: <spam@bad.test> at 127.0.0.2");
    // With the enhanced code in front after EHLO; every recipient hears it.
    let refused = format!("553 5.7.1 {}", &BADMAILFROM[4..]);
    talk(
        &mut host.from(STRANGER),
        &[
            ("EHLO client.test", "250-*"),
            ("MAIL FROM:<spam@bad.test>", "250 2.1.0 ok"),
            ("RCPT TO:<bob@mx.test>", &refused),
            ("RCPT TO:<sender@mx.test>", &refused),
        ],
    );
}

#[test]
fn the_norelay_lists_do_not_bind_clients_that_may_relay() {
    let host = host();
    host.control("badmailfromnorelay", "spam@bad.test\n\\.evil\\.test$\n");
    host.control("badrcpttonorelay", "^trap@\n");
    host.control("badhelonorelay", "^localhost$\n!\\.\n");
    senders(
        &host,
        &[
            (STRANGER, "spam@bad.test", BADMAILFROM),
            (STRANGER, "a@sub.evil.test", SENDER_DENIED),
            (FRIEND, "spam@bad.test", OK),
            (FRIEND, "a@sub.evil.test", OK),
        ],
    );
    recipients(&host, &[(STRANGER, "trap@mx.test", RECIPIENT_DENIED), (FRIEND, "trap@mx.test", OK)]);
    names(
        &host,
        &[
            (STRANGER, "LOCALHOST", HELO_DENIED),
            (STRANGER, "nodot", HELO_DENIED),
            (STRANGER, "client.test", OK),
            (FRIEND, "localhost", OK),
        ],
    );
    host.wait_log("qmail-smtpd: badmailfrom: <a@sub.evil.test> at 192.0.2.1");
    host.wait_log("qmail-smtpd: badrcptto: <trap@mx.test> at 192.0.2.1");
    host.wait_log("qmail-smtpd: badhelo: <nodot> at 192.0.2.1");
}

#[test]
fn badrcptto_and_badhelo_bind_everybody() {
    let host = host();
    host.control("badrcptto", "^trap@mx\\.test$\n!@mx\\.test$\n");
    // The name that older patches have for it.
    host.control("badmailto", "^older@\n");
    host.control("badhelo", "spammer\n\\.dyn\\.\n");
    recipients(
        &host,
        &[
            (STRANGER, "Trap@MX.test", RECIPIENT_DENIED),
            (STRANGER, "older@mx.test", RECIPIENT_DENIED),
            (STRANGER, "xtrap@mx.test", OK),
            (STRANGER, "a@out.test", RECIPIENT_DENIED),
            (FRIEND, "trap@mx.test", RECIPIENT_DENIED),
            (FRIEND, "a@out.test", RECIPIENT_DENIED),
        ],
    );
    names(
        &host,
        &[
            (STRANGER, "www.SPAMMER.example", HELO_DENIED),
            (STRANGER, "1.dyn.example", HELO_DENIED),
            (STRANGER, "dyn.example", OK),
            (FRIEND, "spammer", HELO_DENIED),
        ],
    );
    // One bad recipient does not harm the others.
    talk(
        &mut host.from(STRANGER),
        &[
            ("HELO client.test", "250 *"),
            ("MAIL FROM:<a@good.test>", OK),
            ("RCPT TO:<trap@mx.test>", RECIPIENT_DENIED),
            ("RCPT TO:<bob@mx.test>", OK),
            ("DATA", "354 *"),
            (".", "250 ok *"),
        ],
    );
    host.maildir("bob").wait(1, PATIENCE);
    // A name that was never said is one as well.
    host.control("badhelo", "^$\n");
    talk(
        &mut host.from(STRANGER),
        &[("MAIL FROM:<a@good.test>", OK), ("RCPT TO:<bob@mx.test>", HELO_DENIED)],
    );
}

#[test]
fn variables_of_the_rules_switch_lists_off_and_name_the_line_that_matched() {
    let host = Setup::new()
        .smtpd(PROXIES)
        .rules(
            "192.0.2.2:allow,NOBADHELO=\"\"\n192.0.2.3:allow,DISABLE_BADMAILFROM=\"\"\n\
             192.0.2.4:allow,LOGREGEX=\"\"\n192.0.2.5:allow,DISABLE_MAXRCPT=\"\"\n:allow\n",
        )
        .start();
    host.control("badhelo", "^client\\.test$\n");
    names(&host, &[(STRANGER, "client.test", HELO_DENIED), ("192.0.2.2", "client.test", OK)]);
    host.control("badhelo", "");
    host.control("badmailfrom", "@bad.test\n!(good|bad)\\.test$\n");
    senders(
        &host,
        &[
            (STRANGER, "x@bad.test", BADMAILFROM),
            ("192.0.2.3", "x@bad.test", OK),
            ("192.0.2.4", "x@bad.test", BADMAILFROM),
            ("192.0.2.4", "x@other.test", SENDER_DENIED),
        ],
    );
    host.wait_log("qmail-smtpd: badmailfrom: <x@bad.test> matches pattern: @bad.test");
    host.wait_log("qmail-smtpd: badmailfrom: <x@other.test> matches pattern: !(good|bad)\\.test$");
    host.control("maxrcpt", "2\n");
    let too_many = "452 max rcpt limit exceeded (#5.7.1)";
    for (ip, third) in [(STRANGER, too_many), ("192.0.2.5", OK)] {
        let recipient = "RCPT TO:<bob@mx.test>";
        talk(
            &mut host.from(ip),
            &[
                ("HELO client.test", "250 *"),
                ("MAIL FROM:<a@good.test>", OK),
                (recipient, OK),
                ("RCPT TO:<a@out.test>", RCPTHOSTS),
                (recipient, OK),
                (recipient, third),
                // Those that were taken get the message; the next message may have as many again.
                ("DATA", "354 *"),
                (".", "250 ok *"),
                ("MAIL FROM:<a@good.test>", OK),
                (recipient, OK),
            ],
        );
    }
}

#[test]
fn what_others_say_forges_no_line_of_the_log() {
    let host = host();
    host.control("badmailfrom", "evil\n");
    host.control("badhelo", "forged\n");
    senders(&host, &[(STRANGER, "\"evil> at 10.0.0.1 x\"@good.test", SENDER_DENIED)]);
    names(&host, &[(STRANGER, "forged> at 10.0.0.1 <", HELO_DENIED)]);
    host.wait_log("qmail-smtpd: badmailfrom: <evil??at?10.0.0.1?x@good.test> at 192.0.2.1");
    host.wait_log("qmail-smtpd: badhelo: <forged??at?10.0.0.1??> at 192.0.2.1");
}

#[test]
fn a_bad_expression_is_named_with_file_and_line() {
    let host = host();
    for (file, line, reason) in [
        ("badmailfrom", "a(b", "unclosed group"),
        ("badmailfromnorelay", "*@x.test", "repetition operator missing expression"),
        ("badrcptto", "[[:alpah:]", "unclosed character class"),
        ("badrcpttonorelay", "!(", "unclosed group"),
        ("badhelo", "x{2,1}", "*"),
        ("badhelonorelay", "(x{200}){200}", "*size limit*"),
    ] {
        let path = host.home().join("control").join(file);
        host.control(file, &format!("# good lines\n^fine$\n{line}\n"));
        let named =
            format!("{}:3: `{}` is no regular expression: {reason}; allowed: *", path.display(), line);
        let check = host.run(&["check"]).expect(100);
        // `*` in a line would be taken for anything, which it is as well.
        let fits = |said: &str| like(&format!("mailtree check: fatal: {named}"), said);
        assert_eq!(check.stderr.lines().filter(|said| fits(said)).count(), 1, "{named}:\n{}", check.stderr);
        // What was there before counts.
        senders(&host, &[(STRANGER, "a@good.test", OK)]);
        host.wait_log(&format!("alert: {named}; what was there before stays in force"));
        host.without_control(file);
        senders(&host, &[(STRANGER, "a@good.test", OK)]);
    }
}

#[test]
fn each_edit_is_obeyed_by_the_next_connection() {
    let host = host();
    for round in 0..20 {
        host.control("badmailfrom", &format!("user{round}@bad.test\n"));
        host.control("badrcptto", &format!("^trap{round}@\n"));
        let last = if round == 0 { 99 } else { round - 1 };
        senders(
            &host,
            &[
                (STRANGER, &format!("user{round}@bad.test"), BADMAILFROM),
                (STRANGER, &format!("user{last}@bad.test"), OK),
            ],
        );
        recipients(
            &host,
            &[
                (STRANGER, &format!("trap{round}@mx.test"), RECIPIENT_DENIED),
                (STRANGER, &format!("trap{last}@mx.test"), OK),
            ],
        );
    }
    // A session keeps what it began with.
    let mut early = host.from(STRANGER);
    host.control("badmailfrom", "a@good.test\n");
    let greet = ("HELO client.test", "250 *");
    talk(&mut early, &[greet, ("MAIL FROM:<a@good.test>", OK), ("RCPT TO:<bob@mx.test>", OK)]);
    senders(&host, &[(STRANGER, "a@good.test", BADMAILFROM)]);
}

#[test]
fn brtlimit_ends_a_session_of_bad_recipients() {
    let host = Setup::new()
        .smtpd(PROXIES)
        .rules("192.0.2.2:allow,BRTLIMIT=\"1\"\n192.0.2.3:allow,BRTLIMIT=\"0\"\n:allow\n")
        .control("brtlimit", "3\n")
        .control("badrcptto", "^trap@\n")
        .control("badmailfrom", "@bad.test\n")
        .start();
    let goodbye = "421 4.3.0 too many invalid addresses, goodbye (#4.3.0)";
    let start = [("HELO client.test", "250 *"), ("MAIL FROM:<a@good.test>", OK)];
    let (trap, bob) = ("RCPT TO:<trap@mx.test>", ("RCPT TO:<bob@mx.test>", OK));
    let denied = (trap, RECIPIENT_DENIED);

    let mut client = host.from(STRANGER);
    talk(&mut client, &start);
    // Good ones do not count, those of another transaction and of another reason do.
    talk(&mut client, &[denied, bob, ("RCPT TO:<a@out.test>", RCPTHOSTS), bob, ("RSET", "250 flushed")]);
    talk(&mut client, &[("MAIL FROM:<x@bad.test>", OK), ("RCPT TO:<bob@mx.test>", goodbye)]);
    assert!(client.closed());

    let mut client = host.from("192.0.2.2");
    talk(&mut client, &start);
    talk(&mut client, &[(trap, goodbye)]);
    assert!(client.closed());

    let mut client = host.from("192.0.2.3");
    talk(&mut client, &start);
    talk(&mut client, &[denied; 10]);
    talk(&mut client, &[bob, ("DATA", "354 *"), (".", "250 ok *")]);
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn brtlimit_logs_whom_it_hangs_up_on() {
    let host = Setup::new().smtpd(PROXIES).control("brtlimit", "1\n").start();
    assert!(rcpt(host.from(STRANGER), "a@good.test", "a@out.test").starts_with("421 "));
    host.wait_log("qmail-smtpd: badrcptto: excessive rcptto violations hanging up on 192.0.2.1");
}

/// A database of these keys.
fn database(keys: &[&str]) -> Vec<u8> {
    let mut made = CdbMake::new();
    keys.iter().for_each(|key| made.add(key.as_bytes(), b"").unwrap());
    made.finish()
}

#[test]
fn validrcptto_and_its_database_say_who_there_is() {
    let host = host();
    host.control("rcpthosts", "mx.test\nwide.test\nnone.test\n");
    recipients(&host, &[(STRANGER, "anybody@mx.test", OK)]);
    host.control("validrcptto", "Bob@mx.test\n@wide.test\n-spam@wide.test\nx@out.test\n");
    recipients(
        &host,
        &[
            (STRANGER, "bob@mx.test", OK),
            (STRANGER, "BOB@MX.TEST", OK),
            (STRANGER, "anybody@mx.test", VALIDRCPTTO),
            (STRANGER, "anybody@wide.test", OK),
            (STRANGER, "spam@wide.test", VALIDRCPTTO),
            // A recipient that exists elsewhere is still elsewhere.
            (STRANGER, "x@out.test", RCPTHOSTS),
            (FRIEND, "anybody@mx.test", OK),
        ],
    );
    host.wait_log("qmail-smtpd: validrcptto: drop address <anybody@mx.test> at 192.0.2.1");

    let cdb = host.home().join("control/morevalidrcptto.cdb");
    fs::write(&cdb, database(&["more@mx.test", "-@none.test"])).unwrap();
    recipients(
        &host,
        &[
            (STRANGER, "more@mx.test", OK),
            (STRANGER, "bob@mx.test", OK),
            (STRANGER, "anybody@none.test", VALIDRCPTTO),
            (STRANGER, "anybody@mx.test", VALIDRCPTTO),
        ],
    );
    // The database alone does as well.
    host.without_control("validrcptto");
    recipients(&host, &[(STRANGER, "more@mx.test", OK), (STRANGER, "bob@mx.test", VALIDRCPTTO)]);
    host.control("morevalidrcptto.cdb", "no database");
    recipients(&host, &[(STRANGER, "more@mx.test", OK), (STRANGER, "bob@mx.test", VALIDRCPTTO)]);
    let check = host.run(&["check"]).expect(100);
    assert!(check.stderr.contains("control/morevalidrcptto.cdb"), "{}", check.stderr);
    host.without_control("morevalidrcptto.cdb");
    recipients(&host, &[(STRANGER, "anybody@mx.test", OK)]);
}

#[test]
fn whom_validrcptto_does_not_know_chkuser_may() {
    let host = Setup::new()
        .smtpd(&format!(
            "{PROXIES}, environment: {{\"CHKUSER_START\": \"ALWAYS\", \"CHKUSER_SENDER_MX_NOCHECK\": \"1\"}}"
        ))
        .control("validrcptto", "nobody@mx.test\n-sender@mx.test\n")
        .start();
    recipients(
        &host,
        &[
            // The list knows him, though he has no mailbox.
            (STRANGER, "nobody@mx.test", OK),
            (STRANGER, "bob@mx.test", OK),
            (STRANGER, "sender@mx.test", VALIDRCPTTO),
            (STRANGER, "else@mx.test", "550 5.1.1 sorry, no mailbox here by that name (chkuser)"),
        ],
    );
}

#[test]
fn morercpthosts_is_compiled_and_obeyed() {
    let host = host();
    let out = [(STRANGER, "a@more.test", RCPTHOSTS), (STRANGER, "a@x.deep.test", RCPTHOSTS)];
    recipients(&host, &out);
    host.control("morercpthosts", "More.test\n# not.test\n.deep.test\n");
    recipients(&host, &out);
    host.ask(&["qmail-newmrh"]);
    recipients(
        &host,
        &[
            (STRANGER, "a@more.TEST", OK),
            (STRANGER, "a@x.y.deep.test", OK),
            (STRANGER, "a@deep.test", RCPTHOSTS),
            (STRANGER, "a@not.test", RCPTHOSTS),
            (STRANGER, "bob@mx.test", OK),
        ],
    );
    host.control("morercpthosts", "other.test\n");
    host.ask(&["qmail-newmrh"]);
    recipients(&host, &[(STRANGER, "a@other.test", OK), (STRANGER, "a@more.test", RCPTHOSTS)]);
    // It counts beside rcpthosts only.
    host.without_control("rcpthosts");
    recipients(&host, &[(STRANGER, "a@other.test", RCPTHOSTS)]);
}

#[test]
fn mail_for_our_address_is_for_localiphost() {
    let host = host();
    // The proxy says that these clients came to 127.0.0.1.
    recipients(
        &host,
        &[
            (STRANGER, "bob@[127.0.0.1]", OK),
            (STRANGER, "bob@[192.0.2.99]", RCPTHOSTS),
            (FRIEND, "bob@[127.0.0.1]", OK),
        ],
    );
    host.ask(&["vadddomain", "ip.test", "secret-of-the-test"]);
    host.control("localiphost", "ip.test\n");
    talk(
        &mut host.from(STRANGER),
        &[
            ("HELO client.test", "250 *"),
            ("MAIL FROM:<a@good.test>", OK),
            ("RCPT TO:<postmaster@[127.0.0.1]>", OK),
            ("DATA", "354 *"),
            (".", "250 ok *"),
        ],
    );
    let message = host.maildir_of("ip.test", "postmaster").wait(1, PATIENCE).remove(0);
    assert!(message.contains("\nDelivered-To: postmaster@ip.test\n"), "{message}");
}
