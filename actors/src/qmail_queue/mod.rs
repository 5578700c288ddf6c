//! The service `inject` behind `run/qmail-queue.sock`: takes messages in from qmail-queue processes of any local user.
//!
//! Owns: the socket and its connections. Asks: the queue. Asked by: nobody. Dies when: the socket fails. After a
//! restart: takes the same socket, so that processes wait in its backlog; one that was cut off has handed in nothing.

mod session;
mod uids;

use std::sync::Arc;
use std::time::Duration;

use mailtree_protocols::qmail_queue::socket::BUSY;
use mailtree_protocols::received::Invoker;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::listen::unix::{Accepting, Socket};
use crate::permit::{Permit, Permits};
use crate::pid;
use crate::queue::{Caller, Queue};
use uids::{Connected, Uids};

/// Connections at once over all users; more wait in the kernel.
const CONNECTIONS: usize = 1000;

/// Rights to 64 KiB of envelopes beyond the first 64 KiB of each: 32 MiB.
const ENVELOPES: usize = 512;

/// Rest after a failed accept, which is lack of descriptors or memory.
const REST: Duration = Duration::from_millis(100);

/// Time for those within to end when the service stops.
const GOODBYE: Duration = Duration::from_secs(3);

/// The service.
pub struct QmailQueue;

/// What it needs.
#[derive(Clone)]
pub struct Arguments {
    /// Where it listens.
    pub socket: Arc<Socket>,
    /// Where messages go.
    pub queue: Queue,
    /// Messages taken in at once.
    pub messages: usize,
    /// Users that the trace line knows by what they do.
    pub known: Vec<(u32, Invoker)>,
}

/// What the connections share.
struct Shared {
    queue: Queue,
    known: Vec<(u32, Invoker)>,
    uids: Uids,
    connections: Permits,
    messages: Permits,
    envelopes: Permits,
}

/// What it hears.
pub enum Message {
    /// The accept loop is over.
    Ended,
}

impl Actor for QmailQueue {
    type Msg = Message;
    type State = Accepting;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<Accepting, ActorProcessingErr> {
        let Arguments { socket, queue, messages, known } = arguments;
        let shared = Shared {
            queue,
            known,
            uids: Uids::new(rustix::process::geteuid().as_raw()),
            connections: Permits::new("qmail-queue-connections", CONNECTIONS),
            messages: Permits::new("qmail-queue", messages.max(1)),
            envelopes: Permits::new("qmail-queue-envelopes", ENVELOPES),
        };
        for answer in ["ok", "busy", "refused", "gone"] {
            count(answer, 0);
        }
        let ended = move || drop(myself.cast(Message::Ended));
        let shared = Arc::new(shared);
        Ok(Accepting::start(socket, ended, move |listener, connections| {
            Box::pin(accept(listener, connections, shared))
        })?)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        _: &mut Accepting,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ended => Err("the accept loop of qmail-queue.sock ended".into()),
        }
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut Accepting) -> Result<(), ActorProcessingErr> {
        // Whoever comes now finds no host, and helps himself.
        state.socket().unlink();
        drop(tokio::time::timeout(GOODBYE, state.stop()).await);
        Ok(())
    }
}

/// Counts a connection by what came of it.
fn count(answer: &'static str, by: u64) {
    metrics::counter!("mailtree_qmail_queue_total", "answer" => answer).increment(by);
}

async fn accept(listener: &UnixListener, connections: &mut JoinSet<()>, shared: Arc<Shared>) {
    loop {
        let permit = shared.connections.reserve().await;
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let Some((connected, caller)) = admit(&stream, &shared) else { continue };
                let (shared, permit) = (Arc::clone(&shared), permit.begin());
                connections.spawn(serve_one(stream, shared, connected, caller, permit));
            }
            Err(error) => {
                tracing::warn!("qmail-queue: warning: unable to accept: {error}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whose process it is; none if it is not let in.
fn admit(stream: &UnixStream, shared: &Shared) -> Option<(Connected, Caller)> {
    let peer = stream.peer_cred().ok()?;
    let uid = peer.uid();
    let Some(connected) = shared.uids.connect(uid) else {
        count("busy", 1);
        // Never waits: one byte fits.
        drop(stream.try_write(&[BUSY]));
        return None;
    };
    // A process of another namespace has no number here.
    let pid = peer.pid().and_then(|pid| u64::try_from(pid).ok()).filter(|&pid| pid != 0);
    Some((connected, Caller { uid, pid: pid.unwrap_or_else(pid::next) }))
}

async fn serve_one(
    mut stream: UnixStream,
    shared: Arc<Shared>,
    connected: Connected,
    caller: Caller,
    permit: Permit,
) {
    let code = session::run(&mut stream, &shared, &connected, caller).await;
    if let Some(code) = code {
        drop(stream.try_write(&[code]));
    }
    count(
        match code {
            Some(0) => "ok",
            Some(_) => "refused",
            None => "gone",
        },
        1,
    );
    drop((connected, permit));
}
