//! Which device a path lies on, without touching it: a file system that hangs answers no `stat`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a list of mounts is believed.
const FRESH: Duration = Duration::from_secs(1);

/// The file systems that are mounted (`/proc/self/mountinfo`).
#[derive(Clone, Default)]
pub struct Mounts(Arc<Mutex<Option<Table>>>);

struct Table {
    read: Instant,
    /// Mount points with their devices, the later ones over the earlier ones.
    mounts: Vec<(PathBuf, u64)>,
}

impl Mounts {
    /// The device of the file system that `path`, absolute, is on by its name; symbolic links are not followed. 0 if unknown.
    #[must_use]
    pub fn device(&self, path: &Path) -> u64 {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.as_ref().is_none_or(|table| table.read.elapsed() >= FRESH) {
            // What cannot be read is one device: then that is all that is known.
            let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
            *table = Some(Table { read: Instant::now(), mounts: parse(&text) });
        }
        let mounts = table.as_ref().map(|table| &*table.mounts).unwrap_or_default();
        longest(mounts, path)
    }
}

fn longest(mounts: &[(PathBuf, u64)], path: &Path) -> u64 {
    let over = mounts.iter().filter(|(point, _)| path.starts_with(point));
    // Of equal ones the last, which hides the others.
    over.max_by_key(|(point, _)| point.components().count()).map_or(0, |(_, device)| *device)
}

/// Lines `ID PARENT MAJOR:MINOR ROOT POINT …`, with octal escapes (proc(5)).
fn parse(text: &[u8]) -> Vec<(PathBuf, u64)> {
    let mut mounts = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(device), Some(point)) = (words.nth(2), words.nth(1)) else { continue };
        let Some((major, minor)) = std::str::from_utf8(device).ok().and_then(|word| word.split_once(':'))
        else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        let point = PathBuf::from(OsStr::from_bytes(&unescaped(point)));
        mounts.push((point, rustix::fs::makedev(major, minor)));
    }
    mounts
}

fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_mount_that_is_nearest_above_it() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/a rw\n\
            30 22 8:2 / /home rw - ext4 /dev/b rw\n\
            31 30 0:40 / /home/a\\040b rw shared:1 - nfs x rw\n\
            32 30 8:9 / /home rw - ext4 /dev/c rw\nnonsense\n";
        let mounts = parse(text);
        let device = |path: &str| longest(&mounts, Path::new(path));
        assert_eq!(device("/var/qmail"), rustix::fs::makedev(8, 1));
        assert_eq!(
            device("/home/bob/Maildir"),
            rustix::fs::makedev(8, 9),
            "the later mount hides the earlier"
        );
        assert_eq!(device("/home/a b/Maildir"), rustix::fs::makedev(0, 40));
        assert_eq!(device("/homes"), rustix::fs::makedev(8, 1));
    }

    #[test]
    fn the_machines_own_mounts_are_read() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let device = Mounts::default().device(dir.path());
        let stat = fs::metadata(dir.path()).unwrap().dev();
        // Some file systems number their subvolumes themselves.
        assert!(device == stat || device != 0, "{device} {stat}");
    }
}
