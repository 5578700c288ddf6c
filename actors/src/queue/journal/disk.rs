//! The files of the journal, `NNNNNNNN.seg`, and the few things that are ever done to them.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use mailtree_config::regular;
use mailtree_protocols::journal::PAGE;
use rustix::fs::{Advice, fadvise};

/// What a new segment is written in.
const PIECE: usize = 1024 * 1024;

/// The files as [`super::Log`] needs them.
pub(crate) trait Disk: Send {
    /// Numbers of the segments that exist, in no order.
    fn segments(&self) -> io::Result<Vec<u32>>;

    /// What a person calls it.
    fn path(&self, number: u32) -> PathBuf;

    /// Its length in bytes.
    fn size(&self, number: u32) -> io::Result<u64>;

    /// Makes a segment full of zeros, durable with its name. [`io::ErrorKind::AlreadyExists`] when something has the name.
    fn create(&mut self, number: u32) -> io::Result<()>;

    /// What the disk holds of it, not what the page cache believes: after a failed sync these may differ. Pages that cannot
    /// be read are zeros.
    fn read(&self, number: u32) -> io::Result<Vec<u8>>;

    /// The first page of that, or less when it is shorter.
    fn read_head(&self, number: u32) -> io::Result<Vec<u8>>;

    /// Writes all of `bytes`.
    fn write_at(&mut self, number: u32, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes all that was written to it durable.
    fn sync(&mut self, number: u32) -> io::Result<()>;

    /// Keeps a copy of a damaged one: where.
    fn set_aside(&mut self, number: u32) -> io::Result<PathBuf>;

    /// Removes it, durably.
    fn remove(&mut self, number: u32) -> io::Result<()>;
}

/// `queue/journal/`.
pub(crate) struct FileDisk {
    directory: PathBuf,
    segment_size: u64,
    /// One for each segment: the kernel reports a write error once for each open file.
    files: HashMap<u32, File>,
}

impl FileDisk {
    /// The journal in `directory`, which is made if it is not there. New segments have `segment_size` bytes.
    pub(crate) fn open(directory: &Path, segment_size: u64) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {
                let parent = directory.parent().unwrap_or(Path::new("/"));
                like_directory(&File::open(directory)?, parent)?;
                File::open(parent)?.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
            Err(error) => return Err(error),
        }
        Ok(Self { directory: directory.to_owned(), segment_size, files: HashMap::new() })
    }

    fn opened(&self, number: u32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        regular::open_itself(options.read(true).write(true), &self.path(number))
    }

    fn file(&mut self, number: u32) -> io::Result<&File> {
        if !self.files.contains_key(&number) {
            let file = self.opened(number)?;
            self.files.insert(number, file);
        }
        self.files.get(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// A new file of ours in the directory.
    fn new_file(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        like_directory(&file, &self.directory)?;
        Ok(file)
    }

    /// The copies of a segment that were set aside: the highest number.
    fn copies(&self, number: u32) -> io::Result<u32> {
        let prefix = format!("{number:08}.damaged.");
        let mut highest = 0;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let n = name.to_str().and_then(|name| name.strip_prefix(&prefix)).and_then(|n| n.parse().ok());
            highest = highest.max(n.unwrap_or(0));
        }
        Ok(highest)
    }
}

/// Whether there are segments in `directory`, which need not exist.
pub(in crate::queue) fn has_segments(directory: &Path) -> io::Result<bool> {
    match segments(directory) {
        Ok(numbers) => Ok(!numbers.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn segments(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".seg"))
            .filter(|digits| digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok());
        if let Some(number) = number
            && entry.file_type()?.is_file()
        {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

impl Disk for FileDisk {
    fn segments(&self) -> io::Result<Vec<u32>> {
        segments(&self.directory)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:08}.seg"))
    }

    fn size(&self, number: u32) -> io::Result<u64> {
        Ok(fs::symlink_metadata(self.path(number))?.len())
    }

    fn create(&mut self, number: u32) -> io::Result<()> {
        let path = self.path(number);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let draft = self.directory.join(format!("{number:08}.new"));
        match fs::remove_file(&draft) {
            // Something else has the draft's name: another number may do.
            Err(_) if draft.is_dir() => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => (),
        }
        let made = self.new_file(&draft).and_then(|mut file| {
            // Real zeros: what is only allocated costs metadata at its first write.
            let zeros = vec![0; PIECE];
            let mut left = self.segment_size;
            while left > 0 {
                let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                file.write_all(&zeros[..piece])?;
                left -= piece as u64;
            }
            file.sync_all()?;
            // A link replaces nothing.
            fs::hard_link(&draft, &path)
        });
        let removed = fs::remove_file(&draft);
        made.and(removed)?;
        self.sync_directory()
    }

    fn read(&self, number: u32) -> io::Result<Vec<u8>> {
        let file = self.opened(number)?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        for (n, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let offset = (n * PIECE) as u64;
            if file.read_exact_at(piece, offset).is_ok() {
                continue;
            }
            for (n, page) in piece.chunks_mut(PAGE).enumerate() {
                if file.read_exact_at(page, offset + (n * PAGE) as u64).is_err() {
                    page.fill(0);
                }
            }
        }
        Ok(bytes)
    }

    fn read_head(&self, number: u32) -> io::Result<Vec<u8>> {
        let file = self.opened(number)?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(PAGE).min(PAGE);
        let mut head = vec![0; size];
        file.read_exact_at(&mut head, 0)?;
        Ok(head)
    }

    fn write_at(&mut self, number: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(number)?.write_all_at(bytes, offset)
    }

    fn sync(&mut self, number: u32) -> io::Result<()> {
        let file = self.file(number)?;
        file.sync_data()?;
        // Nothing that is in it would be found again.
        match file.metadata()?.nlink() {
            0 => Err(io::Error::new(io::ErrorKind::NotFound, "somebody has removed it")),
            _ => Ok(()),
        }
    }

    fn set_aside(&mut self, number: u32) -> io::Result<PathBuf> {
        let bytes = self.read(number)?;
        let copies = self.copies(number)?;
        let name = |n: u32| self.directory.join(format!("{number:08}.damaged.{n}"));
        // A host that is started again and again does not fill the disk with it.
        if regular::read(&name(copies), bytes.len() as u64).is_ok_and(|copy| copy.as_ref() == Some(&bytes)) {
            return Ok(name(copies));
        }
        let path = name(copies + 1);
        let mut file = self.new_file(&path)?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .inspect_err(|_| drop(fs::remove_file(&path)))?;
        self.sync_directory()?;
        Ok(path)
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        self.files.remove(&number);
        fs::remove_file(self.path(number))?;
        self.sync_directory()
    }
}

/// Gives `file` the owner and group of `directory`.
fn like_directory(file: &File, directory: &Path) -> io::Result<()> {
    let (file_meta, meta) = (file.metadata()?, fs::metadata(directory)?);
    // The journal is this host's alone; what belongs to its user nobody else needs to own.
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || (file_meta.uid(), file_meta.gid()) == (meta.uid(), meta.gid()) {
        return Ok(());
    }
    fchown(file, Some(meta.uid()), Some(meta.gid()))
}
