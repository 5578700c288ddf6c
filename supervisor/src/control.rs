//! The control socket: `svc`, `svstat`, `svok` and the queue tools talk to the running host through it.
//!
//! `DIR/run/control.sock`, mode 0600. One request a connection: a line of JSON in, a line of JSON out.
//! The one lock of a host, `DIR/run/lock`, is here too.

mod client;
mod lock;
mod server;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use client::{AskError, ask};
pub use lock::{Lock, LockError, lock};
pub use server::{Queue, service};

use crate::status::Row;
use crate::svscan::Refusal;

/// Longest request line, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Longest reply line, in bytes: a queue list with millions of messages must be asked for in parts.
pub const MAX_REPLY: usize = 256 * 1024 * 1024;

/// What can be asked of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Letters of `svc`, in order.
    Svc {
        /// Name of the service.
        service: String,
        /// As after the hyphen of `svc`.
        letters: String,
    },
    /// All services.
    Svstat {},
    /// Does its supervise run?
    Svok {
        /// Name of the service.
        service: String,
    },
    /// Kill one actor by chance.
    Chaos {
        /// Name of the service.
        service: String,
        /// Kill its supervise instead.
        #[serde(default)]
        supervise: bool,
    },
    /// For the queue; its own words.
    Queue(serde_json::Value),
}

/// The host's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// It is done.
    Done,
    /// All services in the order of starting, and the process they live in.
    Services {
        /// The host's process id.
        pid: u32,
        /// One for each service.
        rows: Vec<Row>,
    },
    /// This actor was killed.
    Killed(String),
    /// The queue's answer.
    Queue(serde_json::Value),
    /// The service cannot be told.
    Refused(Refusal),
    /// The request makes no sense, or the host could not answer it.
    Error(String),
}

/// Everybody may pass through `run/`, for the socket of qmail-queue is there; only its owner sees what else is.
pub(crate) const RUN_MODE: u32 = 0o711;

/// Lets everybody pass through a `run/` that an earlier version made for its owner alone. Without it, other users' mail
/// waits until somebody does it.
pub(crate) fn let_pass(run: &Path) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let own = std::fs::symlink_metadata(run).is_ok_and(|meta| meta.is_dir() && meta.mode() & 0o777 == 0o700);
    if own && let Err(error) = std::fs::set_permissions(run, PermissionsExt::from_mode(RUN_MODE)) {
        tracing::warn!("warning: unable to chmod {}: {error}", run.display());
    }
}

/// The directory of the socket and the lock.
fn run_dir(home: &Path) -> PathBuf {
    home.join("run")
}

const SOCKET: &str = "control.sock";

#[cfg(test)]
mod tests;
