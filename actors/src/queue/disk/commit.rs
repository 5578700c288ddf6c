//! Accepting into files: S1 → S4, for what is not for the journal.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mailtree_protocols::queue::{Dir, MessageId};

use super::super::crash::{Point, reached};
use super::{Disk, Operation, Unsynced, absent_is_fine, micros, move_to};

/// A message being received, in `pid/`. Dropped before it is linked, it takes its file along.
#[derive(Debug)]
pub(in super::super) struct Draft {
    path: PathBuf,
    file: File,
    linked: bool,
}

impl Draft {
    pub(in super::super) fn new(disk: &Disk) -> io::Result<Self> {
        let path = disk.pid_name();
        // Which directory of `mess` it will be in is not known before its inode is; they have one owner.
        let file = disk.create(&path, Dir::Mess, MessageId(0))?;
        Ok(Self { path, file, linked: false })
    }

    /// The file, for reading.
    pub(in super::super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.linked
            && let Err(error) = absent_is_fine(fs::remove_file(&self.path))
        {
            // Harmless: the sweep takes it.
            tracing::warn!("warning: unable to unlink {}: {error}", self.path.display());
        }
    }
}

/// Writes part of a message that is too large to wait in memory.
pub(in super::super) struct Spill {
    pub(in super::super) draft: Option<Draft>,
    pub(in super::super) bytes: Vec<u8>,
}

impl Operation for Spill {
    type Output = (Draft, Vec<u8>);

    fn prepare(&mut self, disk: &Disk, _: &mut Unsynced) -> io::Result<()> {
        let draft = match self.draft.take() {
            Some(draft) => draft,
            None => Draft::new(disk)?,
        };
        self.draft.insert(draft).file.write_all(&self.bytes)
    }

    fn publish(&mut self, _: &Disk, _: &mut Unsynced) -> io::Result<()> {
        Ok(())
    }

    fn finish(mut self, _: &Disk) -> io::Result<Self::Output> {
        self.bytes.clear();
        let draft = self.draft.ok_or_else(|| io::Error::other("a draft was lost"))?;
        Ok((draft, self.bytes))
    }

    fn abandon(self, _: &Disk) {}
}

/// Accepts a message: nothing → S4, durable.
pub(in super::super) struct Commit {
    /// What was spilled before.
    pub(in super::super) draft: Option<Draft>,
    /// The rest of the message.
    pub(in super::super) bytes: Vec<u8>,
    /// The content of `intd/ID`.
    pub(in super::super) envelope: Vec<u8>,
    /// Set by `prepare`.
    pub(in super::super) stored: Option<Stored>,
    /// Told when it is done, whether or not somebody still waits for the answer.
    pub(in super::super) arriving: Box<dyn Arriving>,
}

/// Who takes a message over that is in S4.
pub(in super::super) trait Arriving: Send {
    /// Whether another message has this number, whatever files it has.
    fn is_taken(&self, id: MessageId) -> bool;

    /// `todo/ID` is about to appear. Until this is dropped, it is nobody else's.
    fn expect(&mut self, id: MessageId);

    /// It is in S4, durably.
    fn stored(&mut self, stored: Stored);
}

/// A message in S4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Stored {
    pub(in super::super) id: MessageId,
    /// When its last byte was written, in microseconds since 1970: the mtime of `mess`, which a restart finds again.
    pub(in super::super) birth: u64,
}

impl Commit {
    /// `pid/…` → `mess/ID`. Another message may have this number as its name, if the queue was copied here from another
    /// filesystem; then the message moves to another inode while it holds on to this one.
    fn link(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<Stored> {
        let mut held: Vec<Draft> = Vec::new();
        loop {
            let mut draft = match self.draft.take() {
                Some(draft) => draft,
                None => Draft::new(disk)?,
            };
            if let Some(before) = held.last() {
                io::copy(&mut File::open(before.path())?, &mut draft.file)?;
            } else {
                draft.file.write_all(&self.bytes)?;
            }
            reached(Point::MessWritten);
            let meta = draft.file.metadata()?;
            let stored = Stored { id: MessageId(meta.ino()), birth: micros(meta.modified()?) };
            let moved = match self.arriving.is_taken(stored.id) {
                true => Err(io::ErrorKind::AlreadyExists.into()),
                false => move_to(&draft.path, &disk.mess(stored.id)),
            };
            match moved {
                Ok(()) => {
                    draft.linked = true;
                    unsynced.file(draft.file.try_clone()?);
                    return Ok(stored);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && held.len() < 16 => {
                    held.push(draft);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Operation for Commit {
    type Output = Stored;

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        let stored = self.link(disk, unsynced)?;
        let id = stored.id;
        self.stored = Some(stored);
        reached(Point::MessLinked);
        let intd = disk.write(Dir::Intd, id, &self.envelope, unsynced)?;
        reached(Point::IntdWritten);
        unsynced.file(intd);
        disk.unsynced_entry(Dir::Mess, id, unsynced);
        Ok(())
    }

    fn publish(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        reached(Point::CommitSynced);
        let id = self.stored.ok_or_else(|| io::Error::other("a message without a number"))?.id;
        self.arriving.expect(id);
        move_to(&disk.path(Dir::Intd, id), &disk.path(Dir::Todo, id))?;
        reached(Point::TodoLinked);
        disk.unsynced_entry(Dir::Todo, id, unsynced);
        Ok(())
    }

    fn finish(mut self, _: &Disk) -> io::Result<Stored> {
        reached(Point::TodoSynced);
        let stored = self.stored.ok_or_else(|| io::Error::other("a message without a number"))?;
        self.arriving.stored(stored);
        Ok(stored)
    }

    fn abandon(self, disk: &Disk) {
        if let Some(Stored { id, .. }) = self.stored {
            // What stays behind is S2 or S3, garbage for the sweep.
            if let Err(error) = disk.unlink(Dir::Intd, id).and_then(|()| disk.unlink(Dir::Mess, id)) {
                tracing::warn!("warning: unable to unlink mess/{id}: {error}");
            }
        }
    }
}
