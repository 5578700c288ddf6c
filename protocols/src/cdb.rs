//! Constant databases (cdb.3, cdbmake of cdb-0.55 and qmail): byte for byte the format of D. J. Bernstein.
//!
//! A file is 256 pairs (position of a table, number of its slots), then the records (length of key, length of data,
//! key, data), then the tables of slots (hash, position of a record). All numbers are 32 bits, little-endian.

use std::fmt;

/// Bytes of the 256 pairs at the start.
const HEADER: usize = 2048;

/// Bytes of a pair, of a slot and of the two lengths of a record.
const PAIR: usize = 8;

/// A file that is no constant database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Shorter than its fixed beginning.
    #[error("a cdb has at least {HEADER} bytes, this file has {len}")]
    Short {
        /// Bytes of the file.
        len: usize,
    },
    /// A table or a record reaches beyond the file.
    #[error("cdb damaged: {what} at byte {at} reaches beyond the end of the file ({len} bytes)")]
    Beyond {
        /// What it is that reaches beyond.
        what: &'static str,
        /// Where it starts.
        at: usize,
        /// Bytes of the file.
        len: usize,
    },
    /// More than the format can hold.
    #[error("a cdb holds less than 4 GiB")]
    Full,
}

/// The hash of a key.
fn hash(key: &[u8]) -> u32 {
    key.iter().fold(5381, |h: u32, &b| h.wrapping_add(h << 5) ^ u32::from(b))
}

/// A database in memory. A hostile file costs at most one pass over its own bytes a question.
#[derive(Clone)]
pub struct Cdb<B> {
    bytes: B,
}

impl<B> fmt::Debug for Cdb<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cdb").finish_non_exhaustive()
    }
}

impl<B: AsRef<[u8]>> Cdb<B> {
    /// Takes the bytes of a file; refuses it unless all its tables are within.
    pub fn new(bytes: B) -> Result<Self, Error> {
        let len = bytes.as_ref().len();
        if len < HEADER {
            return Err(Error::Short { len });
        }
        let cdb = Self { bytes };
        for table in 0..=255 {
            let (at, slots) = cdb.table(table)?;
            let end = slots.checked_mul(PAIR).and_then(|size| at.checked_add(size));
            if end.is_none_or(|end| end > len) {
                return Err(Error::Beyond { what: "a table", at, len });
            }
        }
        Ok(cdb)
    }

    /// The data of the first record with this key. `None` also where the file is damaged beneath the key; whoever
    /// must know takes [`Self::find`].
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.find(key).ok().flatten()
    }

    /// The data of the first record with this key, or what is wrong with the file on the way there.
    pub fn find(&self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        let hash = hash(key);
        let (table, slots) = self.table(hash as u8)?;
        if slots == 0 {
            return Ok(None);
        }
        let first = (hash >> 8) as usize % slots;
        // Every slot at most once: a table without an empty slot must not be walked for ever.
        for slot in (first..slots).chain(0..first) {
            let (slot_hash, record) = self.pair(table + slot * PAIR, "a slot")?;
            if record == 0 {
                return Ok(None);
            }
            if slot_hash == hash as usize {
                let (found, data, _) = self.record(record)?;
                if found == key {
                    return Ok(Some(data));
                }
            }
        }
        Ok(None)
    }

    /// The records in the order in which they were added.
    pub fn iter(&self) -> Iter<'_, B> {
        // The first table follows the last record.
        let end = (0..=255).filter_map(|table| self.table(table).ok()).map(|(at, _)| at).min();
        Iter { cdb: self, at: HEADER, end: end.unwrap_or(HEADER) }
    }

    /// Whether all that can be found in it is within, or what is not.
    pub fn check(&self) -> Result<(), Error> {
        for table in 0..=255 {
            let (at, slots) = self.table(table)?;
            for slot in 0..slots {
                let (_, record) = self.pair(at + slot * PAIR, "a slot")?;
                if record != 0 {
                    self.record(record)?;
                }
            }
        }
        Ok(())
    }

    fn table(&self, table: u8) -> Result<(usize, usize), Error> {
        self.pair(usize::from(table) * PAIR, "a table")
    }

    fn pair(&self, at: usize, what: &'static str) -> Result<(usize, usize), Error> {
        let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).map_or(0, |n| n as usize);
        let pair = self.part(at, PAIR, what)?;
        Ok((number(&pair[..4]), number(&pair[4..])))
    }

    /// Key, data and end of a record.
    fn record(&self, at: usize) -> Result<(&[u8], &[u8], usize), Error> {
        let (klen, dlen) = self.pair(at, "a record")?;
        let key = self.part(at + PAIR, klen, "a key")?;
        let data = self.part(at + PAIR + klen, dlen, "data")?;
        Ok((key, data, at + PAIR + klen + dlen))
    }

    fn part(&self, at: usize, size: usize, what: &'static str) -> Result<&[u8], Error> {
        let bytes = self.bytes.as_ref();
        let end = at.checked_add(size);
        end.and_then(|end| bytes.get(at..end)).ok_or(Error::Beyond { what, at, len: bytes.len() })
    }
}

impl<'a, B: AsRef<[u8]>> IntoIterator for &'a Cdb<B> {
    type Item = Result<(&'a [u8], &'a [u8]), Error>;
    type IntoIter = Iter<'a, B>;

    fn into_iter(self) -> Iter<'a, B> {
        self.iter()
    }
}

/// The records of a database, key and data; ends after the first that is damaged.
#[derive(Debug)]
pub struct Iter<'a, B> {
    cdb: &'a Cdb<B>,
    at: usize,
    end: usize,
}

impl<'a, B: AsRef<[u8]>> Iterator for Iter<'a, B> {
    type Item = Result<(&'a [u8], &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        match self.cdb.record(self.at) {
            Ok((key, data, next)) => {
                self.at = next;
                Some(Ok((key, data)))
            }
            Err(error) => {
                self.at = self.end;
                Some(Err(error))
            }
        }
    }
}

/// A database being made.
#[derive(Debug, Clone)]
pub struct CdbMake {
    records: Vec<u8>,
    /// Hash and position of every record.
    slots: Vec<(u32, u32)>,
}

impl Default for CdbMake {
    fn default() -> Self {
        Self::new()
    }
}

impl CdbMake {
    /// An empty database.
    pub fn new() -> Self {
        Self { records: vec![0; HEADER], slots: Vec::new() }
    }

    /// Adds a record. Of several with one key, [`Cdb::get`] finds the first.
    pub fn add(&mut self, key: &[u8], data: &[u8]) -> Result<(), Error> {
        let klen = u32::try_from(key.len()).map_err(|_| Error::Full)?;
        let dlen = u32::try_from(data.len()).map_err(|_| Error::Full)?;
        let at = u32::try_from(self.records.len()).map_err(|_| Error::Full)?;
        // With its two slots in a table the record must still end within 4 GiB.
        let size = self.records.len() as u64 + u64::from(klen) + u64::from(dlen) + PAIR as u64;
        if size + (self.slots.len() as u64 + 1) * 2 * PAIR as u64 > u64::from(u32::MAX) {
            return Err(Error::Full);
        }
        self.slots.push((hash(key), at));
        self.records.extend_from_slice(&klen.to_le_bytes());
        self.records.extend_from_slice(&dlen.to_le_bytes());
        self.records.extend_from_slice(key);
        self.records.extend_from_slice(data);
        Ok(())
    }

    /// The bytes of the file.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = self.records;
        let mut tables = vec![Vec::new(); 256];
        for slot in self.slots {
            tables[(slot.0 & 255) as usize].push(slot);
        }
        for (n, entries) in tables.into_iter().enumerate() {
            // `add` keeps positions and counts within 32 bits.
            let at = bytes.len() as u32;
            let slots = entries.len() * 2;
            bytes[n * PAIR..n * PAIR + 4].copy_from_slice(&at.to_le_bytes());
            bytes[n * PAIR + 4..n * PAIR + 8].copy_from_slice(&(slots as u32).to_le_bytes());
            let mut table = vec![(0_u32, 0_u32); slots];
            for (hash, record) in entries {
                let mut slot = (hash >> 8) as usize % slots;
                while table[slot].1 != 0 {
                    slot = (slot + 1) % slots;
                }
                table[slot] = (hash, record);
            }
            for (hash, record) in table {
                bytes.extend_from_slice(&hash.to_le_bytes());
                bytes.extend_from_slice(&record.to_le_bytes());
            }
        }
        bytes
    }
}
