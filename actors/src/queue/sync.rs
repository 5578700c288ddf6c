//! The disk threads, for qmail's files: they take what waits, make it durable together and answer all (group commit).
//!
//! Owns: the threads, the bounded channel to them. Asked by: whoever holds a [`DiskThreads`]. Ends when: the last
//! holder drops it; what is queued is still done.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::disk::{Disk, Operation, Unsynced};
use crate::permit::{Permit, Permits};

/// Operations that may wait for the disk.
const WAITING: usize = 4096;

/// Operations that one thread makes durable together; each holds some open files.
const BATCH: usize = 64;

/// Why an operation was not done. For those that publish something, it may have been done all the same when the sync
/// after publishing failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The file operation failed.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The disk did not confirm that data is durable; nothing more is trusted to these threads.
    #[error("sync failed: {0}")]
    Sync(Arc<io::Error>),
    /// Nothing was written: the journal is full.
    #[error("the journal is full")]
    NoRoom,
    /// The threads are gone.
    #[error("disk threads are gone")]
    Gone,
}

impl Error {
    /// The file or the filesystem is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io(error) | Self::Sync(error) => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::NoRoom => true,
            Self::Gone => false,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// The way to the disk.
pub(super) struct DiskThreads {
    sender: Sender<Box<dyn Step>>,
    waiting: Permits,
}

impl DiskThreads {
    /// Starts `count` threads on the queue. `failed` is called, once for each batch concerned, when a sync fails.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        disk: Arc<Disk>,
        count: usize,
        failed: Arc<dyn Fn(String) + Send + Sync>,
    ) -> io::Result<Self> {
        let (sender, receiver) = bounded(WAITING);
        let poisoned = Arc::new(AtomicBool::new(false));
        for n in 0..count.max(1) {
            let thread = Thread {
                disk: Arc::clone(&disk),
                receiver: receiver.clone(),
                poisoned: Arc::clone(&poisoned),
                failed: Arc::clone(&failed),
            };
            std::thread::Builder::new().name(format!("disk {n}")).spawn(move || thread.run())?;
        }
        Ok(Self { sender, waiting: Permits::new("disk", WAITING) })
    }

    /// Has `operation` done. Once this was polled, dropping the future does not undo it.
    pub(super) async fn run<O: Operation>(&self, operation: O) -> Result<O::Output, Error> {
        let permit = self.waiting.acquire().await;
        let (reply, answer) = oneshot::channel();
        let request = Request { operation: Some(operation), reply: Some(reply), _permit: permit };
        match self.sender.try_send(Box::new(request)) {
            Ok(()) => answer.await.unwrap_or(Err(Error::Gone)),
            // Full cannot be: there are as many permits as places.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Error::Gone),
        }
    }
}

/// An operation of any kind with its way back.
trait Step: Send {
    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()>;
    fn publish(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()>;
    fn finish(self: Box<Self>, disk: &Disk);
    fn fail(self: Box<Self>, disk: &Disk, error: Error, published: bool);
}

struct Request<O: Operation> {
    operation: Option<O>,
    reply: Option<oneshot::Sender<Result<O::Output, Error>>>,
    _permit: Permit,
}

impl<O: Operation> Request<O> {
    fn answer(&mut self, result: Result<O::Output, Error>) {
        // Whoever asked may have gone: what was done stays done.
        drop(self.reply.take().map(|reply| reply.send(result)));
    }
}

impl<O: Operation> Step for Request<O> {
    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        self.operation.as_mut().map_or(Ok(()), |operation| operation.prepare(disk, unsynced))
    }

    fn publish(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        self.operation.as_mut().map_or(Ok(()), |operation| operation.publish(disk, unsynced))
    }

    fn finish(mut self: Box<Self>, disk: &Disk) {
        if let Some(operation) = self.operation.take() {
            let result = operation.finish(disk).map_err(Error::from);
            self.answer(result);
        }
    }

    fn fail(mut self: Box<Self>, disk: &Disk, error: Error, published: bool) {
        if let Some(operation) = self.operation.take()
            && !published
        {
            operation.abandon(disk);
        }
        self.answer(Err(error));
    }
}

struct Thread {
    disk: Arc<Disk>,
    receiver: Receiver<Box<dyn Step>>,
    poisoned: Arc<AtomicBool>,
    failed: Arc<dyn Fn(String) + Send + Sync>,
}

impl Thread {
    fn run(self) {
        while let Ok(first) = self.receiver.recv() {
            let mut batch = vec![first];
            batch.extend(self.receiver.try_iter().take(BATCH - 1));
            self.batch(batch);
        }
    }

    fn batch(&self, batch: Vec<Box<dyn Step>>) {
        let started = Instant::now();
        let unsynced = &mut Unsynced::default();
        metrics::histogram!("mailtree_queue_batch_operations").record(batch.len() as f64);
        let batch = self.each(batch, false, |step| step.prepare(&self.disk, unsynced));
        let Some(batch) = self.synced(batch, unsynced, false) else { return };
        // What was partly published is never taken back.
        let batch = self.each(batch, true, |step| step.publish(&self.disk, unsynced));
        let Some(batch) = self.synced(batch, unsynced, true) else { return };
        for step in batch {
            step.finish(&self.disk);
        }
        metrics::histogram!("mailtree_queue_batch_seconds").record(started.elapsed());
    }

    /// Does one step of each; what fails is answered and leaves the batch.
    fn each(
        &self,
        batch: Vec<Box<dyn Step>>,
        published: bool,
        mut work: impl FnMut(&mut dyn Step) -> io::Result<()>,
    ) -> Vec<Box<dyn Step>> {
        let mut kept = Vec::with_capacity(batch.len());
        for mut step in batch {
            match work(step.as_mut()) {
                Ok(()) => kept.push(step),
                Err(error) => step.fail(&self.disk, error.into(), published),
            }
        }
        kept
    }

    /// Makes the batch durable. After a failed sync the page cache is not to be believed: the whole batch fails, and so
    /// does every later one.
    fn synced(
        &self,
        batch: Vec<Box<dyn Step>>,
        unsynced: &mut Unsynced,
        published: bool,
    ) -> Option<Vec<Box<dyn Step>>> {
        let result = if self.poisoned.load(Ordering::Acquire) {
            Err(io::Error::other("an earlier sync failed"))
        } else {
            unsynced.sync()
        };
        let Err(error) = result else { return Some(batch) };
        self.poisoned.store(true, Ordering::Release);
        (self.failed)(error.to_string());
        let error = Arc::new(error);
        for step in batch {
            step.fail(&self.disk, Error::Sync(Arc::clone(&error)), published);
        }
        None
    }
}
