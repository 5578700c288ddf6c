//! vpopmail's domains and users as the files say it now: users/cdb, vpasswd.cdb, `.qmail` files, Maildirs; and who controls
//! any other address of this host. Reads files, changes nothing.

mod vpasswd;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mailtree_config::control::Control;
use mailtree_config::regular;
use mailtree_protocols::assign::{self, Controlled};
use mailtree_protocols::chkuser::rcpt::{Domain, QMAIL_DEFAULT};
use mailtree_protocols::domains::Domains;
use mailtree_protocols::dotqmail::{self, Instruction};
use mailtree_protocols::maildirsize::Quota;
use mailtree_protocols::queue::Channel;
use mailtree_protocols::route::route;
use mailtree_protocols::vpasswd::{Entry, lookup};

use crate::cdb_files::{CdbFiles, about};
use vpasswd::Vpasswd;

/// The domains of a host.
#[derive(Clone)]
pub struct Vpopmail {
    control: Arc<Control>,
    users_cdb: PathBuf,
    alias: PathBuf,
    files: CdbFiles,
    vpasswd: Vpasswd,
}

impl Vpopmail {
    /// The domains that are in `virtualdomains` and that `users_cdb`, of `files`, names; `alias` is the home of the user alias.
    #[must_use]
    pub fn new(control: Arc<Control>, files: CdbFiles, users_cdb: PathBuf, alias: PathBuf) -> Self {
        Self { control, users_cdb, alias, files, vpasswd: Vpasswd::default() }
    }

    /// What is wrong with `users/cdb` and with the `vpasswd` of domains, as far as they were asked for. Answers from memory.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.files.trouble(&self.users_cdb).into_iter().chain(self.vpasswd.troubles()).collect()
    }

    /// The virtual domain of this name; none if it is not virtual.
    ///
    /// # Errors
    /// When users/cdb cannot be read or is damaged.
    pub fn domain(&self, name: &[u8]) -> io::Result<Option<Domain>> {
        let domestic = self.control.domestic().map_err(io::Error::other)?;
        if !domestic.virtualdomains.has_users(name) {
            return Ok(None);
        }
        let Some(users) = self.files.users(&self.users_cdb)? else { return Ok(None) };
        let found = assign::domain(&users, name).map_err(|error| about(&self.users_cdb, &error))?;
        Ok(found.map(|found| Domain { name: found.user, dir: found.home }))
    }

    /// Whom users/cdb assigns a local part to.
    ///
    /// # Errors
    /// When users/cdb cannot be read or is damaged.
    pub fn assigned(&self, local: &[u8]) -> io::Result<Option<Controlled>> {
        let Some(users) = self.files.users(&self.users_cdb)? else { return Ok(None) };
        assign::lookup(&users, local).map_err(|error| about(&self.users_cdb, &error))
    }

    /// Who controls an address, which has a domain: by `locals`, `virtualdomains` and users/cdb, else the user alias. None: it
    /// is another host's. Accounts of the system that users/cdb does not name are not looked up.
    ///
    /// # Errors
    /// When a file cannot be read or is damaged.
    pub fn controlled(&self, address: &[u8]) -> io::Result<Option<Controlled>> {
        let domestic = self.control.domestic().map_err(io::Error::other)?;
        let none = Domains::default();
        let routed = route(address, &domestic.locals, &domestic.virtualdomains, &none, b"");
        if routed.channel == Channel::Remote {
            return Ok(None);
        }
        let local = mailtree_protocols::address::split(&routed.address).0;
        Ok(Some(self.assigned(local)?.unwrap_or_else(|| Controlled {
            user: b"alias".to_vec(),
            uid: 0,
            gid: 0,
            home: self.alias.as_os_str().as_bytes().to_vec(),
            dash: b"-".to_vec(),
            ext: local.to_vec(),
        })))
    }

    /// What a `.qmail` file of a home says; none if there is none.
    ///
    /// # Errors
    /// When it cannot be read, or a delivery would not obey it: it is being edited, too long, or everybody may write it.
    pub fn instructions(&self, home: &Path, file: &[u8]) -> io::Result<Option<Vec<Instruction>>> {
        let path = home.join(OsStr::from_bytes(file));
        let (file, metadata) = match regular::open_with_metadata(&path) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return Ok(None),
            Err(error) => return Err(about(&path, &error)),
        };
        if metadata.permissions().mode() & 0o002 != 0 {
            return Err(about(&path, &"everybody may write it"));
        }
        let mut text = Vec::new();
        file.take(dotqmail::MAX_SIZE + 1).read_to_end(&mut text)?;
        if text.len() as u64 > dotqmail::MAX_SIZE {
            return Err(about(&path, &format!("larger than {} bytes", dotqmail::MAX_SIZE)));
        }
        dotqmail::parse(&text).map(Some).map_err(|error| about(&path, &error))
    }

    /// The user of a domain; none if there is no such user.
    ///
    /// # Errors
    /// When vpasswd.cdb cannot be read or is damaged, or is missing and cannot be made.
    pub fn user(&self, domain: &Domain, name: &[u8]) -> io::Result<Option<Entry>> {
        self.user_in(dir(domain), name)
    }

    /// The same of the domain in this directory.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn user_in(&self, dir: &Path, name: &[u8]) -> io::Result<Option<Entry>> {
        let users = self.vpasswd.users(dir)?;
        lookup(&users, &name.to_ascii_lowercase()).map_err(|error| about(&dir.join("vpasswd.cdb"), &error))
    }

    /// The same in a home that may be no domain's: without a `vpasswd` it has no users.
    ///
    /// # Errors
    /// When vpasswd.cdb cannot be read, is missing beside a `vpasswd`, or damaged.
    pub fn user_at(&self, home: &Path, name: &[u8]) -> io::Result<Option<Entry>> {
        let domain = Domain { name: Vec::new(), dir: home.as_os_str().as_bytes().to_vec() };
        match self.user(&domain, name) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && !self.has_file(&domain, b"vpasswd")? =>
            {
                Ok(None)
            }
            found => found,
        }
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
        Ok(quota.percent(&crate::maildir::quota::usage(&maildir)?))
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
