//! Removing what nobody finished.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mailtree_protocols::queue::{Dir, MessageId, OSSIFIED, State};

use super::spare::Spare;
use super::{Disk, absent_is_fine};

impl Disk {
    /// Removes unfinished messages (S2, S3) and files in `pid/` at least `age` old; with age zero only while nothing is
    /// being received. What is `in_use`, messages and spare numbers of the journal, stays. Returns how many messages and
    /// other files went.
    ///
    /// # Errors
    /// When a directory cannot be read or a file cannot be removed.
    pub(in super::super) fn sweep(
        &self,
        age: Duration,
        in_use: &(HashSet<MessageId>, HashSet<u64>),
    ) -> io::Result<u64> {
        let now = SystemTime::now();
        let old = |path: &Path| match fs::symlink_metadata(path) {
            Ok(meta) => Ok(meta.is_file() && now.duration_since(meta.modified()?).unwrap_or_default() >= age),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        let (ids, spares) = in_use;
        let mut removed = 0;
        for entry in fs::read_dir(self.root.join("pid"))? {
            let entry = entry?;
            let path = entry.path();
            let spare = entry.file_name().to_str().and_then(Spare::parse);
            if spare.is_some_and(|number| spares.contains(&number)) || !old(&path)? {
                continue;
            }
            absent_is_fine(fs::remove_file(&path))?;
            // Numbers that no message had are nothing that anybody misses.
            removed += u64::from(spare.is_none());
        }
        let accepted = self.accepted_anywhere()?;
        for id in self.ids(Dir::Mess)? {
            if accepted.contains(&id) {
                continue;
            }
            if !ids.contains(&id) && old(&self.mess(id))? && self.files(id)?.state() == State::Unfinished {
                self.unlink(Dir::Intd, id)?;
                self.unlink(Dir::Mess, id)?;
                removed += 1;
            }
        }
        for id in self.ids(Dir::Intd)? {
            if old(&self.path(Dir::Intd, id))? && self.files(id)?.state() == State::Leftover {
                self.unlink(Dir::Intd, id)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Every number that a file of an accepted message has, wherever it lies: a queue that was half converted to another layout
    /// has some where this host would not look.
    fn accepted_anywhere(&self) -> io::Result<HashSet<MessageId>> {
        let mut found = HashSet::new();
        for dir in [Dir::Todo, Dir::Info, Dir::Local, Dir::Remote, Dir::Bounce] {
            for entry in fs::read_dir(self.root.join(dir.name()))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    for below in fs::read_dir(entry.path())? {
                        found.extend(below?.file_name().to_str().and_then(MessageId::parse));
                    }
                } else {
                    found.extend(entry.file_name().to_str().and_then(MessageId::parse));
                }
            }
        }
        Ok(found)
    }

    /// Sweeps what is too old to be in use by anybody else.
    ///
    /// # Errors
    /// As [`Disk::sweep`].
    pub(in super::super) fn sweep_ossified(
        &self,
        in_use: &(HashSet<MessageId>, HashSet<u64>),
    ) -> io::Result<u64> {
        self.sweep(Duration::from_secs(OSSIFIED), in_use)
    }
}
