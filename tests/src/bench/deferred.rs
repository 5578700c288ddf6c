//! A long queue of deferred messages.

use std::fs::{self, File, FileTimes};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use mailtree_protocols::queue::{Dir, Layout, MessageId};

use super::cells::Cell;
use super::flow::{Flow, Measured, rounds};
use super::ground::{Bench, FAR};
use super::server::Server;
use super::table::{Row, Series};
use super::usage::steady_memory;
use crate::host::{Host, PATIENCE, free_port};
use crate::smtp::Client;
use crate::wait::tick;

const MESSAGES: usize = 100_000;

/// When they are due.
const LATER: Duration = Duration::from_secs(86_400);

/// A host that was started and asked.
struct Started {
    server: Server,
    /// Seconds from the start of the process to the greeting.
    ready: f64,
}

/// Measures it.
pub fn run(bench: &Bench, cell: &Cell) -> Vec<Row> {
    let count = bench.options.scaled(MESSAGES, 100);
    let empty = start(bench, "empty", 0);
    println!("{}, empty queue: ready after {:.2} s", cell.name, empty.ready);
    let full = start(bench, "deferred", count);
    println!("{}, {count} messages: ready after {:.2} s", cell.name, full.ready);
    // Both run: they share the pages of the program.
    let [few, many] = [&empty, &full].map(|started| {
        bench.settle(&started.server);
        steady_memory(started.server.root)
    });
    println!("{}: {few:.1} MiB PSS with an empty queue, {many:.1} MiB with {count} messages", cell.name);
    let mut read = Vec::new();
    for _ in 0..bench.options.rounds {
        read.push(qread(full.server.host(), count));
        println!("{}, {count} messages: qmail-qread took {:.2} s", cell.name, read[read.len() - 1]);
    }
    let each = (many - few) * f64::from(1 << 20) / count as f64;
    let mut servers = [empty.server, full.server];
    let flow = Flow { synced: false, ..Flow::local(2000, 1024, 20) };
    let measured = rounds(bench, cell.name, &mut servers, flow, &[], |_| ());
    assert!(servers[1].queued() >= count, "deferred messages have left the queue");
    let rate = |at: usize| Series::of(&measured[at], |one: &Measured| one.accepted);
    let part = 100.0 * rate(1).median() / rate(0).median();
    let read = Series(read);
    let quick = read.median() <= 1.5;
    let row = |what: &str, unit, series| {
        Row::new(format!("{}: {what}", cell.name), unit, Series::default(), series)
    };
    vec![
        row("start to greeting", "s", Series(vec![full.ready])).want("≤ 2 s", full.ready <= 2.0),
        row("qmail-qread", "s", read).want("≤ 1.5 s", quick),
        row("accepted with an empty queue", "/s", rate(0)),
        row("accepted beside them", "/s", rate(1)).want("≥ 90 % of empty", part >= 90.0),
        row("PSS of a message", "B", Series(vec![each])).want("≤ 250 B", each <= 250.0),
    ]
}

fn start(bench: &Bench, name: &'static str, count: usize) -> Started {
    let (setup, home) = bench.setup();
    let address = free_port("127.0.0.1");
    let services = format!("{{ \"smtpd\": smtpd(listen: [\"{address}\"]) }}");
    let setup = setup.field("services", services);
    fill(&setup.home().join("queue"), count);
    bench.pause();
    let start = Instant::now();
    let host = setup.launch();
    let ready = greeted(address, start);
    host.wait_up();
    Started { server: Server::mailtree(name, host, home), ready }
}

fn greeted(address: SocketAddr, start: Instant) -> f64 {
    loop {
        if Client::connect(address).is_ok_and(|client| client.greeting.code == 220) {
            return start.elapsed().as_secs_f64();
        }
        assert!(start.elapsed() < PATIENCE * 10, "no greeting");
        tick(Duration::from_millis(5));
    }
}

/// Messages that were tried and are due later, each of 1 KiB to one recipient behind the smarthost.
fn fill(queue: &Path, count: usize) {
    let text = format!("Subject: deferred\n\n{}", format!("{}\n", "x".repeat(72)).repeat(14));
    let later = FileTimes::new().set_modified(SystemTime::now() + LATER);
    let layout = Layout::default();
    for below in [Dir::Mess, Dir::Info, Dir::Remote].into_iter().flat_map(|dir| layout.directories(dir)) {
        fs::create_dir_all(queue.join(below)).unwrap();
    }
    for number in 0..count {
        let made = queue.join("pid/made");
        fs::write(&made, &text).unwrap();
        let id = MessageId(fs::metadata(&made).unwrap().ino());
        fs::rename(&made, queue.join(layout.file(Dir::Mess, id))).unwrap();
        fs::write(queue.join(layout.file(Dir::Info, id)), "Fsender@mx.test\0").unwrap();
        let remote = queue.join(layout.file(Dir::Remote, id));
        fs::write(&remote, format!("Tr{number}@{FAR}\0")).unwrap();
        File::options().write(true).open(remote).unwrap().set_times(later).unwrap();
    }
}

fn qread(host: &Host, count: usize) -> f64 {
    let start = Instant::now();
    let said = host.ask(&["qmail-qread"]);
    let took = start.elapsed().as_secs_f64();
    let found = said.lines().filter(|line| line.starts_with("\tremote\t")).count();
    assert_eq!(found, count, "recipients that qmail-qread found");
    took
}
