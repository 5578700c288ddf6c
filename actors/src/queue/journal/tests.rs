mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use mailtree_protocols::journal::replay::{Fate, Replayed};
use mailtree_protocols::journal::{Accept, Lsn, MaildirFile, Outcome, PAGE, Record, Serial};
use mailtree_protocols::queue::MessageId;

use super::log::NoRoom;
use super::{Disk, FileDisk, Log, Recovered, Settings};

const SECTOR: usize = 512;

const SEGMENT: usize = 64 * 1024;

/// Where something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Sync,
    /// After so many bytes.
    Write(usize),
}

/// A file: what is on the platter, what reads see, and which sectors are to be written.
#[derive(Clone)]
struct Platter {
    durable: Vec<u8>,
    cache: Vec<u8>,
    pending: BTreeSet<usize>,
}

#[derive(Default)]
struct Machine {
    files: BTreeMap<u32, Platter>,
    aside: Vec<u32>,
    /// What fails next.
    fault: Option<Fault>,
    syncs: u64,
    /// A segment that failed must not be touched again.
    failed: BTreeSet<u32>,
    full: bool,
    random: u64,
}

impl Machine {
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// Any of the sectors that were to be written are, and the others are not.
    fn some_reach_the_platter(&mut self, number: u32, chance: u64) {
        let Some(file) = self.files.get_mut(&number) else { return };
        let pending = std::mem::take(&mut file.pending);
        for sector in pending {
            if self.random(8) < chance {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                let file = self.files.get_mut(&number).unwrap();
                file.durable[range.clone()].copy_from_slice(&file.cache[range]);
            }
        }
    }

    fn power_cut(&mut self) {
        let numbers: Vec<u32> = self.files.keys().copied().collect();
        let chance = self.random(9);
        for number in numbers {
            self.some_reach_the_platter(number, chance);
            let file = self.files.get_mut(&number).unwrap();
            file.cache = file.durable.clone();
        }
        self.failed.clear();
    }
}

/// A disk that outlives its process.
#[derive(Clone, Default)]
struct MemoryDisk(Arc<Mutex<Machine>>);

impl MemoryDisk {
    fn machine(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.0.lock().unwrap()
    }

    fn fail(&self, fault: Fault) {
        self.machine().fault = Some(fault);
    }

    /// Changes what is on the platter.
    fn corrupt(&self, number: u32, at: usize) {
        let mut machine = self.machine();
        let file = machine.files.get_mut(&number).unwrap();
        file.durable[at] ^= 0x55;
        file.cache[at] ^= 0x55;
    }

    fn bytes(&self, number: u32) -> Vec<u8> {
        self.machine().files[&number].durable.clone()
    }
}

impl Disk for MemoryDisk {
    fn segments(&self) -> io::Result<Vec<u32>> {
        Ok(self.machine().files.keys().rev().copied().collect())
    }

    fn path(&self, number: u32) -> PathBuf {
        format!("{number:08}.seg").into()
    }

    fn size(&self, number: u32) -> io::Result<u64> {
        Ok(self.machine().files[&number].cache.len() as u64)
    }

    fn create(&mut self, number: u32) -> io::Result<()> {
        let mut machine = self.machine();
        if machine.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if machine.files.contains_key(&number) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let zeros = vec![0; SEGMENT];
        let file = Platter { durable: zeros.clone(), cache: zeros, pending: BTreeSet::new() };
        assert!(machine.files.insert(number, file).is_none());
        Ok(())
    }

    fn read(&self, number: u32) -> io::Result<Vec<u8>> {
        let mut machine = self.machine();
        let file = machine.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        assert!(file.pending.is_empty(), "only what is clean leaves the cache");
        file.cache = file.durable.clone();
        Ok(file.durable.clone())
    }

    fn read_head(&self, number: u32) -> io::Result<Vec<u8>> {
        let machine = self.machine();
        let file = machine.files.get(&number).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.durable[..file.durable.len().min(PAGE)].to_vec())
    }

    fn write_at(&mut self, number: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut machine = self.machine();
        assert!(!machine.failed.contains(&number), "segment {number} is written after it failed");
        let whole = match machine.fault {
            Some(Fault::Write(len)) => {
                machine.fault = None;
                machine.failed.insert(number);
                Some(len.min(bytes.len()))
            }
            Some(Fault::Sync) | None => None,
        };
        let len = whole.unwrap_or(bytes.len());
        let at = usize::try_from(offset).unwrap();
        let file = machine.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        assert!(at + bytes.len() <= file.cache.len(), "segment {number} is written behind its end");
        assert_eq!((at % PAGE, bytes.len() % PAGE), (0, 0));
        if len > 0 {
            file.cache[at..at + len].copy_from_slice(&bytes[..len]);
            file.pending.extend(at / SECTOR..(at + len).div_ceil(SECTOR));
        }
        if whole.is_some() { Err(io::Error::other("write")) } else { Ok(()) }
    }

    fn sync(&mut self, number: u32) -> io::Result<()> {
        let mut machine = self.machine();
        machine.syncs += 1;
        if machine.fault == Some(Fault::Sync) {
            machine.fault = None;
            machine.failed.insert(number);
            // The kernel marks all of it clean.
            let chance = machine.random(9);
            machine.some_reach_the_platter(number, chance);
            return Err(io::Error::other("sync"));
        }
        machine.some_reach_the_platter(number, 8);
        Ok(())
    }

    fn set_aside(&mut self, number: u32) -> io::Result<PathBuf> {
        self.machine().aside.push(number);
        Ok(format!("{number:08}.damaged.1").into())
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        self.machine().files.remove(&number).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn settings(segments: (usize, usize), boot: u8, newest: u64) -> Settings {
    let mut n = u64::from(boot) << 32;
    let key = Box::new(move || {
        n += 1;
        u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes()
    });
    Settings { segment_size: SEGMENT as u64, segments, journal_id: [7; 16], boot_id: [boot; 16], newest, key }
}

fn open<D: Disk>(disk: D) -> (Log<D>, Recovered) {
    Log::open(disk, settings((2, 4), 1, 0)).unwrap()
}

fn accept(serial: u64, body: usize) -> Record {
    Record::Accept(message(serial, body))
}

fn message(serial: u64, body: usize) -> Accept {
    let text: Vec<u8> = (0..body).map(|n| (serial as usize * 31 + n) as u8).collect();
    Accept {
        serial: Serial(serial),
        id: MessageId(serial * 3 + 1),
        pool: serial % 5,
        birth: serial * 1000,
        uid: 12,
        qp: 13,
        sender: format!("s{serial}@x.test").into_bytes(),
        recipients: (0..serial % 3 + 1).map(|n| format!("r{n}@y.test").into_bytes()).collect(),
        properties: Vec::new(),
        body: text.into(),
    }
}

fn done(serial: u64, maildir: bool) -> Record {
    let file = MaildirFile {
        dir: b"/h/Maildir".to_vec(),
        name: serial.to_string().into_bytes(),
        head: Vec::new(),
        mount: 5,
    };
    let maildirs = if maildir { vec![file] } else { Vec::new() };
    Record::Done { serial: Serial(serial), recipient: 0, outcome: Outcome::Delivered { maildirs } }
}

fn ended(serial: u64) -> Record {
    Record::Ended { serial: Serial(serial) }
}

fn serials(recovered: &Recovered) -> Vec<u64> {
    recovered
        .messages
        .iter()
        .filter(|message| !message.ended)
        .map(|message| message.accept.serial.0)
        .collect()
}

/// Nothing is wrong with what was found.
fn whole(recovered: &Recovered) -> Vec<u64> {
    assert_eq!(recovered.damage, [""; 0]);
    serials(recovered)
}

#[test]
fn what_was_synced_comes_back() {
    let disk = MemoryDisk::default();
    let (mut log, recovered) = open(disk.clone());
    assert_eq!(whole(&recovered), [0; 0]);
    assert_eq!(recovered.next_serial, Serial(1));
    log.append(&[accept(1, 10), accept(2, 5000)]).unwrap();
    log.append(&[done(2, true)]).unwrap();
    assert_eq!(log.synced(), Lsn(0));
    log.sync().unwrap();
    log.append(&[ended(1)]).unwrap();
    log.append(&[accept(3, 1)]).unwrap();
    assert_eq!((log.synced(), log.last()), (Lsn(2), Lsn(4)));
    // Killed: what was written is there.
    let (_, recovered) = Log::open(disk.clone(), settings((2, 4), 1, 1)).unwrap();
    assert_eq!(whole(&recovered), [2, 3]);
    assert_eq!(recovered.next_serial, Serial(4));
    assert!(recovered.messages[0].ended);
    assert_eq!(recovered.messages[1].accept, message(2, 5000));
    assert!(matches!(recovered.messages[1].recipients[0], Fate::InDoubt { same_boot: true, .. }));
    let (_, recovered) = Log::open(disk, settings((2, 4), 2, 1)).unwrap();
    assert!(matches!(recovered.messages[1].recipients[0], Fate::InDoubt { same_boot: false, .. }));
}

#[test]
fn a_torn_tail_is_nothing_to_speak_of() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(1, 10)]).unwrap();
    log.sync().unwrap();
    log.append(&[accept(2, 5000)]).unwrap();
    log.append(&[done(1, false)]).unwrap();
    log.sync().unwrap();
    // The last sync did not return: its first batch is not whole.
    disk.corrupt(1, 2 * PAGE + 100);
    let (mut log, recovered) = open(disk.clone());
    assert_eq!(whole(&recovered), [1]);
    assert_eq!(recovered.messages[0].recipients[0], Fate::Done);
    log.append(&[accept(3, 1)]).unwrap();
    log.sync().unwrap();
    // It is declared void, not found again as damage below what is durable now.
    log.append(&[accept(4, 1)]).unwrap();
    log.sync().unwrap();
    assert_eq!(whole(&open(disk.clone()).1), [1, 3, 4]);
    assert!(disk.machine().aside.is_empty());
}

#[test]
fn damage_is_named_once_and_costs_only_what_it_hit() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    for serial in 1..=4 {
        log.append(&[accept(serial, 10)]).unwrap();
        log.sync().unwrap();
    }
    disk.corrupt(1, 2 * PAGE + 100);
    let (mut log, recovered) = open(disk.clone());
    assert_eq!(serials(&recovered), [1, 3, 4]);
    let text = recovered.damage.join("; ");
    assert_eq!(text, "journal: batches 2 are damaged or missing; 00000001.seg: copied to 00000001.damaged.1");
    assert_eq!(disk.machine().aside, [1]);
    log.append(&[accept(5, 10)]).unwrap();
    log.sync().unwrap();
    assert_eq!(whole(&open(disk).1), [1, 3, 4, 5]);
}

/// Fills segments with messages that end at once, and checkpoints as long as `rounds`.
fn rounds(log: &mut Log<MemoryDisk>, from: u64, rounds: u64) -> u64 {
    for serial in from..from + rounds {
        log.append(&[accept(serial, 20_000)]).unwrap();
        log.append(&[ended(serial)]).unwrap();
        log.sync().unwrap();
        let next = Lsn(log.last().0 + 1);
        log.checkpoint(next, next).unwrap();
    }
    from + rounds
}

#[test]
fn segments_go_round_and_old_batches_in_them_are_dead() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    let next = rounds(&mut log, 1, 20);
    assert_eq!(disk.machine().files.len(), 2);
    assert!(log.generation() > 6);
    let (mut log, recovered) = open(disk.clone());
    assert_eq!(whole(&recovered), [0; 0]);
    assert_eq!(recovered.next_serial, Serial(next));
    log.append(&[accept(next, 1)]).unwrap();
    log.sync().unwrap();
    // The segment that was begun holds whole batches of earlier generations behind the new one.
    let (_, recovered) = open(disk);
    assert_eq!(whole(&recovered), [next]);
}

#[test]
fn serials_and_batches_are_numbered_on() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    let next = rounds(&mut log, 1, 9);
    let (last, generation) = (log.last(), log.generation());
    for _ in 0..2 {
        let (log, recovered) = open(disk.clone());
        assert_eq!(recovered.next_serial, Serial(next));
        assert_eq!((log.last(), log.generation()), (last, generation));
    }
}

#[test]
fn a_header_that_cannot_be_read_is_damage_only_where_something_is_missing() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(1, 40_000)]).unwrap();
    log.append(&[accept(2, 40_000)]).unwrap();
    log.append(&[accept(3, 40_000)]).unwrap();
    log.sync().unwrap();
    log.append(&[ended(1), ended(2)]).unwrap();
    log.sync().unwrap();
    let generation = log.generation();
    assert_eq!(generation, 3);
    disk.corrupt(2, 50);
    let (_, recovered) = Log::open(disk.clone(), settings((2, 4), 1, generation)).unwrap();
    // The end of 1 may have had its reason in what is missing.
    assert_eq!(serials(&recovered), [1, 3]);
    assert!(recovered.damage[0].contains("batches 2 are"), "{:?}", recovered.damage);
    assert!(disk.machine().aside.contains(&2));
    disk.corrupt(2, 50);

    // The newest.
    disk.corrupt(3, 50);
    let (_, recovered) = Log::open(disk.clone(), settings((2, 4), 1, generation)).unwrap();
    assert_eq!(serials(&recovered), [1, 2]);
    assert_eq!(recovered.damage[0], "journal: generation 3 cannot be read");
    disk.corrupt(3, 50);

    // One that holds nothing that is needed.
    let (mut log, _) = open(disk.clone());
    let next = Lsn(log.last().0 + 1);
    log.append(&[ended(3)]).unwrap();
    log.checkpoint(next, next).unwrap();
    disk.machine().aside.clear();
    disk.corrupt(2, 50);
    assert_eq!(whole(&open(disk.clone()).1), [0; 0]);
    assert!(disk.machine().aside.is_empty());
}

fn refused(disk: &MemoryDisk, settings: Settings) -> String {
    let before: Vec<Vec<u8>> = disk.machine().files.values().map(|file| file.cache.clone()).collect();
    let text = Log::open(disk.clone(), settings).err().unwrap().to_string();
    let after: Vec<Vec<u8>> = disk.machine().files.values().map(|file| file.cache.clone()).collect();
    assert!(before == after);
    text
}

#[test]
fn a_journal_that_is_not_the_last_one_of_this_host_is_refused() {
    let disk = MemoryDisk::default();
    let missing = refused(&disk, settings((2, 4), 1, 4));
    assert!(missing.contains("generation 0, was 4"), "{missing}");
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(1, 1)]).unwrap();
    log.sync().unwrap();
    let older = refused(&disk, settings((2, 4), 1, 2));
    assert!(
        older.starts_with("00000001.seg: the journal is older than it was (generation 1, was 2)"),
        "{older}"
    );
    let mut other = settings((2, 4), 1, 1);
    other.journal_id = [8; 16];
    let other = refused(&disk, other);
    let name = "07".repeat(16);
    assert!(other.starts_with(&format!("00000001.seg: is of journal {name}, ")), "{other}");
    assert!(other.contains(&format!("write \"journal {name}\" and \"newest 0\" into journal.id")), "{other}");
    {
        let mut machine = disk.machine();
        let file = machine.files.get_mut(&2).unwrap();
        let mut head = file.durable[..PAGE].to_vec();
        assert!(head.iter().all(|byte| *byte == 0));
        head[..8].copy_from_slice(b"mtjournl");
        head[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32c::crc32c(&head[..12]);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
        file.durable[..PAGE].copy_from_slice(&head);
        file.cache[..PAGE].copy_from_slice(&head);
    }
    let newer = refused(&disk, settings((2, 4), 1, 1));
    assert_eq!(newer, "00000002.seg: made by a newer mailtree (format 2): start that one");
}

#[test]
fn files_that_are_not_ours_are_named_and_left_alone() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(1, 1)]).unwrap();
    log.sync().unwrap();
    let mut copy = disk.machine().files[&1].clone();
    disk.machine().files.insert(3, copy.clone());
    copy.durable = vec![b'x'; SEGMENT];
    copy.cache = copy.durable.clone();
    disk.machine().files.insert(4, copy);
    let (mut log, recovered) = open(disk.clone());
    assert_eq!(serials(&recovered), [1]);
    assert_eq!(
        recovered.damage,
        [
            "00000003.seg: a copy of segment 1: left alone",
            "00000004.seg: not a segment of the journal: left alone"
        ]
    );
    for serial in 2..6 {
        log.append(&[accept(serial, 40_000)]).ok();
    }
    log.sync().unwrap();
    assert!(disk.bytes(4).iter().all(|byte| *byte == b'x'));
    assert_eq!(disk.bytes(3), disk.bytes(1));
    assert!(disk.machine().files.contains_key(&5));
}

fn no_room(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull && error.get_ref().is_some_and(|error| error.is::<NoRoom>())
}

#[test]
fn a_full_journal_takes_no_message_and_drains() {
    for disk_is_full in [false, true] {
        let disk = MemoryDisk::default();
        let (mut log, _) = Log::open(disk.clone(), settings((2, 2), 1, 0)).unwrap();
        disk.machine().full = disk_is_full;
        let mut serial = 1;
        let error = loop {
            match log.append(&[accept(serial, 9000)]) {
                Ok(_) => serial += 1,
                Err(error) => break error,
            }
        };
        assert!(no_room(&error), "{error}");
        assert!(serial > 6 && log.free_segments() == 0 && !log.failed());
        let last = log.last();
        log.sync().unwrap();
        assert!(no_room(&log.append(&[accept(serial, 9000)]).unwrap_err()));
        assert_eq!(log.last(), last, "nothing was written");
        for serial in 1..serial {
            log.append(&[ended(serial)]).ok();
        }
        let ended_all: Vec<Record> = (1..serial).map(ended).collect();
        if !disk_is_full {
            log.append(&ended_all).unwrap();
        }
        // One page is kept for this.
        let next = Lsn(log.last().0 + 1);
        log.checkpoint(next, next).unwrap();
        assert!(log.free_segments() > 0);
        log.append(&[accept(serial, 9000)]).unwrap();
        log.sync().unwrap();
        assert_eq!(whole(&open(disk).1), [serial]);
    }
}

#[test]
fn a_batch_that_fits_into_no_segment_is_refused_before_anything_is_written() {
    let disk = MemoryDisk::default();
    let (mut log, _) = Log::open(disk, settings((2, 2), 1, 0)).unwrap();
    let body = log.max_batch() - accept(1, 0).encoded_len();
    let error = log.append(&[accept(1, body + 1)]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!((log.last(), log.generation()), (Lsn(0), 0));
    // The largest one fits into the last segment too.
    for serial in 1..=6 {
        let largest = accept(serial, log.max_batch() - accept(serial, 0).encoded_len());
        log.append(&[largest]).unwrap();
        let next = Lsn(log.last().0 + 1);
        log.checkpoint(next, next).unwrap();
    }
}

#[test]
fn a_failed_sync_refuses_what_was_not_durable() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(1, 10)]).unwrap();
    log.sync().unwrap();
    log.append(&[accept(2, 10), done(1, false)]).unwrap();
    log.append(&[ended(1)]).unwrap();
    disk.fail(Fault::Sync);
    log.sync().unwrap_err();
    assert!(log.failed() && !log.is_dead());
    let refused = disk.bytes(1);
    log.recover().unwrap();
    assert!(!log.failed());
    assert_eq!(log.generation(), 2);
    log.append(&[accept(3, 10)]).unwrap();
    log.sync().unwrap();
    disk.machine().power_cut();
    assert_eq!(disk.bytes(1), refused);
    let (_, recovered) = open(disk);
    assert_eq!(whole(&recovered), [1, 3]);
    assert_eq!(recovered.messages[0].recipients, vec![Fate::Open; 2]);
}

#[test]
fn a_write_that_is_not_whole_is_a_failure_too() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(1, 10)]).unwrap();
    log.sync().unwrap();
    for len in [0, 700, PAGE] {
        disk.fail(Fault::Write(len));
        log.append(&[accept(2, 10)]).unwrap_err();
        assert!(log.failed());
        log.append(&[accept(3 + len as u64, 10)]).unwrap();
        log.sync().unwrap();
    }
    disk.machine().power_cut();
    assert_eq!(whole(&open(disk).1), [1, 3, 703, 3 + PAGE as u64]);
}

#[test]
fn two_failures_in_a_row_are_the_end() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(1, 10)]).unwrap();
    disk.fail(Fault::Sync);
    log.sync().unwrap_err();
    disk.fail(Fault::Sync);
    log.append(&[accept(2, 10)]).unwrap_err();
    assert!(log.is_dead());
    for result in
        [log.append(&[ended(1)]).map(drop), log.sync(), log.checkpoint(Lsn(1), Lsn(1)), log.recover()]
    {
        assert_eq!(result.unwrap_err().to_string(), "the journal failed twice in a row");
    }
    log.close().unwrap_err();
    assert!(!disk.machine().files.is_empty());
}

#[test]
fn a_segment_that_failed_is_not_used_again_and_takes_nobodys_place() {
    let disk = MemoryDisk::default();
    let (mut log, _) = Log::open(disk.clone(), settings((2, 2), 1, 0)).unwrap();
    log.append(&[accept(1, 10)]).unwrap();
    disk.fail(Fault::Sync);
    log.sync().unwrap_err();
    // The machine refuses every write to it.
    rounds(&mut log, 2, 12);
    assert_eq!(disk.machine().files.len(), 3);
    log.close().unwrap();
    assert!(disk.machine().files.is_empty());
}

#[test]
fn a_closed_journal_is_gone() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    let next = rounds(&mut log, 1, 5);
    assert!(!log.is_empty(log.last()) && log.is_empty(Lsn(log.last().0 + 1)));
    log.append(&[accept(next, 1)]).unwrap();
    drop(log);
    let (mut log, _) = open(disk.clone());
    log.append(&[Record::Written { serial: Serial(next) }]).unwrap();
    log.close().unwrap();
    assert!(disk.machine().files.is_empty());
    let (log, recovered) = open(disk);
    assert_eq!((whole(&recovered), log.last()), (vec![], Lsn(0)));
}

#[test]
fn what_an_old_process_writes_behind_the_next_one_is_ignored() {
    let disk = MemoryDisk::default();
    let (mut old, _) = open(disk.clone());
    old.append(&[accept(1, 1)]).unwrap();
    old.sync().unwrap();
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(2, 1)]).unwrap();
    log.sync().unwrap();
    old.append(&[accept(3, 1)]).unwrap();
    old.sync().unwrap();
    let (_, recovered) = open(disk);
    assert_eq!(serials(&recovered), [1, 2]);
    assert_eq!(recovered.damage, ["00000001.seg: batch 2 was written too late: ignored"]);
}

#[test]
fn segments_of_another_size_are_read_and_used() {
    let disk = MemoryDisk::default();
    let (mut log, _) = open(disk.clone());
    log.append(&[accept(1, 10)]).unwrap();
    log.sync().unwrap();
    let mut larger = settings((2, 4), 1, 1);
    larger.segment_size = 4 * SEGMENT as u64;
    let (mut log, recovered) = Log::open(disk, larger).unwrap();
    assert_eq!(whole(&recovered), [1]);
    // Every file of this disk is smaller than the setting: what fits into none is refused, not written behind the end.
    assert!(no_room(&log.append(&[accept(2, 2 * SEGMENT)]).unwrap_err()));
    log.append(&[accept(2, 30_000)]).unwrap();
    log.append(&[accept(3, 30_000)]).unwrap();
    log.sync().unwrap();
}

#[test]
fn the_files_are_what_they_should_be() {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let disk = || FileDisk::open(&path, SEGMENT as u64).unwrap();
    let (mut log, _) = open(disk());
    let meta = fs::metadata(path.join("00000001.seg")).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (SEGMENT as u64, 0o600));
    assert!(meta.blocks() * 512 >= SEGMENT as u64, "real zeros");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    log.append(&[accept(1, 5000), accept(2, 1)]).unwrap();
    log.sync().unwrap();
    log.append(&[ended(2)]).unwrap();
    drop(log);
    // Neither of these is ever touched.
    std::os::unix::fs::symlink("/etc/passwd", path.join("00000003.seg")).unwrap();
    fs::create_dir(path.join("00000004.seg")).unwrap();
    fs::write(path.join("00000002.new"), "left by a crash").unwrap();
    let (mut log, recovered) = open(disk());
    assert_eq!(whole(&recovered), [1]);
    assert_eq!(recovered.messages[0].accept, message(1, 5000));
    for serial in 3..6 {
        log.append(&[accept(serial, 40_000)]).unwrap();
    }
    log.sync().unwrap();
    assert!(path.join("00000005.seg").exists());
    assert!(fs::symlink_metadata(path.join("00000003.seg")).unwrap().is_symlink());
    assert!(path.join("00000004.seg").is_dir());

    let mut disk = disk();
    let copy = disk.set_aside(1).unwrap();
    assert!(copy.ends_with("00000001.damaged.1"));
    assert_eq!(disk.set_aside(1).unwrap(), copy, "the same is kept once");
    disk.write_at(1, PAGE as u64, &[1; PAGE]).unwrap();
    assert!(disk.set_aside(1).unwrap().ends_with("00000001.damaged.2"));
    assert_eq!(fs::read(copy).unwrap().len(), SEGMENT);
    fs::remove_file(path.join("00000003.seg")).unwrap();
    assert_eq!(disk.create(1).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    log.close().unwrap();
    let left: BTreeSet<String> =
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    assert_eq!(left, ["00000001.damaged.1", "00000001.damaged.2", "00000002.new", "00000004.seg"]);
}
