//! SPF: may this client use that name (RFC 7208)?
//!
//! [`check`] evaluates with the answers it is given and says which question comes next. The caller asks DNS, puts the
//! answer into the map and calls again, until [`Step::Done`]. The same arguments always give the same step.

mod behavior;
mod check;
mod header;
mod macros;
mod options;
mod record;
#[cfg(test)]
mod tests;
mod text;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

pub use behavior::{Behavior, BehaviorError, Decision, decide};
pub use header::received_spf;
pub use options::{Options, OptionsError};
pub use record::{MAX_RECORD, Syntax};

/// Questions one check may put, repeated ones included.
pub const MAX_QUESTIONS: usize = 128;
/// Longest explanation in bytes; with its codes it fits into one reply line.
pub const MAX_EXPLANATION: usize = 400;

/// What a check wants to know. Names are lower case, without the trailing dot, 1 to 253 printable ASCII characters
/// without backslash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// The TXT records of a name.
    Txt(String),
    /// The IPv4 addresses (A) of a name.
    Addresses4(String),
    /// The IPv6 addresses (AAAA) of a name.
    Addresses6(String),
    /// The mail exchangers of a name.
    Mx(String),
    /// The names of an address.
    Ptr(IpAddr),
}

/// The answer to a [`Question`]. An empty list: the name exists, but has no such record. An answer of another kind than
/// the question counts as [`Answer::Failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// One entry a record, its strings joined without a separator (RFC 7208 3.3).
    Txt(Vec<Vec<u8>>),
    /// To both kinds of address questions.
    Addresses(Vec<IpAddr>),
    /// Preference and name.
    Mx(Vec<(u16, String)>),
    /// The names.
    Ptr(Vec<String>),
    /// The name does not exist (NXDOMAIN).
    NoName,
    /// SERVFAIL, timeout, or a name no resolver takes.
    Failed,
}

/// Who wants to send what to whom.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The client's address; an IPv4 address in IPv6 form counts as IPv4 (RFC 7208 5).
    pub ip: IpAddr,
    /// What it called itself.
    pub helo: &'a [u8],
    /// The reverse-path, empty for `<>`.
    pub sender: &'a [u8],
    /// This host's name: `%{r}` and the name in the header.
    pub receiver: &'a str,
    /// Unix time in seconds: `%{t}`.
    pub now: u64,
}

/// What a record says about the client (RFC 7208 2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfResult {
    /// No domain, or no record.
    None,
    /// The domain does not say.
    Neutral,
    /// Permitted.
    Pass,
    /// Not permitted.
    Fail,
    /// Probably not permitted.
    Softfail,
    /// DNS failed.
    Temperror,
    /// The record cannot be understood, or costs too much.
    Permerror,
}

impl SpfResult {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::None, Self::Neutral, Self::Pass, Self::Fail, Self::Softfail, Self::Temperror, Self::Permerror];

    /// The word of RFC 7208, lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Neutral => "neutral",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Softfail => "softfail",
            Self::Temperror => "temperror",
            Self::Permerror => "permerror",
        }
    }
}

impl fmt::Display for SpfResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of a check. All texts are printable ASCII and bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub result: SpfResult,
    /// The domain that was checked: the sender's, or that of HELO.
    pub domain: String,
    /// The directive that decided, as it stands in the record: `ip4:192.0.2.0/24`, `-all`.
    pub matched: Option<String>,
    /// Why the client is not permitted, at most [`MAX_EXPLANATION`] bytes: for [`SpfResult::Fail`] the domain's own
    /// words, else the local text; absent for pass and the errors.
    pub explanation: Option<String>,
    /// What is wrong, for the two errors.
    pub problem: Option<String>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Call again with the answer to this in the map.
    Ask(Question),
    /// The end.
    Done(Outcome),
}

/// Evaluates as far as the answers reach (check_host() of RFC 7208 4). Ends after at most [`MAX_QUESTIONS`] questions,
/// whatever the answers are.
#[must_use]
pub fn check(client: &Client<'_>, options: &Options, answers: &HashMap<Question, Answer>) -> Step {
    match check::Evaluation::new(client, answers).outcome(options) {
        Ok(outcome) => Step::Done(outcome),
        Err(question) => Step::Ask(question),
    }
}

/// The name that is checked (RFC 7208 2.4): a reverse-path without domain stands for `postmaster@HELO`.
#[derive(Debug, Clone, Copy)]
struct Identity<'a> {
    local: &'a [u8],
    domain: &'a [u8],
    is_helo: bool,
}

impl<'a> Client<'a> {
    fn identity(&self) -> Identity<'a> {
        let Some(at) = memchr::memrchr(b'@', self.sender) else {
            return Identity { local: b"postmaster", domain: self.helo, is_helo: true };
        };
        let (local, domain) = (&self.sender[..at], &self.sender[at + 1..]);
        // RFC 7208 4.3
        let local = if local.is_empty() { b"postmaster" } else { local };
        Identity { local, domain, is_helo: false }
    }
}
