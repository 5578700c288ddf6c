//! Rates: messages from `smtp-source` until they are where they should be.

use std::time::{Duration, Instant};

use super::arrivals::{each, watch};
use super::ground::{Bench, FAR};
use super::server::Server;
use super::usage::Spent;
use crate::postfix::Source;
use crate::wait::wait_until;

/// Nothing comes for so long: it is lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// Messages before anything is measured: processes, caches and directories exist.
const WARM: usize = 200;

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The server's Maildir.
    Maildir,
    /// The server's smarthost.
    Smarthost,
    /// A smarthost that is down: the clock stops at the last 250.
    Queue,
}

/// One measurement's work.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// What is sent.
    pub source: Source,
    /// Where to.
    pub to: To,
    /// A long measurement ends when the disk is synced.
    pub synced: bool,
}

impl Flow {
    /// Into the Maildir, one connection a message.
    pub fn local(count: usize, size: usize, sessions: usize) -> Self {
        Self { source: Source { count, size, sessions, reuse: false }, to: To::Maildir, synced: true }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// 250s a second.
    pub accepted: f64,
    /// Messages a second, to the end.
    pub done: f64,
    /// CPU seconds for 1,000 messages.
    pub cpu: Spent,
}

/// Measures once. `load` are processes that make load beside `smtp-source` and the smarthost.
pub fn measure(bench: &Bench, server: &mut Server, flow: Flow, load: &[u32]) -> Measured {
    let count = flow.source.count;
    let new = server.maildir.path().join("new");
    if flow.to == To::Maildir {
        bench.renew(&server.maildir);
    }
    bench.pause();
    // Postfix makes its Maildir at the first delivery.
    let watched = (flow.to == To::Maildir && new.is_dir()).then(|| watch(&new));
    let already = server.sink.as_mut().map_or(0, super::arrivals::Counter::count);
    let load: Vec<_> =
        load.iter().copied().chain(server.sink.as_ref().map(super::arrivals::Counter::pid)).collect();
    let far = format!("x@{FAR}");
    let mailbox = if flow.to == To::Maildir { server.mailbox } else { &far };
    let before = Spent::now(server.root, &load);
    let start = Instant::now();
    let (accepted, arrived) = std::thread::scope(|scope| {
        let arrivals = watched.map(|watched| {
            scope.spawn(move || {
                let mut last = start;
                each(watched, count, |moment| last = moment);
                last
            })
        });
        flow.source.send(server.address, "sender@mx.test", mailbox);
        let accepted = Instant::now();
        let arrived = match (flow.to, arrivals) {
            (To::Queue, _) => accepted,
            (To::Smarthost, _) => server.sink.as_mut().unwrap().reached(already + count, PATIENCE),
            (To::Maildir, Some(arrivals)) => arrivals.join().unwrap(),
            (To::Maildir, None) => {
                let maildir = &server.maildir;
                wait_until("the first messages", PATIENCE, || maildir.count() == count);
                Instant::now()
            }
        };
        (accepted, arrived.max(accepted))
    });
    let end = if bench.options.long && flow.synced {
        bench.sync();
        Instant::now()
    } else {
        arrived
    };
    bench.settle(server);
    let spent = Spent::now(server.root, &load).per_thousand(before, count);
    if flow.to == To::Maildir {
        assert_eq!(server.maildir.count(), count, "messages in the Maildir of {}", server.name);
    }
    let rate = |end: Instant| count as f64 / (end - start).as_secs_f64();
    Measured { accepted: rate(accepted), done: rate(end), cpu: spent }
}

/// Sends some messages, and measures nothing.
pub fn warm_up(bench: &Bench, server: &mut Server, mut flow: Flow) {
    flow.source.count = bench.options.scaled(flow.source.count.min(WARM), flow.source.sessions);
    measure(bench, server, flow, &[]);
}

/// How many messages a server gets in each measurement of a flow: a long one is tried out first.
pub fn fitting(bench: &Bench, server: &mut Server, mut flow: Flow) -> usize {
    flow.source.count = bench.options.scaled(flow.source.count, flow.source.sessions);
    if !bench.options.long {
        return flow.source.count;
    }
    let rate = measure(bench, server, flow, &[]).done;
    ((rate * bench.options.seconds()) as usize).clamp(flow.source.sessions, bench.room(flow.source.size))
}

/// All rounds of a flow, by server. `beside` is done in every round, too.
pub fn rounds(
    bench: &Bench,
    cell: &str,
    servers: &mut [Server],
    flow: Flow,
    load: &[u32],
    mut beside: impl FnMut(&mut [Server]),
) -> Vec<Vec<Measured>> {
    let fit = |server: &mut Server| {
        warm_up(bench, server, flow);
        let mut flow = flow;
        flow.source.count = fitting(bench, server, flow);
        flow
    };
    let flows: Vec<_> = servers.iter_mut().map(fit).collect();
    let mut measured = vec![Vec::new(); servers.len()];
    for round in 1..=bench.options.rounds {
        for at in order(servers.len(), round) {
            let one = measure(bench, &mut servers[at], flows[at], load);
            let count = flows[at].source.count;
            println!(
                "{cell}, round {round}, {}: {count} messages, {:.0}/s accepted, {:.0}/s {} ({:.1} s); CPU s per 1,000: \
                 {:.2} own, {:.2} machine",
                servers[at].name,
                one.accepted,
                one.done,
                end(bench, flow),
                count as f64 / one.done,
                one.cpu.own,
                one.cpu.machine,
            );
            measured[at].push(one);
        }
        beside(servers);
    }
    measured
}

/// Nobody is always the second.
pub fn order(count: usize, round: usize) -> Vec<usize> {
    if round % 2 == 1 { (0..count).collect() } else { (0..count).rev().collect() }
}

fn end(bench: &Bench, flow: Flow) -> &'static str {
    match (flow.to, bench.options.long && flow.synced) {
        (To::Maildir, false) => "in the Maildir",
        (To::Maildir, true) => "in the Maildir and synced",
        (To::Smarthost, false) => "at the smarthost",
        (To::Smarthost, true) => "at the smarthost and synced",
        (To::Queue, false) => "queued",
        (To::Queue, true) => "queued and synced",
    }
}
