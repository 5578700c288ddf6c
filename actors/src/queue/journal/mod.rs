//! The journal on disk: which files it is made of, in what order they are written and made durable, and which journal is this
//! host's.
//!
//! The format, and what a restart makes of it, is [`mailtree_protocols::journal`].

mod disk;
mod identity;
mod log;

pub(super) use disk::{Disk, FileDisk, has_segments};
pub(super) use identity::Identity;
pub(super) use log::{Log, OpenError, Recovered, Settings};

#[cfg(test)]
mod tests;
