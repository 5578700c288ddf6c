//! What a spam scanner says of a message.

use super::hits::Hits;

/// Points of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// Its own.
    pub hits: Hits,
    /// Those from which on the scanner calls a message spam (spamd), or refuses it (rspamd).
    pub required: Hits,
}

/// What the scanner would have done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Pass,
    /// It is spam and is to pass, marked.
    Mark,
    /// It is spam, by its points, and is to be refused.
    Reject,
    /// It is to be refused, whatever its points.
    Forbid,
    /// It is to come again.
    Defer,
}

/// What the scanner says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opinion {
    /// The points.
    pub score: Score,
    /// What is to be done.
    pub action: Action,
    /// What the client is to hear when the message is not taken: printable ASCII.
    pub text: Option<String>,
}

impl Opinion {
    /// Whether it found something.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.action != Action::Pass
    }
}
