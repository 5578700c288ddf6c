//! MAIL of an authenticated client: whether the sender is one of its own addresses (`sender: own`).

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use mailtree_config::host::SenderPolicy;
use mailtree_protocols::assign::Controlled;
use mailtree_protocols::auth::vchkpw::Login;
use mailtree_protocols::badlist::log;
use mailtree_protocols::dotqmail::Instruction;
use mailtree_protocols::ownership::{self, Facts, Unavailable};
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::vpasswd::Entry;

use super::{Smtpd, Talk};
use crate::pool::Key;
use crate::vpopmail::Vpopmail;

/// A file system that takes longer has not answered.
const DEADLINE: Duration = Duration::from_secs(10);

impl Talk {
    /// The refusal of a sender that is not the authenticated user's.
    pub(super) async fn not_owned(&self, sender: &[u8]) -> Option<Refusal> {
        let user = self.session.user().filter(|_| self.smtpd.sender == SenderPolicy::Own)?;
        let login = login(user, &self.controls.me);
        match self.smtpd.owns(login.clone(), sender.to_vec()).await {
            Ok(true) => None,
            Ok(false) => {
                tracing::info!("{}", log::not_owned(sender, &login, self.client.ip()));
                Some(Refusal::sender_not_owned(&login))
            }
            Err(error) => {
                let name = login.escape_ascii();
                tracing::error!("alert: unable to look up the addresses of {name}: {error}");
                Some(Refusal::sender_unknown())
            }
        }
    }
}

/// The address of who has logged in: as vchkpw reads the name, or as it is if a checkpassword program alone knows it.
pub(super) fn login(user: &[u8], default_domain: &str) -> Vec<u8> {
    Login::parse(user, Some(default_domain.as_bytes()))
        .map_or_else(|_| user.to_ascii_lowercase(), |login| login.address())
}

impl Smtpd {
    /// Whether `login` may send as `sender`. Files are looked into in the pool of delivery threads, as the work of the user
    /// and of the file system that the address is on: what hangs takes its share.
    pub(super) async fn owns(&self, login: Vec<u8>, sender: Vec<u8>) -> Result<bool, String> {
        if ownership::is_plainly_his(&login, &sender) {
            return Ok(true);
        }
        let files = Files(self.users.vpopmail.clone());
        // users/cdb is the host's own file, and in memory.
        let home = files.0.controlled(&login).map_err(|error| error.to_string())?.map(|own| own.home);
        let device = home.map_or(0, |home| self.mounts.device(path(&home)));
        let mut hasher = DefaultHasher::new();
        ("sender", &login).hash(&mut hasher);
        let key = Key { device, person: hasher.finish() };
        let work = move || ownership::is_his(&login, &sender, &files);
        let found = self.pool.run(key, DEADLINE, work).await.map_err(|refused| refused.to_string())?;
        found.map_err(|error| error.to_string())
    }
}

/// The files that the questions about an address are answered from.
struct Files(Vpopmail);

fn unavailable(error: impl std::fmt::Display) -> Unavailable {
    Unavailable(error.to_string())
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl Facts for Files {
    fn controlled(&self, address: &[u8]) -> Result<Option<Controlled>, Unavailable> {
        self.0.controlled(address).map_err(unavailable)
    }

    fn instructions(&self, home: &[u8], file: &[u8]) -> Result<Option<Vec<Instruction>>, Unavailable> {
        self.0.instructions(path(home), file).map_err(unavailable)
    }

    fn user(&self, home: &[u8], name: &[u8]) -> Result<Option<Entry>, Unavailable> {
        self.0.user_at(path(home), name).map_err(unavailable)
    }
}
