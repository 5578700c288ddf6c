//! What the disk allows: files with their directory, and records in a journal.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::ground::Bench;

/// Writers of the journal.
const WRITERS: usize = 20;
/// The journal is written over and over.
const JOURNAL: u64 = 64 << 20;
/// A message.
const RECORD: usize = 1024;
/// Writes begin and end on these.
const PAGE: usize = 4096;

/// The limits, in each round.
#[derive(Debug, Default)]
pub struct Limit {
    /// Files made, synced, renamed, their directory synced; a second.
    pub files: Vec<f64>,
    /// Records made durable by group commit, a second.
    pub records: Vec<f64>,
}

impl Limit {
    /// Measures once more; files with this many threads.
    pub fn measure(&mut self, bench: &Bench, threads: usize) {
        let seconds = if bench.options.long { 10 } else { 1 };
        let time = Duration::from_millis(bench.options.scaled(seconds * 1000, 200) as u64);
        let dir = bench.dir("limit-");
        bench.pause();
        self.files.push(files(dir.path(), threads, time));
        bench.pause();
        self.records.push(records(dir.path(), time));
    }
}

/// Runs `work` in threads until the time is over; how often it was done, a second.
fn together(threads: usize, time: Duration, work: impl Fn(usize, usize) + Sync) -> f64 {
    let start = Instant::now();
    let done: usize = std::thread::scope(|scope| {
        let work = &work;
        let thread = |thread| {
            scope.spawn(move || {
                let mut done = 0;
                while start.elapsed() < time {
                    work(thread, done);
                    done += 1;
                }
                done
            })
        };
        let threads: Vec<_> = (0..threads).map(thread).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    done as f64 / start.elapsed().as_secs_f64()
}

fn files(dir: &Path, threads: usize, time: Duration) -> f64 {
    let (tmp, new) = (dir.join("tmp"), dir.join("new"));
    fs::create_dir(&tmp).unwrap();
    fs::create_dir(&new).unwrap();
    let directory = File::open(&new).unwrap();
    together(threads, time, |thread, number| {
        let name = format!("{thread}.{number}");
        let mut file = File::create_new(tmp.join(&name)).unwrap();
        file.write_all(&[b'x'; RECORD]).unwrap();
        file.sync_all().unwrap();
        fs::rename(tmp.join(&name), new.join(&name)).unwrap();
        directory.sync_all().unwrap();
    })
}

#[derive(Default)]
struct Group {
    waiting: u64,
    written: u64,
    synced: u64,
    at: u64,
    led: bool,
}

/// Who finds no leader writes all that wait, in whole pages, and syncs.
fn records(dir: &Path, time: Duration) -> f64 {
    let journal = File::create_new(dir.join("journal")).unwrap();
    for at in (0..JOURNAL).step_by(1 << 20) {
        journal.write_all_at(&[0; 1 << 20], at).unwrap();
    }
    journal.sync_all().unwrap();
    let (group, synced) = (Mutex::new(Group::default()), Condvar::new());
    together(WRITERS, time, |_, _| {
        let mut state = group.lock().unwrap();
        state.waiting += 1;
        let mine = state.written + state.waiting;
        while state.synced < mine {
            if state.led {
                state = synced.wait(state).unwrap();
                continue;
            }
            let count = std::mem::take(&mut state.waiting);
            state.written += count;
            state.led = true;
            let batch = vec![b'x'; (count as usize * RECORD).next_multiple_of(PAGE)];
            if state.at + batch.len() as u64 > JOURNAL {
                state.at = 0;
            }
            let at = state.at;
            state.at += batch.len() as u64;
            drop(state);
            journal.write_all_at(&batch, at).unwrap();
            journal.sync_data().unwrap();
            state = group.lock().unwrap();
            state.led = false;
            state.synced = state.written;
            synced.notify_all();
        }
    })
}
