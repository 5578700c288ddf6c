//! The files of the journal. What the log does with them stands in [`super::log`]; tests put a disk that loses power in their
//! place.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mailtree_protocols::journal::PAGE;

/// Zeros written at once, in bytes.
const PIECE: usize = 1024 * 1024;

/// Segments, by number.
pub(in super::super) trait Disk: Send {
    /// The numbers of those that exist.
    fn segments(&self) -> io::Result<Vec<u32>>;

    /// Makes segment `number`: `size` zeros, durable with its name. Zeros are written: an extent that was only reserved would
    /// cost a write of metadata at its first use.
    fn create(&mut self, number: u32, size: u64) -> io::Result<()>;

    /// The size of a segment, in bytes.
    fn size(&self, number: u32) -> io::Result<u64>;

    /// The first page of a segment.
    fn head(&self, number: u32) -> io::Result<Vec<u8>>;

    /// A whole segment.
    fn read(&self, number: u32) -> io::Result<Vec<u8>>;

    /// Writes into a segment, in one piece.
    fn write_at(&mut self, number: u32, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written into a segment durable.
    fn sync(&mut self, number: u32) -> io::Result<()>;

    /// Keeps a copy of a damaged segment, and says where.
    fn keep_copy(&mut self, number: u32) -> io::Result<PathBuf>;

    /// Removes a segment, durably.
    fn remove(&mut self, number: u32) -> io::Result<()>;
}

/// `NNNNNNNN.seg` in a directory.
pub(in super::super) struct FileDisk {
    directory: PathBuf,
    open: HashMap<u32, File>,
}

impl FileDisk {
    /// The segments in `directory`.
    pub(in super::super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), open: HashMap::new() }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:08}.seg"))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// A segment for reading: nothing but a regular file with one name is one.
    fn reading(&self, number: u32) -> io::Result<File> {
        let path = self.path(number);
        let file = crate::cdb_files::open_regular(&path)?.ok_or(io::ErrorKind::NotFound)?;
        if file.metadata()?.nlink() == 1 {
            Ok(file)
        } else {
            Err(io::Error::other(format!("{}: it has other names", path.display())))
        }
    }

    fn writing(&mut self, number: u32) -> io::Result<&File> {
        if !self.open.contains_key(&number) {
            drop(self.reading(number)?);
            let file = OpenOptions::new().write(true).open(self.path(number))?;
            self.open.insert(number, file);
        }
        self.open.get(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 8)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Disk for FileDisk {
    fn segments(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            numbers.extend(entry?.file_name().to_str().and_then(number_of));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn create(&mut self, number: u32, size: u64) -> io::Result<()> {
        let (path, owner) = (self.path(number), fs::metadata(&self.directory)?);
        let new = path.with_extension("new");
        super::super::disk::absent_is_fine(fs::remove_file(&new))?;
        let made = || {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            let zeros = vec![0; PIECE];
            let mut at = 0;
            while at < size {
                let piece = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
                file.write_all_at(&zeros[..piece], at)?;
                at += piece as u64;
            }
            file.sync_all()?;
            fs::rename(&new, &path)?;
            self.sync_directory()
        };
        made().inspect_err(|_| drop(fs::remove_file(&new)))
    }

    fn size(&self, number: u32) -> io::Result<u64> {
        Ok(self.reading(number)?.metadata()?.len())
    }

    fn head(&self, number: u32) -> io::Result<Vec<u8>> {
        let mut page = Vec::with_capacity(PAGE);
        self.reading(number)?.take(PAGE as u64).read_to_end(&mut page)?;
        Ok(page)
    }

    fn read(&self, number: u32) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reading(number)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_at(&mut self, number: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writing(number)?.write_all_at(bytes, offset)
    }

    fn sync(&mut self, number: u32) -> io::Result<()> {
        self.writing(number)?.sync_data()
    }

    fn keep_copy(&mut self, number: u32) -> io::Result<PathBuf> {
        let free = |n: &u32| !self.path(number).with_extension(format!("damaged.{n}")).exists();
        let n = (1..).find(free).unwrap_or_default();
        let copy = self.path(number).with_extension(format!("damaged.{n}"));
        fs::copy(self.path(number), &copy)?;
        Ok(copy)
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        self.open.remove(&number);
        super::super::disk::absent_is_fine(fs::remove_file(self.path(number)))?;
        self.sync_directory()
    }
}

/// Removes all segments of a journal that cannot be written any more.
pub(in super::super) fn remove(directory: &Path) -> io::Result<()> {
    let mut disk = FileDisk::new(directory);
    for number in disk.segments()? {
        disk.remove(number)?;
    }
    Ok(())
}
