//! What a restart makes of the records.

use std::collections::{HashMap, VecDeque};

use super::{Accept, Lsn, MaildirFile, Outcome, Record, Serial, Span};

/// A message that the journal still answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The message.
    pub accept: Accept,
    /// The batch it was accepted in.
    pub lsn: Lsn,
    /// What became of each of its recipients.
    pub recipients: Vec<Fate>,
    /// `qp` of its bounce, if that is queued.
    pub bounced: Option<u64>,
    /// Nothing is left to do for it but to look after what is [`Fate::InDoubt`], and to remove what was written of it.
    pub ended: bool,
}

/// What became of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is to be delivered.
    Open,
    /// It was delivered, durably as far as the journal is concerned.
    Done,
    /// It was delivered, but nobody made the files durable.
    InDoubt {
        /// The files.
        maildirs: Vec<MaildirFile>,
        /// The machine has not been started again since: what is missing in a file system that has not been mounted
        /// again either was moved or deleted by its user.
        same_boot: bool,
    },
    /// It failed for good; what the bounce says about it.
    Failed(Vec<u8>),
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Messages in the order in which they were accepted.
    pub messages: Vec<Replayed>,
    /// Highest serial seen.
    pub serial: Serial,
    /// Highest LSN seen.
    pub lsn: Lsn,
    /// Batches that were durable and are not there, or cannot be understood.
    pub damaged: Vec<Span>,
    /// Batches that are not there and never had to be.
    pub unsynced: Vec<Span>,
}

/// The fold over all batches, in the order of their numbers.
#[derive(Debug)]
pub struct Replay {
    durable: Lsn,
    messages: HashMap<Serial, Live>,
    /// Messages accepted so far.
    accepted: u64,
    /// Batches that may still turn out to be void.
    pending: VecDeque<Pending>,
    missing: Vec<Span>,
    malformed: Vec<Lsn>,
    voids: Vec<Void>,
    synced: Lsn,
    last: Lsn,
    serial: Serial,
}

#[derive(Debug)]
struct Live {
    order: u64,
    accept: Accept,
    lsn: Lsn,
    recipients: Vec<Fate>,
    bounced: Option<u64>,
    ended: bool,
}

#[derive(Debug)]
struct Pending {
    lsn: Lsn,
    same_boot: bool,
    records: Vec<Record>,
}

#[derive(Debug, Clone, Copy)]
struct Void {
    at: Lsn,
    span: Span,
}

impl Replay {
    /// From what the last checkpoint says; without one all is needed ([`Lsn`] 1) and nothing durable.
    #[must_use]
    pub fn new(needed: Lsn, durable: Lsn) -> Self {
        let needed = needed.max(Lsn(1));
        Self {
            durable,
            messages: HashMap::new(),
            accepted: 0,
            pending: VecDeque::new(),
            missing: Vec::new(),
            malformed: Vec::new(),
            voids: Vec::new(),
            synced: Lsn(0),
            last: needed.previous(),
            serial: Serial(0),
        }
    }

    /// The next batch; `synced` is from its header. One whose number is not above all before it is ignored.
    ///
    /// It is applied only once a later batch says that it was durable, or at the end: until then it may turn out to be void.
    pub fn batch(&mut self, lsn: Lsn, synced: Lsn, same_boot: bool, records: Vec<Record>) {
        for record in &records {
            if let Record::Accept(accept) = record {
                self.serial = self.serial.max(accept.serial);
            }
        }
        if !self.follows(lsn) {
            return;
        }
        self.synced = self.synced.max(synced);
        for record in &records {
            if let Record::Void { first, last } = *record {
                let span = Span { first, last };
                self.voids.push(Void { at: lsn, span });
                self.pending.retain(|batch| !span.contains(batch.lsn));
            }
        }
        while let Some(batch) = self.pending.pop_front_if(|batch| batch.lsn <= self.synced) {
            self.apply(batch);
        }
        self.pending.push_back(Pending { lsn, same_boot, records });
    }

    /// The next batch is whole and yet cannot be understood.
    pub fn malformed(&mut self, lsn: Lsn) {
        if self.follows(lsn) {
            self.malformed.push(lsn);
            self.missing.push(Span { first: lsn, last: lsn });
        }
    }

    /// A segment begins: the highest serial before it is `serial`, and the next batch should be `first`.
    pub fn segment(&mut self, first: Lsn, serial: Serial) {
        self.serial = self.serial.max(serial);
        if first > self.last.next() {
            self.missing.push(Span { first: self.last.next(), last: first.previous() });
            self.last = first.previous();
        }
    }

    /// What came out.
    #[must_use]
    pub fn finish(mut self) -> Finished {
        while let Some(batch) = self.pending.pop_front() {
            self.apply(batch);
        }
        let (mut damaged, mut unsynced) = (Vec::new(), Vec::new());
        for missing in &self.missing {
            for span in uncovered(*missing, self.voids.iter()) {
                if span.first <= self.synced || self.malformed.contains(&span.first) {
                    let last = if self.malformed.contains(&span.first) {
                        span.last
                    } else {
                        span.last.min(self.synced)
                    };
                    damaged.push(Span { first: span.first, last });
                }
                let first = span.first.max(self.synced.next());
                if first <= span.last && !self.malformed.contains(&span.first) {
                    unsynced.push(Span { first, last: span.last });
                }
            }
        }
        let mut messages: Vec<Live> = self.messages.into_values().collect();
        messages.sort_unstable_by_key(|live| live.order);
        let messages = messages
            .into_iter()
            .map(|Live { accept, lsn, recipients, bounced, ended, .. }| Replayed {
                accept,
                lsn,
                recipients,
                bounced,
                ended,
            })
            .collect();
        Finished { messages, serial: self.serial, lsn: self.last, damaged, unsynced }
    }

    /// Whether `lsn` is the next that counts; what it leaves out is missing.
    fn follows(&mut self, lsn: Lsn) -> bool {
        if lsn <= self.last {
            return false;
        }
        if lsn > self.last.next() {
            self.missing.push(Span { first: self.last.next(), last: lsn.previous() });
        }
        self.last = lsn;
        true
    }

    fn apply(&mut self, batch: Pending) {
        let Pending { lsn, same_boot, records } = batch;
        for record in records {
            match record {
                Record::Accept(accept) => self.accept(lsn, accept),
                Record::Done { serial, recipient, outcome } => {
                    self.done(lsn, same_boot, serial, recipient, outcome);
                }
                Record::Bounced { serial, qp } => {
                    if let Some(live) = self.messages.get_mut(&serial) {
                        live.bounced = Some(qp);
                    }
                }
                Record::Written { serial } => drop(self.messages.remove(&serial)),
                Record::Ended { serial } => self.ended(lsn, serial),
                Record::Checkpoint { .. } | Record::Void { .. } => (),
            }
        }
    }

    fn accept(&mut self, lsn: Lsn, accept: Accept) {
        let order = self.accepted;
        self.accepted += 1;
        let recipients = vec![Fate::Open; accept.recipients.len()];
        self.messages.entry(accept.serial).or_insert(Live {
            order,
            accept,
            lsn,
            recipients,
            bounced: None,
            ended: false,
        });
    }

    fn done(&mut self, lsn: Lsn, same_boot: bool, serial: Serial, recipient: u32, outcome: Outcome) {
        let fate = self.messages.get_mut(&serial).and_then(|live| {
            usize::try_from(recipient).ok().and_then(|recipient| live.recipients.get_mut(recipient))
        });
        let Some(fate) = fate else { return };
        *fate = match outcome {
            Outcome::Delivered { maildirs } if maildirs.is_empty() || lsn < self.durable => Fate::Done,
            Outcome::Delivered { maildirs } => Fate::InDoubt { maildirs, same_boot },
            Outcome::Failed { paragraph } => Fate::Failed(paragraph),
        };
    }

    fn ended(&mut self, lsn: Lsn, serial: Serial) {
        let Some(live) = self.messages.get_mut(&serial) else { return };
        let between = Span { first: live.lsn.next(), last: lsn.previous() };
        let known = self.voids.iter().filter(|void| void.at < lsn);
        let unknown = self.missing.iter().any(|missing| {
            let (first, last) = (missing.first.max(between.first), missing.last.min(between.last));
            first <= last && !uncovered(Span { first, last }, known.clone()).is_empty()
        });
        if unknown {
            return;
        }
        live.ended = true;
    }
}

/// What is left of `span` without `voids`.
fn uncovered<'a>(span: Span, voids: impl Iterator<Item = &'a Void>) -> Vec<Span> {
    let mut left = vec![span];
    for Void { span: void, .. } in voids {
        let mut rest = Vec::new();
        for span in left {
            if void.last < span.first || span.last < void.first {
                rest.push(span);
                continue;
            }
            if span.first < void.first {
                rest.push(Span { first: span.first, last: void.first.previous() });
            }
            if void.last < span.last {
                rest.push(Span { first: void.last.next(), last: span.last });
            }
        }
        left = rest;
    }
    left
}
