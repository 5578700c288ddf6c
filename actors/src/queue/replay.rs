//! What the journal says when the host starts: who has got a message, and under which number it goes on.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mailtree_config::regular;
use mailtree_protocols::envelope::Envelope;
use mailtree_protocols::journal::MaildirFile;
use mailtree_protocols::journal::replay::{Fate as Told, Replayed};
use mailtree_protocols::queue::{Dir, MessageId};
use tokio::sync::Semaphore;

use super::disk::spare::Spare;
use super::journal::Recovered;
use super::live::{Addressee, Backing, Entry, Fate, Leftover, Noted};
use super::{Body, InMaildir, Queue, checkpoint};
use crate::maildir;
use crate::pool::{Key, Mounts, Pool};

/// How long it may take in all to put copies in Maildirs right; what cannot be looked at by then is delivered again.
const LOOKING: Duration = Duration::from_secs(60);

/// How long a device may take for one copy.
const ANSWER: Duration = Duration::from_secs(5);

/// So many Maildirs that do not answer are the device's fault.
const HANGING: usize = 3;

/// Copies looked for side by side on one device.
const AT_ONCE: usize = 8;

impl Queue {
    /// Puts what the journal says into the table. What it is not needed for any more: the files with the numbers of these
    /// messages go when a checkpoint says so.
    ///
    /// # Errors
    /// When there is no number for a message: nothing may get the one it had.
    pub(super) async fn replay(&self, recovered: Recovered) -> io::Result<Over> {
        let Recovered { messages, damage, next_serial } = recovered;
        for damage in &damage {
            tracing::error!("alert: {damage}");
        }
        self.0.serial.store(next_serial.0, Ordering::Release);
        if messages.is_empty() {
            return Ok(Over::default());
        }
        let found = messages.iter().filter(|one| !one.ended).count();
        let looking = Looking::new(self.0.pool.clone());
        let decided =
            futures_util::future::join_all(messages.into_iter().map(|one| looking.decide(one))).await;
        let (over, left): (Vec<_>, Vec<_>) = decided.into_iter().partition(Decided::is_over);
        let mut left = self.number(left)?;
        let count = left.len();
        // Written out before a crash, and not removed before another: there is no other message of that number.
        let written =
            |one: &&Decided| self.0.disk.written_out(one.spare().id, &one.message.accept.body).is_some();
        let files = over.iter().filter(written).map(|one| one.spare().id).collect();
        let spares = over.iter().map(Decided::spare).collect();
        let mut over = Over { spares, files, ..Over::default() };
        for (id, _, unrestored) in &mut left {
            for (nth, files, copies) in unrestored.drain(..) {
                over.doubted.push((Noted { id: *id, nth }, files));
                over.copies.extend(copies);
            }
        }
        self.0.live.insert(left.into_iter().map(|(id, entry, _)| (id, entry)));
        tracing::info!(
            messages = count,
            "qmail-queue: {count} of {found} messages in the journal are to be delivered"
        );
        Ok(over)
    }

    /// Each message with its number. Where somebody else may have that one by now, it gets another.
    fn number(&self, decided: Vec<Decided>) -> io::Result<Vec<Numbered>> {
        let disk = &self.0.disk;
        let mut taken = HashSet::new();
        let held: Vec<_> = decided
            .iter()
            .map(|one| {
                let spare = one.spare();
                let file = spare.held(disk).or_else(|| disk.written_out(spare.id, &one.message.accept.body));
                file.filter(|_| taken.insert(spare.id))
            })
            .collect();
        let missing = held.iter().filter(|held| held.is_none()).count();
        let mut new = disk.new_spares(missing)?;
        let mut entries = Vec::new();
        for (one, held) in decided.into_iter().zip(held) {
            let own = one.spare();
            let leftover = match held.is_some() && disk.has_files(own.id) {
                true => Leftover::Files,
                false => Leftover::Never,
            };
            let numbered = held.map(|file| (own, file)).or_else(|| new.pop());
            let (spare, file) = numbered.ok_or_else(|| io::Error::other("a number is missing"))?;
            if spare != own {
                tracing::warn!("warning: msg {} of the journal goes on as msg {}", own.id, spare.id);
            }
            self.0.spares.adopt(spare, file);
            let (entry, unrestored) = one.entry(spare, leftover);
            entries.push((spare.id, entry, unrestored));
        }
        Ok(entries)
    }

    /// What the journal said is done with: that is noted, so that the next start need not look again, and then the numbers of
    /// these messages go.
    pub(super) async fn replayed(&self, over: Over) {
        let queue = self.clone();
        let noting = tokio::task::spawn_blocking(move || {
            queue.doubt(over.doubted, over.copies);
            for id in over.files {
                if !queue.0.live.knows(id)
                    && let Err(error) = queue.0.disk.remove(id)
                {
                    tracing::warn!("warning: unable to remove the files of msg {id}: {error}");
                }
            }
            let noted = queue.checkpoint();
            for spare in over.spares {
                // One that has been given out again since is another message's.
                if queue.0.spares.has(spare) {
                    continue;
                }
                if noted {
                    spare.discard_own(&queue.0.disk);
                } else if let Some(file) = spare.held(&queue.0.disk) {
                    // Not swept: after a crash it is looked for.
                    queue.0.spares.adopt(spare, file);
                }
            }
        });
        noting.await.unwrap_or(());
    }
}

/// A recipient's place, what the journal names for him, and what there is of it, not durable.
type Unrestored = (usize, Vec<MaildirFile>, Vec<InMaildir>);

/// A message under its number, and for whom copies could not be put right.
type Numbered = (MessageId, Entry, Vec<Unrestored>);

/// What a replay leaves to be noted.
#[derive(Default)]
pub(super) struct Over {
    /// The numbers of messages that nothing is to be done about.
    spares: Vec<Spare>,
    /// Those of which there are files.
    files: Vec<MessageId>,
    doubted: Vec<(Noted, Vec<MaildirFile>)>,
    copies: Vec<InMaildir>,
}

impl super::Disk {
    /// Whether there are files of message `id`, which is in the journal.
    fn has_files(&self, id: MessageId) -> bool {
        Dir::ALL.into_iter().any(|dir| fs::symlink_metadata(self.path(dir, id)).is_ok())
    }

    /// `mess/ID`, if it holds this message, written out before a crash.
    fn written_out(&self, id: MessageId, body: &[u8]) -> Option<File> {
        let path = self.path(Dir::Mess, id);
        let file = regular::open(&path).ok().flatten()?;
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
        let mut unrestored = Vec::new();
        for (nth, told) in message.recipients.iter().enumerate() {
            let done = match told {
                // Who was open when it ended was removed with it.
                Told::Open => message.ended,
                Told::Done | Told::Failed(_) => true,
                Told::InDoubt { maildirs, same_boot } => {
                    match self.restore(maildirs, &body, *same_boot).await {
                        Ok(()) => true,
                        Err(copy) => {
                            unrestored.push((nth, maildirs.clone(), copy.into_iter().collect()));
                            false
                        }
                    }
                }
            };
            fates.push(if done { Fate::Done } else { Fate::Open });
        }
        Decided { message, fates, unrestored }
    }

    /// Whether all these copies are whole, or put right, and durable now. In the same life of the machine its owner can be
    /// believed to have removed what is missing. What cannot be looked at is delivered again, and found then; one that could not
    /// be synced is told.
    async fn restore(
        &self,
        copies: &[MaildirFile],
        body: &Body,
        same_boot: bool,
    ) -> Result<(), Option<InMaildir>> {
        for copy in copies {
            let path = maildir::path_of(copy);
            let number = self.mounts.device(&path);
            let device = {
                let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(devices.entry(number).or_default())
            };
            let hanging = || device.hanging.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(_place) = device.places.acquire().await else { return Err(None) };
            if hanging().contains(&path) {
                return Err(None);
            }
            let (copy, body) = (copy.clone(), body.clone());
            let left = self.until.saturating_duration_since(Instant::now()).min(ANSWER);
            let key = Key { device: number, person: checkpoint::nobody() };
            let restoring = self.pool.run(key, left, move || maildir::restore(&copy, &body, same_boot)).await;
            match restoring {
                Ok(Ok(())) => (),
                Ok(Err((_, copy))) => return Err(copy),
                Err(_) => {
                    hanging().insert(path);
                    if left.is_zero() || hanging().len() >= HANGING {
                        device.places.close();
                    }
                    return Err(None);
                }
            }
        }
        Ok(())
    }
}

/// A message of the journal, and who has got it.
struct Decided {
    message: Replayed,
    fates: Vec<Fate>,
    unrestored: Vec<Unrestored>,
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
    fn entry(self, spare: Spare, leftover: Leftover) -> (Entry, Vec<Unrestored>) {
        let Self { message: Replayed { accept, lsn, recipients, bounced, .. }, fates, unrestored } = self;
        let envelope =
            Envelope { uid: accept.uid, qp: accept.qp, sender: accept.sender, recipients: Vec::new() };
        let backing = Backing::Journal { serial: accept.serial, lsn, spare };
        let mut entry = Entry::new(backing, accept.birth, accept.body.len() as u64, envelope);
        for ((original, told), fate) in accept.recipients.into_iter().zip(recipients).zip(fates) {
            let mut one = Addressee::new(original, fate);
            // No checkpoint says that such a copy is durable, and its delivery makes sure by itself.
            one.unlucky = fate == Fate::Open && matches!(told, Told::InDoubt { .. });
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
        (entry, unrestored)
    }
}
