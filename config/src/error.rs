//! What is wrong with a configuration file, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One thing that is wrong in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Line, counted from 1; `None` when the whole file is meant.
    pub line: Option<usize>,
    /// Column in characters, counted from 1; known in `host.ron` only.
    pub column: Option<usize>,
    /// Setting as a path of field names, for example `services.smtpd.listen`; in a control file its name.
    pub field: Option<String>,
    /// What was found and what is allowed.
    pub text: String,
    /// The file could not be read, for a reason that may pass (not because its contents are bad).
    pub temporary: bool,
}

impl Problem {
    /// Bad contents of a whole file.
    pub(crate) fn file(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), line: None, column: None, field: None, text: text.into(), temporary: false }
    }

    /// Bad contents of one line.
    pub(crate) fn line(path: impl Into<PathBuf>, line: usize, text: impl Into<String>) -> Self {
        Self { line: Some(line), ..Self::file(path, text) }
    }

    /// The operating system refused to let us read the file. A missing file is the administrator's to mend; every
    /// other reason (descriptors used up, a disk that fails, a right that is missing) may pass.
    pub(crate) fn unreadable(path: impl Into<PathBuf>, error: &io::Error) -> Self {
        let temporary = error.kind() != io::ErrorKind::NotFound;
        Self { temporary, ..Self::file(path, format!("unable to read: {error}")) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// A configuration that cannot be used: every problem found in it, never none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// The problems, in the order of the files.
    pub problems: Vec<Problem>,
}

impl Error {
    /// Whether trying again later can help: only if nothing is wrong but that files could not be read.
    pub fn is_temporary(&self) -> bool {
        self.problems.iter().all(|problem| problem.temporary)
    }

    /// `Ok(value)` if there is no problem.
    pub(crate) fn unless_none<T>(problems: Vec<Problem>, value: T) -> Result<T, Self> {
        if problems.is_empty() { Ok(value) } else { Err(Self { problems }) }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
