//! Every file operation of the queue, in the order of its protocol.
//!
//! Each operation runs in three steps on a disk thread ([`super::sync`]): `prepare` writes what nobody relies on yet,
//! `publish` makes it count, `finish` removes what it replaces and answers. Between them the thread makes the work of a
//! whole batch durable where the operation asked for it. A crash between any two lines leaves a state of the table in
//! [`mailtree_protocols::queue`]; [`crash::reached`] marks the places where tests stop the host.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mailtree_protocols::envelope::{self, Envelope, Recipient};
use mailtree_protocols::queue::{Channel, Dir, Files, MessageId, OSSIFIED, SPLIT, State};
use rustix::fs::{CWD, RenameFlags, Timespec, Timestamps, UTIME_OMIT};

use super::blank::{Blank, Blanks, PREFIX};
use super::crash::{Point, reached};
use super::trigger::Trigger;
use crate::clock::unix;
use crate::qmail_send::ReportPort;

/// Largest envelope file that is read back.
const MAX_ENVELOPE: u64 = 64 * 1024 * 1024;

/// Messages up to this size are copied through memory, larger ones by the kernel.
const SMALL: u64 = 256 * 1024;

/// The queue directory.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    directory: File,
    drafts: AtomicU64,
    /// For `mess`, `intd` and `todo`.
    public: Blanks,
    /// For `info`, `local` and `remote`.
    private: Blanks,
}

/// The filesystems that a batch must make durable before it goes on.
///
/// Each disk thread has its own: the kernel reports a write error once for each open file, so two threads that sync through
/// one would hide it from each other.
pub(super) struct Unsynced {
    queue: File,
    device: u64,
    needs_queue: bool,
    others: Vec<(u64, File)>,
}

impl Unsynced {
    pub(super) fn new(disk: &Disk) -> io::Result<Self> {
        let queue = File::open(&disk.root)?;
        let device = queue.metadata()?.dev();
        Ok(Self { queue, device, needs_queue: false, others: Vec::new() })
    }

    /// What was done in the queue must become durable.
    fn need_queue(&mut self) {
        self.needs_queue = true;
    }

    /// What was done on `file`'s filesystem must become durable.
    fn need(&mut self, file: &File) -> io::Result<()> {
        let device = file.metadata()?.dev();
        if device == self.device {
            self.needs_queue = true;
        } else if !self.others.iter().any(|(seen, _)| *seen == device) {
            self.others.push((device, file.try_clone()?));
        }
        Ok(())
    }

    /// Makes everything so far durable, files and directory entries alike, and forgets it.
    ///
    /// One syncfs for a batch costs less than an fsync for each of its files and directories; since Linux 5.8 it
    /// reports write errors as fsync does.
    pub(super) fn sync(&mut self, disk: &Disk) -> io::Result<()> {
        if std::mem::take(&mut self.needs_queue) {
            let marks = (disk.public.mark(), disk.private.mark());
            rustix::fs::syncfs(self.queue.as_fd())?;
            disk.public.cooled(marks.0);
            disk.private.cooled(marks.1);
        }
        for (_, file) in self.others.drain(..) {
            rustix::fs::syncfs(file.as_fd())?;
        }
        Ok(())
    }
}

/// One thing to do on disk.
pub(super) trait Operation: Send + 'static {
    /// What the caller learns.
    type Output: Send + 'static;

    /// Writes what nobody relies on yet.
    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()>;

    /// Makes it count.
    fn publish(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()>;

    /// Removes what it replaces; the answer.
    fn finish(self, disk: &Disk) -> io::Result<Self::Output>;

    /// Before `publish` something failed: takes back what `prepare` wrote, as well as it can.
    fn abandon(self, disk: &Disk);
}

impl Disk {
    /// The queue below `root`.
    ///
    /// # Errors
    /// When it is not a directory that can be opened.
    pub fn open(root: &Path) -> io::Result<Self> {
        let pid = root.join("pid");
        Ok(Self {
            root: root.to_owned(),
            directory: File::open(root)?,
            drafts: AtomicU64::new(0),
            public: Blanks::new(&pid, 0o644),
            private: Blanks::new(&pid, 0o600),
        })
    }

    fn path(&self, dir: Dir, id: MessageId) -> PathBuf {
        self.root.join(dir.file(id))
    }

    /// Where message `id` lies.
    #[must_use]
    pub fn mess(&self, id: MessageId) -> PathBuf {
        self.path(Dir::Mess, id)
    }

    /// Free bytes and free inodes for an unprivileged process on the queue's filesystem.
    ///
    /// # Errors
    /// When the filesystem does not answer.
    pub fn free(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.directory)?;
        // A filesystem that makes inodes as it needs them reports none at all.
        let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), inodes))
    }

    /// Begins a file in `pid/`.
    fn draft(&self) -> io::Result<Draft> {
        if let Some(blank) = self.public.take() {
            return Ok(Draft { blank, linked: false });
        }
        let n = self.drafts.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}.{}.{}.{n}", std::process::id(), now.as_secs(), now.subsec_nanos());
        let path = self.root.join("pid").join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        Ok(Draft { blank: Blank::new(path, file), linked: false })
    }

    fn blanks(&self, dir: Dir) -> &Blanks {
        match dir {
            Dir::Mess | Dir::Intd | Dir::Todo => &self.public,
            Dir::Info | Dir::Local | Dir::Remote | Dir::Bounce => &self.private,
        }
    }

    fn write(&self, dir: Dir, id: MessageId, bytes: &[u8]) -> io::Result<()> {
        let blanks = self.blanks(dir);
        let path = self.path(dir, id);
        if let Some(mut blank) = blanks.take() {
            blank.write_all(bytes)?;
            blank.finish()?;
            return fs::rename(&blank.path, path);
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(blanks.mode()).open(path)?.write_all(bytes)
    }

    fn unlink(&self, dir: Dir, id: MessageId) -> io::Result<()> {
        self.blanks(dir).retire(&self.path(dir, id))
    }

    fn exists(&self, dir: Dir, id: MessageId) -> io::Result<bool> {
        self.path(dir, id).try_exists()
    }

    fn files(&self, id: MessageId) -> io::Result<Files> {
        Ok(Files {
            mess: self.exists(Dir::Mess, id)?,
            intd: self.exists(Dir::Intd, id)?,
            todo: self.exists(Dir::Todo, id)?,
            info: self.exists(Dir::Info, id)?,
            local: self.exists(Dir::Local, id)?,
            remote: self.exists(Dir::Remote, id)?,
            bounce: self.exists(Dir::Bounce, id)?,
        })
    }

    /// Ids with a file in `dir`, at most `limit` of them.
    fn ids(&self, dir: Dir, limit: usize) -> io::Result<Vec<MessageId>> {
        let top = self.root.join(dir.name());
        let mut ids = Vec::new();
        let below: Vec<PathBuf> =
            if dir.is_split() { (0..SPLIT).map(|n| top.join(n.to_string())).collect() } else { vec![top] };
        for directory in below {
            for entry in fs::read_dir(directory)? {
                if let Some(id) = entry?.file_name().to_str().and_then(MessageId::parse) {
                    ids.push(id);
                    if ids.len() >= limit {
                        return Ok(ids);
                    }
                }
            }
        }
        Ok(ids)
    }

    fn read(&self, dir: Dir, id: MessageId) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(dir, id))?;
        let size = file.metadata()?.len();
        if size > MAX_ENVELOPE {
            return Err(io::Error::other(format!("{} is larger than {MAX_ENVELOPE} bytes", dir.file(id))));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(MAX_ENVELOPE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The reverse-path of a preprocessed message.
    ///
    /// # Errors
    /// When `info/ID` is not there or is damaged.
    pub fn sender(&self, id: MessageId) -> io::Result<Vec<u8>> {
        envelope::parse_info(&self.read(Dir::Info, id)?).map_err(io::Error::other)
    }

    /// The recipients of message `id` on `channel`; none when the channel is finished.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn recipients(&self, id: MessageId, channel: Channel) -> io::Result<Vec<Recipient>> {
        match self.read(channel.dir(), id) {
            Ok(bytes) => envelope::parse_channel(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// What the bounce of message `id` will say; nothing when nobody failed.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn bounce(&self, id: MessageId) -> io::Result<Option<Vec<u8>>> {
        match self.read(Dir::Bounce, id) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every preprocessed message, for a scheduler that starts.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn survey(&self) -> io::Result<Survey> {
        let mut survey = Survey::default();
        for id in self.preprocessed()? {
            match self.look(id) {
                Ok(Some(message)) => survey.messages.push(message),
                Ok(None) => (),
                Err(error) => {
                    let file = Dir::Info.file(id);
                    tracing::warn!(
                        msg = id.0,
                        "warning: unable to stat {file}; will try again later: {error}"
                    );
                    survey.failed.push(id);
                }
            }
        }
        Ok(survey)
    }

    /// Message `id` if it is preprocessed.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn look(&self, id: MessageId) -> io::Result<Option<Surveyed>> {
        match self.files(id)?.state() {
            State::Preprocessed => (),
            State::Foreign => {
                tracing::error!(msg = id.0, "alert: {} without its mess: left alone", Dir::Info.file(id));
                return Ok(None);
            }
            State::None | State::Unfinished | State::Queued | State::Leftover => return Ok(None),
        }
        let due = |channel: Channel| match fs::metadata(self.path(channel.dir(), id)) {
            Ok(meta) => Ok(Some(unix(meta.modified()?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        Ok(Some(Surveyed {
            id,
            sender: self.sender(id)?,
            birth: unix(fs::metadata(self.path(Dir::Info, id))?.modified()?),
            bytes: fs::metadata(self.mess(id))?.len(),
            local: due(Channel::Local)?,
            remote: due(Channel::Remote)?,
            bouncing: self.exists(Dir::Bounce, id)?,
        }))
    }

    /// Ids with an `info` file.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn preprocessed(&self) -> io::Result<Vec<MessageId>> {
        self.ids(Dir::Info, usize::MAX)
    }

    /// How many messages there are, in any state.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn count(&self) -> io::Result<usize> {
        self.ids(Dir::Mess, usize::MAX).map(|ids| ids.len())
    }

    /// A message waiting for preprocessing: its envelope, when it was queued in Unix seconds, and its size.
    ///
    /// # Errors
    /// When it does not wait, or its files cannot be read.
    pub fn envelope(&self, id: MessageId) -> io::Result<(Envelope, u64, u64)> {
        let envelope = Envelope::parse(&self.read(Dir::Todo, id)?).map_err(io::Error::other)?;
        let mess = fs::metadata(self.mess(id))?;
        Ok((envelope, unix(mess.modified()?), mess.len()))
    }

    /// Ids waiting for preprocessing.
    ///
    /// # Errors
    /// When `todo` cannot be read.
    pub fn todo(&self) -> io::Result<Vec<MessageId>> {
        self.ids(Dir::Todo, usize::MAX)
    }

    /// Removes unfinished messages (S2, S3) and files in `pid/` at least `age` old; with age zero only while nothing is
    /// being received. Files kept for further use go when `kept` says so, whatever their age: at a start, when they are an
    /// earlier process'. Returns how many files went.
    ///
    /// # Errors
    /// When a directory cannot be read or a file cannot be removed.
    pub fn sweep(&self, age: Duration, kept: bool) -> io::Result<u64> {
        let now = SystemTime::now();
        let old = |path: &Path| match fs::symlink_metadata(path) {
            Ok(meta) => Ok(meta.is_file() && now.duration_since(meta.modified()?).unwrap_or_default() >= age),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        let mut removed = 0;
        for entry in fs::read_dir(self.root.join("pid"))? {
            let entry = entry?;
            let path = entry.path();
            let blank = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
            if if blank { kept } else { old(&path)? } {
                absent_is_fine(fs::remove_file(&path))?;
                removed += 1;
            }
        }
        for id in self.ids(Dir::Mess, usize::MAX)? {
            if old(&self.mess(id))? && self.files(id)?.state() == State::Unfinished {
                self.unlink(Dir::Intd, id)?;
                self.unlink(Dir::Mess, id)?;
                removed += 1;
            }
        }
        for id in self.ids(Dir::Intd, usize::MAX)? {
            if old(&self.path(Dir::Intd, id))? && self.files(id)?.state() == State::Leftover {
                self.unlink(Dir::Intd, id)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Sweeps what is too old to be in use by anybody.
    ///
    /// # Errors
    /// As [`Disk::sweep`].
    pub fn sweep_ossified(&self) -> io::Result<u64> {
        self.sweep(Duration::from_secs(OSSIFIED), false)
    }
}

/// What a scheduler finds when it starts.
#[derive(Debug, Default)]
pub struct Survey {
    /// Preprocessed messages.
    pub messages: Vec<Surveyed>,
    /// Messages whose files could not be read.
    pub failed: Vec<MessageId>,
}

/// A preprocessed message as a scheduler needs to know it; times in Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// Its number.
    pub id: MessageId,
    /// Reverse-path.
    pub sender: Vec<u8>,
    /// When it was queued.
    pub birth: u64,
    /// Size of the message.
    pub bytes: u64,
    /// Next attempt on the local channel, if anybody is left there.
    pub local: Option<u64>,
    /// Next attempt on the remote channel, if anybody is left there.
    pub remote: Option<u64>,
    /// Somebody failed; the bounce is not sent yet.
    pub bouncing: bool,
}

/// A message being received, in `pid/`. Dropped before it is linked, it takes its file along.
#[derive(Debug)]
pub(super) struct Draft {
    blank: Blank,
    linked: bool,
}

impl Draft {
    /// The file, for reading.
    pub(super) fn path(&self) -> &Path {
        &self.blank.path
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.linked
            && let Err(error) = absent_is_fine(fs::remove_file(&self.blank.path))
        {
            // Harmless: the sweep takes it.
            tracing::warn!("warning: unable to unlink {}: {error}", self.blank.path.display());
        }
    }
}

/// Writes part of a message that is too large to wait in memory.
pub(super) struct Spill {
    pub(super) draft: Option<Draft>,
    pub(super) bytes: Vec<u8>,
    /// Somebody will read the file: nothing but the message may be in it.
    pub(super) whole: bool,
}

impl Operation for Spill {
    type Output = (Draft, Vec<u8>);

    fn prepare(&mut self, disk: &Disk, _: &mut Unsynced) -> io::Result<()> {
        let draft = match self.draft.take() {
            Some(draft) => draft,
            None => disk.draft()?,
        };
        let blank = &mut self.draft.insert(draft).blank;
        blank.write_all(&self.bytes)?;
        if self.whole { blank.finish() } else { Ok(()) }
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
pub(super) struct Commit {
    /// What was spilled before.
    pub(super) draft: Option<Draft>,
    /// The rest of the message.
    pub(super) bytes: Vec<u8>,
    /// The content of `intd/ID`.
    pub(super) envelope: Vec<u8>,
    /// Set by `prepare`.
    pub(super) id: Option<MessageId>,
    /// Pulled when it is done, whether or not somebody still waits for the answer.
    pub(super) trigger: Trigger,
}

impl Commit {
    /// `pid/…` → `mess/ID`. Another message may have this number as its name, if the queue was copied here from another
    /// filesystem; then the message moves to another inode while it holds on to this one.
    fn link(&mut self, disk: &Disk) -> io::Result<MessageId> {
        let mut held = Vec::new();
        loop {
            let mut draft = match self.draft.take() {
                Some(draft) => draft,
                None => disk.draft()?,
            };
            if let Some(Draft { blank, .. }) = held.last() {
                io::copy(&mut File::open(&blank.path)?, &mut draft.blank)?;
            } else {
                draft.blank.write_all(&self.bytes)?;
            }
            draft.blank.finish()?;
            reached(Point::MessWritten);
            let id = MessageId(draft.blank.file().metadata()?.ino());
            match rustix::fs::renameat_with(
                CWD,
                &draft.blank.path,
                CWD,
                disk.mess(id),
                RenameFlags::NOREPLACE,
            ) {
                Ok(()) => {
                    draft.linked = true;
                    return Ok(id);
                }
                Err(rustix::io::Errno::EXIST) if held.len() < 16 => held.push(draft),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Operation for Commit {
    type Output = MessageId;

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        let id = self.link(disk)?;
        self.id = Some(id);
        reached(Point::MessLinked);
        disk.write(Dir::Intd, id, &self.envelope)?;
        reached(Point::IntdWritten);
        unsynced.need_queue();
        Ok(())
    }

    fn publish(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        reached(Point::CommitSynced);
        let id = self.id.ok_or_else(|| io::Error::other("a message without a number"))?;
        let (intd, todo) = (disk.path(Dir::Intd, id), disk.path(Dir::Todo, id));
        rustix::fs::renameat_with(CWD, intd, CWD, todo, RenameFlags::NOREPLACE)?;
        todo_gauge().increment(1.0);
        reached(Point::TodoLinked);
        unsynced.need_queue();
        Ok(())
    }

    fn finish(self, _: &Disk) -> io::Result<MessageId> {
        reached(Point::TodoSynced);
        self.trigger.pull();
        self.id.ok_or_else(|| io::Error::other("a message without a number"))
    }

    fn abandon(self, disk: &Disk) {
        if let Some(id) = self.id {
            // What stays behind is S2 or S3, garbage for the sweep.
            if let Err(error) = disk.unlink(Dir::Intd, id).and_then(|()| disk.unlink(Dir::Mess, id)) {
                tracing::warn!("warning: unable to unlink {}: {error}", Dir::Mess.file(id));
            }
        }
    }
}

/// Where a recipient goes, as the scheduler's control files say.
pub(crate) type Route = Arc<dyn Fn(&[u8]) -> (Channel, Vec<u8>) + Send + Sync>;

/// Preprocesses what waits in `todo`: S4 → S5.
pub(super) struct Preprocess {
    pub(super) route: Route,
    /// At most so many messages.
    pub(super) limit: usize,
    /// Not these: they could not be preprocessed before.
    pub(super) except: Arc<HashSet<MessageId>>,
    pub(super) done: Preprocessed,
}

/// What preprocessing found.
#[derive(Debug, Default)]
pub struct Preprocessed {
    /// Messages that are in S5 now.
    pub messages: Vec<NewMessage>,
    /// Messages that cannot be preprocessed, and why. They stay.
    pub failed: Vec<(MessageId, String)>,
    /// There may be more.
    pub more: bool,
}

/// A message that has just been preprocessed.
#[derive(Debug)]
pub struct NewMessage {
    /// Its number.
    pub id: MessageId,
    /// Size of the message.
    pub bytes: u64,
    /// When it was queued, in Unix seconds.
    pub birth: u64,
    /// The envelope as it was accepted.
    pub envelope: Envelope,
    /// Recipients on the local channel.
    pub local: Vec<Recipient>,
    /// Recipients on the remote channel.
    pub remote: Vec<Recipient>,
}

impl Preprocess {
    fn one(&self, disk: &Disk, id: MessageId) -> io::Result<NewMessage> {
        let bytes = fs::metadata(disk.mess(id))?.len();
        let envelope = Envelope::parse(&disk.read(Dir::Todo, id)?).map_err(io::Error::other)?;
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for recipient in &envelope.recipients {
            match (self.route)(recipient) {
                (Channel::Local, address) => local.push(address),
                (Channel::Remote, address) => remote.push(address),
            }
        }
        disk.write(Dir::Info, id, &envelope::info(&envelope.sender).map_err(io::Error::other)?)?;
        reached(Point::InfoWritten);
        let list = |channel: Channel, addresses: &[Vec<u8>]| {
            if addresses.is_empty() {
                // From an earlier attempt, under other control files.
                disk.unlink(channel.dir(), id)?;
                return Ok(Vec::new());
            }
            let records = envelope::channel(addresses.iter().map(Vec::as_slice)).map_err(io::Error::other)?;
            disk.write(channel.dir(), id, &records)?;
            envelope::parse_channel(&records).map_err(io::Error::other)
        };
        let (local, remote) = (list(Channel::Local, &local)?, list(Channel::Remote, &remote)?);
        reached(Point::ChannelsWritten);
        Ok(NewMessage { id, bytes, birth: unix(SystemTime::now()), envelope, local, remote })
    }
}

impl Operation for Preprocess {
    type Output = Preprocessed;

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        let ids = disk.ids(Dir::Todo, self.limit + self.except.len())?;
        self.done.more = ids.len() >= self.limit + self.except.len();
        for id in ids.into_iter().filter(|id| !self.except.contains(id)) {
            match self.one(disk, id) {
                Ok(message) => self.done.messages.push(message),
                Err(error) => self.done.failed.push((id, error.to_string())),
            }
        }
        if !self.done.messages.is_empty() {
            unsynced.need_queue();
        }
        Ok(())
    }

    fn publish(&mut self, disk: &Disk, _: &mut Unsynced) -> io::Result<()> {
        for message in &self.done.messages {
            reached(Point::PreprocessSynced);
            // A todo that outlives a crash is preprocessed again: nobody is forgotten.
            disk.unlink(Dir::Intd, message.id)?;
            disk.unlink(Dir::Todo, message.id)?;
            todo_gauge().decrement(1.0);
            reached(Point::TodoUnlinked);
        }
        Ok(())
    }

    fn finish(self, _: &Disk) -> io::Result<Preprocessed> {
        Ok(self.done)
    }

    fn abandon(self, _: &Disk) {}
}

/// Notes what became of recipients: S5 → S5.
pub(super) struct Settle {
    pub(super) id: MessageId,
    pub(super) channel: Channel,
    /// Offsets of the records that are done.
    pub(super) done: Vec<u64>,
    /// Nobody is left on the channel.
    pub(super) finished: bool,
    /// Paragraphs for the bounce.
    pub(super) bounce: Vec<u8>,
    /// When the channel is to be tried next, kept as the file's mtime.
    pub(super) retry: Option<u64>,
}

impl Operation for Settle {
    type Output = ();

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        if self.bounce.is_empty() {
            return Ok(());
        }
        let path = disk.path(Dir::Bounce, self.id);
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(&self.bounce)?;
        reached(Point::BounceWritten);
        // The bounce must not be lost once the recipient counts as done.
        unsynced.need_queue();
        Ok(())
    }

    fn publish(&mut self, disk: &Disk, _: &mut Unsynced) -> io::Result<()> {
        if self.finished {
            disk.unlink(self.channel.dir(), self.id)?;
        } else {
            let path = disk.path(self.channel.dir(), self.id);
            let file = match OpenOptions::new().write(true).open(path) {
                Ok(file) => file,
                // Another delivery was the last one and has finished the channel meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            for offset in &self.done {
                file.write_all_at(b"D", *offset)?;
            }
            if let Some(retry) = self.retry {
                let seconds = i64::try_from(retry).unwrap_or(i64::MAX);
                rustix::fs::futimens(
                    &file,
                    &Timestamps {
                        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
                    },
                )?;
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

/// Removes a message that is settled and whose bounce, if any, is queued: S5 → S1.
pub(super) struct End {
    pub(super) id: MessageId,
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
        // mess goes last: from then on its number may be another message's.
        disk.unlink(Dir::Bounce, self.id)?;
        reached(Point::BounceUnlinked);
        disk.unlink(Dir::Local, self.id)?;
        disk.unlink(Dir::Remote, self.id)?;
        disk.unlink(Dir::Info, self.id)?;
        reached(Point::InfoUnlinked);
        disk.unlink(Dir::Mess, self.id)?;
        reached(Point::MessUnlinked);
        Ok(())
    }

    fn abandon(self, _: &Disk) {}
}

/// Delivers a queued message into a Maildir, durably.
pub(super) struct Maildir {
    pub(super) id: MessageId,
    /// The Maildir, absolute.
    pub(super) maildir: PathBuf,
    /// The file's name, as [`mailtree_protocols::maildir::name`] makes it.
    pub(super) name: String,
    /// Return-Path and Delivered-To.
    pub(super) head: Vec<u8>,
    /// Set by `prepare`.
    pub(super) file: Option<File>,
    /// While this lives the message does not end, so its number is not another message's.
    pub(super) _delivery: Option<Arc<ReportPort>>,
}

impl Maildir {
    fn tmp(&self) -> PathBuf {
        self.maildir.join("tmp").join(&self.name)
    }
}

impl Operation for Maildir {
    type Output = ();

    fn prepare(&mut self, disk: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.tmp())?;
        if rustix::process::geteuid().is_root() {
            let owner = fs::metadata(&self.maildir)?;
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        let mut mess = File::open(disk.mess(self.id))?;
        let size = mess.metadata()?.len();
        if size <= SMALL {
            let mut bytes = std::mem::take(&mut self.head);
            mess.take(SMALL).read_to_end(&mut bytes)?;
            file.write_all(&bytes)?;
        } else {
            file.write_all(&self.head)?;
            io::copy(&mut mess, &mut file)?;
        }
        reached(Point::MaildirWritten);
        unsynced.need(&file)?;
        self.file = Some(file);
        Ok(())
    }

    fn publish(&mut self, _: &Disk, unsynced: &mut Unsynced) -> io::Result<()> {
        reached(Point::MaildirSynced);
        let new = self.maildir.join("new").join(&self.name);
        rustix::fs::renameat_with(CWD, self.tmp(), CWD, new, RenameFlags::NOREPLACE)?;
        reached(Point::MaildirLinked);
        self.file.as_ref().map_or(Ok(()), |file| unsynced.need(file))
    }

    fn finish(self, _: &Disk) -> io::Result<()> {
        reached(Point::MaildirDurable);
        Ok(())
    }

    fn abandon(self, _: &Disk) {
        if let Err(error) = absent_is_fine(fs::remove_file(self.tmp())) {
            tracing::warn!("warning: unable to unlink {}: {error}", self.tmp().display());
        }
    }
}

/// Messages waiting for preprocessing.
pub(super) fn todo_gauge() -> metrics::Gauge {
    metrics::gauge!("mailtree_queue_messages", "state" => "todo")
}

pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
