//! Records: what happened to messages.

use std::sync::Arc;

use super::{Fields, Lsn, Serial};
use crate::queue::MessageId;

/// A message that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// Its number in the journal.
    pub serial: Serial,
    /// Its number in the queue.
    pub id: MessageId,
    /// Number of the pool file whose inode is the id.
    pub pool: u64,
    /// When it was accepted, in microseconds since the epoch.
    pub birth: u64,
    /// User id of the process that queued it.
    pub uid: u32,
    /// Number of that process.
    pub qp: u64,
    /// Reverse-path without angle brackets; empty for a bounce.
    pub sender: Vec<u8>,
    /// Forward-paths without angle brackets.
    pub recipients: Vec<Vec<u8>>,
    /// Whatever else later work needs to know: names and values.
    pub properties: Vec<(Vec<u8>, Vec<u8>)>,
    /// The message.
    pub body: Arc<[u8]>,
}

/// A file that a delivery left in a Maildir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaildirFile {
    /// Absolute path of the Maildir.
    pub dir: Vec<u8>,
    /// Its name in `new/`.
    pub name: Vec<u8>,
    /// What it has in front of the message: the header lines that the delivery added.
    pub head: Vec<u8>,
    /// The mount that it was written through: a number that no other mount has until the machine is started again; 0 where
    /// the kernel does not tell (before Linux 6.8).
    pub mount: u64,
}

/// What became of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was delivered.
    Delivered {
        /// The files that this left in Maildirs, perhaps not yet durable.
        maildirs: Vec<MaildirFile>,
    },
    /// It failed for good.
    Failed {
        /// What the bounce says about it.
        paragraph: Vec<u8>,
    },
}

/// What the journal knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A message was accepted.
    Accept(Accept),
    /// A recipient needs no more delivery.
    Done {
        /// Whose.
        serial: Serial,
        /// Its place in [`Accept::recipients`].
        recipient: u32,
        /// What became of it.
        outcome: Outcome,
    },
    /// The bounce of a message is queued.
    Bounced {
        /// Whose.
        serial: Serial,
        /// `qp` of the bounce.
        qp: u64,
    },
    /// A message lies in qmail's files, durably, and the journal need not know it any more.
    Written {
        /// Which.
        serial: Serial,
    },
    /// Nothing is left to do for a message.
    Ended {
        /// Which.
        serial: Serial,
    },
    /// Up to here all is in order.
    Checkpoint {
        /// Replay needs the batches from this one on.
        needed: Lsn,
        /// Every Maildir file that a [`Record::Done`] below this one names is durable.
        durable: Lsn,
    },
    /// Batches that count for nothing: their sync failed, or they were missing at a start.
    Void {
        /// The first of them.
        first: Lsn,
        /// The last of them.
        last: Lsn,
    },
}

const ACCEPT: u8 = b'A';
const DONE: u8 = b'D';
const BOUNCED: u8 = b'B';
const WRITTEN: u8 = b'W';
const ENDED: u8 = b'E';
const CHECKPOINT: u8 = b'C';
const VOID: u8 = b'V';

const DELIVERED: u8 = b'K';
const FAILED: u8 = b'D';

/// Length and kind.
const PREFIX: usize = 5;

impl Record {
    /// How many bytes it takes in a batch.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        PREFIX
            + match self {
                Self::Accept(accept) => accept.encoded_len(),
                Self::Done { outcome, .. } => 8 + 4 + outcome.encoded_len(),
                Self::Bounced { .. } | Self::Checkpoint { .. } | Self::Void { .. } => 16,
                Self::Written { .. } | Self::Ended { .. } => 8,
            }
    }

    /// Appends it. No byte string in it may be longer than `u32::MAX`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&length(self.encoded_len() - PREFIX));
        match self {
            Self::Accept(accept) => {
                out.push(ACCEPT);
                accept.encode(out);
            }
            Self::Done { serial, recipient, outcome } => {
                out.push(DONE);
                out.extend_from_slice(&serial.0.to_le_bytes());
                out.extend_from_slice(&recipient.to_le_bytes());
                outcome.encode(out);
            }
            Self::Bounced { serial, qp } => pair(out, BOUNCED, serial.0, *qp),
            Self::Written { serial } => {
                out.push(WRITTEN);
                out.extend_from_slice(&serial.0.to_le_bytes());
            }
            Self::Ended { serial } => {
                out.push(ENDED);
                out.extend_from_slice(&serial.0.to_le_bytes());
            }
            Self::Checkpoint { needed, durable } => pair(out, CHECKPOINT, needed.0, durable.0),
            Self::Void { first, last } => pair(out, VOID, first.0, last.0),
        }
    }

    /// Reads one whose length and kind are known; `None` unless `fields` are exactly its own.
    pub(super) fn decode(raw: Raw<'_>) -> Option<Self> {
        let mut fields = Fields(raw.fields);
        let record = match raw.kind {
            ACCEPT => Self::Accept(Accept::decode(&mut fields)?),
            DONE => Self::Done {
                serial: Serial(fields.u64()?),
                recipient: fields.u32()?,
                outcome: Outcome::decode(&mut fields)?,
            },
            BOUNCED => Self::Bounced { serial: Serial(fields.u64()?), qp: fields.u64()? },
            WRITTEN => Self::Written { serial: Serial(fields.u64()?) },
            ENDED => Self::Ended { serial: Serial(fields.u64()?) },
            CHECKPOINT => Self::Checkpoint { needed: Lsn(fields.u64()?), durable: Lsn(fields.u64()?) },
            VOID => Self::Void { first: Lsn(fields.u64()?), last: Lsn(fields.u64()?) },
            _ => return None,
        };
        fields.0.is_empty().then_some(record)
    }

    /// Reads one that is all of `bytes`.
    #[cfg(test)]
    pub(super) fn decode_any(bytes: &[u8]) -> Option<Self> {
        let mut payload = Fields(bytes);
        let record = Raw::next(&mut payload).and_then(Self::decode)?;
        payload.0.is_empty().then_some(record)
    }
}

/// A record that is not looked into.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    kind: u8,
    fields: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The next of a payload.
    pub(super) fn next(payload: &mut Fields<'a>) -> Option<Self> {
        let len = payload.u32()?;
        let kind = payload.u8()?;
        Some(Self { kind, fields: payload.take(usize::try_from(len).ok()?)? })
    }

    pub(super) fn is_checkpoint(&self) -> bool {
        self.kind == CHECKPOINT
    }
}

impl Accept {
    fn encoded_len(&self) -> usize {
        let recipients: usize = self.recipients.iter().map(|recipient| 4 + recipient.len()).sum();
        let properties: usize =
            self.properties.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
        4 * 8 + 4 + 8 + 4 + self.sender.len() + 4 + recipients + 4 + properties + 4 + self.body.len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.serial.0, self.id.0, self.pool, self.birth] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.uid.to_le_bytes());
        out.extend_from_slice(&self.qp.to_le_bytes());
        bytes(out, &self.sender);
        out.extend_from_slice(&length(self.recipients.len()));
        for recipient in &self.recipients {
            bytes(out, recipient);
        }
        out.extend_from_slice(&length(self.properties.len()));
        for (name, value) in &self.properties {
            bytes(out, name);
            bytes(out, value);
        }
        bytes(out, &self.body);
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            serial: Serial(fields.u64()?),
            id: MessageId(fields.u64()?),
            pool: fields.u64()?,
            birth: fields.u64()?,
            uid: fields.u32()?,
            qp: fields.u64()?,
            sender: fields.bytes()?.to_vec(),
            recipients: list(fields, |fields| fields.bytes().map(<[u8]>::to_vec))?,
            properties: list(fields, |fields| Some((fields.bytes()?.to_vec(), fields.bytes()?.to_vec())))?,
            body: fields.bytes()?.into(),
        })
    }
}

impl Outcome {
    fn encoded_len(&self) -> usize {
        1 + match self {
            Self::Delivered { maildirs } => {
                let files: usize =
                    maildirs.iter().map(|f| 12 + f.dir.len() + f.name.len() + f.head.len() + 8).sum();
                4 + files
            }
            Self::Failed { paragraph } => 4 + paragraph.len(),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Delivered { maildirs } => {
                out.push(DELIVERED);
                out.extend_from_slice(&length(maildirs.len()));
                for file in maildirs {
                    bytes(out, &file.dir);
                    bytes(out, &file.name);
                    bytes(out, &file.head);
                    out.extend_from_slice(&file.mount.to_le_bytes());
                }
            }
            Self::Failed { paragraph } => {
                out.push(FAILED);
                bytes(out, paragraph);
            }
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        match fields.u8()? {
            DELIVERED => Some(Self::Delivered {
                maildirs: list(fields, |fields| {
                    Some(MaildirFile {
                        dir: fields.bytes()?.to_vec(),
                        name: fields.bytes()?.to_vec(),
                        head: fields.bytes()?.to_vec(),
                        mount: fields.u64()?,
                    })
                })?,
            }),
            FAILED => Some(Self::Failed { paragraph: fields.bytes()?.to_vec() }),
            _ => None,
        }
    }
}

/// As many as the number before them says. Nothing is reserved for a number that is not believed yet.
fn list<'a, T>(
    fields: &mut Fields<'a>,
    mut item: impl FnMut(&mut Fields<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = fields.u32()?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(fields)?);
    }
    Some(items)
}

fn pair(out: &mut Vec<u8>, kind: u8, first: u64, second: u64) {
    out.push(kind);
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&second.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()));
    out.extend_from_slice(bytes);
}

/// A batch is never so long that this does not fit ([`super::batch::MAX_PAYLOAD`]).
fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}
