//! Deferral, retry, lifetime, bounces.

use std::fs;
use std::time::Duration;

use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
use mailtree_tests::letter::letter;
use mailtree_tests::peer::{Answer, Peer, say};
use mailtree_tests::wait::{holds_for, wait_until};

#[test]
fn a_host_that_is_down_gets_its_mail_when_it_is_back() {
    let address = free_port("127.0.0.1");
    let host = Setup::new().control("smtproutes", &format!(":[127.0.0.1]:{}\n", address.port())).start();
    host.send("sender@mx.test", &["x@far.test"], &letter("down", 300));
    host.wait_log("delivery 1: deferral: *");
    let peer = Peer::start(&address.to_string(), |_, _| Answer::Usual);
    host.ask(&["svc", "-a", "send"]);
    peer.wait(1, PATIENCE);
    host.wait_queue_empty(PATIENCE);
    assert_eq!(host.maildir("sender").count(), 0);
}

#[test]
fn nothing_is_retried_before_its_time() {
    let peer = Peer::start(
        "127.0.0.1:0",
        |_, line| if line == "CONNECT" { say("421 not now") } else { Answer::Usual },
    );
    let host = Setup::new().control("smtproutes", &peer.route("")).start();
    host.send("sender@mx.test", &["x@far.test"], &letter("early", 300));
    host.wait_log("delivery 1: deferral: *");
    // The second attempt is due 400 s after birth.
    holds_for("one connection", Duration::from_secs(3), || peer.connections() == 1);
}

#[test]
fn a_permanent_refusal_bounces_to_the_sender_as_qsbmf() {
    let peer =
        Peer::start(
            "127.0.0.1:0",
            |_, line| if line == "." { say("554 no spam please") } else { Answer::Usual },
        );
    let host = Setup::new().control("smtproutes", &peer.route("")).start();
    let text = letter("refused", 300);
    host.send("sender@mx.test", &["x@far.test"], &text);
    let bounce = host.maildir("sender").wait(1, PATIENCE).remove(0);
    let from_first_line =
        bounce.split_once("Hi. This is the qmail-send program at mx.test.\n").expect("first line").1;
    assert!(bounce.starts_with("Return-Path: <>\nDelivered-To: sender@mx.test\n"), "{bounce}");
    for line in ["From: MAILER-DAEMON@mx.test", "To: sender@mx.test", "Subject: failure notice"] {
        assert!(bounce.lines().any(|found| found == line), "no line {line:?}: {bounce}");
    }
    let report = "<x@far.test>:\n127.0.0.1 failed after I sent the message.\nRemote host said: 554 no spam please\n\n--- Below this line is a copy of the message.\n\nReturn-Path: <sender@mx.test>\n";
    assert!(from_first_line.contains(report), "{bounce}");
    assert!(bounce.ends_with(&text), "{bounce}");
    host.wait_log("bounce msg * qp *");
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn a_message_that_is_too_old_bounces_after_a_last_attempt() {
    let address = free_port("127.0.0.1");
    let routes = format!(":[127.0.0.1]:{}\n", address.port());
    let host = Setup::new().control("smtproutes", &routes).control("queuelifetime", "1\n").start();
    host.send("sender@mx.test", &["x@far.test"], &letter("old", 300));
    host.wait_log("delivery 1: deferral: *");
    wait_until("the bounce", PATIENCE, || {
        host.ask(&["svc", "-a", "send"]);
        host.maildir("sender").count() == 1
    });
    let bounce = host.maildir("sender").texts().remove(0);
    assert!(
        bounce.contains("I'm not going to try again; this message has been in the queue too long.\n"),
        "{bounce}"
    );
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn a_user_who_does_not_exist_bounces() {
    let host = Host::start();
    host.send("sender@mx.test", &["nobody@mx.test"], &letter("nobody", 300));
    let bounce = host.maildir("sender").wait(1, PATIENCE).remove(0);
    assert!(bounce.contains("<nobody@mx.test>:\n"), "{bounce}");
    assert!(bounce.contains("no mailbox here by that name. (#5.1.1)"), "{bounce}");
}

#[test]
fn a_bounce_that_bounces_goes_to_postmaster() {
    let host = Host::start();
    host.send("ghost@mx.test", &["nobody@mx.test"], &letter("double", 300));
    let double = host.maildir("postmaster").wait(1, PATIENCE).remove(0);
    assert!(double.starts_with("Return-Path: <#@[]>\n"), "{double}");
    assert!(
        double.contains("I tried to deliver a bounce message to this address, but the bounce bounced!\n"),
        "{double}"
    );
    assert!(double.contains("<ghost@mx.test>:\n"), "{double}");
    assert!(double.contains("--- Below this line is the original bounce.\n"), "{double}");
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn a_double_bounce_that_bounces_is_discarded() {
    let host = Setup::new().control("doublebounceto", "phantom\n").start();
    host.send("ghost@mx.test", &["nobody@mx.test"], &letter("triple", 300));
    host.wait_log("triple bounce: discarding bounce/*");
    host.wait_queue_empty(PATIENCE);
    for user in ["bob", "sender", "postmaster"] {
        assert_eq!(host.maildir(user).count(), 0);
    }
}

#[test]
fn a_message_without_sender_is_never_bounced_to_nobody() {
    let host = Host::start();
    host.send("", &["nobody@mx.test"], &letter("null", 300));
    // RFC 5321 4.5.5: no report to the null reverse-path; qmail tells postmaster.
    let double = host.maildir("postmaster").wait(1, PATIENCE).remove(0);
    assert!(double.starts_with("Return-Path: <#@[]>\n"), "{double}");
}

#[test]
fn recipients_that_succeed_are_not_tried_again() {
    let address = free_port("127.0.0.1");
    let routes = format!("down.test:[127.0.0.1]:{}\n", address.port());
    let host = Setup::new().control("smtproutes", &routes).start();
    host.send("sender@mx.test", &["bob@mx.test", "x@down.test"], &letter("part", 300));
    host.wait_log("delivery *: deferral: *");
    host.maildir("bob").wait(1, PATIENCE);
    let peer = Peer::start(&address.to_string(), |_, _| Answer::Usual);
    host.ask(&["svc", "-a", "send"]);
    peer.wait(1, PATIENCE);
    host.wait_queue_empty(PATIENCE);
    assert_eq!(host.maildir("bob").count(), 1);
}

#[test]
fn what_is_deferred_survives_a_stop_with_its_birth_and_bounce() {
    let address = free_port("127.0.0.1");
    let routes = format!("down.test:[127.0.0.1]:{}\n", address.port());
    let mut host = Setup::new().control("smtproutes", &routes).start();
    host.send("sender@mx.test", &["nobody@mx.test", "x@down.test"], &letter("stop", 300));
    host.wait_log("delivery *: deferral: *");
    host.wait_log("delivery *: failure: *");
    host.stop();
    host.restart();
    let peer = Peer::start(&address.to_string(), |_, _| Answer::Usual);
    host.ask(&["svc", "-a", "send"]);
    peer.wait(1, PATIENCE);
    let bounce = host.maildir("sender").wait(1, PATIENCE).remove(0);
    assert!(bounce.contains("<nobody@mx.test>:\n") && !bounce.contains("<x@down.test>"), "{bounce}");
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn a_maildir_that_cannot_be_written_defers() {
    let host = Host::start();
    let maildir = host.maildir("bob");
    let hidden = maildir.path().with_extension("hidden");
    fs::rename(maildir.path(), &hidden).unwrap();
    fs::write(maildir.path(), "not a directory").unwrap();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("later", 300));
    host.wait_log("delivery 1: deferral: *");
    fs::remove_file(maildir.path()).unwrap();
    fs::rename(&hidden, maildir.path()).unwrap();
    host.ask(&["svc", "-a", "send"]);
    maildir.wait(1, PATIENCE);
}

mod needs_postfix {
    use mailtree_tests::postfix::Sink;

    use super::*;

    #[test]
    fn smtp_sink_down_then_up() {
        let address = free_port("127.0.0.1");
        let host = Setup::new().control("smtproutes", &format!(":[127.0.0.1]:{}\n", address.port())).start();
        host.send("sender@mx.test", &["x@far.test"], &letter("down", 300));
        host.wait_log("delivery 1: deferral: *");
        let sink = Sink::at(address, &[]);
        host.ask(&["svc", "-a", "send"]);
        sink.wait(1, PATIENCE);
    }

    #[test]
    fn smtp_sink_refuses_for_good_at_any_point() {
        for point in ["CONNECT", "MAIL", "RCPT", "DATA", "."] {
            let sink = Sink::start(&["-f", point]);
            let host = Setup::new().control("smtproutes", &sink.route("")).start();
            host.send("sender@mx.test", &["x@far.test"], &letter("hard", 300));
            let bounce = host.maildir("sender").wait(1, PATIENCE).remove(0);
            assert!(
                bounce.contains("Remote host said: 500 5.3.0 Error: command failed"),
                "{point}: {bounce}"
            );
        }
    }

    #[test]
    fn smtp_sink_refuses_for_now_at_any_point() {
        for point in ["CONNECT", "MAIL", "RCPT", "DATA", "."] {
            let sink = Sink::start(&["-r", point]);
            let host = Setup::new().control("smtproutes", &sink.route("")).start();
            host.send("sender@mx.test", &["x@far.test"], &letter("soft", 300));
            host.wait_log("delivery 1: deferral: *450_4.3.0_Error:_command_failed/*");
            assert_eq!(host.maildir("sender").count(), 0, "{point}");
        }
    }

    #[test]
    fn smtp_sink_hangs_up_at_any_point() {
        for point in ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."] {
            let sink = Sink::start(&["-q", point]);
            let host = Setup::new().control("smtproutes", &sink.route("")).start();
            host.send("sender@mx.test", &["x@far.test"], &letter("quit", 300));
            host.wait_log("delivery 1: deferral: *");
            assert_eq!(host.maildir("sender").count(), 0, "{point}");
        }
    }
}
