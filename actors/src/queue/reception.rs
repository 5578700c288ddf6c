//! A message on its way into the queue.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use mailtree_protocols::envelope::Envelope;
use mailtree_protocols::journal::{Accept, Record};
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::received::{self, Invoker};
use tokio::sync::oneshot;

use super::Queue;
use super::disk::{Commit, Draft, Spill, micros};
use super::live::{Backing, Entry};
use super::sync::Error;
use crate::permit::{Permit, Permits};
use crate::pid;

/// What a reception holds in memory by its own right, in bytes.
pub(super) const CHUNK: usize = 64 * 1024;

/// Larger messages are files from the start, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// Memory for the bodies of messages in the journal, in KiB.
pub(super) const ROOM: usize = 64 * 1024;

/// How long a message waits for a place in the journal before it goes into files.
const WAIT: Duration = Duration::from_secs(2);

/// A message being handed in. Dropped before [`Reception::commit`], it leaves nothing behind.
pub struct Reception {
    queue: Queue,
    buffer: Vec<u8>,
    draft: Option<Draft>,
    size: u64,
    qp: u64,
    limits: Limits,
    /// One permit for each chunk on disk, or in memory beyond the first.
    held: Vec<Permit>,
    /// Bytes of the line the queue put on top.
    head: usize,
    invoker: Invoker,
    uid: u32,
    permit: Arc<Permit>,
}

/// The process that hands a message in, if it is not the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Whose it is.
    pub uid: u32,
    /// Its number.
    pub pid: u64,
}

/// What all messages that are being received share, in units of [`CHUNK`].
#[derive(Clone)]
pub(super) struct Limits {
    /// On disk.
    pub(super) chunks: Permits,
    /// In memory, beyond the first of each.
    pub(super) memory: Permits,
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

/// What becomes true of another message together with this one's acceptance, if the journal holds both.
#[derive(Debug, Clone, Copy)]
pub enum Alongside {
    /// This one is its forward for a recipient, who is done then.
    Forward(MessageId, Channel, u64),
    /// This one is its bounce.
    Bounce(MessageId),
}

impl Reception {
    pub(super) fn new(
        queue: Queue,
        invoker: Invoker,
        caller: Option<Caller>,
        permit: Arc<Permit>,
        limits: Limits,
    ) -> Self {
        let own = || Caller { uid: rustix::process::getuid().as_raw(), pid: pid::next() };
        let Caller { uid, pid: qp } = caller.unwrap_or_else(own);
        let buffer = received::qmail(invoker, qp, Timestamp::now()).into_bytes();
        Self {
            queue,
            head: buffer.len(),
            buffer,
            draft: None,
            size: 0,
            qp,
            limits,
            held: Vec::new(),
            invoker,
            uid,
            permit,
        }
    }

    /// A second reception for a changed copy of the same message, on the same permit: whoever holds a message is never
    /// refused for want of another.
    #[must_use]
    pub fn copy(&self) -> Self {
        let Self { queue, invoker, permit, limits, .. } = self;
        Self::new(queue.clone(), *invoker, None, Arc::clone(permit), limits.clone())
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
        let allowed = if self.draft.is_some() { CHUNK } else { CHUNK * (self.held.len() + 1) };
        if self.buffer.len() < allowed {
            return Ok(());
        }
        if self.draft.is_none()
            && self.buffer.len() < MAX_BODY
            && let Some(more) = self.limits.memory.try_acquire()
        {
            self.held.push(more);
            return Ok(());
        }
        self.spill().await.map(drop)
    }

    /// Writes what has come to disk, to be read there. More may follow.
    ///
    /// # Errors
    /// When it cannot be written; the message must be given up.
    pub async fn hold(&mut self) -> Result<Held, Error> {
        let path = self.spill().await?;
        Ok(Held { path, head: self.head as u64, size: self.size.saturating_sub(self.head as u64) })
    }

    async fn spill(&mut self) -> Result<PathBuf, Error> {
        let full = || io::Error::new(io::ErrorKind::StorageFull, "too many bytes are being received");
        if self.draft.is_none() {
            // The rights to memory.
            self.held.clear();
        }
        let chunks = u32::try_from(self.buffer.len().div_ceil(CHUNK).max(1)).unwrap_or(u32::MAX);
        self.held.push(self.limits.chunks.try_acquire_many(chunks).ok_or_else(full)?);
        self.size += self.buffer.len() as u64;
        let spill = Spill { draft: self.draft.take(), bytes: std::mem::take(&mut self.buffer) };
        let (draft, mut buffer) = self.queue.threads()?.run(spill).await?;
        buffer.shrink_to(CHUNK);
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
    pub async fn commit(self, sender: Vec<u8>, recipients: Vec<Vec<u8>>) -> Result<Accepted, Error> {
        self.commit_with(sender, recipients, None).await
    }

    /// As [`Reception::commit`], with what becomes true together with it.
    ///
    /// # Errors
    /// As [`Reception::commit`].
    pub async fn commit_with(
        mut self,
        sender: Vec<u8>,
        recipients: Vec<Vec<u8>>,
        alongside: Option<Alongside>,
    ) -> Result<Accepted, Error> {
        let started = Instant::now();
        let size = self.size + self.buffer.len() as u64;
        let envelope = Envelope { uid: self.uid, qp: self.qp, sender, recipients };
        let bytes = envelope.to_bytes().map_err(|error| Error::from(io::Error::other(error)))?;
        let appended = match self.place(&bytes).await {
            Some(place) => self.append(place, envelope, alongside).await?,
            None => Appended::NoRoom(envelope),
        };
        let id = match appended {
            Appended::As(id) => id,
            Appended::NoRoom(envelope) => self.store(bytes, envelope, size).await?,
        };
        let metrics = super::service::Accepting::get();
        metrics.seconds.record(started.elapsed());
        metrics.messages.increment(1);
        metrics.bytes.increment(size);
        Ok(Accepted { id, qp: self.qp, size })
    }

    /// A place in the journal; none if the message is not for it, or there is none for too long.
    async fn place(&self, envelope: &[u8]) -> Option<Place> {
        let shared = &*self.queue.0;
        let writer = shared.writer.load_full()?;
        let size = self.buffer.len() + envelope.len();
        if self.draft.is_some()
            || self.buffer.len() > MAX_BODY
            || size + 1024 > writer.max_record()
            || !shared.journal_on.load(Ordering::Acquire)
        {
            return None;
        }
        let kib = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
        let waiting = async {
            let place = shared.places.acquire().await;
            (place, shared.room.acquire_many(kib).await)
        };
        let (place, room) = tokio::time::timeout(WAIT, waiting).await.ok()?;
        let spare = shared.spares.take();
        self.queue.make_spares();
        Some(Place { writer, place, room, spare: spare? })
    }

    /// Into the journal, unless that is full.
    async fn append(
        &mut self,
        Place { writer, place, room, spare }: Place,
        envelope: Envelope,
        alongside: Option<Alongside>,
    ) -> Result<Appended, Error> {
        let queue = self.queue.clone();
        let body: Arc<[u8]> = std::mem::take(&mut self.buffer).into();
        let again = Arc::clone(&body);
        let birth = micros(SystemTime::now());
        let serial = queue.0.next_serial();
        let accept = Accept {
            serial,
            id: spare.id,
            pool: spare.number,
            birth,
            uid: envelope.uid,
            qp: envelope.qp,
            sender: envelope.sender.clone(),
            recipients: envelope.recipients.clone(),
            properties: Vec::new(),
            body: Arc::clone(&body),
        };
        let mut records = vec![Record::Accept(accept)];
        let live = &queue.0.live;
        records.extend(match alongside {
            Some(Alongside::Forward(parent, channel, offset)) => live.journalled(parent, channel, offset),
            Some(Alongside::Bounce(parent)) => live.bouncing(parent, self.qp),
            None => None,
        });
        let (done, answer) = oneshot::channel();
        let told = move |result: Result<mailtree_protocols::journal::Lsn, Error>| {
            let Queue(shared) = &queue;
            let appended = match result {
                Ok(lsn) => {
                    let backing = Backing::Journal { serial, lsn, spare };
                    let mut entry = Entry::new(backing, birth, body.len() as u64, envelope);
                    (entry.body, entry.room, entry.place) = (Some(body), Some(room), Some(place));
                    shared.live.insert([(spare.id, entry)]);
                    match alongside {
                        Some(Alongside::Forward(parent, channel, offset)) => {
                            shared.live.done(parent, channel, offset);
                        }
                        Some(Alongside::Bounce(parent)) => shared.live.bounced(parent),
                        None => (),
                    }
                    shared.trigger.pull();
                    Ok(Appended::As(spare.id))
                }
                Err(Error::NoRoom) => {
                    shared.spares.give(spare);
                    Ok(Appended::NoRoom(envelope))
                }
                Err(error) => {
                    // Its number may be in the journal: it is never given out again.
                    shared.spares.forget(spare);
                    Err(error)
                }
            };
            // The session may have gone.
            drop(done.send(appended));
        };
        writer.append_then(records, Box::new(told));
        let appended = answer.await.unwrap_or(Err(Error::Gone))?;
        let full = matches!(appended, Appended::NoRoom(_));
        if full {
            self.buffer = again.to_vec();
        }
        if self.queue.0.journal_full.swap(full, Ordering::AcqRel) != full && full {
            tracing::warn!("warning: the journal is full; messages go into files until there is room");
        }
        Ok(appended)
    }

    async fn store(&mut self, bytes: Vec<u8>, envelope: Envelope, size: u64) -> Result<MessageId, Error> {
        let commit = Commit {
            draft: self.draft.take(),
            bytes: std::mem::take(&mut self.buffer),
            envelope: bytes,
            stored: None,
            arriving: self.queue.arriving(envelope, size),
        };
        Ok(self.queue.threads()?.run(commit).await?.id)
    }
}

/// What came of a message that was to go into the journal.
enum Appended {
    /// It is there.
    As(MessageId),
    /// Nothing was done, for want of room; its envelope.
    NoRoom(Envelope),
}

/// A place in the journal.
struct Place {
    writer: Arc<super::writer::Writer>,
    place: Permit,
    room: Permit,
    spare: super::disk::spare::Spare,
}
