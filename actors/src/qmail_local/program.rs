//! A program of a `.qmail` file: `/bin/sh -c COMMAND`, the message on its standard input, in a process group of its own, with
//! nothing open but 0, 1 and 2, under limits, until it ends, its time is over, or nobody waits for the delivery any more.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mailtree_protocols::qmail_local::{Ended, MAX_REPORT};
use mailtree_protocols::report::Report;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process_group, pidfd_open,
    setrlimit, waitpid,
};
use serde::{Deserialize, Serialize};

use crate::lspawn::fork::{Forked, fork};

/// How long a program may take to end after TERM.
const GRACE: Duration = Duration::from_secs(1);

/// What one process of a delivery may use (softlimit). A limit above the hard one of this process is taken as that. There is
/// never a core file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space, bytes.
    pub memory: u64,
    /// Open descriptors.
    pub files: u64,
    /// Processes of the same user.
    pub processes: u64,
    /// Processor time, seconds.
    pub cpu: u64,
    /// From start to end.
    pub deadline: Duration,
}

impl Limits {
    /// Sets them for this process and what it becomes.
    fn set(&self) -> io::Result<()> {
        let limits = [
            (Resource::Core, 0),
            (Resource::As, self.memory),
            (Resource::Nofile, self.files),
            (Resource::Nproc, self.processes),
            (Resource::Cpu, self.cpu),
        ];
        for (resource, wanted) in limits {
            let limit = getrlimit(resource).maximum.map_or(wanted, |hard| hard.min(wanted));
            setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        }
        Ok(())
    }
}

/// What programs say: kept up to [`MAX_REPORT`] bytes, for the report.
#[derive(Debug, Default)]
pub(super) struct Said(pub(super) Vec<u8>);

impl Said {
    fn take(&mut self, bytes: &[u8]) {
        let room = MAX_REPORT.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// How a program is run.
pub(super) struct Run<'a> {
    /// For the shell.
    pub(super) command: &'a [u8],
    /// Where.
    pub(super) directory: &'a Path,
    /// All it sees.
    pub(super) environment: &'a [(&'static str, Vec<u8>)],
    /// The message.
    pub(super) message: &'a File,
    /// What it may use.
    pub(super) limits: &'a Limits,
    /// Hangs up when nobody waits any more.
    pub(super) waiting: BorrowedFd<'a>,
}

impl Run<'_> {
    /// Runs it; what it says comes into `said`.
    pub(super) fn run(&self, said: &mut Said) -> Result<Ended, Report> {
        let unable =
            |error: io::Error| Report::deferral(format!("Unable to run /bin/sh: {error}. (#4.3.0)\n"));
        (&*self.message).rewind().map_err(super::unreadable_mess)?;
        let (mut output, theirs) = io::pipe().map_err(unable)?;
        rustix::io::ioctl_fionbio(&output, true).map_err(|error| unable(error.into()))?;
        let Forked::Parent(child) = fork().map_err(unable)? else {
            let error = self.become_it(theirs);
            rustix::io::write(io::stderr(), format!("Unable to run /bin/sh: {error}. (#4.3.0)\n").as_bytes())
                .unwrap_or(0);
            crate::lspawn::fork::end(111);
        };
        drop(theirs);
        // Here too: whichever of the two comes first.
        rustix::process::setpgid(Some(child), Some(child)).unwrap_or(());
        let pidfd = pidfd_open(child, PidfdFlags::empty()).map_err(|error| unable(error.into()));
        let outcome = pidfd.map(|pidfd| self.wait(pidfd.as_fd(), &mut output, said));
        if let Ok(Outcome::Overdue | Outcome::Unwanted) = outcome {
            kill_process_group(child, Signal::TERM).unwrap_or(());
            wait_at_most(child, GRACE).unwrap_or(0);
        }
        // Its number is ours until it is reaped: what it has left in its group goes with it.
        kill_process_group(child, Signal::KILL).unwrap_or(());
        let status = waitpid(Some(child), WaitOptions::empty());
        drain(&mut output, said);
        match outcome? {
            Outcome::Ended => (),
            Outcome::Overdue => {
                let allowed = self.limits.deadline.as_secs();
                return Err(Report::deferral(format!(
                    "Program did not end within {allowed} seconds. (#4.3.0)\n"
                )));
            }
            Outcome::Unwanted => return Err(Report::deferral("qmail-local crashed.\n")),
        }
        let status = status.map_err(|error| unable(error.into()))?.map(|(_, status)| status);
        match status.and_then(|status| status.exit_status()) {
            Some(code) => Ok(Ended::with(u8::try_from(code).unwrap_or(111))),
            None => Err(Report::deferral("Aack, child crashed. (#4.3.0)\n")),
        }
    }

    /// In the child: returns only if the shell cannot be run.
    fn become_it(&self, output: io::PipeWriter) -> io::Error {
        let prepared = || -> io::Result<(Stdio, Stdio, Stdio)> {
            self.limits.set()?;
            Ok((self.message.try_clone()?.into(), output.try_clone()?.into(), output.into()))
        };
        let (stdin, stdout, stderr) = match prepared() {
            Ok(prepared) => prepared,
            Err(error) => return error,
        };
        Command::new("/bin/sh")
            .arg("-c")
            .arg(OsStr::from_bytes(self.command))
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, OsStr::from_bytes(value))))
            .current_dir(self.directory)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .exec()
    }

    fn wait(&self, child: BorrowedFd<'_>, output: &mut io::PipeReader, said: &mut Said) -> Outcome {
        let begun = Instant::now();
        let mut open = true;
        loop {
            let Some(left) = self.limits.deadline.checked_sub(begun.elapsed()) else {
                return Outcome::Overdue;
            };
            let mut fds = vec![
                PollFd::from_borrowed_fd(child, PollFlags::IN),
                PollFd::from_borrowed_fd(self.waiting, PollFlags::HUP),
            ];
            if open {
                fds.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
            }
            if poll(&mut fds, Timespec::try_from(left).ok().as_ref()).is_err() {
                continue;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] {
                return Outcome::Ended;
            }
            if ready[1] {
                return Outcome::Unwanted;
            }
            if open && ready[2] {
                open = drain(output, said);
            }
        }
    }
}

enum Outcome {
    Ended,
    Overdue,
    /// Nobody waits for it any more.
    Unwanted,
}

/// Reads what is there: false when there will be no more.
fn drain(output: &mut io::PipeReader, said: &mut Said) -> bool {
    let mut buffer = [0; 4096];
    // Not for ever: whoever writes without end is read again after a look at the rest.
    for _ in 0..256 {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            Ok(read) => said.take(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Waits until a child has ended, and does not reap it.
fn wait_at_most(child: Pid, limit: Duration) -> rustix::io::Result<usize> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Timespec::try_from(limit).ok().as_ref())
}
