//! What becomes of a message in S5, and of one in S4 that is done at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use mailtree_config::regular;
use mailtree_protocols::envelope;
use mailtree_protocols::queue::{Channel, Dir, MessageId};

use super::super::crash::{Point, reached};
use super::{Disk, Operation, Unsynced, named};

/// Notes what became of recipients: S5 → S5.
pub(in super::super) struct Settle {
    pub(in super::super) id: MessageId,
    pub(in super::super) channel: Channel,
    /// Offsets of the records that are done.
    pub(in super::super) done: Vec<u64>,
    /// Nobody is left on the channel.
    pub(in super::super) finished: bool,
    /// Paragraphs for the bounce.
    pub(in super::super) bounce: Vec<u8>,
    /// When the channel is to be tried next, in Unix seconds, kept as the file's mtime.
    pub(in super::super) retry: Option<u64>,
}

impl Operation for Settle {
    type Output = ();

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        if self.bounce.is_empty() {
            return Ok(());
        }
        let path = disk.path(Dir::Bounce, self.id);
        let mut options = OpenOptions::new();
        let file = match regular::open_as(options.append(true), &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = options.create_new(true).mode(Dir::Bounce.mode()).open(&path)?;
                disk.give(&file, Dir::Bounce, &path)?;
                Ok(file)
            }
            opened => opened,
        };
        let mut file = file.map_err(|error| named(&path, &error))?;
        file.write_all(&self.bounce)?;
        reached(Point::BounceWritten);
        // The bounce must not be lost once the recipient counts as done.
        unsynced.file(file);
        disk.unsynced_entry(Dir::Bounce, self.id, unsynced);
        Ok(())
    }

    fn publish(&mut self, disk: &Disk, _: &mut Unsynced) -> io::Result<()> {
        if self.finished {
            disk.unlink(self.channel.dir(), self.id)?;
        } else if let Some(file) = existing(disk, self.channel, self.id)? {
            for offset in &self.done {
                file.write_all_at(b"D", *offset)?;
            }
            if let Some(retry) = self.retry {
                disk.set_mtime(&file, retry.saturating_mul(1_000_000))?;
            }
        }
        reached(Point::RecipientMarked);
        Ok(())
    }

    fn finish(self, _: &Disk) -> io::Result<()> {
        Ok(())
    }

    fn abandon(self, _: &Disk) {}
}

/// `local/ID` or `remote/ID`; none when another delivery was the last one and has finished the channel meanwhile.
fn existing(disk: &Disk, channel: Channel, id: MessageId) -> io::Result<Option<File>> {
    let path = disk.path(channel.dir(), id);
    match regular::open_as(OpenOptions::new().write(true), &path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(&path, &error)),
    }
}

/// Takes a message out for good, durably, while deliveries of it may still be under way: nobody is left, no bounce.
/// [`End`] removes what remains.
pub(in super::super) struct Strike {
    pub(in super::super) id: MessageId,
}

impl Operation for Strike {
    type Output = ();

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        for channel in Channel::ALL {
            let Some(file) = existing(disk, channel, self.id)? else { continue };
            let (recipients, _) =
                envelope::parse_channel(&disk.read(channel.dir(), self.id)?).map_err(io::Error::other)?;
            for recipient in recipients.iter().filter(|recipient| !recipient.done) {
                file.write_all_at(b"D", recipient.offset)?;
            }
            unsynced.file(file);
        }
        Ok(())
    }

    fn publish(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        // In S4 nothing but its todo tells that it was accepted.
        for dir in [Dir::Bounce, Dir::Todo, Dir::Intd] {
            disk.unlink(dir, self.id)?;
            disk.unsynced_entry(dir, self.id, unsynced);
        }
        Ok(())
    }

    fn finish(self, _: &Disk) -> io::Result<()> {
        Ok(())
    }

    fn abandon(self, _: &Disk) {}
}

/// Removes a message that is settled and whose bounce, if any, is queued: S4 or S5 → S1.
pub(in super::super) struct End {
    pub(in super::super) id: MessageId,
}

impl Operation for End {
    type Output = ();

    fn prepare(&mut self, _: &Disk, _: &mut Unsynced) -> io::Result<()> {
        Ok(())
    }

    fn publish(&mut self, _: &Disk, _: &mut Unsynced) -> io::Result<()> {
        Ok(())
    }

    fn finish(self, disk: &Disk) -> io::Result<()> {
        disk.remove(self.id)
    }

    fn abandon(self, _: &Disk) {}
}

impl Disk {
    /// Removes the files of a message that is over.
    pub(in super::super) fn remove(&self, id: MessageId) -> io::Result<()> {
        self.unlink(Dir::Todo, id)?;
        self.unlink(Dir::Intd, id)?;
        reached(Point::TodoUnlinked);
        self.unlink(Dir::Bounce, id)?;
        reached(Point::BounceUnlinked);
        self.unlink(Dir::Local, id)?;
        self.unlink(Dir::Remote, id)?;
        self.unlink(Dir::Info, id)?;
        reached(Point::InfoUnlinked);
        // mess goes last: from then on its number may be another message's.
        self.unlink(Dir::Mess, id)?;
        reached(Point::MessUnlinked);
        Ok(())
    }
}
