//! What the journal says when the host starts, and how it ends.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mailtree_protocols::envelope::Envelope;
use mailtree_protocols::journal::MaildirFile;
use mailtree_protocols::journal::replay::{Fate as Told, Replayed};
use mailtree_protocols::queue::{Dir, MessageId};
use tokio::sync::Semaphore;

use super::checkpoint;
use super::crash::{Point, reached};
use super::disk::spare::Spare;
use super::journal::{self, Disk as _, FileDisk, Identity, Log, Recovered, Settings};
use super::live::{Addressee, Backing, Entry, Fate};
use super::writer::Writer;
use super::{Body, Error, Queue, Shared};
use crate::maildir;
use crate::pool::{Key, Mounts, Pool};
use crate::service::StartError;

/// What the host does without a journal.
const INTO_FILES: &str = "messages go into files until the service queue is started again";

/// How long it may take in all to put copies in Maildirs right; what cannot be looked at by then is delivered again.
const LOOKING: Duration = Duration::from_secs(60);

/// How long a device may take for one copy.
const ANSWER: Duration = Duration::from_secs(5);

/// So many Maildirs that do not answer are the device's fault.
const HANGING: usize = 3;

/// Copies looked for side by side on one device.
const AT_ONCE: usize = 8;

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
            let over = self.replay(recovered).await;
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

    /// Puts what the journal says into the table. What it is not needed for any more: the files with the numbers of these
    /// messages go when a checkpoint says so.
    async fn replay(&self, recovered: Recovered) -> Vec<Spare> {
        let Recovered { messages, damage, next_serial } = recovered;
        for damage in &damage {
            tracing::error!("alert: {damage}");
        }
        self.0.serial.store(next_serial.0, Ordering::Release);
        if messages.is_empty() {
            return Vec::new();
        }
        let found = messages.len();
        let looking = Looking::new(self.0.pool.clone());
        let decided =
            futures_util::future::join_all(messages.into_iter().map(|one| looking.decide(one))).await;
        let (over, left): (Vec<_>, Vec<_>) = decided.into_iter().partition(Decided::is_over);
        let left = self.number(left);
        let count = left.len();
        self.0.live.insert(left);
        tracing::info!(
            messages = count,
            "qmail-queue: {count} of {found} messages in the journal are to be delivered"
        );
        over.into_iter().map(|one| one.spare()).collect()
    }

    /// Each message with its number. Where somebody else may have that one by now, it gets another.
    fn number(&self, decided: Vec<Decided>) -> Vec<(MessageId, Entry)> {
        let disk = &self.0.disk;
        let held: Vec<_> = decided
            .iter()
            .map(|one| {
                let spare = one.spare();
                spare.held(disk).or_else(|| disk.written_out(spare.id, &one.message.accept.body))
            })
            .collect();
        let missing = held.iter().filter(|held| held.is_none()).count();
        let mut new = match disk.new_spares(missing) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!("alert: no new numbers for {missing} messages of the journal: {error}");
                Vec::new()
            }
        };
        let mut entries = Vec::new();
        for (one, held) in decided.into_iter().zip(held) {
            let mut spare = one.spare();
            match held.map(|file| (spare, file)).or_else(|| new.pop()) {
                Some((number, file)) => {
                    if number != spare {
                        tracing::warn!(
                            "warning: msg {} of the journal goes on as msg {}",
                            spare.id,
                            number.id
                        );
                    }
                    self.0.spares.adopt(number, file);
                    spare = number;
                }
                // It keeps its own, which stands in the way of nobody but who comes by it.
                None => (),
            }
            let leftover = disk.has_files(spare.id);
            entries.push((spare.id, one.entry(spare, leftover)));
        }
        entries
    }

    /// What the journal said is done with: that is noted, so that the next start need not look again, and then the numbers of
    /// these messages go.
    async fn replayed(&self, over: Vec<Spare>) {
        let queue = self.clone();
        let noting = tokio::task::spawn_blocking(move || {
            let noted = queue.checkpoint();
            for spare in over {
                if noted {
                    Spare::discard(&queue.0.disk, spare.number).unwrap_or(());
                } else if let Some(file) = spare.held(&queue.0.disk) {
                    // Not swept: after a crash it is looked for.
                    queue.0.spares.adopt(spare, file);
                }
            }
        });
        noting.await.unwrap_or(());
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
        let path = self.0.journal_id.clone();
        let removing = tokio::task::spawn_blocking(move || {
            // An empty journal may be missing: that is said before it is.
            if let Some(journal) = Identity::read(&path)?.journal {
                Identity::note(&path, journal, 0)?;
            }
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

impl super::Disk {
    /// Whether there are files of message `id`, which is in the journal.
    fn has_files(&self, id: MessageId) -> bool {
        Dir::ALL.into_iter().any(|dir| fs::symlink_metadata(self.path(dir, id)).is_ok())
    }

    /// `mess/ID`, if it holds this message, written out before a crash.
    fn written_out(&self, id: MessageId, body: &[u8]) -> Option<File> {
        let path = self.path(Dir::Mess, id);
        let file = crate::cdb_files::open_regular(&path).ok().flatten()?;
        let same = file.metadata().is_ok_and(|meta| meta.ino() == id.0);
        (same && super::disk::holds_or_less(&path, body)).then_some(file)
    }
}

/// Puts copies right, each device at its own pace: one that does not answer is not waited for again.
struct Looking {
    pool: Pool,
    mounts: Mounts,
    until: Instant,
    /// By device.
    devices: Mutex<HashMap<u64, Arc<Device>>>,
}

/// A device on which copies are looked for.
struct Device {
    /// How many may be looked for at once; closed when it was given up.
    places: Semaphore,
    /// Maildirs that have not answered: behind links they may lie elsewhere.
    hanging: Mutex<HashSet<PathBuf>>,
}

impl Default for Device {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE), hanging: Mutex::default() }
    }
}

impl Looking {
    fn new(pool: Pool) -> Self {
        Self { pool, mounts: Mounts::default(), until: Instant::now() + LOOKING, devices: Mutex::default() }
    }

    /// What becomes of a message.
    async fn decide(&self, message: Replayed) -> Decided {
        let body = Body::memory(Arc::clone(&message.accept.body));
        let mut fates = Vec::with_capacity(message.recipients.len());
        for told in &message.recipients {
            let done = match told {
                // Who was open when it ended was removed with it.
                Told::Open => message.ended,
                Told::Done | Told::Failed(_) => true,
                Told::InDoubt { maildirs, same_boot } => self.restore(maildirs, &body, *same_boot).await,
            };
            fates.push(if done { Fate::Done } else { Fate::Open });
        }
        Decided { message, fates }
    }

    /// Whether all these copies are whole, or put right, and durable now. In the same life of the machine its owner can be
    /// believed to have removed what is missing. What cannot be looked at is delivered again, and found then.
    async fn restore(&self, copies: &[MaildirFile], body: &Body, same_boot: bool) -> bool {
        for copy in copies {
            let path = maildir::path_of(copy);
            let number = self.mounts.device(&path);
            let device = {
                let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(devices.entry(number).or_default())
            };
            let hanging = || device.hanging.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(_place) = device.places.acquire().await else { return false };
            if hanging().contains(&path) {
                return false;
            }
            let (copy, body) = (copy.clone(), body.clone());
            let left = self.until.saturating_duration_since(Instant::now()).min(ANSWER);
            let key = Key { device: number, person: checkpoint::nobody() };
            let restoring = self.pool.run(key, left, move || maildir::restore(&copy, &body, same_boot)).await;
            match restoring {
                Ok(Ok(())) => (),
                Ok(Err(_)) => return false,
                Err(_) => {
                    hanging().insert(path);
                    if left.is_zero() || hanging().len() >= HANGING {
                        device.places.close();
                    }
                    return false;
                }
            }
        }
        true
    }
}

/// A message of the journal, and who has got it.
struct Decided {
    message: Replayed,
    fates: Vec<Fate>,
}

impl Decided {
    /// It has ended, and everybody has it.
    fn is_over(&self) -> bool {
        self.message.ended && self.fates.iter().all(|fate| *fate == Fate::Done)
    }

    fn spare(&self) -> Spare {
        Spare { number: self.message.accept.pool, id: self.message.accept.id }
    }

    /// As it goes on; `leftover` says whether there are files of it.
    fn entry(self, spare: Spare, leftover: bool) -> Entry {
        let Self { message: Replayed { accept, lsn, recipients, bounced, .. }, fates } = self;
        let envelope =
            Envelope { uid: accept.uid, qp: accept.qp, sender: accept.sender, recipients: Vec::new() };
        let backing = Backing::Journal { serial: accept.serial, lsn, spare };
        let mut entry = Entry::new(backing, accept.birth, accept.body.len() as u64, envelope);
        for ((original, told), fate) in accept.recipients.into_iter().zip(recipients).zip(fates) {
            let mut one = Addressee::new(original, fate);
            if let Told::Failed(paragraph) = told {
                entry.bounce.extend_from_slice(&paragraph);
                one.failed = true;
            }
            entry.recipients.push(one);
        }
        entry.bounced = bounced.is_some();
        entry.again = true;
        entry.leftover = leftover;
        entry.body = Some(accept.body);
        entry
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        io::Error::other(error).into()
    }
}
