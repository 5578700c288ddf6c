//! Programs of the administrator, run by actors: an environment of its own, no descriptors but those given, limits, a
//! deadline, and an end of all its processes.
//!
//! A program leads its own process group. When it has ended, when its deadline is over or when the future that waits
//! for it is dropped, what is left of the group is killed: nothing a program has left in the background goes on. Only
//! what moved to a group of its own, by `setsid`, escapes; nobody waits for it.

pub mod checkpassword;
mod group;
mod output;
pub mod qmail_queue;
pub mod spp;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Resource, Signal, getrlimit};
use tokio::net::unix::pipe;

use group::Group;
use output::Output;

/// Variables a program sees besides `PATH`, which it has from this process unless it is given here. A variable whose
/// name is not one for the shell may be lost, and so are `PWD`, `OLDPWD` and `SHLVL`.
pub type Environment = [(OsString, OsString)];

/// How long a program may take to end after TERM, and to die after KILL.
const GRACE: Duration = Duration::from_secs(1);

/// `PATH` for a program when this process has none.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Sets the limits and becomes the program. A shell does it because a limit set from outside, on a child that already
/// runs, comes too late for what the child has begun by then. It also turns a program that cannot be executed into exit
/// code 126 or 127, never into one that a program could mean. Nothing but numbers and arguments is inserted.
const SHELL: &str = "ulimit -c 0 && ulimit -v \"$1\" && ulimit -t \"$2\" && ulimit -f \"$3\" && ulimit -n \"$4\" \
                     || exit 120; shift 4; unset PWD OLDPWD SHLVL; exec \"$@\"";

/// What one process of a program may use. A limit above the hard one of this process is taken as that. There is never
/// a core file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Address space, bytes.
    pub address_space: u64,
    /// Processor time, seconds.
    pub cpu: u64,
    /// Largest file it writes, bytes.
    pub file_size: u64,
    /// Open descriptors.
    pub open_files: u64,
}

impl Default for Limits {
    /// 2 GiB, 300 seconds, 1 GiB, 256.
    fn default() -> Self {
        Self { address_space: 2 << 30, cpu: 300, file_size: 1 << 30, open_files: 256 }
    }
}

impl Limits {
    /// The default limits with this address space in bytes; 0: no limit of ours.
    #[must_use]
    pub fn memory(bytes: u64) -> Self {
        Self { address_space: if bytes == 0 { u64::MAX } else { bytes }, ..Self::default() }
    }

    /// The numbers of [`SHELL`]: KiB, seconds, 512-byte blocks, descriptors.
    fn arguments(self) -> [String; 4] {
        let number = |limit: u64, resource, unit: u64| {
            let hard = getrlimit(resource).maximum.unwrap_or(u64::MAX);
            (limit.min(hard) / unit).to_string()
        };
        [
            number(self.address_space, Resource::As, 1024),
            number(self.cpu, Resource::Cpu, 1),
            number(self.file_size, Resource::Fsize, 512),
            number(self.open_files, Resource::Nofile, 1),
        ]
    }
}

/// A program with its arguments: what to run, not a run of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    directory: PathBuf,
    limits: Limits,
}

/// Why a program has no exit status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It could not be started: no process, no descriptor, no such directory, NUL in an argument or a variable.
    #[error("unable to start {program}: {error}")]
    Start {
        /// Its path.
        program: String,
        /// What the system said.
        error: String,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {allowed:?}")]
    Deadline {
        /// Its path.
        program: String,
        /// Its time.
        allowed: Duration,
    },
    /// It could not be waited for.
    #[error("unable to wait for {program}: {error}")]
    Wait {
        /// Its path.
        program: String,
        /// What the system said.
        error: String,
    },
}

impl Program {
    /// The program at `path`, without arguments, run in `/` with the default limits. A path without slash is looked up
    /// in `PATH`; any other relative one is seen from the directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), arguments: Vec::new(), directory: "/".into(), limits: Limits::default() }
    }

    /// With these arguments, from `argv[1]` on.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Run in this directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// With these limits.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it and waits for its end, at most `deadline` and two seconds more. The child has the descriptors given, and
    /// of 0, 1 and 2 what is not given is `/dev/null` for 0 and the log for 1 and 2. Exit codes 126 and 127 mean that
    /// it could not be executed.
    ///
    /// # Errors
    /// [`Failure`]. Everything it has started is dead then.
    pub async fn run(
        &self,
        environment: &Environment,
        descriptors: Vec<FdMapping>,
        deadline: Duration,
    ) -> Result<ExitStatus, Failure> {
        let program = || self.path.display().to_string();
        let start = |error: io::Error| Failure::Start { program: program(), error: error.to_string() };

        let (reader, writer) = io::pipe().map_err(start)?;
        let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(start)?;
        let command = self.command(environment, descriptors, writer).map_err(start)?;
        let mut group = Group::spawn(command).map_err(start)?;
        let mut output = Output::new(reader, program(), group.leader());

        let in_time = group.ended(&mut output, deadline).await;
        if !in_time {
            group.signal(Signal::TERM);
            group.ended(&mut output, GRACE).await;
        }
        let status = group.end(GRACE).await;
        output.finish();
        if !in_time {
            return Err(Failure::Deadline { program: program(), allowed: deadline });
        }
        status.map_err(|error| Failure::Wait { program: program(), error: error.to_string() })
    }

    fn command(
        &self,
        environment: &Environment,
        descriptors: Vec<FdMapping>,
        output: PipeWriter,
    ) -> io::Result<Command> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SHELL, "sh"])
            .args(self.limits.arguments())
            .arg(&self.path)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").as_deref().unwrap_or(OsStr::new(PATH)))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        command
            .fd_mappings(descriptors)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(command)
    }
}

/// A file without a name that holds `bytes`, positioned at the start: what a program reads to the end however slowly,
/// or not at all, while nobody has to write.
///
/// # Errors
/// The system's, when there is no memory or no descriptor.
pub fn memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("program", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
