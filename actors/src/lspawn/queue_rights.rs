//! A queue whose directories belong to qmailq and qmails, under a host that is one of their group.
//!
//! While the host runs, the group may do in the queue what its owners may. Files get their owners as soon as they are made, so
//! that a qmail finds them as its own; when the host has gone, the modes are qmail's again.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use mailtree_protocols::queue::Dir;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::queue::disk::{named, set_mtime};

/// What qmail's hier.c gives the directories, where the mode that was found is not known.
const MODE: u32 = 0o700;

/// The same for the queue itself, `lock`, `mess` and `todo`.
const OPEN_MODE: u32 = 0o750;

/// Directories of the queue, with what mailtree adds.
const DIRECTORIES: [&str; 11] =
    ["mess", "intd", "todo", "info", "local", "remote", "bounce", "pid", "lock", "ext", "yanked"];

/// Those in which files are written or listened to that are there already.
const WRITTEN: [&str; 8] = ["mess", "intd", "todo", "info", "local", "remote", "bounce", "lock"];

/// Bits of the group.
const GROUP: u32 = 0o070;

/// Who owns what in a queue that is not the host's own; empty: it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct QueueRights {
    root: PathBuf,
    device: u64,
    /// Owner and group of what is in a directory.
    owners: BTreeMap<String, (u32, u32)>,
    /// Owner and group of `lock/tcpto`.
    tcpto: (u32, u32),
    /// The user of the host.
    host: u32,
    /// Modes of directories, by inode, before the group could write in them.
    modes: BTreeMap<u64, u32>,
}

impl QueueRights {
    /// Whose the queue at `root` is, if it is not all this user's.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn of(root: &Path, user: u32) -> io::Result<Option<Self>> {
        let look = |path: &Path| fs::metadata(path).map_err(|error| named(path, &error));
        let mut owners = BTreeMap::new();
        for dir in Dir::ALL {
            let meta = look(&root.join(dir.name()))?;
            owners.insert(dir.name().to_owned(), (meta.uid(), meta.gid()));
        }
        if owners.values().all(|(uid, _)| *uid == user) {
            return Ok(None);
        }
        let device = look(root)?.dev();
        let tcpto = look(&root.join("lock/tcpto")).map_or((user, 0), |meta| (meta.uid(), meta.gid()));
        Ok(Some(Self { root: root.to_owned(), device, owners, tcpto, host: user, modes: BTreeMap::new() }))
    }

    /// The groups that whoever works in it must be in.
    ///
    /// # Errors
    /// When that is root's.
    pub fn groups(&self) -> io::Result<Vec<u32>> {
        let mut groups: Vec<u32> = self.owners.values().map(|(_, gid)| *gid).collect();
        groups.sort_unstable();
        groups.dedup();
        match self.owners.iter().find(|(_, (uid, gid))| *uid == 0 || *gid == 0) {
            Some((name, _)) => Err(io::Error::other(format!(
                "{}: belongs to root; allowed: to qmailq or qmails and group qmail, or to the user of the host",
                self.root.join(name).display()
            ))),
            None => Ok(groups),
        }
    }

    /// Lets the group in. What is left of a host that has crashed is taken for what qmail makes.
    ///
    /// # Errors
    /// When a mode cannot be changed.
    pub fn let_group_in(&mut self) -> io::Result<()> {
        let mut modes = Vec::new();
        self.each(&mut |entry| {
            let mode = entry.meta.mode() & 0o7777;
            if !entry.meta.is_dir() {
                return entry.set_mode(mode | 0o060);
            }
            let found = match mode & 0o020 {
                0 => mode,
                _ if matches!(entry.below, "" | "lock" | "mess" | "todo") => OPEN_MODE,
                _ => MODE,
            };
            modes.push((entry.meta.ino(), found));
            entry.set_mode(mode | GROUP)
        })?;
        self.modes = modes.into_iter().collect();
        Ok(())
    }

    /// The modes of directories as they were found, and of files as qmail makes them.
    pub(super) fn hand_back(&self) {
        let handed = self.each(&mut |entry| {
            let mode = entry.meta.mode() & 0o7777;
            let was = match self.modes.get(&entry.meta.ino()) {
                Some(was) if entry.meta.is_dir() => *was,
                _ if entry.meta.is_dir() => MODE,
                _ => entry.qmails_mode().unwrap_or(mode & !0o060),
            };
            // Each on its own: what cannot be handed back keeps nothing else from it.
            entry.set_mode(was).or(Ok(()))
        });
        handed.unwrap_or(());
    }

    /// Gives a file that the host made to the owner of what is in `dir`.
    pub(super) fn give(&self, file: &File, dir: Dir) -> io::Result<()> {
        let meta = file.metadata()?;
        let owner = self.owners.get(dir.name()).copied();
        let (uid, gid) =
            owner.filter(|(uid, gid)| *uid != 0 && *gid != 0).ok_or(io::ErrorKind::PermissionDenied)?;
        if !meta.is_file()
            || meta.dev() != self.device
            || meta.uid() != self.host
            || meta.mode() & 0o7111 != 0
        {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        fchown(file, Some(uid), Some(gid))
    }

    /// Sets the time of change of a file in the queue.
    pub(super) fn set_mtime(&self, file: &File, micros: u64) -> io::Result<()> {
        let meta = file.metadata()?;
        let known = meta.uid() == self.host || self.owners.values().any(|(uid, _)| *uid == meta.uid());
        if !meta.is_file() || meta.dev() != self.device || !known {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        set_mtime(file, micros)
    }

    /// Calls `each` for what is inside the directories first, then for them: for all directories, and for the files that
    /// qmail-send or the host writes. The group may have put anything there: nothing is followed, and what belongs to somebody
    /// else is left alone.
    fn each(&self, each: &mut dyn FnMut(&Entry<'_>) -> io::Result<()>) -> io::Result<()> {
        if self.owners.is_empty() {
            return Ok(());
        }
        let root = File::open(&self.root).map_err(|error| named(&self.root, &error))?;
        for name in DIRECTORIES {
            if let Some(entry) = self.open(&root, name.as_ref(), name)? {
                self.each_in(&entry, 1, each)?;
            }
        }
        let meta = root.metadata()?;
        each(&Entry { file: root, meta, name: OsString::new(), below: "" })
    }

    fn each_in(
        &self,
        entry: &Entry<'_>,
        depth: usize,
        each: &mut dyn FnMut(&Entry<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let names: Vec<_> = rustix::fs::Dir::read_from(&entry.file)?.collect::<Result<_, _>>()?;
        for name in names {
            let name = OsStr::from_bytes(name.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let Some(inner) = self.open(&entry.file, name, entry.below)? else { continue };
            match inner.meta.is_dir() {
                true if depth > 0 => self.each_in(&inner, depth - 1, each)?,
                false if WRITTEN.contains(&entry.below) => each(&inner)?,
                _ => (),
            }
        }
        each(entry)
    }

    /// What is there, if it is a file or directory of the queue's.
    fn open<'a>(&self, above: &File, name: &OsStr, below: &'a str) -> io::Result<Option<Entry<'a>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(above, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // It has gone, or is no file.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(named(Path::new(name), &error.into())),
        };
        let meta = file.metadata()?;
        let known = meta.uid() == self.host
            || self.owners.values().chain([&self.tcpto]).any(|(uid, _)| *uid == meta.uid());
        let single = meta.is_dir() || meta.nlink() == 1;
        let name = name.to_owned();
        Ok((known && single && meta.dev() == self.device).then_some(Entry { file, meta, name, below }))
    }
}

/// Something in the queue.
struct Entry<'a> {
    file: File,
    meta: fs::Metadata,
    name: OsString,
    /// The first name on the way to it.
    below: &'a str,
}

impl Entry<'_> {
    /// The mode of such a file as qmail makes it (hier.c, qmail-queue.c, qmail-send.c).
    fn qmails_mode(&self) -> Option<u32> {
        match self.name.to_str() {
            Some("trigger") if self.below == "lock" => Some(0o622),
            Some("sendmutex") if self.below == "lock" => Some(0o600),
            Some("tcpto") if self.below == "lock" => Some(0o644),
            _ => Dir::ALL.into_iter().find(|dir| dir.name() == self.below).map(Dir::mode),
        }
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(fs::Permissions::from_mode(mode))
    }
}
