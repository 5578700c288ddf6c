//! Whether a host that runs as another user than root may read its files, when root asks.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, getgrouplist};

/// Files that are looked at.
const MAX_FILES: usize = 10_000;

/// Directories below those that are named.
const DEPTH: usize = 2;

/// Whom the host runs as.
struct Reader {
    user: User,
    groups: Vec<u32>,
}

impl Reader {
    /// The owner of the home, unless he is root or whoever asks is not.
    fn of(home: &Path) -> Option<Self> {
        let uid = fs::metadata(home).ok()?.uid();
        if uid == 0 || !rustix::process::geteuid().is_root() {
            return None;
        }
        let user = User::from_uid(Uid::from_raw(uid)).ok()??;
        let name = CString::new(user.name.as_str()).ok()?;
        let groups = getgrouplist(&name, user.gid).unwrap_or_default();
        Some(Self { groups: groups.into_iter().map(Gid::as_raw).collect(), user })
    }

    /// Access lists are not asked.
    fn may(&self, metadata: &Metadata, bit: u32) -> bool {
        let shift = if metadata.uid() == self.user.uid.as_raw() {
            6
        } else if self.groups.contains(&metadata.gid()) {
            3
        } else {
            0
        };
        metadata.mode() >> shift & bit == bit
    }

    fn look(&self, path: &Path, depth: usize, left: &mut usize, found: &mut Vec<(PathBuf, String)>) {
        // What cannot be read by root either is named where it is read.
        let Ok(metadata) = fs::metadata(path) else { return };
        if *left == 0 || !(metadata.is_file() || metadata.is_dir()) {
            return;
        }
        *left -= 1;
        if !self.may(&metadata, if metadata.is_dir() { 5 } else { 4 }) || !self.reaches(path) {
            let (name, owner) = (&self.user.name, metadata.uid());
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

    /// Whether the way to what a link leads to is open.
    fn reaches(&self, path: &Path) -> bool {
        let real: io::Result<PathBuf> = path.canonicalize();
        real.is_ok_and(|real| {
            real.ancestors().skip(1).all(|dir| fs::metadata(dir).is_ok_and(|metadata| self.may(&metadata, 1)))
        })
    }
}

/// Files and directories at and below `paths` that the host may not read, and why.
pub(super) fn unreadable(home: &Path, paths: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    if let Some(reader) = Reader::of(home) {
        let mut left = MAX_FILES;
        paths.iter().for_each(|path| reader.look(path, DEPTH, &mut left, &mut found));
    }
    found
}
