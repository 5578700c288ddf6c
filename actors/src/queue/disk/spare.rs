//! Spare numbers: files in `pid/` that this process made, whose inodes are the numbers of messages in the journal.
//!
//! A spare is durable before its number is given out, and stays until the message has ended, so that nobody else gets the
//! inode. A message that is written out goes into its spare, which becomes `mess/ID`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mailtree_protocols::queue::{Dir, MessageId};

use super::{Disk, Operation, Unsynced, absent_is_fine};
use crate::cdb_files::open_regular;

/// How their names in `pid/` begin.
pub(super) const PREFIX: &str = "spare.";

/// A spare number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Spare {
    /// In the file's name.
    pub(in super::super) number: u64,
    /// Its inode.
    pub(in super::super) id: MessageId,
}

impl Spare {
    /// The file of spare `number`.
    pub(in super::super) fn path(disk: &Disk, number: u64) -> PathBuf {
        disk.root.join("pid").join(format!("{PREFIX}{number}"))
    }

    /// Its number, if `name` is that of one.
    pub(super) fn parse(name: &str) -> Option<u64> {
        name.strip_prefix(PREFIX)?.parse().ok()
    }

    /// Whether its file is still the one that was made: regular, one name, the same inode.
    pub(in super::super) fn is_there(self, disk: &Disk) -> bool {
        fs::symlink_metadata(Self::path(disk, self.number))
            .is_ok_and(|meta| meta.is_file() && meta.nlink() == 1 && meta.ino() == self.id.0)
    }

    /// The file, empty, to be written, and its name. One that somebody removed is made anew: then the message's name is
    /// not its inode's number, which harms nobody, for no other message can get a `mess` of that name.
    pub(super) fn open(self, disk: &Disk) -> io::Result<(File, PathBuf)> {
        let path = Self::path(disk, self.number);
        let made = match open_regular(&path)? {
            Some(file) => {
                let meta = file.metadata()?;
                meta.nlink() == 1 && meta.ino() == self.id.0
            }
            None => false,
        };
        if made {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(0)?;
            return Ok((file, path));
        }
        let path = disk.pid_name();
        Ok((disk.create(&path, Dir::Mess, self.id)?, path))
    }

    /// Removes its file.
    pub(in super::super) fn discard(disk: &Disk, number: u64) -> io::Result<()> {
        absent_is_fine(fs::remove_file(Self::path(disk, number)))
    }
}

/// Makes `count` spares, durably, with numbers from `from` on.
pub(in super::super) struct MakeSpares {
    pub(in super::super) from: u64,
    pub(in super::super) count: u64,
    /// Set by `prepare`.
    pub(in super::super) made: Vec<Spare>,
    /// Whose inode is the name of a message already, in a queue that was copied here: held until all are made.
    pub(in super::super) taken: Vec<u64>,
}

impl Operation for MakeSpares {
    type Output = Vec<Spare>;

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        for number in self.from..self.from + self.count {
            let path = Spare::path(disk, number);
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(Dir::Mess.mode()).open(&path)?;
            let id = MessageId(file.metadata()?.ino());
            disk.give(&file, &disk.mess(id))?;
            if disk.exists(Dir::Mess, id)? {
                self.taken.push(number);
            } else {
                self.made.push(Spare { number, id });
                unsynced.file(file);
            }
        }
        unsynced.directory(path_of_pid(disk).as_path());
        Ok(())
    }

    fn publish(&mut self, _: &Disk, _: &mut Unsynced) -> io::Result<()> {
        Ok(())
    }

    fn finish(self, disk: &Disk) -> io::Result<Vec<Spare>> {
        for number in self.taken {
            Spare::discard(disk, number)?;
        }
        Ok(self.made)
    }

    fn abandon(self, disk: &Disk) {
        for number in self.taken.into_iter().chain(self.made.iter().map(|spare| spare.number)) {
            // Harmless: the sweep takes it.
            drop(Spare::discard(disk, number));
        }
    }
}

impl Disk {
    /// A number above those of all spares in `pid/`.
    pub(in super::super) fn first_free_spare(&self) -> io::Result<u64> {
        let mut next = 0;
        for entry in fs::read_dir(path_of_pid(self))? {
            if let Some(number) = entry?.file_name().to_str().and_then(Spare::parse) {
                next = next.max(number.saturating_add(1));
            }
        }
        Ok(next)
    }

    /// Makes one spare now, for a message whose own number is somebody else's.
    pub(in super::super) fn new_spare(&self, number: u64) -> io::Result<Spare> {
        let mut making = MakeSpares { from: number, count: 16, made: Vec::new(), taken: Vec::new() };
        let mut unsynced = Unsynced::default();
        making.prepare(self, &mut unsynced)?;
        unsynced.sync()?;
        let mut made = making.finish(self)?;
        let spare = made.pop().ok_or_else(|| io::Error::other("all numbers are taken"))?;
        for other in made {
            Spare::discard(self, other.number)?;
        }
        Ok(spare)
    }
}

fn path_of_pid(disk: &Disk) -> PathBuf {
    Path::new(&disk.root).join("pid")
}
