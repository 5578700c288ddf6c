//! The journal on disk: segments of `queue/journal/`, the log that is written into them, and which journal is this host's.

mod disk;
mod identity;
mod log;
#[cfg(test)]
mod tests;

pub(super) use disk::{FileDisk, remove};
pub(super) use identity::Identity;
pub(super) use log::{Log, OpenError, Recovered, Settings};
