//! One qmail-queue process: what it says goes into the queue.

use std::io;
use std::time::Duration;

use mailtree_protocols::qmail_queue::socket::{GO, Listener, MAX_FRAME, Said};
use mailtree_protocols::qmail_queue::{MAX_ENVELOPE, Reader, exit};
use mailtree_protocols::received::Invoker;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::uids::Connected;
use crate::permit::Permit;
use crate::queue::{Caller, Error, Reception, Refused};

/// Time for the first word: a process says it as soon as it is connected.
const FIRST: Duration = Duration::from_secs(10);

/// Time between words; a process that waits for its own message says so every 30 s.
const IDLE: Duration = Duration::from_secs(120);

/// As long as the original qmail-queue lives.
const WHOLE: Duration = Duration::from_secs(24 * 3600);

/// How long a process waits for its turn.
const TURN: Duration = Duration::from_secs(120);

/// How long a message waits for the right to be received.
const FREE: Duration = Duration::from_secs(30);

/// How long a message may take to become durable.
const COMMIT: Duration = Duration::from_secs(300);

/// Bytes of an envelope that every message may have; more are counted over all.
const ENVELOPE: usize = 64 * 1024;

/// Why nothing was queued.
enum Failed {
    /// The process is told this exit code.
    Exit(u8),
    /// It has gone, or is none; nobody is told.
    Gone,
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// The exit code that the process is to end with; none if there is nobody to tell.
pub(super) async fn run(
    stream: &mut UnixStream,
    shared: &Shared,
    connected: &Connected,
    caller: Caller,
) -> Option<u8> {
    match timeout(WHOLE, receive(stream, shared, connected, caller)).await {
        Ok(Ok(())) => Some(0),
        Ok(Err(Failed::Exit(code))) => Some(code),
        Ok(Err(Failed::Gone)) => None,
        Err(_) => Some(exit::TIMEOUT),
    }
}

async fn receive(
    stream: &mut UnixStream,
    shared: &Shared,
    connected: &Connected,
    caller: Caller,
) -> Result<(), Failed> {
    // Whoever says nothing waits for nothing and holds nothing.
    timeout(FIRST, stream.readable()).await.map_err(|_| Failed::Gone)??;
    let turn = async { (connected.message().await, shared.messages.acquire().await) };
    let _turn = timeout(TURN, turn).await.map_err(|_| Failed::Exit(exit::REFUSED))?;
    // Never waits: one byte fits.
    stream.try_write(&[GO])?;
    let mut message = Message::new(shared, caller);
    let (mut listener, mut buffer) = (Listener::default(), vec![0; MAX_FRAME]);
    loop {
        let read =
            timeout(IDLE, stream.read(&mut buffer)).await.map_err(|_| Failed::Exit(exit::TIMEOUT))??;
        if read == 0 {
            return Err(Failed::Gone);
        }
        let mut bytes = &buffer[..read];
        while let Some(said) = listener.hear(&mut bytes).map_err(|_| Failed::Exit(exit::COMMUNICATION))? {
            match said {
                Said::Message(bytes) => message.put(bytes).await?,
                Said::Envelope(bytes) => message.envelope(bytes)?,
                Said::End => {
                    drop(buffer);
                    return message.commit().await;
                }
            }
        }
    }
}

/// A message that is coming.
struct Message<'a> {
    shared: &'a Shared,
    caller: Caller,
    reception: Option<Reception>,
    reader: Reader,
    /// The right to what the envelope has beyond [`ENVELOPE`].
    memory: Vec<Permit>,
}

impl<'a> Message<'a> {
    fn new(shared: &'a Shared, caller: Caller) -> Self {
        Self { shared, caller, reception: None, reader: Reader::default(), memory: Vec::new() }
    }

    async fn put(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let reception = match &mut self.reception {
            Some(reception) => reception,
            None => self.reception.insert(open(self.shared, self.caller).await?),
        };
        reception.write(bytes).await.map_err(|error| failed(&error))
    }

    fn envelope(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let len = self.reader.bytes().len() + bytes.len();
        if len > MAX_ENVELOPE {
            tracing::warn!(
                "qmail-queue: warning: uid {}: an envelope has more than {MAX_ENVELOPE} bytes",
                self.caller.uid
            );
            return Err(Failed::Exit(exit::MEMORY));
        }
        while len > ENVELOPE * (self.memory.len() + 1) {
            let more = self.shared.envelopes.try_acquire().ok_or(Failed::Exit(exit::MEMORY))?;
            self.memory.push(more);
        }
        self.reader.push(bytes).map_err(|fault| Failed::Exit(fault.exit()))
    }

    async fn commit(self) -> Result<(), Failed> {
        let Self { shared, caller, reception, reader, memory } = self;
        let (sender, recipients) = reader.finish().ok_or(Failed::Exit(exit::READ))?;
        let reception = match reception {
            Some(reception) => reception,
            None => open(shared, caller).await?,
        };
        let accepted = timeout(COMMIT, reception.commit(sender, recipients)).await;
        drop(memory);
        match accepted {
            Ok(Ok(accepted)) => {
                let Caller { uid, pid } = caller;
                tracing::debug!(
                    msg = accepted.id.0,
                    qp = pid,
                    uid,
                    "qmail-queue: uid {uid} queued msg {} qp {pid}",
                    accepted.id.0
                );
                Ok(())
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(Failed::Exit(exit::TIMEOUT)),
        }
    }
}

/// The right to hand in a message. Whoever calls has no queue to come again from: while too many are received, he waits.
async fn open(shared: &Shared, caller: Caller) -> Result<Reception, Failed> {
    let Caller { uid, .. } = caller;
    let (until, mut rest) = (Instant::now() + FREE, Duration::from_millis(10));
    let refused = loop {
        match shared.queue.open_for(shared.invoker(uid), caller).await {
            Ok(reception) => return Ok(reception),
            Err(Refused::Busy) if Instant::now() < until => {
                sleep(rest).await;
                rest = (rest * 2).min(Duration::from_secs(1));
            }
            Err(refused) => break refused,
        }
    };
    tracing::warn!(uid, "qmail-queue: warning: uid {uid}: message refused: {refused}");
    Err(Failed::Exit(match refused {
        Refused::Full => exit::WRITE,
        Refused::Busy | Refused::Unanswered(_) => exit::REFUSED,
    }))
}

fn failed(error: &Error) -> Failed {
    tracing::error!("alert: unable to queue a message: {error}");
    Failed::Exit(match error {
        error if error.is_full() => exit::WRITE,
        Error::Sync(_) => exit::WRITE,
        Error::Io(_) | Error::NoRoom => exit::MESS,
        Error::Gone => exit::REFUSED,
    })
}

impl Shared {
    /// How the trace line names a process of this user (qmail-queue.c).
    fn invoker(&self, uid: u32) -> Invoker {
        let known = self.known.iter().find(|(known, _)| *known == uid);
        known.map_or(Invoker::Uid(uid), |(_, invoker)| *invoker)
    }
}
