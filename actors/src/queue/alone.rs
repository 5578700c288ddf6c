//! Handing a message in without a host: the files of the queue are written as the original qmail-queue writes them, and
//! whoever reads `todo` next finds it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;
use mailtree_protocols::envelope::Envelope;
use mailtree_protocols::qmail_queue::exit;
use mailtree_protocols::queue::MessageId;
use mailtree_protocols::received::{self, Invoker};
use rustix::fs::OFlags;

use super::disk::{Arriving, Commit, Disk, Draft, Operation as _, Spill, Stored, Unsynced};
use super::reception::CHUNK;

/// A message on its way into a queue that nobody serves. Dropped before [`Alone::commit`], it leaves nothing behind.
pub struct Alone {
    disk: Disk,
    buffer: Vec<u8>,
    draft: Option<Draft>,
    uid: u32,
    qp: u64,
}

/// Why it is not there: qmail-queue's exit code, and what the system said.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failed {
    /// The exit code.
    pub exit: u8,
    /// The cause.
    pub error: io::Error,
}

/// A failed write is one, wherever the file is.
fn at(exit: u8) -> impl Fn(io::Error) -> Failed {
    move |error| {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        Failed { exit: if full { exit::WRITE } else { exit }, error }
    }
}

impl Alone {
    /// A message for the queue at `root`, of this process.
    ///
    /// # Errors
    /// When there is no queue, or this process may not write there.
    pub fn open(root: &Path, invoker: Invoker) -> Result<Self, Failed> {
        let disk = Disk::open(root).map_err(|error| Failed { exit: exit::QUEUE, error })?;
        let (uid, qp) = (rustix::process::getuid().as_raw(), u64::from(std::process::id()));
        let buffer = received::qmail(invoker, qp, Timestamp::now()).into_bytes();
        let draft = Draft::new(&disk).map_err(at(exit::PID))?;
        Ok(Self { disk, buffer, draft: Some(draft), uid, qp })
    }

    /// More of the message.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < CHUNK {
            return Ok(());
        }
        let mut spill = Spill { draft: self.draft.take(), bytes: std::mem::take(&mut self.buffer) };
        spill.prepare(&self.disk, &mut Unsynced::default()).map_err(at(exit::WRITE))?;
        let (draft, buffer) = spill.finish(&self.disk).map_err(at(exit::WRITE))?;
        (self.draft, self.buffer) = (Some(draft), buffer);
        Ok(())
    }

    /// The message is whole: it is durable when this returns.
    ///
    /// # Errors
    /// When it is not certain to be.
    pub fn commit(self, sender: Vec<u8>, recipients: Vec<Vec<u8>>) -> Result<(), Failed> {
        let Self { disk, buffer, draft, uid, qp } = self;
        let envelope = Envelope { uid, qp, sender, recipients };
        let envelope = envelope.to_bytes().map_err(|error| at(exit::FORMAT)(io::Error::other(error)))?;
        let mut unsynced = Unsynced::default();
        let mut commit = Commit { draft, bytes: buffer, envelope, stored: None, arriving: Box::new(Nobody) };
        let prepared = commit.prepare(&disk, &mut unsynced).map_err(at(exit::MESS));
        let durable = prepared.and_then(|()| unsynced.sync().map_err(at(exit::WRITE)));
        if let Err(failed) = durable {
            commit.abandon(&disk);
            return Err(failed);
        }
        commit.publish(&disk, &mut unsynced).map_err(at(exit::TODO))?;
        unsynced.sync().map_err(at(exit::WRITE))?;
        commit.finish(&disk).map_err(at(exit::TODO))?;
        pull(&disk.root().join("lock/trigger"));
        Ok(())
    }
}

/// Wakes qmail-send, if there is one (triggerpull.c).
fn pull(trigger: &Path) {
    let Ok(flags) = i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()) else { return };
    if let Ok(mut fifo) = OpenOptions::new().write(true).custom_flags(flags).open(trigger) {
        // One that is full has been pulled.
        fifo.write_all(&[0]).unwrap_or(());
    }
}

/// No host takes the message over.
struct Nobody;

impl Arriving for Nobody {
    /// Messages in the journal have files in `pid`, and so their numbers are no other's.
    fn is_taken(&self, _: MessageId) -> bool {
        false
    }

    fn expect(&mut self, _: MessageId) {}

    fn stored(&mut self, _: Stored) {}
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mailtree_protocols::queue::{Dir, Layout};

    use super::*;

    fn queue() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in Dir::ALL.into_iter().flat_map(|dir| Layout::default().directories(dir)) {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        for dir in ["pid", "lock"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        root
    }

    #[test]
    fn a_message_is_written_as_qmail_queue_writes_it() {
        let root = queue();
        let mut message = Alone::open(root.path(), Invoker::Uid(7)).unwrap();
        for _ in 0..3000 {
            message.write(b"a line that is repeated until it is more than a chunk\n").unwrap();
        }
        message.commit(b"a@x".to_vec(), vec![b"b@y".to_vec()]).unwrap();
        let disk = Disk::open(root.path()).unwrap();
        let ids = disk.todo().unwrap();
        let [id] = ids[..] else { panic!("{ids:?}") };
        let (envelope, _, size) = disk.envelope(id).unwrap();
        assert_eq!((&envelope.sender[..], &envelope.recipients[0][..]), (&b"a@x"[..], &b"b@y"[..]));
        assert_eq!(envelope.uid, rustix::process::getuid().as_raw());
        let text = fs::read_to_string(disk.mess(id)).unwrap();
        let head = format!("Received: (qmail {} invoked by uid 7); ", std::process::id());
        assert!(text.starts_with(&head) && text.lines().count() == 3001 && text.len() as u64 == size);
        assert_eq!(fs::read_dir(root.path().join("pid")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(root.path().join("intd")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_given_up_leaves_nothing_behind() {
        let root = queue();
        let mut message = Alone::open(root.path(), Invoker::Uid(7)).unwrap();
        message.write(&[b'x'; 3 * CHUNK]).unwrap();
        assert_eq!(fs::read_dir(root.path().join("pid")).unwrap().count(), 1);
        drop(message);
        assert_eq!(fs::read_dir(root.path().join("pid")).unwrap().count(), 0);
        let exit = |root: &Path| Alone::open(root, Invoker::Uid(7)).err().map(|failed| failed.exit);
        assert_eq!(exit(&root.path().join("missing")), Some(exit::QUEUE));
    }
}
