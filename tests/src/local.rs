//! Programs of a machine that hand mail in: the links of a host in a directory of their own, called as a user's shell, cron
//! or PHP calls them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::host::{Host, Ran, Setup, binary};

/// A directory with the links of one home, and room for files. Everybody may go there, and to the home.
pub struct Local {
    dir: TempDir,
    home: PathBuf,
}

impl Local {
    /// The links of the home of `host`.
    pub fn of(host: &Host) -> Self {
        Self::at(host.home())
    }

    /// The links of a home that is being prepared.
    pub fn before(setup: &Setup) -> Self {
        Self::at(setup.home())
    }

    fn at(home: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-local-").tempdir().unwrap();
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        open(dir.path());
        open(home.parent().unwrap());
        let links = dir.path().join("bin");
        let mut command = Command::new(binary());
        Ran::new(command.arg("links").arg(&links).env("MAILTREE_HOME", home)).expect(0);
        Self { dir, home: home.to_owned() }
    }

    /// The path of a link.
    pub fn link(&self, name: &str) -> PathBuf {
        self.dir.path().join("bin").join(name)
    }

    /// A path for a file of the test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the test, and gives its path.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.file(name), bytes).unwrap();
        self.file(name)
    }

    /// The home.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A command line of a shell in the directory, with the links first in the PATH and little else in the environment.
    pub fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.dir.path().join("bin").display());
        command.args(["-c", line]).env_clear().env("PATH", path).current_dir(self.dir.path());
        command
    }

    /// Runs a line of the shell with `input`.
    pub fn run(&self, line: &str, input: impl AsRef<[u8]>) -> Ran {
        feed(&mut self.shell(line), input.as_ref())
    }

    /// Runs a line as another user.
    pub fn run_as(&self, uid: u32, line: &str, input: impl AsRef<[u8]>) -> Ran {
        feed(&mut self.shell(&as_user(uid, line)), input.as_ref())
    }

    /// Starts a line, with what it reads still to come.
    pub fn start(&self, line: &str) -> Child {
        let mut command = self.shell(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a line as another user.
    pub fn start_as(&self, uid: u32, line: &str) -> Child {
        self.start(&as_user(uid, line))
    }
}

fn as_user(uid: u32, line: &str) -> String {
    let quoted = line.replace('\'', r"'\''");
    format!("exec setpriv --reuid {uid} --regid {uid} --clear-groups sh -c '{quoted}'")
}

/// Runs a command with `input` to its end.
fn feed(command: &mut Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A program that does not read its input to the end is not a fault of the test.
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap_or(()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
