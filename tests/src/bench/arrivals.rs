//! When mail has come: files in a Maildir, messages at an `smtp-sink`.

use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::inotify;

use crate::host::{PATIENCE, free_port};
use crate::postfix::program;
use crate::wait::wait_for;

/// Begins to watch `new/` of a Maildir.
pub fn watch(new: &Path) -> OwnedFd {
    let watched = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watched, new, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO).unwrap();
    watched
}

/// Calls `seen` at each of the next `count` files.
pub fn each(watched: OwnedFd, count: usize, mut seen: impl FnMut(Instant)) {
    let mut buffer = vec![MaybeUninit::uninit(); 1 << 16];
    let mut events = inotify::Reader::new(watched, &mut buffer);
    for _ in 0..count {
        let event = events.next().unwrap();
        assert!(!event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW), "inotify lost events");
        seen(Instant::now());
    }
}

/// An `smtp-sink` that throws away what it takes and counts it.
pub struct Counter {
    address: SocketAddr,
    child: Child,
    counts: Receiver<(usize, Instant)>,
    count: usize,
}

impl Counter {
    /// Listens on some port of 127.0.0.1.
    pub fn start() -> Self {
        let address = free_port("127.0.0.1");
        let mut command = Command::new(program("smtp-sink"));
        command.args(["-u", "nobody", "-m", "2000", "-c", &address.to_string(), "1024"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (sender, counts) = channel();
        std::thread::spawn(move || {
            // `sess=N quit=N mesg=N` and CR, again and again.
            let (mut buffer, mut text) = ([0; 1 << 16], String::new());
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let now = Instant::now();
                text.push_str(&String::from_utf8_lossy(&buffer[..length]));
                let Some((whole, rest)) = text.rsplit_once('\r') else { continue };
                let count = whole.rsplit_once("mesg=").and_then(|(_, count)| count.trim().parse().ok());
                let rest = rest.to_owned();
                if count.is_none_or(|count| sender.send((count, now)).is_err()) {
                    return;
                }
                text = rest;
            }
        });
        wait_for("smtp-sink to listen", PATIENCE, || TcpStream::connect(address).ok());
        Self { address, child, counts, count: 0 }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Messages so far.
    pub fn count(&mut self) -> usize {
        while let Ok((count, _)) = self.counts.try_recv() {
            self.count = count;
        }
        self.count
    }

    /// The moment when the `count`th message of all was there; at most `limit` between two messages.
    pub fn reached(&mut self, count: usize, limit: Duration) -> Instant {
        loop {
            let (now, moment) = self.counts.recv_timeout(limit).unwrap_or_else(|_| {
                panic!("{} of {count} messages at smtp-sink, then none for {limit:?}", self.count)
            });
            self.count = now;
            if now >= count {
                return moment;
            }
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
