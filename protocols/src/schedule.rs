//! When a message is tried again (qmail-send: nextretry).

use crate::queue::Channel;

/// Seconds after which something that failed inside the host is tried again (qmail-send: SLEEP_SYSFAIL).
pub const SYSFAIL: u64 = 123;

/// Seconds between two looks at `todo` without a trigger (qmail-send: SLEEP_TODO).
pub const TODO: u64 = 1500;

/// Seconds between two sweeps of forgotten files (qmail-send: SLEEP_CLEANUP).
pub const CLEANUP: u64 = 76_431;

/// Next attempt for a message born at `birth`, tried at `now` (Unix seconds): birth + (isqrt(age) + skip)², with skip
/// 10 on the local channel and 20 on the remote one.
#[must_use]
pub fn next_retry(birth: u64, now: u64, channel: Channel) -> u64 {
    let skip = match channel {
        Channel::Local => 10,
        Channel::Remote => 20,
    };
    let root = now.saturating_sub(birth).isqrt() + skip;
    birth.saturating_add(root.saturating_mul(root))
}

/// Whether an attempt at `now` is the last one for a message born at `birth`.
#[must_use]
pub fn is_dying(birth: u64, now: u64, queuelifetime: u64) -> bool {
    now > birth.saturating_add(queuelifetime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_follow_the_square() {
        for (channel, expected) in [
            (Channel::Remote, [400, 1600, 3600, 6400, 10_000, 14_400]),
            (Channel::Local, [100, 400, 900, 1600, 2500, 3600]),
        ] {
            let mut now = 1000;
            for delay in expected {
                now = next_retry(1000, now, channel);
                assert_eq!(now, 1000 + delay, "{channel:?}");
            }
        }
    }

    #[test]
    fn a_clock_set_back_does_no_harm() {
        assert_eq!(next_retry(5000, 10, Channel::Remote), 5400);
        assert!(!is_dying(5000, 10, 0));
        assert!(is_dying(0, 604_801, 604_800));
        assert!(!is_dying(0, 604_800, 604_800));
        assert!(next_retry(0, u64::MAX, Channel::Remote) > 0);
    }
}
