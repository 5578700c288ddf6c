//! MAIL of an authenticated client: whether the sender is one of its own addresses (`sender: own`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mailtree_config::host::SenderPolicy;
use mailtree_protocols::assign::Controlled;
use mailtree_protocols::auth::vchkpw::Login;
use mailtree_protocols::badlist::log;
use mailtree_protocols::dotqmail::Instruction;
use mailtree_protocols::ownership::{self, Facts, Unavailable};
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::vpasswd::Entry;

use super::{Smtpd, Talk};
use crate::vpopmail::Vpopmail;

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
    /// Whether `login` may send as `sender`.
    pub(super) async fn owns(&self, login: Vec<u8>, sender: Vec<u8>) -> Result<bool, String> {
        if ownership::is_plainly_his(&login, &sender) {
            return Ok(true);
        }
        let asked = login.clone();
        let question =
            move |vpopmail: &Vpopmail| ownership::is_his(&login, &sender, &Files(vpopmail.clone()));
        let found = self.users.ask(&asked, question).await.map_err(|error| error.to_string())?;
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
