//! qmail-queue: takes messages in and makes them durable.
//!
//! Owns: the disk threads, the permits for messages being received. Asks: nobody. Asked by: sessions, lspawn, send.
//! Dies when: a sync fails, or the queue directory is gone. After a restart: messages that were being received are gone
//! with their sessions' connections or finish on the old threads; nothing that was accepted depends on this actor.

mod blank;
pub mod crash;
pub mod disk;
mod reception;
pub mod sync;
mod trigger;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::received::Invoker;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::answer::answer;
use crate::permit::Permits;
use crate::qmail_send::ReportPort;
use crate::service::{Control, StartError};
use crate::wire::{Unanswered, Wire};
pub(crate) use disk::Route;
use disk::{Disk, Preprocessed};
pub use reception::{Accepted, Held, Reception};
use sync::{DiskThreads, Error};
pub use trigger::Trigger;

/// How long a session waits for the right to hand in a message.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the free space is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The queue as the other actors reach it, whichever incarnation serves it.
#[derive(Clone)]
pub struct Queue {
    disk: Arc<Disk>,
    wire: Wire<Message>,
    threads: Arc<ArcSwapOption<DiskThreads>>,
    trigger: Trigger,
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

impl Queue {
    /// The queue on `disk`; `trigger` tells the scheduler of new messages.
    ///
    /// # Errors
    /// When `todo` cannot be read.
    pub fn new(disk: Arc<Disk>, trigger: Trigger) -> io::Result<Self> {
        disk::todo_gauge().set(disk.todo()?.len() as f64);
        Ok(Self { disk, wire: Wire::default(), threads: Arc::default(), trigger })
    }

    /// The queue directory, for reading.
    #[must_use]
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The scheduler's wake-up.
    #[must_use]
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// The right to hand in a message.
    ///
    /// # Errors
    /// [`Refused`]: the sender has to come again later.
    pub async fn open(&self, invoker: Invoker) -> Result<Reception, Refused> {
        self.wire.call(|reply| Message::Open { invoker, reply }, OPEN_TIMEOUT).await?
    }

    fn threads(&self) -> Result<Arc<DiskThreads>, Error> {
        self.threads.load_full().ok_or(Error::Gone)
    }

    /// Preprocesses up to `limit` messages from `todo`, but not those in `except`.
    pub(crate) async fn preprocess(
        &self,
        route: Route,
        limit: usize,
        except: Arc<HashSet<MessageId>>,
    ) -> Result<Preprocessed, Error> {
        self.threads()?.run(disk::Preprocess { route, limit, except, done: Preprocessed::default() }).await
    }

    /// Notes what became of recipients.
    pub(crate) async fn settle(&self, settled: Settled) -> Result<(), Error> {
        let Settled { id, channel, done, finished, bounce, retry } = settled;
        self.threads()?.run(disk::Settle { id, channel, done, finished, bounce, retry }).await
    }

    /// Removes a settled message.
    pub(crate) async fn end(&self, id: MessageId) -> Result<(), Error> {
        self.threads()?.run(disk::End { id }).await
    }

    /// Delivers message `id` as `maildir/new/name`, with `head` above it; durable when it returns. `delivery` is
    /// held until then, even if nobody waits any more.
    pub(crate) async fn deliver(
        &self,
        id: MessageId,
        maildir: PathBuf,
        name: String,
        head: Vec<u8>,
        delivery: Arc<ReportPort>,
    ) -> Result<(), Error> {
        self.threads()?
            .run(disk::Maildir { id, maildir, name, head, file: None, _delivery: Some(delivery) })
            .await
    }
}

/// What became of recipients of one message on one channel.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) id: MessageId,
    pub(crate) channel: Channel,
    /// Offsets of the records that are done.
    pub(crate) done: Vec<u64>,
    /// Nobody is left on the channel.
    pub(crate) finished: bool,
    /// Paragraphs for the bounce.
    pub(crate) bounce: Vec<u8>,
    /// When to try the others next, in Unix seconds.
    pub(crate) retry: Option<u64>,
}

/// The service.
pub struct QmailQueue;

/// What it needs.
pub struct Arguments {
    /// Where it will be reached.
    pub queue: Queue,
    /// Messages that may be received at once.
    pub receiving: usize,
    /// Bytes of them that may be on disk at once.
    pub receiving_bytes: u64,
    /// Below so many free bytes nothing is taken in.
    pub free_bytes: u64,
    /// Below so many free inodes nothing is taken in.
    pub free_inodes: u64,
    /// Threads for the disk.
    pub disk_threads: usize,
}

/// Its state.
pub struct State {
    arguments: Arguments,
    receiving: Permits,
    chunks: Permits,
    threads: Arc<DiskThreads>,
    full: bool,
}

/// What it hears.
pub enum Message {
    /// Somebody has a message to hand in.
    Open {
        /// Who, for the trace line.
        invoker: Invoker,
        /// The right, or why not.
        reply: RpcReplyPort<Result<Reception, Refused>>,
    },
    /// Time to look at the free space.
    Look,
    /// A sync failed.
    SyncFailed(String),
    /// From `svc`.
    Control(Control),
}

impl From<Control> for Message {
    fn from(control: Control) -> Self {
        Self::Control(control)
    }
}

impl Actor for QmailQueue {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let failed = {
            let myself = myself.clone();
            Arc::new(move |cause| drop(myself.cast(Message::SyncFailed(cause))))
        };
        let disk = Arc::clone(arguments.queue.disk());
        let threads = DiskThreads::start(disk, arguments.disk_threads, failed)
            .map_err(|error| StartError::Temporary(format!("unable to start disk threads: {error}")))?;
        let threads = Arc::new(threads);
        let receiving = Permits::new("receiving", arguments.receiving);
        let chunks =
            usize::try_from(arguments.receiving_bytes / reception::CHUNK as u64).unwrap_or(usize::MAX);
        let chunks = Permits::new("receiving-chunks", chunks.max(1));
        let mut state = State { arguments, receiving, chunks, threads: Arc::clone(&threads), full: false };
        state.look();
        state.arguments.queue.threads.store(Some(threads));
        myself.send_interval(LOOK, || Message::Look);
        state.arguments.queue.wire.connect(myself);
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Open { invoker, reply } => answer(reply, state.open(invoker)),
            Message::Look | Message::Control(Control::Hup) => state.look(),
            Message::SyncFailed(cause) => return Err(format!("sync failed: {cause}").into()),
            Message::Control(Control::Alarm | Control::Pause | Control::Continue) => (),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        // A new incarnation may have filled it already.
        let ours = Some(Arc::as_ptr(&state.threads));
        let threads = &state.arguments.queue.threads;
        if threads.load().as_ref().map(Arc::as_ptr) == ours {
            threads.store(None);
        }
        Ok(())
    }
}

impl State {
    fn open(&self, invoker: Invoker) -> Result<Reception, Refused> {
        if self.full {
            return Err(Refused::Full);
        }
        let permit = self.receiving.try_acquire().ok_or(Refused::Busy)?;
        let trigger = self.arguments.queue.trigger.clone();
        let threads = Arc::clone(&self.threads);
        Ok(Reception::new(threads, trigger, invoker, Arc::new(permit), self.chunks.clone()))
    }

    fn look(&mut self) {
        let full = match self.threads.disk().free() {
            Ok((bytes, inodes)) => {
                metrics::gauge!("mailtree_queue_free_bytes").set(bytes as f64);
                metrics::gauge!("mailtree_queue_free_inodes").set(inodes as f64);
                bytes < self.arguments.free_bytes || inodes < self.arguments.free_inodes
            }
            Err(error) => {
                tracing::error!("alert: unable to read the queue's free space: {error}");
                true
            }
        };
        if full != self.full {
            if full {
                tracing::error!("alert: queue filesystem is full: refusing new messages");
            } else {
                tracing::warn!("status: queue filesystem has space again");
            }
        }
        self.full = full;
    }
}
