//! A list of domains as qmail's constmap: looked up whole, case ignored.

use std::collections::HashSet;

/// The entries of `locals`, `percenthack` and the like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Domains {
    entries: HashSet<Vec<u8>>,
}

impl Domains {
    /// Whether this is an entry; case is ignored.
    pub fn contains(&self, entry: &[u8]) -> bool {
        self.entries.contains(entry.to_ascii_lowercase().as_slice())
    }

    /// The entries, in lower case, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(Vec::as_slice)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Domains {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        Self { entries: entries.into_iter().map(|entry| entry.as_ref().to_ascii_lowercase()).collect() }
    }
}
