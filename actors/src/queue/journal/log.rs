//! The log: batches one behind the other, in one segment after the other.
//!
//! - Segments are used in turn; a segment is free again when a durable checkpoint says that nothing before the next one is
//!   needed. Only the oldest can become free: a younger one may hold the end of what an older one began.
//! - A batch is written with one write behind the last one, never into a page that holds something. After a crash a new
//!   segment is begun: nothing is ever written behind a hole.
//! - After a failed sync the kernel may believe that what it could not write is clean. The segment is left as it is for good,
//!   and the next one begins with a record that voids what was refused, durable before anything else.

use std::collections::VecDeque;
use std::io;

use mailtree_protocols::journal::{Key, Lsn, PAGE, Record, Replay, Replayed, Serial, batch, segment};

use super::disk::Disk;
use super::identity::Identity;

/// Numbers between the last batch of a replay and the next: what may have been written and was not found.
const GAP: u64 = 1 << 20;

/// How large the journal is.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Settings {
    /// Size of a segment, in bytes: whole pages.
    pub(in super::super) segment_size: u64,
    /// How many segments there are at least, and at most.
    pub(in super::super) segments: (usize, usize),
}

/// What a journal said when it was opened.
#[derive(Debug)]
pub(in super::super) struct Recovered {
    /// The messages that lived.
    pub(in super::super) messages: Vec<Replayed>,
    /// What is damaged, in words.
    pub(in super::super) damage: Vec<String>,
    /// The highest serial that was given out.
    pub(in super::super) last_serial: Serial,
}

/// Why a journal is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not the one that `journal.id` names.
    #[error(
        "queue/journal belongs to another home: start that one, or empty the directory to lose what is in it"
    )]
    Foreign,
    /// There is less than there was.
    #[error(
        "queue/journal is older than this home: generation {found}, begun were {newest}; put the right one back, or \
         remove journal.id from the home to go on with what is there"
    )]
    Older {
        /// The newest generation found; 0: none.
        found: u64,
        /// The newest that was begun.
        newest: u64,
    },
    /// Another program has written it.
    #[error(
        "queue/journal/{0:08}.seg has format {1}, of another version of mailtree: start that one, and stop it"
    )]
    Version(u32, u32),
    /// It cannot be read or written.
    #[error("queue/journal: {0}")]
    Io(#[from] io::Error),
}

impl OpenError {
    /// Whether trying again may help.
    pub(in super::super) fn is_temporary(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}

/// A segment in use.
#[derive(Debug)]
struct Used {
    number: u32,
    size: u64,
    /// Its last batch.
    last: Lsn,
    /// A sync of it failed: never written again, not even as another generation.
    failed: bool,
}

/// The log.
pub(in super::super) struct Log<D> {
    disk: D,
    settings: Settings,
    journal: [u8; 16],
    boot: [u8; 16],
    random: Box<dyn FnMut() -> Key + Send>,
    /// Oldest first.
    used: VecDeque<Used>,
    free: Vec<u32>,
    /// A number that no segment has.
    next_number: u32,
    current: Option<Current>,
    generation: u64,
    last: Lsn,
    /// After a replay, until something is durable behind it: the last batch that was found.
    found: Option<Lsn>,
    synced: Lsn,
    /// Batches whose sync failed, not voided yet.
    refused: Option<(Lsn, Lsn)>,
    failures: u32,
    buffer: Vec<u8>,
}

/// The segment that is written.
struct Current {
    number: u32,
    size: u64,
    end: u64,
    place: batch::Place,
}

struct Head {
    number: u32,
    header: segment::Header,
}

/// A segment that was read.
struct Read<'a> {
    head: &'a Head,
    batches: Vec<(Lsn, Vec<Record>)>,
    size: u64,
    /// Up to which batch all were durable, as far as the process says that wrote it.
    synced: Lsn,
}

impl<D: Disk> Log<D> {
    /// Opens the journal on `disk`; one that has no segments is begun. `random` makes keys.
    pub(in super::super) fn open(
        disk: D,
        settings: Settings,
        identity: &Identity,
        mut random: Box<dyn FnMut() -> Key + Send>,
    ) -> Result<(Self, Recovered), OpenError> {
        let numbers = disk.segments()?;
        let next_number = numbers.last().map_or(1, |last| last + 1);
        let (mut heads, mut free) = (Vec::new(), Vec::new());
        for number in numbers {
            match segment::read(&disk.head(number)?) {
                segment::Found::Header(header) => heads.push(Head { number, header }),
                segment::Found::Version(version) => return Err(OpenError::Version(number, version)),
                // Torn: it was being begun, and nothing in it counted. What it held before was free.
                segment::Found::Unused | segment::Found::Torn => free.push(number),
            }
        }
        heads.sort_by_key(|head| head.header.generation);
        let newest = heads.last().map_or(0, |head| head.header.generation);
        if heads.iter().any(|head| identity.journal.is_some_and(|ours| ours != head.header.journal)) {
            return Err(OpenError::Foreign);
        }
        if newest < identity.newest {
            return Err(OpenError::Older { found: newest, newest: identity.newest });
        }
        let journal = identity.journal.or(heads.last().map(|head| head.header.journal));
        let mut log = Self {
            disk,
            settings,
            journal: journal.unwrap_or_else(&mut random),
            boot: identity.boot,
            random,
            used: VecDeque::new(),
            free,
            next_number,
            current: None,
            generation: newest,
            last: Lsn(0),
            found: None,
            synced: Lsn(0),
            refused: None,
            failures: 0,
            buffer: Vec::new(),
        };
        let recovered = log.replay(&heads)?;
        while log.used.len() + log.free.len() < settings.segments.0 {
            let number = log.create()?;
            log.free.push(number);
        }
        Ok((log, recovered))
    }

    fn create(&mut self) -> io::Result<u32> {
        let number = self.next_number;
        self.disk.create(number, self.settings.segment_size)?;
        self.next_number += 1;
        Ok(number)
    }

    /// Reads the segments from the newest back to the last one that a checkpoint needs, and then forwards.
    fn replay(&mut self, heads: &[Head]) -> Result<Recovered, OpenError> {
        let (mut needed, mut synced) = (Lsn(0), Lsn(0));
        let (mut read, mut voids): (VecDeque<Read<'_>>, Vec<_>) = Default::default();
        for (nth, head) in heads.iter().enumerate().rev() {
            if nth + 1 < heads.len() && heads[nth + 1].header.first <= needed {
                self.free.push(head.number);
                continue;
            }
            let bytes = self.disk.read(head.number)?;
            let mut batches = Vec::new();
            for batch in segment::batches(&head.header, &bytes) {
                let records = batch.records().map_err(|bad| {
                    io::Error::other(format!("{:08}.seg: batch {}: {bad}", head.number, batch.lsn.0))
                })?;
                for record in &records {
                    match record {
                        Record::Checkpoint { needed: from, .. } => needed = needed.max(*from),
                        Record::Void { first, last } => voids.push(*first..=*last),
                        _ => (),
                    }
                }
                self.last = self.last.max(batch.lsn);
                synced = synced.max(batch.synced);
                batches.push((batch.lsn, records));
            }
            read.push_front(Read { head, batches, size: bytes.len() as u64, synced });
            if head.header.first.0 > head.header.previous.0 + 1 {
                // A process began here, and says nothing of what it did not find.
                synced = Lsn(0);
            }
        }
        let mut replay = Replay::default();
        let mut damage = Vec::new();
        for (nth, Read { head, batches, size, synced }) in read.iter().enumerate() {
            // The batches that should be here end where the next segment says.
            let end = match read.get(nth + 1) {
                Some(next) => next.head.header.previous,
                None => self.last,
            };
            let missing: Vec<u64> = (head.header.first.0..=end.0.min(synced.0))
                .filter(|lsn| *lsn >= needed.0 && !voids.iter().any(|void| void.contains(&Lsn(*lsn))))
                .filter(|lsn| batches.binary_search_by_key(lsn, |(found, _)| found.0).is_err())
                .collect();
            if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                let copy = self.disk.keep_copy(head.number)?;
                damage.push(format!(
                    "{:08}.seg: {} batches that were durable cannot be read ({first} to {last}): messages may be lost; \
                     a copy is kept as {}",
                    head.number,
                    missing.len(),
                    copy.display()
                ));
            }
            let last = batches.last().map_or(head.header.first, |(lsn, _)| *lsn);
            self.used.push_back(Used { number: head.number, size: *size, last, failed: false });
        }
        for Read { head, batches, .. } in read {
            let same_boot = head.header.boot == self.boot;
            for (lsn, records) in batches.into_iter().filter(|(lsn, _)| *lsn >= needed) {
                for record in records {
                    replay.apply(lsn, same_boot, record);
                }
            }
        }
        self.found = Some(self.last);
        self.last = Lsn(self.last.0 + GAP);
        self.synced = self.last;
        let last_serial = Serial(replay.last_serial().0 + GAP);
        Ok(Recovered { messages: replay.finish(), damage, last_serial })
    }

    /// The largest batch, in bytes of its records.
    pub(in super::super) fn max_batch(&self) -> usize {
        let room = usize::try_from(self.settings.segment_size).unwrap_or(usize::MAX);
        // A header, a void, and the batch.
        room.saturating_sub(2 * PAGE + batch::HEADER)
    }

    /// The last batch that was written.
    pub(in super::super) fn last(&self) -> Lsn {
        self.last
    }

    /// The newest generation; it has a durable header when its first batch is synced.
    pub(in super::super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Which journal this is.
    pub(in super::super) fn journal(&self) -> [u8; 16] {
        self.journal
    }

    /// Segments that hold something.
    pub(in super::super) fn used_segments(&self) -> usize {
        self.used.len()
    }

    /// The first batch that was refused and that a replay would still believe.
    #[cfg(test)]
    pub(in super::super) fn refused(&self) -> Option<Lsn> {
        self.refused.map(|(first, _)| first)
    }

    /// Two syncs in a row have failed: nothing can be written any more.
    pub(in super::super) fn is_dead(&self) -> bool {
        self.failures >= 2
    }

    /// Whether half of all that may be is in use: a checkpoint is due.
    pub(in super::super) fn is_half_full(&self) -> bool {
        self.used.len() * 2 > self.settings.segments.1
    }

    /// Whether what is left should be kept for records that free something.
    pub(in super::super) fn is_nearly_full(&self) -> bool {
        let last = self.free.is_empty() && self.used.len() >= self.settings.segments.1;
        last && self.current.as_ref().is_none_or(|current| current.size - current.end < current.size / 4)
    }

    /// Writes a batch, not durably.
    pub(in super::super) fn append(&mut self, records: &[Record]) -> io::Result<Lsn> {
        if self.is_dead() {
            return Err(io::Error::other("the journal has failed"));
        }
        let length = batch::length(records.iter().map(Record::size).sum());
        if length as u64 + 2 * PAGE as u64 > self.settings.segment_size {
            return Err(io::Error::other("larger than a segment"));
        }
        let fits = |current: &Current| current.end + length as u64 <= current.size;
        if !self.current.as_ref().is_some_and(fits) {
            self.roll()?;
        }
        self.write(records)
    }

    /// Writes a batch behind the last one of the current segment.
    fn write(&mut self, records: &[Record]) -> io::Result<Lsn> {
        let Some(current) = &mut self.current else { return Err(io::ErrorKind::StorageFull.into()) };
        let lsn = Lsn(self.last.0 + 1);
        self.buffer.clear();
        batch::write(&current.place, lsn, self.synced, records, &mut self.buffer);
        // Whatever comes of it, nothing else gets this number or these pages.
        self.last = lsn;
        let at = current.end;
        current.end += self.buffer.len() as u64;
        if let Some(used) = self.used.back_mut() {
            used.last = lsn;
        }
        let written = self.disk.write_at(current.number, at, &self.buffer);
        if self.buffer.capacity() > 4 << 20 {
            self.buffer = Vec::new();
        }
        match written {
            Ok(()) => Ok(lsn),
            Err(error) => {
                self.fail();
                Err(error)
            }
        }
    }

    /// Begins the next segment.
    fn roll(&mut self) -> io::Result<()> {
        if self.current.is_some() && self.synced < self.last {
            self.sync()?;
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.used.len() < self.settings.segments.1 => self.create()?,
            None => return Err(io::ErrorKind::StorageFull.into()),
        };
        let begun = self.begin(number);
        if begun.is_err() {
            self.current = None;
        }
        begun
    }

    fn begin(&mut self, number: u32) -> io::Result<()> {
        self.generation += 1;
        let header = segment::Header {
            generation: self.generation,
            first: Lsn(self.last.0 + 1),
            previous: self.found.unwrap_or(self.last),
            journal: self.journal,
            boot: self.boot,
            key: (self.random)(),
        };
        let size = self.disk.size(number)?;
        self.used.push_back(Used { number, size, last: self.last, failed: false });
        self.disk.write_at(number, 0, &header.to_bytes())?;
        self.current = Some(Current { number, size, end: PAGE as u64, place: header.place() });
        if let Some((first, last)) = self.refused {
            self.write(&[Record::Void { first, last }])?;
            self.sync()?;
            self.refused = None;
        }
        Ok(())
    }

    /// Makes all batches durable.
    pub(in super::super) fn sync(&mut self) -> io::Result<()> {
        // Without one everything is durable, or void.
        let Some(current) = &self.current else { return Ok(()) };
        match self.disk.sync(current.number) {
            Ok(()) => {
                self.synced = self.last;
                self.found = None;
                self.failures = 0;
                Ok(())
            }
            Err(error) => {
                self.fail();
                Err(error)
            }
        }
    }

    /// What is not durable never will be: it is refused, and its segment is left as it is.
    fn fail(&mut self) {
        self.failures += 1;
        let first = self.refused.map_or(Lsn(self.synced.0 + 1), |(first, _)| first);
        self.refused = Some((first, self.last));
        // What comes now does not stand behind a hole: it voids it.
        self.synced = self.last;
        if let Some(used) = self.used.back_mut() {
            used.failed = true;
        }
        self.current = None;
    }

    /// Says durably that batches before `needed` are not needed, and that files named before `durable` are durable;
    /// [`Log::release`] may follow.
    pub(in super::super) fn checkpoint(&mut self, needed: Lsn, durable: Lsn) -> io::Result<()> {
        self.append(&[Record::Checkpoint { needed, durable }])?;
        self.sync()
    }

    /// Frees the segments that lie wholly before `needed`, which a checkpoint has said durably.
    pub(in super::super) fn release(&mut self, needed: Lsn) -> io::Result<()> {
        while self.used.len() > 1 && self.used.front().is_some_and(|oldest| oldest.last < needed) {
            let Some(oldest) = self.used.pop_front() else { break };
            if oldest.failed || oldest.size != self.settings.segment_size {
                self.disk.remove(oldest.number)?;
            } else {
                self.free.push(oldest.number);
            }
        }
        Ok(())
    }

    /// Ends a journal in which nothing is needed any more: no file is left.
    pub(in super::super) fn close(mut self) -> io::Result<()> {
        for number in self.disk.segments()? {
            self.disk.remove(number)?;
        }
        self.used.clear();
        Ok(())
    }
}
