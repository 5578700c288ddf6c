//! qmail's files: every file operation of the queue, in the order of its protocol.
//!
//! Each operation runs in three steps on a disk thread ([`super::sync`]): `prepare` writes what nobody relies on yet,
//! `publish` makes it count, `finish` removes what it replaces and answers. Between them the thread makes the work of a
//! whole batch durable where the operation asked for it. A crash between any two lines leaves a state of the table in
//! [`mailtree_protocols::queue`]; [`super::crash::reached`] marks the places where tests stop the host.
//!
//! Other programs work on the same files: the original qmail-queue, an administrator's `rm`. A file is written only if this
//! process has just made it, or made it as a spare number ([`spare`]); whatever else is there is unlinked and never written.

mod commit;
mod place;
mod read;
mod settle;
pub(super) mod spare;
mod sweep;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mailtree_protocols::queue::{Dir, Files, Layout, MessageId};
use rustix::fs::{Advice, CWD, RenameFlags};

pub(super) use commit::{Arriving, Commit, Draft, Spill, Stored};
pub(crate) use place::set_mtime;
pub(super) use place::{Content, Place};
pub(super) use read::holds_or_less;
pub use read::{Survey, Surveyed, each, layout};
pub(super) use settle::{End, Settle, Strike};

/// Entries of the queue that are no files of it are named once each, so many of them.
const MAX_NAMED: usize = 1000;

/// The queue directory.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    directory: File,
    layout: Layout,
    /// Owner and group of each directory that files are made in.
    owners: HashMap<PathBuf, (u32, u32)>,
    drafts: AtomicU64,
    named: Mutex<HashSet<PathBuf>>,
    /// Who gives files to their owners where this process cannot.
    rights: OnceLock<Arc<dyn Rights>>,
}

/// Does to files of the queue what takes more rights than this process has: it is one of the group of theirs, and no more.
pub trait Rights: fmt::Debug + Send + Sync {
    /// Gives a file that this process made owner and group of what is in `dir`.
    ///
    /// # Errors
    /// When that was not done.
    fn give(&self, file: &File, dir: Dir) -> io::Result<()>;

    /// Sets the time of change of a file of the queue, in microseconds since 1970.
    ///
    /// # Errors
    /// When that was not done.
    fn set_mtime(&self, file: &File, micros: u64) -> io::Result<()>;
}

/// What a batch must make durable before it goes on.
#[derive(Default)]
pub(super) struct Unsynced {
    files: Vec<File>,
    directories: BTreeSet<PathBuf>,
}

impl Unsynced {
    /// What was written to `file` must become durable.
    fn file(&mut self, file: File) {
        self.files.push(file);
    }

    /// The entries of `directory` must become durable.
    fn directory(&mut self, directory: &Path) {
        if !self.directories.contains(directory) {
            self.directories.insert(directory.to_owned());
        }
    }

    /// Makes everything so far durable, and forgets it. Several threads do this side by side: a file system with a journal
    /// commits for all of them at once.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let (files, directories) = (std::mem::take(&mut self.files), std::mem::take(&mut self.directories));
        if files.len() > 1 {
            for file in &files {
                begin_writeback(file);
            }
        }
        for file in files {
            file.sync_all()?;
        }
        for directory in directories {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// One thing to do on disk.
pub(super) trait Operation: Send + 'static {
    /// What the caller learns.
    type Output: Send + 'static;

    /// Writes what nobody relies on yet.
    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()>;

    /// Makes it count.
    fn publish(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()>;

    /// Removes what it replaces; the answer.
    fn finish(self, disk: &Disk) -> io::Result<Self::Output>;

    /// Before `publish` something failed: takes back what `prepare` wrote, as well as it can.
    fn abandon(self, disk: &Disk);
}

impl Disk {
    /// The queue below `root`, in the layout that is found there.
    ///
    /// # Errors
    /// When it is not a directory that can be opened, or its directories are no layout.
    pub fn open(root: &Path) -> io::Result<Self> {
        let layout = layout(root)?;
        let mut owners = HashMap::new();
        let below = Dir::ALL.into_iter().flat_map(|dir| layout.directories(dir)).chain(["pid".to_owned()]);
        for name in below {
            let path = root.join(&name);
            let meta = match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Empty directories are what backups and package managers forget.
                    make_directory(root, &path)?;
                    fs::metadata(&path)
                }
                other => other,
            };
            let meta = meta.map_err(|error| named(&path, &error))?;
            if !meta.is_dir() {
                return Err(named(&path, &io::Error::from(io::ErrorKind::NotADirectory)));
            }
            owners.insert(path, (meta.uid(), meta.gid()));
        }
        Ok(Self {
            root: root.to_owned(),
            directory: File::open(root)?,
            layout,
            owners,
            drafts: AtomicU64::new(0),
            named: Mutex::default(),
            rights: OnceLock::new(),
        })
    }

    /// From now on this process has not the rights of the queue's owners, and asks for them.
    pub fn without_rights(&self, rights: Arc<dyn Rights>) {
        drop(self.rights.set(rights));
    }

    /// The queue directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How its directories are divided.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn path(&self, dir: Dir, id: MessageId) -> PathBuf {
        self.root.join(self.layout.file(dir, id))
    }

    /// Where message `id` lies.
    #[must_use]
    pub fn mess(&self, id: MessageId) -> PathBuf {
        self.path(Dir::Mess, id)
    }

    /// Free bytes and free inodes for an unprivileged process on the queue's filesystem.
    ///
    /// # Errors
    /// When the filesystem does not answer.
    pub fn free(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.directory)?;
        // A filesystem that makes inodes as it needs them reports none at all.
        let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), inodes))
    }

    /// A name in `pid/` that nobody else uses.
    fn pid_name(&self) -> PathBuf {
        let n = self.drafts.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}.{}.{}.{n}", std::process::id(), now.as_secs(), now.subsec_nanos());
        self.root.join("pid").join(name)
    }

    /// A new file at `path` for `dir`, with owner and group of `dir`'s directory for `id`.
    fn create(&self, path: &Path, dir: Dir, id: MessageId) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create_new(true).mode(dir.mode()).open(path)?;
        self.give(&file, dir, &self.path(dir, id))?;
        Ok(file)
    }

    /// Sets the mtime of `file`, in microseconds since 1970.
    fn set_mtime(&self, file: &File, micros: u64) -> io::Result<()> {
        match (place::set_mtime(file, micros), self.rights.get()) {
            (Err(error), Some(rights)) if error.kind() == io::ErrorKind::PermissionDenied => {
                rights.set_mtime(file, micros)
            }
            (set, _) => set,
        }
    }

    /// Gives `file`, of `dir`, owner and group of the directory that `path` is in; only root can, or whoever is asked.
    fn give(&self, file: &File, dir: Dir, path: &Path) -> io::Result<()> {
        if let Some(rights) = self.rights.get() {
            // The group must be able to do what this process has to do with it later.
            file.set_permissions(PermissionsExt::from_mode(dir.mode() | 0o060))?;
            return rights.give(file, dir);
        }
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let Some((uid, gid)) = path.parent().and_then(|parent| self.owners.get(parent)) else {
            return Ok(());
        };
        std::os::unix::fs::fchown(file, Some(*uid), Some(*gid))
    }

    /// Writes a whole file of message `id`; what stood there is unlinked first, never written into.
    fn write(&self, dir: Dir, id: MessageId, bytes: &[u8], unsynced: &mut Unsynced) -> io::Result<File> {
        let path = self.path(dir, id);
        absent_is_fine(fs::remove_file(&path))?;
        let mut file = self.create(&path, dir, id)?;
        file.write_all(bytes)?;
        self.unsynced_entry(dir, id, unsynced);
        Ok(file)
    }

    /// The entry of message `id` in `dir` must become durable.
    fn unsynced_entry(&self, dir: Dir, id: MessageId, unsynced: &mut Unsynced) {
        if let Some(parent) = self.path(dir, id).parent() {
            unsynced.directory(parent);
        }
    }

    fn unlink(&self, dir: Dir, id: MessageId) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.path(dir, id)))
    }

    fn exists(&self, dir: Dir, id: MessageId) -> io::Result<bool> {
        match fs::symlink_metadata(self.path(dir, id)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn files(&self, id: MessageId) -> io::Result<Files> {
        Ok(Files {
            mess: self.exists(Dir::Mess, id)?,
            intd: self.exists(Dir::Intd, id)?,
            todo: self.exists(Dir::Todo, id)?,
            info: self.exists(Dir::Info, id)?,
            local: self.exists(Dir::Local, id)?,
            remote: self.exists(Dir::Remote, id)?,
            bounce: self.exists(Dir::Bounce, id)?,
        })
    }

    /// Says once that something in the queue is no file of it.
    fn skip(&self, path: &Path, why: &str) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() < MAX_NAMED && named.insert(path.to_owned()) {
            tracing::error!("alert: {}: {why}: skipped", path.display());
        }
    }
}

/// The directories of the queue in which qmail-queue makes files, and those of qmail-send: each kind has one owner.
const OF_QUEUE: [&str; 4] = ["mess", "todo", "intd", "pid"];
const OF_SEND: [&str; 4] = ["info", "local", "remote", "bounce"];

/// User and group of qmail-send, to whom `lock/trigger` and `lock/sendmutex` belong too (reference §2.1): whose its
/// directories in the queue are.
///
/// # Errors
/// When neither they nor the queue can be looked at.
pub fn owner_of_send(root: &Path) -> io::Result<(u32, u32)> {
    owner_of(root, &OF_SEND)
}

fn owner_of(root: &Path, names: &[&str]) -> io::Result<(u32, u32)> {
    let found = names.iter().find_map(|name| fs::metadata(root.join(name)).ok());
    let meta = found.map_or_else(|| fs::metadata(root).map_err(|error| named(root, &error)), Ok)?;
    Ok((meta.uid(), meta.gid()))
}

/// Makes a directory of the queue that is missing: qmail's owner and mode, below those the same as the one it is in.
fn make_directory(root: &Path, path: &Path) -> io::Result<()> {
    let above = path.parent().unwrap_or(root);
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let ((uid, gid), mode) = if above != root {
        if !above.exists() {
            make_directory(root, above)?;
        }
        let parent = fs::metadata(above).map_err(|error| named(above, &error))?;
        ((parent.uid(), parent.gid()), parent.mode() & 0o777)
    } else if OF_SEND.contains(&name) {
        (owner_of_send(root)?, 0o700)
    } else {
        (owner_of(root, &OF_QUEUE)?, if name == "mess" || name == "todo" { 0o750 } else { 0o700 })
    };
    fs::create_dir(path).map_err(|error| named(path, &error))?;
    let handle = File::open(path)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&handle, Some(uid), Some(gid))?;
    }
    handle.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    tracing::warn!("warning: {} was missing: made", path.display());
    Ok(())
}

/// A head start for the sync of several files: what is dirty goes to the disk, so that the first fsync finds all of them
/// allocated and commits what each needs. Linux begins to write dirty pages that nobody wants to read again.
pub(super) fn begin_writeback(file: &File) {
    // Where it is not supported, nothing is gained and nothing lost.
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).unwrap_or(());
}

pub(crate) fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Moves `from` to `to`, where nothing is yet.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        done => Ok(done?),
    }
}

pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Microseconds since 1970.
pub(super) fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
