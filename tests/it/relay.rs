//! Remote delivery by `control/smtproutes`.

use mailtree_tests::dns::Dns;
use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
use mailtree_tests::letter::{letter, read};
use mailtree_tests::peer::{Answer, Peer, say};

fn routed(routes: &str) -> Host {
    Setup::new().control("smtproutes", routes).start()
}

#[test]
fn one_transaction_carries_all_recipients_of_the_destination() {
    let peer = Peer::obliging();
    let host = routed(&peer.route(""));
    host.send("sender@mx.test", &["a@far.test", "b@far.test", "c@far.test"], &letter("three", 4000));
    let received = peer.wait(1, PATIENCE).remove(0);
    assert_eq!(received.helo, "mx.test");
    assert!(received.mail.starts_with("MAIL FROM:<sender@mx.test>"), "{}", received.mail);
    assert_eq!(received.to, ["a@far.test", "b@far.test", "c@far.test"]);
    assert_eq!(read(&received.data), Ok("three".to_owned()));
    host.wait_queue_empty(PATIENCE);
    assert_eq!(peer.connections(), 1);
    host.wait_log("delivery *: success: 127.0.0.1_accepted_message./Remote_host_said:_250_taken/");
}

#[test]
fn the_longest_route_wins() {
    let (exact, suffix, rest) = (Peer::obliging(), Peer::obliging(), Peer::obliging());
    let routes = format!("{}{}{}", rest.route(""), suffix.route(".far.test"), exact.route("very.far.test"));
    let host = routed(&routes);
    for mailbox in ["x@very.far.test", "x@other.far.test", "x@far.test"] {
        host.send("sender@mx.test", &[mailbox], &letter(&mailbox.replace('@', "-"), 300));
    }
    assert_eq!(exact.wait(1, PATIENCE)[0].to, ["x@very.far.test"]);
    assert_eq!(suffix.wait(1, PATIENCE)[0].to, ["x@other.far.test"]);
    assert_eq!(rest.wait(1, PATIENCE)[0].to, ["x@far.test"]);
}

#[test]
fn smtproutes_is_read_for_each_delivery() {
    let (first, second) = (Peer::obliging(), Peer::obliging());
    let host = routed(&first.route(""));
    host.send("sender@mx.test", &["x@far.test"], &letter("one", 300));
    first.wait(1, PATIENCE);
    host.control("smtproutes", &second.route(""));
    host.send("sender@mx.test", &["x@far.test"], &letter("two", 300));
    second.wait(1, PATIENCE);
    assert_eq!(first.received().len(), 1);
}

#[test]
fn every_recipient_gets_the_answer_meant_for_him() {
    let peer = Peer::start("127.0.0.1:0", |connection, line| match line {
        "RCPT TO:<bad@far.test>" => say("550 no such user here"),
        "RCPT TO:<later@far.test>" if connection == 1 => say("450 mailbox busy"),
        _ => Answer::Usual,
    });
    let host = routed(&peer.route(""));
    host.send("sender@mx.test", &["good@far.test", "bad@far.test", "later@far.test"], &letter("mixed", 600));
    assert_eq!(peer.wait(1, PATIENCE)[0].to, ["good@far.test"]);
    host.wait_log(
        "delivery *: failure: 127.0.0.1_does_not_like_recipient./Remote_host_said:_550_no_such_user_here/*",
    );
    host.wait_log(
        "delivery *: deferral: 127.0.0.1_does_not_like_recipient./Remote_host_said:_450_mailbox_busy/*",
    );
    host.ask(&["svc", "-a", "send"]);
    assert_eq!(peer.wait(2, PATIENCE)[1].to, ["later@far.test"]);
    let bounce = host.maildir("sender").wait(1, PATIENCE).remove(0);
    assert!(
        bounce.contains(
            "<bad@far.test>:\n127.0.0.1 does not like recipient.\nRemote host said: 550 no such user here\n"
        ),
        "{bounce}"
    );
    assert!(!bounce.contains("<later@far.test>") && !bounce.contains("<good@far.test>"), "{bounce}");
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn a_connection_lost_after_the_final_dot_is_tried_again() {
    let peer = Peer::start("127.0.0.1:0", |connection, line| match line {
        "." if connection == 1 => Answer::Close,
        _ => Answer::Usual,
    });
    let host = routed(&peer.route(""));
    host.send("sender@mx.test", &["x@far.test"], &letter("lost", 600));
    host.wait_log(
        "delivery 1: deferral: Connected_to_127.0.0.1_but_connection_died._Possible_duplicate!_(#4.4.2)/*",
    );
    host.ask(&["svc", "-a", "send"]);
    assert_eq!(read(&peer.wait(1, PATIENCE)[0].data), Ok("lost".to_owned()));
}

#[test]
fn a_host_that_does_not_know_ehlo_gets_helo() {
    let peer = Peer::start("127.0.0.1:0", |_, line| match line.split(' ').next() {
        Some("EHLO") => say("502 what"),
        _ => Answer::Usual,
    });
    let host = routed(&peer.route(""));
    host.send("sender@mx.test", &["x@far.test"], &letter("old", 600));
    assert_eq!(read(&peer.wait(1, PATIENCE)[0].data), Ok("old".to_owned()));
    assert!(peer.commands().contains(&"HELO mx.test".to_owned()), "{:?}", peer.commands());
}

#[test]
fn a_message_for_two_hosts_reaches_one_while_the_other_hangs() {
    let well = Peer::obliging();
    let ill = Peer::start("127.0.0.1:0", |_, _| Answer::Hang);
    let host = routed(&format!("{}{}", well.route("well.test"), ill.route("ill.test")));
    host.send("sender@mx.test", &["x@ill.test", "x@well.test"], &letter("both", 600));
    well.wait(1, PATIENCE);
    host.send("sender@mx.test", &["bob@mx.test"], &letter("local", 600));
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn a_host_that_says_nothing_is_left_after_timeoutremote() {
    let peer = Peer::start(
        "127.0.0.1:0",
        |connection, _| if connection == 1 { Answer::Hang } else { Answer::Usual },
    );
    let host = Setup::new().control("smtproutes", &peer.route("")).control("timeoutremote", "1\n").start();
    host.send("sender@mx.test", &["x@far.test"], &letter("silent", 600));
    host.wait_log("delivery 1: deferral: Connected_to_127.0.0.1_but_*");
    host.ask(&["svc", "-a", "send"]);
    peer.wait(1, PATIENCE);
}

#[test]
fn concurrencyremote_bounds_the_connections() {
    let peer =
        Peer::start("127.0.0.1:0", |_, line| if line == "CONNECT" { Answer::Hang } else { Answer::Usual });
    let host =
        Setup::new().control("smtproutes", &peer.route("")).control("concurrencyremote", "3\n").start();
    for number in 0..8 {
        host.send("sender@mx.test", &[&format!("x@far{number}.test")], &letter(&format!("c{number}"), 300));
    }
    host.wait_log("status: local * remote 3/3");
    mailtree_tests::wait::holds_for("at most 3 connections", std::time::Duration::from_secs(1), || {
        peer.connections() <= 3
    });
    assert_eq!(peer.connections(), 3);
}

#[test]
fn a_route_may_name_a_host_with_several_addresses() {
    let dns = Dns::start();
    let peer = Peer::obliging();
    // 127.0.0.3 has no listener on that port; the one that has comes after it or before it.
    dns.address_of("smart.test", "127.0.0.3").address_of("smart.test", "127.0.0.1");
    let route = format!(":smart.test:{}\n", peer.address().port());
    let host = Setup::new().resolver(dns.address()).control("smtproutes", &route).start();
    for number in 0..4 {
        host.send("sender@mx.test", &["x@far.test"], &letter(&format!("fallback{number}"), 300));
    }
    peer.wait(4, PATIENCE);
}

#[test]
fn ipv6_routes_by_literal_and_by_name() {
    let dns = Dns::start();
    let peer = Peer::start("[::1]:0", |_, _| Answer::Usual);
    let port = peer.address().port();
    dns.address_of("six.test", "::1");
    let routes = format!("literal.test:[::1]:{port}\nname.test:six.test:{port}\n");
    let host = Setup::new().resolver(dns.address()).control("smtproutes", &routes).start();
    host.send("sender@mx.test", &["x@literal.test"], &letter("six-literal", 300));
    peer.wait(1, PATIENCE);
    host.send("sender@mx.test", &["x@name.test"], &letter("six-name", 300));
    peer.wait(2, PATIENCE);
}

#[test]
fn a_refused_connection_is_deferred_with_qmails_words() {
    let closed = free_port("127.0.0.1");
    let host = routed(&format!(":[127.0.0.1]:{}\n", closed.port()));
    host.send("sender@mx.test", &["x@far.test"], &letter("closed", 300));
    host.wait_log("delivery 1: deferral: Sorry,_I_wasn't_able_to_establish_an_SMTP_connection._(#4.4.1)/");
    assert_eq!(host.maildir("sender").count(), 0);
}

mod needs_postfix {
    use mailtree_tests::load::{Load, Plan};
    use mailtree_tests::postfix::Sink;
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn smtp_sink_as_smarthost_takes_what_was_sent() {
        let sink = Sink::start(&[]);
        let host = routed(&sink.route(""));
        host.send("sender@mx.test", &["a@far.test", "b@far.test"], &letter("smart", 3000));
        let dump = sink.wait(1, PATIENCE).remove(0);
        assert_eq!(read(dump.data.as_bytes()), Ok("smart".to_owned()));
        let rcpts: Vec<_> = dump.notes.iter().filter_map(|note| note.strip_prefix("X-Rcpt-Args: ")).collect();
        assert_eq!(rcpts, ["<a@far.test>", "<b@far.test>"]);
    }

    #[test]
    fn five_hundred_messages_through_a_slow_sink() {
        let sink = Sink::start(&["-W", ".:1:5"]);
        let host = routed(&sink.route(""));
        let plan = Plan::to("x@far.test", "slow", 500);
        Load::start(host.address(), &plan).finish(Duration::from_secs(60));
        let dumps = sink.wait(500, Duration::from_secs(60));
        let names: BTreeSet<_> = dumps.iter().map(|dump| read(dump.data.as_bytes()).unwrap()).collect();
        assert_eq!(names, plan.names.into_iter().collect());
        host.wait_queue_empty(PATIENCE);
    }
}
