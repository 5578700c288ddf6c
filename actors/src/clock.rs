//! The wall clock, as the mail formats want it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970; 0 while the clock stands before that.
#[must_use]
pub fn unix_now() -> u64 {
    unix(SystemTime::now())
}

/// A time as seconds since 1970.
#[must_use]
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
