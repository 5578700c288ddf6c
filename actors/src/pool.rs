//! Threads for work on file systems that this host does not own: users' homes and Maildirs.
//!
//! A file system that hangs holds its own work and nothing else. Each device has a bounded number of threads; a thread that
//! has been at one piece of work for [`STALL`] counts as stuck and is replaced; where nothing has ended for that long and
//! several are stuck, what waits for the device, or comes for it, is refused at once. So is work for somebody whose earlier
//! work is stuck: behind a symbolic link a home may lie on another device than its path says.

mod mounts;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use mounts::Mounts;

/// Work that has run for so long is stuck.
pub const STALL: Duration = Duration::from_secs(3);

/// Stuck pieces of work at which a device where nothing ends is closed. More than one person's: behind a link his home may lie
/// on another device than its path says, and the others of this one are well.
const CLOSED: usize = 16;

/// Threads at work, and not stuck, for one device.
const PER_DEVICE: usize = 8;

/// The same for one person.
const PER_PERSON: usize = 4;

/// Threads at work and not stuck.
const MAX: usize = 32;

/// Threads in all.
const MAX_STUCK: usize = 512;

/// Pieces of work that may wait for a device.
const WAITING: usize = 4096;

/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(5);

/// How often stuck work is looked for.
const WATCH: Duration = Duration::from_millis(500);

/// How many that wait are looked at for one whose person has a thread left.
const LOOK: usize = 64;

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The device, as `st_dev` or [`Mounts::device`] tells it.
    pub device: u64,
    /// The person, as a number of the caller's choice.
    pub person: u64,
}

/// Why work was not done, or not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was not begun: the file system does not answer.
    #[error("the file system does not answer")]
    Stalled,
    /// It was begun and may still end; nobody waits any more.
    #[error("the file system has not answered in time")]
    Overdue,
}

/// A piece of work.
type Work = Box<dyn FnOnce() + Send>;

/// The threads.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    /// In metrics and as the name of its threads.
    name: &'static str,
    state: Mutex<State>,
    work: Condvar,
    watch: Condvar,
}

#[derive(Default)]
struct State {
    devices: HashMap<u64, Device>,
    /// Devices with work that waits, in turn.
    turn: VecDeque<u64>,
    threads: usize,
    idle: usize,
    stuck: usize,
    last: u64,
    watched: bool,
    /// The watcher sleeps until it is woken.
    unwatched: bool,
}

struct Device {
    waiting: VecDeque<(u64, Work)>,
    running: HashMap<u64, (Instant, u64)>,
    ended: Instant,
}

impl Device {
    fn is_closed(&self, now: Instant) -> bool {
        now.duration_since(self.ended) >= STALL && self.stuck(now) >= CLOSED
    }

    fn stuck(&self, now: Instant) -> usize {
        self.running.values().filter(|(since, _)| now.duration_since(*since) >= STALL).count()
    }

    fn is_stuck(&self, person: u64, now: Instant) -> bool {
        self.running.values().any(|(since, who)| *who == person && now.duration_since(*since) >= STALL)
    }

    /// Something that may begin now.
    fn next(&mut self, now: Instant) -> Option<(u64, Work)> {
        self.waiting.remove(self.next_at(now)?)
    }

    fn next_at(&self, now: Instant) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        if self.running.len() - self.stuck(now) >= PER_DEVICE {
            return None;
        }
        let free = |person: u64| self.running.values().filter(|(_, who)| *who == person).count() < PER_PERSON;
        self.waiting.iter().take(LOOK).position(|(person, _)| free(*person))
    }
}

impl Pool {
    /// A pool without threads; they start with its work.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let (state, work, watch) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self(Arc::new(Shared { name, state, work, watch }))
    }

    /// Has `work` done. Dropped without being run, it is refused.
    pub fn submit(&self, key: Key, work: Box<dyn FnOnce() + Send>) {
        let now = Instant::now();
        let mut state = self.0.lock();
        let device = state.devices.entry(key.device).or_insert_with(|| Device {
            waiting: VecDeque::new(),
            running: HashMap::new(),
            ended: now,
        });
        if device.is_closed(now) || device.is_stuck(key.person, now) || device.waiting.len() >= WAITING {
            drop(state);
            self.0.refused(1);
            drop(work);
            return;
        }
        device.waiting.push_back((key.person, work));
        state.turn.push_back(key.device);
        self.thread(&mut state);
    }

    /// Has `work` done and waits for it, at most `deadline`.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn run<T: Send + 'static>(
        &self,
        key: Key,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (done, result) = oneshot::channel();
        // Whoever asked may have given up: what was done stays done.
        self.submit(key, Box::new(move || drop(done.send(work()))));
        match tokio::time::timeout(deadline, result).await {
            Ok(result) => result.map_err(|_| Refused::Stalled),
            Err(_) => Err(Refused::Overdue),
        }
    }

    /// Wakes or starts a thread if there is work that may begin. Whoever takes some does so again: one that was woken may find
    /// more than was there.
    fn thread(&self, state: &mut State) {
        if !state.may_begin() {
            return;
        }
        if state.idle > 0 {
            self.0.work.notify_one();
            return;
        }
        let active = state.threads.saturating_sub(state.stuck);
        if active >= MAX || state.threads >= MAX_STUCK {
            return;
        }
        let pool = self.clone();
        match std::thread::Builder::new().name(self.0.name.into()).spawn(move || pool.work()) {
            Ok(_) => state.threads += 1,
            Err(error) => {
                tracing::error!("alert: unable to start a thread of the pool {}: {error}", self.0.name)
            }
        }
        if !state.watched {
            let pool = self.clone();
            let started = std::thread::Builder::new().name("watch".into()).spawn(move || pool.watch());
            state.watched = started.is_ok();
        }
        self.0.count(state);
    }

    /// A thread's life.
    fn work(&self) {
        let mut state = self.0.lock();
        let mut leaves = false;
        loop {
            let Some((device, number, work)) = state.begin() else {
                if leaves {
                    state.threads -= 1;
                    self.0.count(&state);
                    return;
                }
                state.idle += 1;
                let (held, waited) =
                    self.0.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = held;
                state.idle -= 1;
                // It may have been woken in the same moment.
                leaves = waited.timed_out();
                continue;
            };
            leaves = false;
            if std::mem::take(&mut state.unwatched) {
                self.0.watch.notify_one();
            }
            self.thread(&mut state);
            drop(state);
            // A panic must not take the thread's place in the counts along.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            if done.is_err() {
                tracing::error!("alert: a thread of the pool {} panicked", self.0.name);
            }
            state = self.0.lock();
            state.ended(device, number);
        }
    }

    /// Looks for stuck work while there is any.
    fn watch(&self) {
        loop {
            let mut state = self.0.lock();
            while state.threads == state.idle && state.turn.is_empty() {
                state.unwatched = true;
                state = self.0.watch.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.unwatched = false;
            let (mut state, _) =
                self.0.watch.wait_timeout(state, WATCH).unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let mut refused = Vec::new();
            let mut stuck = 0;
            for device in state.devices.values_mut() {
                stuck += device.stuck(now);
                if device.is_closed(now) {
                    refused.extend(device.waiting.drain(..));
                }
                let persons: Vec<u64> = device
                    .running
                    .values()
                    .filter(|(since, _)| now.duration_since(*since) >= STALL)
                    .map(|(_, person)| *person)
                    .collect();
                let (hopeless, waiting): (VecDeque<_>, VecDeque<_>) =
                    device.waiting.drain(..).partition(|(person, _)| persons.contains(person));
                device.waiting = waiting;
                refused.extend(hopeless);
            }
            state.devices.retain(|_, device| !device.waiting.is_empty() || !device.running.is_empty());
            state.stuck = stuck;
            metrics::gauge!("mailtree_pool_stuck_threads", "pool" => self.0.name).set(stuck as f64);
            self.thread(&mut state);
            drop(state);
            if !refused.is_empty() {
                self.0.refused(refused.len());
            }
            drop(refused);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, jobs: usize) {
        metrics::counter!("mailtree_pool_refused_jobs_total", "pool" => self.name).increment(jobs as u64);
    }

    fn count(&self, state: &State) {
        metrics::gauge!("mailtree_pool_threads", "pool" => self.name).set(state.threads as f64);
    }
}

impl State {
    /// The next piece of work, of the device whose turn it is.
    fn begin(&mut self) -> Option<(u64, u64, Work)> {
        let now = Instant::now();
        for _ in 0..self.turn.len() {
            let id = self.turn.pop_front()?;
            let Some(device) = self.devices.get_mut(&id) else { continue };
            if let Some((person, work)) = device.next(now) {
                self.last += 1;
                let number = self.last;
                device.running.insert(number, (now, person));
                return Some((id, number, work));
            }
            if !device.waiting.is_empty() {
                self.turn.push_back(id);
            }
        }
        None
    }

    /// Whether some piece of work may begin.
    fn may_begin(&self) -> bool {
        let now = Instant::now();
        !self.turn.is_empty() && self.devices.values().any(|device| device.next_at(now).is_some())
    }

    fn ended(&mut self, id: u64, number: u64) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.running.remove(&number);
            device.ended = Instant::now();
            if device.running.is_empty() && device.waiting.is_empty() {
                self.devices.remove(&id);
            }
        }
    }
}
