//! The host's side of the process that delivers with users' rights ([`super::process`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use mailtree_protocols::lspawn::{Answer, MAX, MAX_PACKETS, Order, Request};
use mailtree_protocols::queue::Dir;
use mailtree_protocols::report::{Class, Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout, timeout_at};

use super::packet::{pair, receive, send};
use super::settings::Settings;
use crate::program::memory;
use crate::queue::disk::Rights;

/// The name under which this binary is the spawner.
pub const NAME: &str = "qmail-lspawn";

/// How long the spawner may take to begin.
const BEGIN: Duration = Duration::from_secs(5);

/// How long the end of a host waits for its queue to be handed back.
const HAND_BACK: Duration = Duration::from_secs(10);

/// What a delivery may take beside the time of one program.
const BESIDE: Duration = Duration::from_secs(150);

/// Addresses of one delivery, in bytes: more than a `.qmail` file holds.
const MAX_FORWARDS: usize = 1 << 20;

/// The spawner, as the host sees it. It ends when the last of these is gone.
#[derive(Clone)]
pub struct Spawner(Arc<Inner>);

struct Inner {
    socket: OwnedFd,
    ready: OnceCell<UnixStream>,
    /// Cut off when the guard has ended.
    ended: Receiver<()>,
    deadline: Duration,
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spawner")
    }
}

/// What a delivery has come to, as far as it may be believed: it comes from a process with the rights of a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) delivered_to: Vec<u8>,
    pub(super) sender: Vec<u8>,
    pub(super) forwards: Vec<Vec<u8>>,
    pub(super) text: String,
}

impl Spawner {
    /// Starts it: this binary once more, under [`NAME`]. Before the host gives up root, if it ever has been. `lock` stays locked
    /// until it has ended.
    ///
    /// # Errors
    /// The system's.
    pub fn start(settings: &Settings, lock: Option<&File>) -> io::Result<Self> {
        let (socket, theirs) = pair()?;
        let told = memory(&serde_json::to_vec(settings)?)?;
        let files: Vec<BorrowedFd<'_>> = [Some(&told), lock].into_iter().flatten().map(AsFd::as_fd).collect();
        send(&socket, b"settings", &files, SendFlags::empty())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME).current_dir("/").env_clear().stdin(theirs).stdout(Stdio::null());
        let child = command.spawn()?;
        let ended = reap(child);
        Ok(Self(Arc::new(Inner {
            ended,
            socket,
            ready: OnceCell::new(),
            deadline: settings.limits.deadline + BESIDE,
        })))
    }

    /// Ends it, and waits until a queue of others is as it was found. Deliveries that have begun see it, too.
    pub fn end(&self) {
        rustix::net::shutdown(&self.0.socket, Shutdown::Both).unwrap_or(());
        self.0.ended.recv_timeout(HAND_BACK).unwrap_or(());
    }

    /// Has a message delivered: what came of it.
    pub(super) async fn deliver(&self, request: &Request, message: File) -> Result<Delivered, Report> {
        let trouble = |error: &dyn std::fmt::Display| {
            tracing::warn!("warning: qmail-lspawn: {error}");
            Report::deferral("Unable to run qmail-local.\n")
        };
        let packet = Order::Deliver(request.clone())
            .encode()
            .ok_or_else(|| trouble(&"an address that is too long"))?;
        let (answers, theirs) = pair().map_err(|error| trouble(&error))?;
        let deadline = Instant::now() + BEGIN;
        let sent = timeout_at(deadline, self.send(&packet, &message, &theirs)).await;
        drop((theirs, message));
        match sent {
            Ok(Ok(())) => (),
            Ok(Err(error)) => return Err(trouble(&error)),
            Err(_) => return Err(trouble(&"it takes no requests")),
        }
        let answers = registered(answers).map_err(|error| trouble(&error))?;
        match timeout_at(deadline, next(&answers)).await {
            Ok(Ok(Some(Answer::Begun))) => (),
            Ok(Ok(_)) => return Err(trouble(&"it died")),
            Ok(Err(error)) => return Err(trouble(&error)),
            Err(_) => return Err(trouble(&"it does not answer")),
        }
        match timeout(self.0.deadline, outcome(&answers)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Report::deferral("qmail-local has not ended in time. (#4.3.0)\n")),
        }
    }

    async fn send(&self, packet: &[u8], message: &File, answers: &OwnedFd) -> io::Result<()> {
        let socket = self.0.ready.get_or_try_init(|| async { registered(self.0.socket.try_clone()?) });
        let socket = socket.await?;
        let files = [message.as_fd(), answers.as_fd()];
        socket.async_io(Interest::WRITABLE, || send(socket, packet, &files, SendFlags::DONTWAIT)).await
    }
}

impl Rights for Spawner {
    fn give(&self, file: &File, dir: Dir) -> io::Result<()> {
        self.ask(&Order::Give(dir), file)
    }

    fn set_mtime(&self, file: &File, micros: u64) -> io::Result<()> {
        self.ask(&Order::SetMtime(micros), file)
    }
}

impl Spawner {
    /// Has something done to a file, and waits for it.
    fn ask(&self, order: &Order, file: &File) -> io::Result<()> {
        let packet = order.encode().ok_or(io::ErrorKind::InvalidInput)?;
        let (answers, theirs) = pair()?;
        ready(&self.0.socket, PollFlags::OUT)?;
        send(&self.0.socket, &packet, &[file.as_fd(), theirs.as_fd()], SendFlags::DONTWAIT)?;
        drop(theirs);
        ready(&answers, PollFlags::IN)?;
        let mut buffer = vec![0; MAX];
        match receive(&answers, &mut buffer, RecvFlags::DONTWAIT)? {
            Some((length, _)) => match Answer::decode(&buffer[..length]) {
                Ok(Answer::Report(Class::Success, _)) => Ok(()),
                Ok(Answer::Report(_, text)) => {
                    Err(io::Error::other(String::from_utf8_lossy(&text).into_owned()))
                }
                _ => Err(io::ErrorKind::InvalidData.into()),
            },
            None => Err(io::Error::other("qmail-lspawn died")),
        }
    }
}

/// Waits until a socket is ready, not for ever.
fn ready(socket: &OwnedFd, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(socket, what)], Timespec::try_from(BEGIN).ok().as_ref())? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// A socket for the runtime, which waits for every kind of them alike.
fn registered(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The guard is a child of the host's and not left as a zombie: cut off when it has ended.
fn reap(mut child: Child) -> Receiver<()> {
    let (lives, ended) = bounded(0);
    let waiting = std::thread::Builder::new().name("lspawn".into()).spawn(move || {
        drop(child.wait());
        drop::<Sender<()>>(lives);
    });
    if let Err(error) = waiting {
        tracing::warn!("warning: unable to start a thread: {error}");
    }
    ended
}

async fn next(answers: &UnixStream) -> io::Result<Option<Answer>> {
    let mut buffer = vec![0; MAX];
    let received =
        answers.async_io(Interest::READABLE, || receive(answers, &mut buffer, RecvFlags::DONTWAIT));
    // Open files that come along are of no use to anybody.
    let Some((length, _)) = received.await? else { return Ok(None) };
    Answer::decode(&buffer[..length]).map(Some).map_err(io::Error::other)
}

async fn outcome(answers: &UnixStream) -> Result<Delivered, Report> {
    let crashed = || Report::deferral("qmail-local crashed.\n");
    let mut delivered =
        Delivered { delivered_to: Vec::new(), sender: Vec::new(), forwards: Vec::new(), text: String::new() };
    let mut room = MAX_FORWARDS;
    for _ in 0..MAX_PACKETS {
        match next(answers).await {
            Ok(Some(Answer::DeliveredTo(address))) => delivered.delivered_to = address,
            Ok(Some(Answer::Sender(address))) => delivered.sender = address,
            Ok(Some(Answer::Forward(address))) => {
                let Some(left) = room.checked_sub(address.len()) else { break };
                room = left;
                delivered.forwards.push(address);
            }
            Ok(Some(Answer::Report(class, text))) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                return match class {
                    Class::Success => Ok(Delivered { text, ..delivered }),
                    Class::Deferral => Err(Report::deferral(text)),
                    Class::Failure => Err(Report::failure(text)),
                };
            }
            Ok(Some(Answer::Begun) | None) => return Err(crashed()),
            Err(error) => {
                tracing::warn!("warning: qmail-local: {error}");
                return Err(crashed());
            }
        }
    }
    Err(crashed())
}
