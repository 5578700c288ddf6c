//! File systems that are no good: one that cannot keep what it took, one whose server does not answer. Need root.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host::Ran;
use crate::maildir;
use crate::wait::wait_until;

/// Whether something is mounted at `path`.
fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == path))
}

fn unmount(path: &Path) {
    drop(Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status());
}

fn run(command: &mut Command) {
    Ran::new(command).expect(0);
}

/// An ext2 whose disk promises more than it has, as thin volumes and file servers over quota do: writing works, the
/// sync says that there is no space. It has a Maildir, which has had letters before.
pub struct Thin {
    dir: TempDir,
}

impl Thin {
    /// A sound one.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-thin-").tempdir().unwrap();
        let thin = Self { dir };
        let (backing, image) = (thin.backing(), thin.backing().join("image"));
        fs::create_dir(&backing).unwrap();
        fs::create_dir(thin.path()).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=24M", "none"]).arg(&backing));
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        // Blocks of a page each: no letter shares a page with one that is there already.
        let options = ["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=1,nodiscard"];
        run(Command::new("mkfs.ext2").args(options).arg(&image));
        thin.mount();
        maildir::make(&thin.maildir());
        // So many names and inodes have been in use before: what it lacks is room for the text of letters.
        let names: Vec<_> = (0..800)
            .map(|number| thin.maildir().join(["tmp", "new"][number % 2]).join(format!("{number:0>60}")))
            .collect();
        for name in &names {
            File::create(name).unwrap();
        }
        thin.sync();
        for name in &names {
            fs::remove_file(name).unwrap();
        }
        thin.sync();
        thin
    }

    fn backing(&self) -> PathBuf {
        self.dir.path().join("backing")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    /// The Maildir on it.
    pub fn maildir(&self) -> PathBuf {
        self.path().join("Maildir")
    }

    fn mount(&self) {
        // Whatever goes wrong, it goes on as if nothing were the matter.
        let image = self.backing().join("image");
        run(Command::new("mount")
            .args(["-t", "ext2", "-o", "loop,errors=continue"])
            .arg(image)
            .arg(self.path()));
    }

    fn sync(&self) {
        rustix::fs::syncfs(File::open(self.path()).unwrap()).unwrap();
    }

    /// From now on there is no room behind it.
    pub fn fill(&self) {
        let mut ballast = File::create(self.backing().join("ballast")).unwrap();
        while ballast.write_all(&[b'x'; 4096]).is_ok() {}
    }

    /// There is room again.
    pub fn empty(&self) {
        fs::remove_file(self.backing().join("ballast")).unwrap();
    }

    /// Unmounts it and mounts it again: what was never written is gone.
    pub fn remount(&self) {
        run(Command::new("umount").arg(self.path()));
        self.mount();
    }
}

impl Default for Thin {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Thin {
    fn drop(&mut self) {
        unmount(&self.path());
        unmount(&self.backing());
    }
}

/// A directory behind a FUSE server, as users have of file servers: no flags of renameat2, no `O_TMPFILE`, and when the
/// server is stopped, who asks for anything waits.
pub struct Served {
    dir: TempDir,
    server: Child,
    /// Where it is mounted, too.
    at: Option<PathBuf>,
}

impl Served {
    /// Starts the server.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-served-").tempdir().unwrap();
        let (back, front) = (dir.path().join("back"), dir.path().join("front"));
        fs::create_dir(&back).unwrap();
        fs::create_dir(&front).unwrap();
        let server = Command::new("bindfs").arg("-f").args([&back, &front]).spawn().unwrap();
        let served = Self { dir, server, at: None };
        wait_until("the FUSE server", Duration::from_secs(10), || is_mounted(&served.front()));
        served
    }

    /// What the server serves: to be looked at while it does not.
    pub fn back(&self) -> PathBuf {
        self.dir.path().join("back")
    }

    /// Where it is mounted.
    pub fn front(&self) -> PathBuf {
        self.dir.path().join("front")
    }

    /// What is in `dir` moves to the server, which serves it there.
    pub fn take(&mut self, dir: &Path) {
        run(Command::new("cp").arg("-a").arg(dir.join(".")).arg(self.back()));
        run(Command::new("mount").arg("--bind").arg(self.front()).arg(dir));
        self.at = Some(dir.to_owned());
    }

    /// The server answers nobody until what this gives is dropped.
    pub fn halt(&self) -> Halted {
        let pid = Pid::from_child(&self.server);
        kill_process(pid, Signal::STOP).unwrap();
        Halted(pid)
    }
}

impl Default for Served {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
        if let Some(at) = &self.at {
            unmount(at);
        }
        unmount(&self.front());
    }
}

/// A server that is stopped. Declare it after the host, so that it goes first.
pub struct Halted(Pid);

impl Drop for Halted {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).ok();
    }
}
