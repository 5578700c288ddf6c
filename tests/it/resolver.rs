//! Name servers that are strange, slow or hostile: what they do to the host.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
use mailtree_tests::letter::letter;
use mailtree_tests::odd_dns::{OddDns, Said, exchanger};
use mailtree_tests::peer::{Answer, Peer};
use mailtree_tests::wait::wait_until;

const MX: u16 = 15;
const A: u16 = 1;

fn said(records: Vec<(u16, Vec<u8>)>) -> Option<Said> {
    Some(Said { code: 0, cut: false, records })
}

fn none() -> Option<Said> {
    Some(Said { code: 3, cut: false, records: Vec::new() })
}

/// A host that asks whether each sender's domain takes mail.
fn asking(dns: &OddDns) -> Host {
    let smtpd = "environment: {\"CHKUSER_START\": \"ALWAYS\"},";
    Setup::new().resolver(dns.address()).smtpd(smtpd).rules(":allow\n").start()
}

fn loopback(last: u8) -> (u16, Vec<u8>) {
    (A, Ipv4Addr::new(127, 0, 0, last).octets().to_vec())
}

#[test]
fn however_large_the_answers_are_the_cache_is_bounded() {
    let dns = OddDns::start(|asked| match (asked.kind, asked.tcp) {
        (MX, false) => Some(Said { code: 0, cut: true, records: Vec::new() }),
        (MX, true) => said((0..3000).map(|n| exchanger(n, "m")).collect()),
        (A, _) => said(vec![loopback(9)]),
        _ => none(),
    });
    let host = asking(&dns);
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    for n in 0..450 {
        client.say(&format!("MAIL FROM:<a@top{n}.evil.test>"), 250);
        client.say("RCPT TO:<bob@mx.test>", 250);
        client.say("RSET", 250);
    }
    assert!(dns.asked().iter().filter(|asked| asked.tcp).count() >= 450);
    // A hundred records of each are kept.
    let kept = host.metrics().sum("mailtree_resolver_cache_bytes", &[]);
    assert!((1e6..8.5e6).contains(&kept), "{kept} bytes");
    host.run(&["svc", "-a", "resolver"]).expect(0);
    wait_until("the memory to be given back", PATIENCE, || {
        host.metrics().sum("mailtree_resolver_cache_bytes", &[]) == 0.0
    });
}

#[test]
fn one_session_is_the_reason_of_so_many_questions_and_no_more() {
    let dns = OddDns::start(|asked| match asked.kind {
        MX => said(vec![exchanger(1, "m")]),
        A => said(vec![loopback(9)]),
        _ => none(),
    });
    let host = asking(&dns);
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    for n in 0..1000 {
        client.say(&format!("MAIL FROM:<a@top{n}.evil.test>"), 250);
        client.say("RCPT TO:<bob@mx.test>", 250);
        client.say("RSET", 250);
    }
    client.say("MAIL FROM:<a@one-more.evil.test>", 451);
    assert!(dns.asked().iter().all(|asked| asked.name != "one-more.evil.test"));
    // Somebody else has his own.
    let mut other = host.smtp();
    other.say("EHLO client.test", 250);
    other.say("MAIL FROM:<a@one-more.evil.test>", 250);
}

#[test]
fn a_server_from_before_edns_is_asked_without() {
    for code in [1, 4] {
        let dns = OddDns::start(move |asked| match asked.kind {
            _ if asked.edns => Some(Said { code, cut: false, records: Vec::new() }),
            MX => said(vec![exchanger(1, "m")]),
            _ => none(),
        });
        let host = asking(&dns);
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        client.say("MAIL FROM:<a@client.test>", 250);
        let ways: Vec<_> = dns.asked().iter().filter(|one| one.kind == MX).map(|one| one.edns).collect();
        assert_eq!(ways, [true, false]);
    }
}

#[test]
fn each_try_has_an_id_of_its_own() {
    let dns = OddDns::start(|_| None);
    let smtpd = "environment: {\"CHKUSER_START\": \"ALWAYS\"},";
    let resolver = format!("(servers: [\"{}\"], deadline: \"4s\")", dns.address());
    let host = Setup::new().field("resolver", resolver).smtpd(smtpd).rules(":allow\n").start();
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client.say("MAIL FROM:<a@client.test>", 451);
    let asked: Vec<_> = dns.asked().into_iter().filter(|one| one.name == "client.test").collect();
    assert!(asked.len() >= 3, "{asked:?}");
    let ids: HashSet<_> = asked.iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), asked.len(), "{asked:?}");
}

#[test]
fn a_domain_with_many_dead_exchangers_holds_its_place_for_one_deadline() {
    let port = free_port("127.0.0.2").port();
    let dns = OddDns::start(|asked| match (&*asked.name, asked.kind) {
        ("dead.test", MX) => said((0..50).map(|n| exchanger(n, &format!("m{n}"))).collect()),
        ("good.test", MX) => said(vec![exchanger(1, "m")]),
        ("m.good.test", A) => said(vec![loopback(2)]),
        // Nobody answers for the others.
        (name, _) if name.ends_with(".dead.test") => None,
        _ => said(Vec::new()),
    });
    let good = Peer::start(&format!("127.0.0.2:{port}"), |_, _| Answer::Usual);
    let resolver = format!("(servers: [\"{}\"], deadline: \"6s\")", dns.address());
    let setup = Setup::new().field("resolver", resolver).field("remote", format!("(port: {port})"));
    let host = setup.control("concurrencyremote", "2\n").start();
    for n in 0..4 {
        host.send("sender@mx.test", &["x@dead.test"], &letter(&format!("dead{n}"), 100));
    }
    host.send("sender@mx.test", &["x@good.test"], &letter("good", 100));
    // Two at a time, six seconds each; one after the other fifty names would take five minutes.
    good.wait(1, Duration::from_secs(40));
    let names: HashSet<_> =
        dns.asked().into_iter().filter(|one| one.name.ends_with(".dead.test")).map(|one| one.name).collect();
    assert_eq!(names.len(), 16, "the best are asked for, and no more");
}
