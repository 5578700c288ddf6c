//! Run scripts of daemontools and runit, as far as qmail hosts have them: which programs a service becomes, with which
//! arguments, in which environment (supervise.8, sh(1)).
//!
//! Nothing is run. What a script asks other programs, `cat FILE`, `head -1 FILE`, `id -u NAME`, `hostname`, is asked of
//! the caller; what else it asks stays in the word as it is written, and the word says so.

mod chain;
mod expand;
mod options;
mod script;
mod stunnel;
#[cfg(test)]
mod tests;
mod token;

pub use chain::{Kind, Program, chain};
pub use options::{Names, Options, Tcpserver};
pub use stunnel::Stunnel;

use script::Script;
use token::{Piece, Token};

/// A longer script is refused.
pub const SIZE_MAX: usize = 64 * 1024;

/// Bytes that variables and words may have in all.
const TEXT_MAX: usize = 256 * 1024;

/// Words of one command.
const WORDS_MAX: usize = 4096;

/// What a script wants to know from the host it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// `cat FILE`: the file without the newlines at its end.
    Cat(String),
    /// `head -1 FILE`.
    FirstLine(String),
    /// `id -u NAME`.
    Uid(String),
    /// `id -g NAME`.
    Gid(String),
    /// `~NAME`.
    Home(String),
    /// `hostname`.
    Hostname,
}

/// A word of a command, after expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Word {
    /// The word. What could not be found out stands in it as the script has it.
    pub text: String,
    /// What was asked for it, and answered.
    pub asked: Vec<Question>,
    /// The parts that could not be found out.
    pub unresolved: Vec<String>,
}

impl Word {
    /// The word, if all of it is known.
    #[must_use]
    pub fn known(&self) -> Option<&str> {
        self.unresolved.is_empty().then_some(self.text.as_str())
    }

    /// The name of the program that the word is, without its directory.
    #[must_use]
    pub fn base(&self) -> &str {
        base(&self.text)
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What a run script does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunScript {
    /// What the last program of the chain finds in its environment, as far as the script sets it. The last assignment
    /// of a name counts, and stands once.
    pub environment: Vec<(String, Word)>,
    /// The programs that become each other, from the first to the one that stays.
    pub chain: Vec<Program>,
    /// Files that are read with `.`; what they set is not known.
    pub sourced: Vec<Word>,
    /// The line of the command that is the chain, counted from 1.
    pub line: usize,
    /// Whether the chain runs only under a condition.
    pub conditional: bool,
}

impl RunScript {
    /// The first `tcpserver` or `sslserver` of the chain.
    #[must_use]
    pub fn tcpserver(&self) -> Option<&Tcpserver> {
        self.chain.iter().find_map(|program| match &program.kind {
            Kind::Tcpserver(tcpserver) | Kind::Sslserver(tcpserver) => Some(tcpserver),
            _ => None,
        })
    }

    /// Goes on with the programs that the last one of the chain runs: another script, or what a configuration names.
    pub fn follow(&mut self, programs: Vec<Program>) {
        chain::environment(&programs, &mut self.environment);
        self.chain.extend(programs);
    }

    /// A variable of the environment.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&Word> {
        self.environment.iter().find(|(own, _)| own == name).map(|(_, word)| word)
    }
}

/// A script that is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too long.
    #[error("{0} bytes; allowed: {SIZE_MAX}")]
    Size(usize),
    /// Not a script.
    #[error("a program and not a script; allowed: a script of sh")]
    Binary,
    /// Another language.
    #[error("`{0}` on the first line; allowed: #!/bin/sh, or another shell")]
    Interpreter(String),
    /// A quote, a bracket or a backquote that is not closed.
    #[error("line {line}: `{opened}` is not closed")]
    Open {
        /// Where it stands, counted from 1.
        line: usize,
        /// What is open.
        opened: &'static str,
    },
    /// Quotes in quotes, too many.
    #[error("line {0}: too many brackets in brackets")]
    Depth(usize),
    /// Variables that grow each other.
    #[error("line {0}: a value or a command is too long")]
    Long(usize),
}

/// Reads a run script. `answer` tells what it wants to know; `None`: not known.
///
/// # Errors
/// When it is no script of a shell, or is not complete.
pub fn parse(text: &[u8], answer: &dyn Fn(&Question) -> Option<String>) -> Result<RunScript, Error> {
    if text.len() > SIZE_MAX {
        return Err(Error::Size(text.len()));
    }
    if text.contains(&0) {
        return Err(Error::Binary);
    }
    let text = String::from_utf8_lossy(text);
    let first = text.lines().next().unwrap_or_default();
    if let Some(interpreter) = first.strip_prefix("#!") {
        let program = interpreter.split_whitespace().map(base).find(|word| *word != "env");
        // execlineb and perl read otherwise.
        if !program.is_some_and(|program| program.ends_with("sh")) {
            return Err(Error::Interpreter(interpreter.trim().to_owned()));
        }
    }
    let mut script = Script::new(answer);
    let mut command: Vec<Vec<Piece>> = Vec::new();
    let mut start = 1;
    let mut piped = false;
    for (token, line) in token::tokens(&text)? {
        match token {
            Token::Word(pieces) => {
                if command.is_empty() {
                    start = line;
                }
                if command.len() == WORDS_MAX {
                    return Err(Error::Long(line));
                }
                command.push(pieces);
            }
            Token::End | Token::Conditional | Token::Pipe => {
                // What stands behind a pipe reads the log of what stands before it.
                if !piped {
                    script.command(&std::mem::take(&mut command), start)?;
                }
                command.clear();
                piped = token == Token::Pipe;
                script.after_and = token == Token::Conditional;
            }
        }
    }
    if !piped {
        script.command(&command, start)?;
    }
    Ok(script.finish())
}
