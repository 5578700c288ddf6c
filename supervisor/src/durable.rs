//! Files that are whole or not there: written beside their place, made durable, renamed.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use mailtree_config::regular;
use rustix::fs::FlockOperation;

use crate::failure::{Doing, Failure};

/// A longer file is not edited: 256 MiB.
pub(crate) const SIZE_MAX: u64 = 256 << 20;

/// Who owns a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Of a file or directory.
    pub(crate) fn of(path: &Path) -> Result<Self, Failure> {
        let metadata = std::fs::metadata(path).doing("stat", path)?;
        Ok(Self { uid: metadata.uid(), gid: metadata.gid() })
    }

    /// Of what this process creates.
    pub(crate) fn own() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn give(self, path: &Path) -> Result<(), Failure> {
        if self == Self::of(path)? {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).doing("chown", path)
    }
}

/// Writes a file, in place of an old one if there is one. Old mode and owner stay; a new file gets those given.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> Result<(), Failure> {
    let (mode, owner) = match std::fs::metadata(path) {
        Ok(old) => (old.mode() & 0o7777, Owner { uid: old.uid(), gid: old.gid() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (mode, owner),
        Err(error) => return Err(Failure::io("stat", path, &error)),
    };
    let dir = parent(path);
    let file = written(dir, path, bytes, mode, owner)?;
    file.persist(path).map_err(|error| error.error).doing("write", path)?;
    sync_dir(dir)
}

/// Writes a file that must not be there yet.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> Result<(), Failure> {
    let dir = parent(path);
    let file = written(dir, path, bytes, mode, owner)?;
    file.persist_noclobber(path).map_err(|error| error.error).doing("create", path)?;
    sync_dir(dir)
}

fn written(
    dir: &Path,
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Owner,
) -> Result<tempfile::NamedTempFile, Failure> {
    let mut file =
        tempfile::Builder::new().prefix(".new-").tempfile_in(dir).doing("create a file in", dir)?;
    file.write_all(bytes).doing("write", path)?;
    owner.give(file.path())?;
    // After chown, which clears some bits.
    file.as_file().set_permissions(Permissions::from_mode(mode)).doing("chmod", path)?;
    file.as_file().sync_all().doing("sync", path)?;
    Ok(file)
}

/// Makes a directory, which must not be there yet.
pub(crate) fn create_dir(path: &Path, mode: u32, owner: Owner) -> Result<(), Failure> {
    create_dir_unsynced(path, mode, owner)?;
    sync_dir(parent(path))
}

/// Makes a directory; the caller makes the entries of its parent durable when it has made them all.
pub(crate) fn create_dir_unsynced(path: &Path, mode: u32, owner: Owner) -> Result<(), Failure> {
    DirBuilder::new().mode(0o700).create(path).doing("create", path)?;
    owner.give(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).doing("chmod", path)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), Failure> {
    File::open(path).and_then(|dir| dir.sync_all()).doing("sync", path)
}

/// A whole file; `None`: there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let bytes = regular::read(path, SIZE_MAX).doing("read", path)?;
    if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 > SIZE_MAX) {
        return Err(Failure::permanent(format!("{}: longer than {SIZE_MAX} bytes", path.display())));
    }
    Ok(bytes)
}

/// Holds a lock file until dropped; waits for whoever holds it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(path: &Path, owner: Owner) -> Result<Self, Failure> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let file = regular::open_as(&mut options, path).doing("open", path)?;
        owner.give(path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(io::Error::from)
            .doing("lock", path)?;
        Ok(Self { _file: file })
    }

    /// Locks a directory itself, without waiting. `None`: somebody else holds it.
    pub(crate) fn try_dir(path: &Path) -> Result<Option<Self>, Failure> {
        let file = File::open(path).doing("open", path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Failure::io("lock", path, &error.into())),
        }
    }
}

/// The directory of a file.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}
