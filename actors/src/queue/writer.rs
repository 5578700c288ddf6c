//! Writing the journal: what has come is written as one batch, made durable if anybody waits for that, and all are answered
//! (group commit).
//!
//! A thread does it, or, where nobody is at it, whoever has something that must be durable: a lone session has no use for two
//! changes of threads. Either holds [`Core`] while it takes letters and while it writes them, so that their order stays.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mailtree_protocols::journal::{Lsn, Record};
use metrics::Histogram;
use tokio::runtime::RuntimeFlavor;
use tokio::sync::oneshot;

use super::crash::{Point, reached};
use super::journal::{FileDisk, Log};
use super::sync::Error;

/// How long records that nobody waits for may wait for others, to be written with them.
const GATHER: Duration = Duration::from_millis(2);

/// Records of one batch.
const BATCH: usize = 1024;

/// Told when a batch is durable, or was not made so.
type Done = Box<dyn FnOnce(Result<Lsn, Error>) + Send>;

/// Told which generation of the journal has been begun, before anything in it is acknowledged; 0: it is to be emptied.
type Rolled = Box<dyn Fn(u64) -> std::io::Result<()> + Send>;

/// The way to the journal.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Bytes of the largest record.
    max_record: usize,
}

#[derive(Default)]
struct Shared {
    core: Mutex<Option<Core>>,
    mailbox: Mutex<Mailbox>,
    wake: Condvar,
    /// The last batch all of whose callers were told; 0: none.
    handled: AtomicU64,
    /// What the last checkpoint covered.
    checkpointed: AtomicU64,
}

#[derive(Default)]
struct Mailbox {
    letters: Vec<Letter>,
    /// Some of them must be written now.
    urgent: bool,
    /// The thread sleeps until it is woken, whatever comes.
    asleep: bool,
    closed: bool,
}

enum Letter {
    Append { records: Vec<Record>, done: Option<Done> },
    Checkpoint { needed: Lsn, durable: Lsn, done: crossbeam_channel::Sender<bool> },
    Close { done: oneshot::Sender<Result<(), Error>> },
}

impl Writer {
    /// Starts the thread. `crowded` is told that a checkpoint is due, `troubled` that what lives in the journal
    /// should go into files, `failed` that no more is written.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(
        log: Log<FileDisk>,
        rolled: Rolled,
        crowded: Box<dyn Fn() + Send>,
        troubled: Box<dyn Fn() + Send>,
        failed: Arc<dyn Fn(String) + Send + Sync>,
    ) -> std::io::Result<Self> {
        let counted = Counted {
            records: metrics::histogram!("mailtree_journal_batch_records"),
            seconds: metrics::histogram!("mailtree_journal_batch_seconds"),
        };
        let max_record = log.max_batch();
        let handled = log.last().0;
        let core =
            Core { log: Some(log), rolled, generation: 0, used: 0, crowded, troubled, failed, counted };
        let shared = Arc::new(Shared { core: Mutex::new(Some(core)), ..Shared::default() });
        shared.handled.store(handled, Ordering::Release);
        let thread = Thread(Arc::clone(&shared));
        std::thread::Builder::new().name("journal".into()).spawn(move || thread.run())?;
        Ok(Self { shared, max_record })
    }

    /// The largest batch, in bytes: no record is larger.
    pub(super) fn max_record(&self) -> usize {
        self.max_record
    }

    /// Records that become durable with the next batch that must, or the next checkpoint; they are written at once, so that a
    /// process that dies leaves them behind.
    pub(super) fn append(&self, records: Vec<Record>) {
        self.send(Letter::Append { records, done: None }, true);
    }

    /// The same, and they are written within [`GATHER`]: when they are lost, something is done again that does no harm.
    pub(super) fn append_soon(&self, records: Vec<Record>) {
        self.send(Letter::Append { records, done: None }, false);
    }

    /// The same, and when this returns they are written, or cannot be. Waits for the disk.
    pub(super) fn append_now(&self, records: Vec<Record>) {
        let (done, answer) = crossbeam_channel::bounded(1);
        let told = move |_: Result<Lsn, Error>| done.try_send(()).unwrap_or(());
        self.send(Letter::Append { records, done: Some(Box::new(told)) }, true);
        answer.recv().unwrap_or(());
    }

    /// Records that must be durable; `done` hears of it in the order of the batches, perhaps before this returns. Waits for the
    /// disk in the caller's thread if nobody else is writing.
    pub(super) fn append_then(&self, records: Vec<Record>, done: Done) {
        let letter = Letter::Append { records, done: Some(done) };
        let here = tokio::runtime::Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        match self.shared.core.try_lock() {
            Ok(mut core) if here && core.is_some() => {
                if self.post(letter).is_some() {
                    tokio::task::block_in_place(|| self.shared.handle(&mut core));
                }
            }
            _ => self.send(letter, true),
        }
    }

    /// Records that must be durable.
    pub(super) async fn append_synced(&self, records: Vec<Record>) -> Result<Lsn, Error> {
        let (done, answer) = oneshot::channel();
        // Whoever asked may have gone: what was written stays written.
        self.append_then(records, Box::new(move |result| drop(done.send(result))));
        answer.await.unwrap_or(Err(Error::Gone))
    }

    /// Writes a checkpoint and waits for it.
    pub(super) fn checkpoint(&self, needed: Lsn, durable: Lsn) -> bool {
        let (done, answer) = crossbeam_channel::bounded(1);
        self.send(Letter::Checkpoint { needed, durable, done }, true);
        answer.recv().unwrap_or(false)
    }

    /// The last batch whose callers were all told.
    pub(super) fn handled(&self) -> Lsn {
        Lsn(self.shared.handled.load(Ordering::Acquire))
    }

    /// Whether nothing can be written any more.
    pub(super) fn is_dead(&self) -> bool {
        self.shared.lock().closed
    }

    /// What the last checkpoint covered.
    pub(super) fn checkpointed(&self) -> Lsn {
        Lsn(self.shared.checkpointed.load(Ordering::Acquire))
    }

    /// Ends a journal in which nothing is alive: its files are removed.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.send(Letter::Close { done }, true);
        answer.await.unwrap_or(Err(Error::Gone))
    }

    fn send(&self, letter: Letter, urgent: bool) {
        let Some(mut mailbox) = self.post(letter) else { return };
        let asleep = std::mem::take(&mut mailbox.asleep);
        let wake = asleep || urgent && !mailbox.urgent;
        mailbox.urgent |= urgent;
        drop(mailbox);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// Leaves a letter and wakes nobody; none after the end: it is refused.
    fn post(&self, letter: Letter) -> Option<MutexGuard<'_, Mailbox>> {
        let mut mailbox = self.shared.lock();
        if mailbox.closed {
            drop(mailbox);
            letter.refuse();
            return None;
        }
        mailbox.letters.push(letter);
        Some(mailbox)
    }
}

impl Letter {
    fn refuse(self) {
        match self {
            Self::Append { done: Some(done), .. } => done(Err(Error::Gone)),
            Self::Append { done: None, .. } => (),
            Self::Checkpoint { done, .. } => {
                done.try_send(false).unwrap_or(());
            }
            Self::Close { done } => drop(done.send(Err(Error::Gone))),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    /// Waits until something has come; false after the end. Waits a little for more if nothing in it is urgent. Behind what was
    /// written last more is likely to come, and nobody needs to wake the thread for it.
    fn wait(&self) -> bool {
        let mut mailbox = self.lock();
        loop {
            let gathered = Instant::now() + GATHER;
            while !mailbox.urgent && !mailbox.closed {
                let left = gathered.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                (mailbox, _) = self.wake.wait_timeout(mailbox, left).unwrap_or_else(PoisonError::into_inner);
            }
            if !mailbox.letters.is_empty() {
                return true;
            }
            if mailbox.closed {
                return false;
            }
            (mailbox.asleep, mailbox.urgent) = (true, false);
            while mailbox.asleep && !mailbox.closed {
                mailbox = self.wake.wait(mailbox).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Writes all that has come. After a failure for good nothing is taken any more.
    fn handle(&self, held: &mut Option<Core>) {
        let letters = {
            let mut mailbox = self.lock();
            mailbox.urgent = false;
            std::mem::take(&mut mailbox.letters)
        };
        let Some(core) = held else {
            letters.into_iter().for_each(Letter::refuse);
            return;
        };
        core.handle(letters, self);
        if core.is_dead()
            && let Some(core) = held.take()
        {
            // Closed before anybody hears of it and begins another.
            self.close();
            (core.failed)("the journal cannot be written".to_owned());
        }
    }

    /// Whatever ends the journal, nobody waits for it for ever.
    fn close(&self) {
        let letters = {
            let mut mailbox = self.lock();
            mailbox.closed = true;
            std::mem::take(&mut mailbox.letters)
        };
        self.wake.notify_all();
        letters.into_iter().for_each(Letter::refuse);
    }

    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What writes.
struct Core {
    log: Option<Log<FileDisk>>,
    rolled: Rolled,
    /// The generation that was noted last.
    generation: u64,
    /// Segments in use when it was last looked.
    used: usize,
    crowded: Box<dyn Fn() + Send>,
    troubled: Box<dyn Fn() + Send>,
    failed: Arc<dyn Fn(String) + Send + Sync>,
    counted: Counted,
}

/// What is counted of batches.
struct Counted {
    records: Histogram,
    seconds: Histogram,
}

/// The thread.
struct Thread(Arc<Shared>);

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Thread {
    fn run(self) {
        while self.0.wait() {
            let mut core = self.0.core.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.handle(&mut core);
        }
    }
}

impl Core {
    fn is_dead(&self) -> bool {
        self.log.as_ref().is_some_and(Log::is_dead)
    }

    fn handle(&mut self, letters: Vec<Letter>, shared: &Shared) {
        let mut batch = Batch::default();
        for letter in letters {
            match letter {
                Letter::Append { records, done } => {
                    let size: usize = records.iter().map(Record::encoded_len).sum();
                    let limit = self.log.as_ref().map_or(0, Log::max_batch);
                    if batch.records.len() + records.len() > BATCH || batch.size + size > limit {
                        self.commit(std::mem::take(&mut batch), shared);
                    }
                    batch.size += size;
                    batch.parts.push((records.len(), done));
                    batch.records.extend(records);
                }
                Letter::Checkpoint { needed, durable, done } => {
                    self.commit(std::mem::take(&mut batch), shared);
                    let written = self.checkpoint(needed, durable, shared);
                    // Whoever asked waits with a place in his channel.
                    done.try_send(written).unwrap_or(());
                }
                Letter::Close { done } => {
                    self.commit(std::mem::take(&mut batch), shared);
                    let closed = self.close().map_err(Error::from);
                    drop(done.send(closed));
                }
            }
        }
        self.commit(batch, shared);
        // Once for each segment that is begun: what cannot be freed is not asked for again and again.
        let used = self.log.as_ref().map_or(0, Log::used_segments);
        if used > self.used && self.log.as_ref().is_some_and(|log| used > log.free_segments()) {
            (self.crowded)();
        }
        self.used = used;
    }

    /// Writes a batch, makes it durable if somebody waits for that, and tells all. In a journal that is full what became of
    /// messages still has room; new ones do not.
    fn commit(&mut self, batch: Batch, shared: &Shared) {
        if batch.records.is_empty() {
            return;
        }
        let started = Instant::now();
        let result = self.write(&batch.records, batch.is_awaited());
        self.counted.records.record(batch.records.len() as f64);
        if matches!(result, Err(Error::NoRoom)) && batch.parts.len() > 1 {
            let (new, known) = batch.split();
            new.tell(&result);
            if !known.records.is_empty() {
                let result = self.write(&known.records, known.is_awaited());
                self.told(known, result, shared);
            }
        } else {
            self.told(batch, result, shared);
        }
        self.counted.seconds.record(started.elapsed());
    }

    fn told(&self, batch: Batch, result: Result<Lsn, Error>, shared: &Shared) {
        batch.tell(&result);
        if let Ok(lsn) = result {
            shared.handled.store(lsn.0, Ordering::Release);
        }
    }

    /// An error is final: what was refused is void, durably, before anybody hears of it.
    fn write(&mut self, records: &[Record], durably: bool) -> Result<Lsn, Error> {
        let Some(log) = &mut self.log else { return Err(Error::Gone) };
        let lsn = match log.append(records) {
            Ok(lsn) => lsn,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull && !log.failed() => {
                return Err(Error::NoRoom);
            }
            Err(error) => {
                self.recover();
                return Err(error.into());
            }
        };
        reached(Point::JournalWritten);
        if !durably {
            return Ok(lsn);
        }
        if let Err(error) = log.sync() {
            self.recover();
            return Err(Error::Sync(Arc::new(error)));
        }
        reached(Point::JournalSynced);
        let generation = log.generation();
        if generation != self.generation {
            match (self.rolled)(generation) {
                Ok(()) => self.generation = generation,
                // Only a missing journal would not be noticed.
                Err(error) => {
                    tracing::error!("alert: unable to note the newest generation of the journal: {error}");
                }
            }
        }
        Ok(lsn)
    }

    /// After a failure: what was refused becomes void, and all that lives in the journal goes into files.
    fn recover(&mut self) {
        let Some(log) = self.log.as_mut().filter(|log| log.failed()) else { return };
        tracing::error!("alert: the journal's disk has failed; another segment is begun");
        if let Err(error) = log.recover() {
            tracing::error!("alert: unable to begin another segment of the journal: {error}");
        }
        (self.troubled)();
    }

    /// An empty journal may be missing: that is said before it is.
    fn close(&mut self) -> std::io::Result<()> {
        let Some(log) = self.log.take() else { return Err(std::io::ErrorKind::NotFound.into()) };
        (self.rolled)(0)?;
        log.close()
    }

    fn checkpoint(&mut self, needed: Lsn, durable: Lsn, shared: &Shared) -> bool {
        let Some(log) = &mut self.log else { return false };
        if let Err(error) = log.checkpoint(needed, durable) {
            tracing::error!("alert: unable to write a checkpoint of the journal: {error}");
            self.recover();
            return false;
        }
        reached(Point::CheckpointWritten);
        // Its own record is a batch as well.
        let covered = if log.last() == durable { durable } else { Lsn(durable.0 - 1) };
        shared.checkpointed.store(covered.0, Ordering::Release);
        shared.handled.store(log.last().0, Ordering::Release);
        metrics::gauge!("mailtree_journal_segments").set(log.used_segments() as f64);
        true
    }
}

#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    /// So many of the records, in their order, and who is told of them.
    parts: Vec<(usize, Option<Done>)>,
    size: usize,
}

impl Batch {
    fn is_awaited(&self) -> bool {
        self.parts.iter().any(|(_, done)| done.is_some())
    }

    /// What accepts messages, and the others.
    fn split(self) -> (Self, Self) {
        let (mut new, mut known) = (Self::default(), Self::default());
        let mut records = self.records.into_iter();
        for (count, done) in self.parts {
            let part: Vec<_> = records.by_ref().take(count).collect();
            let accepts = part.iter().any(|record| matches!(record, Record::Accept(_)));
            let half = if accepts { &mut new } else { &mut known };
            half.records.extend(part);
            half.parts.push((count, done));
        }
        (new, known)
    }

    fn tell(self, result: &Result<Lsn, Error>) {
        for (count, done) in self.parts {
            match done {
                Some(done) => done(result.clone()),
                // Notes that are missing only mean that something is done twice after a crash.
                None if result.is_err() => {
                    metrics::counter!("mailtree_journal_lost_records_total").increment(count as u64);
                }
                None => (),
            }
        }
    }
}
