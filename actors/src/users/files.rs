//! Questions about users whose answers lie on file systems that may hang.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use mailtree_protocols::address;

use super::Users;
use crate::pool::{Key, Refused};
use crate::vpopmail::Vpopmail;

/// A file system that takes longer has not answered.
const DEADLINE: Duration = Duration::from_secs(10);

impl Users {
    /// Has a question about an address answered, under the share of whom it belongs to and of the file system that his files are
    /// on.
    ///
    /// # Errors
    /// When users/cdb cannot be read, or the file system does not answer.
    pub async fn ask<T: Send + 'static>(
        &self,
        address: &[u8],
        question: impl FnOnce(&Vpopmail) -> T + Send + 'static,
    ) -> io::Result<T> {
        let key = self.key(address)?;
        let vpopmail = self.vpopmail.clone();
        let silent = |refused: Refused| io::Error::new(io::ErrorKind::TimedOut, refused);
        self.pool.run(key, DEADLINE, move || question(&vpopmail)).await.map_err(silent)
    }

    /// users/cdb is the host's own file, and in memory. `bob-list` is bob's.
    fn key(&self, address: &[u8]) -> io::Result<Key> {
        let home = self.vpopmail.controlled(address)?.map(|controlled| controlled.home).unwrap_or_default();
        let local = address::split(address).0.to_ascii_lowercase();
        let mut hasher = DefaultHasher::new();
        (&home, local.split(|byte| *byte == b'-').next()).hash(&mut hasher);
        let device = self.mounts.device(Path::new(OsStr::from_bytes(&home)));
        Ok(Key { device, person: hasher.finish() })
    }
}
