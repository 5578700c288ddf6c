//! The log: batches behind one another in segments, begun, synced and used again in an order that a power cut at any
//! point leaves readable.
//!
//! * A segment is begun only when the one before it is durable, or has failed.
//! * A start writes behind nothing that it found: its first batch begins a segment.
//! * A segment whose sync or write failed is never written again by this process. The next one begins with the durable
//!   record that its refused batches are void; before that nothing else is written.
//! * A checkpoint stands behind durable batches and is durable before a segment below it is used again, oldest first.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use mailtree_protocols::journal::batch::{self, Builder};
use mailtree_protocols::journal::replay::{Replay, Replayed};
use mailtree_protocols::journal::segment::{Head, Header, scan};
use mailtree_protocols::journal::{Key, Lsn, PAGE, Record, Serial, Span};

use super::Disk;
use super::identity::hex;

/// What a journal is opened with.
pub(crate) struct Settings {
    /// Bytes of a new segment.
    pub(crate) segment_size: u64,
    /// Segments at the start, and the most that accepting messages may take.
    pub(crate) segments: (usize, usize),
    /// Whose journal it is.
    pub(crate) journal_id: [u8; 16],
    /// This boot of the machine.
    pub(crate) boot_id: [u8; 16],
    /// Newest generation that is known to have been durable; 0 when none is.
    pub(crate) newest: u64,
    /// Gives a new random key.
    pub(crate) key: Box<dyn FnMut() -> [u8; 16] + Send>,
}

/// What a journal held.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// Messages it still answers for, in the order in which they were accepted.
    pub(crate) messages: Vec<Replayed>,
    /// What is damaged, in words for the log. All else is in `messages`.
    pub(crate) damage: Vec<String>,
    /// No message had this serial or a higher one.
    pub(crate) next_serial: Serial,
}

/// Why a journal is not opened. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// It was copied here, or `journal.id` was lost.
    #[error(
        "{}: is of journal {}, and journal.id of the home does not name that one: put the right journal.id back; or, if its \
         mail is to be delivered by this host, write \"journal {1}\" and \"newest 0\" into journal.id, two lines; otherwise \
         move the file away",
        file.display(),
        hex(*journal)
    )]
    AnotherHost {
        /// The first file that says so.
        file: PathBuf,
        /// Its journal.
        journal: [u8; 16],
    },
    /// A newer program wrote it.
    #[error("{}: made by a newer mailtree (format {version}): start that one", file.display())]
    Newer {
        /// The first file that says so.
        file: PathBuf,
        /// Its format.
        version: u32,
    },
    /// Files are missing, or were restored from a copy.
    #[error(
        "{}: the journal is older than it was (generation {found}, was {newest}): put its newest files back; or, to go on \
         without the mail in them, write \"newest {found}\" in place of \"newest {newest}\" into journal.id of the home",
        place.display()
    )]
    Older {
        /// The newest segment, or the directory without any.
        place: PathBuf,
        /// Newest generation there is; 0 when there is none.
        found: u64,
        /// Newest generation there was.
        newest: u64,
    },
    /// A file cannot be read.
    #[error("{}: {error}: check the disk, its mount and the permissions", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// No segment is left to write into: a checkpoint has to free one.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the journal is full")]
pub(crate) struct NoRoom;

impl From<NoRoom> for io::Error {
    fn from(error: NoRoom) -> Self {
        Self::new(io::ErrorKind::StorageFull, error)
    }
}

/// Who asks for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// New messages. They leave room for the records that free segments again.
    Accept,
    /// What becomes of messages.
    Settle,
    /// Checkpoints and voids.
    Control,
}

/// A segment that holds batches.
#[derive(Debug)]
struct Used {
    number: u32,
    size: u64,
    first: Lsn,
    failed: bool,
}

/// A segment that holds nothing.
#[derive(Debug)]
struct Free {
    number: u32,
    size: u64,
}

/// The segment that is written: the last used one.
#[derive(Debug)]
struct Current {
    number: u32,
    size: u64,
    generation: u64,
    key: Key,
    offset: u64,
}

/// The journal, open for writing.
pub(crate) struct Log<D: Disk> {
    disk: D,
    settings: Settings,
    /// Oldest first.
    used: VecDeque<Used>,
    free: VecDeque<Free>,
    /// Failed, and nothing in them is needed any more.
    dropped: Vec<u32>,
    current: Option<Current>,
    next_number: u32,
    generation: u64,
    serial: Serial,
    last: Lsn,
    synced: Lsn,
    /// Batches that the next segment has to declare void before anything else.
    voids: Vec<Span>,
    /// Failures since the last sync that succeeded.
    failures: u32,
    builder: Builder,
}

impl<D: Disk> Log<D> {
    /// Reads the journal on `disk`.
    pub(crate) fn open(mut disk: D, settings: Settings) -> Result<(Self, Recovered), OpenError> {
        let mut found = Found::heads(&mut disk, &settings)?;
        let mut damage = std::mem::take(&mut found.damage);
        let newest = found.good.last().map_or(0, |segment| segment.header.generation);
        // A header that cannot be read may be the newest one's: that is damage, not another journal.
        if newest < settings.newest && found.torn.is_empty() {
            let first = disk.path(1);
            let none = || first.parent().unwrap_or(&first).to_owned();
            let place = found.good.last().map_or_else(none, |segment| disk.path(segment.header.number));
            return Err(OpenError::Older { place, found: newest, newest: settings.newest });
        }
        let (needed, durable) = found.checkpoint(&disk)?.unwrap_or_default();
        let oldest = found.good.iter().rposition(|segment| segment.header.first <= needed).unwrap_or(0);
        let mut replay = Replay::new(needed, durable);
        for n in oldest..found.good.len() {
            let segment = &found.good[n];
            let (header, limit) = (segment.header, found.limit(n));
            replay.segment(header.first, header.serial);
            let bytes = read(&disk, header.number)?;
            for (_, batch) in scan(&header, &bytes).batches {
                let batch::Header { lsn, synced, .. } = batch.header;
                if lsn >= limit {
                    let file = disk.path(header.number);
                    damage.push(format!("{}: batch {lsn} was written too late: ignored", file.display()));
                    break;
                }
                match batch.records() {
                    Ok(records) => replay.batch(lsn, synced, header.boot == settings.boot_id, records),
                    Err(error) => {
                        damage.push(format!("{}: {error}", disk.path(header.number).display()));
                        replay.malformed(lsn);
                    }
                }
            }
        }
        let finished = replay.finish();
        let lost = !finished.damaged.is_empty() || newest < settings.newest;
        for span in &finished.damaged {
            damage.push(format!("journal: batches {span} are damaged or missing"));
        }
        if newest < settings.newest {
            damage.push(format!("journal: generation {} cannot be read", settings.newest));
        }
        let mut aside = |disk: &mut D, number: u32| {
            let file = disk.path(number);
            match disk.set_aside(number) {
                Ok(copy) => damage.push(format!("{}: copied to {}", file.display(), copy.display())),
                Err(error) => damage.push(format!("{}: unable to keep a copy: {error}", file.display())),
            }
        };
        for n in oldest..found.good.len() {
            let (first, limit) = (found.good[n].header.first, found.limit(n));
            if finished.damaged.iter().any(|span| span.first < limit && first <= span.last) {
                aside(&mut disk, found.good[n].header.number);
            }
        }
        for Free { number, .. } in found.torn.iter().filter(|_| lost) {
            aside(&mut disk, *number);
        }
        let retired = found
            .good
            .drain(..oldest)
            .map(|segment| Free { number: segment.header.number, size: segment.size });
        let free = retired.chain(found.unused).chain(found.torn).collect();
        let used: VecDeque<Used> = found
            .good
            .iter()
            .map(|Good { header, size }| Used {
                number: header.number,
                size: *size,
                first: header.first,
                failed: false,
            })
            .collect();
        let voids: Vec<Span> = finished.damaged.into_iter().chain(finished.unsynced).collect();
        let mut log = Self {
            disk,
            used,
            free,
            dropped: Vec::new(),
            current: None,
            next_number: found.highest.saturating_add(1),
            generation: newest.max(settings.newest),
            serial: finished.serial,
            last: finished.lsn,
            synced: finished.lsn,
            voids,
            failures: 0,
            builder: Builder::default(),
            settings,
        };
        while log.count() < log.settings.segments.0 {
            let created = log.create();
            match created {
                Ok(segment) => log.free.push_back(segment),
                // What lies in the journal has to get out of it, on a full disk too.
                Err(error) if log.count() > 0 => {
                    if log.free.is_empty() {
                        damage.push(format!(
                            "journal: no room for another segment: {error}: what is delivered until there is may be \
                             delivered again after a crash"
                        ));
                    }
                    break;
                }
                Err(error) => return Err(OpenError::Io { file: log.disk.path(log.next_number), error }),
            }
        }
        let next_serial = log.serial.next();
        Ok((log, Recovered { messages: finished.messages, damage, next_serial }))
    }

    /// Writes `records` as one batch: it survives the death of the process, and after [`Self::sync`] that of the machine.
    ///
    /// What depends on an `Accept` belongs into its batch or into a later one, and an `Ended` of another message that depends
    /// on it only behind its sync.
    ///
    /// # Errors
    /// [`NoRoom`] as [`io::ErrorKind::StorageFull`] and [`io::ErrorKind::InvalidInput`] for more than [`Self::max_batch`]: nothing was
    /// written. Any other: see [`Self::failed`].
    pub(crate) fn append(&mut self, records: &[Record]) -> io::Result<Lsn> {
        let accepts = records.iter().any(|record| matches!(record, Record::Accept(_)));
        self.write(records, if accepts { Purpose::Accept } else { Purpose::Settle })
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// All above [`Self::synced`] is refused: what waited for it has failed, and what of it is still true has to be appended
    /// again.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.alive()?;
        let Some(current) = &self.current else { return Ok(()) };
        if self.synced == self.last {
            return Ok(());
        }
        match self.disk.sync(current.number) {
            Ok(()) => {
                self.synced = self.last;
                self.failures = 0;
                Ok(())
            }
            Err(error) => {
                self.fail();
                Err(error)
            }
        }
    }

    /// After a failure: begins a new segment and makes durable that the refused batches are void. Else the next append does
    /// it; until then a power cut may bring them back.
    ///
    /// # Errors
    /// As [`Self::append`]; a second failure is the journal's death.
    pub(crate) fn recover(&mut self) -> io::Result<()> {
        self.alive()?;
        if self.failed() && self.current.is_none() { self.begin(0, Purpose::Control) } else { Ok(()) }
    }

    /// Makes durable that replay needs only batches from `needed` on, and that every Maildir file that a `Done` below
    /// `durable` names is durable. Then segments that lie wholly below are free.
    ///
    /// `needed` must be at most the LSN of every `Accept` without `Ended` or `Written`, and of every message with a `Done` into
    /// a Maildir at or above `durable`.
    ///
    /// # Errors
    /// As [`Self::append`] and [`Self::sync`]; nothing was freed.
    pub(crate) fn checkpoint(&mut self, needed: Lsn, durable: Lsn) -> io::Result<()> {
        // It says that what stands before it is known, so nothing of that may be lost.
        self.sync()?;
        let next = self.last.next();
        let (needed, durable) = (needed.min(next), durable.min(next));
        self.write(&[Record::Checkpoint { needed, durable }], Purpose::Control)?;
        self.sync()?;
        while self.used.get(1).is_some_and(|second| second.first <= needed)
            && let Some(Used { number, size, failed, .. }) = self.used.pop_front()
        {
            let surplus = self.count() >= self.settings.segments.1;
            if failed || surplus && self.disk.remove(number).is_err() {
                self.dropped.push(number);
            } else if !surplus {
                self.free.push_back(Free { number, size });
            }
        }
        Ok(())
    }

    /// A clean stop: nothing is live in the journal, and its files go. Before, `journal.id` must say that there is none.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; or a file could not be removed, which loses nothing.
    pub(crate) fn close(mut self) -> io::Result<()> {
        self.alive()?;
        if !self.used.is_empty() {
            self.checkpoint(self.last.next(), self.last.next())?;
        }
        // The one with the checkpoint goes last.
        let free = self.free.iter().map(|segment| segment.number);
        let used = self.used.iter().map(|segment| segment.number);
        let numbers: Vec<u32> = free.chain(self.dropped.iter().copied()).chain(used).collect();
        numbers.into_iter().try_for_each(|number| self.disk.remove(number))
    }

    /// Longest batch that [`Self::append`] takes: the sum of [`Record::encoded_len`].
    pub(crate) fn max_batch(&self) -> usize {
        let size = usize::try_from(self.settings.segment_size).unwrap_or(usize::MAX);
        let taken = 2 * PAGE + batch::HEADER + usize::try_from(self.reserve()).unwrap_or(usize::MAX);
        size.saturating_sub(taken).min(batch::MAX_PAYLOAD)
    }

    /// Number of the last batch.
    pub(crate) fn last(&self) -> Lsn {
        self.last
    }

    /// All up to here is durable, or was refused.
    #[cfg(test)]
    pub(crate) fn synced(&self) -> Lsn {
        self.synced
    }

    /// Newest generation begun. Once [`Self::sync`] has returned, `journal.id` may name it.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Segments that hold something.
    pub(crate) fn used_segments(&self) -> usize {
        self.used.len()
    }

    /// Segments that can be begun for new messages, with those that need not exist yet.
    pub(crate) fn free_segments(&self) -> usize {
        self.free.len() + self.settings.segments.1.saturating_sub(self.count())
    }

    /// Whether nothing from `needed` on was written.
    #[cfg(test)]
    pub(crate) fn is_empty(&self, needed: Lsn) -> bool {
        self.last < needed
    }

    /// A write or sync failed, and none has succeeded since; see [`Self::recover`].
    pub(crate) fn failed(&self) -> bool {
        self.failures > 0
    }

    /// It failed twice in a row: nothing is written any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.failures > 1
    }

    fn alive(&self) -> io::Result<()> {
        if self.is_dead() { Err(io::Error::other("the journal failed twice in a row")) } else { Ok(()) }
    }

    fn write(&mut self, records: &[Record], purpose: Purpose) -> io::Result<Lsn> {
        self.alive()?;
        if records.is_empty() {
            return Ok(self.last);
        }
        let len: usize = records.iter().map(Record::encoded_len).sum();
        if len > self.max_batch() {
            let text = format!("batch of {len} bytes, at most {} are allowed", self.max_batch());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let need = (batch::HEADER + len).next_multiple_of(PAGE) as u64;
        let reserve = self.reserved(purpose);
        let fits =
            self.current.as_ref().is_some_and(|current| current.offset + need + reserve <= current.size);
        if !fits {
            self.begin(need, purpose)?;
        }
        self.builder.clear();
        for record in records {
            self.builder.push(record).map_err(io::Error::other)?;
        }
        let lsn = self.put()?;
        for record in records {
            if let Record::Accept(accept) = record {
                self.serial = self.serial.max(accept.serial);
            }
        }
        Ok(lsn)
    }

    /// Writes what is in the builder as the next batch.
    fn put(&mut self) -> io::Result<Lsn> {
        let Some(current) = &mut self.current else { return Err(io::Error::other("no segment was begun")) };
        let lsn = self.last.next();
        let header = batch::Header { generation: current.generation, lsn, synced: self.synced };
        let bytes = self.builder.finish(&current.key, &header);
        // Whole or not, the number is taken.
        self.last = lsn;
        match self.disk.write_at(current.number, current.offset, bytes) {
            Ok(()) => {
                current.offset += bytes.len() as u64;
                Ok(lsn)
            }
            Err(error) => {
                self.fail();
                Err(error)
            }
        }
    }

    /// Nothing is written behind what may not be whole or durable.
    fn fail(&mut self) {
        self.failures += 1;
        self.current = None;
        if let Some(used) = self.used.back_mut() {
            used.failed = true;
        }
        if self.synced < self.last {
            let refused = Span { first: self.synced.next(), last: self.last };
            self.voids.retain(|span| span.last < refused.first);
            self.voids.push(refused);
        }
    }

    /// Begins a segment with room for a batch of `need` bytes, and makes durable in it what is void.
    fn begin(&mut self, need: u64, purpose: Purpose) -> io::Result<()> {
        let void: Vec<Record> =
            self.voids.iter().map(|span| Record::Void { first: span.first, last: span.last }).collect();
        let void_len: usize = void.iter().map(Record::encoded_len).sum();
        let void_len =
            if void.is_empty() { 0 } else { (batch::HEADER + void_len).next_multiple_of(PAGE) as u64 };
        let free = self.take(PAGE as u64 + void_len + need, purpose)?;
        if let Err(error) = self.sync() {
            self.free.push_front(free);
            return Err(error);
        }
        let Free { number, size } = free;
        self.generation += 1;
        let key = Key((self.settings.key)());
        let header = Header {
            number,
            generation: self.generation,
            first: self.last.next(),
            serial: self.serial,
            journal: self.settings.journal_id,
            boot: self.settings.boot_id,
            key,
        };
        self.used.push_back(Used { number, size, first: header.first, failed: false });
        if let Err(error) = self.disk.write_at(number, 0, &header.encode()) {
            self.fail();
            return Err(error);
        }
        let generation = self.generation;
        self.current = Some(Current { number, size, generation, key, offset: PAGE as u64 });
        if void.is_empty() {
            return Ok(());
        }
        self.builder.clear();
        for record in &void {
            self.builder.push(record).map_err(io::Error::other)?;
        }
        self.put()?;
        self.sync()?;
        self.voids.clear();
        Ok(())
    }

    /// A free segment with room for `need` bytes.
    fn take(&mut self, need: u64, purpose: Purpose) -> io::Result<Free> {
        let last = self.free.len() <= 1 && self.count() >= self.settings.segments.1;
        let reserve = if last { self.reserve_of(purpose) } else { 0 };
        if let Some(n) = self.free.iter().position(|segment| need + reserve <= segment.size)
            && let Some(segment) = self.free.remove(n)
        {
            return Ok(segment);
        }
        if self.count() >= self.limit(purpose) {
            return Err(NoRoom.into());
        }
        let created = self.create()?;
        if need <= created.size {
            return Ok(created);
        }
        self.free.push_back(created);
        Err(NoRoom.into())
    }

    fn create(&mut self) -> io::Result<Free> {
        loop {
            let number = self.next_number;
            let created = self.disk.create(number);
            if created.is_ok() || created.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists) {
                self.next_number = number.checked_add(1).ok_or(NoRoom)?;
            }
            match created {
                Ok(()) => return Ok(Free { number, size: self.disk.size(number)? }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
                Err(error) => return Err(error),
            }
        }
    }

    /// Segments in the rotation.
    fn count(&self) -> usize {
        self.free.len() + self.used.iter().filter(|segment| !segment.failed).count()
    }

    /// Segments that may exist for `purpose`. What frees others may have more: a host that was killed again and again has
    /// begun a new one each time.
    fn limit(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Accept => self.settings.segments.1,
            Purpose::Settle | Purpose::Control => usize::MAX,
        }
    }

    /// What `purpose` leaves of the current segment: something only when no other can be begun.
    fn reserved(&self, purpose: Purpose) -> u64 {
        let last = self.free.is_empty() && self.count() >= self.settings.segments.1;
        if last { self.reserve_of(purpose) } else { 0 }
    }

    fn reserve_of(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Accept => self.reserve(),
            Purpose::Settle => PAGE as u64,
            Purpose::Control => 0,
        }
    }

    /// What new messages leave of the last segment: on a full disk too, what lies in the journal can get out of it.
    fn reserve(&self) -> u64 {
        (self.settings.segment_size / 8).next_multiple_of(PAGE as u64).max(4 * PAGE as u64)
    }
}

/// A segment whose header is whole.
struct Good {
    header: Header,
    size: u64,
}

/// What the headers say.
struct Found {
    /// In the order of their generations.
    good: Vec<Good>,
    unused: Vec<Free>,
    torn: Vec<Free>,
    highest: u32,
    damage: Vec<String>,
}

impl Found {
    fn heads<D: Disk>(disk: &mut D, settings: &Settings) -> Result<Self, OpenError> {
        let mut found =
            Self { good: Vec::new(), unused: Vec::new(), torn: Vec::new(), highest: 0, damage: Vec::new() };
        let mut numbers = disk.segments().map_err(|error| OpenError::Io { file: disk.path(0), error })?;
        numbers.sort_unstable();
        for number in numbers {
            let file = disk.path(number);
            let io = |error| OpenError::Io { file: file.clone(), error };
            // What a killed process wrote is durable or lost from here on. A failure that it was not told of is reported
            // once; what is read afterwards is what the disk holds.
            disk.sync(number).or_else(|_| disk.sync(number)).map_err(io)?;
            let size = disk.size(number).map_err(io)?;
            match Header::decode(&disk.read_head(number).map_err(io)?) {
                Head::Good(header) if header.journal != settings.journal_id => {
                    return Err(OpenError::AnotherHost { file, journal: header.journal });
                }
                Head::Good(header) if header.number != number => {
                    let text = format!("{}: a copy of segment {}: left alone", file.display(), header.number);
                    found.damage.push(text);
                }
                Head::Good(header) => {
                    found.highest = number;
                    found.good.push(Good { header, size });
                }
                Head::Version(version) => return Err(OpenError::Newer { file, version }),
                Head::Unused => {
                    found.highest = number;
                    found.unused.push(Free { number, size });
                }
                Head::Torn => {
                    found.highest = number;
                    found.torn.push(Free { number, size });
                }
                Head::Foreign => {
                    found
                        .damage
                        .push(format!("{}: not a segment of the journal: left alone", file.display()));
                }
            }
        }
        found.good.sort_unstable_by_key(|segment| segment.header.generation);
        Ok(found)
    }

    /// No batch of segment `n` has this number or a higher one.
    fn limit(&self, n: usize) -> Lsn {
        self.good.get(n + 1).map_or(Lsn(u64::MAX), |next| next.header.first)
    }

    /// The last checkpoint.
    fn checkpoint<D: Disk>(&self, disk: &D) -> Result<Option<(Lsn, Lsn)>, OpenError> {
        for (n, Good { header, .. }) in self.good.iter().enumerate().rev() {
            let (bytes, limit) = (read(disk, header.number)?, self.limit(n));
            let batches = scan(header, &bytes).batches;
            let before = batches.iter().filter(|(_, batch)| batch.header.lsn < limit);
            if let Some(checkpoint) = before.filter_map(|(_, batch)| batch.checkpoint()).next_back() {
                return Ok(Some(checkpoint));
            }
        }
        Ok(None)
    }
}

fn read<D: Disk>(disk: &D, number: u32) -> Result<Vec<u8>, OpenError> {
    disk.read(number).map_err(|error| OpenError::Io { file: disk.path(number), error })
}
