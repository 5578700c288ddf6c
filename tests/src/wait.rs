//! Waiting on conditions.

use std::time::{Duration, Instant};

/// Asks `condition` until it answers, at most `limit`; then fails naming `what` was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        tick(Duration::from_millis(10));
    }
}

/// [`wait_for`] a condition that has nothing to tell but that it holds.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, limit, || condition().then_some(()));
}

/// Checks that `condition` holds during the whole of `time`.
pub fn holds_for(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(condition(), "after {:?} no longer true: {what}", start.elapsed());
        tick(Duration::from_millis(10));
    }
}

/// The pace of a loop that asks, or that does something every so often; never a guess that something has happened by then.
#[expect(clippy::disallowed_methods, reason = "the one sleep between two looks at a condition")]
pub fn tick(pace: Duration) {
    std::thread::sleep(pace);
}
