//! The service behind the control socket.
//!
//! Owns: the socket and its connections.   Asks: svscan, the queue.   Asked by: nobody.
//! Dies when: the socket fails.   After a restart: takes the same socket, so that callers wait in its backlog; a caller that was
//! cut off asks again.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mailtree_actors::service::{StartError, Started};
use mailtree_protocols::svc::{self, Letter};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::{MAX_REQUEST, Reply, Request, SOCKET, ShortPath, run_dir};
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
/// Connections that the kernel lets wait.
const BACKLOG: u32 = 128;
/// The name of the socket before it is ready.
const DRAFT: &str = ".control.sock";
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
    let kept = Kept::default();
    ServiceSpec {
        name: NAME.to_owned(),
        start: Arc::new(move |supervise| {
            let (home, tree, queue) = (home.clone(), tree.clone(), Arc::clone(&queue));
            let arguments = Arguments { home, tree, queue, kept: kept.clone() };
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
    home: PathBuf,
    tree: Tree,
    queue: Queue,
    kept: Kept,
}

/// The socket that a service which died has left to the next one, which the accept loop of the dead one may still hold.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<Bound>>>);

struct Bound {
    listener: std::os::unix::net::UnixListener,
    /// Device and inode of its name: somebody may have removed that.
    name: (u64, u64),
}

impl Kept {
    /// The socket that is there already, or a new one.
    fn listen(&self, run: &Path) -> io::Result<UnixListener> {
        let path = run.join(SOCKET);
        let name = || std::fs::symlink_metadata(&path).map(|meta| (meta.dev(), meta.ino()));
        let mut kept = self.lock();
        if !kept.as_ref().is_some_and(|bound| name().is_ok_and(|name| name == bound.name)) {
            // A socket without its name is closed first: nobody can reach it.
            *kept = None;
            let listener = bind(run)?;
            *kept = Some(Bound { listener, name: name()? });
        }
        match &*kept {
            Some(bound) => UnixListener::from_std(bound.listener.try_clone()?),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Nobody is listened to any more.
    fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bound>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The accept loop owns the connections, and this owns the accept loop: all end with it.
struct State {
    accept: JoinSet<()>,
    stop: Arc<Notify>,
    kept: Kept,
    socket: PathBuf,
}

enum Message {
    /// The accept loop is over.
    Ended,
}

impl Actor for Control {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { home, tree, queue, kept } = arguments;
        let run = run_dir(&home);
        let listener = kept.listen(&run).map_err(|error| {
            StartError::Temporary(format!("unable to bind {}: {error}", run.join(SOCKET).display()))
        })?;
        let mut accept = JoinSet::new();
        let stop = Arc::new(Notify::new());
        let (ended, stopped) = (Ended(myself), Arc::clone(&stop));
        accept.spawn(async move {
            serve(listener, &stopped, tree, queue).await;
            drop(ended);
        });
        Ok(State { accept, stop, kept, socket: run.join(SOCKET) })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ended => Err("the control socket's accept loop ended".into()),
        }
    }

    /// `svc -t control` is answered before its own connection ends.
    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.kept.close();
        state.stop.notify_one();
        while state.accept.join_next().await.is_some() {}
        // Only tidiness: a socket that nobody answers is replaced by the next start.
        if let Err(error) = std::fs::remove_file(&state.socket) {
            tracing::warn!("warning: unable to unlink {}: {error}", state.socket.display());
        }
        Ok(())
    }
}

/// Reports the end of the accept loop, a panic's too.
struct Ended(ActorRef<Message>);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.cast(Message::Ended));
    }
}

/// The socket appears under its name only when it is bound, and it is closed to others before: its mode is that of its
/// descriptor. No directory is made for it: the host must be commanded on a disk that has no block left.
fn bind(run: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let short = ShortPath::of(run)?;
    let (draft, path) = (short.join(DRAFT), short.join(SOCKET));
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers there"));
    }
    // Whoever holds `run/lock` is alone here: it is the rest of a start that was killed.
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => (),
    }
    let socket = UnixSocket::new_stream()?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    socket.bind(&draft)?;
    let listener = socket.listen(BACKLOG)?;
    std::fs::rename(&draft, &path)?;
    listener.into_std()
}

/// Serves until told to stop; then nobody new, and those within to their end.
async fn serve(listener: UnixListener, stop: &Notify, tree: Tree, queue: Queue) {
    let mut connections = JoinSet::new();
    let accept = accept(&listener, &mut connections, &tree, &queue);
    tokio::select! {
        () = stop.notified() => {}
        () = accept => {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept(listener: &UnixListener, connections: &mut JoinSet<()>, tree: &Tree, queue: &Queue) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let turns = Arc::new(Semaphore::new(REQUESTS));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (tree, queue, turns) = (tree.clone(), Arc::clone(queue), Arc::clone(&turns));
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
