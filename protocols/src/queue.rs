//! The names of the on-disk queue: ids, directories, split (qmail's INTERNALS, conf-split 23).

use std::fmt;

/// Number of a message: the inode number of its `mess` file, which no other message can have at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
