//! Options and environment of qmail-inject (qmail-inject.8).

use super::getopt::{Getopt, Unknown};
use super::quote;

/// Whose mail it is, taken from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recipients {
    /// The command line if it has any, the header otherwise (`-A`).
    #[default]
    Either,
    /// The command line (`-a`).
    Arguments,
    /// The header (`-h`).
    Header,
    /// Both (`-H`).
    Both,
}

/// What qmail-inject is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The message is shown, not queued (`-n`).
    pub show: bool,
    /// Where recipients come from.
    pub recipients: Recipients,
    /// Those of the command line.
    pub arguments: Vec<Vec<u8>>,
    /// `-f`.
    pub sender: Option<Vec<u8>>,
    /// `QMAILDEFAULTDOMAIN` and its like, in place of control files.
    pub defaultdomain: Option<Vec<u8>>,
    /// `QMAILDEFAULTHOST`.
    pub defaulthost: Option<Vec<u8>>,
    /// `QMAILPLUSDOMAIN`.
    pub plusdomain: Option<Vec<u8>>,
    /// `QMAILIDHOST`.
    pub idhost: Option<Vec<u8>>,
    pub(super) user: Vec<u8>,
    pub(super) host: Option<Vec<u8>>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) sender_user: Vec<u8>,
    pub(super) sender_host: Option<Vec<u8>>,
    pub(super) letters: Letters,
}

/// `QMAILINJECT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Letters {
    /// `c`: the name is a comment.
    pub(super) comment: bool,
    /// `s`: Return-Path does not count.
    pub(super) no_return_path: bool,
    /// `f`: From is replaced.
    pub(super) no_from: bool,
    /// `i`: Message-ID is replaced.
    pub(super) no_message_id: bool,
    /// `r`: a sender for each recipient.
    pub(super) each_recipient: bool,
    /// `m`: a sender for each message.
    pub(super) each_message: bool,
}

impl Letters {
    fn of(text: &[u8]) -> Self {
        let has = |letter: u8| text.contains(&letter);
        Self {
            comment: has(b'c'),
            no_return_path: has(b's'),
            no_from: has(b'f'),
            no_message_id: has(b'i'),
            each_recipient: has(b'r'),
            each_message: has(b'm'),
        }
    }
}

impl Options {
    /// Reads the command line, without the program's name, and the environment.
    ///
    /// # Errors
    /// An option that there is not.
    pub fn read(words: &[Vec<u8>], variable: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Self, Unknown> {
        let first = |names: &[&str]| names.iter().find_map(|name| variable(name));
        let user = first(&["QMAILUSER", "MAILUSER", "USER", "LOGNAME"]);
        let user = user.unwrap_or_else(|| b"anonymous".to_vec());
        let host = first(&["QMAILHOST", "MAILHOST"]);
        let mut options = Self {
            name: first(&["QMAILNAME", "MAILNAME", "NAME"]),
            sender_user: variable("QMAILSUSER").unwrap_or_else(|| user.clone()),
            sender_host: variable("QMAILSHOST").or_else(|| host.clone()),
            user,
            host,
            letters: Letters::of(&variable("QMAILINJECT").unwrap_or_default()),
            defaultdomain: variable("QMAILDEFAULTDOMAIN"),
            defaulthost: variable("QMAILDEFAULTHOST"),
            plusdomain: variable("QMAILPLUSDOMAIN"),
            idhost: variable("QMAILIDHOST"),
            ..Self::default()
        };
        let mut getopt = Getopt::new(words, "aAhHnNf:");
        while let Some(option) = getopt.next() {
            match option? {
                (b'a', _) => options.recipients = Recipients::Arguments,
                (b'A', _) => options.recipients = Recipients::Either,
                (b'h', _) => options.recipients = Recipients::Header,
                (b'H', _) => options.recipients = Recipients::Both,
                (b'n', _) => options.show = true,
                (b'N', _) => options.show = false,
                (_, sender) => options.sender = Some(sender.to_vec()),
            }
        }
        options.arguments = getopt.rest().to_vec();
        Ok(options)
    }

    /// Whether recipients are taken from the command line, and from the header.
    pub(super) fn sources(&self) -> (bool, bool) {
        match self.recipients {
            Recipients::Either => (true, self.arguments.is_empty()),
            Recipients::Arguments => (true, false),
            Recipients::Header => (false, true),
            Recipients::Both => (true, true),
        }
    }

    /// Whether the user's name must be quoted.
    pub(super) fn is_user_quoted(&self) -> bool {
        quote::needs(&self.user)
    }
}
