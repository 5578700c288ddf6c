//! A setting in force and where it comes from, as `mailtree check` prints it.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The default of the program, or of qmail where qmail has one.
    Default,
    /// Absent, so the value of `control/me` is taken (qmail-control).
    Me,
    /// A file, with the line (from 1) where one line holds the value.
    File(PathBuf, Option<usize>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Me => f.write_str("default: me"),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// One setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Path of field names in `host.ron`, or `control/NAME`.
    pub name: String,
    /// The value as text; the entries of a list are separated by `, `.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}  ({})", self.name, self.value, self.origin)
    }
}
