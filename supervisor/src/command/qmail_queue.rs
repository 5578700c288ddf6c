//! `qmail-queue`: hands one message to the running host, or puts it into the queue's files if there is none
//! (qmail-queue.8). Its exit code is all it says.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mailtree_actors::listen::unix::ShortPath;
use mailtree_actors::queue::Alone;
use mailtree_config::Host;
use mailtree_config::host::QMAIL_QUEUE_SOCKET;
use mailtree_protocols::qmail_queue::socket::{BUSY, GO, HELLO, Kind, MAX_FRAME, header};
use mailtree_protocols::qmail_queue::{MAX_ENVELOPE, Reader, exit};
use mailtree_protocols::received::Invoker;
use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// A process of this age gives up (qmail-queue.c, DEATH).
const DEATH: Duration = Duration::from_secs(24 * 3600);

/// How long the host may take for each thing.
#[derive(Clone, Copy)]
struct Patience {
    /// To take the connection, and to let its user in.
    connect: Duration,
    /// To take what is written.
    write: Duration,
    /// To answer: the host has 120 s for the turn, 30 s for room, 300 s for the disk.
    answer: Duration,
    /// Between words to a host that waits for more of the message.
    idle: Duration,
}

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(60),
    write: Duration::from_secs(300),
    answer: Duration::from_secs(480),
    idle: Duration::from_secs(30),
};

/// Longest path that a Unix socket may have, in bytes.
const MAX_PATH: usize = 107;

/// Hands in what is on descriptors 0 and 1.
pub(super) fn run(home: &Path) -> ExitCode {
    block_signals();
    let queued = queue(io::stdin().as_fd(), io::stdout().as_fd(), home, PATIENCE);
    ExitCode::from(queued.err().map_or(0, |Exit(code)| code))
}

/// Why nothing is queued: the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exit(u8);

/// What a terminal or a shell that ends sends to everybody is no reason to leave a message half handed in
/// (qmail-queue.c, sig_miscignore).
fn block_signals() {
    use Signal::{SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGVTALRM, SIGXCPU, SIGXFSZ};
    let all = SigSet::from_iter([SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGVTALRM, SIGXCPU, SIGXFSZ]);
    // Without it the message is still whole or not there.
    all.thread_block().unwrap_or(());
}

/// Small messages are read to their end before anybody is called: then the host is kept waiting by nobody.
fn queue(
    message: BorrowedFd<'_>,
    envelope: BorrowedFd<'_>,
    home: &Path,
    patience: Patience,
) -> Result<(), Exit> {
    let mut input = Input { until: Instant::now() + DEATH, idle: patience.idle };
    let mut to = To::Unknown { home, patience };
    let mut buffer = vec![0; MAX_FRAME];
    let mut filled = 0;
    loop {
        match input.read(message, &mut buffer[filled..], &mut to)? {
            0 => break,
            read => filled += read,
        }
        if filled == buffer.len() {
            to.message(&buffer)?;
            filled = 0;
        }
    }
    let mut reader = Reader::default();
    let mut bytes = [0; 4096];
    while !reader.is_done() {
        match input.read(envelope, &mut bytes, &mut to)? {
            0 => return Err(Exit(exit::READ)),
            read => reader.push(&bytes[..read]).map_err(|fault| Exit(fault.exit()))?,
        }
        if reader.bytes().len() > MAX_ENVELOPE {
            return Err(Exit(exit::MEMORY));
        }
    }
    to.end(&buffer[..filled], reader)
}

/// Descriptors 0 and 1.
struct Input {
    until: Instant,
    idle: Duration,
}

impl Input {
    /// Some bytes; 0 at the end. A host that waits hears now and then that somebody is still there.
    fn read(&mut self, fd: BorrowedFd<'_>, buffer: &mut [u8], to: &mut To<'_>) -> Result<usize, Exit> {
        loop {
            match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timespec(self.idle))) {
                Ok(0) if Instant::now() >= self.until => return Err(Exit(exit::TIMEOUT)),
                Ok(0) => to.idle()?,
                Err(Errno::INTR) => (),
                Ok(_) | Err(_) => match rustix::io::read(fd, &mut *buffer) {
                    Ok(read) => return Ok(read),
                    Err(Errno::INTR | Errno::AGAIN) => (),
                    Err(_) => return Err(Exit(exit::READ)),
                },
            }
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
}

/// Where the message goes.
enum To<'a> {
    /// It is not known yet who is there.
    Unknown { home: &'a Path, patience: Patience },
    /// The host listens.
    Host(UnixStream),
    /// Nobody is there.
    Files(Box<Alone>),
}

impl To<'_> {
    /// More of a message that is too large to be said at once.
    fn message(&mut self, bytes: &[u8]) -> Result<(), Exit> {
        if let Self::Unknown { home, patience } = *self {
            *self = match listener(home, patience)? {
                Some(stream) => Self::Host(stream),
                None => Self::Files(Box::new(files(home)?)),
            };
        }
        match self {
            Self::Host(stream) => say(stream, &[&header(Kind::Message, bytes.len()), bytes]),
            Self::Files(files) => files.write(bytes).map_err(|failed| Exit(failed.exit)),
            Self::Unknown { .. } => Ok(()),
        }
    }

    fn idle(&mut self) -> Result<(), Exit> {
        match self {
            Self::Host(stream) => say(stream, &[&header(Kind::Idle, 0)]),
            Self::Unknown { .. } | Self::Files(_) => Ok(()),
        }
    }

    /// The rest of the message, and the envelope.
    fn end(self, message: &[u8], envelope: Reader) -> Result<(), Exit> {
        let mut rest = Vec::with_capacity(message.len() + envelope.bytes().len() + 64);
        if !message.is_empty() {
            rest.extend_from_slice(&header(Kind::Message, message.len()));
            rest.extend_from_slice(message);
        }
        for piece in envelope.bytes().chunks(MAX_FRAME) {
            rest.extend_from_slice(&header(Kind::Envelope, piece.len()));
            rest.extend_from_slice(piece);
        }
        rest.extend_from_slice(&header(Kind::End, 0));
        match self {
            Self::Host(mut stream) => {
                say(&mut stream, &[&rest])?;
                said(answer(&mut stream)?)
            }
            Self::Files(files) => into_files(*files, message, envelope),
            Self::Unknown { home, patience } => {
                let begin = Instant::now();
                loop {
                    let Some(mut stream) = connected(home, patience)? else {
                        return into_files(files(home)?, message, envelope);
                    };
                    let heard = say(&mut stream, &[&HELLO, &rest]).and_then(|()| answer(&mut stream));
                    match heard {
                        Ok(BUSY) | Err(Exit(BUSY)) => come_again(begin, patience)?,
                        Ok(code) => return said(code),
                        Err(exit) => return Err(exit),
                    }
                }
            }
        }
    }
}

/// The host's answer: 0, or the exit code.
fn said(code: u8) -> Result<(), Exit> {
    match code {
        0 => Ok(()),
        BUSY => Err(Exit(exit::REFUSED)),
        code => Err(Exit(code)),
    }
}

fn into_files(mut files: Alone, message: &[u8], envelope: Reader) -> Result<(), Exit> {
    let (sender, recipients) = envelope.finish().ok_or(Exit(exit::READ))?;
    let written = files.write(message).and_then(|()| files.commit(sender, recipients));
    written.map_err(|failed| Exit(failed.exit))
}

/// The queue of a host that is down.
fn files(home: &Path) -> Result<Alone, Exit> {
    if !home.is_dir() {
        return Err(Exit(exit::HOME));
    }
    let host = Host::load(home).map_err(|_| Exit(55))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o033));
    let uid = rustix::process::getuid().as_raw();
    let known = known_users().into_iter().find(|(known, _)| *known == uid);
    let invoker = known.map_or(Invoker::Uid(uid), |(_, invoker)| invoker);
    Alone::open(&host.paths().queue, invoker).map_err(|failed| Exit(failed.exit))
}

/// The users that the trace line knows by what they do (qmail-queue.c).
pub(crate) fn known_users() -> Vec<(u32, Invoker)> {
    let roles = [("alias", Invoker::Alias), ("qmaild", Invoker::Network), ("qmails", Invoker::Bounce)];
    let uid = |name| nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    roles.into_iter().filter_map(|(name, invoker)| Some((uid(name)?, invoker))).collect()
}

/// A host that listens to this process now; none if there is no host.
fn listener(home: &Path, patience: Patience) -> Result<Option<UnixStream>, Exit> {
    let begin = Instant::now();
    loop {
        let Some(mut stream) = connected(home, patience)? else { return Ok(None) };
        match say(&mut stream, &[&HELLO]).and_then(|()| word(&mut stream)) {
            Ok(GO) => return Ok(Some(stream)),
            Ok(BUSY) | Err(Exit(BUSY)) => come_again(begin, patience)?,
            Ok(code) => return Err(said(code).err().unwrap_or(Exit(exit::COMMUNICATION))),
            Err(exit) => return Err(exit),
        }
    }
}

/// A connection to the host; none if there is no host.
fn connected(home: &Path, patience: Patience) -> Result<Option<UnixStream>, Exit> {
    let begin = Instant::now();
    loop {
        match call(home) {
            Ok(stream) => {
                let set = stream
                    .set_nonblocking(false)
                    .and_then(|()| stream.set_write_timeout(Some(patience.write)))
                    .and_then(|()| stream.set_read_timeout(Some(patience.answer)));
                return set.map(|()| Some(stream)).map_err(|_| Exit(exit::COMMUNICATION));
            }
            // So many wait already.
            Err(Errno::AGAIN) if begin.elapsed() < patience.connect => rest(),
            Err(Errno::AGAIN) => return Err(Exit(exit::CONNECT)),
            Err(Errno::INTR) => (),
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR | Errno::ACCESS | Errno::NOTSOCK) => {
                return Ok(None);
            }
            Err(_) => return Err(Exit(exit::COMMUNICATION)),
        }
    }
}

/// Never waits.
fn call(home: &Path) -> Result<UnixStream, Errno> {
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let directory = home.join("run");
    let mut path: PathBuf = directory.join(QMAIL_QUEUE_SOCKET);
    let short = if path.as_os_str().as_bytes().len() > MAX_PATH {
        let short = ShortPath::of(&directory).map_err(errno)?;
        path = short.join(QMAIL_QUEUE_SOCKET);
        Some(short)
    } else {
        None
    };
    let address = SocketAddrUnix::new(&path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    drop(short);
    Ok(UnixStream::from(socket))
}

/// The user has too many processes with the host.
fn come_again(begin: Instant, patience: Patience) -> Result<(), Exit> {
    if begin.elapsed() >= patience.connect {
        return Err(Exit(exit::REFUSED));
    }
    rest();
    Ok(())
}

/// A short while, not the same for all who wait.
fn rest() {
    let time = Duration::from_millis(20 + u64::from(std::process::id() % 60));
    poll(&mut [], Some(&timespec(time))).unwrap_or(0);
}

/// What cannot be said any more is no matter if the host has answered already.
fn say(stream: &mut UnixStream, parts: &[&[u8]]) -> Result<(), Exit> {
    let written = parts.iter().try_for_each(|part| stream.write_all(part));
    written.map_err(|error| match word(stream) {
        Ok(code) if code != GO && code != 0 => Exit(code),
        _ => failed(&error),
    })
}

/// The next word of the host.
fn word(stream: &mut UnixStream) -> Result<u8, Exit> {
    let mut byte = [0];
    match stream.read_exact(&mut byte) {
        Ok(()) => Ok(byte[0]),
        Err(error) => Err(failed(&error)),
    }
}

fn answer(stream: &mut UnixStream) -> Result<u8, Exit> {
    loop {
        match word(stream)? {
            GO => (),
            code => return Ok(code),
        }
    }
}

fn failed(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Exit(exit::TIMEOUT),
        _ => Exit(exit::COMMUNICATION),
    }
}
