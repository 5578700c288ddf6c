//! Messages one at a time: how long each takes.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::arrivals::{each, watch};
use super::ground::Bench;
use super::server::Server;
use crate::smtp::Client;
use crate::wait::tick;

/// Milliseconds of each message.
#[derive(Debug, Default)]
pub struct Lone {
    /// From the connection to the 250 after the data.
    pub accepted: Vec<f64>,
    /// From that 250 to the file in `new/`.
    pub delivered: Vec<f64>,
}

/// Sends `count` messages of 1 KiB, each when the one before has arrived.
pub fn lone(bench: &Bench, server: &Server, count: usize) -> Lone {
    bench.renew(&server.maildir);
    let watched = watch(&server.maildir.path().join("new"));
    let (sender, arrivals) = channel();
    let watcher = std::thread::spawn(move || each(watched, count, |moment| sender.send(moment).unwrap()));
    let text = format!("Subject: lone\n\n{}", format!("{}\n", "x".repeat(72)).repeat(14));
    let mut lone = Lone::default();
    for _ in 0..count {
        let start = Instant::now();
        let mut client = Client::connect(server.address).unwrap();
        client.say("EHLO lone.test", 250);
        client.transact("sender@mx.test", &[server.mailbox], &text).unwrap().expect(250);
        let accepted = Instant::now();
        client.say("QUIT", 221);
        let arrived = arrivals.recv_timeout(Duration::from_secs(60)).expect("a lone message to arrive");
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        lone.accepted.push(milliseconds(accepted - start));
        lone.delivered.push(milliseconds(arrived.saturating_duration_since(accepted)));
        tick(Duration::from_millis(10));
    }
    watcher.join().unwrap();
    lone
}

/// The value that `percent` of all do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent).div_ceil(100).max(1) - 1]
}
