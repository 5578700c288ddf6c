//! chkuser 2.0.9: whether a sender can be one and a recipient exists, at MAIL and RCPT.
//!
//! At MAIL the driver calls [`sender::check`], at RCPT [`session::Session::admit`] and then, if that lets it,
//! [`rcpt::check`]. Where a check says [`Step::Mx`], the driver looks the domain up and calls again with the answer. The
//! event in the end goes to [`session::Session::conclude`]: it says what is logged, answered and how long the client waits
//! for it.
//!
//! - [`settings`]: the `CHKUSER_…` variables.
//! - [`event`]: every outcome with its two words in the log and its reply.
//! - [`log`]: the line in the log.
//! - [`format`]: which addresses are well formed.

pub mod event;
pub mod format;
pub mod log;
pub mod rcpt;
pub mod sender;
pub mod session;
pub mod settings;

use event::Event;

/// What DNS says of a domain as a destination of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mx {
    /// It has a mail exchanger or an address (RFC 5321 5.1).
    Found,
    /// It has none, does not exist, or takes no mail (RFC 7505).
    NotFound,
    /// Nobody can say now.
    Temporary,
}

/// What a check comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The outcome.
    Done(Event),
    /// Look this domain, in lower case, up and check again with the answer.
    Mx(Vec<u8>),
}
