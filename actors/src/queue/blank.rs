//! Files that a finished message leaves, used again for the next one.
//!
//! ext4 hands out no inode again within five seconds of its deletion, and looks through all of those each time it needs
//! one: a queue that creates and unlinks four files a message spends most of its time there. So a file that is done is
//! renamed into `pid/` and written over when it is taken for something new. It is not emptied first: ext4 writes a file
//! out at once that was truncated to nothing and filled again.
//!
//! A file that is written over must be out of the queue for good: after a power cut it could be back under its old name with
//! the new content. So a retired file cools until a sync that began after its rename has ended. A restart sweeps what is left.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How their names in `pid/` begin.
pub(super) const PREFIX: &str = "blank.";

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
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// May be written over: path and size.
    ready: Vec<(PathBuf, u64)>,
    /// Renamed, perhaps not durably: number of the retirement, path and size.
    cooling: VecDeque<(u64, PathBuf, u64)>,
}

/// What had been retired when a sync began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(u64);

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
        let (path, old) = self.lock().ready.pop()?;
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
        let mut files = self.lock();
        if files.ready.len() + files.cooling.len() >= KEPT || size > MAX_SIZE {
            drop(files);
            return super::disk::absent_is_fine(fs::remove_file(path));
        }
        let n = self.names.fetch_add(1, Ordering::Relaxed);
        let blank = self.directory.join(format!("{PREFIX}{:o}.{}.{n}", self.mode, std::process::id()));
        // A full filesystem may have no room for the new name; the queue must drain all the same.
        if fs::rename(path, &blank).is_err() {
            drop(files);
            return super::disk::absent_is_fine(fs::remove_file(path));
        }
        files.cooling.push_back((n, blank, size));
        Ok(())
    }

    /// A sync of the queue's filesystem begins.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.lock().cooling.back().map_or(0, |(n, ..)| n + 1))
    }

    /// It has ended well: what was retired before may be written over.
    pub(super) fn cooled(&self, Mark(before): Mark) {
        let mut files = self.lock();
        while let Some((n, path, size)) = files.cooling.pop_front() {
            if n >= before {
                files.cooling.push_front((n, path, size));
                break;
            }
            files.ready.push((path, size));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(blanks.take().is_none(), "its rename may not be durable yet");
        let mark = blanks.mark();
        blanks.cooled(mark);
        let mut blank = blanks.take().unwrap();
        assert_eq!(blank.file().metadata().unwrap().ino(), inode);
        blank.write_all(b"new").unwrap();
        blank.finish().unwrap();
        assert_eq!(fs::read(&blank.path).unwrap(), b"new");
        assert!(blanks.take().is_none());
        blanks.retire(&dir.path().join("nothing")).unwrap();
    }

    #[test]
    fn what_was_retired_during_a_sync_waits_for_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let blanks = Blanks::new(dir.path(), 0o644);
        let retire = |name: &str| {
            fs::write(dir.path().join(name), name).unwrap();
            blanks.retire(&dir.path().join(name)).unwrap();
        };
        retire("before");
        let mark = blanks.mark();
        retire("during");
        blanks.cooled(mark);
        let blank = blanks.take().unwrap();
        assert_eq!(fs::read_to_string(&blank.path).unwrap(), "before");
        assert!(blanks.take().is_none());
    }

    #[test]
    fn large_files_and_files_beyond_the_number_kept_are_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let blanks = Blanks::new(dir.path(), 0o644);
        let large = dir.path().join("large");
        fs::write(&large, vec![0; 70_000]).unwrap();
        blanks.retire(&large).unwrap();
        blanks.cooled(blanks.mark());
        assert!(!large.exists() && blanks.take().is_none());
        for n in 0..KEPT + 3 {
            let path = dir.path().join(n.to_string());
            fs::write(&path, "x").unwrap();
            blanks.retire(&path).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEPT);
    }
}
