//! Segments: whose they are, and which batches they hold.

use std::ops::Range;

use super::batch::{self, Batch};
use super::{Fields, Key, Lsn, PAGE, Serial, Span};

/// Version of the format.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"mtjournl";

/// Magic, version and their checksum.
const PREFIX: usize = 16;

/// What is covered by the header's checksum: all before it.
const COVERED: usize = PREFIX + 4 + 3 * 8 + 3 * 16;

/// The first page of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number in its file name.
    pub number: u32,
    /// 1, 2, 3 … in the order in which segments were begun.
    pub generation: u64,
    /// Number of its first batch; all before it stand in earlier generations.
    pub first: Lsn,
    /// Highest serial given to a message before.
    pub serial: Serial,
    /// Whose journal it belongs to.
    pub journal: [u8; 16],
    /// The boot of the machine that it was begun in.
    pub boot: [u8; 16],
    /// What seeds the checksums of its batches.
    pub key: Key,
}

/// What the first page of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Zeros: the segment was never used.
    Unused,
    /// A segment's.
    Good(Header),
    /// A segment's that is not whole.
    Torn,
    /// A segment's of another version of the format.
    Version(u32),
    /// Not a segment's.
    Foreign,
}

impl Header {
    /// The page.
    #[must_use]
    pub fn encode(&self) -> [u8; PAGE] {
        let mut fields = Vec::with_capacity(PAGE);
        fields.extend_from_slice(&MAGIC);
        fields.extend_from_slice(&VERSION.to_le_bytes());
        fields.extend_from_slice(&crc32c::crc32c(&fields).to_le_bytes());
        fields.extend_from_slice(&self.number.to_le_bytes());
        for number in [self.generation, self.first.0, self.serial.0] {
            fields.extend_from_slice(&number.to_le_bytes());
        }
        for id in [&self.journal, &self.boot, &self.key.0] {
            fields.extend_from_slice(id);
        }
        fields.extend_from_slice(&crc32c::crc32c(&fields).to_le_bytes());
        let mut page = [0; PAGE];
        page[..fields.len()].copy_from_slice(&fields);
        page
    }

    /// What the first page of a file is.
    #[must_use]
    pub fn decode(page: &[u8]) -> Head {
        if page.len() < PAGE {
            return Head::Foreign;
        }
        if page[..PAGE].iter().all(|byte| *byte == 0) {
            return Head::Unused;
        }
        if page[..MAGIC.len()] != MAGIC {
            let begun = page.iter().zip(MAGIC).take_while(|(byte, ours)| *byte == ours).count();
            let cut = begun > 0 && page[begun..].iter().all(|byte| *byte == 0);
            return if cut { Head::Torn } else { Head::Foreign };
        }
        Self::fields(page).unwrap_or(Head::Torn)
    }

    fn fields(page: &[u8]) -> Option<Head> {
        let mut fields = Fields(page.get(MAGIC.len()..)?);
        let version = fields.u32()?;
        if fields.u32()? != crc32c::crc32c(page.get(..PREFIX - 4)?) {
            return None;
        }
        if version != VERSION {
            return Some(Head::Version(version));
        }
        let header = Self {
            number: fields.u32()?,
            generation: fields.u64()?,
            first: Lsn(fields.u64()?),
            serial: Serial(fields.u64()?),
            journal: fields.array()?,
            boot: fields.array()?,
            key: Key(fields.array()?),
        };
        (fields.u32()? == crc32c::crc32c(page.get(..COVERED)?)).then_some(Head::Good(header))
    }
}

/// What a segment holds.
#[derive(Debug, Clone)]
pub struct Scan<'a> {
    /// Its valid batches in the order of their numbers, each with where it begins.
    pub batches: Vec<(usize, Batch<'a>)>,
    /// Numbers missing between the segment's first and the last that was found.
    pub missing: Vec<Span>,
    /// Bytes before [`Self::end`] that belong to no valid batch.
    pub bad: Vec<Range<usize>>,
    /// Where the last valid batch ends.
    pub end: usize,
}

/// All valid batches of a segment, `bytes` being the whole of it. A bad one ends nothing: what was not synced may be missing
/// in the middle.
#[must_use]
pub fn scan<'a>(header: &Header, bytes: &'a [u8]) -> Scan<'a> {
    let mut scan = Scan { batches: Vec::new(), missing: Vec::new(), bad: Vec::new(), end: PAGE };
    let mut next = header.first;
    let mut at = PAGE;
    while let Some(rest) = bytes.get(at..)
        && rest.len() >= PAGE
    {
        // No batch is smaller than a page: so many could be before it, and not more.
        let most = Lsn(header.first.0.saturating_add((at / PAGE - 1) as u64));
        let batch = batch::decode(&header.key, header.generation, rest)
            .filter(|batch| next <= batch.header.lsn && batch.header.lsn <= most);
        let Some(batch) = batch else {
            at += PAGE;
            continue;
        };
        if next < batch.header.lsn {
            scan.missing.push(Span { first: next, last: batch.header.lsn.previous() });
        }
        if scan.end < at {
            scan.bad.push(scan.end..at);
        }
        next = batch.header.lsn.next();
        scan.batches.push((at, batch));
        at += batch.padded_len();
        scan.end = at;
    }
    scan
}
