//! The disk that both servers use, and how they are set up on it.

use std::cell::Cell;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{chown, statvfs, syncfs};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use tempfile::TempDir;

use super::arrivals::Counter;
use super::options::Options;
use super::server::{Process, Server};
use super::usage::settle;
use crate::disk::Disk;
use crate::host::Setup;
use crate::maildir::Maildir;
use crate::postfix::{MAILBOX, Postfix};

/// Sessions that mailtree serves at once: as many as any rate is measured with.
const SESSIONS: usize = 200;

/// The domain behind the smarthost.
pub const FAR: &str = "far.test";

/// A run.
pub struct Bench {
    /// What it was told.
    pub options: Options,
    disk: Disk,
    aside: Cell<usize>,
}

impl Bench {
    /// Makes and mounts the disk.
    pub fn new(options: Options) -> Self {
        // Thousands of connections need them, on both sides.
        let descriptors = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: descriptors, maximum: descriptors }).unwrap();
        let disk = Disk::nameless(&options.store, options.gib);
        fs::create_dir(disk.path().join("aside")).unwrap();
        Self { options, disk, aside: Cell::new(0) }
    }

    /// A directory on the disk.
    pub fn dir(&self, prefix: &str) -> TempDir {
        tempfile::Builder::new().prefix(prefix).tempdir_in(self.disk.path()).unwrap()
    }

    /// A Postfix on the disk.
    pub fn postfix(&self, lines: &str) -> Server {
        let postfix = Postfix::at(&self.disk.path(), lines);
        Server {
            name: "postfix",
            address: postfix.address(),
            mailbox: MAILBOX,
            maildir: postfix.maildir(),
            root: postfix.pid(),
            process: Process::Postfix(postfix),
            sink: None,
            _home: None,
        }
    }

    /// The home of a mailtree on the disk, and its directory.
    pub fn setup(&self) -> (Setup, TempDir) {
        let home = self.dir("mailtree-");
        let setup = Setup::at(home.path().join("home"));
        // As it is shipped, not as tests have it.
        let setup = setup.field("queue", "()");
        (setup.control("concurrencyincoming", &format!("{SESSIONS}\n")), home)
    }

    /// A running mailtree on the disk.
    pub fn mailtree(&self, prepare: impl FnOnce(Setup) -> Setup) -> Server {
        let (setup, home) = self.setup();
        Server::mailtree("mailtree", prepare(setup).start(), home)
    }

    /// Both, as they are shipped.
    pub fn pair(&self) -> [Server; 2] {
        [self.postfix(""), self.mailtree(|setup| setup)]
    }

    /// Both with a smarthost at this address.
    pub fn relays(&self, smarthost: [SocketAddr; 2]) -> [Server; 2] {
        let postfix = self.postfix(&relayhost(smarthost[0]));
        [postfix, self.mailtree(|setup| setup.control("smtproutes", &route(smarthost[1])))]
    }

    /// Both with an `smtp-sink` each as smarthost.
    pub fn relays_to_sinks(&self) -> [Server; 2] {
        let sinks = [Counter::start(), Counter::start()];
        let mut servers = self.relays([sinks[0].address(), sinks[1].address()]);
        for (server, sink) in servers.iter_mut().zip(sinks) {
            server.sink = Some(sink);
        }
        servers
    }

    /// Puts an empty Maildir in the place of one, with the same owner and modes.
    pub fn renew(&self, maildir: &Maildir) {
        let path = maildir.path();
        if !path.exists() {
            return;
        }
        let number = self.aside.replace(self.aside.get() + 1);
        let old = self.disk.path().join("aside").join(number.to_string());
        fs::rename(path, &old).unwrap();
        for part in ["", "tmp", "new", "cur"] {
            use std::os::unix::fs::MetadataExt;
            let (from, to) = (fs::metadata(old.join(part)).unwrap(), path.join(part));
            fs::create_dir(&to).unwrap();
            fs::set_permissions(&to, from.permissions()).unwrap();
            chown(&to, Some(Uid::from_raw(from.uid())), Some(Gid::from_raw(from.gid()))).unwrap();
        }
    }

    /// Between two measurements: deletes what the last ones left, and waits until the disk has nothing to do.
    pub fn pause(&self) {
        for entry in fs::read_dir(self.disk.path().join("aside")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        self.sync();
    }

    /// Waits until a server has nothing left to do; a long measurement also waits for what is done every 2 seconds.
    pub fn settle(&self, server: &Server) {
        settle(server.root, Duration::from_millis(if self.options.long { 3000 } else { 500 }));
    }

    /// Everything on the disk is durable.
    pub fn sync(&self) {
        syncfs(File::open(self.disk.path()).unwrap()).unwrap();
    }

    /// How many messages of `size` bytes fit, with room to spare for a queue beside the Maildir.
    pub fn room(&self, size: usize) -> usize {
        let free = statvfs(self.disk.path()).unwrap();
        let (bytes, inodes) = (free.f_bavail * free.f_frsize, free.f_favail);
        let each = (size as u64 + 4096).next_multiple_of(4096) * 3;
        usize::try_from((bytes / each).min(inodes / 5)).unwrap()
    }

    /// Where the disk is mounted.
    pub fn path(&self) -> PathBuf {
        self.disk.path()
    }
}

/// A line of main.cf.
pub fn relayhost(smarthost: SocketAddr) -> String {
    format!("relayhost = [{}]:{}\n", smarthost.ip(), smarthost.port())
}

/// A line of `control/smtproutes`.
pub fn route(smarthost: SocketAddr) -> String {
    format!("{FAR}:[{}]:{}\n", smarthost.ip(), smarthost.port())
}
