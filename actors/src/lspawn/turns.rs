//! Whose programs may run now: those of one user that hang, or take long, do not take the places of everybody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Deliveries of one user at once.
const EACH: usize = 4;

/// How long one waits for its turn, and how long those before it may take until it does not.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everybody's.
#[derive(Default, Clone)]
pub(super) struct Turns(Arc<Inner>);

#[derive(Default)]
struct Inner {
    running: Mutex<HashMap<u64, Vec<(u64, Instant)>>>,
    ended: Notify,
}

/// A turn, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    person: u64,
    number: u64,
}

impl Turns {
    /// A turn for this person. None: all of his have taken long, and so may this one.
    pub(super) async fn take(&self, person: u64) -> Option<Turn> {
        let begun = Instant::now();
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            match self.try_take(person) {
                Ok(turn) => return Some(turn),
                Err(stuck) if stuck => return None,
                Err(_) => (),
            }
            let left = PATIENCE.checked_sub(begun.elapsed())?;
            drop(tokio::time::timeout(left, ended).await);
        }
    }

    /// A turn, or whether none is to be waited for.
    fn try_take(&self, person: u64) -> Result<Turn, bool> {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = running.entry(person).or_default();
        if turns.len() >= EACH {
            return Err(turns.iter().all(|(_, since)| since.elapsed() >= PATIENCE));
        }
        let number = turns.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        turns.push((number, Instant::now()));
        Ok(Turn { turns: self.clone(), person, number })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = self.turns.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = running.get_mut(&self.person) {
            turns.retain(|(number, _)| *number != self.number);
            if turns.is_empty() {
                running.remove(&self.person);
            }
        }
        drop(running);
        self.turns.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_who_has_four_that_hang_is_told_so_and_nobody_else() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..EACH {
            held.push(turns.take(1).await.unwrap());
        }
        assert!(turns.take(2).await.is_some());
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(1).await.is_some() }
        });
        tokio::task::yield_now().await;
        held.pop();
        assert!(waiting.await.unwrap(), "one ended, another begins");
        assert!(turns.0.running.lock().unwrap()[&1].len() == EACH - 1);
        held.clear();
        assert!(turns.0.running.lock().unwrap().is_empty());
    }
}
