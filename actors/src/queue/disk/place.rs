//! Writing a message out: from the journal, or from S4, to S5.

use std::fs::{self, File};
use std::io::{self, Write};
use std::sync::Arc;

use mailtree_config::regular;
use mailtree_protocols::envelope;
use mailtree_protocols::queue::{Channel, Dir, MessageId};
use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

use super::super::crash::{Point, reached};
use super::spare::Spare;
use super::{Disk, Operation, Unsynced, move_to};

/// Puts message `id` into files, durably. When it returns, a message that was in S4 has no `todo` any more.
pub(in super::super) struct Place {
    pub(in super::super) id: MessageId,
    /// When it was accepted, in microseconds since 1970.
    pub(in super::super) birth: u64,
    /// The message and the file that holds its number; none when `mess/ID` is there.
    pub(in super::super) mess: Option<(Arc<[u8]>, Spare)>,
    pub(in super::super) content: Content,
}

/// Rewritten addresses, and whether they are done; the next attempt in Unix seconds.
pub(in super::super) type Listed = (Vec<(Vec<u8>, bool)>, u64);

/// What is written beside `mess`.
pub(in super::super) enum Content {
    /// Nobody has said yet where the recipients go: `todo/ID`.
    Todo(Vec<u8>),
    /// `info`, `local`, `remote`, `bounce`.
    Preprocessed {
        sender: Vec<u8>,
        /// By channel, local first.
        channels: [Listed; 2],
        bounce: Vec<u8>,
    },
}

impl Place {
    fn mess(&self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        let Some((body, spare)) = &self.mess else { return Ok(()) };
        let path = disk.mess(self.id);
        if super::read::holds(&path, body)? {
            // From before a crash: made by this host for this message.
            unsynced.file(regular::open(&path)?.ok_or(io::ErrorKind::NotFound)?);
        } else {
            if fs::symlink_metadata(&path).is_ok() && !super::holds_or_less(&path, body) {
                let what = format!("{}: another message: left alone", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
            }
            let (mut file, from) = spare.open(disk)?;
            file.write_all(body)?;
            disk.set_mtime(&file, self.birth)?;
            // Something half-written from before a crash.
            super::absent_is_fine(fs::remove_file(&path))?;
            move_to(&from, &path)?;
            unsynced.file(file);
        }
        disk.unsynced_entry(Dir::Mess, self.id, unsynced);
        reached(Point::MessPlaced);
        Ok(())
    }
}

impl Operation for Place {
    type Output = ();

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        self.mess(disk, unsynced)?;
        let id = self.id;
        let (sender, channels, bounce) = match &self.content {
            Content::Todo(envelope) => {
                let file = disk.write(Dir::Todo, id, envelope, unsynced)?;
                unsynced.file(file);
                return Ok(());
            }
            Content::Preprocessed { sender, channels, bounce } => (sender, channels, bounce),
        };
        for (channel, (recipients, next)) in Channel::ALL.into_iter().zip(channels) {
            if recipients.iter().all(|(_, done)| *done) {
                // From an earlier attempt, under other control files.
                disk.unlink(channel.dir(), id)?;
                continue;
            }
            let listed = recipients.iter().map(|(address, done)| (&**address, *done));
            let records = envelope::channel(listed).map_err(io::Error::other)?;
            let file = disk.write(channel.dir(), id, &records, unsynced)?;
            disk.set_mtime(&file, next.saturating_mul(1_000_000))?;
            unsynced.file(file);
        }
        reached(Point::ChannelsWritten);
        if bounce.is_empty() {
            disk.unlink(Dir::Bounce, id)?;
        } else {
            let file = disk.write(Dir::Bounce, id, bounce, unsynced)?;
            unsynced.file(file);
        }
        // Last: with it a message without todo counts as preprocessed.
        let info = envelope::info(sender).map_err(io::Error::other)?;
        let file = disk.write(Dir::Info, id, &info, unsynced)?;
        disk.set_mtime(&file, self.birth)?;
        unsynced.file(file);
        reached(Point::InfoWritten);
        Ok(())
    }

    fn publish(&mut self, disk: &Disk, _: &mut Unsynced) -> io::Result<()> {
        reached(Point::Placed);
        if self.mess.is_none() && matches!(self.content, Content::Preprocessed { .. }) {
            // A todo that outlives a crash is preprocessed again: nobody is forgotten.
            disk.unlink(Dir::Intd, self.id)?;
            disk.unlink(Dir::Todo, self.id)?;
            reached(Point::TodoUnlinked);
        }
        Ok(())
    }

    fn finish(self, _: &Disk) -> io::Result<()> {
        Ok(())
    }

    fn abandon(self, _: &Disk) {}
}

/// Sets the mtime of `file`, in microseconds since 1970.
pub(crate) fn set_mtime(file: &File, micros: u64) -> io::Result<()> {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let nanos = i64::try_from(micros % 1_000_000 * 1000).unwrap_or(0);
    rustix::fs::futimens(
        file,
        &Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
        },
    )?;
    Ok(())
}
