//! Who controls a local address: `users/cdb`, then the accounts of the system, then the user alias (qmail-lspawn,
//! qmail-getpw).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use mailtree_protocols::address;
use mailtree_protocols::assign::Controlled;
use mailtree_protocols::report::Report;
use nix::unistd::User;

use super::QmailLocal;

/// Longest account name (qmail-getpw: GETPW_USERLEN).
const MAX_ACCOUNT: usize = 32;

/// Name of the user who has the addresses of nobody else.
const ALIAS: &str = "alias";

/// Who controls an address, and where its `.qmail` files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    /// Account name.
    pub(crate) user: Vec<u8>,
    /// With whose rights it is delivered. 0: those of the directory's owner.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
    /// Home directory.
    pub(crate) dir: PathBuf,
    /// What stands between `.qmail` and the extension: empty or `-`.
    pub(crate) dash: Vec<u8>,
    /// The extension.
    pub(crate) ext: Vec<u8>,
    /// It stands in `users/cdb`.
    pub(crate) assigned: bool,
}

impl QmailLocal {
    /// The home that `users/cdb` gives an address.
    pub(crate) fn assigned(&self, recipient: &[u8]) -> Result<Option<Home>, Report> {
        let trouble = |error: io::Error| {
            tracing::error!("alert: {error}");
            Report::deferral("Trouble reading users/cdb in qmail-lspawn.\n")
        };
        let found = self.vpopmail.assigned(address::split(recipient).0).map_err(trouble)?;
        Ok(found.map(|Controlled { user, uid, gid, home, dash, ext }| {
            let dir = PathBuf::from(OsStr::from_bytes(&home));
            Home { user, uid, gid, dir, dash, ext, assigned: true }
        }))
    }

    /// The home of an address that has none in `users/cdb`. May wait for the system's accounts.
    pub(crate) fn unassigned(&self, recipient: &[u8]) -> Result<Home, Report> {
        let local = address::split(recipient).0;
        for (name, ext) in account_names(local) {
            let (dash, ext) = match ext {
                Some(ext) => (b"-".to_vec(), ext.to_vec()),
                None => (Vec::new(), Vec::new()),
            };
            let account = |uid, gid, dir| Home {
                user: name.clone().into_bytes(),
                uid,
                gid,
                dir,
                dash: dash.clone(),
                ext: ext.clone(),
                assigned: false,
            };
            if name == ALIAS {
                return Ok(account(0, 0, self.alias.clone()));
            }
            if let Some(user) = account_of(&name)? {
                return Ok(account(user.uid.as_raw(), user.gid.as_raw(), user.dir));
            }
        }
        Ok(Home {
            user: ALIAS.into(),
            uid: 0,
            gid: 0,
            dir: self.alias.clone(),
            dash: b"-".to_vec(),
            ext: local.to_vec(),
            assigned: false,
        })
    }
}

impl Home {
    /// With the rights of the directory's owner where nobody else's are named: users/assign of a host that ran without root
    /// names none, and nobody delivers as root. May wait for the file system.
    pub(crate) fn with_rights(self) -> Result<Self, Report> {
        if self.uid != 0 {
            return Ok(self);
        }
        let owner = fs::metadata(&self.dir).map_err(|error| unable_to_switch(&self.dir, &error))?;
        Ok(Self { uid: owner.uid(), gid: owner.gid(), ..self })
    }
}

pub(super) fn unable_to_switch(home: &std::path::Path, error: &io::Error) -> Report {
    Report::deferral(format!("Unable to switch to {}: {error}. (#4.3.0)\n", home.display()))
}

/// The account of this name, unless it is root's or its home is somebody else's.
fn account_of(name: &str) -> Result<Option<User>, Report> {
    let user = User::from_name(name).map_err(|error| {
        tracing::error!("alert: unable to look up account {name}: {error}");
        Report::deferral("Unable to run qmail-getpw. (#4.3.0)\n")
    })?;
    let Some(user) = user.filter(|user| !user.uid.is_root()) else { return Ok(None) };
    match fs::metadata(&user.dir) {
        Ok(home) => Ok((home.uid() == user.uid.as_raw()).then_some(user)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied => {
                Ok(None)
            }
            _ => Err(Report::deferral("NFS failure in qmail-local.\n")),
        },
    }
}

/// The account names an address may begin with, longest first, and what follows the dash behind them.
fn account_names(local: &[u8]) -> Vec<(String, Option<&[u8]>)> {
    let whole = std::str::from_utf8(local).unwrap_or_default();
    let ends = whole.match_indices('-').map(|(at, _)| at).chain([whole.len()]);
    let names = ends.map(|end| (whole[..end].to_ascii_lowercase(), local.get(end + 1..)));
    let mut names: Vec<_> = names.filter(|(name, _)| !name.is_empty() && name.len() < MAX_ACCOUNT).collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_belong_to_each_account_it_begins_with() {
        let names = |local: &str| -> Vec<(String, Option<String>)> {
            let found = account_names(local.as_bytes()).into_iter();
            found.map(|(name, ext)| (name, ext.map(|ext| String::from_utf8(ext.to_vec()).unwrap()))).collect()
        };
        let pair = |name: &str, ext: Option<&str>| (name.to_owned(), ext.map(str::to_owned));
        assert_eq!(
            names("Bob-List-owner"),
            [pair("bob-list-owner", None), pair("bob-list", Some("owner")), pair("bob", Some("List-owner"))]
        );
        assert_eq!(names("-x"), [pair("-x", None)]);
        assert!(names("").is_empty());
        assert!(names(&"a".repeat(32)).is_empty());
        assert_eq!(account_of("root"), Ok(None), "mail for root is the alias user's");
    }
}
