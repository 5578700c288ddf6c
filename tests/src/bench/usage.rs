//! CPU and memory: of a server, which is a process and all its descendants, and of the machine.

use std::fs;
use std::time::{Duration, Instant};

use crate::wait::tick;

/// A process as `/proc/PID/stat` tells it: parent, and CPU seconds of itself and of its ended, awaited children.
fn stat(pid: u32) -> Option<(u32, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    // proc(5): field 3 is the first after the name; ppid is 4, utime stime cutime cstime are 14 to 17.
    let ticks: u64 = fields[11..15].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((fields[1].parse().ok()?, seconds(ticks)))
}

/// USER_HZ is 100 on every Linux that Rust runs on.
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / 100.0
}

/// `root` and all its living descendants.
pub fn family(root: u32) -> Vec<u32> {
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
fn own(root: u32) -> f64 {
    family(root).into_iter().filter_map(|pid| Some(stat(pid)?.1)).sum()
}

/// CPU seconds of the machine so far: everything in `/proc/stat` but idle, iowait and what guests count twice.
fn machine() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let numbers: Vec<u64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
    // proc(5): user nice system idle iowait irq softirq.
    seconds([0, 1, 2, 5, 6].iter().map(|&field| numbers[field]).sum())
}

/// CPU seconds, so far or between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// Of the server's processes.
    pub own: f64,
    /// Of the whole machine, kernel threads included, without those that make the load.
    pub machine: f64,
}

impl Spent {
    /// Up to now; `load` are processes that make load, beside this one and its ended children.
    pub fn now(root: u32, load: &[u32]) -> Self {
        let made = |pid: u32| stat(pid).map_or(0.0, |(_, spent)| spent);
        let load: f64 = load.iter().copied().map(made).sum();
        Self { own: own(root), machine: machine() - load - made(std::process::id()) }
    }

    /// From `before` to `self`, for each thousand of `count`.
    pub fn per_thousand(self, before: Self, count: usize) -> Self {
        let each = |after: f64, before: f64| (after - before) * 1000.0 / count as f64;
        Self { own: each(self.own, before.own), machine: each(self.machine, before.machine) }
    }
}

/// Waits until the server has used no CPU for so long: what it does after the delivery counts too.
pub fn settle(root: u32, rest: Duration) {
    let mut last = own(root);
    let mut quiet = Instant::now();
    while quiet.elapsed() < rest {
        tick(Duration::from_millis(100));
        let now = own(root);
        if now - last > 0.015 {
            quiet = Instant::now();
        }
        last = now;
    }
}

/// [`memory`] when it does not change any more: what was freed goes back to the system within seconds.
pub fn steady_memory(root: u32) -> f64 {
    let begun = Instant::now();
    let mut last = memory(root);
    loop {
        tick(Duration::from_millis(1500));
        let now = memory(root);
        if (now - last).abs() <= last * 0.01 || begun.elapsed() > Duration::from_secs(30) {
            return now;
        }
        last = now;
    }
}

/// Proportional set size of the family, in MiB: pages shared between its processes count once.
pub fn memory(root: u32) -> f64 {
    let pss = |pid: u32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().trim_end_matches(" kB").parse().ok()
    };
    family(root).into_iter().filter_map(pss).sum::<u64>() as f64 / 1024.0
}
