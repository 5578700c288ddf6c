//! Why a command ended without success, and djb's exit codes for it: 100 permanent, 111 temporary.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The cause, worded for standard error.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    text: String,
    permanent: bool,
}

impl Failure {
    /// Trying again changes nothing: somebody must mend something first.
    pub fn permanent(text: impl Into<String>) -> Self {
        Self { text: text.into(), permanent: true }
    }

    /// Trying again may help.
    pub fn temporary(text: impl Into<String>) -> Self {
        Self { text: text.into(), permanent: false }
    }

    /// An operation on a file that the system refused: `unable to open X: REASON`.
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::temporary(format!("unable to {doing} {}: {error}", path.display()))
    }

    /// The same with more said about it.
    #[must_use]
    pub fn and(self, more: impl Display) -> Self {
        Self { text: format!("{}; {more}", self.text), ..self }
    }

    /// The same with the file it happened in before it.
    #[must_use]
    pub fn within(self, path: &Path) -> Self {
        Self { text: format!("{}: {}", path.display(), self.text), ..self }
    }

    /// Whether trying again changes nothing.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// 100 or 111.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.permanent { 100 } else { 111 })
    }

    /// Prints `PROGRAM: fatal: CAUSE` and gives the exit code.
    pub fn report(&self, program: impl Display) -> ExitCode {
        for line in self.text.lines() {
            errln!("{program}: fatal: {line}");
        }
        self.exit_code()
    }
}

impl From<mailtree_config::Error> for Failure {
    fn from(error: mailtree_config::Error) -> Self {
        Self { text: error.to_string(), permanent: !error.is_temporary() }
    }
}

/// Names the operation and the file of an [`io::Error`].
pub(crate) trait Doing<T> {
    fn doing(self, doing: &str, path: &Path) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &str, path: &Path) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(doing, path, &error))
    }
}
