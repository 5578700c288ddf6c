//! The spare numbers at hand, and how many there should be.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mailtree_protocols::queue::MessageId;

use super::descriptors;
use super::disk::spare::Spare;

/// Made at once, at least.
const STEP: u64 = 64;

/// Made at once, at most.
const MAX_STEP: u64 = 1024;

/// Spares that may exist; and not more than half of the descriptors, for each is held open.
const MAX: usize = 32 * 1024;

/// Spare numbers. Each is given to one message at a time.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Given out in turn: a number does not come again at once, which would confuse whoever reads the log.
    free: VecDeque<Spare>,
    /// The files of all spares, in use or not, with their numbers. A number may have been another's in an earlier life, an
    /// inode that is held open may not.
    made: HashMap<MessageId, (u64, File)>,
    next: u64,
    making: bool,
    /// Of messages that are gone; their files may still be there.
    rest: Vec<Spare>,
    /// As few as this were at hand since [`Spares::surplus`] was asked.
    least: usize,
}

impl State {
    fn take(&mut self) -> Option<Spare> {
        while let Some(spare) = self.free.pop_front() {
            let file = self.made.get(&spare.id).and_then(|(_, file)| file.metadata().ok());
            if file.is_some_and(|file| file.nlink() == 1) {
                return Some(spare);
            }
            self.made.remove(&spare.id);
        }
        None
    }
}

impl Spares {
    /// A number for a message. One whose file somebody has removed is given to nobody.
    pub(super) fn take(&self) -> Option<Spare> {
        let mut state = self.lock();
        let taken = state.take();
        state.least = state.least.min(state.free.len());
        taken
    }

    /// Those whose files are to be removed: what nobody has needed since this was asked before, but for some, is given out no
    /// more.
    pub(super) fn surplus(&self) -> Vec<Spare> {
        let mut state = self.lock();
        let count = state.least.saturating_sub(2 * STEP as usize);
        let spares: Vec<Spare> = state.free.drain(..count).collect();
        for spare in &spares {
            state.made.remove(&spare.id);
        }
        state.least = state.free.len();
        let rest = std::mem::take(&mut state.rest);
        rest.into_iter().chain(spares).collect()
    }

    /// It became the file of a message that is gone, or was to become it: [`Spares::surplus`] tells of it.
    pub(super) fn leave(&self, spare: Spare) {
        let mut state = self.lock();
        state.made.remove(&spare.id);
        state.rest.push(spare);
    }

    /// The message that had it has ended.
    pub(super) fn give(&self, spare: Spare) {
        self.lock().free.push_back(spare);
    }

    /// It became the file of a message, or is gone.
    pub(super) fn forget(&self, spare: Spare) {
        self.lock().made.remove(&spare.id);
    }

    /// One of an earlier process that a replayed message has.
    pub(super) fn adopt(&self, spare: Spare, file: File) {
        let mut state = self.lock();
        state.made.insert(spare.id, (spare.number, file));
        state.next = state.next.max(spare.number + 1);
    }

    /// Whether it is one of those in use or at hand.
    pub(super) fn has(&self, spare: Spare) -> bool {
        self.lock().made.contains_key(&spare.id)
    }

    /// Numbers below this may be in use by files of an earlier process.
    pub(super) fn begin_at(&self, next: u64) {
        let mut state = self.lock();
        state.next = state.next.max(next);
    }

    /// From which number, and how many, should be made now, if any; [`Spares::made`] must follow.
    pub(super) fn wanted(&self) -> Option<(u64, u64)> {
        let mut state = self.lock();
        let made = state.made.len();
        let few = state.free.len() < (made / 4).max(16);
        if state.making || !few || made >= MAX.min(descriptors() / 2) {
            return None;
        }
        state.making = true;
        let count = (made as u64 / 2).clamp(STEP, MAX_STEP);
        let from = state.next;
        state.next += count;
        Some((from, count))
    }

    /// What came of making some.
    pub(super) fn made(&self, spares: Vec<(Spare, File)>) {
        let mut state = self.lock();
        state.making = false;
        for (spare, file) in spares {
            state.made.insert(spare.id, (spare.number, file));
            state.free.push_back(spare);
        }
    }

    /// The numbers of all files.
    pub(super) fn all(&self) -> HashSet<u64> {
        self.lock().made.values().map(|(number, _)| *number).collect()
    }

    /// Takes those that no message has, for good.
    pub(super) fn drain(&self) -> Vec<Spare> {
        let mut state = self.lock();
        let free = std::mem::take(&mut state.free);
        state.least = 0;
        for spare in &free {
            state.made.remove(&spare.id);
        }
        free.into()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn made(dir: &Path, from: u64, count: u64) -> Vec<(Spare, File)> {
        let spare = |number: u64| Spare { number, id: MessageId(1000 + number) };
        (from..from + count)
            .map(|number| (spare(number), File::create(dir.join(number.to_string())).unwrap()))
            .collect()
    }

    #[test]
    fn more_are_made_before_they_run_out_and_not_twice_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let spares = Spares::default();
        spares.begin_at(7);
        let (from, count) = spares.wanted().unwrap();
        assert_eq!((from, count), (7, STEP));
        assert!(spares.wanted().is_none(), "some are being made");
        spares.made(made(dir.path(), from, count));
        assert!(spares.wanted().is_none(), "there are enough");
        let taken: Vec<_> = std::iter::from_fn(|| spares.take()).collect();
        assert_eq!(taken.len() as u64, STEP);
        assert_eq!(spares.wanted(), Some((7 + STEP, STEP)));
        spares.made(Vec::new());
        assert_eq!(spares.all().len() as u64, STEP);
        spares.forget(taken[0]);
        spares.give(taken[1]);
        assert_eq!(spares.drain(), [taken[1]]);
        assert_eq!(spares.all().len() as u64, STEP - 2);
    }

    #[test]
    fn one_whose_file_was_removed_is_given_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let spares = Spares::default();
        let (from, _) = spares.wanted().unwrap();
        spares.made(made(dir.path(), from, 3));
        std::fs::remove_file(dir.path().join("0")).unwrap();
        std::fs::remove_file(dir.path().join("2")).unwrap();
        let taken: Vec<u64> = std::iter::from_fn(|| spares.take()).map(|spare| spare.number).collect();
        assert_eq!(taken, [1]);
        assert_eq!(spares.all().into_iter().collect::<Vec<_>>(), [1], "the others' inodes are free");
    }

    #[test]
    fn what_a_rush_has_needed_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let spares = Spares::default();
        spares.made(made(dir.path(), 0, 500));
        assert!(spares.surplus().is_empty(), "nobody knows yet");
        let taken: Vec<_> = (0..100).filter_map(|_| spares.take()).collect();
        taken.into_iter().for_each(|spare| spares.give(spare));
        // 400 were not needed; twice as many stay as are made at once.
        assert_eq!(spares.surplus().len(), 400 - 2 * STEP as usize);
        assert_eq!(spares.surplus().len(), 100);
        assert!(spares.surplus().is_empty());
        assert_eq!(spares.all().len(), 2 * STEP as usize);
    }
}
