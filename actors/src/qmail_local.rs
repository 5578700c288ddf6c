//! qmail-local: one delivery on this host, with the rights of whoever runs it. Everything here may wait for a file system, a
//! lock or a program that belongs to somebody else.

mod mbox;
mod plan;
mod process;
mod program;
mod who;

use std::io;
use std::path::{Path, PathBuf};

use mailtree_protocols::maildir as names;
use mailtree_protocols::queue::MessageId;
use mailtree_protocols::report::Report;

pub(crate) use plan::{Did, Plan, Step, Target};
pub(crate) use process::{deliver, unread};
pub use program::Limits;
pub(crate) use who::Home;

use crate::maildir::{self, Copy};
use crate::queue::{Body, InMaildir};
use crate::vpopmail::Vpopmail;

/// What deliveries on this host need to know.
#[derive(Clone)]
pub struct QmailLocal {
    /// The domains' users.
    pub vpopmail: Vpopmail,
    /// vpopmail's domains.
    pub domains: PathBuf,
    /// Home of user alias.
    pub alias: PathBuf,
    /// What is done without a `.qmail` file or with an empty one, as in such a file.
    pub defaultdelivery: String,
    /// Name of this host, for file names.
    pub me: String,
}

/// A message for one recipient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Letter<'a> {
    /// The message.
    pub(crate) id: MessageId,
    /// When it was accepted, in microseconds since 1970.
    pub(crate) birth: u64,
    /// What the queue calls the recipient.
    pub(crate) record: u64,
    /// It may have been begun before.
    pub(crate) again: bool,
    /// What was delivered before could not be synced.
    pub(crate) doubted: bool,
    /// Return-Path and Delivered-To.
    pub(crate) head: &'a [u8],
    /// The message itself.
    pub(crate) body: &'a Body,
}

impl QmailLocal {
    /// Puts a copy into the `nth` Maildir of a delivery; it is not durable.
    pub(crate) fn into_maildir(
        &self,
        letter: &Letter<'_>,
        target: &Target,
        nth: usize,
    ) -> Result<InMaildir, Report> {
        let &Letter { id, birth, record, again, doubted, head, body } = letter;
        let size = body.size() + head.len() as u64;
        let name = names::name(birth, id, record, nth, &self.me, size);
        let Target { dir, domain } = target;
        let copy =
            Copy { maildir: dir, within: domain.as_deref(), name: name.as_ref(), head, body, again, doubted };
        maildir::deliver(&copy).map_err(|error| maildir_trouble(dir, &error))
    }
}

pub(crate) fn maildir_trouble(dir: &Path, error: &io::Error) -> Report {
    tracing::warn!("warning: unable to deliver to {}: {error}", dir.display());
    match error.kind() {
        io::ErrorKind::NotFound => Report::deferral("Unable to chdir to maildir. (#4.2.1)\n"),
        _ => Report::deferral("Temporary error on maildir job. (#4.3.0)\n"),
    }
}

pub(crate) fn unreadable_mess(error: io::Error) -> Report {
    tracing::error!("alert: unable to read a message: {error}");
    Report::deferral("Unable to read message. (#4.3.0)\n")
}
