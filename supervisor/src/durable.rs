//! Files and directories of a home as the commands make them, with errors that say what was to be done to which.

use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use mailtree_actors::durable;
pub(crate) use mailtree_actors::durable::{Owner, parent};
use mailtree_actors::lock_file::LockFile;
use mailtree_config::regular;
use rustix::fs::FlockOperation;

use crate::failure::{Doing, Failure};

/// A longer file is not edited: 256 MiB.
pub(crate) const SIZE_MAX: u64 = 256 << 20;

/// Writes a file, in place of an old one if there is one. Old mode and owner stay; a new file gets those given.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> Result<(), Failure> {
    durable::replace(path, bytes, mode, owner).doing("write", path)
}

/// Writes a file that must not be there yet.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> Result<(), Failure> {
    durable::create(path, bytes, mode, owner).doing("create", path)
}

/// Owner of a file or directory.
pub(crate) fn owner_of(path: &Path) -> Result<Owner, Failure> {
    Owner::of(path).doing("stat", path)
}

/// Makes a directory, which must not be there yet.
pub(crate) fn create_dir(path: &Path, mode: u32, owner: Owner) -> Result<(), Failure> {
    create_dir_unsynced(path, mode, owner)?;
    sync_dir(parent(path))
}

/// Makes a directory; the caller makes the entries of its parent durable when it has made them all.
pub(crate) fn create_dir_unsynced(path: &Path, mode: u32, owner: Owner) -> Result<(), Failure> {
    DirBuilder::new().mode(0o700).create(path).doing("create", path)?;
    owner.give(path).doing("chown", path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).doing("chmod", path)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), Failure> {
    durable::sync_dir(path).doing("sync", path)
}

/// A whole file; `None`: there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let bytes = regular::read(path, SIZE_MAX).doing("read", path)?;
    if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 > SIZE_MAX) {
        return Err(Failure::permanent(format!("{}: longer than {SIZE_MAX} bytes", path.display())));
    }
    Ok(bytes)
}

/// A lock file, as vpopmail's programs take it; waits for whoever holds it.
pub(crate) fn lock(path: &Path, owner: Owner) -> Result<LockFile, Failure> {
    LockFile::take(path, owner).doing("lock", path)
}

/// A lock on a directory itself, held until dropped.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Waits for nobody. `None`: somebody else holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, Failure> {
        let file = File::open(path).doing("open", path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Failure::io("lock", path, &error.into())),
        }
    }
}
