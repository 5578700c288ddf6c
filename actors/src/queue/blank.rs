//! Files that a finished message leaves, used again for the next one.
//!
//! ext4 hands out no inode again within five seconds of its deletion, and looks through all of those each time it needs
//! one: a queue that creates and unlinks four files a message spends most of its time there. So a file that is done is
//! renamed into `pid/`, and emptied when it is taken for something new. A restart sweeps what is left.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Files kept.
const KEPT: usize = 512;

/// Larger files are unlinked: a blank holds its blocks until it is taken.
const MAX_SIZE: u64 = 64 * 1024;

/// Blank files of one mode.
#[derive(Debug)]
pub(super) struct Blanks {
    directory: PathBuf,
    mode: u32,
    names: AtomicU64,
    paths: Mutex<Vec<PathBuf>>,
}

impl Blanks {
    /// Files of `mode` in `directory`.
    pub(super) fn new(directory: &Path, mode: u32) -> Self {
        Self { directory: directory.to_owned(), mode, names: AtomicU64::new(0), paths: Mutex::default() }
    }

    /// The mode.
    pub(super) fn mode(&self) -> u32 {
        self.mode
    }

    /// An empty file, open for writing, and where it is. Whoever takes it renames or unlinks it.
    pub(super) fn take(&self) -> Option<(File, PathBuf)> {
        let path = self.paths.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        // One that somebody removed is no loss.
        let file = OpenOptions::new().write(true).truncate(true).open(&path).ok()?;
        Some((file, path))
    }

    /// Keeps the file at `path` for later, or unlinks it. That there is none is fine.
    pub(super) fn retire(&self, path: &Path) -> io::Result<()> {
        let size = match fs::symlink_metadata(path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let full = self.paths.lock().unwrap_or_else(PoisonError::into_inner).len() >= KEPT;
        if full || size > MAX_SIZE {
            return super::disk::absent_is_fine(fs::remove_file(path));
        }
        let n = self.names.fetch_add(1, Ordering::Relaxed);
        let blank = self.directory.join(format!("blank.{:o}.{}.{n}", self.mode, std::process::id()));
        fs::rename(path, &blank)?;
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).push(blank);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_retired_file_comes_back_empty_with_its_inode() {
        let dir = tempfile::tempdir().unwrap();
        let blanks = Blanks::new(dir.path(), 0o644);
        let path = dir.path().join("928119");
        fs::write(&path, "somebody's secret").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        blanks.retire(&path).unwrap();
        assert!(!path.exists());
        let (mut file, _) = blanks.take().unwrap();
        assert_eq!((file.metadata().unwrap().ino(), file.metadata().unwrap().len()), (inode, 0));
        file.write_all(b"new").unwrap();
        assert!(blanks.take().is_none());
        blanks.retire(&dir.path().join("nothing")).unwrap();
    }

    #[test]
    fn large_files_and_files_beyond_the_number_kept_are_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let blanks = Blanks::new(dir.path(), 0o644);
        let large = dir.path().join("large");
        fs::write(&large, vec![0; 70_000]).unwrap();
        blanks.retire(&large).unwrap();
        assert!(!large.exists() && blanks.take().is_none());
        for n in 0..KEPT + 3 {
            let path = dir.path().join(n.to_string());
            fs::write(&path, "x").unwrap();
            blanks.retire(&path).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEPT);
    }
}
