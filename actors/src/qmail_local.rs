//! qmail-local: one delivery on this host, with the rights of whoever runs it. Everything here may wait for a file system, a
//! lock or a program that belongs to somebody else.

mod mbox;
mod plan;
mod process;
mod program;
mod who;

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use mailtree_protocols::maildir as names;
use mailtree_protocols::maildirsize::WARN_PERCENT;
use mailtree_protocols::queue::MessageId;
use mailtree_protocols::received::date;
use mailtree_protocols::report::Report;

pub(crate) use plan::{Did, Kept, Plan, Step, Target};
pub(crate) use process::{deliver, unread};
pub use program::Limits;
pub(crate) use who::Home;

use crate::maildir::quota::{self, Admission, Admitted};
use crate::maildir::{self, Copy};
use crate::queue::{Body, InMaildir};
use crate::vpopmail::Vpopmail;

/// In the name of a warning: no delivery has so many Maildirs.
const WARNING: usize = 999_999;

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
    /// Puts a copy into the `nth` Maildir of a delivery; it is not durable. With it comes what was added to the Maildir's sum.
    pub(crate) fn put_into_maildir(
        &self,
        letter: &Letter<'_>,
        target: &Target,
        nth: usize,
    ) -> Result<(InMaildir, Option<Admitted>), Report> {
        let &Letter { id, birth, record, again, doubted, head, body } = letter;
        let size = body.size() + head.len() as u64;
        let name = names::name(birth, id, record, nth, &self.me, size);
        let Target { dir, within, quota } = target;
        let copy =
            Copy { maildir: dir, within: within.as_deref(), name: name.as_ref(), head, body, again, doubted };
        let trouble = |error: io::Error| maildir_trouble(dir, &error);
        let Some(kept) = quota else { return Ok((maildir::deliver(&copy).map_err(trouble)?, None)) };
        // What an earlier attempt has delivered is counted.
        match maildir::earlier(&copy) {
            Ok(Some(earlier)) => return Ok((earlier, None)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(trouble(error)),
            Ok(None) | Err(_) => (),
        }
        let admitted = match quota::admit(dir, kept.quota, size).map_err(trouble)? {
            Admission::Admitted(admitted) => admitted,
            Admission::Over => {
                self.warn(letter, dir, kept);
                let text = plan::said(&kept.domain, &self.domains, ".over-quota.msg");
                return Err(Report::failure(text.unwrap_or_else(|| "user is over quota\n".to_owned())));
            }
        };
        if admitted.percent >= WARN_PERCENT {
            self.warn(letter, dir, kept);
        }
        let delivered = maildir::deliver(&copy).map_err(trouble)?;
        if let Err(error) = admitted.count() {
            tracing::warn!("warning: unable to count a message in {}: {error}", dir.display());
        }
        Ok((delivered, Some(admitted)))
    }

    /// Tells the user that his Maildir is full, or nearly so: once a day, where the administrator has written what. Nothing
    /// depends on it.
    fn warn(&self, letter: &Letter<'_>, maildir: &Path, kept: &Kept) {
        if let Err(error) = self.try_to_warn(letter, maildir, kept)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("warning: unable to warn the user of {}: {error}", maildir.display());
        }
    }

    fn try_to_warn(&self, letter: &Letter<'_>, maildir: &Path, kept: &Kept) -> io::Result<()> {
        let Some(text) = quota::text(&kept.domain, &self.domains, ".quotawarn.msg")? else { return Ok(()) };
        if !quota::warning_is_due(maildir)? {
            return Ok(());
        }
        let delivered_to = letter.head.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default();
        let head = [delivered_to, format!("Date: {}\n", date(Timestamp::now())).as_bytes()].concat();
        let body = Body::memory(text.into());
        let size = body.size() + head.len() as u64;
        // No other message of this host has this number and this birth.
        let name = names::name(letter.birth, letter.id, letter.record, WARNING, &self.me, size);
        let copy = Copy {
            maildir,
            within: None,
            name: name.as_ref(),
            head: &head,
            body: &body,
            again: false,
            doubted: false,
        };
        let copy = maildir::deliver(&copy)?;
        if let Admission::Admitted(admitted) = quota::admit(maildir, kept.quota, size)? {
            admitted.count()?;
        }
        maildir::sync(&[copy], false)
    }
}

/// Makes copies durable. One that cannot be is withdrawn, and what it was `counted` as is taken off again.
pub(crate) fn sync(copies: &[InMaildir], counted: &[Option<Admitted>], again: bool) -> Result<(), Report> {
    for (copy, counted) in copies.iter().zip(counted) {
        maildir::sync(std::slice::from_ref(copy), again).map_err(|error| {
            if let Some(Err(error)) = counted.as_ref().map(Admitted::take_back) {
                tracing::warn!("warning: unable to take a message off a Maildir's sum: {error}");
            }
            maildir_trouble(Path::new("a Maildir"), &error)
        })?;
    }
    Ok(())
}

fn maildir_trouble(dir: &Path, error: &io::Error) -> Report {
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
