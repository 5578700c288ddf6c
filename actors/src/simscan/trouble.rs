//! Why a scanner gives no answer.

use std::io;

use mailtree_protocols::simscan::{clamd, rspamd, spamc};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No connection.
    #[error("unable to connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        error: String,
    },
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The message cannot be read, or is shorter than it should be.
    #[error("unable to read the message: {0}")]
    Message(String),
    /// The message is larger than may be read into memory.
    #[error("{size} bytes are too many to look at; allowed: {limit}")]
    Large {
        /// Of the message.
        size: u64,
        /// Allowed.
        limit: u64,
    },
    /// The patterns do not compile.
    #[error("patterns: {0}")]
    Patterns(String),
    /// The password for rspamd cannot be read.
    #[error("password in {path}: {error}")]
    Password {
        /// The file.
        path: String,
        /// Why not.
        error: String,
    },
    /// An answer longer than any is.
    #[error("answer too long; allowed: {0} bytes")]
    Long(usize),
    /// clamd answers with an error, or rubbish.
    #[error(transparent)]
    Clamd(#[from] clamd::Error),
    /// spamd answers with an error, or rubbish.
    #[error(transparent)]
    Spamd(#[from] spamc::Error),
    /// rspamd answers with an error, or rubbish.
    #[error(transparent)]
    Rspamd(#[from] rspamd::Error),
    /// No answer in time.
    #[error("no answer in time")]
    Deadline,
}

impl Trouble {
    /// Whether the message is too large for the scanner: the next time too. All else may be different then.
    pub(super) const fn is_large(&self) -> bool {
        matches!(
            self,
            Self::Large { .. }
                | Self::Clamd(clamd::Error::TooLarge(_))
                | Self::Rspamd(rspamd::Error::TooLarge(_))
        )
    }

    pub(super) fn lost(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }

    pub(super) fn message(error: io::Error) -> Self {
        Self::Message(error.to_string())
    }
}
