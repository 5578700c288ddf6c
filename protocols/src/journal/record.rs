//! What a journal says: records, each a letter, a length and fields. Numbers are little-endian.

use std::sync::Arc;

use super::{Lsn, Serial};
use crate::queue::MessageId;

/// Letter and length.
const HEAD: usize = 5;

/// One thing that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A message was accepted.
    Accept(Accept),
    /// A recipient is done.
    Done {
        /// The message.
        serial: Serial,
        /// Which of [`Accept::recipients`], from 0.
        recipient: u32,
        /// How.
        outcome: Outcome,
    },
    /// The bounce of a message is in the queue, under the number `qp`.
    Bounced {
        /// The message that bounced.
        serial: Serial,
        /// The number of the bounce's queueing.
        qp: u64,
    },
    /// A message lies in qmail's files, durably: the journal does not count for it any more.
    Written {
        /// The message.
        serial: Serial,
    },
    /// A message is over.
    Ended {
        /// The message.
        serial: Serial,
    },
    /// A replay needs the batches from `needed` on. Every file that a `Done` below `durable` names is durable.
    Checkpoint {
        /// The oldest batch that is still needed.
        needed: Lsn,
        /// The first batch whose files may not be durable.
        durable: Lsn,
    },
    /// The sync of these batches failed, and whoever had a message accepted in them was told so: such a message was never
    /// accepted. What else they say is true all the same.
    Void {
        /// The first one.
        first: Lsn,
        /// The last one.
        last: Lsn,
    },
}

/// A message that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// Its number in the journal.
    pub serial: Serial,
    /// Its number in the queue: the inode of a file.
    pub id: MessageId,
    /// The number of that file among the spare ones.
    pub pool: u64,
    /// When it was accepted, in microseconds since 1970.
    pub birth: u64,
    /// User id of who queued it.
    pub uid: u32,
    /// The number of its queueing.
    pub qp: u64,
    /// Reverse-path.
    pub sender: Vec<u8>,
    /// Forward-paths.
    pub recipients: Vec<Vec<u8>>,
    /// More about it, by name; a reader keeps what it does not know.
    pub properties: Vec<(Vec<u8>, Vec<u8>)>,
    /// The message.
    pub body: Arc<[u8]>,
}

/// How a recipient is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Delivered, to these files if it was to files whose safety is the journal's concern.
    Delivered {
        /// Copies in Maildirs.
        maildirs: Vec<MaildirFile>,
    },
    /// Failed.
    Failed {
        /// For the bounce.
        paragraph: Vec<u8>,
    },
}

/// A copy of a message in a Maildir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaildirFile {
    /// The Maildir, absolute.
    pub dir: Vec<u8>,
    /// The file's name in `new`.
    pub name: Vec<u8>,
    /// Its size, in bytes.
    pub size: u64,
    /// CRC-32C of its content.
    pub crc: u32,
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record: {0}")]
pub struct BadRecord(&'static str);

impl Record {
    fn letter(&self) -> u8 {
        match self {
            Self::Accept(_) => b'A',
            Self::Done { .. } => b'D',
            Self::Bounced { .. } => b'B',
            Self::Written { .. } => b'W',
            Self::Ended { .. } => b'E',
            Self::Checkpoint { .. } => b'C',
            Self::Void { .. } => b'V',
        }
    }

    /// How many bytes it takes in a batch.
    #[must_use]
    pub fn size(&self) -> usize {
        let text = |bytes: &[u8]| 4 + bytes.len();
        HEAD + match self {
            Self::Accept(accept) => {
                let recipients: usize = accept.recipients.iter().map(|one| text(one)).sum();
                let properties = accept.properties.iter().map(|(name, value)| text(name) + text(value));
                let fixed = 8 * 4 + 4 + 8;
                fixed
                    + text(&accept.sender)
                    + 4
                    + recipients
                    + 4
                    + properties.sum::<usize>()
                    + text(&accept.body)
            }
            Self::Done { outcome: Outcome::Delivered { maildirs }, .. } => {
                let files = maildirs.iter().map(|file| text(&file.dir) + text(&file.name) + 12);
                8 + 4 + 1 + 4 + files.sum::<usize>()
            }
            Self::Done { outcome: Outcome::Failed { paragraph }, .. } => 8 + 4 + 1 + text(paragraph),
            Self::Bounced { .. } | Self::Checkpoint { .. } | Self::Void { .. } => 16,
            Self::Written { .. } | Self::Ended { .. } => 8,
        }
    }

    /// Appends its bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.letter());
        long(out, self.size() - HEAD);
        match self {
            Self::Accept(accept) => accept.write(out),
            Self::Done { serial, recipient, outcome } => {
                out.extend(serial.0.to_le_bytes());
                out.extend(recipient.to_le_bytes());
                match outcome {
                    Outcome::Delivered { maildirs } => {
                        out.push(b'K');
                        long(out, maildirs.len());
                        for MaildirFile { dir, name, size, crc } in maildirs {
                            text(out, dir);
                            text(out, name);
                            out.extend(size.to_le_bytes());
                            out.extend(crc.to_le_bytes());
                        }
                    }
                    Outcome::Failed { paragraph } => {
                        out.push(b'D');
                        text(out, paragraph);
                    }
                }
            }
            Self::Bounced { serial: Serial(first), qp: second }
            | Self::Checkpoint { needed: Lsn(first), durable: Lsn(second) }
            | Self::Void { first: Lsn(first), last: Lsn(second) } => {
                out.extend(first.to_le_bytes());
                out.extend(second.to_le_bytes());
            }
            Self::Written { serial } | Self::Ended { serial } => out.extend(serial.0.to_le_bytes()),
        }
    }

    /// The record at the beginning of `bytes`, and what is behind it.
    ///
    /// # Errors
    /// [`BadRecord`].
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), BadRecord> {
        let mut head = Fields(bytes);
        let (letter, length) = (head.byte()?, head.length()?);
        let fields = head.take(length)?;
        let rest = head.0;
        let mut fields = Fields(fields);
        let record = match letter {
            b'A' => Self::Accept(Accept::read(&mut fields)?),
            b'D' => {
                let (serial, recipient) = (Serial(fields.number()?), fields.short()?);
                let outcome = match fields.byte()? {
                    b'K' => {
                        let count = fields.count()?;
                        let maildirs = (0..count).map(|_| fields.file()).collect::<Result<_, _>>()?;
                        Outcome::Delivered { maildirs }
                    }
                    b'D' => Outcome::Failed { paragraph: fields.text()? },
                    _ => return Err(BadRecord("unknown outcome")),
                };
                Self::Done { serial, recipient, outcome }
            }
            b'B' => Self::Bounced { serial: Serial(fields.number()?), qp: fields.number()? },
            b'W' => Self::Written { serial: Serial(fields.number()?) },
            b'E' => Self::Ended { serial: Serial(fields.number()?) },
            b'C' => Self::Checkpoint { needed: Lsn(fields.number()?), durable: Lsn(fields.number()?) },
            b'V' => Self::Void { first: Lsn(fields.number()?), last: Lsn(fields.number()?) },
            _ => return Err(BadRecord("unknown letter")),
        };
        if fields.0.is_empty() { Ok((record, rest)) } else { Err(BadRecord("bytes behind its fields")) }
    }
}

impl Accept {
    fn write(&self, out: &mut Vec<u8>) {
        for number in [self.serial.0, self.id.0, self.pool, self.birth] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.uid.to_le_bytes());
        out.extend(self.qp.to_le_bytes());
        text(out, &self.sender);
        long(out, self.recipients.len());
        for recipient in &self.recipients {
            text(out, recipient);
        }
        long(out, self.properties.len());
        for (name, value) in &self.properties {
            text(out, name);
            text(out, value);
        }
        text(out, &self.body);
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, BadRecord> {
        let (serial, id) = (Serial(fields.number()?), MessageId(fields.number()?));
        let (pool, birth) = (fields.number()?, fields.number()?);
        let (uid, qp) = (fields.short()?, fields.number()?);
        let sender = fields.text()?;
        let count = fields.count()?;
        let recipients = (0..count).map(|_| fields.text()).collect::<Result<_, _>>()?;
        let count = fields.count()?;
        let properties =
            (0..count).map(|_| Ok((fields.text()?, fields.text()?))).collect::<Result<_, _>>()?;
        let body = fields.slice()?.into();
        Ok(Self { serial, id, pool, birth, uid, qp, sender, recipients, properties, body })
    }
}

/// Lengths are below 4 GiB: a batch is smaller than a segment.
fn long(out: &mut Vec<u8>, length: usize) {
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    long(out, bytes.len());
    out.extend_from_slice(bytes);
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadRecord> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BadRecord("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        self.take(N)?.try_into().map_err(|_| BadRecord("too short"))
    }

    fn byte(&mut self) -> Result<u8, BadRecord> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn short(&mut self) -> Result<u32, BadRecord> {
        self.array().map(u32::from_le_bytes)
    }

    fn number(&mut self) -> Result<u64, BadRecord> {
        self.array().map(u64::from_le_bytes)
    }

    fn length(&mut self) -> Result<usize, BadRecord> {
        usize::try_from(self.short()?).map_err(|_| BadRecord("too long"))
    }

    /// Of things that take a byte at least each: nothing is reserved for more than could follow.
    fn count(&mut self) -> Result<usize, BadRecord> {
        let count = self.length()?;
        if count <= self.0.len() { Ok(count) } else { Err(BadRecord("more fields than bytes")) }
    }

    fn slice(&mut self) -> Result<&'a [u8], BadRecord> {
        let length = self.length()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<Vec<u8>, BadRecord> {
        self.slice().map(<[u8]>::to_vec)
    }

    fn file(&mut self) -> Result<MaildirFile, BadRecord> {
        Ok(MaildirFile { dir: self.text()?, name: self.text()?, size: self.number()?, crc: self.short()? })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..most)
    }

    fn file() -> impl Strategy<Value = MaildirFile> {
        (bytes(40), bytes(40), any::<u64>(), any::<u32>()).prop_map(|(dir, name, size, crc)| MaildirFile {
            dir,
            name,
            size,
            crc,
        })
    }

    fn accept() -> impl Strategy<Value = Record> {
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>());
        let lists =
            (prop::collection::vec(bytes(30), 0..5), prop::collection::vec((bytes(9), bytes(9)), 0..3));
        (numbers, bytes(30), lists, bytes(9000)).prop_map(
            |((serial, id, pool, birth, uid, qp), sender, (recipients, properties), body)| {
                let (serial, id, body) = (Serial(serial), MessageId(id), body.into());
                let fields =
                    Accept { serial, id, pool, birth, uid, qp, sender, recipients, properties, body };
                Record::Accept(fields)
            },
        )
    }

    pub(in super::super) fn record() -> impl Strategy<Value = Record> {
        let outcome = prop_oneof![
            prop::collection::vec(file(), 0..3).prop_map(|maildirs| Outcome::Delivered { maildirs }),
            bytes(50).prop_map(|paragraph| Outcome::Failed { paragraph }),
        ];
        let two = || (any::<u64>(), any::<u64>());
        prop_oneof![
            accept(),
            (any::<u64>(), any::<u32>(), outcome).prop_map(|(serial, recipient, outcome)| {
                Record::Done { serial: Serial(serial), recipient, outcome }
            }),
            two().prop_map(|(serial, qp)| Record::Bounced { serial: Serial(serial), qp }),
            any::<u64>().prop_map(|serial| Record::Written { serial: Serial(serial) }),
            any::<u64>().prop_map(|serial| Record::Ended { serial: Serial(serial) }),
            two().prop_map(|(a, b)| Record::Checkpoint { needed: Lsn(a), durable: Lsn(b) }),
            two().prop_map(|(a, b)| Record::Void { first: Lsn(a), last: Lsn(b) }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record(), behind in bytes(9)) {
            let mut written = Vec::new();
            record.write(&mut written);
            prop_assert_eq!(written.len(), record.size());
            written.extend(&behind);
            prop_assert_eq!(Record::read(&written), Ok((record.clone(), &behind[..])));
            let short = &written[..record.size() - 1];
            prop_assert!(Record::read(short).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            drop(Record::read(&bytes));
        }
    }
}
