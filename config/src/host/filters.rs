//! What stands between an SMTP session and the queue: passwords, scanners, programs.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::{joined_texts, shown};
use crate::default;
use crate::network::Network;
use crate::unit;

/// Checking passwords.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Threads that check passwords, 1 to 64.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 64>")]
    pub threads: usize,
    /// Passwords that wait to be checked, 1 to 10000; one more is answered with 454.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 10_000>")]
    pub waiting: usize,
    /// Networks whose wrong passwords are not slowed down.
    #[serde(deserialize_with = "unit::texts")]
    pub allow: Vec<Network>,
}

/// The scanners that simscan asks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scanners {
    /// Where clamd listens.
    #[serde(deserialize_with = "unit::text")]
    pub clamd: Scanner,
    /// Where spamd listens.
    #[serde(deserialize_with = "unit::text")]
    pub spamd: Scanner,
    /// Where rspamd listens: it is asked in place of spamd. `None`: it is not.
    #[serde(deserialize_with = "unit::optional_text")]
    pub rspamd: Option<Scanner>,
    /// File with the password for rspamd in its first line; relative to the home. `None`: it wants none.
    #[serde(deserialize_with = "unit::optional_path")]
    pub rspamd_password: Option<PathBuf>,
    /// Messages scanned at once, 1 to 1000.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 1000>")]
    pub at_once: usize,
    /// A message that waits or is scanned longer is answered with 451, 1 s to 3600 s.
    #[serde(deserialize_with = "unit::time::<_, 1, 3600>")]
    pub deadline: Duration,
    /// Whether a message goes on unscanned when a scanner cannot be asked.
    pub fail_open: bool,
    /// Directory for copies of messages refused for a virus or as spam; relative to the home. `None`: no copies.
    #[serde(deserialize_with = "unit::optional_path")]
    pub quarantine: Option<PathBuf>,
}

/// Where a scanner listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scanner {
    /// Address and port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Scanner {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.starts_with('/') {
            Ok(Self::Unix(text.into()))
        } else {
            text.parse().map(Self::Tcp).map_err(drop)
        }
    }
}

impl fmt::Display for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl unit::Allowed for Scanner {
    const ALLOWED: &'static str =
        "an address and a port (\"127.0.0.1:3310\"), or the absolute path of a socket";
}

/// Programs: those of SMTP sessions (QMAILQUEUE and checkpassword), and those of deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Programs {
    /// Programs at once, 1 to 1000.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 1000>")]
    pub at_once: usize,
    /// A program that runs longer is killed, 1 s to 3600 s.
    #[serde(deserialize_with = "unit::time::<_, 1, 3600>")]
    pub deadline: Duration,
    /// A program of a delivery that runs longer is killed, 1 s to 86400 s.
    #[serde(deserialize_with = "unit::time::<_, 1, 86400>")]
    pub delivery: Duration,
    /// Address space of a program in bytes (softlimit -a); 0: no limit.
    #[serde(deserialize_with = "unit::bytes")]
    pub memory: u64,
    /// Descriptors that a program of a delivery may have open (softlimit -o), 16 to 1048576.
    #[serde(deserialize_with = "unit::ranged::<_, _, 16, 1_048_576>")]
    pub files: u64,
    /// Processes that the user of a delivery may have (softlimit -p), 1 to 1048576.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 1_048_576>")]
    pub processes: u64,
    /// Seconds of processor time that a process of a delivery may use (softlimit -t), 1 s to 86400 s.
    #[serde(deserialize_with = "unit::time::<_, 1, 86400>")]
    pub cpu: Duration,
}

impl Default for Auth {
    fn default() -> Self {
        Self { threads: default::AUTH_THREADS, waiting: default::AUTH_WAITING, allow: Vec::new() }
    }
}

impl Default for Scanners {
    fn default() -> Self {
        Self {
            clamd: Scanner::Tcp(default::CLAMD),
            spamd: Scanner::Tcp(default::SPAMD),
            rspamd: None,
            rspamd_password: None,
            at_once: default::SCANNERS_AT_ONCE,
            deadline: default::SCANNERS_DEADLINE,
            fail_open: false,
            quarantine: None,
        }
    }
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            at_once: default::PROGRAMS_AT_ONCE,
            deadline: default::PROGRAMS_DEADLINE,
            delivery: default::PROGRAMS_DELIVERY,
            memory: default::PROGRAMS_MEMORY,
            files: default::PROGRAMS_FILES,
            processes: default::PROGRAMS_PROCESSES,
            cpu: default::PROGRAMS_CPU,
        }
    }
}

impl Auth {
    pub(super) fn settings(&self, add: &mut dyn FnMut(&str, String)) {
        add("auth.threads", self.threads.to_string());
        add("auth.waiting", self.waiting.to_string());
        add("auth.allow", joined_texts(&self.allow));
    }
}

impl Scanners {
    pub(super) fn settings(&self, add: &mut dyn FnMut(&str, String)) {
        add("scanners.clamd", self.clamd.to_string());
        add("scanners.spamd", self.spamd.to_string());
        add("scanners.rspamd", self.rspamd.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string));
        add("scanners.rspamd_password", shown_path(self.rspamd_password.as_deref()));
        add("scanners.at_once", self.at_once.to_string());
        add("scanners.deadline", shown(self.deadline));
        add("scanners.fail_open", self.fail_open.to_string());
        add("scanners.quarantine", shown_path(self.quarantine.as_deref()));
    }
}

fn shown_path(path: Option<&Path>) -> String {
    path.map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

impl Programs {
    pub(super) fn settings(&self, add: &mut dyn FnMut(&str, String)) {
        add("programs.at_once", self.at_once.to_string());
        add("programs.deadline", shown(self.deadline));
        add("programs.delivery", shown(self.delivery));
        add("programs.memory", self.memory.to_string());
        add("programs.files", self.files.to_string());
        add("programs.processes", self.processes.to_string());
        add("programs.cpu", shown(self.cpu));
    }
}
