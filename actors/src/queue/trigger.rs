//! The wake-up of qmail-send. Pulls while one is on its way are one pull.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type Wake = Arc<dyn Fn() + Send + Sync>;

/// `queue/lock/trigger`, in memory.
#[derive(Clone)]
pub struct Trigger {
    pulled: Arc<AtomicBool>,
    wake: Wake,
}

impl Trigger {
    /// A trigger that calls `wake` when it is pulled.
    #[must_use]
    pub fn new(wake: Wake) -> Self {
        Self { pulled: Arc::default(), wake }
    }

    /// There is something in `todo`.
    pub fn pull(&self) {
        if !self.pulled.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }

    /// The scheduler is about to look into `todo`: what comes from now on pulls anew.
    pub fn set(&self) {
        self.pulled.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn pulls_before_the_look_are_one() {
        let woken = Arc::new(AtomicU32::new(0));
        let trigger = Trigger::new({
            let woken = Arc::clone(&woken);
            Arc::new(move || {
                woken.fetch_add(1, Ordering::Relaxed);
            })
        });
        trigger.pull();
        trigger.pull();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        trigger.set();
        trigger.pull();
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }
}
