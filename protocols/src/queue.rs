//! The queue: where a message lives, from the promise to the last delivery (qmail's INTERNALS, and the journal in front).
//!
//! A message is in the journal or in qmail's files, never in neither:
//!
//! | state | where                                              | meaning                     | after a restart          |
//! |-------|----------------------------------------------------|-----------------------------|--------------------------|
//! | S1    | nowhere                                            | no message                  | -                        |
//! | J     | journal: Accept without Written or Ended           | accepted, being delivered   | replayed: delivered to who is left |
//! | JW    | journal as J, and some of the files of S4 or S5    | being written out           | as J; the files are written again |
//! | S2    | `mess`                                             | being received, or finished | removed                  |
//! | S3    | `mess` `intd`                                      | being received              | removed                  |
//! | S4    | `mess` `todo`, maybe `intd info local remote`      | accepted                    | delivered to everybody   |
//! | S5    | `mess` `info`, maybe `local remote bounce`         | accepted, somebody is left  | delivered to who is left |
//!
//! `250` is given in J, when the batch that holds the message is durable, or in S4, when every file of it and its directory
//! entry are. From J a message goes to S1 (Ended), or after some seconds to S5 (Written); from S4 to S1 when its one
//! recipient is done at the first attempt, otherwise to S5. In J its number is the inode of a file in `pid/` that this host
//! made; when the message is written out it is that file that becomes `mess`. A file without its `mess` belongs to no
//! state; of those only `intd` is removed, the others are kept and named in the log for the administrator.

use std::fmt;

/// Number of subdirectories of `mess`, `info`, `local` and `remote` where nobody chose another (conf-split).
pub const SPLIT: u64 = 23;

/// More subdirectories than any qmail was built with.
pub const MAX_SPLIT: u64 = 10_000;

/// An unfinished message (S2, S3) this old is garbage even while the host runs, in seconds. Must be above [`DEATH`].
pub const OSSIFIED: u64 = 129_600;

/// No message may take longer than this to be received, in seconds. Must be below [`OSSIFIED`].
pub const DEATH: u64 = 86_400;

/// Number of a message: the inode number of its `mess` file, which no other message can have at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MessageId {
    /// The id in a file name of the queue, if it is one: decimal, no sign, no leading zero.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let plain = name.bytes().all(|b| b.is_ascii_digit()) && !name.starts_with('0');
        if plain { name.parse().ok().map(Self) } else { None }
    }
}

/// A directory of the queue that holds a file per message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dir {
    /// The message itself.
    Mess,
    /// The envelope while it is being written.
    Intd,
    /// The envelope of a message not yet preprocessed.
    Todo,
    /// The reverse-path of a preprocessed message; its mtime is the message's birth.
    Info,
    /// Recipients on the local channel.
    Local,
    /// Recipients on the remote channel.
    Remote,
    /// What the bounce will say.
    Bounce,
}

impl Dir {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Mess, Self::Intd, Self::Todo, Self::Info, Self::Local, Self::Remote, Self::Bounce];

    /// Its name below `queue/`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mess => "mess",
            Self::Intd => "intd",
            Self::Todo => "todo",
            Self::Info => "info",
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Bounce => "bounce",
        }
    }

    /// The mode of a file here (qmail-queue, qmail-send).
    #[must_use]
    pub fn mode(self) -> u32 {
        match self {
            Self::Mess | Self::Intd | Self::Todo => 0o644,
            Self::Info | Self::Local | Self::Remote | Self::Bounce => 0o600,
        }
    }
}

/// How the directories of a queue are divided: conf-split, and the big-todo patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Number of subdirectories, `0` to `split - 1`; a file is in the one of its number modulo `split`.
    pub split: u64,
    /// Whether `todo` and `intd` are divided too.
    pub big_todo: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Self { split: SPLIT, big_todo: false }
    }
}

/// Directories that are no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {found}; allowed: {allowed}", .dir.name())]
pub struct BadLayout {
    /// The directory that does not fit.
    pub dir: Dir,
    /// What is there.
    pub found: String,
    /// What would fit.
    pub allowed: String,
}

impl Layout {
    /// The layout of the directories whose subdirectories with numbers for names are `numbers(dir)`, and whether there are
    /// messages directly in the directory, `flat(dir)`.
    ///
    /// # Errors
    /// [`BadLayout`] when they are neither qmail's nor big-todo's.
    pub fn of(numbers: impl Fn(Dir) -> Vec<u64>, flat: impl Fn(Dir) -> bool) -> Result<Self, BadLayout> {
        let counted = |dir: Dir| {
            let mut found = numbers(dir);
            found.sort_unstable();
            let count = found.len() as u64;
            let whole = found.iter().copied().eq(0..count);
            if whole && count <= MAX_SPLIT {
                return Ok(count);
            }
            let missing = (0..).find(|n| found.binary_search(n).is_err()).unwrap_or_default();
            Err(BadLayout {
                dir,
                found: format!("{count} subdirectories, but no {missing}"),
                allowed: format!("0 to N-1 without a gap, N at most {MAX_SPLIT}"),
            })
        };
        let split = counted(Dir::Mess)?;
        let as_many = |dir: Dir, count: u64| BadLayout {
            dir,
            found: format!("{count} subdirectories"),
            allowed: match dir {
                Dir::Mess => format!("1 to {MAX_SPLIT}"),
                Dir::Todo => format!("none, or {split} as in mess"),
                Dir::Intd => "as many as in todo".to_owned(),
                Dir::Info | Dir::Local | Dir::Remote => format!("{split} as in mess"),
                Dir::Bounce => "none".to_owned(),
            },
        };
        if split == 0 {
            return Err(as_many(Dir::Mess, 0));
        }
        for dir in [Dir::Info, Dir::Local, Dir::Remote] {
            let count = counted(dir)?;
            if count != split {
                return Err(as_many(dir, count));
            }
        }
        let (todo, intd, bounce) = (counted(Dir::Todo)?, counted(Dir::Intd)?, counted(Dir::Bounce)?);
        if todo != 0 && todo != split {
            return Err(as_many(Dir::Todo, todo));
        }
        if intd != todo {
            return Err(as_many(Dir::Intd, intd));
        }
        if bounce != 0 {
            return Err(as_many(Dir::Bounce, bounce));
        }
        let layout = Self { split, big_todo: todo != 0 };
        for dir in Dir::ALL.into_iter().filter(|dir| layout.is_split(*dir)) {
            if flat(dir) {
                return Err(BadLayout {
                    dir,
                    found: format!("messages beside its {split} subdirectories"),
                    allowed: "messages in the subdirectories alone".to_owned(),
                });
            }
        }
        Ok(layout)
    }

    /// Whether files of `dir` live in subdirectories.
    #[must_use]
    pub fn is_split(self, dir: Dir) -> bool {
        match dir {
            Dir::Mess | Dir::Info | Dir::Local | Dir::Remote => true,
            Dir::Intd | Dir::Todo => self.big_todo,
            Dir::Bounce => false,
        }
    }

    /// The directories, relative to `queue/`, that hold the files of `dir`.
    #[must_use]
    pub fn directories(self, dir: Dir) -> Vec<String> {
        let name = dir.name();
        if self.is_split(dir) {
            (0..self.split).map(|n| format!("{name}/{n}")).collect()
        } else {
            vec![name.to_owned()]
        }
    }

    /// Path of message `id`'s file in `dir`, relative to `queue/`.
    #[must_use]
    pub fn file(self, dir: Dir, id: MessageId) -> String {
        let name = dir.name();
        if self.is_split(dir) { format!("{name}/{}/{id}", id.0 % self.split) } else { format!("{name}/{id}") }
    }
}

/// The two ways out of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// To this host: qmail-lspawn.
    Local,
    /// To other hosts: qmail-rspawn.
    Remote,
}

impl Channel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Local, Self::Remote];

    /// Where its recipients are listed.
    #[must_use]
    pub fn dir(self) -> Dir {
        match self {
            Self::Local => Dir::Local,
            Self::Remote => Dir::Remote,
        }
    }

    /// `local` or `remote`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.dir().name()
    }
}

/// Which files of one message exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct Files {
    pub mess: bool,
    pub intd: bool,
    pub todo: bool,
    pub info: bool,
    pub local: bool,
    pub remote: bool,
    pub bounce: bool,
}

/// The state of a message, from the files that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// S1: no message.
    None,
    /// S2 or S3: not accepted, or finished. Nobody was promised anything.
    Unfinished,
    /// S4: accepted.
    Queued,
    /// S5: preprocessed.
    Preprocessed,
    /// Only `intd`: the rest of a removal.
    Leftover,
    /// Files that no step of the protocol leaves behind; not touched.
    Foreign,
}

impl Files {
    /// Which state this is.
    #[must_use]
    pub fn state(self) -> State {
        let delivery = self.local || self.remote || self.bounce;
        match (self.mess, self.todo, self.info) {
            (true, true, _) => State::Queued,
            (true, false, true) => State::Preprocessed,
            (true, false, false) if delivery => State::Foreign,
            (true, false, false) => State::Unfinished,
            (false, false, false) if delivery => State::Foreign,
            (false, false, false) if self.intd => State::Leftover,
            (false, false, false) => State::None,
            (false, ..) => State::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &str) -> Files {
        let has = |name| names.split(' ').any(|n| n == name);
        Files {
            mess: has("mess"),
            intd: has("intd"),
            todo: has("todo"),
            info: has("info"),
            local: has("local"),
            remote: has("remote"),
            bounce: has("bounce"),
        }
    }

    #[test]
    fn every_state_of_the_table_is_recognised() {
        for (names, state) in [
            ("", State::None),
            ("mess", State::Unfinished),
            ("mess intd", State::Unfinished),
            ("mess todo", State::Queued),
            ("mess todo intd", State::Queued),
            ("mess todo info local remote", State::Queued),
            ("mess info", State::Preprocessed),
            ("mess info local", State::Preprocessed),
            ("mess info remote bounce", State::Preprocessed),
            ("intd", State::Leftover),
            ("todo", State::Foreign),
            ("info local", State::Foreign),
            ("mess local", State::Foreign),
            ("bounce", State::Foreign),
        ] {
            assert_eq!(files(names).state(), state, "{names:?}");
        }
    }

    #[test]
    fn files_are_where_qmail_puts_them() {
        let id = MessageId(928_119);
        let layout = Layout::default();
        assert_eq!(layout.file(Dir::Mess, id), "mess/0/928119");
        assert_eq!(layout.file(Dir::Todo, id), "todo/928119");
        let big = Layout { split: 7, big_todo: true };
        assert_eq!(big.file(Dir::Todo, id), format!("todo/{}/928119", 928_119 % 7));
        assert_eq!(big.file(Dir::Bounce, id), "bounce/928119");
        assert_eq!(MessageId::parse("928119"), Some(id));
        for bad in ["", "0", "01", "+1", "-1", "1a", "99999999999999999999999"] {
            assert_eq!(MessageId::parse(bad), None, "{bad:?}");
        }
    }

    fn layout(subdirectories: &[(Dir, u64)]) -> Result<Layout, String> {
        let numbers = |dir| {
            let found = subdirectories.iter().find(|(of, _)| *of == dir).map_or(0, |(_, count)| *count);
            (0..found).rev().collect()
        };
        Layout::of(numbers, |_| false).map_err(|bad| bad.to_string())
    }

    #[test]
    fn the_layout_is_taken_from_the_directories() {
        use Dir::{Bounce, Info, Intd, Local, Mess, Remote, Todo};
        let four = |n| [(Mess, n), (Info, n), (Local, n), (Remote, n)];
        assert_eq!(layout(&four(23)), Ok(Layout::default()));
        assert_eq!(layout(&four(1)), Ok(Layout { split: 1, big_todo: false }));
        let big = [&four(7)[..], &[(Todo, 7), (Intd, 7)]].concat();
        assert_eq!(layout(&big), Ok(Layout { split: 7, big_todo: true }));
        for (odd, named) in [
            (vec![], "mess: 0 subdirectories; allowed: 1 to 10000"),
            (vec![(Mess, 23), (Info, 7)], "info: 7 subdirectories; allowed: 23 as in mess"),
            (
                [&four(23)[..], &[(Todo, 7)]].concat(),
                "todo: 7 subdirectories; allowed: none, or 23 as in mess",
            ),
            ([&four(23)[..], &[(Todo, 23)]].concat(), "intd: 0 subdirectories; allowed: as many as in todo"),
            ([&four(23)[..], &[(Bounce, 23)]].concat(), "bounce: 23 subdirectories; allowed: none"),
        ] {
            assert_eq!(layout(&odd), Err(named.to_owned()));
        }
        let gap = Layout::of(|_| vec![0, 1, 3], |_| false).unwrap_err().to_string();
        assert_eq!(gap, "mess: 3 subdirectories, but no 2; allowed: 0 to N-1 without a gap, N at most 10000");
        let beside = Layout::of(|dir| (0..23 * u64::from(dir != Bounce)).collect(), |dir| dir == Todo);
        assert_eq!(beside.unwrap_err().dir, Todo);
    }
}
