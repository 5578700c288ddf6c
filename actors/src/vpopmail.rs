//! vpopmail's domains and users as the files say it now: users/cdb, vpasswd.cdb, `.qmail` files, Maildirs. Reads files,
//! changes nothing.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mailtree_config::control::Control;
use mailtree_config::regular;
use mailtree_protocols::assign;
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::chkuser::rcpt::{Domain, QMAIL_DEFAULT};
use mailtree_protocols::maildirsize::{MAX_SIZE, Quota, Usage};
use mailtree_protocols::vpasswd::{self, Entry};

use crate::cdb_files::{CdbFiles, is_not_compiled};

/// Messages of a Maildir that are counted; one with more is counted as if it had so many.
const MAX_MESSAGES: usize = 100_000;

/// The domains of a host.
#[derive(Clone)]
pub struct Vpopmail {
    control: Arc<Control>,
    users_cdb: PathBuf,
    files: CdbFiles,
}

impl Vpopmail {
    /// The domains that are in `virtualdomains` and that `users_cdb` names.
    #[must_use]
    pub fn new(control: Arc<Control>, users_cdb: PathBuf) -> Self {
        Self { control, users_cdb, files: CdbFiles::default() }
    }

    /// The virtual domain of this name; none if it is not virtual.
    ///
    /// # Errors
    /// When users/cdb cannot be read or is damaged.
    pub fn domain(&self, name: &[u8]) -> io::Result<Option<Domain>> {
        if !self.control.virtualdomains().map_err(io::Error::other)?.has_users(name) {
            return Ok(None);
        }
        let Some(users) = self.open(&self.users_cdb)? else {
            let missing = || format!("{}: missing; made by qmail-newu", self.users_cdb.display());
            return if is_not_compiled(&self.users_cdb) {
                Err(io::Error::other(missing()))
            } else {
                Ok(None)
            };
        };
        let found = assign::domain(&users, name).map_err(|error| damaged(&self.users_cdb, &error))?;
        Ok(found.map(|found| Domain { name: found.user, dir: found.home }))
    }

    fn open(&self, path: &Path) -> io::Result<Option<Arc<Cdb<Vec<u8>>>>> {
        self.files.open(path).map_err(|error| damaged(path, &error))
    }

    /// The user of a domain; none if there is no such user.
    ///
    /// # Errors
    /// When vpasswd.cdb cannot be read, is missing or damaged.
    pub fn user(&self, domain: &Domain, name: &[u8]) -> io::Result<Option<Entry>> {
        let path = dir(domain).join("vpasswd.cdb");
        let users = self.open(&path)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file", path.display()))
        })?;
        vpasswd::lookup(&users, &name.to_ascii_lowercase()).map_err(|error| damaged(&path, &error))
    }

    /// The beginning of the domain's `.qmail-default`; empty without the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn qmail_default(&self, domain: &Domain) -> io::Result<Vec<u8>> {
        read_beginning(&dir(domain).join(".qmail-default"), QMAIL_DEFAULT as u64)
            .map(Option::unwrap_or_default)
    }

    /// Whether the domain's directory has this file.
    ///
    /// # Errors
    /// When nobody can say.
    pub fn has_file(&self, domain: &Domain, name: &[u8]) -> io::Result<bool> {
        match fs::metadata(dir(domain).join(OsStr::from_bytes(name))) {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory => {
                    Ok(false)
                }
                _ => Err(error),
            },
        }
    }

    /// How much of its quota a user's Maildir uses, in percent: by its `maildirsize`, or else counted.
    ///
    /// # Errors
    /// When nobody can say.
    pub fn usage(&self, entry: &Entry) -> io::Result<u32> {
        let quota = Quota::parse(&entry.quota).ok_or_else(|| {
            let (name, quota) = (entry.name.escape_ascii(), entry.quota.escape_ascii());
            io::Error::other(format!("the quota of {name} is `{quota}`; allowed: NOQUOTA, 1000S, 1000S,10C"))
        })?;
        let maildir = Path::new(OsStr::from_bytes(&entry.dir)).join("Maildir");
        let usage = match read_beginning(&maildir.join("maildirsize"), MAX_SIZE)? {
            Some(text) => Usage::sum(&text),
            None => counted(&maildir)?,
        };
        Ok(quota.percent(&usage))
    }
}

fn dir(domain: &Domain) -> &Path {
    Path::new(OsStr::from_bytes(&domain.dir))
}

/// A small file as far as `most` bytes; none if there is none.
fn read_beginning(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = regular::open(path)? else { return Ok(None) };
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    Ok(Some(text))
}

fn counted(maildir: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    for sub in ["new", "cur"] {
        let entries = match fs::read_dir(maildir.join(sub)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.take(MAX_MESSAGES) {
            let entry = entry?;
            let size = match Usage::size_in_name(entry.file_name().as_bytes()) {
                Some(size) => size,
                // One that is just being removed is no more.
                None => entry.metadata().map_or(0, |metadata| metadata.len()),
            };
            usage.bytes = usage.bytes.saturating_add(size);
            usage.messages += 1;
        }
    }
    Ok(usage)
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
