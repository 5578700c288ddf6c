//! qmail-spp, plugins of qmail-smtpd: what `control/smtpplugins` says, and what a plugin says
//! (qmail-spp.sourceforge.net/doc).
//!
//! A plugin is a program. It is run when the client has said a command and nothing is decided yet, learns of the session
//! from its environment, and answers with [`output`], a line for each thing that it wants. [`kept`] is what stays of that.

pub mod kept;
pub mod output;

use std::fmt;

/// Plugins that a section may have: they run one after the other, and the client waits.
pub const MAX_PLUGINS: usize = 32;

/// When plugins run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Before the greeting.
    Connection,
    /// HELO or EHLO was said.
    Helo,
    /// The client has shown who it is.
    Auth,
    /// MAIL was said.
    Mail,
    /// RCPT was said.
    Rcpt,
    /// DATA was said; the message has not come yet.
    Data,
    /// QUIT was said.
    Quit,
}

impl Section {
    /// All of them, as a session comes by.
    pub const ALL: [Self; 7] =
        [Self::Connection, Self::Helo, Self::Auth, Self::Mail, Self::Rcpt, Self::Data, Self::Quit];

    /// The name in `smtpplugins`, without brackets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Helo => "helo",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Quit => "quit",
        }
    }

    /// Whether a plugin may change the address that was said.
    pub const fn has_address(self) -> bool {
        matches!(self, Self::Mail | Self::Rcpt)
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plugin {
    /// The program at a path, relative to qmail's directory, without arguments: the whole line is the path.
    Program(Vec<u8>),
    /// A command of `/bin/sh`: a line that begins with a colon.
    Shell(Vec<u8>),
}

impl Plugin {
    /// The line of `smtpplugins`.
    pub fn shown(&self) -> String {
        match self {
            Self::Program(path) => String::from_utf8_lossy(path).into_owned(),
            Self::Shell(command) => format!(":{}", String::from_utf8_lossy(command)),
        }
    }
}

/// What is wrong with a line of `smtpplugins`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Brackets around something else.
    #[error("`{0}` is not allowed; allowed: [connection], [helo], [auth], [mail], [rcpt], [data], [quit]")]
    Section(String),
    /// A plugin that would never run.
    #[error("`{0}` is in no section; allowed: plugins below a line such as [rcpt]")]
    NoSection(String),
    /// A colon, and nothing to run.
    #[error("`:` is not allowed; allowed: `:` and a command of the shell")]
    NoCommand,
    /// One more than [`MAX_PLUGINS`].
    #[error("too many plugins in a section; allowed: {MAX_PLUGINS}")]
    TooMany,
}

/// `control/smtpplugins`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugins {
    /// In the order in which they run.
    entries: Vec<(Section, Plugin)>,
    /// The section that the next line belongs to.
    open: Option<Section>,
}

impl Plugins {
    /// A whole file. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// The number of the first bad line, and what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, (usize, Error)> {
        let mut plugins = Self::default();
        for (line, number) in text.split(|&b| b == b'\n').zip(1..) {
            let line = line.trim_ascii();
            if !line.is_empty() && !line.starts_with(b"#") {
                plugins.add(line).map_err(|error| (number, error))?;
            }
        }
        Ok(plugins)
    }

    /// Reads one line that says something.
    ///
    /// # Errors
    /// What is wrong with it. What stands below a bad section is bad too.
    pub fn add(&mut self, line: &[u8]) -> Result<(), Error> {
        let line = line.trim_ascii();
        let shown = || String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned();
        if let Some(name) = line.strip_prefix(b"[") {
            self.open = name.strip_suffix(b"]").and_then(section);
            return self.open.map(|_| ()).ok_or_else(|| Error::Section(shown()));
        }
        let section = self.open.ok_or_else(|| Error::NoSection(shown()))?;
        if self.of(section).count() == MAX_PLUGINS {
            return Err(Error::TooMany);
        }
        let plugin = match line.strip_prefix(b":").map(<[u8]>::trim_ascii) {
            Some(b"") => return Err(Error::NoCommand),
            Some(command) => Plugin::Shell(command.to_vec()),
            None => Plugin::Program(line.to_vec()),
        };
        self.entries.push((section, plugin));
        Ok(())
    }

    /// Whether nothing is ever run.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The plugins of a section, in their order.
    pub fn of(&self, section: Section) -> impl Iterator<Item = &Plugin> {
        self.entries.iter().filter(move |(own, _)| *own == section).map(|(_, plugin)| plugin)
    }
}

fn section(name: &[u8]) -> Option<Section> {
    let name = name.trim_ascii();
    // qmail-spp looks at the first letter alone, and both words are about.
    if name.eq_ignore_ascii_case(b"connect") {
        return Some(Section::Connection);
    }
    Section::ALL.into_iter().find(|section| name.eq_ignore_ascii_case(section.name().as_bytes()))
}

/// What a plugin is told of the session, beside the environment that the session has anyway.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told<'a> {
    /// SMTPHELOHOST.
    pub helo: Option<&'a [u8]>,
    /// SMTPMAILFROM.
    pub sender: Option<&'a [u8]>,
    /// SMTPRCPTTO, and SMTPRCPTHOSTSOK: `rcpthosts` has its domain, or the client may relay.
    pub recipient: Option<(&'a [u8], bool)>,
    /// SMTPRCPTCOUNT: accepted recipients.
    pub accepted: usize,
    /// SMTPRCPTCOUNTALL: recipients that were named, this one too.
    pub named: usize,
    /// SMTPAUTHUSER and SMTPAUTHMETHOD.
    pub user: Option<(&'a [u8], &'a str)>,
}

impl Told<'_> {
    /// Names and values.
    pub fn variables(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut variables = Vec::new();
        if let Some(helo) = self.helo {
            variables.push(("SMTPHELOHOST", helo.to_vec()));
        }
        if let Some((user, method)) = self.user {
            variables.push(("SMTPAUTHUSER", user.to_vec()));
            variables.push(("SMTPAUTHMETHOD", method.as_bytes().to_vec()));
        }
        if let Some(sender) = self.sender {
            variables.push(("SMTPMAILFROM", sender.to_vec()));
            variables.push(("SMTPRCPTCOUNT", self.accepted.to_string().into_bytes()));
            variables.push(("SMTPRCPTCOUNTALL", self.named.to_string().into_bytes()));
        }
        if let Some((recipient, ours)) = self.recipient {
            variables.push(("SMTPRCPTTO", recipient.to_vec()));
            variables.push(("SMTPRCPTHOSTSOK", vec![if ours { b'1' } else { b'0' }]));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_the_documentation_has_it() {
        let text = b"# plugins\n\n[connection]\nplugins/tarpit\n[helo]\n[mail]\n:echo N; exit 0\n[rcpt]\n\
            plugins/one two\n/usr/local/bin/three\n[data]\n[auth]\nplugins/authlog\n[Quit]\nplugins/bye\n";
        let plugins = Plugins::parse(text).unwrap();
        let shown = |section| plugins.of(section).map(Plugin::shown).collect::<Vec<_>>();
        assert_eq!(shown(Section::Connection), ["plugins/tarpit"]);
        assert_eq!(shown(Section::Helo), [""; 0]);
        assert_eq!(shown(Section::Mail), [":echo N; exit 0"]);
        assert_eq!(shown(Section::Rcpt), ["plugins/one two", "/usr/local/bin/three"]);
        assert_eq!(shown(Section::Auth), ["plugins/authlog"]);
        assert_eq!(shown(Section::Quit), ["plugins/bye"]);
        assert_eq!(plugins.of(Section::Mail).next(), Some(&Plugin::Shell(b"echo N; exit 0".to_vec())));
        assert!(Plugins::parse(b"# nothing\n[mail]\n").unwrap().is_empty());
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line, error) in [
            ("[mail]\nx\n[rctp]\n", 3, Error::Section("[rctp]".into())),
            ("[mail\n", 1, Error::Section("[mail".into())),
            ("\nplugins/x\n", 2, Error::NoSection("plugins/x".into())),
            ("[mail]\n: \n", 2, Error::NoCommand),
        ] {
            assert_eq!(Plugins::parse(text.as_bytes()), Err((line, error)), "{text}");
        }
        let many = format!("[mail]\n{}", "x\n".repeat(MAX_PLUGINS + 1));
        assert_eq!(Plugins::parse(many.as_bytes()), Err((MAX_PLUGINS + 2, Error::TooMany)));
    }

    proptest::proptest! {
        #[test]
        fn no_file_is_read_beyond_its_limits(text in "(\\[(mail|rcpt|x)?\\]\n|:?[a-z ]{0,3}\n){0,60}") {
            if let Ok(plugins) = Plugins::parse(text.as_bytes()) {
                for section in Section::ALL {
                    proptest::prop_assert!(plugins.of(section).count() <= MAX_PLUGINS);
                }
            }
        }
    }
}
