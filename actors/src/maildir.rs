//! Copies of messages in Maildirs (maildir(5)). Everything here may wait for a file system that belongs to somebody else: it
//! runs in the pool of delivery threads.
//!
//! The name of a copy follows from message and recipient ([`mailtree_protocols::maildir::name`]), so that a delivery that is
//! repeated finds the copy of the first one, in `new` or, moved by its owner, in `cur`.

pub(crate) mod quota;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mailtree_config::regular;
use mailtree_protocols::journal::MaildirFile;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use crate::queue::crash::{Point, reached};
use crate::queue::{Body, InMaildir};

/// Number of files made in `tmp`.
static TMP: AtomicU64 = AtomicU64::new(0);

/// A copy to be delivered.
pub(crate) struct Copy<'a> {
    /// `Maildir`, absolute.
    pub(crate) maildir: &'a Path,
    /// What is missing of it below this directory is made.
    pub(crate) within: Option<&'a Path>,
    /// The file's name.
    pub(crate) name: &'a OsStr,
    /// Return-Path and Delivered-To.
    pub(crate) head: &'a [u8],
    /// The message.
    pub(crate) body: &'a Body,
    /// It may have been delivered before.
    pub(crate) again: bool,
    /// What was delivered before could not be synced.
    pub(crate) doubted: bool,
}

/// Delivers a copy; it is not durable. What was delivered before is found, and made whole if it is torn.
pub(crate) fn deliver(copy: &Copy<'_>) -> io::Result<InMaildir> {
    let owner = ready(copy.maildir, copy.within)?;
    if let Some(found) = earlier(copy)? {
        return Ok(found);
    }
    let (mut file, tmp) = unnamed(copy)?;
    let result = write(copy, &mut file, owner).and_then(|()| {
        reached(Point::MaildirWritten);
        publish(copy, &file, tmp.as_deref())
    });
    if let Some(tmp) = &tmp {
        // Published or not: nothing is left in tmp.
        match fs::remove_file(tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("warning: unable to unlink {}: {error}", tmp.display());
            }
            _ => (),
        }
    }
    result?;
    reached(Point::MaildirLinked);
    in_maildir(copy, file)
}

/// The copy that an earlier attempt has delivered.
pub(crate) fn earlier(copy: &Copy<'_>) -> io::Result<Option<InMaildir>> {
    if copy.again { found(copy, &places(copy.maildir, copy.name)?) } else { Ok(None) }
}

/// Makes delivered copies durable; those of a repeated delivery (`again`) may have been found where their owner moved them.
pub(crate) fn sync(copies: &[InMaildir], again: bool) -> io::Result<()> {
    sync_or(copies, again, withdraw)
}

fn sync_or(copies: &[InMaildir], again: bool, failed: impl Fn(&InMaildir)) -> io::Result<()> {
    for copy in copies {
        copy.open.sync_all().inspect_err(|_| failed(copy))?;
        let maildir = path_of(&copy.file);
        sync_new(&maildir)?;
        if again && is_moved(copy) {
            sync_cur(&maildir)?;
        }
    }
    reached(Point::MaildirSynced);
    Ok(())
}

/// Makes the names in `new` durable.
pub(crate) fn sync_new(maildir: &Path) -> io::Result<()> {
    sync_directory(&maildir.join("new"), OFlags::empty())
}

/// Makes durable what the Maildir's owner has moved into `cur`. What he has put in the place of that directory is his affair.
pub(crate) fn sync_cur(maildir: &Path) -> io::Result<()> {
    sync_directory(&maildir.join("cur"), OFlags::NOFOLLOW)
}

/// Opens nothing but a directory, and waits for no FIFO. Where directories cannot be synced they need not be.
fn sync_directory(path: &Path, more: OFlags) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    match rustix::fs::fsync(directory) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => Ok(()),
        result => Ok(result?),
    }
}

/// Whether a copy is not in `new` any more.
pub(crate) fn is_moved(copy: &InMaildir) -> bool {
    let path = path_of(&copy.file).join("new").join(OsStr::from_bytes(&copy.file.name));
    let there = fs::symlink_metadata(path).and_then(|there| Ok((there, copy.open.metadata()?)));
    !there.is_ok_and(|(there, open)| (there.ino(), there.dev()) == (open.ino(), open.dev()))
}

/// Takes back a copy whose sync failed. The kernel may take its pages for clean now, so that looking at it, or syncing it again,
/// would say that it is whole: it must be written anew. One that its owner has moved is his.
pub(crate) fn withdraw(copy: &InMaildir) {
    let path = path_of(&copy.file).join("new").join(OsStr::from_bytes(&copy.file.name));
    let same =
        |meta: &fs::Metadata, open: &fs::Metadata| meta.ino() == open.ino() && meta.dev() == open.dev();
    let ours = fs::symlink_metadata(&path).and_then(|meta| Ok(same(&meta, &copy.open.metadata()?)));
    match ours.and_then(|ours| if ours { fs::remove_file(&path) } else { Ok(()) }) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => tracing::warn!("warning: unable to unlink {}: {error}", path.display()),
    }
}

/// In the place of the mount: the copy could not be synced. Whatever is found of it is not believed, and that nothing is found
/// neither.
pub(crate) const DOUBTED: u64 = u64::MAX;

/// Puts right what a crash has left of a copy, durably: one that is torn is made whole, one that is missing is delivered
/// again. One that its owner removed is not: `believed` says whether what is missing in a file system that has not been mounted
/// since was removed by him.
///
/// # Errors
/// With the copy, if that is there and could not be synced: it is to be withdrawn ([`withdraw`]) when that is noted.
pub(crate) fn restore(
    file: &MaildirFile,
    body: &Body,
    believed: bool,
) -> Result<(), (io::Error, Option<InMaildir>)> {
    let maildir = path_of(file);
    let name = OsStr::from_bytes(&file.name);
    let doubted = file.mount == DOUBTED;
    let within = maildir.parent();
    let copy = Copy { maildir: &maildir, within, name, head: &file.head, body, again: true, doubted };
    let plain = |error: io::Error| (error, None);
    // Whoever has died may have been told of a failed sync: what the page cache says since proves nothing.
    let places = places(&maildir, name).map_err(plain)?;
    for path in &places {
        let Some(file) = regular::open(path).map_err(plain)? else { continue };
        if let Err(error) = file.sync_all() {
            return Err((error, in_maildir(&copy, file).ok()));
        }
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap_or(());
    }
    let copy = match found(&copy, &places).map_err(plain)? {
        Some(found) => found,
        None if believed && file.mount != 0 && !doubted => {
            let status = File::open(&maildir).and_then(|dir| Status::of(&dir)).map_err(plain)?;
            if status.mount == file.mount {
                return Ok(());
            }
            deliver(&copy).map_err(plain)?
        }
        None => deliver(&copy).map_err(plain)?,
    };
    sync_or(std::slice::from_ref(&copy), true, |_| ()).map_err(|error| (error, Some(copy)))
}

/// Where an open file is.
struct Status {
    device: u64,
    mount: u64,
}

impl Status {
    fn of(file: &File) -> io::Result<Self> {
        /// `STATX_MNT_ID_UNIQUE`.
        const MOUNT: StatxFlags = StatxFlags::from_bits_retain(0x4000);
        let status = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | MOUNT)?;
        let told = status.stx_mask & MOUNT.bits() != 0;
        Ok(Self {
            device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
            mount: if told { status.stx_mnt_id } else { 0 },
        })
    }
}

/// The Maildir of a copy.
pub(crate) fn path_of(copy: &MaildirFile) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&copy.dir))
}

/// Whose Maildir it is. Directories that are missing are made `within` this one.
fn ready(maildir: &Path, within: Option<&Path>) -> io::Result<(u32, u32)> {
    let meta = there(maildir, within)?;
    for name in ["tmp", "new", "cur"] {
        there(&maildir.join(name), within)?;
    }
    Ok((meta.uid(), meta.gid()))
}

/// A directory, made with those above it, and with their owner, if it is missing `within` this one.
fn there(path: &Path, within: Option<&Path>) -> io::Result<fs::Metadata> {
    match fs::metadata(path) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && within.is_some_and(|within| path != within && path.starts_with(within)) =>
        {
            make(path, &there(path.parent().unwrap_or(path), within)?)?;
            fs::metadata(path)
        }
        other => other,
    }
}

fn make(directory: &Path, owner: &fs::Metadata) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        // Another delivery made it, or its owner did.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(directory, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// Where a file of this name may be: in `new`, or in `cur` with flags behind it.
fn places(maildir: &Path, name: &OsStr) -> io::Result<Vec<PathBuf>> {
    let mut places = vec![maildir.join("new").join(name)];
    let entries = match fs::read_dir(maildir.join("cur")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(places),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let found = entry.file_name();
        let rest = found.as_bytes().strip_prefix(name.as_bytes());
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b":")) {
            places.push(entry.path());
        }
    }
    Ok(places)
}

/// The copy that an earlier attempt has delivered, if it is whole or somebody else's; one that is torn is put right, one that
/// is `doubted` removed: nobody may take it for whole if it cannot be written again.
fn found(copy: &Copy<'_>, places: &[PathBuf]) -> io::Result<Option<InMaildir>> {
    for path in places {
        match compare(copy, path)? {
            Found::Nothing => (),
            Found::Torn => {
                let file = replace(copy, path)?;
                return Ok(Some(file));
            }
            Found::Whole(_) if copy.doubted => fs::remove_file(path)?,
            Found::Whole(file) | Found::Other(file) => return in_maildir(copy, file).map(Some),
        }
    }
    Ok(None)
}

enum Found {
    Nothing,
    /// Shorter than the copy, or zeros in place of its end: what a power cut leaves.
    Torn,
    /// The copy itself.
    Whole(File),
    /// Whatever its owner has made of it.
    Other(File),
}

fn compare(copy: &Copy<'_>, path: &Path) -> io::Result<Found> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    let size = copy.head.len() as u64 + copy.body.size();
    if !meta.is_file() || meta.len() > size {
        return Ok(Found::Other(file));
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut torn = meta.len() < size;
    let (mut from_body, mut first) = (0, true);
    loop {
        if first {
            ours.extend_from_slice(copy.head);
        } else {
            copy.body.read_at(from_body, &mut ours)?;
            from_body += ours.len() as u64;
        }
        if ours.is_empty() && !first {
            break;
        }
        first = false;
        theirs.clear();
        (&mut file).take(ours.len() as u64).read_to_end(&mut theirs)?;
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let mut rest = theirs.split_off(at);
            file.read_to_end(&mut rest)?;
            return Ok(if rest.iter().all(|byte| *byte == 0) { Found::Torn } else { Found::Other(file) });
        }
        torn |= theirs.len() < ours.len();
        if theirs.len() < ours.len() {
            break;
        }
    }
    Ok(if torn { Found::Torn } else { Found::Whole(file) })
}

/// Writes a torn copy anew, in its place.
fn replace(copy: &Copy<'_>, path: &Path) -> io::Result<InMaildir> {
    let owner = ready(copy.maildir, copy.within)?;
    let (mut file, tmp) = named(copy)?;
    let result = write(copy, &mut file, owner).and_then(|()| {
        file.sync_all()?;
        fs::rename(&tmp, path)
    });
    match result {
        Ok(()) => in_maildir(copy, file),
        Err(error) => {
            drop(fs::remove_file(&tmp));
            Err(error)
        }
    }
}

/// A file in the Maildir's file system: without a name where that can be, otherwise in `tmp`.
fn unnamed(copy: &Copy<'_>) -> io::Result<(File, Option<PathBuf>)> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, copy.maildir.join("new"), flags, Mode::from_raw_mode(0o600));
    match opened {
        Ok(file) => Ok((File::from(file), None)),
        Err(
            rustix::io::Errno::OPNOTSUPP
            | rustix::io::Errno::ISDIR
            | rustix::io::Errno::INVAL
            | rustix::io::Errno::NOSYS,
        ) => {
            let (file, tmp) = named(copy)?;
            Ok((file, Some(tmp)))
        }
        Err(error) => Err(error.into()),
    }
}

/// A file in `tmp`. Its name is its own: an earlier attempt that hangs may still write.
fn named(copy: &Copy<'_>) -> io::Result<(File, PathBuf)> {
    let n = TMP.fetch_add(1, Ordering::Relaxed);
    let mut name = copy.name.to_owned();
    name.push(format!(".{}.{n}", std::process::id()));
    let path = copy.maildir.join("tmp").join(name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((file, path))
}

fn write(copy: &Copy<'_>, file: &mut File, (uid, gid): (u32, u32)) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(&*file, Some(uid), Some(gid))?;
    }
    if let Some(body) = copy.body.in_memory() {
        let mut parts = [io::IoSlice::new(copy.head), io::IoSlice::new(body)];
        let mut parts = &mut parts[..];
        while !parts.is_empty() {
            let written = file.write_vectored(parts)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            io::IoSlice::advance_slices(&mut parts, written);
        }
        return Ok(());
    }
    file.write_all(copy.head)?;
    let (mut at, mut chunk) = (0, Vec::new());
    loop {
        copy.body.read_at(at, &mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        at += chunk.len() as u64;
        file.write_all(&chunk)?;
    }
}

/// Gives the file its name in `new`. What has that name already is an earlier attempt's.
fn publish(copy: &Copy<'_>, file: &File, tmp: Option<&Path>) -> io::Result<()> {
    let new = copy.maildir.join("new").join(copy.name);
    let link = || match tmp {
        Some(tmp) => fs::hard_link(tmp, &new),
        None => {
            let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok(rustix::fs::linkat(CWD, unnamed, CWD, &new, AtFlags::SYMLINK_FOLLOW)?)
        }
    };
    match link() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match compare(copy, &new)? {
            Found::Torn => replace(copy, &new).map(drop),
            Found::Nothing => link(),
            Found::Whole(_) | Found::Other(_) => Ok(()),
        },
        linked => linked,
    }
}

fn in_maildir(copy: &Copy<'_>, file: File) -> io::Result<InMaildir> {
    let status = Status::of(&file)?;
    Ok(InMaildir {
        file: MaildirFile {
            dir: copy.maildir.as_os_str().as_bytes().to_vec(),
            name: copy.name.as_bytes().to_vec(),
            head: copy.head.to_vec(),
            mount: status.mount,
        },
        open: Arc::new(file),
        device: status.device,
    })
}

#[cfg(test)]
mod tests;
