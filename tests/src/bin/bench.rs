//! Mailtree and Postfix side by side: end to end from `smtp-source` to the Maildir, in interleaved rounds.
//!
//! Usage: `mailtree-bench [--rounds N] [--messages N] [--sessions N] [--size BYTES]`, as root. Both servers write to
//! the same disk, TLS off, as durable as they are shipped. Only ratios inside one run mean anything: every round gives
//! each server the same work in turn, so that noise of a shared machine hits both.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mailtree_tests::host::{Host, Setup};
use mailtree_tests::maildir::Maildir;
use mailtree_tests::postfix::{MAILBOX, Postfix, source};
use mailtree_tests::wait::tick;
use rustix::fs::inotify;

struct Work {
    rounds: usize,
    messages: usize,
    sessions: usize,
    size: usize,
}

struct Server {
    name: &'static str,
    address: SocketAddr,
    mailbox: &'static str,
    maildir: Maildir,
    /// The process whose descendants, and itself, are the server.
    root: u32,
}

#[derive(Default)]
struct Measured {
    delivered: Vec<f64>,
    accepted: Vec<f64>,
    cpu: Vec<f64>,
    memory: Vec<f64>,
}

fn main() {
    let work = arguments();
    let postfix = Postfix::start();
    let host: Host = Setup::new().start();
    let servers = [
        Server {
            name: "postfix",
            address: postfix.address(),
            mailbox: MAILBOX,
            maildir: postfix.maildir(),
            root: postfix.pid(),
        },
        Server {
            name: "mailtree",
            address: host.address().get(),
            mailbox: "bob@mx.test",
            maildir: host.maildir("bob"),
            root: host.pid(),
        },
    ];
    println!(
        "{} rounds of {} messages of {} bytes at {} sessions, one connection a message",
        work.rounds, work.messages, work.size, work.sessions
    );
    let mut measured: BTreeMap<&str, Measured> = BTreeMap::new();
    for server in &servers {
        // Processes, caches and directories exist before anything is measured.
        round(server, &Work { messages: 200, ..work });
    }
    for number in 1..=work.rounds {
        for server in &servers {
            let one = round(server, &work);
            println!(
                "round {number} {:9} accepted {:6.0}/s  end to end {:6.0}/s",
                server.name, one.accepted[0], one.delivered[0]
            );
            let all = measured.entry(server.name).or_default();
            all.accepted.extend(one.accepted);
            all.delivered.extend(one.delivered);
            all.cpu.extend(one.cpu);
            all.memory.extend(one.memory);
        }
    }
    println!(
        "\n{:9}  {:>24}  {:>16}  {:>18}  {:>15}",
        "median", "end to end/s (min-max)", "accepted/s", "CPU s per 1,000", "peak MiB (PSS)"
    );
    for server in &servers {
        let all = &measured[server.name];
        let (low, high) = all
            .delivered
            .iter()
            .fold((f64::MAX, 0.0_f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
        println!(
            "{:9}  {:>24}  {:>16.0}  {:>18.2}  {:>15.1}",
            server.name,
            format!("{:.0} ({low:.0}-{high:.0})", median(&all.delivered)),
            median(&all.accepted),
            median(&all.cpu),
            all.memory.iter().fold(0.0_f64, |most, memory| most.max(*memory))
        );
    }
    let ratio =
        |of: fn(&Measured) -> &Vec<f64>| median(of(&measured["mailtree"])) / median(of(&measured["postfix"]));
    println!(
        "mailtree / postfix: {:.2} x the rate, {:.2} x the CPU",
        ratio(|all| &all.delivered),
        ratio(|all| &all.cpu)
    );
}

fn arguments() -> Work {
    let mut work = Work { rounds: 5, messages: 2000, sessions: 20, size: 1024 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse().ok());
        let field = match word.as_str() {
            "--rounds" => &mut work.rounds,
            "--messages" => &mut work.messages,
            "--sessions" => &mut work.sessions,
            "--size" => &mut work.size,
            _ => usage(),
        };
        *field = value.unwrap_or_else(|| usage());
    }
    work
}

fn usage() -> ! {
    eprintln!("usage: mailtree-bench [--rounds N] [--messages N] [--sessions N] [--size BYTES]");
    std::process::exit(100)
}

fn round(server: &Server, work: &Work) -> Measured {
    let new = server.maildir.path().join("new");
    // Nothing is deleted between rounds, and what the last one deleted is forgotten: ext4 looks through the inodes of the
    // last five seconds whenever a file is made, whoever deleted them.
    tick(Duration::from_secs(6));
    let already = server.maildir.count();
    // Postfix makes its Maildir at the first delivery.
    let watched = if new.is_dir() { Some(watch(&new)) } else { None };
    let before = cpu(server.root);
    let peak = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let (accepted, delivered) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(memory(server.root), Ordering::Relaxed);
                tick(Duration::from_millis(200));
            }
        });
        let arrivals = watched.map(|watched| scope.spawn(|| arrived(watched, work.messages)));
        source(server.address, "sender@mx.test", server.mailbox, work.messages, work.size, work.sessions);
        let accepted = start.elapsed();
        let delivered = match arrivals {
            Some(arrivals) => arrivals.join().unwrap() - start,
            None => {
                while server.maildir.count() < already + work.messages {
                    tick(Duration::from_millis(5));
                }
                start.elapsed()
            }
        };
        over.store(true, Ordering::Relaxed);
        (accepted, delivered)
    });
    settle(server.root);
    assert_eq!(server.maildir.count(), already + work.messages, "{}", server.name);
    let messages = work.messages as f64;
    Measured {
        accepted: vec![messages / accepted.as_secs_f64()],
        delivered: vec![messages / delivered.as_secs_f64()],
        cpu: vec![(cpu(server.root) - before) * 1000.0 / messages],
        memory: vec![peak.load(Ordering::Relaxed) as f64 / 1024.0],
    }
}

fn watch(dir: &std::path::Path) -> std::os::fd::OwnedFd {
    let watched = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watched, dir, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO).unwrap();
    watched
}

/// The moment when the last of `count` files came.
fn arrived(watched: std::os::fd::OwnedFd, count: usize) -> Instant {
    let mut buffer = vec![MaybeUninit::uninit(); 1 << 16];
    let mut events = inotify::Reader::new(watched, &mut buffer);
    for _ in 0..count {
        let event = events.next().unwrap();
        assert!(!event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW), "inotify lost events");
    }
    Instant::now()
}

/// Waits until the server has used no CPU for a while: what it does after the delivery counts too.
fn settle(root: u32) {
    let mut last = cpu(root);
    let mut quiet = 0;
    while quiet < 5 {
        tick(Duration::from_millis(100));
        let now = cpu(root);
        quiet = if now - last < 0.015 { quiet + 1 } else { 0 };
        last = now;
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// A process as `/proc/PID/stat` tells it: parent, and CPU seconds of itself and of its ended, awaited children.
fn stat(pid: u32) -> Option<(u32, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    // proc(5): field 3 is the first after the name; ppid is 4, utime stime cutime cstime are 14 to 17.
    let ticks: u64 = fields[11..15].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every Linux that Rust runs on.
    Some((fields[1].parse().ok()?, ticks as f64 / 100.0))
}

/// `root` and all its living descendants.
fn family(root: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<_> = pids.filter_map(|pid| Some((pid, stat(pid)?.0))).collect();
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let elder = family[next];
        family.extend(parents.iter().filter(|(_, parent)| *parent == elder).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// CPU seconds of the family so far, ended members included.
fn cpu(root: u32) -> f64 {
    family(root).into_iter().filter_map(|pid| Some(stat(pid)?.1)).sum()
}

/// Proportional set size of the family, in KiB: pages shared between its processes count once.
fn memory(root: u32) -> u64 {
    let pss = |pid: u32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().trim_end_matches(" kB").parse().ok()
    };
    family(root).into_iter().filter_map(pss).sum()
}
