//! How a command hands a message to the queue: through a qmail-queue process, which `$QMAILQUEUE` names or which is this
//! program itself (qmail.c, qmail-queue.8).
//!
//! The message is given on the process's descriptor 0, then the envelope on 1; a text of its own is heard on 4 and 6.
//! Nothing is queued unless [`Envelope::close`] says so: whatever is dropped before leaves an envelope without its end,
//! which qmail-queue refuses.

use std::ffi::OsString;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command};

use command_fds::{CommandFdExt as _, FdMapping};
use mailtree_protocols::envelope::MAX_ADDRESS;
use mailtree_protocols::qmail_queue::{MAX_CUSTOM, outcome};
use mailtree_protocols::reply::Refusal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Bytes gathered before they are written.
const BUFFER: usize = 16 * 1024;

/// A qmail-queue process that is being given a message.
pub(crate) struct Message(Queue);

/// A qmail-queue process that has its message and is being given the envelope.
pub(crate) struct Envelope(Queue);

struct Queue {
    /// None if it could not be executed.
    process: Option<Process>,
    buffer: Vec<u8>,
    /// Something was not written, or must not count: the envelope gets no end.
    failed: bool,
    /// Why no process could have taken it.
    refusal: Option<Refusal>,
}

struct Process {
    child: Child,
    pidfd: OwnedFd,
    message: Option<PipeWriter>,
    envelope: Option<PipeWriter>,
    /// Descriptor 6, then 4.
    texts: [Text; 2],
}

/// What the process says in its own words.
struct Text {
    /// None at its end, and when no more of it counts.
    pipe: Option<PipeReader>,
    said: Vec<u8>,
}

/// Starts what `$QMAILQUEUE` names, in `home` as qmail does, or else this program as `qmail-queue` for `home`.
///
/// # Errors
/// When there are no processes or descriptors left. A program that cannot be executed is [`Envelope::close`]'s to tell.
pub(crate) fn open(home: &Path) -> io::Result<Message> {
    let home = std::path::absolute(home)?;
    match std::env::var_os("QMAILQUEUE").filter(|program| !program.is_empty()) {
        Some(program) => start(replacement(program, &home)),
        None => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg0("qmail-queue").env("MAILTREE_HOME", home);
            start(command)
        }
    }
}

/// A relative path is one of `home`, as in qmail.
fn replacement(program: OsString, home: &Path) -> Command {
    let mut command = Command::new(home.join(program));
    command.current_dir(home);
    command
}

fn start(mut command: Command) -> io::Result<Message> {
    let (message, writer) = io::pipe()?;
    let (envelope, envelope_writer) = io::pipe()?;
    let (six, six_writer) = text_pipe()?;
    let (four, four_writer) = text_pipe()?;
    // Written only as fast as the process reads, and while it is heard.
    for writer in [&writer, &envelope_writer] {
        rustix::io::ioctl_fionbio(writer, true)?;
    }
    command.stdin(message).stdout(envelope);
    let mappings = vec![
        FdMapping { parent_fd: four_writer, child_fd: 4 },
        FdMapping { parent_fd: six_writer, child_fd: 6 },
    ];
    command.fd_mappings(mappings).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) if is_shortage(&error) => return Err(error),
        Err(_) => return Ok(Message(Queue::without_process())),
    };
    // The child's ends of the pipes go with the command, so that an end of file is one.
    drop(command);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(ErrorKind::InvalidData)?;
    let process = Process {
        pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        child,
        message: Some(writer),
        envelope: Some(envelope_writer),
        texts: [six, four],
    };
    let buffer = Vec::with_capacity(BUFFER);
    Ok(Message(Queue { process: Some(process), buffer, failed: false, refusal: None }))
}

fn text_pipe() -> io::Result<(Text, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((Text { pipe: Some(reader), said: Vec::new() }, writer.into()))
}

/// The machine's trouble, not the program's.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE))
}

impl Message {
    /// The number of the process, `qp` in logs; 0 if there is none.
    pub(crate) fn qp(&self) -> u32 {
        self.0.qp()
    }

    /// More of the message.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.0.put(bytes);
    }

    /// The message is whole. `sender` is without angle brackets.
    pub(crate) fn from(mut self, sender: &[u8]) -> Envelope {
        self.0.flush();
        if let Some(process) = &mut self.0.process {
            process.message = None;
        }
        self.0.record(b'F', sender);
        Envelope(self.0)
    }
}

impl Envelope {
    /// One more recipient, without angle brackets.
    pub(crate) fn to(&mut self, recipient: &[u8]) {
        self.0.record(b'T', recipient);
    }

    /// The message is not to be queued.
    pub(crate) fn fail(&mut self) {
        self.0.failed = true;
    }

    /// Ends the envelope and waits for the process.
    ///
    /// # Errors
    /// The refusal, with qmail's text: the message is not queued, as far as that can be known.
    pub(crate) fn close(mut self) -> Result<(), Refusal> {
        self.0.put(b"\0");
        self.0.flush();
        self.0.end()
    }
}

impl Queue {
    fn without_process() -> Self {
        Self { process: None, buffer: Vec::new(), failed: true, refusal: Some(Refusal::qq_exec()) }
    }

    fn qp(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.child.id())
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.failed {
            return;
        }
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush();
        }
        if bytes.len() >= BUFFER {
            self.write(bytes);
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// An address that no qmail-queue could take, or that would be two to it, is refused here.
    fn record(&mut self, letter: u8, address: &[u8]) {
        let refusal = match address {
            address if address.contains(&0) => Some(Refusal::qq_internal_bug()),
            address if address.len() > MAX_ADDRESS => Some(Refusal::qq_address_too_long()),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.failed = true;
            self.refusal.get_or_insert(refusal);
        }
        self.put(&[letter]);
        self.put(address);
        self.put(b"\0");
    }

    fn flush(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer);
        buffer.clear();
        self.buffer = buffer;
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.failed
            && let Some(process) = &mut self.process
            && process.write(bytes).is_err()
        {
            self.failed = true;
        }
    }

    fn end(self) -> Result<(), Refusal> {
        let Self { process, failed, refusal, .. } = self;
        let Some(process) = process else { return Err(refusal.unwrap_or_else(Refusal::qq_exec)) };
        let (exit, said) = process.end();
        let answer = match exit {
            Ok(exit) => outcome(exit, [&said[0], &said[1]]),
            Err(_) => Err(Refusal::qq_waitpid()),
        };
        match (refusal, answer) {
            (Some(refusal), _) => Err(refusal),
            // It took what was not whole.
            (None, Ok(())) if failed => Err(Refusal::qq_read_error()),
            (None, answer) => answer,
        }
    }
}

impl Process {
    /// Writes to the pipe whose turn it is, and hears what the process says meanwhile.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let pipe = self.message.as_mut().or(self.envelope.as_mut()).ok_or(ErrorKind::BrokenPipe)?;
            match pipe.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let pipe = self.message.as_ref().or(self.envelope.as_ref());
                    let pipe = pipe.ok_or(ErrorKind::BrokenPipe)?;
                    wait(&mut self.texts, pipe.as_fd(), PollFlags::OUT)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The exit code, none for death by a signal, and what was said on 6 and 4. Whoever else holds their other ends
    /// open is not waited for.
    fn end(mut self) -> (io::Result<Option<u8>>, [Vec<u8>; 2]) {
        self.message = None;
        self.envelope = None;
        let ended = loop {
            match wait(&mut self.texts, self.pidfd.as_fd(), PollFlags::IN) {
                Ok(true) => break Ok(()),
                Ok(false) => (),
                Err(error) => break Err(error),
            }
        };
        let status = ended.and_then(|()| self.child.wait());
        self.texts.iter_mut().for_each(Text::hear);
        let exit = status.map(|status| match (status.signal(), status.code()) {
            (None, Some(code)) => u8::try_from(code).ok(),
            _ => None,
        });
        (exit, self.texts.map(|text| text.said))
    }
}

/// Waits until `fd` is ready, or a text has come; whether `fd` is.
fn wait(texts: &mut [Text; 2], fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<bool> {
    let mut fds = vec![PollFd::from_borrowed_fd(fd, flags)];
    let heard = texts.iter().filter_map(|text| text.pipe.as_ref());
    fds.extend(heard.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    match poll(&mut fds, None) {
        Ok(_) => (),
        Err(rustix::io::Errno::INTR) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let ready = fds.first().is_some_and(|fd| !fd.revents().is_empty());
    if fds.iter().skip(1).any(|fd| !fd.revents().is_empty()) {
        drop(fds);
        texts.iter_mut().for_each(Text::hear);
    }
    Ok(ready)
}

impl Text {
    /// What is in the pipe now, as far as it may count. A process that has more to say finds nobody who reads it.
    fn hear(&mut self) {
        let mut bytes = [0; MAX_CUSTOM];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    let counts = read.min(MAX_CUSTOM - self.said.len());
                    self.said.extend_from_slice(&bytes[..counts]);
                    if self.said.len() == MAX_CUSTOM {
                        self.pipe = None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn give(command: Command, message: &[u8], recipients: &[&[u8]]) -> String {
        let mut queue = start(command).unwrap();
        for piece in message.chunks(50_000) {
            queue.put(piece);
        }
        let mut envelope = queue.from(b"a@x");
        recipients.iter().for_each(|recipient| envelope.to(recipient));
        match envelope.close() {
            Ok(()) => "ok".to_owned(),
            Err(refusal) => format!("{} {}", refusal.code(), refusal.text()),
        }
    }

    #[test]
    fn the_process_reads_message_and_envelope_to_their_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = shell("cat >\"$OUT\" && cat <&1 >>\"$OUT\"");
        command.env("OUT", dir.path().join("out"));
        let message = vec![b'm'; 3_000_000];
        let recipient = vec![b'r'; MAX_ADDRESS];
        assert_eq!(give(command, &message, &[recipient.as_slice(); 300]), "ok");
        let mut expected = message;
        expected.extend(b"Fa@x\0");
        for _ in 0..300 {
            expected.push(b'T');
            expected.extend(&recipient);
            expected.push(0);
        }
        expected.push(0);
        assert!(std::fs::read(dir.path().join("out")).unwrap() == expected);
    }

    #[test]
    fn the_process_decides() {
        let read = "cat >/dev/null; cat <&1 >/dev/null; ";
        for (script, said) in [
            ("", "ok"),
            ("exit 11", "554 envelope address too long for qq (#5.1.3)"),
            ("exit 31", "554 mail server permanently rejected message (#5.3.0)"),
            ("exit 53", "451 qq write error or disk full (#4.3.0)"),
            ("exit 120", "451 unable to exec qq (#4.3.0)"),
            ("kill -9 $$", "451 qq crashed (#4.3.0)"),
            ("printf 'Dspam (#5.7.1)' >&6; exit 82", "554 spam (#5.7.1)"),
            ("echo Zlater >&4; exit 82", "451 later"),
            ("echo Zsix >&6; echo Dfour >&4; exit 82", "451 six"),
            ("exit 82", "451 qq temporary problem (#4.3.0)"),
            ("exec 4>&- 6>&-; exit 71", "451 mail server temporarily rejected message (#4.3.0)"),
            ("sleep 100 & echo Dleft >&4; exit 82", "554 left"),
        ] {
            let begin = Instant::now();
            assert_eq!(
                give(shell(&format!("{read}{script}")), &[b'x'; 100_000], &[b"b@y"]),
                said,
                "{script}"
            );
            assert!(begin.elapsed() < Duration::from_secs(20), "{script}");
        }
        assert_eq!(give(Command::new("/nonexistent/qq"), b"m", &[b"b@y"]), "451 unable to exec qq (#4.3.0)");
    }

    #[test]
    fn a_process_that_does_not_read_is_no_success() {
        let large = vec![b'x'; 200_000];
        assert_eq!(give(shell("exit 0"), &large, &[b"b@y"]), "451 qq read error (#4.3.0)");
        assert_eq!(
            give(shell("exit 31"), &large, &[b"b@y"]),
            "554 mail server permanently rejected message (#5.3.0)"
        );
    }

    #[test]
    fn a_process_that_says_much_before_it_reads_holds_nobody_up() {
        let script = "trap '' PIPE; yes Dno 2>/dev/null | head -c 300000 >&6; \
                      yes Dno 2>/dev/null | head -c 300000 >&4; cat >/dev/null; cat <&1 >/dev/null; exit 82";
        let said = give(shell(script), &vec![b'x'; 1_000_000], &[b"b@y"]);
        assert!(said.starts_with("554 no?") || said.starts_with("554 no\n"), "{said}");
    }

    #[test]
    fn what_is_not_closed_has_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = "cat >/dev/null; cat <&1 >\"$OUT\"; exit 0";
        let mut command = shell(script);
        command.env("OUT", &out);
        let mut envelope = start(command).unwrap().from(b"a@x");
        envelope.to(b"b@y");
        envelope.fail();
        assert_eq!(envelope.close(), Err(Refusal::qq_read_error()));
        assert!(!std::fs::read(&out).unwrap().ends_with(b"\0\0"));

        let mut command = shell(script);
        command.env("OUT", &out);
        assert_eq!(
            give(command, b"m", &[b"b@y", &[b'l'; MAX_ADDRESS + 1]]),
            "554 envelope address too long for qq (#5.1.3)"
        );
        assert!(!std::fs::read(&out).unwrap().ends_with(b"\0\0"));
        assert_eq!(give(shell(script), b"m", &[b"b\0Tc"]), "451 qq internal bug (#4.3.0)");
    }

    #[test]
    fn a_relative_replacement_is_one_of_the_home() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/true", dir.path().join("qq")).unwrap();
        let command = replacement("qq".into(), dir.path());
        assert_eq!(Path::new(command.get_program()), dir.path().join("qq"));
        assert_eq!(command.get_current_dir(), Some(dir.path()));
    }
}
