//! What a journal says after a crash: which messages lived, and what had become of their recipients.

use std::collections::{BTreeMap, HashMap};

use super::{Accept, Lsn, MaildirFile, Outcome, Record, Serial};

/// A message that lived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// As it was accepted.
    pub accept: Accept,
    /// The batch that holds it.
    pub lsn: Lsn,
    /// What had become of each recipient.
    pub recipients: Vec<Fate>,
    /// Its bounce is queued.
    pub bounced: bool,
    /// It was over; somebody's copy may not have been durable.
    pub ended: bool,
}

/// What had become of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Open,
    /// Done for good.
    Done,
    /// Failed, with the paragraph for the bounce.
    Failed(Vec<u8>),
    /// Delivered to files that may not have been durable.
    InDoubt {
        /// The files.
        maildirs: Vec<MaildirFile>,
        /// The machine has not stopped since: what was written is there, and what is missing was removed.
        same_boot: bool,
    },
}

struct Message {
    replayed: Replayed,
    /// Where each recipient was said to be done.
    done: Vec<Lsn>,
}

/// Takes records in the order of their batches.
#[derive(Default)]
pub struct Replay {
    messages: HashMap<Serial, Message>,
    durable: Lsn,
    voids: Vec<(Lsn, Lsn)>,
    serial: Serial,
}

impl Replay {
    /// A record of batch `lsn`, that was written in this life of the machine or an earlier one.
    pub fn apply(&mut self, lsn: Lsn, same_boot: bool, record: Record) {
        match record {
            Record::Accept(accept) => {
                self.serial = self.serial.max(accept.serial);
                let recipients = vec![Fate::Open; accept.recipients.len()];
                let done = vec![lsn; recipients.len()];
                let serial = accept.serial;
                let replayed = Replayed { accept, lsn, recipients, bounced: false, ended: false };
                self.messages.insert(serial, Message { replayed, done });
            }
            Record::Done { serial, recipient, outcome } => {
                let nth = usize::try_from(recipient).unwrap_or(usize::MAX);
                if let Some(message) = self.messages.get_mut(&serial)
                    && let Some(fate) = message.replayed.recipients.get_mut(nth)
                {
                    *fate = match outcome {
                        Outcome::Delivered { maildirs } if maildirs.is_empty() => Fate::Done,
                        Outcome::Delivered { maildirs } => Fate::InDoubt { maildirs, same_boot },
                        Outcome::Failed { paragraph } => Fate::Failed(paragraph),
                    };
                    message.done[nth] = lsn;
                }
            }
            Record::Bounced { serial, .. } => {
                if let Some(message) = self.messages.get_mut(&serial) {
                    message.replayed.bounced = true;
                }
            }
            Record::Written { serial } => drop(self.messages.remove(&serial)),
            Record::Ended { serial } => {
                if let Some(message) = self.messages.get_mut(&serial) {
                    message.replayed.ended = true;
                }
            }
            Record::Checkpoint { durable, .. } => self.durable = self.durable.max(durable),
            Record::Void { first, last } => self.voids.push((first, last)),
        }
    }

    /// The highest serial that was seen.
    #[must_use]
    pub fn last_serial(&self) -> Serial {
        self.serial
    }

    /// The messages that lived, in the order of their acceptance.
    #[must_use]
    pub fn finish(self) -> Vec<Replayed> {
        let Self { messages, durable, voids, .. } = self;
        let void = |lsn: Lsn| voids.iter().any(|(first, last)| (*first..=*last).contains(&lsn));
        let mut alive = BTreeMap::new();
        for (serial, Message { mut replayed, done }) in messages {
            if void(replayed.lsn) {
                continue;
            }
            for (fate, at) in replayed.recipients.iter_mut().zip(done) {
                if matches!(fate, Fate::InDoubt { .. }) && at < durable {
                    *fate = Fate::Done;
                }
            }
            let doubt = replayed.recipients.iter().any(|fate| matches!(fate, Fate::InDoubt { .. }));
            if !replayed.ended || doubt {
                alive.insert((replayed.lsn, serial), replayed);
            }
        }
        alive.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::MessageId;

    fn accept(serial: u64, recipients: usize) -> Record {
        Record::Accept(Accept {
            serial: Serial(serial),
            id: MessageId(100 + serial),
            pool: serial,
            birth: 1,
            uid: 0,
            qp: 0,
            sender: Vec::new(),
            recipients: vec![b"b@x".to_vec(); recipients],
            properties: Vec::new(),
            body: b"x\n"[..].into(),
        })
    }

    fn files() -> Vec<MaildirFile> {
        vec![MaildirFile { dir: b"/m".to_vec(), name: b"n".to_vec(), size: 1, crc: 2 }]
    }

    fn done(serial: u64, recipient: u32, maildirs: Vec<MaildirFile>) -> Record {
        Record::Done { serial: Serial(serial), recipient, outcome: Outcome::Delivered { maildirs } }
    }

    fn replay(records: Vec<(u64, Record)>) -> Vec<Replayed> {
        let mut replay = Replay::default();
        for (lsn, record) in records {
            replay.apply(Lsn(lsn), false, record);
        }
        replay.finish()
    }

    #[test]
    fn what_was_neither_written_out_nor_over_lives() {
        let alive = replay(vec![
            (1, accept(1, 1)),
            (1, accept(2, 1)),
            (2, accept(3, 2)),
            (3, Record::Written { serial: Serial(1) }),
            (3, Record::Ended { serial: Serial(2) }),
            (4, done(3, 1, Vec::new())),
            (4, Record::Ended { serial: Serial(77) }),
        ]);
        assert_eq!(alive.len(), 1);
        assert_eq!((alive[0].accept.serial, alive[0].lsn), (Serial(3), Lsn(2)));
        assert_eq!(alive[0].recipients, [Fate::Open, Fate::Done]);
    }

    #[test]
    fn copies_behind_the_last_checkpoint_are_in_doubt_even_of_a_message_that_is_over() {
        let records = |durable| {
            vec![
                (1, accept(1, 1)),
                (2, done(1, 0, files())),
                (2, Record::Ended { serial: Serial(1) }),
                (3, Record::Checkpoint { needed: Lsn(1), durable: Lsn(durable) }),
            ]
        };
        let alive = replay(records(2));
        assert!(alive[0].ended);
        assert_eq!(alive[0].recipients, [Fate::InDoubt { maildirs: files(), same_boot: false }]);
        assert!(replay(records(3)).is_empty());
    }

    #[test]
    fn failures_and_bounces_are_known() {
        let outcome = Outcome::Failed { paragraph: b"no\n".to_vec() };
        let failed = Record::Done { serial: Serial(1), recipient: 0, outcome };
        let alive =
            replay(vec![(1, accept(1, 1)), (2, failed), (3, Record::Bounced { serial: Serial(1), qp: 9 })]);
        assert_eq!(alive[0].recipients, [Fate::Failed(b"no\n".to_vec())]);
        assert!(alive[0].bounced);
    }

    #[test]
    fn what_was_refused_was_never_accepted_but_what_was_done_is_done() {
        let alive = replay(vec![
            (1, accept(1, 1)),
            (2, accept(2, 1)),
            (2, done(1, 0, Vec::new())),
            (3, Record::Void { first: Lsn(2), last: Lsn(2) }),
        ]);
        assert_eq!(alive.len(), 1);
        assert_eq!(alive[0].recipients, [Fate::Done]);
    }
}
