//! Files that a finished message leaves, used again for the next one.
//!
//! ext4 hands out no inode again within five seconds of its deletion, and looks through all of those each time it needs
//! one: a queue that creates and unlinks four files a message spends most of its time there. So a file that is done is
//! renamed into `pid/` and written over when it is taken for something new. It is not emptied first: ext4 writes a file
//! out at once that was truncated to nothing and filled again. A restart sweeps what is left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
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
    files: Mutex<Vec<(PathBuf, u64)>>,
}

/// A file to be written from its beginning. What it held before is cut off by [`Blank::finish`].
#[derive(Debug)]
pub(super) struct Blank {
    pub(super) path: PathBuf,
    file: File,
    /// Bytes it held.
    old: u64,
    /// Bytes written.
    written: u64,
}

impl Blank {
    /// A file that holds nothing.
    pub(super) fn new(path: PathBuf, file: File) -> Self {
        Self { path, file, old: 0, written: 0 }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// It is written: nothing of what it held before is left in it. Before anybody else may see it.
    pub(super) fn finish(&self) -> io::Result<()> {
        if self.old > self.written { self.file.set_len(self.written) } else { Ok(()) }
    }
}

impl Write for Blank {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Blanks {
    /// Files of `mode` in `directory`.
    pub(super) fn new(directory: &Path, mode: u32) -> Self {
        Self { directory: directory.to_owned(), mode, names: AtomicU64::new(0), files: Mutex::default() }
    }

    /// The mode.
    pub(super) fn mode(&self) -> u32 {
        self.mode
    }

    /// A file to be written. Whoever takes it renames or unlinks it.
    pub(super) fn take(&self) -> Option<Blank> {
        let (path, old) = self.files.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        // One that somebody removed is no loss.
        let file = OpenOptions::new().write(true).open(&path).ok()?;
        Some(Blank { path, file, old, written: 0 })
    }

    /// Keeps the file at `path` for later, or unlinks it. That there is none is fine.
    pub(super) fn retire(&self, path: &Path) -> io::Result<()> {
        let size = match fs::symlink_metadata(path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let full = self.files.lock().unwrap_or_else(PoisonError::into_inner).len() >= KEPT;
        if full || size > MAX_SIZE {
            return super::disk::absent_is_fine(fs::remove_file(path));
        }
        let n = self.names.fetch_add(1, Ordering::Relaxed);
        let blank = self.directory.join(format!("blank.{:o}.{}.{n}", self.mode, std::process::id()));
        fs::rename(path, &blank)?;
        self.files.lock().unwrap_or_else(PoisonError::into_inner).push((blank, size));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_retired_file_comes_back_with_its_inode_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let blanks = Blanks::new(dir.path(), 0o644);
        let path = dir.path().join("928119");
        fs::write(&path, "somebody's secret").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        blanks.retire(&path).unwrap();
        assert!(!path.exists());
        let mut blank = blanks.take().unwrap();
        assert_eq!(blank.file().metadata().unwrap().ino(), inode);
        blank.write_all(b"new").unwrap();
        blank.finish().unwrap();
        assert_eq!(fs::read(&blank.path).unwrap(), b"new");
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
