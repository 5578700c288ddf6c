//! A neighbour: a process that writes big files on the same disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::ground::Bench;

/// The word that makes the program the writer.
pub const WORD: &str = "--writer";

/// Bytes of each of the two files that are written in turn.
const FILE: usize = 512 << 20;

/// A running writer.
pub struct Writer {
    child: Child,
    _dir: TempDir,
}

impl Writer {
    /// Starts it.
    pub fn start(bench: &Bench) -> Self {
        let dir = bench.dir("writer-");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(WORD).arg(dir.path()).stdin(Stdio::null());
        Self { child: command.spawn().unwrap(), _dir: dir }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// MiB that it has written so far and not taken back.
    pub fn written(&self) -> f64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid())).unwrap();
        let bytes = |name: &str| -> f64 {
            io.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
        };
        (bytes("write_bytes:") - bytes("cancelled_write_bytes:")) / f64::from(1 << 20)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Is the writer, for ever: as a backup writes, file after file, each synced when it is whole; else what is written over
/// would never reach the disk.
pub fn run(dir: &Path) -> ! {
    let piece = vec![b'x'; 1 << 20];
    for name in ["a", "b"].into_iter().cycle() {
        let mut file = File::create(dir.join(name)).unwrap();
        for _ in 0..FILE / piece.len() {
            file.write_all(&piece).unwrap();
        }
        file.sync_data().unwrap();
    }
    unreachable!()
}
