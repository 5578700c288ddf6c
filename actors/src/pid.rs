//! Numbers where qmail has process ids: a session's `pid`, a queueing's `qp`. Unique for the life of the host.

use std::sync::atomic::{AtomicU64, Ordering};

static LAST: AtomicU64 = AtomicU64::new(0);

/// The next number. They begin above the host's own process id.
pub fn next() -> u64 {
    u64::from(std::process::id()) + 1 + LAST.fetch_add(1, Ordering::Relaxed)
}
