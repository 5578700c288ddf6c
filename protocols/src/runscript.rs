//! Run scripts of daemontools and runit, as far as qmail hosts have them: which programs a service becomes, with which
//! arguments, in which environment (supervise.8, sh(1)).
//!
//! Nothing is run. What a script asks other programs, `cat FILE`, `head -1 FILE`, `id -u NAME`, `hostname`, is asked of
//! the caller; what else it asks stays in the word as it is written, and the word says so.

mod chain;
mod expand;
mod options;
mod stunnel;
#[cfg(test)]
mod tests;
mod token;

pub use chain::{Kind, Program};
pub use options::{Names, Options, Tcpserver};
pub use stunnel::Stunnel;

use expand::Variables;
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
    let mut script = Script {
        variables: Variables::new(answer),
        sourced: Vec::new(),
        guards: 0,
        after_and: false,
        found: None,
    };
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

struct Script<'a> {
    variables: Variables<'a>,
    sourced: Vec<Word>,
    /// How many of `if`, `for`, `while`, `case` are open.
    guards: usize,
    /// Whether the command stands behind `&&` or `||`.
    after_and: bool,
    found: Option<Found>,
}

/// The command that is the chain.
struct Found {
    words: Vec<Word>,
    environment: Vec<(String, Word)>,
    line: usize,
    conditional: bool,
    exec: bool,
}

impl Script<'_> {
    /// One simple command: assignments, words.
    fn command(&mut self, command: &[Vec<Piece>], line: usize) -> Result<(), Error> {
        let mut pieces = command;
        while let Some(word) = pieces.first().and_then(|word| token::literal(word)) {
            match word {
                "if" | "while" | "until" => self.guards += 1,
                // Their words are no command.
                "for" | "case" | "select" => {
                    self.guards += 1;
                    return Ok(());
                }
                "fi" | "done" | "esac" => {
                    self.guards = self.guards.saturating_sub(1);
                    return Ok(());
                }
                "then" | "else" | "elif" | "do" | "{" | "}" | "!" => (),
                _ => break,
            }
            pieces = &pieces[1..];
        }
        let conditional = self.guards > 0 || self.after_and;
        let mut assigned = Vec::new();
        while let Some((name, value)) = pieces.first().and_then(|word| token::assignment(word)) {
            let value = self.variables.word(&value, line)?;
            assigned.push((name.to_owned(), value));
            pieces = &pieces[1..];
        }
        let mut words = Vec::new();
        for word in pieces {
            // `export A=$B` splits nothing.
            match token::assignment(word) {
                Some((name, value)) => {
                    let mut word = self.variables.word(&value, line)?;
                    word.text.insert_str(0, &format!("{name}="));
                    words.push(word);
                }
                None => self.variables.words(word, &mut words, line)?,
            }
        }
        let Some(program) = words.first().map(|word| word.text.clone()) else {
            for (name, value) in assigned {
                self.variables.set(&name, value, conditional, line)?;
            }
            return Ok(());
        };
        match program.as_str() {
            "export" | "readonly" | "declare" | "typeset" | "local" => {
                for word in words.into_iter().skip(1).filter(|word| !word.text.starts_with('-')) {
                    let name = match word.text.split_once('=') {
                        Some((name, value)) => {
                            let value = Word { text: value.to_owned(), ..word.clone() };
                            self.variables.set(name, value, conditional, line)?;
                            name
                        }
                        None => word.text.as_str(),
                    };
                    if program == "export" {
                        self.variables.export(name);
                    }
                }
            }
            "unset" => words.iter().skip(1).for_each(|word| self.variables.unset(&word.text)),
            "." | "source" => self.sourced.extend(words.into_iter().nth(1)),
            _ => self.candidate(words, assigned, line, conditional),
        }
        Ok(())
    }

    /// A command that may be the chain: the first `exec`, rather one that always runs; without any `exec` the last
    /// command that begins with a program of this field.
    fn candidate(
        &mut self,
        mut words: Vec<Word>,
        assigned: Vec<(String, Word)>,
        line: usize,
        conditional: bool,
    ) {
        let exec = words.first().is_some_and(|word| word.text == "exec");
        if exec {
            words.remove(0);
            while let Some(option) = words.first().filter(|word| word.text.starts_with('-')) {
                let named = option.text == "-a";
                words.drain(..if named { words.len().min(2) } else { 1 });
            }
        }
        // `exec 2>&1` goes on.
        let Some(first) = words.first() else { return };
        if !exec && !chain::is_known(first.base()) {
            return;
        }
        let better = match &self.found {
            None => true,
            Some(found) if exec => !found.exec || (found.conditional && !conditional),
            Some(found) => !found.exec && (found.conditional || !conditional),
        };
        if better {
            let mut environment = self.variables.exported();
            assigned.into_iter().for_each(|(name, value)| chain::assign(&mut environment, name, value));
            self.found = Some(Found { words, environment, line, conditional, exec });
        }
    }

    fn finish(self) -> RunScript {
        let Some(mut found) = self.found else {
            return RunScript { sourced: self.sourced, ..RunScript::default() };
        };
        let chain = chain::chain(&found.words);
        for program in &chain {
            if let Kind::Env { clear, set } = &program.kind {
                if *clear {
                    found.environment.clear();
                }
                for (name, value) in set {
                    chain::assign(&mut found.environment, name.clone(), value.clone());
                }
            }
        }
        RunScript {
            environment: found.environment,
            chain,
            sourced: self.sourced,
            line: found.line,
            conditional: found.conditional,
        }
    }
}
