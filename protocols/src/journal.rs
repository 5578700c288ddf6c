//! The journal of the queue: what is in its files, and what a restart makes of it.
//!
//! A segment is a file of whole pages of 4096 bytes. The first is its header ([`segment::Header`]); behind it stand
//! batches ([`batch`]), each beginning on a page of its own. A batch holds records ([`Record`]) and is written and made
//! durable as one. Numbers are little-endian, byte strings have their length (`u32`) before them.
//!
//! ```text
//! segment: magic "mtjournl"  version u32  crc u32 of both        (the same in every version)
//!          number u32  generation u64  first LSN u64  serial u64  journal id [16]  boot id [16]  key [16]  crc u32
//! batch:   magic u32  payload length u32  generation u64  LSN u64  synced u64  records u32
//!          payload's crc u32  zero u32  header's crc u32  payload  zeros up to the page
//! record:  length u32  kind u8  fields
//! ```
//!
//! A segment is used again by writing a new header over the old one: with the next generation and a new random key, whose
//! halves seed the two CRC-32C of each batch. So neither a batch of an earlier generation nor one forged inside a mail
//! body, by somebody who cannot read the journal, is ever taken for one of ours.
//!
//! What may be trusted:
//!
//! * LSNs are consecutive. One that is missing at or below the highest `synced` that any batch names was durable once:
//!   damage. Above it, it never had to reach the disk.
//! * Batches that were not synced may reach the disk in any order. So an [`Record::Ended`] counts only when no LSN between
//!   it and its [`Accept`] is missing: a missing batch may have held the very reason of it.
//! * A batch whose sync failed was refused to everybody who waited for it. A later [`Record::Void`] names it, and nothing
//!   in it counts: not only the `Accept`s, for a `Done`, `Bounced` or `Ended` beside or behind them may say that a message has
//!   gone over into one of those. Whoever still holds another record of it true appends it again.
//! * What depends on an `Accept` (the `Done` of the forwarded message, the `Bounced`) stands in the same batch or in a
//!   later one; [`Record::Checkpoint`] stands behind durable batches only.

pub mod batch;
pub mod record;
pub mod replay;
pub mod segment;

use std::fmt;

pub use record::{Accept, MaildirFile, Outcome, Record};

/// Bytes of a page: what a write is aligned to.
pub const PAGE: usize = 4096;

/// Number of a message in the journal's life; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Serial(pub u64);

impl Serial {
    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a batch, one more each; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before it.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Consecutive LSNs, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first.
    pub first: Lsn,
    /// The last.
    pub last: Lsn,
}

impl Span {
    /// Whether `lsn` is one of them.
    #[must_use]
    pub fn contains(self, lsn: Lsn) -> bool {
        self.first <= lsn && lsn <= self.last
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// What seeds the checksums of one generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; 16]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Reads fields one after the other; `None` when one is cut.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }
}

#[cfg(test)]
mod tests;
