//! What the tree shows of its services: the board each `supervise` writes at every change, and its rows.
//!
//! A board outlives the `supervise` that writes it, so the next one knows when the last start was.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mailtree_protocols::policy::{self, State, Wait, Want};
use mailtree_protocols::svc::Svstat;
use mailtree_protocols::visible::visible;
use ractor::{ActorCell, ActorStatus};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The age of the host, the time of the restart policy.
#[derive(Debug, Clone, Copy)]
pub struct Age(Instant);

impl Age {
    /// The host is born now.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Time since then.
    pub fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// One service as it is now.
pub struct Board {
    entry: Mutex<Entry>,
}

struct Entry {
    policy: policy::Service,
    listen: Vec<String>,
    /// Former children that may still be ending: the next start waits for them.
    remains: Vec<ActorCell>,
}

impl Board {
    pub(crate) fn new(policy: policy::Service) -> Self {
        Self { entry: Mutex::new(Entry { policy, listen: Vec::new(), remains: Vec::new() }) }
    }

    fn entry(&self) -> MutexGuard<'_, Entry> {
        // No code that can panic runs under the lock.
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn policy(&self) -> policy::Service {
        self.entry().policy.clone()
    }

    pub(crate) fn announce(&self, policy: policy::Service, listen: Vec<String>) {
        let mut entry = self.entry();
        entry.policy = policy;
        entry.listen = listen;
    }

    pub(crate) fn bury(&self, child: ActorCell) {
        self.entry().remains.push(child);
        drop(self.remains());
    }

    pub(crate) fn remains(&self) -> Vec<ActorCell> {
        let mut entry = self.entry();
        entry.remains.retain(|cell| cell.get_status() != ActorStatus::Stopped);
        entry.remains.clone()
    }

    pub(crate) fn has_left(&self) -> bool {
        self.entry().policy.state() == State::Left
    }

    pub(crate) fn row(&self, service: &str, now: Duration) -> Row {
        let Entry { policy, listen, .. } = &*self.entry();
        let wait = match policy.state() {
            State::Waiting { until, .. } => Some(until.saturating_sub(now).as_secs()),
            State::Down
            | State::Starting { .. }
            | State::Up { .. }
            | State::Stopping { .. }
            | State::Left => None,
        };
        Row {
            service: service.to_owned(),
            state: Phase::from(policy.state()),
            pid: policy.is_up().then(std::process::id),
            seconds: now.saturating_sub(policy.changed()).as_secs(),
            restarts: policy.restarts(),
            want: policy.want().into(),
            normally_up: policy.normally_up(),
            paused: policy.paused(),
            wait,
            reason: policy.reason().map(str::to_owned),
            listen: listen.clone(),
            troubles: Vec::new(),
        }
    }
}

/// Where a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Wanted down, or once and over.
    Down,
    /// Its next start is near.
    Waiting,
    /// It failed too often; its next start is a minute away.
    Resting,
    /// It cannot start with this configuration; it is tried again rarely, or when told.
    Failed,
    /// Being started.
    Starting,
    /// Running.
    Up,
    /// Told to end.
    Stopping,
    /// Gone from the tree by `svc -x`.
    Left,
}

impl From<State> for Phase {
    fn from(state: State) -> Self {
        match state {
            State::Down => Self::Down,
            State::Waiting { wait: Wait::Apart | Wait::BackOff, .. } => Self::Waiting,
            State::Waiting { wait: Wait::Resting, .. } => Self::Resting,
            State::Waiting { wait: Wait::Misconfigured, .. } => Self::Failed,
            State::Starting { .. } => Self::Starting,
            State::Up { .. } => Self::Up,
            State::Stopping { .. } => Self::Stopping,
            State::Left => Self::Left,
        }
    }
}

impl Phase {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Waiting => "waiting",
            Self::Resting => "resting",
            Self::Failed => "failed",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Stopping => "stopping",
            Self::Left => "left",
        }
    }
}

/// The administrator's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// `svc -u`
    Up,
    /// `svc -d`
    Down,
    /// `svc -o`
    Once,
}

impl From<Want> for Wish {
    fn from(want: Want) -> Self {
        match want {
            Want::Up => Self::Up,
            Want::Down => Self::Down,
            Want::Once => Self::Once,
        }
    }
}

impl From<Wish> for Want {
    fn from(wish: Wish) -> Self {
        match wish {
            Wish::Up => Self::Up,
            Wish::Down => Self::Down,
            Wish::Once => Self::Once,
        }
    }
}

/// One row of `svstat --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the service.
    pub service: String,
    /// Where it is.
    pub state: Phase,
    /// The host's process id while the service is up.
    pub pid: Option<u32>,
    /// Whole seconds since it came up or went down.
    pub seconds: u64,
    /// Successful starts after the first.
    pub restarts: u64,
    /// The administrator's wish.
    pub want: Wish,
    /// It starts with the host.
    pub normally_up: bool,
    /// It was told to pause.
    pub paused: bool,
    /// Whole seconds to its next start, if one is planned.
    pub wait: Option<u64>,
    /// Why it last ended or failed to start.
    pub reason: Option<String>,
    /// Where it listens.
    pub listen: Vec<String>,
    /// What is wrong with the files it reads.
    #[serde(default)]
    pub troubles: Vec<String>,
}

impl Row {
    /// `svstat`'s line after the name.
    pub fn svstat(&self) -> Svstat {
        Svstat {
            pid: self.pid,
            seconds: self.seconds,
            normally_up: self.normally_up,
            paused: self.paused,
            want: self.want.into(),
        }
    }
}

/// The tree as a picture, for people.
pub struct Picture<'a> {
    /// The host's process id.
    pub pid: u32,
    /// In the order of starting.
    pub rows: &'a [Row],
}

impl fmt::Display for Picture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "svscan (pid {})", self.pid)?;
        let width = self.rows.iter().map(|row| row.service.len()).max().unwrap_or(0);
        for (nth, row) in self.rows.iter().enumerate() {
            let branch = if nth + 1 == self.rows.len() { "└─" } else { "├─" };
            let mut notes = Vec::new();
            notes.extend(row.listen.iter().cloned());
            if row.paused {
                notes.push("paused".to_owned());
            }
            if row.pid.is_some() != (row.want == Wish::Up) {
                notes.push(format!(
                    "want {}",
                    match row.want {
                        Wish::Up => "up",
                        Wish::Down => "down",
                        Wish::Once => "once",
                    }
                ));
            }
            if let Some(wait) = row.wait {
                notes.push(format!("next start in {wait} s"));
            }
            if row.restarts > 0 {
                notes.push(format!("{} restarts", row.restarts));
            }
            if let Some(reason) = &row.reason {
                notes.push(format!("last: {reason}"));
            }
            notes.extend(row.troubles.iter().map(|trouble| visible(trouble).into_owned()));
            let phase = row.state.as_str();
            let (service, seconds, notes) = (&row.service, row.seconds, notes.join(", "));
            let line = format!("{branch} {service:width$}  {phase:8}  {seconds:>6} s  {notes}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
