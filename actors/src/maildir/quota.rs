//! The quota of a Maildir (Maildir++), kept in its `maildirsize` as vpopmail, Courier and Dovecot keep it: a delivery appends a
//! line; when the file is old, long or not to be believed, the Maildir is counted and the file replaced. Nobody locks: what
//! another program appends while the Maildir is being counted is put right by the next count.
//!
//! A delivery asks [`admit`] before it writes, and calls [`Admitted::count`] when the message is in `new`, whatever it is then
//! called; [`Admitted::take_back`] if it is taken out again. Between those, whoever dies leaves the sum wrong by one message
//! until the next count.
//!
//! Everything beneath a Maildir is opened by name in a directory that is open, and no link is followed: its owner may have put
//! anything there.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mailtree_config::regular;
use mailtree_protocols::maildirsize::{
    self, Maildirsize, Quota, TRASH, Usage, Verdict, WARN_AGAIN, is_counted, is_counted_folder,
};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, Uid};
use rustix::io::Errno;

use crate::clock;

/// The file.
const NAME: &str = "maildirsize";

/// Entries of directories that are looked at in one count. A Maildir with more is counted as if it had so many.
const MAX_ENTRIES: usize = 1_000_000;

/// Counts of one Maildir in a row while others change it, as Courier's.
const TRIES: usize = 5;

/// Entries beyond which a Maildir is not counted again although it was changed meanwhile: it would be for as long as mail comes.
const MAX_RECOUNTED: usize = 10_000;

/// Threads of this process that may write one at the same second.
const MAX_NTH: u32 = 100;

/// Of a file that is made.
const MODE: Mode = Mode::from_raw_mode(0o644);

/// Bytes that are read of a text for users, and of a `maildirsize`.
const MAX_TEXT: u64 = 64 * 1024;

/// Whether a message may be delivered.
pub(crate) enum Admission {
    /// It may.
    Admitted(Admitted),
    /// It is a failure for good: the Maildir would hold more than its quota.
    Over,
}

/// A message that may be delivered.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// The Maildir whose sum it adds to; none for one that is put into the trash.
    maildir: Option<PathBuf>,
    size: u64,
    /// How much of the quota was used without it, in percent. From [`maildirsize::WARN_PERCENT`] on the user is to be warned,
    /// if [`warning_is_due`].
    pub(crate) percent: u32,
}

/// Whether a message whose file will have `size` bytes may be put into `maildir`, which may be a folder of one.
///
/// `quota` is what vpasswd says. `NOQUOTA` admits everything. `None`, for a Maildir that a `.qmail` file names, is the quota that
/// `maildirsize` says, if there is one. A `maildirsize` that is missing, or says another quota, is written.
///
/// # Errors
/// When the Maildir cannot be counted, or its `maildirsize` not be written; a Maildir that is not there yet holds nothing.
pub(crate) fn admit(maildir: &Path, quota: Option<Quota>, size: u64) -> io::Result<Admission> {
    let admitted = |maildir, percent| Ok(Admission::Admitted(Admitted { maildir, size, percent }));
    let kept = Some(maildir.to_owned());
    if maildir.file_name().map(OsStr::as_bytes) == Some(TRASH) {
        return admitted(None, 0);
    }
    if quota.is_some_and(|quota| quota.is_none()) {
        return admitted(kept, 0);
    }
    let within = |quota: &Quota, usage: Usage| {
        if quota.holds(&usage.and(size)) {
            admitted(kept.clone(), quota.percent(&usage))
        } else {
            Ok(Admission::Over)
        }
    };
    let Some(root) = Root::open(maildir)? else {
        return quota.map_or_else(|| admitted(kept.clone(), 0), |quota| within(&quota, Usage::default()));
    };
    let read = root.read()?;
    let said = read.as_ref().and_then(|(read, ..)| read.quota).filter(|quota| !quota.is_none());
    let Some(quota) = quota.or(said) else { return admitted(kept, 0) };
    if let Some((read, len, age)) = read {
        match read.verdict(len, age, &quota, size) {
            Verdict::Admitted => return admitted(kept, quota.percent(&read.usage())),
            Verdict::Over => return Ok(Admission::Over),
            Verdict::Recount => (),
        }
    }
    within(&quota, root.recount(&quota)?)
}

impl Admitted {
    /// Adds the message to the sum: it is in `new`. Where no `maildirsize` is, nothing is kept.
    ///
    /// # Errors
    /// When it cannot be added. The message is delivered all the same; the next count finds it.
    pub(crate) fn count(&self) -> io::Result<()> {
        self.append(&maildirsize::added(self.size))
    }

    /// Takes a message that was counted off the sum: it is not there any more.
    ///
    /// # Errors
    /// As [`Admitted::count`].
    pub(crate) fn take_back(&self) -> io::Result<()> {
        self.append(&maildirsize::removed(self.size))
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let Some(maildir) = &self.maildir else { return Ok(()) };
        let Some(root) = Root::open(maildir)? else { return Ok(()) };
        // Opened now: the file may have been replaced since the message was admitted.
        let file = match root.own(NAME, OFlags::WRONLY | OFlags::APPEND) {
            // Root's: the next count puts the owner's in its place.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            opened => opened?,
        };
        let Some(mut file) = file else { return Ok(()) };
        // One write: lines of others are not torn by it.
        let written = file.write(line.as_bytes())?;
        if written == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// How much a Maildir holds: what its `maildirsize` says, however old, else counted. Nothing is written.
///
/// # Errors
/// When nobody can say.
pub(crate) fn usage(maildir: &Path) -> io::Result<Usage> {
    let Some(root) = Root::open(maildir)? else { return Ok(Usage::default()) };
    match root.read()? {
        Some((read, ..)) => Ok(read.usage()),
        None => Ok(root.counted()?.usage),
    }
}

/// Whether the user is to be told that his Maildir is nearly full, or over its quota: once a day. That he is told now is noted, by
/// the time of change of the Maildir's file `quotawarn`. The message is [`text`] of `.quotawarn.msg`, behind Delivered-To and
/// Date, without Return-Path; where there is no such text nobody is told.
///
/// # Errors
/// When it cannot be noted.
pub(crate) fn warning_is_due(maildir: &Path) -> io::Result<bool> {
    let Some(root) = Root::open(maildir)? else { return Ok(false) };
    let file = root.file("quotawarn", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let Some(file) = root.own("quotawarn", OFlags::WRONLY)? else {
                return Err(io::Error::other("quotawarn: not a file of the Maildir's owner"));
            };
            if age(&file.metadata()?) < WARN_AGAIN {
                return Ok(false);
            }
            file
        }
        file => root.give(file?)?,
    };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now })?;
    Ok(true)
}

/// What an administrator has written for users: `.over-quota.msg`, `.quotawarn.msg` or `.no-user.msg` in the domain's directory,
/// else in that of all domains. None: he has not. At most [`MAX_TEXT`] bytes.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn text(domain: &Path, domains: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    for dir in [domain, domains] {
        if let Some(mut text) = regular::read(&dir.join(name), MAX_TEXT)? {
            text.truncate(MAX_TEXT as usize);
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// How long ago a file was changed; a time to come is now.
fn age(metadata: &std::fs::Metadata) -> Duration {
    metadata
        .modified()
        .ok()
        .and_then(|modified| SystemTime::now().duration_since(modified).ok())
        .unwrap_or_default()
}

/// The Maildir that has the `maildirsize`.
struct Root {
    dir: OwnedFd,
    uid: u32,
    gid: u32,
}

/// What was counted.
#[derive(PartialEq, Eq, Default)]
struct Counted {
    usage: Usage,
    /// Entries of directories.
    entries: usize,
    /// When the latest of the directories was last changed, and how many there are.
    changed: (i64, u64),
    directories: usize,
}

impl Root {
    /// `maildir`, or, if that is a folder, the Maildir it is in. None: it is not there.
    fn open(maildir: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let dir = match rustix::fs::openat(CWD, maildir, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            dir => dir?,
        };
        let is_folder = rustix::fs::statat(&dir, "maildirfolder", AtFlags::SYMLINK_NOFOLLOW);
        let dir = match is_folder {
            Ok(_) => rustix::fs::openat(&dir, "..", flags, Mode::empty())?,
            Err(Errno::NOENT) => dir,
            Err(error) => return Err(error.into()),
        };
        let status = rustix::fs::fstat(&dir)?;
        Ok(Some(Self { dir, uid: status.st_uid, gid: status.st_gid }))
    }

    fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.dir, name, flags, MODE)?))
    }

    /// A regular file that belongs to the Maildir's owner, or to root, and has no other name. None: there is no such file, whatever else is
    /// there.
    fn own(&self, name: &str, flags: OFlags) -> io::Result<Option<File>> {
        let file = match self.file(name, flags) {
            Ok(file) => file,
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ISDIR)
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        let me = rustix::process::geteuid();
        let is_his = [self.uid, 0].contains(&meta.uid()) || meta.uid() == me.as_raw();
        Ok((meta.is_file() && meta.nlink() == 1 && is_his).then_some(file))
    }

    /// The file, with its size and age.
    fn read(&self) -> io::Result<Option<(Maildirsize, u64, Duration)>> {
        let Some(file) = self.own(NAME, OFlags::RDONLY)? else { return Ok(None) };
        let meta = file.metadata()?;
        let mut text = Vec::new();
        file.take(MAX_TEXT).read_to_end(&mut text)?;
        Ok(Some((Maildirsize::parse(&text), meta.len(), age(&meta))))
    }

    /// Counts the Maildir and writes its `maildirsize`.
    fn recount(&self, quota: &Quota) -> io::Result<Usage> {
        let mut found = self.counted()?;
        for left in (0..TRIES).rev() {
            self.replace(&maildirsize::counted(quota, &found.usage))?;
            if left == 0 || found.entries > MAX_RECOUNTED {
                break;
            }
            // What was changed after it was counted may be in the file or not.
            let (changed, directories) = self.changed()?;
            if (changed, directories) == (found.changed, found.directories) {
                break;
            }
            found = self.counted()?;
        }
        Ok(found.usage)
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let tmp = directory(self.dir.as_fd(), "tmp")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut nth = 0;
        let (file, name) = loop {
            let name = maildirsize::tmp_name(clock::unix_now(), std::process::id(), nth, &host);
            match rustix::fs::openat(&tmp, &name, flags, MODE) {
                // Another thread's.
                Err(Errno::EXIST) if nth < MAX_NTH => nth += 1,
                file => break (File::from(file?), name),
            }
        };
        let written = self.give(file).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            Ok(rustix::fs::renameat(&tmp, &name, &self.dir, NAME)?)
        });
        if written.is_err() {
            rustix::fs::unlinkat(&tmp, &name, AtFlags::empty()).unwrap_or(());
        }
        written
    }

    /// What root has made belongs to the Maildir's owner.
    fn give(&self, file: File) -> io::Result<File> {
        if rustix::process::geteuid().is_root() {
            rustix::fs::fchown(&file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        }
        Ok(file)
    }

    /// All that counts.
    fn counted(&self) -> io::Result<Counted> {
        let mut counted = Counted::default();
        let mut left = MAX_ENTRIES;
        self.each_directory(&mut left, |directory, left| {
            let status = rustix::fs::fstat(directory)?;
            counted.changed = counted.changed.max((status.st_mtime, status.st_mtime_nsec));
            counted.directories += 1;
            count(directory, left, &mut counted.usage)
        })?;
        counted.entries = MAX_ENTRIES - left;
        Ok(counted)
    }

    /// When the latest of the directories that count was changed, and how many there are.
    fn changed(&self) -> io::Result<((i64, u64), usize)> {
        let (mut latest, mut directories) = ((0, 0), 0);
        self.each_directory(&mut { MAX_ENTRIES }, |directory, _| {
            let status = rustix::fs::fstat(directory)?;
            latest = latest.max((status.st_mtime, status.st_mtime_nsec));
            directories += 1;
            Ok(())
        })?;
        Ok((latest, directories))
    }

    /// `new` and `cur` of the Maildir and of its folders. `left` entries are looked at.
    fn each_directory(
        &self,
        left: &mut usize,
        mut look: impl FnMut(BorrowedFd<'_>, &mut usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut both = |maildir: BorrowedFd<'_>, left: &mut usize| -> io::Result<()> {
            for name in ["new", "cur"] {
                if let Some(directory) = if_there(directory(maildir, name))? {
                    look(directory.as_fd(), left)?;
                }
            }
            Ok(())
        };
        both(self.dir.as_fd(), left)?;
        for entry in Dir::read_from(&self.dir)? {
            if *left == 0 {
                break;
            }
            let entry = entry?;
            *left -= 1;
            let name = entry.file_name();
            let may_be = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if !may_be || !is_counted_folder(name.to_bytes()) {
                continue;
            }
            if let Some(folder) = if_there(directory(self.dir.as_fd(), name))? {
                both(folder.as_fd(), left)?;
            }
        }
        Ok(())
    }
}

fn directory(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// None: there is no such thing, or it is no directory.
fn if_there(opened: rustix::io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Adds the messages of a directory.
fn count(directory: BorrowedFd<'_>, left: &mut usize, usage: &mut Usage) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        if *left == 0 {
            break;
        }
        let entry = entry?;
        *left -= 1;
        let name: CString = entry.file_name().to_owned();
        if !is_counted(name.as_bytes()) {
            continue;
        }
        let size = match Usage::size_in_name(name.as_bytes()) {
            Some(size) => size,
            None => match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => u64::try_from(status.st_size).unwrap_or(0),
                // One that is just being removed is no more.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
        };
        *usage = usage.and(size);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
