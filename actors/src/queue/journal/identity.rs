//! `journal.id` in the home: which journal belongs to this host, and how far it has come.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mailtree_config::regular;

/// Longer than any such file, in bytes.
const MAX: u64 = 4096;

/// What a journal must be to be this host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) struct Identity {
    /// Its name; none: this host has no journal yet.
    pub(in crate::queue) journal: Option<[u8; 16]>,
    /// A generation that was begun; 0: none, or the journal was emptied.
    pub(in crate::queue) newest: u64,
    /// Which life of the machine this is.
    pub(in crate::queue) boot: [u8; 16],
}

impl Identity {
    /// What the file at `path` says. Without a file there is no journal yet.
    pub(in crate::queue) fn read(path: &Path) -> io::Result<Self> {
        let boot = boot()?;
        let Some(file) = regular::open(path)? else {
            return Ok(Self { journal: None, newest: 0, boot });
        };
        let mut text = String::new();
        file.take(MAX).read_to_string(&mut text)?;
        let bad = || {
            io::Error::other(format!("{}: not a journal.id; allowed: journal HEX, newest N", path.display()))
        };
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).ok_or_else(bad)
        };
        let journal = Some(unhex(field("journal")?).ok_or_else(bad)?);
        let newest = field("newest")?.parse().map_err(|_| bad())?;
        Ok(Self { journal, newest, boot })
    }

    /// Says durably that generation `newest` of `journal` is begun, or with 0 that the journal is empty.
    pub(in crate::queue) fn note(path: &Path, journal: [u8; 16], newest: u64) -> io::Result<()> {
        let hex = hex(journal);
        let new = path.with_extension("id.new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = regular::open_as(&mut options, &new)?;
        write!(file, "journal {hex}\nnewest {newest}\n")?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// As it stands in `journal.id`.
pub(super) fn hex(journal: [u8; 16]) -> String {
    journal.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (nth, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * nth..2 * nth + 2], 16).ok()?;
    }
    Some(bytes)
}

/// `/proc/sys/kernel/random/boot_id`.
fn boot() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    unhex(&digits).ok_or_else(|| io::Error::other("boot_id is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.id");
        let none = Identity::read(&path).unwrap();
        assert_eq!((none.journal, none.newest), (None, 0));
        Identity::note(&path, [0xab; 16], 17).unwrap();
        let read = Identity::read(&path).unwrap();
        assert_eq!((read.journal, read.newest, read.boot), (Some([0xab; 16]), 17, none.boot));
        for bad in ["", "journal abc\nnewest 1\n", "journal 00\nnewest x\n"] {
            fs::write(&path, bad).unwrap();
            let said = Identity::read(&path).unwrap_err().to_string();
            assert!(said.contains("journal.id") && said.contains("allowed: "), "{said}");
        }
    }
}
