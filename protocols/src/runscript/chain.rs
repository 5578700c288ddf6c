//! Programs that become each other: which words are whose.

use super::options::{Options, Tcpserver};
use super::token::is_name;
use super::{Word, base};

/// More programs than these nobody chains.
const PROGRAMS_MAX: usize = 64;

/// A program of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// How the script calls it.
    pub path: Word,
    /// What it is.
    pub kind: Kind,
}

impl Program {
    /// Whether it only runs the next one, in another environment, as another account or within limits.
    #[must_use]
    pub fn wraps(&self) -> bool {
        match self.kind {
            Kind::Env { .. } | Kind::Envdir(_) | Kind::Softlimit(_) | Kind::Account(_) => true,
            Kind::Other(_) => WRAPPERS.iter().any(|(own, ..)| *own == self.path.base()),
            _ => false,
        }
    }
}

/// What a program of a chain is, with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `env`.
    Env {
        /// `-` or `-i`: nothing else is in the environment.
        clear: bool,
        /// What it sets.
        set: Vec<(String, Word)>,
    },
    /// `envdir`, or `chpst -e`: a directory with a file for each variable.
    Envdir(Word),
    /// `softlimit`.
    Softlimit(Options),
    /// `setuidgid`, `envuidgid`, or `chpst -u`: an account.
    Account(Word),
    /// `tcpserver`.
    Tcpserver(Tcpserver),
    /// `sslserver` of ucspi-ssl.
    Sslserver(Tcpserver),
    /// `rblsmtpd`.
    Rblsmtpd(Options),
    /// `qmail-smtpd`.
    QmailSmtpd {
        /// The host's name, which patches of AUTH have in front of the program.
        host: Option<Word>,
        /// The checkpassword program with its arguments; empty: none.
        checkpassword: Vec<Word>,
    },
    /// `qmail-popup`, with the programs that follow it.
    QmailPopup(Vec<Word>),
    /// `qmail-start`, with its arguments.
    QmailStart(Vec<Word>),
    /// `multilog` or `svlogd`, with its script.
    Multilog(Vec<Word>),
    /// `stunnel`, with its arguments.
    Stunnel(Vec<Word>),
    /// Any other program, with its own arguments.
    Other(Vec<Word>),
}

/// Programs that run another one, and how many words of their own stand between it and their options, whose letters these
/// are.
const WRAPPERS: [(&str, &str, usize); 12] = [
    ("setlock", "nNxX", 1),
    ("pgrphack", "", 0),
    ("fghack", "", 0),
    ("nohup", "", 0),
    ("nice", "n:", 0),
    ("ionice", "c:n:t", 0),
    ("recordio", "", 0),
    ("fixcrio", "", 0),
    ("greylite", "", 0),
    ("exec", "cla:", 0),
    ("command", "p", 0),
    ("sudo", "u:g:EHn", 0),
];

/// Programs that begin or end a chain.
const KNOWN: [&str; 22] = [
    "env",
    "envdir",
    "envuidgid",
    "setuidgid",
    "softlimit",
    "chpst",
    "tcpserver",
    "sslserver",
    "rblsmtpd",
    "qmail-smtpd",
    "qmail-popup",
    "qmail-pop3d",
    "qmail-start",
    "qmail-qmtpd",
    "qmail-qmqpd",
    "multilog",
    "svlogd",
    "stunnel",
    "stunnel4",
    "couriertls",
    "spamdyke",
    "rc",
];

pub(super) fn is_known(program: &str) -> bool {
    KNOWN.contains(&program) || WRAPPERS.iter().any(|(own, ..)| *own == program)
}

/// Sets a variable of a list in which a name stands once.
pub(super) fn assign(environment: &mut Vec<(String, Word)>, name: String, value: Word) {
    match environment.iter_mut().find(|(own, _)| *own == name) {
        Some((_, own)) => *own = value,
        None => environment.push((name, value)),
    }
}

/// What a chain of programs makes of an environment.
pub(super) fn environment(chain: &[Program], environment: &mut Vec<(String, Word)>) {
    for program in chain {
        if let Kind::Env { clear, set } = &program.kind {
            if *clear {
                environment.clear();
            }
            for (name, value) in set {
                assign(environment, name.clone(), value.clone());
            }
        }
    }
}

/// Takes a command apart: the programs that become each other.
#[must_use]
pub fn chain(words: &[Word]) -> Vec<Program> {
    let mut programs = Vec::new();
    let mut rest = words;
    while let Some((path, arguments)) = rest.split_first()
        && programs.len() < PROGRAMS_MAX
    {
        let (kinds, used) = program(path.base(), arguments);
        rest = &arguments[used..];
        programs.extend(kinds.into_iter().map(|kind| Program { path: path.clone(), kind }));
    }
    programs
}

/// What a program is, and how many of the words are its own; the next program follows them.
fn program(name: &str, words: &[Word]) -> (Vec<Kind>, usize) {
    let one = |kind: Kind, used: usize| (vec![kind], used.min(words.len()));
    let all = words.len();
    match name {
        "env" => env(words),
        "envdir" => one(Kind::Envdir(first(words)), 1),
        "setuidgid" | "envuidgid" => one(Kind::Account(first(words)), 1),
        "softlimit" => {
            let (options, used) = Options::read("a:c:d:f:l:m:o:p:r:s:t:", words);
            one(Kind::Softlimit(options), used)
        }
        "chpst" => chpst(words),
        "tcpserver" => {
            let (tcpserver, used) = Tcpserver::read(Tcpserver::LETTERS, words);
            one(Kind::Tcpserver(tcpserver), used)
        }
        "sslserver" => {
            let (tcpserver, used) = Tcpserver::read(Tcpserver::SSL_LETTERS, words);
            one(Kind::Sslserver(tcpserver), used)
        }
        "rblsmtpd" => {
            let (options, used) = Options::read("bBcCt:r:a:", words);
            one(Kind::Rblsmtpd(options), used)
        }
        "qmail-smtpd" => one(qmail_smtpd(words), all),
        "qmail-popup" => one(Kind::QmailPopup(words.to_vec()), all),
        "qmail-start" => one(Kind::QmailStart(words.to_vec()), all),
        "multilog" | "svlogd" => one(Kind::Multilog(words.to_vec()), all),
        "stunnel" | "stunnel4" => one(Kind::Stunnel(words.to_vec()), all),
        _ => match WRAPPERS.iter().find(|(own, ..)| *own == name) {
            Some((_, letters, own)) => {
                let (_, used) = Options::read(letters, words);
                let used = (used + own).min(all);
                one(Kind::Other(words[..used].to_vec()), used)
            }
            // A stranger: its words end where a program of this field begins.
            None => {
                let used = words.iter().position(|word| is_program(&word.text)).unwrap_or(all);
                one(Kind::Other(words[..used].to_vec()), used)
            }
        },
    }
}

/// Whether a word among those of a stranger is the program that it runs.
fn is_program(word: &str) -> bool {
    let name = base(word);
    is_known(name) && (name != "rc" && name != "env" && name != "exec" || word.starts_with('/'))
}

fn first(words: &[Word]) -> Word {
    words.first().cloned().unwrap_or_default()
}

fn env(words: &[Word]) -> (Vec<Kind>, usize) {
    let (mut clear, mut set, mut used) = (false, Vec::new(), 0);
    while let Some(word) = words.get(used) {
        match word.text.as_str() {
            "-" | "-i" | "--ignore-environment" => clear = true,
            "-u" => used += 1,
            text => match text.split_once('=').filter(|(name, _)| is_name(name)) {
                Some((name, value)) => {
                    assign(&mut set, name.to_owned(), Word { text: value.to_owned(), ..word.clone() });
                }
                None => break,
            },
        }
        used += 1;
    }
    (vec![Kind::Env { clear, set }], used.min(words.len()))
}

/// runit's `chpst` does the work of several programs.
fn chpst(words: &[Word]) -> (Vec<Kind>, usize) {
    let (options, used) = Options::read("u:U:b:e:/:C:n:l:L:m:d:o:p:f:c:t:r:vP012V", words);
    let mut kinds = Vec::new();
    for letter in ['u', 'U'] {
        kinds.extend(options.value(letter).cloned().map(Kind::Account));
    }
    kinds.extend(options.value('e').cloned().map(Kind::Envdir));
    if options.last("mdopfctr").is_some() {
        kinds.push(Kind::Softlimit(options));
    }
    if kinds.is_empty() {
        kinds.push(Kind::Other(words[..used].to_vec()));
    }
    (kinds, used)
}

/// `qmail-smtpd [HOST] [CHECKPASSWORD PROGRAM ARGUMENT…]`: a name of a host has no slash, and is no program that is known.
fn qmail_smtpd(words: &[Word]) -> Kind {
    let known =
        |word: &Word| word.text.contains('/') || word.base().contains("checkp") || word.base() == "vchkpw";
    match words.split_first() {
        Some((host, rest)) if !known(host) => {
            Kind::QmailSmtpd { host: Some(host.clone()), checkpassword: rest.to_vec() }
        }
        _ => Kind::QmailSmtpd { host: None, checkpassword: words.to_vec() },
    }
}
