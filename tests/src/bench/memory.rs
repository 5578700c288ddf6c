//! Memory: with connections that wait, and after much work.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::Duration;

use super::arrivals::Counter;
use super::cells::Cell;
use super::flow::{Flow, warm_up};
use super::ground::{Bench, FAR, relayhost, route};
use super::server::Server;
use super::table::{Row, Series};
use super::usage::memory;
use crate::smtp::{Client, dial};
use crate::wait::{tick, wait_until};

const MANY: usize = 5000;
const SOME: usize = 500;
const WIDE: usize = 90;

/// An allocator may take this long to give back what is free.
const REST: Duration = Duration::from_secs(10);

/// What is measured of each server, and what is wanted of mailtree.
const WHAT: [(&str, Option<f64>); 6] = [
    ("idle", Some(16.0)),
    ("500 idle connections", Some(28.0)),
    ("5,000 idle connections", Some(130.0)),
    ("after these were closed", None),
    ("90 sessions with 1,000 recipients each", None),
    ("after these", None),
];

/// Measures it.
pub fn run(bench: &Bench, cell: &Cell) -> Vec<Row> {
    let [postfix, mailtree] = roomy(bench);
    let [few, many] = [idle(bench, &postfix, SOME), idle(bench, &mailtree, MANY)];
    drop((postfix, mailtree));
    // What the first ones have kept would hide what these need.
    let [postfix, mailtree] = roomy(bench);
    let ends = [wide(bench, &postfix), wide(bench, &mailtree)];
    let join = |idle: [Option<f64>; 4], [held, after]: [f64; 2]| {
        let [rest, some, many, closed] = idle;
        [rest, some, many, closed, Some(held), Some(after)]
    };
    let figures = [join(few, ends[0]), join(many, ends[1])];
    for (figures, server) in figures.iter().zip([&postfix, &mailtree]) {
        for ((what, _), figure) in WHAT.iter().zip(figures).filter(|(_, figure)| figure.is_some()) {
            println!("{}, {}: {what}: {:.1} MiB PSS", cell.name, server.name, figure.unwrap());
        }
    }
    let series = |figure: Option<f64>| Series(figure.into_iter().collect());
    let row = |(at, (what, most)): (usize, &(&str, Option<f64>))| {
        let row =
            Row::new(format!("{}: {what}", cell.name), "MiB", series(figures[0][at]), series(figures[1][at]));
        match most {
            Some(most) => {
                let met = row.mailtree() <= *most;
                row.want(format!("≤ {most} MiB"), met)
            }
            None => row,
        }
    };
    WHAT.iter().enumerate().map(row).collect()
}

/// Both servers, with room for all connections.
fn roomy(bench: &Bench) -> [Server; 2] {
    let sinks = [Counter::start(), Counter::start()];
    // Else 100 processes serve 100 connections, and the others wait.
    let lines = format!("{}default_process_limit = 600\n", relayhost(sinks[0].address()));
    let mailtree = bench.mailtree(|setup| {
        setup.control("concurrencyincoming", "6000\n").control("smtproutes", &route(sinks[1].address()))
    });
    let mut servers = [bench.postfix(&lines), mailtree];
    for (server, sink) in servers.iter_mut().zip(sinks) {
        server.sink = Some(sink);
        warm_up(bench, server, Flow::local(20, 1024, 1));
    }
    servers
}

fn pss(bench: &Bench, server: &Server) -> f64 {
    bench.settle(server);
    memory(server.root)
}

/// MiB idle, with some connections, with many, and when they are closed.
fn idle(bench: &Bench, server: &Server, most: usize) -> [Option<f64>; 4] {
    let rest = pss(bench, server);
    let mut waiting = connect(server.address, bench.options.scaled(SOME, 5));
    let some = pss(bench, server);
    let many = (most > SOME).then(|| {
        waiting.extend(connect(server.address, bench.options.scaled(most - SOME, 45)));
        pss(bench, server)
    });
    drop(waiting);
    tick(REST);
    [Some(rest), Some(some), many, Some(pss(bench, server))]
}

/// MiB with sessions that hold all their recipients, and when everything is delivered.
fn wide(bench: &Bench, server: &Server) -> [f64; 2] {
    let held =
        hold(server.address, server.root, bench.options.scaled(WIDE, 2), bench.options.scaled(1000, 10));
    wait_until("an empty queue", Duration::from_secs(600), || server.queued() == 0);
    tick(REST);
    [held, pss(bench, server)]
}

/// Connections that have been greeted and say nothing.
pub fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let mut some: Vec<_> = (all.len()..count).take(50).map(|_| dial(address).unwrap()).collect();
        for stream in &mut some {
            let mut greeting = [0; 512];
            let length = stream.read(&mut greeting).unwrap();
            assert!(
                greeting[..length].starts_with(b"220"),
                "{:?}",
                String::from_utf8_lossy(&greeting[..length])
            );
        }
        all.append(&mut some);
    }
    all
}

/// Sessions that hold all their recipients at the same time, and then send; MiB while they hold them.
pub fn hold(address: SocketAddr, root: u32, sessions: usize, recipients: usize) -> f64 {
    let (full, go) = (Barrier::new(sessions + 1), Barrier::new(sessions + 1));
    std::thread::scope(|scope| {
        for session in 0..sessions {
            let (full, go) = (&full, &go);
            scope.spawn(move || {
                let mut client = Client::connect(address).unwrap();
                client.say("EHLO wide.test", 250);
                client.say("MAIL FROM:<sender@mx.test>", 250);
                for recipient in 0..recipients {
                    client.say(&format!("RCPT TO:<r{recipient}.{session}@{FAR}>"), 250);
                }
                full.wait();
                go.wait();
                client.say("DATA", 354);
                client.send(&crate::smtp::wire("Subject: wide\n\nwide\n")).unwrap();
                client.reply().unwrap().expect(250);
                client.say("QUIT", 221);
            });
        }
        full.wait();
        let held = memory(root);
        go.wait();
        held
    })
}
