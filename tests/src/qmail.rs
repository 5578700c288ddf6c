//! A queue as qmail's own programs make and fill it, by hand: any split, with or without big-todo.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

/// The directories that hold a file per message.
pub const KINDS: [&str; 7] = ["mess", "intd", "todo", "info", "local", "remote", "bounce"];

/// What `conf-split` and the big-todo patch make of a queue's directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Subdirectories of `mess`, `info`, `local` and `remote`.
    pub split: u64,
    /// Whether `todo` and `intd` have them, too.
    pub big_todo: bool,
}

impl Layout {
    /// As qmail comes.
    pub const QMAIL: Self = Self { split: 23, big_todo: false };
    /// With the big-todo patch.
    pub const BIG_TODO: Self = Self { split: 23, big_todo: true };

    /// A qmail built with another `conf-split`.
    pub fn split(split: u64) -> Self {
        Self { split, big_todo: false }
    }

    /// Whether a directory has subdirectories.
    pub fn splits(self, kind: &str) -> bool {
        match kind {
            "mess" | "info" | "local" | "remote" => true,
            "todo" | "intd" => self.big_todo,
            _ => false,
        }
    }
}

/// A queue's directory.
#[derive(Debug, Clone)]
pub struct Queue {
    path: PathBuf,
    layout: Layout,
}

impl Queue {
    /// The queue at `path`, which is there already.
    pub fn at(path: impl Into<PathBuf>, layout: Layout) -> Self {
        Self { path: path.into(), layout }
    }

    /// Makes what qmail's `make setup` makes.
    pub fn make(path: impl Into<PathBuf>, layout: Layout) -> Self {
        let queue = Self::at(path, layout);
        for kind in KINDS.into_iter().chain(["pid", "lock"]) {
            fs::create_dir_all(queue.path.join(kind)).unwrap();
            if layout.splits(kind) {
                for number in 0..layout.split {
                    fs::create_dir(queue.path.join(kind).join(number.to_string())).unwrap();
                }
            }
        }
        fs::write(queue.path.join("lock/sendmutex"), "").unwrap();
        fs::write(queue.path.join("lock/tcpto"), [0; 1024]).unwrap();
        fifo(&queue.path.join("lock/trigger"), 0o622);
        queue
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of message `id` lies.
    pub fn file(&self, kind: &str, id: u64) -> PathBuf {
        self.path.join(self.short(kind, id))
    }

    /// The same below the queue, as qmail's log has it.
    pub fn short(&self, kind: &str, id: u64) -> String {
        match self.layout.splits(kind) {
            true => format!("{kind}/{}/{id}", id % self.layout.split),
            false => format!("{kind}/{id}"),
        }
    }

    /// A message as qmail-queue leaves it: its number is its inode, and `intd` and `todo` are two names of one file.
    pub fn inject(&self, text: &str, from: &str, to: &[&str]) -> u64 {
        let id = self.mess(text);
        let envelope = envelope(from, to);
        write(&self.file("intd", id), envelope.as_bytes(), 0o644);
        fs::hard_link(self.file("intd", id), self.file("todo", id)).unwrap();
        id
    }

    /// A message as qmail-send leaves it when it has preprocessed it. Local addresses are those of
    /// `virtualdomains`: `mx.test-bob@mx.test`.
    pub fn preprocessed(&self, text: &str, from: &str, local: &[&str], remote: &[&str]) -> u64 {
        let id = self.mess(text);
        write(&self.file("info", id), format!("F{from}\0").as_bytes(), 0o600);
        for (kind, to) in [("local", local), ("remote", remote)] {
            if !to.is_empty() {
                let records: Vec<_> = to.iter().map(|mailbox| format!("T{mailbox}\0")).collect();
                write(&self.file(kind, id), records.concat().as_bytes(), 0o600);
            }
        }
        id
    }

    /// The file `mess` alone, with its own inode number for a name.
    pub fn mess(&self, text: &str) -> u64 {
        let fresh = self.path.join("pid/by-hand");
        write(&fresh, text.as_bytes(), 0o644);
        let id = fs::metadata(&fresh).unwrap().ino();
        fs::rename(&fresh, self.file("mess", id)).unwrap();
        id
    }

    /// Every file of messages, with its kind.
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let mut files = Vec::new();
        for kind in KINDS {
            collect(&self.path.join(kind), &mut |path, is_dir| {
                if !is_dir {
                    files.push((kind, path.to_owned()));
                }
            });
        }
        files
    }

    /// The directories of messages: the layout as it is on disk.
    pub fn directories(&self) -> Vec<PathBuf> {
        let mut directories = Vec::new();
        for kind in KINDS {
            collect(&self.path.join(kind), &mut |path, is_dir| {
                if is_dir {
                    directories.push(path.to_owned());
                }
            });
        }
        directories.sort();
        directories
    }

    /// Files of messages that do not lie where the layout has them.
    pub fn misplaced(&self) -> Vec<PathBuf> {
        let in_place = |(kind, path): &(&str, PathBuf)| {
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            id.is_some_and(|id| *path == self.file(kind, id))
        };
        self.files().into_iter().filter(|file| !in_place(file)).map(|(_, path)| path).collect()
    }

    /// The names that a file has in the queue.
    pub fn names_of(&self, inode: u64) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.path, &mut |path, is_dir| {
            if !is_dir && fs::symlink_metadata(path).is_ok_and(|data| data.ino() == inode) {
                found.push(path.to_owned());
            }
        });
        found
    }
}

/// An envelope as qmail-queue writes it.
pub fn envelope(from: &str, to: &[&str]) -> String {
    let recipients: Vec<_> = to.iter().map(|mailbox| format!("T{mailbox}\0")).collect();
    format!("u1\0p2\0F{from}\0{}", recipients.concat())
}

/// A file with this content and these modes.
pub fn write(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A named pipe with these modes.
pub fn fifo(path: &Path, mode: u32) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(mode), 0).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Shows everything below a directory that is there; what goes away meanwhile is passed over.
fn collect(dir: &Path, see: &mut dyn FnMut(&Path, bool)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        see(&entry.path(), is_dir);
        if is_dir {
            collect(&entry.path(), see);
        }
    }
}
