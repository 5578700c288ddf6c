//! The service behind the control socket.
//!
//! Owns: the socket and its connections.   Asks: svscan, the queue.   Asked by: nobody.
//! Dies when: the socket fails.   After a restart: takes the same socket, so that callers wait in its backlog; a caller that was
//! cut off asks again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mailtree_actors::listen::unix::{Accepting, Socket};
use mailtree_actors::service::Started;
use mailtree_protocols::svc::{self, Letter};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rustix::fs::Mode;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{MAX_REQUEST, Reply, Request, SOCKET, run_dir};
use crate::service::ServiceSpec;
use crate::status::Phase;
use crate::svscan::{Refusal, Tree};

/// What the service is called.
const NAME: &str = "control";
/// Requests answered at once; more wait.
const REQUESTS: usize = 32;
/// Connections at once that have not said their request, or wait for their turn; more wait in the kernel. They cost little, and
/// those that say nothing must not hold up those that do.
const CONNECTIONS: usize = 256;
/// Time for the request to arrive: a caller sends it as soon as it is connected.
const REQUEST: Duration = Duration::from_secs(2);
/// Time for the reply to leave.
const REPLY: Duration = Duration::from_secs(10);
/// Rest after a failed accept, which is lack of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Answers [`Request::Queue`].
pub type Queue = Arc<dyn Fn(serde_json::Value) -> BoxFuture<'static, serde_json::Value> + Send + Sync>;

/// The control socket of `home` as a service named `control`.
pub fn service(home: PathBuf, tree: Tree, queue: Queue) -> ServiceSpec {
    let socket = Arc::new(Socket::new(run_dir(&home), SOCKET, Mode::RUSR | Mode::WUSR));
    ServiceSpec {
        name: NAME.to_owned(),
        start: Arc::new(move |supervise| {
            let arguments =
                Arguments { tree: tree.clone(), queue: Arc::clone(&queue), socket: Arc::clone(&socket) };
            Box::pin(async move {
                let (control, _) = Control::spawn_linked(None, Control, arguments, supervise).await?;
                Ok(Started::deaf(control.get_cell()))
            })
        }),
        grace: Duration::from_secs(2),
        start_timeout: Duration::from_secs(10),
        normally_down: false,
        troubles: ServiceSpec::untroubled(),
    }
}

struct Control;

struct Arguments {
    tree: Tree,
    queue: Queue,
    socket: Arc<Socket>,
}

enum Message {
    /// The accept loop is over.
    Ended,
}

impl Actor for Control {
    type Msg = Message;
    type State = Accepting;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<Accepting, ActorProcessingErr> {
        let Arguments { tree, queue, socket } = arguments;
        let ended = move || drop(myself.cast(Message::Ended));
        Ok(Accepting::start(socket, ended, move |listener, connections| {
            Box::pin(accept(listener, connections, tree, queue))
        })?)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        _: &mut Accepting,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ended => Err("the control socket's accept loop ended".into()),
        }
    }

    /// `svc -t control` is answered before its own connection ends.
    async fn post_stop(&self, _: ActorRef<Message>, state: &mut Accepting) -> Result<(), ActorProcessingErr> {
        state.stop().await;
        state.socket().unlink();
        Ok(())
    }
}

async fn accept(listener: &UnixListener, connections: &mut JoinSet<()>, tree: Tree, queue: Queue) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let turns = Arc::new(Semaphore::new(REQUESTS));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (tree, queue, turns) = (tree.clone(), Arc::clone(&queue), Arc::clone(&turns));
                connections.spawn(async move {
                    if let Err(error) = converse(stream, &turns, &tree, &queue).await {
                        tracing::debug!(%error, "control: connection failed: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control: unable to accept: {error}");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, turns: &Semaphore, tree: &Tree, queue: &Queue) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(MAX_REQUEST as u64 + 1));
    let read = tokio::time::timeout(REQUEST, read.read_until(b'\n', &mut line));
    let read = read.await;
    let _turn = turns.acquire().await.map_err(io::Error::other)?;
    let reply = match read {
        Err(_) => Reply::Error(format!("no request within {} s", REQUEST.as_secs())),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(_)) if line.len() > MAX_REQUEST => {
            Reply::Error(format!("request longer than {MAX_REQUEST} bytes"))
        }
        Ok(Ok(_)) if line.last() != Some(&b'\n') => {
            Reply::Error("request does not end with a newline".to_owned())
        }
        Ok(Ok(_)) => match serde_json::from_slice(&line) {
            Ok(request) => answer(request, tree, queue).await,
            Err(error) => Reply::Error(format!("bad request: {error}")),
        },
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    let write = async {
        write.write_all(&line).await?;
        write.shutdown().await
    };
    tokio::time::timeout(REPLY, write).await?
}

async fn answer(request: Request, tree: &Tree, queue: &Queue) -> Reply {
    match request {
        Request::Svc { service, letters } => match svc::letters(&letters) {
            None => Reply::Error(svc::USAGE.to_owned()),
            // Nobody could bring it up again.
            Some(letters)
                if service == NAME
                    && letters.iter().any(|l| matches!(l, Letter::Down | Letter::Once | Letter::Exit)) =>
            {
                Reply::Error(format!("{NAME} hears what svc says; allowed: -u, -t, -i, -k, -h, -a, -p, -c"))
            }
            Some(letters) => match tree.svc(&service, letters).await {
                Ok(Ok(())) => Reply::Done,
                Ok(Err(refusal)) => Reply::Refused(refusal),
                Err(error) => Reply::Error(format!("svscan: {error}")),
            },
        },
        Request::Svstat {} => match tree.rows().await {
            Ok(rows) => Reply::Services { pid: std::process::id(), rows },
            Err(error) => Reply::Error(format!("svscan: {error}")),
        },
        Request::Svok { service } => match tree.rows().await {
            Ok(rows) => match rows.into_iter().find(|row| row.service == service) {
                None => Reply::Refused(Refusal::Unknown),
                Some(row) if row.state == Phase::Left => Reply::Refused(Refusal::NotRunning),
                Some(_) => Reply::Done,
            },
            Err(error) => Reply::Error(format!("svscan: {error}")),
        },
        Request::Chaos { service, supervise } => match tree.chaos(&service, supervise).await {
            Ok(Ok(victim)) => Reply::Killed(victim),
            Ok(Err(refusal)) => Reply::Refused(refusal),
            Err(error) => Reply::Error(format!("svscan: {error}")),
        },
        Request::Queue(request) => Reply::Queue(queue(request).await),
    }
}
