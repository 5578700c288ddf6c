//! Copies of refused and dropped messages, for the administrator.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Files that a quarantine holds: strangers fill it.
const MAX_FILES: usize = 10_000;

/// Bytes that it holds: 1 GiB.
const MAX_BYTES: u64 = 1 << 30;

/// Copies `size` bytes of a file, from `skip` on, to a new file in a directory; durable when it returns.
pub(super) async fn copy(directory: PathBuf, from: PathBuf, skip: u64, size: u64) -> io::Result<PathBuf> {
    let copied = tokio::task::spawn_blocking(move || copy_now(&directory, &from, skip, size)).await;
    copied.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Whether the directory may take `size` bytes more.
fn has_room(directory: &Path, size: u64) -> io::Result<bool> {
    let (mut files, mut bytes) = (0, size);
    for entry in fs::read_dir(directory)? {
        files += 1;
        // One that is just being removed is no more.
        bytes = bytes.saturating_add(entry?.metadata().map_or(0, |metadata| metadata.len()));
        if files >= MAX_FILES || bytes > MAX_BYTES {
            return Ok(false);
        }
    }
    Ok(bytes <= MAX_BYTES)
}

fn copy_now(directory: &Path, from: &Path, skip: u64, size: u64) -> io::Result<PathBuf> {
    if !has_room(directory, size)? {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("{} has {MAX_FILES} files or {MAX_BYTES} bytes", directory.display()),
        ));
    }
    let mut from = File::open(from)?;
    from.seek(SeekFrom::Start(skip))?;
    // As simscan names its directories, SEC.USEC.PID, and a number nobody guesses.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (pid, number) = (std::process::id(), rand::random::<u64>());
    let path = directory.join(format!("{}.{:06}.{pid}.{number:016x}", now.as_secs(), now.subsec_micros()));
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let copied = io::copy(&mut from.take(size), &mut to).and_then(|copied| {
        if copied != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.sync_all()?;
        File::open(directory)?.sync_all()
    });
    if let Err(error) = copied {
        // A piece is no copy; if it cannot go either, the first error still says why.
        fs::remove_file(&path).ok();
        return Err(error);
    }
    Ok(path)
}
