//! Memory that was taken by many connections and many recipients is given back.

use std::time::{Duration, Instant};

use mailtree_tests::bench::memory::{connect, hold};
use mailtree_tests::host::{Host, Setup};
use mailtree_tests::load::{Load, Plan};
use mailtree_tests::peer::Peer;
use mailtree_tests::probe::resident;
use mailtree_tests::wait::{tick, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// MiB in memory, whoever else runs the same program.
fn memory(pid: u32) -> f64 {
    resident(pid) as f64 / 1024.0
}

/// A host that has worked a little, and the MiB that it has then.
fn at_rest(peer: &Peer) -> (Host, f64) {
    let descriptors = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: descriptors, maximum: descriptors }).unwrap();
    let setup = Setup::new().control("concurrencyincoming", "6000\n");
    let host = setup.control("smtproutes", &peer.route("far.test")).start();
    Load::start(host.address(), &Plan::to("x@far.test", "warm", 500)).finish(Duration::from_secs(60));
    host.wait_queue_empty(Duration::from_secs(60));
    // What an allocator keeps for a second is no use of memory.
    tick(Duration::from_secs(3));
    let before = memory(host.pid());
    (host, before)
}

/// At the end the host has at most half as much again.
fn is_given_back(host: &Host, before: f64) {
    let end = Instant::now() + Duration::from_secs(40);
    let mut now = memory(host.pid());
    while now > 1.5 * before {
        assert!(Instant::now() < end, "{now:.1} MiB; it was {before:.1} MiB");
        tick(Duration::from_millis(500));
        now = memory(host.pid());
    }
    println!("{before:.1} MiB before, {now:.1} MiB after");
}

#[test]
fn what_5000_connections_took_is_given_back() {
    let (host, before) = at_rest(&Peer::obliging());
    let connections = connect(host.listens("smtpd"), 5000);
    println!("{:.1} MiB with 5,000 connections", memory(host.pid()));
    drop(connections);
    is_given_back(&host, before);
}

#[test]
fn what_90_sessions_of_1000_recipients_took_is_given_back() {
    let peer = Peer::obliging();
    let (host, before) = at_rest(&peer);
    let held = hold(host.listens("smtpd"), host.pid(), 90, 1000);
    println!("{held:.1} MiB with 90,000 recipients");
    wait_until("all of them at the peer", Duration::from_secs(180), || {
        peer.received().iter().map(|taken| taken.to.len()).sum::<usize>() >= 90_500
    });
    host.wait_queue_empty(Duration::from_secs(60));
    is_given_back(&host, before);
}
