//! Checkpoints: the copies of messages in Maildirs become durable, and the journal forgets what it held for them.
//!
//! A thread of its own. The syncs run in the pool of delivery threads, under the share of their device: a file system that
//! hangs is given up after [`PATIENCE`], and what lies on it counts as not delivered.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use mailtree_protocols::journal::{Lsn, MaildirFile};

use super::crash::{Point, reached};
use super::live::{Entry, Noted};
use super::{Queue, Shared, descriptors};
use crate::maildir;
use crate::pool::{Key, Pool};

/// Between two checkpoints.
const EVERY: Duration = Duration::from_secs(2);

/// How long a device may take to sync.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same while the host stops.
const HURRY: Duration = Duration::from_secs(2);

/// How often it is looked whether the host stops.
const LOOK: Duration = Duration::from_millis(250);

/// Recipients on the list, each with an open file, but not more than a quarter of the descriptors; from half of it on a
/// checkpoint begins at once.
const MAX: usize = 8192;

/// Numbers of nobody, beyond all that persons have.
static NOBODY: AtomicU64 = AtomicU64::new(1 << 63);

/// Pieces that the work for one device is cut into.
const PIECES: usize = 4;

/// A copy of a message in a Maildir.
#[derive(Debug, Clone)]
pub struct InMaildir {
    /// What it is called, and what is in it.
    pub file: MaildirFile,
    /// It, open: its owner may move it.
    pub open: Arc<File>,
    /// The device it is on.
    pub device: u64,
}

/// What the next checkpoint must make durable.
#[derive(Default)]
pub(super) struct Checkpoints {
    state: Mutex<State>,
    wake: Condvar,
    /// The host stops: nobody waits long any more.
    hurried: AtomicBool,
    /// Places on the list that are taken, of this and the checkpoint under way.
    taken: Arc<AtomicUsize>,
    /// How many there are.
    max: OnceLock<usize>,
    /// Messages that are over, whose numbers are free when a checkpoint says so. Held through each: what one has on its list
    /// another would vouch for.
    over: Mutex<Vec<Entry>>,
}

#[derive(Default)]
struct State {
    list: Vec<Delivered>,
    now: bool,
}

/// A place on the list.
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Delivered {
    noted: Noted,
    copies: Vec<InMaildir>,
    _place: Place,
}

impl Checkpoints {
    /// A place on the list; none while it is full.
    pub(super) fn room(&self) -> Option<Place> {
        let before = self.taken.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(&self.taken));
        let max = *self.max.get_or_init(|| MAX.min(descriptors() / 4));
        if before >= max / 2 {
            self.kick();
        }
        (before < max).then_some(place)
    }

    /// Puts the copies for a recipient on the list.
    pub(super) fn add(&self, place: Place, noted: Noted, copies: &[InMaildir]) {
        self.lock().list.push(Delivered { noted, copies: copies.to_vec(), _place: place });
    }

    /// The next one begins now.
    pub(super) fn kick(&self) {
        let mut state = self.lock();
        if !state.now {
            state.now = true;
            self.wake.notify_all();
        }
    }

    /// From now on a device has [`HURRY`] to sync.
    pub(super) fn hurry(&self) {
        self.hurried.store(true, Ordering::Release);
    }

    fn patience(&self) -> Duration {
        if self.hurried.load(Ordering::Acquire) { HURRY } else { PATIENCE }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let deadline = Instant::now() + EVERY;
        let mut state = self.lock();
        while !state.now {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.now = false;
    }
}

/// The thread: ends when the queue does.
pub(super) fn run(queue: &Weak<Shared>) {
    loop {
        let Some(shared) = queue.upgrade() else { return };
        shared.checkpoints.wait();
        Queue(shared).checkpoint();
    }
}

impl Queue {
    /// Makes durable what was delivered so far, and lets the journal forget it. False: the journal could not be told.
    pub(super) fn checkpoint(&self) -> bool {
        let checkpoints = &self.0.checkpoints;
        let mut over = checkpoints.over.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = self.0.writer.load_full() else { return true };
        // In this order: what the journal says was delivered by now is on the list.
        let handled = writer.handled();
        let list = std::mem::take(&mut self.0.checkpoints.lock().list);
        let quiet = list.is_empty();
        let (mut lost, mut failed) = (Vec::new(), Vec::new());
        for (Delivered { noted, copies, .. }, result) in
            synced(&self.0.pool, list, &|| checkpoints.patience())
        {
            if result == Synced::Yes {
                over.extend(self.0.live.durable(noted));
                continue;
            }
            lost.push((noted, copies.iter().map(|copy| copy.file.clone()).collect()));
            // What has not answered is not taken back: that would come late, when it is delivered again and found.
            if result == Synced::Failed {
                failed.extend(copies);
            }
        }
        self.doubt(lost.clone(), failed);
        for (noted, _) in lost {
            self.0.live.lost(noted);
            over.extend(self.0.live.forget_ended(noted.id));
            self.0.trigger.pull();
        }
        if quiet && over.is_empty() && writer.checkpointed() == handled {
            return true;
        }
        let after = Lsn(handled.0 + 1);
        let needed = self.0.live.needed().unwrap_or(after).min(after);
        let durable = self.0.live.doubt().unwrap_or(after).min(after);
        let written = writer.checkpoint(needed, durable);
        if written {
            over.drain(..).for_each(|entry| self.0.release(&entry));
        }
        written
    }

    /// Notes that copies could not be synced, and takes them back then: looking at one, or syncing it again, would say that it is
    /// whole.
    pub(super) fn doubt(&self, recipients: Vec<(Noted, Vec<MaildirFile>)>, copies: Vec<InMaildir>) {
        if recipients.is_empty() {
            return;
        }
        let records = recipients.into_iter().filter_map(|(noted, files)| self.0.live.doubted(noted, files));
        if let Some(writer) = self.0.writer.load_full() {
            writer.append_now(records.collect());
        }
        let begun = Instant::now();
        let late = Arc::new(AtomicBool::new(false));
        let withdrawing: Vec<Receiver<()>> = copies
            .into_iter()
            .map(|copy| {
                let (done, withdrawn) = bounded(1);
                let key = Key { device: copy.device, person: nobody() };
                let late = Arc::clone(&late);
                let withdraw = move || {
                    if !late.load(Ordering::Acquire) {
                        maildir::withdraw(&copy);
                    }
                    done.try_send(()).unwrap_or(());
                };
                self.0.pool.submit(key, Box::new(withdraw));
                withdrawn
            })
            .collect();
        for withdrawn in withdrawing {
            // A file system that hangs is not waited for: what it has is delivered again when it answers.
            let left = HURRY.saturating_sub(begun.elapsed());
            withdrawn.recv_timeout(left).unwrap_or(());
        }
        late.store(true, Ordering::Release);
    }
}

/// Whether the copies for a recipient are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Synced {
    Yes,
    /// The file system said so.
    Failed,
    /// It has not answered in time.
    Overdue,
}

/// Another person each time, who is nobody.
pub(super) fn nobody() -> u64 {
    NOBODY.fetch_add(1, Ordering::Relaxed)
}

/// Makes all copies durable: which recipients' are.
fn synced(pool: &Pool, list: Vec<Delivered>, patience: &dyn Fn() -> Duration) -> Vec<(Delivered, Synced)> {
    let mut devices: HashMap<u64, Vec<(usize, InMaildir)>> = HashMap::new();
    for (nth, delivered) in list.iter().enumerate() {
        for copy in &delivered.copies {
            devices.entry(copy.device).or_default().push((nth, copy.clone()));
        }
    }
    let begun = Instant::now();
    let mut pieces: Vec<(Vec<usize>, Receiver<Vec<usize>>)> = Vec::new();
    for (device, copies) in devices {
        for piece in copies.chunks(copies.len().div_ceil(PIECES).max(64)) {
            let (done, failed) = bounded(1);
            let of: Vec<usize> = piece.iter().map(|(nth, ..)| *nth).collect();
            let piece = piece.to_vec();
            // Nobody, as far as persons go, and each time another: a piece that is stuck stands in the way of no other.
            pool.submit(
                Key { device, person: nobody() },
                Box::new(move || drop(done.try_send(sync_piece(&piece)))),
            );
            pieces.push((of, failed));
        }
    }
    let (mut lost, mut overdue) = (BTreeSet::new(), BTreeSet::new());
    for (of, failed) in pieces {
        let result = loop {
            let left = patience().saturating_sub(begun.elapsed());
            match failed.recv_timeout(left.min(LOOK)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => (),
                result => break result,
            }
        };
        match result {
            Ok(failed) => lost.extend(failed),
            Err(_) => {
                tracing::warn!("warning: {} copies in Maildirs could not be synced in time", of.len());
                overdue.extend(of);
            }
        }
    }
    let result = |nth: usize| match (overdue.contains(&nth), lost.contains(&nth)) {
        (true, _) => Synced::Overdue,
        (false, true) => Synced::Failed,
        (false, false) => Synced::Yes,
    };
    list.into_iter().enumerate().map(|(nth, one)| (one, result(nth))).collect()
}

/// Syncs files and the directories they are in; which failed.
fn sync_piece(piece: &[(usize, InMaildir)]) -> Vec<usize> {
    let mut failed = Vec::new();
    for (_, copy) in piece {
        super::disk::begin_writeback(&copy.open);
    }
    // Whether its owner may have moved something to `cur`.
    let mut directories: HashMap<PathBuf, bool> = HashMap::new();
    for (nth, copy) in piece {
        let maildir = maildir::path_of(&copy.file);
        if let Err(error) = copy.open.sync_all() {
            tracing::warn!("warning: unable to sync a file in {}: {error}", maildir.display());
            failed.push(*nth);
        }
        reached(Point::CheckpointBegun);
        *directories.entry(maildir).or_default() |= maildir::is_moved(copy);
    }
    let mut unsynced = HashSet::new();
    for (maildir, moved) in directories {
        let synced = maildir::sync_new(&maildir)
            .and_then(|()| if moved { maildir::sync_cur(&maildir) } else { Ok(()) });
        if let Err(error) = synced {
            tracing::warn!("warning: unable to sync new and cur in {}: {error}", maildir.display());
            unsynced.insert(maildir);
        }
    }
    let lost = piece.iter().filter(|(_, copy)| unsynced.contains(&maildir::path_of(&copy.file)));
    failed.extend(lost.map(|(nth, _)| *nth));
    failed
}
