//! A server under test.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use super::arrivals::Counter;
use crate::host::Host;
use crate::maildir::Maildir;
use crate::postfix::Postfix;

/// What runs.
pub enum Process {
    /// A private Postfix.
    Postfix(Postfix),
    /// A mailtree host.
    Mailtree(Host),
}

/// A running server.
pub struct Server {
    /// Its name in the output.
    pub name: &'static str,
    /// Where it takes mail.
    pub address: SocketAddr,
    /// A recipient of its own.
    pub mailbox: &'static str,
    /// Where that recipient's mail arrives.
    pub maildir: Maildir,
    /// The process whose descendants, and itself, are the server.
    pub root: u32,
    /// The server itself.
    pub process: Process,
    /// Its smarthost.
    pub sink: Option<Counter>,
    pub(super) _home: Option<TempDir>,
}

impl Server {
    /// A running host and the directory of its home.
    pub fn mailtree(name: &'static str, host: Host, home: TempDir) -> Self {
        Self {
            name,
            address: host.address().get(),
            mailbox: "bob@mx.test",
            maildir: host.maildir("bob"),
            root: host.pid(),
            process: Process::Mailtree(host),
            sink: None,
            _home: Some(home),
        }
    }

    /// The host, if it is mailtree.
    pub fn host(&self) -> &Host {
        match &self.process {
            Process::Mailtree(host) => host,
            Process::Postfix(_) => panic!("Postfix is no mailtree"),
        }
    }

    /// Messages in its queue.
    pub fn queued(&self) -> usize {
        match &self.process {
            Process::Postfix(postfix) => {
                let queues = ["maildrop", "incoming", "active", "deferred"];
                queues.iter().map(|queue| files(&postfix.spool().join(queue))).sum()
            }
            Process::Mailtree(host) => {
                let said = host.ask(&["qmail-qstat"]);
                let line = said.lines().find_map(|line| line.strip_prefix("messages in queue: "));
                line.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("qmail-qstat: {said}"))
            }
        }
    }
}

fn files(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| if entry.file_type().is_ok_and(|kind| kind.is_dir()) { files(&entry.path()) } else { 1 })
        .sum()
}
