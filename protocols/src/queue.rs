//! The on-disk queue: names, states, and what a restart does with what it finds (qmail's INTERNALS, conf-split 23).
//!
//! | state | files                                          | meaning                     | after a restart          |
//! |-------|------------------------------------------------|-----------------------------|--------------------------|
//! | S1    | none                                           | no message                  | -                        |
//! | S2    | `mess`                                         | being received, or finished | removed                  |
//! | S3    | `mess` `intd`                                  | being received              | removed                  |
//! | S4    | `mess` `todo`, maybe `intd info local remote`  | queued                      | preprocessed again       |
//! | S5    | `mess` `info`, maybe `local remote bounce`     | preprocessed                | delivered to who is left |
//!
//! `250` is given in S4, once every file of it and its directory entry are durable. A file without its `mess` belongs
//! to no state; of those only `intd` is removed, the others are kept and named in the log for the administrator.

use std::fmt;

/// Number of subdirectories of `mess`, `info`, `local` and `remote`.
pub const SPLIT: u64 = 23;

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

    /// Whether its files live in subdirectories `0` to [`SPLIT`]` - 1`.
    #[must_use]
    pub fn is_split(self) -> bool {
        match self {
            Self::Mess | Self::Info | Self::Local | Self::Remote => true,
            Self::Intd | Self::Todo | Self::Bounce => false,
        }
    }

    /// Path of message `id`'s file here, relative to `queue/`.
    #[must_use]
    pub fn file(self, id: MessageId) -> String {
        let name = self.name();
        if self.is_split() { format!("{name}/{}/{id}", id.0 % SPLIT) } else { format!("{name}/{id}") }
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
        assert_eq!(Dir::Mess.file(id), "mess/0/928119");
        assert_eq!(Dir::Todo.file(id), "todo/928119");
        assert_eq!(MessageId::parse("928119"), Some(id));
        for bad in ["", "0", "01", "+1", "-1", "1a", "99999999999999999999999"] {
            assert_eq!(MessageId::parse(bad), None, "{bad:?}");
        }
    }
}
