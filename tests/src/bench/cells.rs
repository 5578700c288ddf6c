//! The cells.

use super::flow::{Flow, Measured, To, order, rounds, warm_up};
use super::ground::Bench;
use super::limit::Limit;
use super::lone::{lone, percentile};
use super::server::Server;
use super::table::{Row, Series};
use super::{deferred, down, memory, writer};
use crate::host::Ran;

/// A cell.
pub struct Cell {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub what: &'static str,
    run: fn(&Bench, &Self) -> Vec<Row>,
}

/// All cells.
pub const CELLS: [Cell; 13] = [
    Cell {
        name: "local",
        what: "1 KiB into a Maildir, 20 sessions, one connection a message; beside the disk's limit",
        run: |bench, cell| {
            let wanted = Wanted { ratio: 5.0, cpu: Some(1.0 / 6.0), files: Some(50.0) };
            local(bench, cell, Flow::local(2000, 1024, 20), wanted, Some(20))
        },
    },
    Cell {
        name: "one",
        what: "the same with 1 session",
        run: |bench, cell| local(bench, cell, Flow::local(500, 1024, 1), Wanted::ratio(3.0), Some(1)),
    },
    Cell {
        name: "hundred",
        what: "the same with 100 sessions",
        run: |bench, cell| local(bench, cell, Flow::local(2000, 1024, 100), Wanted::ratio(6.5), None),
    },
    Cell {
        name: "reused",
        what: "the same with 20 sessions, each sends message after message",
        run: |bench, cell| {
            let mut flow = Flow::local(3000, 1024, 20);
            flow.source.reuse = true;
            local(bench, cell, flow, Wanted::ratio(9.0), Some(20))
        },
    },
    Cell {
        name: "10k",
        what: "10 KiB into a Maildir, 20 sessions",
        run: |bench, cell| local(bench, cell, Flow::local(1000, 10 << 10, 20), Wanted::ratio(5.0), None),
    },
    Cell {
        name: "1m",
        what: "1 MiB into a Maildir, 20 sessions",
        run: |bench, cell| local(bench, cell, Flow::local(100, 1 << 20, 20), Wanted::ratio(2.0), None),
    },
    Cell { name: "relay", what: "1 KiB to a smarthost, 20 sessions", run: relay },
    Cell {
        name: "down",
        what: "10,000 messages for a smarthost that is down, 20 sessions, in ten chunks; new servers in each round",
        run: down::run,
    },
    Cell {
        name: "writer",
        what: "1 KiB into a Maildir, 20 sessions, then 200 lone messages, beside a process that writes big files",
        run: beside_a_writer,
    },
    Cell { name: "off", what: "as local, with queue: (journal: off) in host.ron", run: journal_off },
    Cell {
        name: "memory",
        what: "PSS: idle, 500 and 5,000 idle connections, these closed, 90 sessions of 1,000 recipients; once",
        run: memory::run,
    },
    Cell {
        name: "deferred",
        what: "100,000 deferred messages: start, qmail-qread, rate beside them, PSS of each",
        run: deferred::run,
    },
    Cell { name: "lone", what: "200 lone messages of 1 KiB, nothing beside them", run: alone },
];

impl Cell {
    /// Measures it.
    pub fn run(&self, bench: &Bench) -> Vec<Row> {
        println!("\n{}: {}", self.name, self.what);
        (self.run)(bench, self)
    }
}

/// What a rate should reach.
struct Wanted {
    ratio: f64,
    cpu: Option<f64>,
    files: Option<f64>,
}

impl Wanted {
    fn ratio(ratio: f64) -> Self {
        Self { ratio, cpu: None, files: None }
    }
}

fn local(bench: &Bench, cell: &Cell, flow: Flow, wanted: Wanted, threads: Option<usize>) -> Vec<Row> {
    rates(bench, cell, &mut bench.pair(), flow, wanted, threads)
}

fn relay(bench: &Bench, cell: &Cell) -> Vec<Row> {
    let flow = Flow { to: To::Smarthost, ..Flow::local(2000, 1024, 20) };
    rates(bench, cell, &mut bench.relays_to_sinks(), flow, Wanted::ratio(4.0), None)
}

fn journal_off(bench: &Bench, cell: &Cell) -> Vec<Row> {
    let (setup, home) = bench.setup();
    let setup = setup.field("queue", "(journal: off)");
    setup.write();
    let Ran { code, stdout, stderr } = setup.run(&["check"]);
    if code != Some(0) {
        let said = stdout + &stderr;
        let line = said.lines().find(|line| line.contains("journal")).unwrap_or_default();
        println!("{}: skipped, this mailtree does not know the setting: {line}", cell.name);
        return Vec::new();
    }
    let mailtree = Server::mailtree("mailtree", setup.start(), home);
    let mut servers = [bench.postfix(""), mailtree];
    rates(bench, cell, &mut servers, Flow::local(2000, 1024, 20), Wanted::ratio(3.0), None)
}

fn beside_a_writer(bench: &Bench, cell: &Cell) -> Vec<Row> {
    let mut servers = bench.pair();
    let writer = writer::Writer::start(bench);
    let started = std::time::Instant::now();
    // A sync would wait for the writer's data.
    let flow = Flow { synced: false, ..Flow::local(1000, 1024, 20) };
    let mut lones = Lones::default();
    let load = [writer.pid()];
    let measured = rounds(bench, cell.name, &mut servers, flow, &load, |servers| {
        lones.measure(bench, cell.name, servers);
    });
    println!(
        "{}: the writer wrote {:.0} MiB/s",
        cell.name,
        writer.written() / started.elapsed().as_secs_f64()
    );
    let mut rows = vec![rate(cell.name, &measured, &Wanted::ratio(5.0))];
    rows.extend(lones.rows(cell.name, Some(50.0)));
    rows
}

fn alone(bench: &Bench, cell: &Cell) -> Vec<Row> {
    let mut servers = bench.pair();
    for server in &mut servers {
        warm_up(bench, server, Flow::local(200, 1024, 1));
    }
    let mut lones = Lones::default();
    for _ in 0..bench.options.rounds {
        lones.measure(bench, cell.name, &servers);
    }
    lones.rows(cell.name, None)
}

fn rates(
    bench: &Bench,
    cell: &Cell,
    servers: &mut [Server],
    flow: Flow,
    wanted: Wanted,
    threads: Option<usize>,
) -> Vec<Row> {
    let mut limit = Limit::default();
    let measured = rounds(bench, cell.name, servers, flow, &[], |_| {
        if let Some(threads) = threads {
            limit.measure(bench, threads);
            println!(
                "{}: the disk allows {:.0} files and directories/s with {threads} threads, {:.0} journal records/s",
                cell.name,
                limit.files.last().unwrap(),
                limit.records.last().unwrap()
            );
        }
    });
    let mut row = rate(cell.name, &measured, &wanted);
    if let Some(threads) = threads {
        let (files, records) = (Series(limit.files), Series(limit.records));
        let share = |limit: &Series| 100.0 * row.mailtree() / limit.median();
        let (of_files, of_records) = (share(&files), share(&records));
        row = row.disk(format!(
            "mailtree has {of_files:.0} % of the {files} files and directories/s that the disk allows with {threads} \
             threads, {of_records:.0} % of {records} journal records/s with 20"
        ));
        if let Some(least) = wanted.files {
            row = row.want(format!("≥ {least} % of files and directories"), of_files >= least);
        }
    }
    vec![row]
}

fn rate(name: &str, measured: &[Vec<Measured>], wanted: &Wanted) -> Row {
    let [postfix, mailtree] = measured else { panic!("two servers") };
    let done = |rounds| Series::of(rounds, |one: &Measured| one.done);
    let cpu = |figure: fn(&Measured) -> f64| {
        Series::of(mailtree, figure).median() / Series::of(postfix, figure).median()
    };
    let (own, machine) = (cpu(|one| one.cpu.own), cpu(|one| one.cpu.machine));
    let row = Row::new(name, "/s", done(postfix), done(mailtree)).cpu(own, machine);
    let ratio = row.ratio();
    let row = row.want(format!("≥ {} x", wanted.ratio), ratio >= wanted.ratio);
    match wanted.cpu {
        Some(most) => row.want(format!("≤ {most:.2} x machine CPU"), machine <= most),
        None => row,
    }
}

/// Percentiles of lone messages in each round, by server.
#[derive(Default)]
struct Lones([Vec<[f64; 4]>; 2]);

impl Lones {
    fn measure(&mut self, bench: &Bench, name: &str, servers: &[Server]) {
        let count = bench.options.scaled(200, 20);
        for at in order(servers.len(), self.0[0].len() + 1) {
            let lone = lone(bench, &servers[at], count);
            let one = [
                percentile(&lone.accepted, 50),
                percentile(&lone.accepted, 99),
                percentile(&lone.delivered, 50),
                percentile(&lone.delivered, 99),
            ];
            println!(
                "{name}, {}: {count} lone messages: connection to 250 p50 {:.2} ms, p99 {:.2} ms; 250 to Maildir p50 \
                 {:.2} ms, p99 {:.2} ms",
                servers[at].name, one[0], one[1], one[2], one[3]
            );
            self.0[at].push(one);
        }
    }

    fn rows(self, name: &str, most: Option<f64>) -> Vec<Row> {
        let what = [
            "connection to 250, p50",
            "connection to 250, p99",
            "250 to Maildir, p50",
            "250 to Maildir, p99",
        ];
        let row = |(at, what)| {
            let series = |server: usize| Series::of(&self.0[server], |one: &[f64; 4]| one[at]);
            let row = Row::new(format!("{name}: {what}"), "ms", series(0), series(1));
            match most {
                Some(most) if at == 1 => {
                    let met = row.mailtree() <= most;
                    row.want(format!("≤ {most} ms"), met)
                }
                _ => row,
            }
        };
        what.into_iter().enumerate().map(row).collect()
    }
}
