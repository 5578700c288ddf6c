//! The content of a message, wherever it is.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Bytes read at once.
pub const CHUNK: usize = 64 * 1024;

/// A message to be read. It stays what it is while this lives, whatever becomes of the message.
#[derive(Debug, Clone)]
pub struct Body(Held);

#[derive(Debug, Clone)]
enum Held {
    Memory(Arc<[u8]>),
    File(Arc<File>, u64),
}

impl Body {
    /// The message itself.
    pub(crate) fn memory(bytes: Arc<[u8]>) -> Self {
        Self(Held::Memory(bytes))
    }

    /// The message in an open file.
    pub(crate) fn file(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self(Held::File(Arc::new(file), size)))
    }

    /// An open file of its own that holds the message and cannot be written. May wait for the disk.
    pub(crate) fn to_file(&self) -> io::Result<File> {
        let again = |file: &File| File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match &self.0 {
            Held::Memory(bytes) => {
                let mut file =
                    File::from(memfd_create("mess", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
                file.write_all(bytes)?;
                let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
                fcntl_add_seals(&file, seals)?;
                again(&file)
            }
            Held::File(file, _) => again(file),
        }
    }

    /// The message in the file at `path`.
    #[cfg(test)]
    pub(crate) fn open(path: &std::path::Path) -> io::Result<Self> {
        Self::file(File::open(path)?)
    }

    /// Its size, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.0 {
            Held::Memory(bytes) => bytes.len() as u64,
            Held::File(_, size) => *size,
        }
    }

    /// The whole message, if it is in memory.
    #[must_use]
    pub fn in_memory(&self) -> Option<&[u8]> {
        match &self.0 {
            Held::Memory(bytes) => Some(bytes),
            Held::File(..) => None,
        }
    }

    /// Up to [`CHUNK`] bytes from `offset` on, into `chunk`, which is emptied first; none at the end. May wait for the disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_at(&self, offset: u64, chunk: &mut Vec<u8>) -> io::Result<()> {
        chunk.clear();
        match &self.0 {
            Held::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                chunk.extend_from_slice(&bytes[from..bytes.len().min(from.saturating_add(CHUNK))]);
                Ok(())
            }
            Held::File(file, _) => {
                chunk.resize(CHUNK, 0);
                let read = file.read_at(chunk, offset)?;
                chunk.truncate(read);
                Ok(())
            }
        }
    }

    /// As [`Body::read_at`], without holding up the runtime.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn next_chunk(&self, offset: u64, mut chunk: Vec<u8>) -> io::Result<Vec<u8>> {
        if self.in_memory().is_some() {
            self.read_at(offset, &mut chunk)?;
            return Ok(chunk);
        }
        let body = self.clone();
        let reading = tokio::task::spawn_blocking(move || body.read_at(offset, &mut chunk).map(|()| chunk));
        reading.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_memory_read_alike() {
        let bytes: Vec<u8> = (0..150_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mess"), &bytes).unwrap();
        let file = Body::file(File::open(dir.path().join("mess")).unwrap()).unwrap();
        for body in [Body::memory(bytes.clone().into()), file] {
            let (mut read, mut chunk) = (Vec::new(), Vec::new());
            loop {
                body.read_at(read.len() as u64, &mut chunk).unwrap();
                if chunk.is_empty() {
                    break;
                }
                read.extend_from_slice(&chunk);
            }
            assert_eq!(read, bytes);
            assert_eq!(body.size(), 150_000);
        }
    }
}
