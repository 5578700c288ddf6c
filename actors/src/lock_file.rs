//! Lock files as vpopmail's programs take them: a write lock by fcntl(2) on the whole file.
//!
//! The lock belongs to the open file (`F_OFD_SETLK`), not to the process: it keeps out other programs' locks of either kind, and
//! other threads of this process.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use mailtree_config::regular;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_WRLCK, SEEK_SET, c_short, flock};

use crate::durable::Owner;

/// Held until dropped.
#[derive(Debug)]
pub struct LockFile {
    _file: File,
}

impl LockFile {
    /// Waits for whoever holds it; a new lock file is `owner`'s. For commands, behind which a person waits.
    pub fn take(path: &Path, owner: Owner) -> io::Result<Self> {
        let file = open(path, owner)?;
        fcntl(file.as_fd(), FcntlArg::F_OFD_SETLKW(&whole()))?;
        Ok(Self { _file: file })
    }

    /// Waits for nobody. `None`: somebody holds it.
    pub fn try_take(path: &Path, owner: Owner) -> io::Result<Option<Self>> {
        let file = open(path, owner)?;
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole())) {
            Ok(_) => Ok(Some(Self { _file: file })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn open(path: &Path, owner: Owner) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    match regular::open_itself(&mut options, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = regular::open_itself(options.create(true).truncate(false), path)?;
            owner.give(path)?;
            Ok(file)
        }
        opened => opened,
    }
}

fn whole() -> flock {
    flock { l_type: F_WRLCK as c_short, l_whence: SEEK_SET as c_short, l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_programs_that_lock_by_process_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".vpasswd.lock");
        let held = LockFile::try_take(&path, Owner::own()).unwrap().unwrap();
        assert!(LockFile::try_take(&path, Owner::own()).unwrap().is_none());
        drop(held);
        // As vpopmail's own tools lock it.
        let other = File::options().write(true).open(&path).unwrap();
        fcntl(other.as_fd(), FcntlArg::F_SETLK(&whole())).unwrap();
        assert!(LockFile::try_take(&path, Owner::own()).unwrap().is_none());
        drop(other);
        LockFile::take(&path, Owner::own()).unwrap();
    }
}
