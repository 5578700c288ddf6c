//! Batches: records that are written and made durable as one.

use super::record::Raw;
use super::{Fields, Key, Lsn, PAGE, Record};

/// Bytes before the payload.
pub const HEADER: usize = 48;

/// Longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 30;

const MAGIC: u32 = u32::from_le_bytes(*b"mtb\x01");

/// What is covered by the header's checksum: all before it.
const COVERED: usize = HEADER - 4;

/// Where a batch stands, and what was durable when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Generation of its segment.
    pub generation: u64,
    /// Its number.
    pub lsn: Lsn,
    /// Highest LSN at or below which all was durable, or void.
    pub synced: Lsn,
}

/// More records than a batch can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_PAYLOAD} bytes in one batch")]
pub struct TooLarge;

/// A batch in the making; its buffer is used again.
#[derive(Debug, Default)]
pub struct Builder {
    buffer: Vec<u8>,
    records: u32,
    /// Where the payload ends.
    end: usize,
}

impl Builder {
    /// Forgets what it holds.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.resize(HEADER, 0);
        self.records = 0;
        self.end = HEADER;
    }

    /// Appends `record`.
    ///
    /// # Errors
    /// [`TooLarge`]: it was not appended.
    pub fn push(&mut self, record: &Record) -> Result<(), TooLarge> {
        if self.end < HEADER {
            self.clear();
        }
        let len = record.encoded_len();
        if len > MAX_PAYLOAD - (self.end - HEADER) {
            return Err(TooLarge);
        }
        self.buffer.truncate(self.end);
        self.buffer.reserve(len + PAGE);
        record.encode(&mut self.buffer);
        self.records += 1;
        self.end = self.buffer.len();
        Ok(())
    }

    /// Whether it holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many bytes it takes in a segment: whole pages.
    #[must_use]
    pub fn padded_len(&self) -> usize {
        padded(self.end.max(HEADER))
    }

    /// The bytes to be written at the beginning of a page.
    pub fn finish(&mut self, key: &Key, header: &Header) -> &[u8] {
        if self.end < HEADER {
            self.clear();
        }
        self.buffer.truncate(self.end);
        let payload = &self.buffer[HEADER..];
        // Fits: see MAX_PAYLOAD.
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let payload_crc = crc32c::crc32c_append(payload_seed(key), payload);
        let mut head = [0; HEADER];
        head[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[4..8].copy_from_slice(&len.to_le_bytes());
        head[8..16].copy_from_slice(&header.generation.to_le_bytes());
        head[16..24].copy_from_slice(&header.lsn.0.to_le_bytes());
        head[24..32].copy_from_slice(&header.synced.0.to_le_bytes());
        head[32..36].copy_from_slice(&self.records.to_le_bytes());
        head[36..40].copy_from_slice(&payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(header_seed(key), &head[..COVERED]);
        head[COVERED..].copy_from_slice(&crc.to_le_bytes());
        self.buffer[..HEADER].copy_from_slice(&head);
        self.buffer.resize(padded(self.end), 0);
        &self.buffer
    }
}

/// A batch as it was found, whole.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Where it stands.
    pub header: Header,
    records: u32,
    payload: &'a [u8],
}

/// A batch that is whole and yet holds what is no record: a newer program's, or a fault of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("batch {lsn} holds what is no record")]
pub struct Malformed {
    /// Its number.
    pub lsn: Lsn,
}

/// The batch at the beginning of `bytes`, if it is one of this generation and whole.
#[must_use]
pub fn decode<'a>(key: &Key, generation: u64, bytes: &'a [u8]) -> Option<Batch<'a>> {
    let (head, rest) = bytes.split_at_checked(HEADER)?;
    let mut fields = Fields(head);
    if fields.u32()? != MAGIC {
        return None;
    }
    let len = usize::try_from(fields.u32()?).ok()?;
    let header = Header { generation: fields.u64()?, lsn: Lsn(fields.u64()?), synced: Lsn(fields.u64()?) };
    let records = fields.u32()?;
    let payload_crc = fields.u32()?;
    fields.take(COVERED - 40)?;
    // The payload is looked at only for a header that is ours: nobody makes a start read it over and over.
    if header.generation != generation
        || fields.u32()? != crc32c::crc32c_append(header_seed(key), &head[..COVERED])
    {
        return None;
    }
    let payload = rest.get(..len)?;
    let whole = crc32c::crc32c_append(payload_seed(key), payload) == payload_crc;
    whole.then_some(Batch { header, records, payload })
}

impl Batch<'_> {
    /// How many bytes it takes in a segment: whole pages.
    #[must_use]
    pub fn padded_len(&self) -> usize {
        padded(HEADER + self.payload.len())
    }

    /// What it holds.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn records(&self) -> Result<Vec<Record>, Malformed> {
        let malformed = Malformed { lsn: self.header.lsn };
        let mut payload = Fields(self.payload);
        let mut records = Vec::new();
        for _ in 0..self.records {
            let record = Raw::next(&mut payload).and_then(Record::decode);
            records.push(record.ok_or(malformed)?);
        }
        if payload.0.is_empty() { Ok(records) } else { Err(malformed) }
    }

    /// The last checkpoint in it: `needed` and `durable`. Nothing else is decoded.
    #[must_use]
    pub fn checkpoint(&self) -> Option<(Lsn, Lsn)> {
        let mut payload = Fields(self.payload);
        let mut last = None;
        while let Some(raw) = Raw::next(&mut payload) {
            if raw.is_checkpoint()
                && let Some(Record::Checkpoint { needed, durable }) = Record::decode(raw)
            {
                last = Some((needed, durable));
            }
        }
        last
    }
}

fn header_seed(key: &Key) -> u32 {
    crc32c::crc32c(&key.0[..8])
}

fn payload_seed(key: &Key) -> u32 {
    crc32c::crc32c(&key.0[8..])
}

/// `len` in whole pages.
pub(super) const fn padded(len: usize) -> usize {
    len.next_multiple_of(PAGE)
}
