//! Whether a host that runs as another user than root may read its files, when root asks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mailtree_config::Host;

use crate::account::Account;

/// Files that are looked at.
const MAX_FILES: usize = 10_000;

/// Directories below those that are named.
const DEPTH: usize = 2;

/// Whom the host runs as.
struct Reader(Account);

impl Reader {
    /// Who is to run it, unless he is root or whoever asks is not.
    fn of(host: &Host) -> Option<Self> {
        Account::of_host(host).ok()?.map(Self)
    }

    fn look(&self, path: &Path, depth: usize, left: &mut usize, found: &mut Vec<(PathBuf, String)>) {
        // What cannot be read by root either is named where it is read.
        let Ok(metadata) = fs::metadata(path) else { return };
        // Locks are for those who write.
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        if *left == 0 || is_lock || !(metadata.is_file() || metadata.is_dir()) {
            return;
        }
        *left -= 1;
        if !self.0.may(&metadata, if metadata.is_dir() { 5 } else { 4 }) || !self.0.reaches(path) {
            let (name, owner) = (&self.0.name, metadata.uid());
            let text = format!(
                "{name}, whom the host runs as, may not read it: mode {:o}, owner {owner}",
                metadata.mode() & 0o7777
            );
            found.push((path.to_owned(), text));
        } else if metadata.is_dir() && depth > 0 {
            let Ok(entries) = fs::read_dir(path) else { return };
            for entry in entries.flatten() {
                self.look(&entry.path(), depth - 1, left, found);
            }
        }
    }
}

/// Files and directories at and below `paths` that the host may not read, and why.
pub(super) fn unreadable(host: &Host, paths: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    if let Some(reader) = Reader::of(host) {
        let mut left = MAX_FILES;
        paths.iter().for_each(|path| reader.look(path, DEPTH, &mut left, &mut found));
    }
    found
}
