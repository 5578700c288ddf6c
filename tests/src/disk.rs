//! Disks of their own: ext4 in a file on a loop device, small ones that fill up, and ones that lose power.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::host::Ran;
use crate::wait::wait_until;

/// A mounted file system. Needs root.
pub struct Disk {
    dir: TempDir,
    mounted: bool,
}

impl Disk {
    /// A new ext4 of `mib` MiB, mounted.
    pub fn new(mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-disk-").tempdir().unwrap();
        File::create(dir.path().join("image")).unwrap().set_len(mib << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(dir.path().join("image")));
        fs::create_dir(dir.path().join("mount")).unwrap();
        let mut disk = Self { dir, mounted: false };
        disk.mount();
        disk
    }

    /// A new ext4 of `gib` GiB with everything initialised, mounted. Its image in `store` has no name left: whatever ends
    /// the mount frees it.
    pub fn nameless(store: &Path, gib: u64) -> Self {
        let image = tempfile::Builder::new().prefix("mailtree-image-").tempfile_in(store).unwrap();
        image.as_file().set_len(gib << 30).unwrap();
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-i", "8192", "-E", now]).arg(image.path()));
        let dir = tempfile::Builder::new().prefix("mailtree-disk-").tempdir().unwrap();
        fs::create_dir(dir.path().join("mount")).unwrap();
        let attach = |options: &[&str]| {
            let mut command = Command::new("losetup");
            Ran::new(command.args(["--find", "--show"]).args(options).arg(image.path()))
        };
        let direct = attach(&["--direct-io=on"]);
        let device = if direct.code == Some(0) { direct } else { attach(&[]).expect(0) };
        let device = device.stdout.trim();
        let mounted = Ran::new(Command::new("mount").arg(device).arg(dir.path().join("mount")));
        // From here on the device lives as long as the mount.
        run(Command::new("losetup").args(["--detach", device]));
        mounted.expect(0);
        let disk = Self { dir, mounted: true };
        run(Command::new("chmod").arg("755").arg(disk.dir.path()).arg(disk.path()));
        disk
    }

    /// A new tmpfs of `mib` MiB, mounted.
    pub fn tmpfs(mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-disk-").tempdir().unwrap();
        fs::create_dir(dir.path().join("mount")).unwrap();
        let size = format!("size={mib}M");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir.path().join("mount")));
        Self { dir, mounted: true }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    /// Mounts it; the journal is replayed as after a power cut.
    pub fn mount(&mut self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.dir.path().join("image")).arg(self.path()));
        self.mounted = true;
    }

    /// Unmounts it; fails if something still uses it. A mount namespace that somebody has made meanwhile does: what is
    /// mounted next would not be the disk but the same file system as before, still dark.
    pub fn unmount(&mut self) {
        run(Command::new("umount").arg(self.path()));
        self.mounted = false;
        wait_until("the disk to be in no mount namespace", Duration::from_secs(10), || {
            let users = Ran::new(Command::new("losetup").arg("-j").arg(self.dir.path().join("image")));
            users.expect(0).stdout.is_empty()
        });
    }

    /// Freezes it: who writes to it waits, and not even `kill -9` ends that.
    pub fn freeze(&self) -> Frozen {
        Frozen::new(&self.path())
    }

    /// Mounts it read-only or writable again.
    pub fn remount(&self, mode: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(self.path()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a process that is still ending must not keep the mount for ever.
            drop(Command::new("umount").arg("-l").arg(self.path()).stderr(Stdio::null()).status());
        }
    }
}

fn run(command: &mut Command) {
    Ran::new(command).expect(0);
}

/// Thaws when a line comes, and also when nobody is left who could send one.
const FREEZE: &str = r#"fsfreeze -f "$1" && echo frozen && read -r line; fsfreeze -u "$1""#;

/// A file system that is frozen until this is dropped, even if the test is killed.
///
/// A process that waits for it cannot be reaped: declare this after the host, so that it goes first.
pub struct Frozen(Child);

impl Frozen {
    fn new(mount: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", FREEZE, "sh"]).arg(mount).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own: what ends the test must not end the hand that thaws.
        let mut child = command.process_group(0).spawn().unwrap();
        let mut heard = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut heard).unwrap();
        let frozen = Self(child);
        assert_eq!(heard, "frozen\n");
        frozen
    }

    /// Thaws it.
    pub fn thaw(self) {
        drop(self);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from then on nothing reaches the disk, not even the journal.
/// Prints a line when it is ready, and cuts when it reads one.
const CUT: &str = "
import fcntl, os, struct, sys
mount = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.readline()
fcntl.ioctl(mount, 0x8004587d, struct.pack('I', 2))
print('dark', flush=True)
";

/// A hand on the power switch of a [`Disk`].
pub struct Switch(Child);

impl Switch {
    /// Opens the disk, so that [`Switch::cut`] takes no time.
    pub fn new(mount: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", CUT]).arg(mount).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut switch = Self(command.spawn().unwrap());
        switch.read_word("ready");
        switch
    }

    /// Cuts the power and returns when it is off.
    pub fn cut(mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.read_word("dark");
        assert!(self.0.wait().unwrap().success());
    }

    fn read_word(&mut self, word: &str) {
        let mut heard = vec![0; word.len() + 1];
        self.0.stdout.as_mut().unwrap().read_exact(&mut heard).unwrap();
        assert_eq!(heard, format!("{word}\n").as_bytes());
    }
}
