//! The actor of qmail-queue: opens the journal, keeps the threads, gives out the right to hand messages in, and looks after
//! room and age.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mailtree_protocols::received::Invoker;
use metrics::{Counter, Histogram};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinSet;

use super::opening::Size;
use super::reception::{CHUNK, Caller, Limits, Reception};
use super::sync::DiskThreads;
use super::{Queue, Refused, checkpoint};
use crate::answer::answer;
use crate::permit::Permits;
use crate::service::{Control, StartError};

/// How often the free space is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often it is looked for messages to be written out.
const WRITE_OUT: Duration = Duration::from_millis(500);
/// How often numbers that nobody needed are given up.
const SURPLUS: Duration = Duration::from_secs(10);

/// Rest after messages that could not be written out: they are safe in the journal, and a full disk is named often enough.
const WRITE_OUT_REST: Duration = Duration::from_secs(5);

/// Memory for messages being received, beyond the first chunk of each, in bytes.
const RECEIVING_MEMORY: usize = 32 * 1024 * 1024;

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
    /// Whether there is a journal in front of qmail's files.
    pub journal: bool,
    /// Size of one of its segments, in bytes.
    pub segment: u64,
    /// How many segments there may be.
    pub segments: usize,
    /// Unfinished messages of this age are nobody's when the host starts.
    pub unfinished: Duration,
}

/// Its state.
pub struct State {
    arguments: Arguments,
    receiving: Permits,
    limits: Limits,
    threads: Arc<DiskThreads>,
    full: bool,
    /// Writing out; ends with the actor.
    tasks: JoinSet<()>,
}

/// What it hears.
pub enum Message {
    /// Somebody has a message to hand in.
    Open {
        /// Who, for the trace line.
        invoker: Invoker,
        /// Whose message it is, if it is not the host's own.
        caller: Option<Caller>,
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

/// What is counted of accepted messages.
pub(super) struct Accepting {
    pub(super) seconds: Histogram,
    pub(super) messages: Counter,
    pub(super) bytes: Counter,
}

impl Accepting {
    pub(super) fn get() -> &'static Self {
        static ACCEPTING: OnceLock<Accepting> = OnceLock::new();
        ACCEPTING.get_or_init(|| Self {
            seconds: metrics::histogram!("mailtree_queue_commit_seconds"),
            messages: metrics::counter!("mailtree_queue_accepted_messages_total"),
            bytes: metrics::counter!("mailtree_queue_accepted_bytes_total"),
        })
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
        let failed: Arc<dyn Fn(String) + Send + Sync> = {
            let myself = myself.clone();
            Arc::new(move |cause| drop(myself.cast(Message::SyncFailed(cause))))
        };
        let queue = arguments.queue.clone();
        let disk = Arc::clone(queue.disk());
        let threads = DiskThreads::start(disk, arguments.disk_threads, Arc::clone(&failed))
            .map_err(|error| StartError::Temporary(format!("unable to start disk threads: {error}")))?;
        let threads = Arc::new(threads);
        queue.0.threads.store(Some(Arc::clone(&threads)));
        let size = Size { segment: arguments.segment, segments: (2, arguments.segments.max(2)) };
        let floor = arguments.free_bytes;
        queue.begin(arguments.journal, size, floor, arguments.unfinished, failed).await?;
        let receiving = Permits::new("receiving", arguments.receiving);
        let chunks = usize::try_from(arguments.receiving_bytes / CHUNK as u64).unwrap_or(usize::MAX);
        let limits = Limits {
            chunks: Permits::new("receiving-chunks", chunks.max(1)),
            memory: Permits::new("receiving-memory", RECEIVING_MEMORY / CHUNK),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let queue = queue.clone();
            async move {
                let mut ticks = tokio::time::interval(WRITE_OUT);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    if !queue.write_out_old().await {
                        tokio::time::sleep(WRITE_OUT_REST).await;
                    }
                }
            }
        });
        tasks.spawn({
            let queue = queue.clone();
            async move {
                loop {
                    tokio::time::sleep(SURPLUS).await;
                    queue.discard_surplus().await;
                }
            }
        });
        let mut state = State { arguments, receiving, limits, threads, full: false, tasks };
        state.look();
        myself.send_interval(LOOK, || Message::Look);
        queue.0.wire.connect(myself);
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Open { invoker, caller, reply } => answer(reply, state.open(invoker, caller)),
            Message::Look | Message::Control(Control::Hup) => state.look(),
            Message::SyncFailed(cause) => return Err(format!("sync failed: {cause}").into()),
            Message::Control(Control::Alarm | Control::Pause | Control::Continue) => (),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.tasks.abort_all();
        Ok(())
    }
}

impl State {
    fn open(&self, invoker: Invoker, caller: Option<Caller>) -> Result<Reception, Refused> {
        if self.full {
            return Err(Refused::Full);
        }
        let permit = self.receiving.try_acquire().ok_or(Refused::Busy)?;
        let queue = self.arguments.queue.clone();
        Ok(Reception::new(queue, invoker, caller, Arc::new(permit), self.limits.clone()))
    }

    fn look(&mut self) {
        let queue = &self.arguments.queue.0;
        // Threads of an earlier incarnation may have taken our place back when that ended.
        queue.threads.store(Some(Arc::clone(&self.threads)));
        metrics::gauge!("mailtree_queue_messages", "state" => "journal").set(queue.live.in_journal() as f64);
        let full = match queue.disk.free() {
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

impl Queue {
    /// The thread of checkpoints, started with the journal.
    pub(super) fn start_checkpoints(&self) -> std::io::Result<()> {
        let queue = Arc::downgrade(&self.0);
        let thread = std::thread::Builder::new().name("checkpoint".into());
        if !self.0.checkpointing.swap(true, Ordering::AcqRel) {
            thread.spawn(move || checkpoint::run(&queue))?;
        }
        Ok(())
    }
}
