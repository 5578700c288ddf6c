//! Reading a Maildir as a mail client does: only `new/`, and never a file that is still in `tmp/`.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::letter;
use crate::wait::wait_for;

/// One Maildir.
#[derive(Debug, Clone)]
pub struct Maildir(PathBuf);

impl Maildir {
    /// The Maildir at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// How many messages are in `new/`.
    pub fn count(&self) -> usize {
        fs::read_dir(self.0.join("new")).map_or(0, Iterator::count)
    }

    /// How many files are in `tmp/`.
    pub fn unfinished(&self) -> usize {
        fs::read_dir(self.0.join("tmp")).map_or(0, Iterator::count)
    }

    /// All messages in `new/`, in the order of the times in their names: files made soon after one another have the same mtime.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.0.join("new")) else { return Vec::new() };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort_by_cached_key(|path| (accepted(path), path.clone()));
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// All messages as text.
    pub fn texts(&self) -> Vec<String> {
        self.messages().iter().map(|message| String::from_utf8_lossy(message).into_owned()).collect()
    }

    /// Waits until there are `count` messages, and fails if there are more.
    pub fn wait(&self, count: usize, limit: Duration) -> Vec<String> {
        let found = || (self.count() >= count).then(|| self.texts());
        let texts = wait_for(&format!("{count} messages in {}", self.0.display()), limit, found);
        assert_eq!(texts.len(), count, "messages in {}: {texts:#?}", self.0.display());
        texts
    }
}

/// Makes the three directories of a Maildir, for whoever runs the host.
pub fn make(path: &Path) {
    for name in ["tmp", "new", "cur"] {
        fs::create_dir_all(path.join(name)).unwrap();
        open_to_all(&path.join(name));
    }
    open_to_all(path);
}

/// Lets everybody write in a directory: what a test makes as root, a host or a program works in that is not.
pub fn open_to_all(path: &Path) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
}

/// Seconds and microseconds in a name like `1795806242.M903579P2007Q0.mx.test`.
fn accepted(path: &Path) -> (u64, u64) {
    let name = path.file_name().unwrap().to_str().unwrap_or_default();
    let number = |text: &str| -> u64 {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        text[..digits].parse().unwrap_or(0)
    };
    let micros = name.split_once(".M").map_or(0, |(_, rest)| number(rest));
    (number(name), micros)
}

/// Looks at a Maildir again and again while letters come in, and reads each file once.
pub struct Arrivals {
    maildir: Maildir,
    seen: HashSet<OsString>,
    /// How often each letter has arrived.
    pub copies: std::collections::BTreeMap<String, usize>,
}

impl Arrivals {
    /// What arrives in `maildir`, also what is there already.
    pub fn new(maildir: Maildir) -> Self {
        Self { maildir, seen: HashSet::new(), copies: Default::default() }
    }

    /// Reads the files that are new since the last look; fails at a letter that is not whole.
    pub fn look(&mut self) {
        self.look_into("new", |path, cause| panic!("{}: {cause}", path.display()));
    }

    /// The same after a power cut: what is torn is looked at again the next time, for it is to be made whole when it is
    /// delivered again.
    pub fn look_after_power_cut(&mut self) {
        self.look_into("new", |_, _| ());
    }

    /// Reads everything in `new/` and `cur/`, for a Maildir whose owner has moved messages meanwhile.
    pub fn look_everywhere(&mut self) {
        for name in ["new", "cur"] {
            self.look_into(name, |path, cause| panic!("{}: {cause}", path.display()));
        }
    }

    fn look_into(&mut self, name: &str, torn: impl Fn(&Path, String)) {
        let Ok(entries) = fs::read_dir(self.maildir.path().join(name)) else { return };
        for entry in entries {
            let entry = entry.unwrap();
            if !self.seen.contains(&entry.file_name()) {
                let message = fs::read(entry.path()).unwrap();
                match letter::read(&message) {
                    Ok(name) => {
                        self.seen.insert(entry.file_name());
                        *self.copies.entry(name).or_default() += 1;
                    }
                    Err(cause) => torn(&entry.path(), cause),
                }
            }
        }
    }

    /// Those that have arrived more than once, but for the `doubtful`.
    pub fn doubles(&self, doubtful: &BTreeSet<String>) -> Vec<(&String, usize)> {
        let copies = self.copies.iter().map(|(name, copies)| (name, *copies));
        copies.filter(|(name, copies)| *copies > 1 && !doubtful.contains(*name)).collect()
    }

    /// Those of `names` that have not arrived.
    pub fn missing<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
        names.into_iter().filter(|name| !self.copies.contains_key(*name)).collect()
    }
}
