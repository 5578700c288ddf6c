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
                let (begin, whole) = (Instant::now(), [&HELLO[..], &rest].concat());
                loop {
                    let Some(mut stream) = connected(home, patience)? else {
                        return into_files(files(home)?, message, envelope);
                    };
                    let heard = say(&mut stream, &[&whole]).and_then(|()| answer(&mut stream));
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

/// A host that hears no more may have said why.
fn say(stream: &mut UnixStream, parts: &[&[u8]]) -> Result<(), Exit> {
    let written = parts.iter().try_for_each(|part| stream.write_all(part));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => match answer(stream) {
            Ok(code) if code != 0 => Exit(code),
            _ => failed(&error),
        },
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixListener;

    use mailtree_protocols::qmail_queue::socket::{Listener, Said};

    use super::*;

    const SHORT: Patience = Patience {
        connect: Duration::from_millis(300),
        write: Duration::from_millis(300),
        answer: Duration::from_millis(300),
        idle: Duration::from_millis(50),
    };

    /// A home whose host is `listener`.
    fn home() -> (tempfile::TempDir, UnixListener) {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("run")).unwrap();
        let listener = UnixListener::bind(home.path().join("run").join(QMAIL_QUEUE_SOCKET)).unwrap();
        (home, listener)
    }

    fn hand_in(home: &Path, size: usize) -> Result<(), Exit> {
        let (message, envelope) = (home.join("m"), home.join("e"));
        std::fs::write(&message, vec![b'x'; size]).unwrap();
        std::fs::write(&envelope, b"Fa@x\0Tb@y\0\0").unwrap();
        let (message, envelope) = (File::open(message).unwrap(), File::open(envelope).unwrap());
        queue(message.as_fd(), envelope.as_fd(), home, SHORT)
    }

    /// Hears a process to its end; how many bytes its message has.
    fn hear(stream: &mut UnixStream) -> usize {
        let (mut listener, mut buffer, mut size) = (Listener::default(), vec![0; 1 << 20], 0);
        loop {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the process left before the end");
            let mut bytes = &buffer[..read];
            while let Some(said) = listener.hear(&mut bytes).unwrap() {
                match said {
                    Said::Message(bytes) => size += bytes.len(),
                    Said::Envelope(_) => (),
                    Said::End => return size,
                }
            }
        }
    }

    #[test]
    fn a_host_that_hangs_is_a_timeout() {
        let (home, listener) = home();
        // The kernel takes the connection, and nobody the message.
        for size in [10, 1_000_000] {
            assert_eq!(hand_in(home.path(), size), Err(Exit(exit::TIMEOUT)), "{size}");
        }
        // So many wait that the kernel takes no more.
        rustix::net::listen(&listener, 0).unwrap();
        let path = home.path().join("run").join(QMAIL_QUEUE_SOCKET);
        let address = SocketAddrUnix::new(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            if connect(&socket, &address).is_err() {
                break;
            }
            waiting.push(socket);
        }
        assert_eq!(hand_in(home.path(), 10), Err(Exit(exit::CONNECT)));
    }

    #[test]
    fn a_host_that_says_come_again_is_asked_again() {
        for size in [10, 1_000_000] {
            let (home, listener) = home();
            let host = std::thread::spawn(move || {
                for _ in 0..2 {
                    listener.accept().unwrap().0.write_all(&[BUSY]).unwrap();
                }
                let mut stream = listener.accept().unwrap().0;
                stream.write_all(&[GO]).unwrap();
                let size = hear(&mut stream);
                stream.write_all(&[0]).unwrap();
                // From here on nobody is let in.
                for stream in listener.incoming() {
                    if stream.unwrap().write_all(&[BUSY]).is_err() {
                        break;
                    }
                }
                drop(listener);
                size
            });
            assert_eq!(hand_in(home.path(), size), Ok(()));
            assert_eq!(hand_in(home.path(), size), Err(Exit(exit::REFUSED)));
            drop(host);
        }
    }

    #[test]
    fn the_hosts_answer_is_the_exit_code() {
        for size in [10, 1_000_000] {
            for (answer, exit) in [
                (Some(exit::WRITE), exit::WRITE),
                (Some(exit::FORMAT), exit::FORMAT),
                (None, exit::COMMUNICATION),
            ] {
                // Before the message has been heard, and after it.
                for early in [false, true] {
                    let (home, listener) = home();
                    let host = std::thread::spawn(move || {
                        let mut stream = listener.accept().unwrap().0;
                        stream.write_all(&[GO]).unwrap();
                        if !early {
                            assert_eq!(hear(&mut stream), size);
                        }
                        stream.write_all(answer.as_slice()).unwrap();
                    });
                    assert_eq!(hand_in(home.path(), size), Err(Exit(exit)), "{size} {answer:?} {early}");
                    host.join().unwrap();
                }
            }
        }
    }

    #[test]
    fn a_host_that_waits_hears_that_somebody_is_there() {
        let (home, listener) = home();
        let (reader, mut writer) = io::pipe().unwrap();
        let host = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            stream.write_all(&[GO]).unwrap();
            let mut heard = Vec::new();
            let idle = header(Kind::Idle, 0);
            while !heard.ends_with(&[idle, idle].concat()) {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                heard.push(byte[0]);
            }
            // Only now the message goes on.
            writer.write_all(b"rest").unwrap();
            drop(writer);
            let mut rest = vec![0; HEADER_OF_REST];
            stream.read_exact(&mut rest).unwrap();
            stream.write_all(&[0]).unwrap();
            heard.len() + rest.len()
        });
        let path = home.path().join("e");
        std::fs::write(&path, b"Fa@x\0Tb@y\0\0").unwrap();
        let envelope = File::open(path).unwrap();
        let mut first = io::Cursor::new(vec![b'x'; MAX_FRAME]);
        let (source, mut to) = io::pipe().unwrap();
        let feeder = std::thread::spawn(move || {
            io::copy(&mut first, &mut to).unwrap();
            let mut reader = reader;
            io::copy(&mut reader, &mut to).unwrap();
        });
        assert_eq!(queue(source.as_fd(), envelope.as_fd(), home.path(), SHORT), Ok(()));
        feeder.join().unwrap();
        assert!(host.join().unwrap() > MAX_FRAME);
    }

    /// `rest`, the envelope and the end, each with its header.
    const HEADER_OF_REST: usize = 5 + 4 + 5 + 11 + 5;
}
