//! qmail-queue: takes messages in, makes them durable, and keeps them until they have ended.
//!
//! How a message lives (the states are those of [`mailtree_protocols::queue`]):
//!
//! - *append*. A session hands a message in ([`Reception`]). A small one becomes a record of the journal: the one thread
//!   that writes it ([`writer`]) gathers what has come, writes and syncs it once, and answers all (J). A large one, or any
//!   while the journal is off, full or broken, becomes files before the `250` (S4; [`disk`], on the disk threads).
//!   Either way it is in the table of live messages ([`live`]) then, and the scheduler takes it from there
//!   ([`Queue::arrivals`]).
//! - *settle*. What deliveries report is noted in the table and in the journal, or in the files. A copy in a Maildir need
//!   not be durable while the journal holds the message: it goes on the list of the next checkpoint
//!   ([`checkpoint`]). A message that is done is forgotten; one that is still there after some seconds is written out
//!   to qmail's files (S5; [`write_out`]).
//! - *replay*. At a start the journal says which messages lived; those whose copies may not have reached the disk are
//!   looked for and delivered again where they are missing or torn ([`replay`]). A stop leaves the journal
//!   empty ([`opening`]).
//!
//! Nobody outside can tell which form a message has.
//!
//! Owns: the journal, the disk threads, the permits for messages being received. Asks: the pool of delivery threads, for
//! syncs of Maildirs. Asked by: sessions, lspawn, send. Dies when: the journal fails twice in a row, a sync of the queue's
//! files fails, or the queue directory is gone. After a restart: the table is still there; messages that were being
//! received are gone with their sessions' connections.

mod alone;
mod body;
mod checkpoint;
pub mod crash;
pub mod disk;
mod journal;
mod live;
mod opening;
mod reception;
mod replay;
mod service;
mod spares;
mod sync;
mod trigger;
mod write_out;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use mailtree_protocols::envelope::{Envelope, Recipient};
use mailtree_protocols::journal::Serial;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::received::Invoker;
use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;

use crate::permit::Permits;
use crate::pool::Pool;
use crate::wire::{Unanswered, Wire};
pub use alone::{Alone, Failed};
pub use body::{Body, CHUNK};
use checkpoint::Checkpoints;
pub use checkpoint::InMaildir;
use disk::{Disk, Survey, Surveyed};
use live::{Backing, Ending, Entry, Leftover, Live, Settling};
pub use opening::Unemptied;
pub use reception::{Accepted, Alongside, Caller, Held, Reception};
pub use service::{Arguments, Message, QmailQueue};
use spares::Spares;
use sync::DiskThreads;
pub use sync::Error;
pub use trigger::{Trigger, listen, make_if_missing as make_trigger_if_missing};
use writer::Writer;

/// How long a session waits for the right to hand in a message.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages in S4 that are in the table at once; the others wait in `todo`.
const MAX_TODO: usize = 10_000;

/// The queue as the other actors reach it, whichever incarnation serves it.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    disk: Arc<Disk>,
    live: Arc<Live>,
    spares: Spares,
    checkpoints: Checkpoints,
    wire: Wire<Message>,
    threads: ArcSwapOption<DiskThreads>,
    writer: ArcSwapOption<Writer>,
    /// Memory for the bodies of messages in the journal, in KiB.
    room: Permits,
    /// Messages that may live in the journal.
    places: Permits,
    /// Whether new messages go into the journal.
    journal_on: AtomicBool,
    /// The last one that was to go there found it full.
    journal_full: AtomicBool,
    /// The serial of the next message in the journal.
    serial: AtomicU64,
    pool: Pool,
    trigger: Trigger,
    /// Told whenever a message has been written out, or was not.
    written: Notify,
    /// Where the newest generation of the journal is noted.
    journal_id: PathBuf,
    /// The thread of checkpoints runs.
    checkpointing: AtomicBool,
}

/// Why no message is taken in now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many messages as allowed are being received.
    #[error("too many messages are being received")]
    Busy,
    /// The filesystem has less free space or fewer free inodes than the configured floor.
    #[error("less than the configured free space or inodes is left")]
    Full,
    /// The service is down or does not answer.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Whether the journal of the queue at `root` has anything in it, as it has while a host runs and after one was killed.
///
/// # Errors
/// When its directory cannot be read.
pub fn has_journal(root: &Path) -> io::Result<bool> {
    journal::has_segments(&root.join("journal"))
}

/// Where a recipient goes, and the address he has there.
pub type Rewrite<'a> = &'a dyn Fn(&[u8]) -> (Channel, Vec<u8>);

/// A message for the scheduler.
#[derive(Debug)]
pub enum Arrival {
    /// It can be delivered.
    Message(NewMessage),
    /// It is to be placed first ([`Queue::place`]).
    Place(MessageId),
}

/// A message that the scheduler has not heard of, with the recipients that are listed on each channel.
#[derive(Debug)]
pub struct NewMessage {
    /// Its number.
    pub id: MessageId,
    /// Its size, in bytes.
    pub bytes: u64,
    /// When it was accepted, in microseconds since 1970.
    pub birth: u64,
    /// User id of who queued it.
    pub uid: u32,
    /// The number of its queueing.
    pub qp: u64,
    /// Reverse-path.
    pub sender: Vec<u8>,
    /// Recipients on the local channel.
    pub local: Vec<Recipient>,
    /// Recipients on the remote channel.
    pub remote: Vec<Recipient>,
    /// Somebody failed; the bounce is not sent yet.
    pub bouncing: bool,
    /// Next attempt in Unix seconds, by channel, local first.
    pub next: [u64; 2],
    /// Somebody may have begun to deliver it before.
    pub again: bool,
}

/// What became of recipients of one message on one channel.
#[derive(Debug)]
pub struct Settled {
    /// The message.
    pub id: MessageId,
    /// The channel.
    pub channel: Channel,
    /// Offsets of the records that are done, with the paragraph for the bounce of those that failed.
    pub done: Vec<(u64, Option<Vec<u8>>)>,
    /// Nobody is left on the channel.
    pub finished: bool,
    /// When to try the others next, in Unix seconds.
    pub retry: Option<u64>,
}

/// The answer now, or what to wait for.
pub enum Answer<T> {
    /// It is done.
    Now(T),
    /// The disk has to be waited for.
    Later(BoxFuture<'static, T>),
}

impl Queue {
    /// The queue on `disk`; `trigger` tells the scheduler of new messages, `pool` syncs Maildirs. `journal_id` is the file
    /// that tells which journal belongs to this host.
    #[must_use]
    pub fn new(disk: Arc<Disk>, trigger: Trigger, pool: Pool, journal_id: PathBuf) -> Self {
        Self(Arc::new(Shared {
            disk,
            live: Arc::default(),
            spares: Spares::default(),
            checkpoints: Checkpoints::default(),
            wire: Wire::default(),
            threads: ArcSwapOption::empty(),
            writer: ArcSwapOption::empty(),
            room: Permits::new("journal-kib", reception::ROOM),
            places: Permits::new("journal-messages", write_out::PLACES),
            journal_on: AtomicBool::new(false),
            journal_full: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            pool,
            trigger,
            written: Notify::new(),
            journal_id,
            checkpointing: AtomicBool::new(false),
        }))
    }

    /// The queue directory, for reading.
    #[must_use]
    pub fn disk(&self) -> &Arc<Disk> {
        &self.0.disk
    }

    /// Whether the service has been up: only then it is known what the journal holds.
    fn is_taken_up(&self) -> bool {
        self.0.wire.actor().is_some()
    }

    /// How many messages are only in the journal; none before the journal was read.
    #[must_use]
    pub fn only_in_journal(&self) -> Option<usize> {
        self.is_taken_up().then(|| self.0.live.in_journal())
    }

    /// The scheduler's wake-up.
    #[must_use]
    pub fn trigger(&self) -> &Trigger {
        &self.0.trigger
    }

    /// The right to hand in a message.
    ///
    /// # Errors
    /// [`Refused`]: the sender has to come again later.
    pub async fn open(&self, invoker: Invoker) -> Result<Reception, Refused> {
        self.0.wire.call(|reply| Message::Open { invoker, caller: None, reply }, OPEN_TIMEOUT).await?
    }

    /// The right to hand in a message of another process.
    ///
    /// # Errors
    /// As [`Queue::open`].
    pub async fn open_for(&self, invoker: Invoker, caller: Caller) -> Result<Reception, Refused> {
        let caller = Some(caller);
        self.0.wire.call(|reply| Message::Open { invoker, caller, reply }, OPEN_TIMEOUT).await?
    }

    fn threads(&self) -> Result<Arc<DiskThreads>, Error> {
        self.0.threads.load_full().ok_or(Error::Gone)
    }

    /// Up to `limit` messages that the scheduler has not heard of; `route` says where their recipients go.
    #[must_use]
    pub fn arrivals(&self, limit: usize, route: Rewrite<'_>) -> Vec<Arrival> {
        self.0.live.arrivals(limit, route)
    }

    /// Messages some of whose recipients are open again, with the channel.
    #[must_use]
    pub fn reopened(&self) -> Vec<(MessageId, Channel)> {
        self.0.live.reopened()
    }

    /// Messages that were written out before the scheduler heard of them: to be looked at ([`Queue::look`]).
    #[must_use]
    pub fn surfaced(&self) -> Vec<MessageId> {
        self.0.live.surfaced()
    }

    /// Places a message that has to be in S5 before its first delivery; none if it is there already and is one of those that
    /// [`Queue::surfaced`] tells of, or is gone.
    ///
    /// # Errors
    /// When it cannot be; it stays in S4.
    pub async fn place(&self, id: MessageId) -> Result<Option<NewMessage>, Error> {
        self.not_writing(id).await;
        let Some(message) = self.0.live.placing(id) else { return Ok(None) };
        let result = self.write_out_one(id).await;
        self.not_writing(id).await;
        match (self.0.live.unplaced(id), result) {
            (false, _) => Ok(Some(message)),
            (true, result) => Err(result.err().unwrap_or(Error::Gone)),
        }
    }

    /// Looks into `todo` for what other programs put there, but not for those `except` for; why some cannot be read.
    ///
    /// # Errors
    /// When `todo` cannot be read.
    pub fn look_into_todo(
        &self,
        except: &std::collections::HashSet<MessageId>,
    ) -> io::Result<Vec<(MessageId, String)>> {
        let mut failed = Vec::new();
        let Shared { disk, live, trigger, .. } = &*self.0;
        let mut found = false;
        for id in disk.todo()? {
            if except.contains(&id) || live.knows(id) {
                continue;
            }
            if live.len() - live.in_journal() >= MAX_TODO {
                trigger.look_again();
                break;
            }
            match disk.envelope(id) {
                Ok((envelope, birth, size)) => {
                    let mut entry = Entry::new(Backing::Todo, birth, size, envelope);
                    // Whoever put it there may have been this host, before a crash.
                    entry.again = true;
                    live.found(id, entry);
                    found = true;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !disk.mess(id).exists() => {
                    failed.push((id, "it has no mess".to_owned()));
                }
                Err(error) => failed.push((id, error.to_string())),
            }
        }
        if found {
            trigger.pull();
        }
        Ok(failed)
    }

    /// All that a scheduler that starts must know; what is live arrives again. May wait for the disk.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn survey(&self) -> io::Result<Survey> {
        self.0.live.announce_all();
        let known = self.0.live.ids();
        self.0.disk.survey(&known)
    }

    /// Message `id` if it is in S5. May wait for the disk.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn look(&self, id: MessageId) -> io::Result<Option<Surveyed>> {
        if self.0.live.knows(id) { Ok(None) } else { self.0.disk.look(id) }
    }

    /// Who is listed on a channel of a message.
    pub fn recipients(&self, id: MessageId, channel: Channel) -> Answer<io::Result<Vec<Recipient>>> {
        match self.0.live.recipients(id, channel) {
            Some(recipients) => Answer::Now(Ok(recipients)),
            None => {
                let queue = self.clone();
                Answer::Later(Box::pin(async move {
                    let reading = tokio::task::spawn_blocking(move || {
                        // It may have come here, or left, meanwhile.
                        match queue.0.disk.recipients(id, channel)? {
                            none if none.is_empty() => {
                                Ok(queue.0.live.recipients(id, channel).unwrap_or_default())
                            }
                            found => Ok(found),
                        }
                    });
                    reading.await.map_err(io::Error::other)?
                }))
            }
        }
    }

    /// The message itself. May wait for the disk.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn body(&self, id: MessageId) -> io::Result<Body> {
        match self.0.live.body(id) {
            Some(body) => Ok(body),
            None => Body::file(self.0.disk.open_mess(id)?),
        }
    }

    /// What the bounce of a message will say; nothing when nobody failed. May wait for the disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn bounce(&self, id: MessageId) -> io::Result<Option<Vec<u8>>> {
        match self.0.live.bounce(id) {
            Some(bounce) => Ok((!bounce.is_empty()).then_some(bounce)),
            None => self.0.disk.bounce(id),
        }
    }

    /// A copy of the message of this birth lies in Maildirs, not durably. True: that is the queue's concern from now on, and the recipient
    /// is done. False: the caller makes the files durable before it reports success.
    #[must_use]
    pub fn delivered(
        &self,
        (id, birth): (MessageId, u64),
        record: (Channel, u64),
        copies: &[InMaildir],
    ) -> bool {
        let Some(writer) = self.0.writer.load_full() else { return false };
        let Some(place) = self.0.checkpoints.room() else { return false };
        let maildirs = copies.iter().map(|copy| copy.file.clone()).collect();
        let Some((noted, done)) = self.0.live.delivered((id, birth), record, maildirs) else { return false };
        // Before the record: a checkpoint that covers the record covers the files.
        self.0.checkpoints.add(place, noted, copies);
        writer.append_soon(vec![done]);
        crash::reached(crash::Point::RecipientNoted);
        true
    }

    /// Whether copies that were delivered to a recipient could not be synced: what is found of them is not to be believed.
    #[must_use]
    pub fn doubts(&self, message: (MessageId, u64), record: (Channel, u64)) -> bool {
        self.0.live.is_unlucky(message, record)
    }

    /// Notes what became of recipients.
    pub fn settle(&self, settled: Settled) -> Answer<Result<(), Error>> {
        match self.0.live.settle(&settled) {
            Settling::Noted(records) => {
                self.tell(records);
                Answer::Now(Ok(()))
            }
            Settling::Files => Answer::Later(Box::pin(self.clone().settle_files(settled))),
            Settling::Busy => {
                let queue = self.clone();
                Answer::Later(Box::pin(async move {
                    queue.not_writing(settled.id).await;
                    match queue.settle(settled) {
                        Answer::Now(result) => result,
                        Answer::Later(result) => result.await,
                    }
                }))
            }
        }
    }

    async fn settle_files(self, settled: Settled) -> Result<(), Error> {
        let Settled { id, channel, done, finished, retry } = settled;
        let mut bounce = Vec::new();
        let mut offsets = Vec::with_capacity(done.len());
        for (offset, paragraph) in done {
            offsets.push(offset);
            bounce.extend(paragraph.unwrap_or_default());
        }
        self.threads()?.run(disk::Settle { id, channel, done: offsets, finished, bounce, retry }).await
    }

    /// The bounce of a message is queued under the number `qp`.
    pub fn bounced(&self, id: MessageId, qp: u64) {
        // Unless that was noted together with its acceptance.
        self.tell(self.0.live.bouncing(id, qp).into_iter().collect());
        self.0.live.bounced(id);
    }

    /// Records that ride on the next sync.
    fn tell(&self, records: Vec<mailtree_protocols::journal::Record>) {
        if !records.is_empty()
            && let Some(writer) = self.0.writer.load().as_ref()
        {
            writer.append(records);
        }
    }

    /// Notes durably what a message's files depend on. A journal that is dead is not read again: the files alone count.
    async fn note(&self, record: mailtree_protocols::journal::Record) -> Result<(), Error> {
        let Some(writer) = self.0.writer.load_full() else { return Ok(()) };
        match writer.append_synced(vec![record]).await {
            Err(_) if writer.is_dead() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Ends a settled message.
    pub fn end(&self, id: MessageId) -> Answer<Result<(), Error>> {
        match self.0.live.end(id, false) {
            Ending::Noted(record, false) => {
                if let Some(writer) = self.0.writer.load().as_ref() {
                    writer.append_soon(vec![record]);
                }
                self.forget(id);
                Answer::Now(Ok(()))
            }
            Ending::Noted(record, true) => {
                let queue = self.clone();
                Answer::Later(Box::pin(async move {
                    queue.note(record).await?;
                    queue.threads()?.run(disk::End { id }).await?;
                    queue.0.live.removed_leftover(id);
                    queue.forget(id);
                    Ok(())
                }))
            }
            Ending::Over => {
                self.forget(id);
                Answer::Now(Ok(()))
            }
            Ending::Reopened => {
                tracing::warn!(msg = id.0, "warning: msg {id}: a delivery was not durable; it is done again");
                self.0.trigger.pull();
                Answer::Now(Ok(()))
            }
            Ending::Files => {
                let queue = self.clone();
                Answer::Later(Box::pin(async move {
                    queue.threads()?.run(disk::End { id }).await?;
                    queue.0.live.remove_ended(id);
                    Ok(())
                }))
            }
            Ending::Busy => {
                let queue = self.clone();
                Answer::Later(Box::pin(async move {
                    queue.not_writing(id).await;
                    match queue.end(id) {
                        Answer::Now(result) => result,
                        Answer::Later(result) => result.await,
                    }
                }))
            }
        }
    }

    /// Takes a message out for good: durable when it returns, whatever is still under way. [`Queue::end`] must follow when
    /// nothing is.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn strike(&self, id: MessageId) -> Result<(), Error> {
        loop {
            match self.0.live.end(id, true) {
                Ending::Noted(record, leftover) => {
                    let writer = self.0.writer.load_full().ok_or(Error::Gone)?;
                    writer.append_synced(vec![record]).await?;
                    if leftover {
                        self.threads()?.run(disk::End { id }).await?;
                        self.0.live.removed_leftover(id);
                    }
                    // Its number is kept until nothing is under way: a delivery that reports must not mean another message.
                    return Ok(());
                }
                Ending::Files => {
                    self.threads()?.run(disk::Strike { id }).await?;
                    return Ok(());
                }
                Ending::Busy => self.not_writing(id).await,
                Ending::Over | Ending::Reopened => return Ok(()),
            }
        }
    }

    /// A message that ended, and of which nothing waits for a checkpoint, gives its number back.
    fn forget(&self, id: MessageId) {
        if let Some(entry) = self.0.live.forget_ended(id) {
            self.0.release(&entry);
        }
    }

    /// Waits until a message is not being written out.
    async fn not_writing(&self, id: MessageId) {
        loop {
            let written = self.0.written.notified();
            tokio::pin!(written);
            // Registered before it is looked at, so that no change is missed.
            written.as_mut().enable();
            if !self.0.live.is_writing(id) {
                return;
            }
            written.await;
        }
    }

    /// Removes what nobody finished and nobody uses. How many files went. May wait for the disk.
    ///
    /// # Errors
    /// When a directory cannot be read or a file cannot be removed.
    pub fn sweep(&self) -> io::Result<u64> {
        self.0.disk.sweep_ossified(&(self.0.live.ids(), self.0.spares.all()))
    }
}

/// A message on its way from S3 to S4, and into the table.
struct Arriving {
    queue: Queue,
    envelope: Option<Envelope>,
    size: u64,
    expected: Option<MessageId>,
}

impl disk::Arriving for Arriving {
    fn is_taken(&self, id: MessageId) -> bool {
        self.queue.0.live.is_journalled(id)
    }

    fn expect(&mut self, id: MessageId) {
        self.queue.0.live.expect(id);
        self.expected = Some(id);
    }

    fn stored(&mut self, stored: disk::Stored) {
        let Some(envelope) = self.envelope.take() else { return };
        let Shared { live, trigger, .. } = &*self.queue.0;
        if live.len() - live.in_journal() < MAX_TODO {
            live.insert([(stored.id, Entry::new(Backing::Todo, stored.birth, self.size, envelope))]);
            trigger.pull();
        } else {
            trigger.look_again();
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(id) = self.expected {
            self.queue.0.live.unexpect(id);
        }
        if self.envelope.is_some() && self.expected.is_some() {
            // Nobody was told, but its todo may be there.
            self.queue.0.trigger.pull_todo();
        }
    }
}

impl Queue {
    fn arriving(&self, envelope: Envelope, size: u64) -> Box<dyn disk::Arriving> {
        Box::new(Arriving { queue: self.clone(), envelope: Some(envelope), size, expected: None })
    }

    /// Removes the spare numbers that were made for a rush which is over.
    async fn discard_surplus(&self) {
        let queue = self.clone();
        let discarding = tokio::task::spawn_blocking(move || {
            for spare in queue.0.spares.surplus() {
                spare.discard_own(&queue.0.disk);
            }
        });
        discarding.await.unwrap_or(());
    }

    /// Has spare numbers made before they run out.
    fn make_spares(&self) {
        let Some((from, count)) = self.0.spares.wanted() else { return };
        let queue = self.clone();
        tokio::spawn(async move {
            let making = disk::spare::MakeSpares { from, count, made: Vec::new(), taken: Vec::new() };
            let made = match queue.threads() {
                Ok(threads) => threads.run(making).await,
                Err(error) => Err(error),
            };
            queue.0.spares.made(made.unwrap_or_else(|error| {
                tracing::warn!("warning: unable to make files in pid: {error}");
                Vec::new()
            }));
        });
    }
}

/// How many files may be open at once.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

impl Shared {
    fn next_serial(&self) -> Serial {
        Serial(self.serial.fetch_add(1, Ordering::Relaxed))
    }

    /// The number of an ended message is free again.
    fn release(&self, entry: &Entry) {
        match entry.backing {
            Backing::Journal { spare, .. } if entry.leftover == Leftover::Never => self.spares.give(spare),
            // Its file became mess, or was to.
            Backing::Journal { spare, .. } => self.spares.leave(spare),
            Backing::Todo => (),
        }
    }
}
