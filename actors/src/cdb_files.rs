//! cdb files that are asked again and again: kept in memory until they change on disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mailtree_config::changes::{Changes, Look, QUIET, is_younger};
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
    held: Mutex<Held>,
    changes: Changes,
}

#[derive(Default)]
struct Held {
    kept: HashMap<PathBuf, Kept>,
    /// What is wrong with the host's own files as they are; has been said.
    wrong: HashMap<PathBuf, String>,
    /// Files that are being read.
    reading: HashMap<PathBuf, Arc<Mutex<()>>>,
}

impl CdbFiles {
    /// The file as it is now; none if it does not exist.
    ///
    /// # Errors
    /// When it cannot be read, or its tables are not within.
    pub fn open(&self, path: &Path) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        self.read(path, None)
    }

    /// A file of the host's own as it was at most 100 ms ago, if no change in its directory has been noticed since: that is
    /// watched from then on. When it becomes bad, what it was before stays in force, which is said once.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged anywhere, and never was in order.
    pub fn recent(&self, path: &Path) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        if let Some(kept) = self.lock().kept.get(path)
            && kept.look.is_some_and(|look| self.0.changes.hold(look))
        {
            return Ok(Some(Arc::clone(&kept.cdb)));
        }
        // Before the file is looked at: what changes meanwhile is looked at again.
        let look = path.parent().map(|dir| self.0.changes.look(dir));
        match self.read(path, look) {
            Ok(found) => {
                self.lock().wrong.remove(path);
                Ok(found)
            }
            Err(error) => self.in_force(path, look, &error),
        }
    }

    /// What stays in force of a file that is bad now.
    fn in_force(
        &self,
        path: &Path,
        look: Option<Look>,
        error: &io::Error,
    ) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        let error = about(path, error);
        let Held { kept, wrong, .. } = &mut *self.lock();
        let Some(kept) = kept.get_mut(path) else {
            wrong.insert(path.to_owned(), error.to_string());
            return Err(error);
        };
        let is_being_written = std::fs::metadata(path).is_ok_and(|meta| is_younger(&meta, QUIET));
        if !is_being_written {
            kept.look = look;
            let text = error.to_string();
            if wrong.get(path) != Some(&text) {
                tracing::error!("alert: {text}; what was there before stays in force");
                wrong.insert(path.to_owned(), text);
            }
        }
        Ok(Some(Arc::clone(&kept.cdb)))
    }

    /// `users/cdb`, recent; none where nobody is assigned.
    ///
    /// # Errors
    /// As [`CdbFiles::recent`]; and when it is missing although the `assign` beside it assigns somebody: qmail-newu has not
    /// been run, and nobody knows whom mail is for. (More than the `.` of an empty one.)
    pub fn users(&self, path: &Path) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        let found = self.recent(path)?;
        let assigns =
            || std::fs::metadata(path.with_file_name("assign")).is_ok_and(|assign| assign.len() > 2);
        if found.is_none() && assigns() {
            let error = about(path, &"missing; made by qmail-newu");
            self.lock().wrong.insert(path.to_owned(), error.to_string());
            return Err(error);
        }
        Ok(found)
    }

    /// What was wrong with a file of the host's own when it was last asked for. Answers from memory.
    #[must_use]
    pub fn trouble(&self, path: &Path) -> Option<String> {
        self.lock().wrong.get(path).cloned()
    }

    fn read(&self, path: &Path, look: Option<Look>) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        let Some((file, meta)) = regular::open_with_metadata(path)? else {
            self.lock().kept.remove(path);
            return Ok(None);
        };
        let version = Version(meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        if let Some(kept) = self.lock().kept.get_mut(path)
            && kept.version == version
        {
            kept.look = look.or(kept.look);
            return Ok(Some(Arc::clone(&kept.cdb)));
        }
        // One reader: a large database is not to be read by all that wait for it.
        let turn = Arc::clone(self.lock().reading.entry(path.to_owned()).or_default());
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = self.lock().kept.get(path)
            && kept.version == version
        {
            return Ok(Some(Arc::clone(&kept.cdb)));
        }
        let read = load(file, look.is_some());
        let held = &mut *self.lock();
        held.reading.remove(path);
        let cdb = Arc::new(read?);
        let size: u64 = held.kept.values().map(|kept| kept.version.1).sum();
        if held.kept.len() >= MAX_FILES || size + version.1 > MAX_HELD {
            held.kept.clear();
        }
        held.kept.insert(path.to_owned(), Kept { version, cdb: Arc::clone(&cdb), look });
        Ok(Some(cdb))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a database, and if `all` looks at all of it.
fn load(file: File, all: bool) -> io::Result<Cdb<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::other(format!("larger than {MAX_SIZE} bytes")));
    }
    let cdb = Cdb::new(bytes).map_err(io::Error::other)?;
    if all {
        cdb.check().map_err(io::Error::other)?;
    }
    Ok(cdb)
}

/// An error that names its file.
pub(crate) fn about(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
