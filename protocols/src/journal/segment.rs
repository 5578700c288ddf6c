//! Segments: a page that says what generation this is, then batches.

use super::batch::{self, Batch, Place};
use super::{Crc, Key, Lsn, PAGE};

/// The version of the format; a header of another one is named.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"mtjournl";

/// Bytes of a header that mean something.
const LENGTH: usize = 92;

/// What generation a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Counts the segments in the order of their use, from 1.
    pub generation: u64,
    /// The number of its first batch.
    pub first: Lsn,
    /// The number of the last batch that was known when it was begun.
    pub previous: Lsn,
    /// Which journal this is.
    pub journal: [u8; 16],
    /// Which life of the machine wrote it.
    pub boot: [u8; 16],
    /// Its key.
    pub key: Key,
}

/// What is at the beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Zeros: it was never used.
    Unused,
    /// A header.
    Header(Header),
    /// A header of a version that this program does not know.
    Version(u32),
    /// Nothing that can be read.
    Torn,
}

impl Header {
    /// Its page.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE);
        page.extend(MAGIC);
        page.extend(VERSION.to_le_bytes());
        for number in [self.generation, self.first.0, self.previous.0] {
            page.extend(number.to_le_bytes());
        }
        for part in [self.journal, self.boot, self.key] {
            page.extend(part);
        }
        page.resize(LENGTH - 4, 0);
        let mut crc = Crc::default();
        crc.add(&page);
        page.extend(crc.value().to_le_bytes());
        page.resize(PAGE, 0);
        page
    }

    /// Where its batches belong.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { key: self.key, generation: self.generation }
    }
}

/// What a page at the beginning of a segment is.
#[must_use]
pub fn read(page: &[u8]) -> Found {
    let Some(bytes) = page.get(..LENGTH) else { return Found::Torn };
    if page.iter().all(|byte| *byte == 0) {
        return Found::Unused;
    }
    if bytes[..8] != MAGIC {
        return Found::Torn;
    }
    let number = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let short = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
    let array = |at: usize| -> [u8; 16] { bytes[at..at + 16].try_into().unwrap_or_default() };
    let version = short(8);
    if version != VERSION {
        return Found::Version(version);
    }
    let mut crc = Crc::default();
    crc.add(&bytes[..LENGTH - 4]);
    if crc.value() != short(LENGTH - 4) {
        return Found::Torn;
    }
    Found::Header(Header {
        generation: number(12),
        first: Lsn(number(20)),
        previous: Lsn(number(28)),
        journal: array(36),
        boot: array(52),
        key: array(68),
    })
}

/// Every batch of a segment's generation in `bytes`, the whole segment, in order. Batches that cannot be read are passed
/// over, page by page.
pub fn batches<'a>(header: &Header, bytes: &'a [u8]) -> impl Iterator<Item = Batch<'a>> {
    let place = header.place();
    let mut at = PAGE;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            match batch::read(&place, &bytes[at..]) {
                Some(batch) => {
                    at += batch.length;
                    return Some(batch);
                }
                None => at += PAGE,
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Record, Serial};
    use super::*;

    const HEADER: Header = Header {
        generation: 3,
        first: Lsn(10),
        previous: Lsn(9),
        journal: [1; 16],
        boot: [2; 16],
        key: [3; 16],
    };

    #[test]
    fn a_header_is_read_as_it_was_written_or_not_at_all() {
        let page = HEADER.to_bytes();
        assert_eq!(page.len(), PAGE);
        assert_eq!(read(&page), Found::Header(HEADER));
        assert_eq!(read(&[0; PAGE]), Found::Unused);
        assert_eq!(read(&page[..20]), Found::Torn);
        for at in 0..LENGTH {
            let mut changed = page.clone();
            changed[at] ^= 0x10;
            let found = read(&changed);
            assert!(!matches!(found, Found::Header(_) | Found::Unused), "byte {at}");
            assert_eq!(matches!(found, Found::Version(_)), (8..12).contains(&at), "byte {at}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_passed_over_and_old_generations_are_not_seen() {
        let write = |header: &Header, lsn, bytes: &mut Vec<u8>| {
            let record = Record::Ended { serial: Serial(lsn) };
            batch::write(&header.place(), Lsn(lsn), Lsn(lsn - 1), &[record], bytes);
        };
        let mut bytes = HEADER.to_bytes();
        for lsn in 10..14 {
            write(&HEADER, lsn, &mut bytes);
        }
        // Left over from the last use of the segment.
        write(&Header { generation: 1, key: [9; 16], ..HEADER }, 4, &mut bytes);
        bytes[PAGE + PAGE + 60] ^= 1;
        let lsns: Vec<_> = batches(&HEADER, &bytes).map(|batch| batch.lsn.0).collect();
        assert_eq!(lsns, [10, 12, 13]);
    }
}
