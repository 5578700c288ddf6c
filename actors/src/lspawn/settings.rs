//! What the spawner is told at its start, and never again: nobody who has taken over the host can change it.

use std::path::PathBuf;
use std::sync::Arc;

use mailtree_config::control::Control;
use serde::{Deserialize, Serialize};

use super::queue_rights::QueueRights;
use crate::cdb_files::CdbFiles;
use crate::qmail_local::{Limits, QmailLocal};
use crate::vpopmail::Vpopmail;

/// What the spawner is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// qmail's control files.
    pub control: PathBuf,
    /// Who has which addresses.
    pub users_cdb: PathBuf,
    /// vpopmail's domains.
    pub domains: PathBuf,
    /// Home of user alias.
    pub alias: PathBuf,
    /// What is done without a `.qmail` file or with an empty one.
    pub defaultdelivery: String,
    /// Name of this host.
    pub me: String,
    /// The user who runs the host: whoever has taken it over can change what this user can.
    pub host: u32,
    /// A queue that is others'.
    pub queue: QueueRights,
    /// What programs may use.
    pub limits: Limits,
}

impl Settings {
    /// For one delivery.
    pub(super) fn qmail_local(&self) -> QmailLocal {
        let Self { control, users_cdb, domains, alias, defaultdelivery, me, .. } = self.clone();
        let control = Arc::new(Control::new(control));
        QmailLocal {
            vpopmail: Vpopmail::new(control, CdbFiles::default(), users_cdb, alias.clone()),
            domains,
            alias,
            defaultdelivery,
            me,
        }
    }
}
