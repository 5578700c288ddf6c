//! Batches: records that were written together. Magic, length, generation, number, what was durable, count, key and checksum;
//! then the records; then zeros up to the end of the page.

use super::{BadRecord, Crc, Key, Lsn, Record, pages};

/// Bytes before the records.
pub const HEADER: usize = 56;

const MAGIC: [u8; 4] = *b"mtb1";

/// A batch that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Its number.
    pub lsn: Lsn,
    /// All batches up to this one were durable when it was written.
    pub synced: Lsn,
    /// How long it is with its header and what is behind it, in bytes: whole pages.
    pub length: usize,
    count: u32,
    records: &'a [u8],
}

/// What a batch belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The key of the segment's generation.
    pub key: Key,
    /// That generation.
    pub generation: u64,
}

/// Appends a batch to `out`, whose length is a whole number of pages.
pub fn write(place: &Place, lsn: Lsn, synced: Lsn, records: &[Record], out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + HEADER, 0);
    for record in records {
        record.write(out);
    }
    let length = out.len() - begin - HEADER;
    let mut header = Vec::with_capacity(HEADER);
    header.extend(MAGIC);
    header.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    header.extend(place.generation.to_le_bytes());
    header.extend(lsn.0.to_le_bytes());
    header.extend(synced.0.to_le_bytes());
    header.extend(u32::try_from(records.len()).unwrap_or(u32::MAX).to_le_bytes());
    header.extend(place.key);
    let crc = checksum(place, &header, &out[begin + HEADER..]);
    header.extend(crc.to_le_bytes());
    out[begin..begin + HEADER].copy_from_slice(&header);
    out.resize(begin + pages(HEADER + length), 0);
}

/// How long a batch of records of `size` bytes in all is.
#[must_use]
pub fn length(size: usize) -> usize {
    pages(HEADER + size)
}

fn checksum(place: &Place, header: &[u8], records: &[u8]) -> u32 {
    let mut crc = Crc::default();
    crc.add(&place.key);
    crc.add(header);
    crc.add(records);
    crc.value()
}

/// The batch at the beginning of `bytes`, if there is a whole one of this generation.
#[must_use]
pub fn read<'a>(place: &Place, bytes: &'a [u8]) -> Option<Batch<'a>> {
    let header = bytes.get(..HEADER)?;
    if header[..4] != MAGIC {
        return None;
    }
    let number = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes);
    let short = |at: usize| header[at..at + 4].try_into().map(u32::from_le_bytes);
    let length = usize::try_from(short(4).ok()?).ok()?;
    let records = bytes.get(HEADER..HEADER.checked_add(length)?)?;
    let (generation, lsn, synced) = (number(8).ok()?, Lsn(number(16).ok()?), Lsn(number(24).ok()?));
    let (count, crc) = (short(32).ok()?, short(52).ok()?);
    let ours = generation == place.generation && header[36..52] == place.key;
    if !ours || checksum(place, &header[..52], records) != crc {
        return None;
    }
    Some(Batch { lsn, synced, length: self::length(length), count, records })
}

impl Batch<'_> {
    /// What it says.
    ///
    /// # Errors
    /// [`BadRecord`], of a batch that was written so.
    pub fn records(&self) -> Result<Vec<Record>, BadRecord> {
        let (mut records, mut rest) = (Vec::new(), self.records);
        for _ in 0..self.count {
            let (record, behind) = Record::read(rest)?;
            records.push(record);
            rest = behind;
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::tests::record;
    use super::super::{Accept, PAGE, Serial};
    use super::*;
    use crate::queue::MessageId;

    const PLACE: Place = Place { key: [7; 16], generation: 3 };

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_that_was_changed(
            records in prop::collection::vec(record(), 0..5),
            at: prop::sample::Index,
            flip in 1..=255_u8,
        ) {
            let mut bytes = Vec::new();
            write(&PLACE, Lsn(9), Lsn(8), &records, &mut bytes);
            prop_assert_eq!(bytes.len() % PAGE, 0);
            let size: usize = records.iter().map(Record::size).sum();
            prop_assert_eq!(bytes.len(), length(size));
            let batch = read(&PLACE, &bytes).unwrap();
            prop_assert_eq!((batch.lsn, batch.synced, batch.length), (Lsn(9), Lsn(8), bytes.len()));
            prop_assert_eq!(batch.records(), Ok(records));
            prop_assert_eq!(read(&Place { generation: 4, ..PLACE }, &bytes), None);
            prop_assert_eq!(read(&Place { key: [8; 16], ..PLACE }, &bytes), None);
            let at = at.index(HEADER + size);
            prop_assert_eq!(read(&PLACE, &bytes[..at]), None);
            bytes[at] ^= flip;
            prop_assert_eq!(read(&PLACE, &bytes), None, "byte {} changed", at);
        }
    }

    #[test]
    fn a_batch_in_the_body_of_a_message_is_none() {
        // Whoever writes it does not know the key.
        let mut forged = Vec::new();
        let guess = Place { key: [0; 16], generation: 3 };
        write(&guess, Lsn(10), Lsn(9), &[Record::Ended { serial: Serial(1) }], &mut forged);
        let mut body = vec![0; PAGE];
        body.extend(forged);
        let accept = Accept {
            serial: Serial(1),
            id: MessageId(2),
            pool: 0,
            birth: 0,
            uid: 0,
            qp: 0,
            sender: Vec::new(),
            recipients: Vec::new(),
            properties: Vec::new(),
            body: body.into(),
        };
        let mut bytes = Vec::new();
        write(&PLACE, Lsn(9), Lsn(8), &[Record::Accept(accept)], &mut bytes);
        assert!(bytes.windows(4).filter(|window| *window == MAGIC).count() == 2);
        for at in (1..bytes.len()).filter(|at| bytes[*at..].starts_with(&MAGIC)) {
            assert_eq!(read(&PLACE, &bytes[at..]), None);
        }
    }
}
