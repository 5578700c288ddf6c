//! The journal in front of qmail's files: what is in it, and what it says after a crash.
//!
//! A journal is a row of segments of equal size, written over again and again. A segment is one page with a [`segment`]
//! header and then [`batch`]es, each from a page's beginning: what was written together, under one checksum. A batch
//! holds [`Record`]s. Batches have numbers, [`Lsn`], that never come again; messages have theirs, [`Serial`].
//!
//! Every generation of a segment has a random key that stands in each of its batches and is part of every checksum: neither
//! what is left of an earlier generation nor the body of a message can be taken for a batch. Batches that nobody waits for
//! are not synced, and may reach the disk in any order or not at all: each batch tells up to which one all were durable
//! when it was written, so that a hole below that is damage and a hole above it is nothing.

pub mod batch;
mod crc;
mod record;
pub mod replay;
pub mod segment;

pub use crc::Crc;
pub use record::{Accept, BadRecord, MaildirFile, Outcome, Record};
pub use replay::{Fate, Replay, Replayed};

/// Everything in a segment begins at a multiple of this, in bytes.
pub const PAGE: usize = 4096;

/// Number of a message in the life of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Serial(pub u64);

/// Number of a batch in the life of a journal, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A random key of one generation of a segment.
pub type Key = [u8; 16];

/// `bytes` rounded up to whole pages.
#[must_use]
pub fn pages(bytes: usize) -> usize {
    bytes.div_ceil(PAGE) * PAGE
}
