//! Remote delivery by MX and address records.

use std::net::SocketAddr;
use std::time::Duration;

use mailtree_tests::dns::Dns;
use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
use mailtree_tests::letter::letter;
use mailtree_tests::peer::{Answer, Peer, say};
use mailtree_tests::wait::wait_until;

/// Loopback addresses that are other hosts: `mx` records lead to them, all at one port.
struct Net {
    dns: Dns,
    port: u16,
}

impl Net {
    fn new() -> Self {
        Self { dns: Dns::start(), port: free_port("127.0.0.2").port() }
    }

    fn peer(&self, address: &str) -> Peer {
        self.peer_with(address, |_, _| Answer::Usual)
    }

    fn peer_with(
        &self,
        address: &str,
        script: impl Fn(usize, &str) -> Answer + Send + Sync + 'static,
    ) -> Peer {
        Peer::start(&format!("{address}:{}", self.port), script)
    }

    fn host(&self) -> Host {
        Setup::new().resolver(self.dns.address()).field("remote", format!("(port: {})", self.port)).start()
    }
}

#[test]
fn the_best_preference_is_tried_first() {
    let net = Net::new();
    net.dns.mx("far.test", 20, "second.test").mx("far.test", 10, "first.test");
    net.dns.address_of("first.test", "127.0.0.2").address_of("second.test", "127.0.0.3");
    let (first, second) = (net.peer("127.0.0.2"), net.peer("127.0.0.3"));
    let host = net.host();
    for number in 0..5 {
        host.send("sender@mx.test", &["x@far.test"], &letter(&format!("pref{number}"), 300));
    }
    first.wait(5, PATIENCE);
    assert_eq!(second.connections(), 0);
}

#[test]
fn a_closed_exchanger_is_passed_over() {
    let net = Net::new();
    net.dns.mx("far.test", 10, "first.test").mx("far.test", 20, "second.test");
    net.dns.address_of("first.test", "127.0.0.2").address_of("second.test", "127.0.0.3");
    let second = net.peer("127.0.0.3");
    let host = net.host();
    host.send("sender@mx.test", &["x@far.test"], &letter("passed", 300));
    second.wait(1, PATIENCE);
}

#[test]
fn equals_share_the_load() {
    let net = Net::new();
    net.dns.mx("far.test", 10, "one.test").mx("far.test", 10, "two.test");
    net.dns.address_of("one.test", "127.0.0.2").address_of("two.test", "127.0.0.3");
    let (one, two) = (net.peer("127.0.0.2"), net.peer("127.0.0.3"));
    let host = net.host();
    // The chance that 40 fair choices are all the same is 1 in 10^12.
    for number in 0..40 {
        host.send("sender@mx.test", &["x@far.test"], &letter(&format!("equal{number}"), 100));
    }
    wait_until("40 messages", PATIENCE, || one.received().len() + two.received().len() == 40);
    assert!(!one.received().is_empty() && !two.received().is_empty());
}

#[test]
fn a_host_without_mx_is_its_own_exchanger() {
    let net = Net::new();
    net.dns.address_of("plain.test", "127.0.0.2");
    let peer = net.peer("127.0.0.2");
    let host = net.host();
    host.send("sender@mx.test", &["x@plain.test"], &letter("plain", 300));
    assert_eq!(peer.wait(1, PATIENCE)[0].to, ["x@plain.test"]);
}

#[test]
fn a_name_that_does_not_exist_bounces() {
    let net = Net::new();
    let host = net.host();
    host.send("sender@mx.test", &["x@nowhere.test"], &letter("nowhere", 300));
    let bounce = host.maildir("sender").wait(1, PATIENCE).remove(0);
    assert!(
        bounce.contains("<x@nowhere.test>:\nSorry, I couldn't find any host named nowhere.test. (#5.1.2)\n"),
        "{bounce}"
    );
}

#[test]
fn a_name_server_that_fails_defers_until_it_is_well() {
    let net = Net::new();
    net.dns.fail("ill.test");
    let peer = net.peer("127.0.0.2");
    let host = net.host();
    host.send("sender@mx.test", &["x@ill.test"], &letter("ill", 300));
    host.wait_log("delivery 1: deferral: *(#4.*");
    net.dns.forget("ill.test");
    net.dns.mx("ill.test", 10, "well.test").address_of("well.test", "127.0.0.2");
    wait_until("delivery after the name server is well", PATIENCE, || {
        host.ask(&["svc", "-a", "send"]);
        peer.received().len() == 1
    });
    assert_eq!(host.maildir("sender").count(), 0);
}

#[test]
fn a_name_server_that_is_silent_defers() {
    // Bound and never read.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let host =
        Setup::new().field("resolver", format!("(servers: [\"{address}\"], deadline: \"1s\")")).start();
    host.send("sender@mx.test", &["x@far.test"], &letter("mute", 300));
    host.wait_log("delivery 1: deferral: *(#4.*");
}

#[test]
fn being_ones_own_best_exchanger_is_a_loop() {
    let net = Net::new();
    net.dns.mx("loop.test", 10, "me.test").mx("loop.test", 20, "other.test");
    net.dns.address_of("me.test", "127.0.0.1").address_of("other.test", "127.0.0.2");
    let other = net.peer("127.0.0.2");
    let host = net.host();
    host.send("sender@mx.test", &["x@loop.test"], &letter("loop", 300));
    let bounce = host.maildir("sender").wait(1, PATIENCE).remove(0);
    assert!(bounce.contains("Although I'm listed as a best-preference MX or A for that host"), "{bounce}");
    assert!(bounce.contains("(#5.4.6)"), "{bounce}");
    assert_eq!(other.connections(), 0);
}

#[test]
fn a_backup_exchanger_delivers_to_better_ones_only() {
    let net = Net::new();
    net.dns.mx("backup.test", 10, "best.test").mx("backup.test", 20, "me.test").mx(
        "backup.test",
        30,
        "worse.test",
    );
    net.dns
        .address_of("best.test", "127.0.0.2")
        .address_of("me.test", "127.0.0.1")
        .address_of("worse.test", "127.0.0.3");
    let worse = net.peer("127.0.0.3");
    let host = net.host();
    host.send("sender@mx.test", &["x@backup.test"], &letter("backup", 300));
    host.wait_log("delivery 1: deferral: *");
    let best = net.peer("127.0.0.2");
    wait_until("delivery to the best", Duration::from_secs(20), || {
        host.ask(&["svc", "-a", "send"]);
        best.received().len() == 1
    });
    assert_eq!(worse.connections(), 0);
}

#[test]
fn a_busy_exchanger_does_not_lose_the_message() {
    let net = Net::new();
    net.dns.mx("far.test", 10, "one.test");
    net.dns.address_of("one.test", "127.0.0.2");
    let peer = net.peer_with("127.0.0.2", |connection, line| match line {
        "CONNECT" if connection == 1 => say("421 busy"),
        _ => Answer::Usual,
    });
    let host = net.host();
    host.send("sender@mx.test", &["x@far.test"], &letter("busy", 300));
    wait_until("delivery at the second connection", PATIENCE, || {
        host.ask(&["svc", "-a", "send"]);
        peer.received().len() == 1
    });
}

#[test]
fn an_address_literal_needs_no_name_server() {
    let net = Net::new();
    let peer = net.peer("127.0.0.2");
    let host = Setup::new().field("remote", format!("(port: {})", net.port)).start();
    host.send("sender@mx.test", &["x@[127.0.0.2]"], &letter("literal", 300));
    assert_eq!(peer.wait(1, PATIENCE)[0].to, ["x@[127.0.0.2]"]);
}

mod needs_postfix {
    use mailtree_tests::letter::read;
    use mailtree_tests::postfix::Sink;

    use super::*;

    #[test]
    fn smtp_sink_as_mx() {
        let net = Net::new();
        net.dns.mx("far.test", 5, "down.test").mx("far.test", 10, "sink.test");
        net.dns.address_of("down.test", "127.0.0.3").address_of("sink.test", "127.0.0.2");
        let sink = Sink::at(SocketAddr::from(([127, 0, 0, 2], net.port)), &[]);
        let host = net.host();
        host.send("sender@mx.test", &["x@far.test"], &letter("sink", 3000));
        assert_eq!(read(sink.wait(1, PATIENCE)[0].data.as_bytes()), Ok("sink".to_owned()));
    }
}
