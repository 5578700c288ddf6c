//! A message on its way into the queue.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use mailtree_protocols::envelope::Envelope;
use mailtree_protocols::queue::MessageId;
use mailtree_protocols::received::{self, Invoker};

use super::disk::{Commit, Draft, Spill};
use super::sync::{DiskThreads, Error};
use super::trigger::Trigger;
use crate::permit::{Permit, Permits};
use crate::pid;

/// What a reception holds in memory before it writes to disk, in bytes.
pub(super) const CHUNK: usize = 64 * 1024;

/// A message being handed in. Dropped before [`Reception::commit`], it leaves nothing behind.
pub struct Reception {
    threads: Arc<DiskThreads>,
    trigger: Trigger,
    buffer: Vec<u8>,
    draft: Option<Draft>,
    size: u64,
    qp: u64,
    /// One permit for each chunk on disk.
    chunks: Permits,
    spilled: Vec<Permit>,
    /// Bytes of the line the queue put on top.
    head: usize,
    invoker: Invoker,
    permit: Arc<Permit>,
}

/// A message on disk that is not in the queue yet, for those who look at it first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The file; it goes with the reception.
    pub path: PathBuf,
    /// Bytes at its beginning that are the queue's own.
    pub head: u64,
    /// Bytes behind them.
    pub size: u64,
}

/// A message that is in the queue, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its number.
    pub id: MessageId,
    /// The number of its queueing.
    pub qp: u64,
    /// Its size, in bytes.
    pub size: u64,
}

impl Reception {
    pub(super) fn new(
        threads: Arc<DiskThreads>,
        trigger: Trigger,
        invoker: Invoker,
        permit: Arc<Permit>,
        chunks: Permits,
    ) -> Self {
        let qp = pid::next();
        let buffer = received::qmail(invoker, qp, Timestamp::now()).into_bytes();
        Self {
            threads,
            trigger,
            head: buffer.len(),
            buffer,
            draft: None,
            size: 0,
            qp,
            chunks,
            spilled: Vec::new(),
            invoker,
            permit,
        }
    }

    /// A second reception for a changed copy of the same message, on the same permit: whoever holds a message is never
    /// refused for want of another.
    #[must_use]
    pub fn copy(&self) -> Self {
        let (threads, trigger) = (Arc::clone(&self.threads), self.trigger.clone());
        Self::new(threads, trigger, self.invoker, Arc::clone(&self.permit), self.chunks.clone())
    }

    /// The number of this queueing.
    #[must_use]
    pub fn qp(&self) -> u64 {
        self.qp
    }

    /// More of the message, lines ending in LF.
    ///
    /// # Errors
    /// When it cannot be written; the message must be given up.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < CHUNK {
            return Ok(());
        }
        self.spill(false).await.map(drop)
    }

    /// Writes what has come to disk, to be read there. More may follow.
    ///
    /// # Errors
    /// When it cannot be written; the message must be given up.
    pub async fn hold(&mut self) -> Result<Held, Error> {
        let path = self.spill(true).await?;
        Ok(Held { path, head: self.head as u64, size: self.size.saturating_sub(self.head as u64) })
    }

    async fn spill(&mut self, whole: bool) -> Result<PathBuf, Error> {
        let full = || io::Error::new(io::ErrorKind::StorageFull, "too many bytes are being received");
        self.spilled.push(self.chunks.try_acquire().ok_or_else(full)?);
        self.size += self.buffer.len() as u64;
        let spill = Spill { draft: self.draft.take(), bytes: std::mem::take(&mut self.buffer), whole };
        let (draft, buffer) = self.threads.run(spill).await?;
        let path = draft.path().to_owned();
        self.draft = Some(draft);
        self.buffer = buffer;
        Ok(path)
    }

    /// The whole message is there: makes it and its envelope durable. Whoever gives up waiting must expect that the
    /// message is delivered all the same.
    ///
    /// # Errors
    /// When it is not certain to be durable.
    pub async fn commit(mut self, sender: Vec<u8>, recipients: Vec<Vec<u8>>) -> Result<Accepted, Error> {
        let started = Instant::now();
        let size = self.size + self.buffer.len() as u64;
        let envelope = Envelope { uid: rustix::process::getuid().as_raw(), qp: self.qp, sender, recipients };
        let commit = Commit {
            draft: self.draft.take(),
            bytes: std::mem::take(&mut self.buffer),
            envelope: envelope.to_bytes().map_err(|error| Error::from(io::Error::other(error)))?,
            id: None,
            trigger: self.trigger.clone(),
        };
        let id = self.threads.run(commit).await?;
        metrics::histogram!("mailtree_queue_commit_seconds").record(started.elapsed());
        metrics::counter!("mailtree_queue_accepted_messages_total").increment(1);
        metrics::counter!("mailtree_queue_accepted_bytes_total").increment(size);
        Ok(Accepted { id, qp: self.qp, size })
    }
}
