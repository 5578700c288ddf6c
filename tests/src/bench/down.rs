//! The next hop is down: a queue that only grows.

use super::cells::Cell;
use super::flow::{Flow, To, fitting, order, warm_up};
use super::ground::Bench;
use super::table::{Row, Series};
use super::usage::Spent;
use crate::host::free_port;

const CHUNKS: usize = 10;

/// One server in one round.
struct Filled {
    /// 250s a second, over all chunks.
    rate: f64,
    /// Rate of the last two chunks, as a part of the first two.
    end: f64,
    cpu: Spent,
}

/// Measures it.
pub fn run(bench: &Bench, cell: &Cell) -> Vec<Row> {
    let mut filled = [Vec::new(), Vec::new()];
    for round in 1..=bench.options.rounds {
        let mut servers = bench.relays([free_port("127.0.0.1"), free_port("127.0.0.1")]);
        for at in order(servers.len(), round) {
            let server = &mut servers[at];
            // Warmed up with messages that leave the queue.
            warm_up(bench, server, Flow { synced: false, ..Flow::local(200, 1024, 20) });
            let mut chunk = Flow { to: To::Queue, synced: false, ..Flow::local(1000, 1024, 20) };
            chunk.source.count = fitting(bench, server, chunk);
            if bench.options.long {
                chunk.source.count = (chunk.source.count / CHUNKS).max(chunk.source.sessions);
            }
            bench.pause();
            let before = Spent::now(server.root, &[]);
            let start = std::time::Instant::now();
            let rates: Vec<_> = (0..CHUNKS).map(|_| accept(server.address, chunk)).collect();
            if bench.options.long {
                bench.sync();
            }
            let count = CHUNKS * chunk.source.count;
            let rate = count as f64 / start.elapsed().as_secs_f64();
            bench.settle(server);
            let cpu = Spent::now(server.root, &[]).per_thousand(before, count);
            assert!(server.queued() >= count, "{} has {} of {count} messages", server.name, server.queued());
            let shown: Vec<_> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
            println!(
                "{}, round {round}, {}: {count} messages, {rate:.0}/s accepted; by chunk: {}; CPU s per 1,000: {:.2} \
                 own, {:.2} machine",
                cell.name,
                server.name,
                shown.join(" "),
                cpu.own,
                cpu.machine
            );
            let end = (rates[CHUNKS - 2] + rates[CHUNKS - 1]) / (rates[0] + rates[1]);
            filled[at].push(Filled { rate, end, cpu });
        }
    }
    let [postfix, mailtree] = filled.each_ref();
    let series = |figure: fn(&Filled) -> f64| [Series::of(postfix, figure), Series::of(mailtree, figure)];
    let ratio = |figure: fn(&Filled) -> f64| {
        let [postfix, mailtree] = series(figure);
        mailtree.median() / postfix.median()
    };
    let [slow, fast] = series(|one| one.rate);
    let row =
        Row::new(cell.name, "/s", slow, fast).cpu(ratio(|one| one.cpu.own), ratio(|one| one.cpu.machine));
    let faster = row.ratio();
    let [slow, fast] = series(|one| one.end);
    let even = fast.median();
    vec![
        row.want("≥ 5 x", faster >= 5.0),
        Row::new(format!("{}: last two chunks by first two", cell.name), "x", slow, fast)
            .want("≥ 0.9 x", even >= 0.9),
    ]
}

fn accept(address: std::net::SocketAddr, chunk: Flow) -> f64 {
    let start = std::time::Instant::now();
    let far = format!("x@{}", super::ground::FAR);
    chunk.source.send(address, "sender@mx.test", &far);
    chunk.source.count as f64 / start.elapsed().as_secs_f64()
}
