//! What the journal says when the host starts, and how it ends.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mailtree_protocols::envelope::Envelope;
use mailtree_protocols::journal::MaildirFile;
use mailtree_protocols::journal::replay::{Fate as Told, Replayed};
use mailtree_protocols::queue::Dir;

use super::crash::{Point, reached};
use super::disk::spare::Spare;
use super::journal::{self, Disk as _, FileDisk, Identity, Log, Recovered, Settings};
use super::live::{Addressee, Backing, Entry, Fate};
use super::writer::Writer;
use super::{Body, Error, Queue, Shared};
use crate::maildir;
use crate::pool::{Key, Mounts};
use crate::service::StartError;

/// How long the Maildirs may take in which copies are put right; what cannot be looked at is delivered again.
const LOOKING: Duration = Duration::from_secs(10);

/// Copies looked for side by side.
const SIDE_BY_SIDE: usize = 64;

/// Why the queue cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The journal is not to be used.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The queue's files cannot be read.
    #[error("unable to open the queue: {0}")]
    Io(#[from] io::Error),
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Journal(
                error @ (journal::OpenError::AnotherHost { .. }
                | journal::OpenError::Newer { .. }
                | journal::OpenError::Older { .. }),
            ) => Self::Permanent(error.to_string()),
            other => Self::Temporary(other.to_string()),
        }
    }
}

/// Why qmail, or another mailtree, would not find all mail in the queue's files.
#[derive(Debug, thiserror::Error)]
pub enum Unemptied {
    /// So many messages are only in the journal.
    #[error("the journal holds {0} messages: do not start qmail on this queue")]
    Messages(usize),
    /// This directory has a journal that could not be read, or was not yet.
    #[error("{}: the journal was not taken up, and may hold messages: do not start qmail on this queue", .0.display())]
    NotTakenUp(PathBuf),
}

/// A journal, what it said, and its name.
type Opened = (Log<FileDisk>, Recovered, [u8; 16]);

/// How large the journal is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Bytes of a segment.
    pub(super) segment: u64,
    /// How many segments there are at the start, and at most.
    pub(super) segments: (usize, usize),
}

impl Queue {
    /// Takes the queue up: replays the journal if this process has not yet, and begins one if there is to be one.
    pub(super) async fn begin(
        &self,
        journal: bool,
        size: Size,
        floor: u64,
        unfinished: Duration,
        failed: Arc<dyn Fn(String) + Send + Sync>,
    ) -> Result<(), OpenError> {
        self.0.journal_on.store(journal, Ordering::Release);
        if let Some(writer) = self.0.writer.load_full() {
            if !writer.is_dead() {
                return Ok(());
            }
            self.abandon().await?;
        }
        let directory = self.0.disk.root().join("journal");
        let (queue, rolled) = (self.clone(), self.clone());
        let opening =
            tokio::task::spawn_blocking(move || queue.open_journal(journal, &directory, size, floor));
        let opened = opening.await.map_err(io::Error::other)??;
        if let Some((log, recovered, journal)) = opened {
            self.replay(recovered).await;
            let (crowded, troubled) = (self.clone(), self.clone());
            let runtime = tokio::runtime::Handle::current();
            let writer = Writer::start(
                log,
                Box::new(move |newest| Identity::note(&rolled.0.journal_id, journal, newest)),
                Box::new(move || crowded.0.checkpoints.kick()),
                Box::new(move || {
                    let queue = troubled.clone();
                    runtime.spawn(async move { queue.write_out_all().await });
                }),
                failed,
            )?;
            self.0.writer.store(Some(Arc::new(writer)));
            self.start_checkpoints()?;
        }
        reached(Point::Replayed);
        let queue = self.clone();
        let sweeping = tokio::task::spawn_blocking(move || {
            let in_use = (queue.0.live.ids(), queue.0.spares.all());
            let removed = queue.0.disk.sweep(unfinished, &in_use)?;
            queue.0.spares.begin_at(queue.0.disk.first_free_spare()?);
            Ok::<_, io::Error>(removed)
        });
        let removed = sweeping.await.map_err(io::Error::other)??;
        if removed > 0 {
            tracing::info!(removed, "qmail-queue: removed {removed} unfinished messages");
        }
        self.make_spares();
        Ok(())
    }

    /// Opens the journal; none if there is none and none is wanted.
    fn open_journal(
        &self,
        wanted: bool,
        directory: &Path,
        size: Size,
        floor: u64,
    ) -> Result<Option<Opened>, OpenError> {
        let exists = journal::has_segments(directory)?;
        if !wanted && !exists {
            return Ok(None);
        }
        let (free, _) = self.0.disk.free()?;
        let wanted = size.segment * size.segments.0 as u64;
        if !exists && free < wanted.saturating_add(floor) {
            // A host whose disk is full must deliver what it has all the same.
            tracing::error!(
                "alert: {}: no room for the journal: {wanted} bytes are wanted, {free} are free, {floor} of them to be \
                 kept; messages go into files until the service queue is started again",
                directory.display()
            );
            return Ok(None);
        }
        if !directory.exists() {
            let parent = fs::metadata(self.0.disk.root())?;
            fs::DirBuilder::new().mode(0o700).create(directory)?;
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(directory, Some(parent.uid()), Some(parent.gid()))?;
            }
            fs::File::open(self.0.disk.root())?.sync_all()?;
        }
        let identity = Identity::read(&self.0.journal_id)?;
        let journal = identity.journal.unwrap_or_else(rand::random);
        let settings = Settings {
            segment_size: size.segment,
            segments: size.segments,
            journal_id: journal,
            boot_id: identity.boot,
            newest: identity.newest,
            key: Box::new(rand::random),
        };
        if identity.journal.is_none() && !exists {
            // Named before it is: what is found without a name is not this home's.
            Identity::note(&self.0.journal_id, journal, 0)?;
        }
        let (log, recovered) = Log::open(FileDisk::open(directory, size.segment)?, settings)?;
        Ok(Some((log, recovered, journal)))
    }

    /// Puts what the journal says into the table.
    async fn replay(&self, recovered: Recovered) {
        let Recovered { messages, damage, next_serial } = recovered;
        for damage in &damage {
            tracing::error!("alert: {damage}");
        }
        self.0.serial.store(next_serial.0, Ordering::Release);
        if messages.is_empty() {
            return;
        }
        let found = messages.len();
        let deadline = Instant::now() + LOOKING;
        let mounts = Mounts::default();
        let entries: Vec<_> = futures_util::stream::iter(messages)
            .map(|message| self.entry(message, deadline, &mounts))
            .buffered(SIDE_BY_SIDE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let left = entries.len();
        self.0.live.insert(entries);
        tracing::info!(
            messages = left,
            "qmail-queue: {left} of {found} messages in the journal are to be delivered"
        );
    }

    /// A message as it goes on; none if all copies of an ended one are whole.
    async fn entry(
        &self,
        Replayed { accept, lsn, recipients, bounced, ended }: Replayed,
        deadline: Instant,
        mounts: &Mounts,
    ) -> Option<(mailtree_protocols::queue::MessageId, Entry)> {
        let mut spare = Spare { number: accept.pool, id: accept.id };
        if spare.is_there(&self.0.disk) || self.0.disk.is_ours(spare.id, &accept.body) {
            self.0.spares.adopt(spare);
        } else {
            // Somebody else may have that number by now.
            let made = self.0.disk.first_free_spare().and_then(|number| self.0.disk.new_spare(number));
            match made {
                Ok(new) => {
                    self.0.spares.adopt(new);
                    tracing::warn!("warning: msg {} of the journal goes on as msg {}", spare.id, new.id);
                    spare = new;
                }
                Err(error) => tracing::error!("alert: msg {}: no new number: {error}", spare.id),
            }
        }
        let envelope =
            Envelope { uid: accept.uid, qp: accept.qp, sender: accept.sender, recipients: Vec::new() };
        let backing = Backing::Journal { serial: accept.serial, lsn, spare };
        let mut entry = Entry::new(backing, accept.birth, accept.body.len() as u64, envelope);
        let mut open = false;
        for (original, told) in accept.recipients.into_iter().zip(recipients) {
            let mut failed = false;
            let fate = match told {
                Told::Open => Fate::Open,
                Told::Done => Fate::Done,
                Told::Failed(paragraph) => {
                    entry.bounce.extend_from_slice(&paragraph);
                    failed = true;
                    Fate::Done
                }
                Told::InDoubt { maildirs, same_boot } => {
                    let body = Body::memory(Arc::clone(&accept.body));
                    match self.restore(maildirs, &body, same_boot, deadline, mounts).await {
                        true => Fate::Done,
                        false => Fate::Open,
                    }
                }
            };
            open |= fate == Fate::Open;
            entry.recipients.push(Addressee { failed, ..Addressee::new(original, fate) });
        }
        entry.bounced = bounced.is_some();
        entry.again = true;
        entry.leftover = self.0.disk.has_files(spare.id);
        if ended && !open {
            self.0.spares.forget(spare);
            drop(Spare::discard(&self.0.disk, spare.number));
            return None;
        }
        entry.body = Some(accept.body);
        Some((spare.id, entry))
    }

    /// Whether all these copies are whole, or put right, and durable now. In the same life of the machine its owner can be
    /// believed to have removed what is missing.
    async fn restore(
        &self,
        copies: Vec<MaildirFile>,
        body: &Body,
        same_boot: bool,
        deadline: Instant,
        mounts: &Mounts,
    ) -> bool {
        for copy in copies {
            let path = maildir::path_of(&copy);
            let key = Key { device: mounts.device(&path), person: 0 };
            let left = deadline.saturating_duration_since(Instant::now());
            let body = body.clone();
            let restoring =
                self.0.pool.run(key, left, move || maildir::restore(&copy, &body, same_boot)).await;
            if !matches!(restoring, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }

    /// The journal cannot be written any more: everything that is only there goes into files, and it is begun anew.
    async fn abandon(&self) -> Result<(), OpenError> {
        self.write_out_all().await;
        let left = self.0.live.in_journal();
        if left > 0 {
            let cause = format!("{left} messages of a failed journal cannot be written out");
            return Err(io::Error::other(cause).into());
        }
        self.0.writer.store(None);
        let directory = self.0.disk.root().join("journal");
        let removing = tokio::task::spawn_blocking(move || {
            let mut disk = FileDisk::open(&directory, 0)?;
            disk.segments()?.into_iter().try_for_each(|number| disk.remove(number))
        });
        Ok(removing.await.map_err(io::Error::other)??)
    }

    /// The host stops: everything that is only in the journal goes into files, so that qmail, or another mailtree, can take
    /// the queue.
    ///
    /// # Errors
    /// What the journal still holds at the end of `grace`.
    pub async fn close(&self, grace: Duration) -> Result<(), Unemptied> {
        let deadline = Instant::now() + grace;
        self.0.checkpoints.hurry();
        // What was accepted into files, and tried, gets its times noted as well.
        drop(tokio::time::timeout(grace, self.write_out_all()).await);
        while self.0.live.in_journal() > 0 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, self.write_out_all()).await.is_err() {
                break;
            }
        }
        let left = self.0.live.in_journal();
        if left > 0 {
            return Err(Unemptied::Messages(left));
        }
        let root = self.0.disk.root();
        if !self.is_taken_up() && super::has_journal(root).unwrap_or(true) {
            return Err(Unemptied::NotTakenUp(root.join("journal")));
        }
        if let Some(writer) = self.0.writer.swap(None)
            && let Err(error) = writer.close().await
        {
            tracing::warn!("warning: unable to remove the journal: {error}");
        }
        let queue = self.clone();
        drop(tokio::task::spawn_blocking(move || queue.0.discard_spares()).await);
        Ok(())
    }
}

impl Shared {
    fn discard_spares(&self) {
        for spare in self.spares.drain() {
            if let Err(error) = Spare::discard(&self.disk, spare.number) {
                tracing::warn!("warning: unable to unlink a file in pid: {error}");
                return;
            }
        }
    }
}

impl super::Disk {
    /// Whether there are files of message `id`, which is in the journal.
    fn has_files(&self, id: mailtree_protocols::queue::MessageId) -> bool {
        Dir::ALL.into_iter().any(|dir| fs::symlink_metadata(self.path(dir, id)).is_ok())
    }

    /// Whether `mess/ID` holds this message, written out before a crash.
    fn is_ours(&self, id: mailtree_protocols::queue::MessageId, body: &[u8]) -> bool {
        let path = self.path(Dir::Mess, id);
        let same = |meta: fs::Metadata| meta.ino() == id.0;
        fs::symlink_metadata(&path).is_ok_and(same) && super::disk::holds_or_less(&path, body)
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        io::Error::other(error).into()
    }
}
