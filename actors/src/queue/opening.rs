//! How the queue is taken up and left: its journal is opened, emptied, given up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::crash::{Point, reached};
use super::disk::spare::Spare;
use super::journal::{self, Disk as _, FileDisk, Identity, Log, Recovered, Settings};
use super::writer::Writer;
use super::{Error, Queue, Shared};
use crate::service::StartError;

/// What the host does without a journal.
const INTO_FILES: &str = "messages go into files until the service queue is started again";

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
    /// This directory has a journal still; nothing in it is needed, but that could not be noted.
    #[error(
        "{}: unable to remove the journal: {cause}: start and stop this host again before you start qmail on this queue",
        directory.display()
    )]
    Remains {
        /// It.
        directory: PathBuf,
        /// Why.
        cause: String,
    },
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
            let over = self.replay(recovered).await?;
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
            self.replayed(over).await;
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
        // It may have a file system of its own.
        let on = if directory.exists() { directory } else { self.0.disk.root() };
        let stat = rustix::fs::statvfs(on).map_err(io::Error::from)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let wanted = size.segment * size.segments.0 as u64;
        if !exists && free < wanted.saturating_add(floor) {
            // A host whose disk is full must deliver what it has all the same.
            tracing::error!(
                "alert: {}: no room for the journal: {wanted} bytes are wanted, {free} are free, {floor} of them to be \
                 kept; {INTO_FILES}",
                directory.display()
            );
            return Ok(None);
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
        match Log::open(FileDisk::open(directory, size.segment)?, settings) {
            Ok((log, recovered)) => Ok(Some((log, recovered, journal))),
            Err(journal::OpenError::Io { file, error })
                if !exists && error.kind() == io::ErrorKind::StorageFull =>
            {
                tracing::error!("alert: {}: no room for the journal: {error}; {INTO_FILES}", file.display());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The journal cannot be written any more: everything that is only there goes into files, and it is begun anew.
    async fn abandon(&self) -> Result<(), OpenError> {
        self.write_out_all().await;
        let left = self.0.live.in_journal();
        if left > 0 {
            let cause = format!("{left} messages of a failed journal cannot be written out");
            return Err(io::Error::other(cause).into());
        }
        let directory = self.0.disk.root().join("journal");
        let path = self.0.journal_id.clone();
        let removing = tokio::task::spawn_blocking(move || {
            // An empty journal may be missing: that is said before it is.
            if let Some(journal) = Identity::read(&path)?.journal {
                Identity::note(&path, journal, 0)?;
            }
            let mut disk = FileDisk::open(&directory, 0)?;
            disk.segments()?.into_iter().try_for_each(|number| match disk.remove(number) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            })
        });
        removing.await.map_err(io::Error::other)??;
        // Only now: while anything of it is left, it is not read again.
        self.0.writer.store(None);
        Ok(())
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
        if let Some(writer) = self.0.writer.load_full() {
            let closed = match writer.is_dead() {
                true => self.abandon().await.map_err(|error| error.to_string()),
                false => writer.close().await.map_err(|error| error.to_string()),
            };
            self.0.writer.store(None);
            if let Err(cause) = closed {
                return Err(Unemptied::Remains { directory: root.join("journal"), cause });
            }
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

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        io::Error::other(error).into()
    }
}
