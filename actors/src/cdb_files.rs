//! cdb files that are asked again and again: kept in memory until they change on disk.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mailtree_config::changes::{Changes, Look};
use mailtree_config::regular;
use mailtree_protocols::cdb::Cdb;

/// Largest file that is read, in bytes.
const MAX_SIZE: u64 = 256 * 1024 * 1024;

/// Files kept; beyond that all are forgotten.
const MAX_FILES: usize = 1000;

/// Bytes of them; beyond that all are forgotten.
const MAX_HELD: u64 = 512 * 1024 * 1024;

/// What tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version(u64, u64, i64, i64);

struct Kept {
    version: Version,
    cdb: Arc<Cdb<Vec<u8>>>,
    look: Option<Look>,
}

/// The files.
#[derive(Clone, Default)]
pub struct CdbFiles(Arc<Inner>);

#[derive(Default)]
struct Inner {
    kept: Mutex<HashMap<PathBuf, Kept>>,
    changes: Changes,
}

impl CdbFiles {
    /// The file as it is now; none if it does not exist.
    pub fn open(&self, path: &Path) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        self.read(path, None)
    }

    /// The file as it was at most 100 ms ago, if no change in its directory has been noticed since. For files of the host's own:
    /// their directories are watched from then on.
    pub fn recent(&self, path: &Path) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        if let Some(kept) = self.lock().get(path)
            && kept.look.is_some_and(|look| self.0.changes.hold(look))
        {
            return Ok(Some(Arc::clone(&kept.cdb)));
        }
        self.read(path, path.parent().map(|dir| self.0.changes.look(dir)))
    }

    /// `users/cdb` as it was at most 100 ms ago; none where nobody is assigned.
    ///
    /// # Errors
    /// When it cannot be read; when it is missing although the `assign` beside it assigns somebody: qmail-newu has not been run,
    /// and nobody knows whom mail is for. (More than the `.` of an empty one.)
    pub fn users(&self, path: &Path) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        let found = self.recent(path).map_err(|error| about(path, &error))?;
        let assigns =
            || std::fs::metadata(path.with_file_name("assign")).is_ok_and(|assign| assign.len() > 2);
        if found.is_none() && assigns() {
            return Err(about(path, &"missing; made by qmail-newu"));
        }
        Ok(found)
    }

    fn read(&self, path: &Path, look: Option<Look>) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        let Some((file, meta)) = regular::open_with_metadata(path)? else { return Ok(None) };
        let version = Version(meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        if let Some(kept) = self.lock().get_mut(path)
            && kept.version == version
        {
            kept.look = look.or(kept.look);
            return Ok(Some(Arc::clone(&kept.cdb)));
        }
        if meta.len() > MAX_SIZE {
            return Err(io::Error::other(format!("{} is larger than {MAX_SIZE} bytes", path.display())));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SIZE).read_to_end(&mut bytes)?;
        let cdb = Arc::new(Cdb::new(bytes).map_err(io::Error::other)?);
        let mut kept = self.lock();
        let held: u64 = kept.values().map(|kept| kept.version.1).sum();
        if kept.len() >= MAX_FILES || held + version.1 > MAX_HELD {
            kept.clear();
        }
        kept.insert(path.to_owned(), Kept { version, cdb: Arc::clone(&cdb), look });
        Ok(Some(cdb))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error that names its file.
pub(crate) fn about(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
