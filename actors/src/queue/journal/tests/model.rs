//! Random lives of a journal on a machine that fails, against what was promised.

use super::*;

/// Cases without `MODEL_CASES`.
const CASES: u64 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unsynced,
    Synced,
    /// Refused, and that is not durable.
    Limbo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Done { recipient: u32, maildir: bool, child: Option<u64> },
    Ended { children: Vec<u64> },
    Written,
}

#[derive(Debug, Clone)]
struct Event {
    lsn: Lsn,
    standing: Standing,
    what: What,
}

#[derive(Debug, Clone)]
struct Known {
    accept: Accept,
    lsn: Lsn,
    standing: Standing,
    events: Vec<Event>,
}

impl Known {
    /// What its owner believes: all that was not refused.
    fn believed(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| event.standing != Standing::Limbo)
    }

    fn is_live(&self) -> bool {
        self.standing == Standing::Synced
            && !self.believed().any(|event| matches!(event.what, What::Ended { .. } | What::Written))
    }

    fn is_open(&self, n: u32) -> bool {
        !self.believed().any(|event| matches!(event.what, What::Done { recipient, .. } if recipient == n))
    }

    /// Recipients whose last outcome before `end` is a file in a Maildir, not below `durable`.
    fn doubtful(&self, durable: Lsn, end: Lsn) -> Vec<u32> {
        let mut last: BTreeMap<u32, (Lsn, bool)> = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.lsn < end) {
            if let What::Done { recipient, maildir, .. } = event.what {
                let of = last.entry(recipient).or_default();
                if event.lsn >= of.0 {
                    *of = (event.lsn, maildir && event.lsn >= durable);
                }
            }
        }
        last.into_iter().filter(|(_, (_, doubtful))| *doubtful).map(|(recipient, _)| recipient).collect()
    }
}

struct Life {
    disk: MemoryDisk,
    log: Option<Log<MemoryDisk>>,
    known: BTreeMap<u64, Known>,
    next_serial: u64,
    /// Accepts so far; tells a serial's second message from its first.
    accepts: u64,
    /// Highest serial that was acknowledged.
    acknowledged: u64,
    /// What a checkpoint that was written says, and one that is durable.
    claimed: Lsn,
    durable: Lsn,
    boot: u8,
    newest: u64,
}

impl Life {
    fn random(&self, below: u64) -> u64 {
        self.disk.machine().random(below)
    }

    fn log(&mut self) -> &mut Log<MemoryDisk> {
        self.log.as_mut().unwrap()
    }

    fn pick(&self, of: impl Fn(&Known) -> bool) -> Option<u64> {
        let serials: Vec<u64> = self.known.iter().filter(|(_, known)| of(known)).map(|(n, _)| *n).collect();
        let n = self.random(serials.len().max(1) as u64) as usize;
        serials.get(n).copied()
    }

    /// What an operation of the log means for everything before it.
    fn after<T>(&mut self, result: &io::Result<T>) {
        let refused = result.as_ref().is_err_and(|error| !no_room(error));
        let (synced, settled) = (self.log().synced(), !self.log().failed());
        let standing = |standing: &mut Standing, lsn: Lsn| match *standing {
            Standing::Unsynced if lsn <= synced => *standing = Standing::Synced,
            Standing::Unsynced if refused => *standing = Standing::Limbo,
            _ => (),
        };
        for known in self.known.values_mut() {
            standing(&mut known.standing, known.lsn);
            for event in &mut known.events {
                standing(&mut event.standing, event.lsn);
            }
        }
        if settled {
            self.known.retain(|_, known| known.standing != Standing::Limbo);
            for known in self.known.values_mut() {
                known.events.retain(|event| event.standing != Standing::Limbo);
            }
        }
        for (serial, known) in &self.known {
            if known.standing == Standing::Synced {
                self.acknowledged = self.acknowledged.max(*serial);
            }
        }
        let generation = self.log().generation();
        if self.log().synced() == self.log().last() && settled {
            self.newest = generation;
        }
    }

    /// Appends `records`; `note` makes them known with their number.
    fn append(&mut self, records: &[Record], note: impl FnOnce(&mut Self, Lsn)) {
        // What was refused before is void as soon as anything is written again.
        let result = self.log().append(records);
        if result.as_ref().is_err_and(no_room) {
            self.after(&result);
            self.make_room();
            return;
        }
        match &result {
            Ok(lsn) => {
                self.after(&result);
                note(self, *lsn);
            }
            Err(_) => {
                // What is at or below `synced` was not refused.
                let lsn = self.log().last().max(self.log().synced().next());
                note(self, lsn);
                self.after(&result);
            }
        }
    }

    fn event(&mut self, serial: u64, lsn: Lsn, what: What) {
        let event = Event { lsn, standing: Standing::Unsynced, what };
        self.known.get_mut(&serial).unwrap().events.push(event);
    }

    fn accept(&mut self, parent: Option<u64>) {
        let mut records = Vec::new();
        let mut accepts = Vec::new();
        for _ in 0..=self.random(3) {
            let len = if self.random(6) == 0 { self.random(12_000) } else { self.random(600) };
            let mut accept = message(self.next_serial, len as usize);
            self.accepts += 1;
            accept.qp = self.accepts;
            self.next_serial += 1;
            records.push(Record::Accept(accept.clone()));
            accepts.push(accept);
        }
        let mut forward = None;
        if let Some(parent) = parent
            && let Some(recipient) = self.open_recipient(parent)
        {
            let outcome = Outcome::Delivered { maildirs: Vec::new() };
            records.push(Record::Done { serial: Serial(parent), recipient, outcome });
            let child = accepts[0].serial.0;
            forward = Some((parent, What::Done { recipient, maildir: false, child: Some(child) }));
        }
        self.append(&records, |life, lsn| {
            for accept in accepts {
                let serial = accept.serial.0;
                let known = Known { accept, lsn, standing: Standing::Unsynced, events: Vec::new() };
                life.known.insert(serial, known);
            }
            if let Some((parent, what)) = forward {
                life.event(parent, lsn, what);
            }
        });
    }

    fn open_recipient(&self, serial: u64) -> Option<u32> {
        let known = &self.known[&serial];
        (0..known.accept.recipients.len() as u32).find(|n| known.is_open(*n))
    }

    fn done(&mut self) {
        let Some(serial) = self.pick(Known::is_live) else { return };
        let Some(recipient) = self.open_recipient(serial) else { return };
        let maildir = self.random(2) == 0;
        let outcome = match self.random(4) {
            0 if !maildir => Outcome::Failed { paragraph: b"no".to_vec() },
            _ => match done(serial, maildir) {
                Record::Done { outcome, .. } => outcome,
                _ => unreachable!(),
            },
        };
        self.append(&[Record::Done { serial: Serial(serial), recipient, outcome }], |life, lsn| {
            life.event(serial, lsn, What::Done { recipient, maildir, child: None });
        });
    }

    fn end(&mut self) {
        let all_done = |known: &Known| {
            known.is_live() && (0..known.accept.recipients.len() as u32).all(|n| !known.is_open(n))
        };
        let Some(serial) = self.pick(all_done) else { return };
        let children = self.known[&serial]
            .believed()
            .filter_map(|event| match event.what {
                What::Done { child, .. } => child,
                _ => None,
            })
            .collect();
        self.append(&[ended(serial)], |life, lsn| life.event(serial, lsn, What::Ended { children }));
    }

    fn write_out(&mut self) {
        let Some(serial) = self.pick(Known::is_live) else { return };
        self.append(&[Record::Written { serial: Serial(serial) }], |life, lsn| {
            life.event(serial, lsn, What::Written);
        });
    }

    fn make_room(&mut self) {
        let live: Vec<u64> = self.known.iter().filter(|(_, k)| k.is_live()).map(|(n, _)| *n).collect();
        let records: Vec<Record> =
            live.iter().map(|serial| Record::Written { serial: Serial(*serial) }).collect();
        let result = self.log().append(&records);
        assert!(!result.as_ref().is_err_and(no_room), "the reserve is for this");
        let lsn = match &result {
            Ok(lsn) => *lsn,
            Err(_) => self.log().last().max(self.log().synced().next()),
        };
        if result.is_ok() {
            self.after(&result);
        }
        for serial in live {
            self.event(serial, lsn, What::Written);
        }
        if result.is_err() {
            self.after(&result);
        } else {
            self.checkpoint(true);
        }
    }

    fn sync(&mut self) {
        let result = self.log().sync();
        self.after(&result);
    }

    fn checkpoint(&mut self, all: bool) {
        // What is refused is not known to be either way.
        if self.log().failed() {
            return;
        }
        let next = Lsn(self.log().last().0 + 1);
        let durable = if all { next } else { Lsn(self.claimed.0 + self.random(next.0 + 1 - self.claimed.0)) };
        let needed = self
            .known
            .values()
            .filter(|known| {
                let over = known.believed().any(|event| matches!(event.what, What::Written));
                !over
                    && (known.standing == Standing::Unsynced
                        || known.is_live()
                        || known.believed().any(|event| {
                            matches!(event.what, What::Done { maildir: true, .. }) && event.lsn >= durable
                        }))
            })
            .map(|known| known.lsn)
            .min()
            .unwrap_or(next);
        let before = self.log().last();
        let result = self.log().checkpoint(needed, durable);
        if self.log().last() > before {
            self.claimed = durable;
        }
        if result.is_ok() {
            self.durable = durable;
        }
        self.after(&result);
    }

    fn step(&mut self) {
        match self.random(40) {
            0..=9 => self.accept(None),
            10..=12 => {
                let parent = self.pick(Known::is_live);
                self.accept(parent);
            }
            13..=18 => self.done(),
            19..=24 => self.end(),
            25..=26 => self.write_out(),
            27..=34 => self.sync(),
            35..=36 => {
                let all = self.random(2) == 0;
                self.checkpoint(all);
            }
            37 => {
                let result = self.log().recover();
                self.after(&result);
            }
            _ => {
                let len = self.random(9000) as usize;
                let fault = if len < 6000 { Fault::Sync } else { Fault::Write(len - 6000) };
                self.disk.fail(fault);
            }
        }
    }

    /// The process dies, and maybe the machine; the next one finds what was promised.
    fn restart(&mut self, power_cut: bool) {
        self.log = None;
        self.disk.machine().fault = None;
        if power_cut {
            self.boot = self.boot.wrapping_add(1);
            self.disk.machine().power_cut();
        }
        let boot = self.boot;
        self.disk.machine().failed.clear();
        let mut settings = settings((2, 5), boot, self.newest);
        let disk = self.disk.clone();
        settings.key = Box::new(move || {
            let half = || disk.machine().random(u64::MAX).to_le_bytes();
            [half(), half()].concat().try_into().unwrap()
        });
        let (log, recovered) = Log::open(self.disk.clone(), settings).map_err(|e| e.to_string()).unwrap();
        self.log = Some(log);
        assert_eq!(recovered.damage, [""; 0]);
        assert!(recovered.next_serial.0 > self.acknowledged, "a serial is given again");
        let mut found: BTreeMap<u64, Replayed> = BTreeMap::new();
        let mut last = Lsn(0);
        for message in recovered.messages {
            assert!(last <= message.lsn, "messages are not in order");
            last = message.lsn;
            assert!(found.insert(message.accept.serial.0, message).is_none(), "a message is there twice");
        }
        for serial in found.keys() {
            assert!(self.known.contains_key(serial), "message {serial} came back");
        }
        for (serial, known) in &self.known {
            self.promised(*serial, known, found.get(serial), &found);
        }
        self.next_serial = recovered.next_serial.0;
        self.adopt(&found);
    }

    fn promised(&self, serial: u64, known: &Known, found: Option<&Replayed>, all: &BTreeMap<u64, Replayed>) {
        let synced = |event: &&Event| event.standing == Standing::Synced;
        let ended = known.events.iter().filter(|event| matches!(event.what, What::Ended { .. }));
        let written = known.events.iter().filter(|event| event.what == What::Written);
        let Some(message) = found else {
            if known.standing != Standing::Synced || written.clone().count() > 0 {
                return;
            }
            assert!(ended.clone().count() > 0, "message {serial} is lost");
            let doubtful = |end: &Event| !known.doubtful(self.claimed, end.lsn).is_empty();
            assert!(!ended.clone().all(doubtful), "message {serial} is lost with its file");
            for event in ended {
                if let What::Ended { children } = &event.what {
                    for child in children {
                        let gone = self.known.get(child).is_none_or(|child| {
                            child.events.iter().any(|event| !matches!(event.what, What::Done { .. }))
                        });
                        assert!(
                            all.contains_key(child) || gone,
                            "what {serial} went over into is lost: {child}"
                        );
                    }
                }
            }
            return;
        };
        assert_eq!(message.accept, known.accept, "message {serial} is not whole");
        assert!(written.filter(synced).count() == 0, "message {serial} was written out and came back");
        if ended.clone().filter(synced).count() > 0 {
            assert!(message.ended, "message {serial} ended and came back");
        }
        if message.ended {
            assert!(ended.count() > 0, "message {serial} never ended");
        }
        let doubtful = known.doubtful(self.claimed, Lsn(u64::MAX));
        for (n, fate) in message.recipients.iter().enumerate() {
            let n = n as u32;
            let of = |event: &&Event| matches!(event.what, What::Done { recipient, .. } if recipient == n);
            let events = known.events.iter().filter(of);
            match fate {
                Fate::Open => {
                    assert_eq!(events.filter(synced).count(), 0, "recipient {n} of {serial} is forgotten");
                    assert!(!message.ended || !doubtful.contains(&n), "recipient {n} of {serial} is lost");
                }
                Fate::Done | Fate::Failed(_) => {
                    assert!(events.count() > 0, "recipient {n} of {serial} was never done");
                    let all_in_doubt = known.events.iter().filter(of).all(|event| {
                        matches!(event.what, What::Done { maildir: true, .. }) && event.lsn >= self.claimed
                    });
                    assert!(!all_in_doubt, "recipient {n} of {serial} is believed");
                }
                Fate::InDoubt { .. } => {
                    let maildir = |event: &Event| matches!(event.what, What::Done { maildir: true, .. });
                    assert!({ events }.any(maildir), "recipient {n} of {serial} is in no Maildir");
                }
            }
        }
    }

    /// What the next process knows.
    fn adopt(&mut self, found: &BTreeMap<u64, Replayed>) {
        self.known.retain(|serial, _| found.contains_key(serial));
        let claimed = self.claimed;
        for (serial, known) in &mut self.known {
            let message = &found[serial];
            known.standing = Standing::Synced;
            known.lsn = message.lsn;
            known.events.retain(|event| match &event.what {
                What::Done { recipient, maildir, .. } => match message.recipients[*recipient as usize] {
                    Fate::Open => false,
                    Fate::InDoubt { .. } => *maildir,
                    Fate::Done | Fate::Failed(_) => !maildir || event.lsn < claimed,
                },
                What::Ended { .. } => message.ended,
                What::Written => false,
            });
            for event in &mut known.events {
                event.standing = Standing::Synced;
            }
            self.acknowledged = self.acknowledged.max(*serial);
        }
        self.newest = self.newest.max(self.log.as_ref().unwrap().generation());
    }
}

fn case(seed: u64) {
    let disk = MemoryDisk::default();
    disk.machine().random = seed;
    let (log, _) = Log::open(disk.clone(), settings((2, 5), 0, 0)).unwrap();
    let mut life = Life {
        disk,
        log: Some(log),
        known: BTreeMap::new(),
        next_serial: 1,
        accepts: 0,
        acknowledged: 0,
        claimed: Lsn(0),
        durable: Lsn(0),
        boot: 0,
        newest: 0,
    };
    for _ in 0..=life.random(3) {
        for _ in 0..life.random(60) {
            life.step();
            if life.log().is_dead() {
                break;
            }
        }
        let power_cut = life.random(3) > 0;
        life.restart(power_cut);
    }
    life.restart(true);
}

#[test]
fn no_promise_is_broken() {
    let cases = std::env::var("MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let first = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let next = std::sync::atomic::AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= first + cases {
                        break;
                    }
                    let result = std::panic::catch_unwind(|| case(seed));
                    assert!(result.is_ok(), "MODEL_SEED={seed} MODEL_CASES=1");
                }
            });
        }
    });
}
