//! What is in the queue's files. Only regular files are read: a FIFO or a device is named and skipped.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::num::NonZero;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mailtree_config::regular;
use mailtree_protocols::envelope::{self, Envelope, Recipient};
use mailtree_protocols::queue::{Channel, Dir, Layout, MAX_SPLIT, MessageId, State};

use super::{Disk, micros};
use crate::clock::unix;

/// Largest envelope file that is read back.
const MAX_ENVELOPE: u64 = 64 * 1024 * 1024;

/// What a scheduler finds when it starts.
#[derive(Debug, Default)]
pub struct Survey {
    /// Preprocessed messages.
    pub messages: Vec<Surveyed>,
    /// Messages whose files could not be read, and why.
    pub failed: Vec<(MessageId, io::Error)>,
}

/// Does `work` for many items, several at once: most of it is system calls. The results are in the items' order.
pub fn each<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    /// Fewer are not worth a thread.
    const SHARE: usize = 1000;
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(4);
    let share = items.len().div_ceil(threads).max(SHARE);
    let (mut items, mut shares) = (items.into_iter(), Vec::new());
    loop {
        let share: Vec<T> = items.by_ref().take(share).collect();
        if share.is_empty() {
            break;
        }
        shares.push(share);
    }
    let work = &work;
    let do_all = move |share: Vec<T>| share.into_iter().map(work).collect::<Vec<R>>();
    if shares.len() < 2 {
        return shares.into_iter().flat_map(do_all).collect();
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = shares.into_iter().map(|share| scope.spawn(move || do_all(share))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<R>>| match thread.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(join).collect()
    })
}

/// A preprocessed message as a scheduler needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// Its number.
    pub id: MessageId,
    /// Reverse-path.
    pub sender: Vec<u8>,
    /// When it was queued, in microseconds since 1970.
    pub birth: u64,
    /// Next attempt on the local channel in Unix seconds, if anybody is left there.
    pub local: Option<u64>,
    /// The same of the remote channel.
    pub remote: Option<u64>,
    /// Somebody failed; the bounce is not sent yet.
    pub bouncing: bool,
}

/// The layout of the directories below `root`.
///
/// # Errors
/// When they cannot be read, or are no layout: the directory that does not fit is named.
pub fn layout(root: &Path) -> io::Result<Layout> {
    let mut flat = HashSet::new();
    let mut numbers = std::collections::HashMap::new();
    let mut split = 0;
    for dir in Dir::ALL {
        let path = root.join(dir.name());
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // Made when the layout is known.
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir != Dir::Mess => continue,
            Err(error) => return Err(super::named(&path, &error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| super::named(&path, &error))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let number = if name == "0" { Some(0) } else { MessageId::parse(name).map(|id| id.0) };
            let Some(number) = number else { continue };
            if entry.file_type()?.is_dir() {
                // One with the number of a message is no part of a layout: it is named when the queue is read.
                if number < MAX_SPLIT && !(dir != Dir::Mess && number >= split) {
                    found.push(number);
                }
            } else {
                flat.insert(dir);
            }
        }
        if dir == Dir::Mess {
            split = found.len() as u64;
        }
        numbers.insert(dir, found);
    }
    // A queue of qmail's with info, local or remote forgotten altogether: as mess is divided.
    let of_mess = numbers.get(&Dir::Mess).cloned().unwrap_or_default();
    let of = |dir: Dir| match dir {
        Dir::Info | Dir::Local | Dir::Remote => numbers.get(&dir).unwrap_or(&of_mess).clone(),
        other => numbers.get(&other).cloned().unwrap_or_default(),
    };
    Layout::of(of, |dir| flat.contains(&dir))
        .map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, format!("{}/{bad}", root.display())))
}

/// Whether the file at `path` holds exactly `bytes`.
pub(super) fn holds(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let Some((file, meta)) = regular::open_with_metadata(path)? else { return Ok(false) };
    if meta.len() != bytes.len() as u64 || meta.nlink() != 1 {
        return Ok(false);
    }
    let mut found = Vec::with_capacity(bytes.len());
    file.take(bytes.len() as u64 + 1).read_to_end(&mut found)?;
    Ok(found == bytes)
}

/// Whether the file at `path` holds `bytes` or a beginning of them: what this host was writing when it crashed.
pub(in super::super) fn holds_or_less(path: &Path, bytes: &[u8]) -> bool {
    let read = || {
        let Some(file) = regular::open(path)? else { return Ok(None) };
        let mut found = Vec::with_capacity(bytes.len());
        file.take(bytes.len() as u64 + 1).read_to_end(&mut found)?;
        Ok::<_, io::Error>(Some(found))
    };
    // After a power cut a tail that was never written reads as zeros.
    read().ok().flatten().is_some_and(|found| {
        found.len() <= bytes.len()
            && found.iter().zip(bytes).skip_while(|(a, b)| a == b).all(|(a, _)| *a == 0)
    })
}

impl Disk {
    /// Ids with a regular file in `dir`; other things with a number for a name are named and skipped.
    pub(in super::super) fn ids(&self, dir: Dir) -> io::Result<Vec<MessageId>> {
        let mut ids = Vec::new();
        for below in self.layout.directories(dir) {
            let path = self.root.join(below);
            for entry in fs::read_dir(&path).map_err(|error| super::named(&path, &error))? {
                let entry = entry?;
                let Some(id) = entry.file_name().to_str().and_then(MessageId::parse) else { continue };
                match entry.file_type() {
                    Ok(kind) if kind.is_file() => ids.push(id),
                    Ok(_) => self.skip(&entry.path(), "not a regular file"),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(ids)
    }

    fn open_file(&self, dir: Dir, id: MessageId) -> io::Result<(File, Metadata)> {
        let path = self.path(dir, id);
        let found = regular::open_with_metadata(&path)
            .and_then(|found| found.ok_or_else(|| io::ErrorKind::NotFound.into()));
        found.map_err(|error| super::named(&path, &error))
    }

    pub(super) fn read(&self, dir: Dir, id: MessageId) -> io::Result<Vec<u8>> {
        self.read_with_metadata(dir, id).map(|(bytes, _)| bytes)
    }

    fn read_with_metadata(&self, dir: Dir, id: MessageId) -> io::Result<(Vec<u8>, Metadata)> {
        let (file, meta) = self.open_file(dir, id)?;
        if meta.len() > MAX_ENVELOPE {
            let name = self.layout.file(dir, id);
            return Err(io::Error::other(format!("{name} is larger than {MAX_ENVELOPE} bytes")));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
        // One read: nobody asks whether there is more.
        file.take(meta.len()).read_to_end(&mut bytes)?;
        Ok((bytes, meta))
    }

    /// The message in `mess/ID`, for reading.
    pub(in super::super) fn open_mess(&self, id: MessageId) -> io::Result<File> {
        self.open_file(Dir::Mess, id).map(|(file, _)| file)
    }

    /// The recipients of message `id` on `channel`; none when the channel is finished.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn recipients(&self, id: MessageId, channel: Channel) -> io::Result<Vec<Recipient>> {
        let bytes = match self.read(channel.dir(), id) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let (recipients, wrong) = envelope::parse_channel(&bytes).map_err(io::Error::other)?;
        if let Some(wrong) = wrong {
            self.skip(&self.path(channel.dir(), id), &wrong.to_string());
        }
        Ok(recipients)
    }

    /// What the bounce of message `id` will say; nothing when nobody failed.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(in super::super) fn bounce(&self, id: MessageId) -> io::Result<Option<Vec<u8>>> {
        match self.read(Dir::Bounce, id) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every preprocessed message but those `known` otherwise, for a scheduler that starts.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn survey(&self, known: &HashSet<MessageId>) -> io::Result<Survey> {
        let mut survey = Survey::default();
        let set = |dir| Ok::<_, io::Error>(self.ids(dir)?.into_iter().collect::<HashSet<_>>());
        let (mess, todo, bounce) = (set(Dir::Mess)?, set(Dir::Todo)?, set(Dir::Bounce)?);
        let (local, remote) = (set(Dir::Local)?, set(Dir::Remote)?);
        let (there, alone): (Vec<_>, Vec<_>) = self
            .ids(Dir::Info)?
            .into_iter()
            .filter(|id| !known.contains(id) && !todo.contains(id))
            .partition(|id| mess.contains(id));
        for id in alone {
            let name = self.layout.file(Dir::Info, id);
            tracing::error!(msg = id.0, "alert: {name} without its mess: left alone");
        }
        let surveyed = each(there, |id| {
            let found = self.surveyed(id, local.contains(&id), remote.contains(&id), bounce.contains(&id));
            found.map_err(|error| (id, error))
        });
        for found in surveyed {
            match found {
                Ok(message) => survey.messages.push(message),
                Err(failed) => survey.failed.push(failed),
            }
        }
        Ok(survey)
    }

    fn surveyed(&self, id: MessageId, local: bool, remote: bool, bouncing: bool) -> io::Result<Surveyed> {
        let due = |there: bool, channel: Channel| {
            if !there {
                return Ok(None);
            }
            match fs::symlink_metadata(self.path(channel.dir(), id)) {
                Ok(meta) => Ok(Some(unix(meta.modified()?))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        let (info, meta) = self.read_with_metadata(Dir::Info, id)?;
        Ok(Surveyed {
            id,
            sender: envelope::parse_info(&info).map_err(io::Error::other)?,
            birth: micros(meta.modified()?),
            local: due(local, Channel::Local)?,
            remote: due(remote, Channel::Remote)?,
            bouncing,
        })
    }

    /// Message `id` if it is preprocessed.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn look(&self, id: MessageId) -> io::Result<Option<Surveyed>> {
        let files = self.files(id)?;
        match files.state() {
            State::Preprocessed => self.surveyed(id, files.local, files.remote, files.bounce).map(Some),
            State::Foreign => {
                let name = self.layout.file(Dir::Info, id);
                tracing::error!(msg = id.0, "alert: {name} without its mess: left alone");
                Ok(None)
            }
            State::None | State::Unfinished | State::Queued | State::Leftover => Ok(None),
        }
    }

    /// Size of message `id`, in bytes.
    ///
    /// # Errors
    /// When it is not there.
    pub fn size(&self, id: MessageId) -> io::Result<u64> {
        Ok(fs::symlink_metadata(self.mess(id))?.len())
    }

    /// How many messages there are, in any state.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn count(&self) -> io::Result<usize> {
        self.ids(Dir::Mess).map(|ids| ids.len())
    }

    /// A message waiting for preprocessing: its envelope, when it was queued in microseconds since 1970, and its size.
    ///
    /// # Errors
    /// When it does not wait, or its files cannot be read.
    pub fn envelope(&self, id: MessageId) -> io::Result<(Envelope, u64, u64)> {
        let envelope = Envelope::parse(&self.read(Dir::Todo, id)?).map_err(io::Error::other)?;
        let (_, mess) = self.open_file(Dir::Mess, id)?;
        Ok((envelope, micros(mess.modified()?), mess.len()))
    }

    /// Ids waiting for preprocessing.
    ///
    /// # Errors
    /// When `todo` cannot be read.
    pub fn todo(&self) -> io::Result<Vec<MessageId>> {
        self.ids(Dir::Todo)
    }
}
