//! The log on a disk that loses power: whatever was not synced may have been written or not, sector by sector.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use mailtree_protocols::journal::{Accept, Fate, Lsn, MaildirFile, Outcome, PAGE, Record, Replayed, Serial};
use mailtree_protocols::queue::MessageId;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::FileDisk;
use super::disk::Disk;
use super::identity::Identity;
use super::log::{Log, OpenError, Recovered, Settings};

const SECTOR: usize = 512;
const SETTINGS: Settings = Settings { segment_size: 64 * 1024, segments: (2, 4) };

#[derive(Default, Clone)]
struct Memory(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    durable: BTreeMap<u32, Vec<u8>>,
    pending: Vec<(u32, usize, Vec<u8>)>,
    /// Syncs that fail from now on.
    failing: u32,
}

impl Memory {
    /// The power fails: of what was not synced, each sector is there or not.
    fn cut(&self, random: &mut StdRng) {
        let mut contents = self.0.lock().unwrap();
        for (number, at, sector) in std::mem::take(&mut contents.pending) {
            if random.random_bool(0.5)
                && let Some(bytes) = contents.durable.get_mut(&number)
            {
                bytes[at..at + sector.len()].copy_from_slice(&sector);
            }
        }
    }
}

impl Disk for Memory {
    fn segments(&self) -> std::io::Result<Vec<u32>> {
        Ok(self.0.lock().unwrap().durable.keys().copied().collect())
    }

    fn create(&mut self, number: u32, size: u64) -> std::io::Result<()> {
        self.0.lock().unwrap().durable.insert(number, vec![0; usize::try_from(size).unwrap()]);
        Ok(())
    }

    fn size(&self, number: u32) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap().durable[&number].len() as u64)
    }

    fn head(&self, number: u32) -> std::io::Result<Vec<u8>> {
        Ok(self.read(number)?[..PAGE].to_vec())
    }

    fn read(&self, number: u32) -> std::io::Result<Vec<u8>> {
        Ok(self.0.lock().unwrap().durable[&number].clone())
    }

    fn write_at(&mut self, number: u32, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        for (nth, sector) in bytes.chunks(SECTOR).enumerate() {
            contents.pending.push((number, at + nth * SECTOR, sector.to_vec()));
        }
        Ok(())
    }

    fn sync(&mut self, number: u32) -> std::io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        if contents.failing > 0 {
            contents.failing -= 1;
            // As the kernel does it: clean pages, and nobody knows what is on the disk.
            return Err(std::io::Error::other("no"));
        }
        let Contents { durable, pending, .. } = &mut *contents;
        let mut left = Vec::new();
        for (of, at, sector) in std::mem::take(pending) {
            if of == number {
                durable.get_mut(&of).unwrap()[at..at + sector.len()].copy_from_slice(&sector);
            } else {
                left.push((of, at, sector));
            }
        }
        *pending = left;
        Ok(())
    }

    fn keep_copy(&mut self, number: u32) -> std::io::Result<PathBuf> {
        Ok(format!("copy of {number}").into())
    }

    fn remove(&mut self, number: u32) -> std::io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        contents.durable.remove(&number);
        contents.pending.retain(|(of, ..)| *of != number);
        Ok(())
    }
}

fn identity(boot: u8) -> Identity {
    Identity { journal: Some([1; 16]), newest: 0, boot: [boot; 16] }
}

fn open(disk: &Memory, boot: u8, seed: u64) -> (Log<Memory>, Recovered) {
    let mut random = StdRng::seed_from_u64(seed);
    let keys = Box::new(move || {
        let mut key = [0; 16];
        random.fill_bytes(&mut key);
        key
    });
    Log::open(disk.clone(), SETTINGS, &identity(boot), keys).unwrap()
}

fn accept(serial: Serial, recipients: usize, size: usize) -> Record {
    Record::Accept(Accept {
        serial,
        id: MessageId(serial.0),
        pool: serial.0,
        birth: serial.0,
        uid: 0,
        qp: 0,
        sender: b"a@x".to_vec(),
        recipients: (0..recipients).map(|n| format!("{n}@y").into_bytes()).collect(),
        properties: Vec::new(),
        body: vec![u8::try_from(serial.0 % 251).unwrap(); size].into(),
    })
}

fn copy(serial: Serial) -> MaildirFile {
    MaildirFile { dir: b"/m".to_vec(), name: serial.0.to_string().into_bytes(), size: 1, crc: 2 }
}

fn done(serial: Serial, recipient: u32) -> Record {
    let maildirs = vec![copy(serial)];
    Record::Done { serial, recipient, outcome: Outcome::Delivered { maildirs } }
}

/// What is true of a message whatever happens.
#[derive(Default, Clone)]
struct Known {
    recipients: usize,
    size: usize,
    lsn: Lsn,
    /// Noted and durable, with the batch.
    done: BTreeMap<u32, Lsn>,
    /// Noted, durable or not.
    noted: BTreeSet<u32>,
    /// Over or written out: durably, or perhaps.
    over: Option<bool>,
}

/// A life of the log, up to a power cut.
struct Life {
    log: Log<Memory>,
    alive: BTreeMap<Serial, Known>,
    /// Accepted, not acknowledged.
    pending: Vec<(Serial, Known)>,
    /// Noted, not durable: message, recipient or end, batch.
    notes: Vec<(Serial, Option<u32>, Lsn)>,
    next: u64,
    durable: Lsn,
    /// Refused, and not yet void: a power cut may bring it back.
    refused: Vec<(Serial, Known)>,
}

impl Life {
    fn step(&mut self, disk: &Memory, random: &mut StdRng, lost: &mut BTreeSet<Serial>) {
        match random.random_range(0..20) {
            0..8 => {
                let mut records = Vec::new();
                for _ in 0..random.random_range(1..4) {
                    let known = Known {
                        recipients: random.random_range(1..4),
                        size: random.random_range(0..1500),
                        ..Known::default()
                    };
                    self.next += 1;
                    let serial = Serial(self.next);
                    records.push(accept(serial, known.recipients, known.size));
                    self.pending.push((serial, known));
                }
                match self.log.append(&records) {
                    Ok(lsn) => {
                        let from = self.pending.len() - records.len();
                        for (_, known) in &mut self.pending[from..] {
                            known.lsn = lsn;
                        }
                        if random.random_bool(0.7) {
                            self.sync(lost);
                        }
                    }
                    Err(_) => {
                        if self.log.refused().is_some() {
                            self.refuse();
                        } else {
                            // There was no room: nothing was written.
                            let from = self.pending.len() - records.len();
                            lost.extend(self.pending.drain(from..).map(|(serial, _)| serial));
                        }
                        self.checkpoint(lost);
                    }
                }
            }
            8..15 => {
                let Some(serial) = self.any(random) else { return };
                let known = &self.alive[&serial];
                let recipient = random.random_range(0..u32::try_from(known.recipients).unwrap());
                if known.noted.contains(&recipient) {
                    return;
                }
                if let Ok(lsn) = self.log.append(&[done(serial, recipient)]) {
                    self.alive.get_mut(&serial).unwrap().noted.insert(recipient);
                    self.notes.push((serial, Some(recipient), lsn));
                }
            }
            15..18 => {
                let Some(serial) = self.any(random) else { return };
                let record = match random.random_bool(0.5) {
                    true => Record::Ended { serial },
                    false => Record::Written { serial },
                };
                if let Ok(lsn) = self.log.append(&[record]) {
                    self.alive.get_mut(&serial).unwrap().over = Some(false);
                    self.notes.push((serial, None, lsn));
                }
            }
            18 => self.checkpoint(lost),
            _ => {
                if random.random_bool(0.1) {
                    disk.0.lock().unwrap().failing = 1;
                }
                self.sync(lost);
            }
        }
    }

    fn any(&self, random: &mut StdRng) -> Option<Serial> {
        let open: Vec<_> =
            self.alive.iter().filter(|(_, known)| known.over.is_none()).map(|(serial, _)| *serial).collect();
        (!open.is_empty()).then(|| open[random.random_range(0..open.len())])
    }

    fn sync(&mut self, lost: &mut BTreeSet<Serial>) {
        match self.log.sync() {
            Ok(()) => self.synced(lost),
            Err(_) => self.refuse(),
        }
    }

    /// All that was written is durable, and what was refused is void.
    fn synced(&mut self, lost: &mut BTreeSet<Serial>) {
        if self.log.refused().is_none() {
            lost.extend(self.refused.drain(..).map(|(serial, _)| serial));
        }
        self.alive.extend(self.pending.drain(..));
        for (serial, what, lsn) in self.notes.drain(..) {
            let Some(known) = self.alive.get_mut(&serial) else { continue };
            match what {
                Some(recipient) => drop(known.done.insert(recipient, lsn)),
                None => known.over = Some(true),
            }
        }
    }

    /// What was not durable is refused; notes may be there or not.
    fn refuse(&mut self) {
        let first = self.log.refused().unwrap_or_default();
        for (serial, known) in self.pending.drain(..) {
            // One segment was ended durably, and the next failed.
            match known.lsn > Lsn(0) && known.lsn < first {
                true => drop(self.alive.insert(serial, known)),
                false => self.refused.push((serial, known)),
            }
        }
        self.notes.clear();
    }

    /// Everything that was delivered so far is durable.
    fn checkpoint(&mut self, lost: &mut BTreeSet<Serial>) {
        let after = Lsn(self.log.last().0 + 1);
        let pending = self.pending.iter().map(|(_, known)| known.lsn);
        let alive = self.alive.values().filter(|known| known.over != Some(true)).map(|known| known.lsn);
        let needed = alive.chain(pending).min().unwrap_or(after).min(after);
        // True before it is written, and whether or not that works.
        self.durable = after;
        if self.log.checkpoint(needed, after).is_ok() {
            self.synced(lost);
            self.log.release(needed).unwrap();
            self.alive.retain(|_, known| known.over != Some(true));
        } else if self.log.refused().is_some() {
            self.refuse();
        }
    }
}

/// What was replayed against what is true.
fn check(life: &Life, lost: &BTreeSet<Serial>, found: &[Replayed]) {
    let found: BTreeMap<Serial, &Replayed> = found.iter().map(|one| (one.accept.serial, one)).collect();
    for serial in found.keys() {
        assert!(!lost.contains(serial), "{serial:?} was refused and came back");
    }
    for (serial, known) in &life.alive {
        let Some(replayed) = found.get(serial) else {
            assert!(known.over.is_some(), "{serial:?} was accepted and is gone");
            continue;
        };
        let whole = accept(*serial, known.recipients, known.size);
        assert_eq!(Record::Accept(replayed.accept.clone()), whole, "{serial:?} is not what was accepted");
        for (nth, fate) in (0..).zip(&replayed.recipients) {
            match fate {
                Fate::Open => assert!(!known.done.contains_key(&nth), "{serial:?} {nth} was noted"),
                Fate::Done => {
                    assert!(known.noted.contains(&nth), "{serial:?} {nth} was never delivered");
                    let at = known.done.get(&nth).copied().unwrap_or_default();
                    assert!(at < life.durable, "{serial:?} {nth}: its file may not be durable");
                }
                Fate::InDoubt { maildirs, .. } => {
                    assert!(known.noted.contains(&nth));
                    assert_eq!(maildirs[..], [copy(*serial)]);
                }
                Fate::Failed(_) => panic!("nobody failed"),
            }
        }
    }
    // What nobody was told about may be there, whole, and nothing else is.
    for (serial, replayed) in &found {
        let mut untold = life.pending.iter().chain(&life.refused);
        let pending = untold.find(|(other, _)| other == serial).map(|(_, known)| known);
        let known = life.alive.get(serial).or(pending);
        let known = known.unwrap_or_else(|| panic!("{serial:?} was over, or never accepted"));
        let whole = accept(*serial, known.recipients, known.size);
        assert_eq!(Record::Accept(replayed.accept.clone()), whole);
    }
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_disk_keeps_of_the_rest() {
    let cases: u64 = std::env::var("MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(4000);
    let first: u64 = std::env::var("MODEL_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    for seed in first..first + cases {
        let ran = std::panic::catch_unwind(|| one_case(seed));
        assert!(ran.is_ok(), "seed {seed}: MODEL_SEED={seed} MODEL_CASES=1 repeats it");
    }
}

fn one_case(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = Memory::default();
    let (log, recovered) = open(&disk, 0, seed);
    assert!(recovered.messages.is_empty());
    let mut lost = BTreeSet::new();
    let mut life = Life {
        log,
        alive: BTreeMap::new(),
        pending: Vec::new(),
        notes: Vec::new(),
        next: 0,
        durable: Lsn(0),
        refused: Vec::new(),
    };
    // Several lives, each ended by a power cut, or by a death of the process that loses nothing written.
    for boot in 1..4 {
        for _ in 0..random.random_range(0..120) {
            life.step(&disk, &mut random, &mut lost);
        }
        disk.0.lock().unwrap().failing = 0;
        disk.cut(&mut random);
        let (log, recovered) = open(&disk, boot, seed + 1000 * u64::from(boot));
        assert_eq!(recovered.damage, Vec::<String>::new());
        check(&life, &lost, &recovered.messages);
        // What was replayed is what there is now: whoever was not told has it all the same.
        let mut alive = BTreeMap::new();
        for Replayed { accept, lsn, recipients, .. } in &recovered.messages {
            let mut known = Known {
                recipients: accept.recipients.len(),
                size: accept.body.len(),
                lsn: *lsn,
                ..Known::default()
            };
            for (nth, fate) in (0..).zip(recipients) {
                match fate {
                    Fate::Open | Fate::Failed(_) => (),
                    Fate::Done => drop(known.done.insert(nth, Lsn(0))),
                    // Looked for and found: as good as before.
                    Fate::InDoubt { .. } => drop(known.done.insert(nth, *lsn)),
                }
            }
            known.noted = known.done.keys().copied().collect();
            if recovered.messages.iter().any(|one| one.accept.serial == accept.serial && one.ended) {
                known.over = Some(false);
            }
            alive.insert(accept.serial, known);
        }
        let untold = life.pending.drain(..).chain(life.refused.drain(..)).map(|(serial, _)| serial);
        lost.extend(untold.filter(|serial| !alive.contains_key(serial)));
        let next = life.next.max(recovered.last_serial.0);
        let (pending, notes, refused) = (Vec::new(), Vec::new(), Vec::new());
        life = Life { log, alive, pending, notes, next, durable: life.durable, refused };
    }
}

/// A log with `count` messages of two recipients, each durable in a batch of its own.
fn filled(disk: &Memory, count: u64) -> Log<Memory> {
    let (mut log, _) = open(disk, 0, 1);
    for serial in 1..=count {
        log.append(&[accept(Serial(serial), 2, 3000)]).unwrap();
        log.sync().unwrap();
    }
    log
}

fn serials(recovered: &Recovered) -> Vec<u64> {
    recovered.messages.iter().map(|one| one.accept.serial.0).collect()
}

#[test]
fn a_torn_tail_is_nothing_and_a_hole_in_what_was_durable_is_named() {
    let disk = Memory::default();
    let mut log = filled(&disk, 5);
    log.append(&[accept(Serial(6), 1, 9000)]).unwrap();
    drop(log);
    // Only its first sector.
    {
        let mut contents = disk.0.lock().unwrap();
        let (number, at, sector) = contents.pending.remove(0);
        contents.pending.clear();
        contents.durable.get_mut(&number).unwrap()[at..at + SECTOR].copy_from_slice(&sector);
    }
    let (log, recovered) = open(&disk, 0, 2);
    assert_eq!((serials(&recovered), recovered.damage.len()), (vec![1, 2, 3, 4, 5], 0));
    drop(log);
    // The third message: a page, at which its batch begins.
    disk.0.lock().unwrap().durable.get_mut(&1).or(None).map(|bytes| bytes[3 * PAGE + 200] ^= 1);
    disk.0.lock().unwrap().durable.get_mut(&2).or(None).map(|bytes| bytes[3 * PAGE + 200] ^= 1);
    let (_, recovered) = open(&disk, 0, 3);
    assert_eq!(serials(&recovered), [1, 2, 4, 5]);
    assert_eq!(recovered.damage.len(), 1);
    assert!(recovered.damage[0].contains("1 batches") && recovered.damage[0].contains("copy of"));
}

#[test]
fn a_full_journal_refuses_and_takes_again_after_a_checkpoint() {
    let disk = Memory::default();
    let mut log = filled(&disk, 1);
    let mut serial = 1;
    let full = loop {
        serial += 1;
        match log.append(&[accept(Serial(serial), 1, 9000)]) {
            Ok(_) => log.sync().unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert!(log.is_half_full() && log.used_segments() == SETTINGS.segments.1);
    // Everything but the last message is over.
    let after = Lsn(log.last().0);
    log.release(after).unwrap();
    log.checkpoint(after, after).unwrap();
    log.append(&[accept(Serial(serial), 1, 9000)]).unwrap();
    log.sync().unwrap();
    let (_, recovered) = open(&disk, 0, 2);
    assert_eq!(serials(&recovered), [serial - 1, serial]);
    assert!(log.append(&[accept(Serial(99), 1, 70_000)]).is_err(), "larger than a segment");
}

#[test]
fn after_a_failed_sync_a_new_segment_voids_what_was_refused_and_two_in_a_row_end_it() {
    let disk = Memory::default();
    let mut log = filled(&disk, 2);
    log.append(&[accept(Serial(3), 1, 100)]).unwrap();
    disk.0.lock().unwrap().failing = 1;
    assert!(log.sync().is_err() && !log.is_dead());
    log.append(&[accept(Serial(4), 1, 100)]).unwrap();
    log.sync().unwrap();
    // What was refused reaches the disk all the same.
    let pending = std::mem::take(&mut disk.0.lock().unwrap().pending);
    for (number, at, sector) in pending {
        disk.0.lock().unwrap().durable.get_mut(&number).unwrap()[at..at + SECTOR].copy_from_slice(&sector);
    }
    let (_, recovered) = open(&disk, 0, 2);
    assert_eq!(serials(&recovered), [1, 2, 4]);
    disk.0.lock().unwrap().failing = 2;
    log.append(&[accept(Serial(5), 1, 100)]).unwrap();
    assert!(log.sync().is_err());
    assert!(log.append(&[accept(Serial(6), 1, 100)]).is_err() && log.is_dead());
    assert!(log.append(&[accept(Serial(7), 1, 100)]).is_err());
}

#[test]
fn a_journal_that_is_not_this_homes_is_refused_by_name() {
    let disk = Memory::default();
    let log = filled(&disk, 1);
    let generation = log.generation();
    let keys = || Box::new(|| [9_u8; 16]) as Box<dyn FnMut() -> [u8; 16] + Send>;
    let open = |identity: &Identity| Log::open(disk.clone(), SETTINGS, identity, keys()).map(drop);
    let other = Identity { journal: Some([2; 16]), ..identity(0) };
    assert!(matches!(open(&other), Err(OpenError::Foreign)));
    let newer = Identity { newest: generation + 1, ..identity(0) };
    assert!(matches!(open(&newer), Err(OpenError::Older { found, .. }) if found == generation));
    assert!(open(&Identity { newest: generation, ..identity(0) }).is_ok());
    let number = disk.segments().unwrap()[0];
    disk.0.lock().unwrap().durable.get_mut(&number).unwrap()[..12].copy_from_slice(b"mtjournl\x02\0\0\0");
    assert!(matches!(open(&identity(0)), Err(OpenError::Version(_, 2))));
}

#[test]
fn on_real_files_a_journal_is_written_read_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let keys = Box::new(|| [9_u8; 16]);
        Log::open(FileDisk::new(dir.path()), SETTINGS, &identity(0), keys).unwrap()
    };
    let (mut log, _) = open();
    for serial in 1..40 {
        log.append(&[accept(Serial(serial), 1, 3000)]).unwrap();
        log.sync().unwrap();
    }
    assert!(std::fs::metadata(dir.path().join("00000001.seg")).unwrap().len() == SETTINGS.segment_size);
    drop(log);
    let (mut log, recovered) = open();
    assert_eq!(serials(&recovered), (1..40).collect::<Vec<_>>());
    let after = Lsn(log.last().0 + 1);
    log.checkpoint(after, after).unwrap();
    log.release(after).unwrap();
    drop(log);
    let (log, recovered) = open();
    assert!(recovered.messages.is_empty());
    log.close().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // A file of somebody else's is neither read nor written.
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("00000001.seg")).unwrap();
    let keys = Box::new(|| [9_u8; 16]);
    std::fs::hard_link("/proc/self/exe", dir.path().join("x")).ok();
    drop(Log::open(FileDisk::new(dir.path()), SETTINGS, &identity(0), keys));
    assert!(std::fs::read("/etc/passwd").unwrap().starts_with(b"root"));
}
