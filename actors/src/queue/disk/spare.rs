//! Spare numbers: files in `pid/` that this process made, whose inodes are the numbers of messages in the journal.
//!
//! A spare is durable before its number is given out, and stays until the message has ended. It is held open as long, so that
//! nobody else gets the inode even when somebody removes the file. A message that is written out goes into its spare, which
//! becomes `mess/ID`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mailtree_config::regular;
use mailtree_protocols::queue::{Dir, MessageId};

use super::{Disk, Operation, Unsynced, absent_is_fine};

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

    /// Its file, open, if that is still the one that was made: regular, one name, the same inode.
    pub(in super::super) fn held(self, disk: &Disk) -> Option<File> {
        let file = regular::open(&Self::path(disk, self.number)).ok().flatten()?;
        let meta = file.metadata().ok()?;
        (meta.nlink() == 1 && meta.ino() == self.id.0).then_some(file)
    }

    /// The file, empty, to be written, and its name. One that somebody removed is made anew: then the message's name is
    /// not its inode's number, which harms nobody: while the message lives that inode is held, and afterwards whoever gets it
    /// finds no `mess` of that name, or, as in any queue that was copied, takes another.
    pub(super) fn open(self, disk: &Disk) -> io::Result<(File, PathBuf)> {
        let path = Self::path(disk, self.number);
        let made = match regular::open(&path)? {
            Some(file) => {
                let meta = file.metadata()?;
                meta.nlink() == 1 && meta.ino() == self.id.0
            }
            None => false,
        };
        if made {
            let file = regular::open_as(OpenOptions::new().write(true), &path)?;
            file.set_len(0)?;
            return Ok((file, path));
        }
        let path = disk.pid_name();
        Ok((disk.create(&path, Dir::Mess, self.id)?, path))
    }

    /// Removes its file, if that is still the one: the number may be another's by now.
    pub(in super::super) fn discard_own(self, disk: &Disk) {
        if self.held(disk).is_some() {
            // Harmless when it fails: the sweep takes it.
            Self::discard(disk, self.number).unwrap_or(());
        }
    }

    /// Removes the file of this number.
    pub(in super::super) fn discard(disk: &Disk, number: u64) -> io::Result<()> {
        absent_is_fine(fs::remove_file(Self::path(disk, number)))
    }
}

/// Makes `count` spares, durably, with numbers from `from` on.
pub(in super::super) struct MakeSpares {
    pub(in super::super) from: u64,
    pub(in super::super) count: u64,
    /// Set by `prepare`, each with its file.
    pub(in super::super) made: Vec<(Spare, File)>,
    /// Whose inode is the name of a message already, in a queue that was copied here: held until all are made.
    pub(in super::super) taken: Vec<u64>,
}

impl Operation for MakeSpares {
    type Output = Vec<(Spare, File)>;

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        for number in self.from..self.from + self.count {
            let path = Spare::path(disk, number);
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).mode(Dir::Mess.mode()).open(&path)?;
            let id = MessageId(file.metadata()?.ino());
            disk.give(&file, Dir::Mess, &disk.mess(id))?;
            if disk.exists(Dir::Mess, id)? {
                self.taken.push(number);
            } else {
                unsynced.file(file.try_clone()?);
                self.made.push((Spare { number, id }, file));
            }
        }
        unsynced.directory(path_of_pid(disk).as_path());
        Ok(())
    }

    fn publish(&mut self, _: &Disk, _: &mut Unsynced) -> io::Result<()> {
        Ok(())
    }

    fn finish(self, disk: &Disk) -> io::Result<Self::Output> {
        for number in self.taken {
            Spare::discard(disk, number)?;
        }
        Ok(self.made)
    }

    fn abandon(self, disk: &Disk) {
        for number in self.taken.into_iter().chain(self.made.iter().map(|(spare, _)| spare.number)) {
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

    /// Makes spares now, for `count` messages whose own numbers are somebody else's.
    pub(in super::super) fn new_spares(&self, count: usize) -> io::Result<Vec<(Spare, File)>> {
        let mut all = Vec::new();
        while all.len() < count {
            let missing = (count - all.len()) as u64;
            let from = self.first_free_spare()?;
            let mut making = MakeSpares { from, count: missing, made: Vec::new(), taken: Vec::new() };
            let mut unsynced = Unsynced::default();
            making.prepare(self, &mut unsynced)?;
            unsynced.sync()?;
            // Those that are taken are held until the others are made, and then removed: they are not tried twice.
            all.extend(making.finish(self)?);
        }
        Ok(all)
    }
}

fn path_of_pid(disk: &Disk) -> PathBuf {
    Path::new(&disk.root).join("pid")
}
