//! One host a home: an exclusive lock on `DIR/run/lock` for as long as the process lives.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use mailtree_config::regular;
use rustix::fs::{FlockOperation, flock};

use super::{RUN_MODE, run_dir};

/// The right to be the host of a home; the system takes it back with the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why this process cannot be the host.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process is; its process id, if the file tells.
    #[error("another mailtree runs here{}", .0.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Taken(Option<String>),
    /// `run/lock` cannot be opened or locked.
    #[error("unable to lock {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Takes the lock of `home`, making `run/` if it is missing.
pub fn lock(home: &Path) -> Result<Lock, LockError> {
    let run = run_dir(home);
    let path = run.join("lock");
    let failed = |source| LockError::Io { path: path.display().to_string(), source };
    let mut directory = std::fs::DirBuilder::new();
    directory.recursive(true).mode(RUN_MODE).create(&run).map_err(failed)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = regular::open_as(&mut options, &path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.take(20).read_to_string(&mut pid).map_err(failed)?;
            let pid = pid.trim();
            return Err(LockError::Taken(pid.parse::<u32>().is_ok().then(|| pid.to_owned())));
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_host_of_a_home_is_refused_and_told_of_the_first() {
        let home = tempfile::tempdir().unwrap();
        let first = lock(home.path()).unwrap();
        let refused = lock(home.path()).unwrap_err();
        assert_eq!(refused.to_string(), format!("another mailtree runs here (pid {})", std::process::id()));
        drop(first);
        drop(lock(home.path()).unwrap());
    }

    #[test]
    fn unusable_home_is_named() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("run"), "a file").unwrap();
        let error = lock(home.path()).unwrap_err().to_string();
        assert!(error.starts_with("unable to lock ") && error.contains("/run/lock: "), "{error}");
    }
}
