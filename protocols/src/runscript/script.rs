//! The commands of a script in their order: what they set, and which of them is the chain.

use super::chain;
use super::expand::Variables;
use super::token::{self, Piece};
use super::{Error, Question, RunScript, Word};

/// A script, command by command.
pub(super) struct Script<'a> {
    variables: Variables<'a>,
    sourced: Vec<Word>,
    /// How many of `if`, `for`, `while`, `case` are open.
    guards: usize,
    /// Whether the command stands behind `&&` or `||`.
    pub(super) after_and: bool,
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

impl<'a> Script<'a> {
    pub(super) fn new(answer: &'a dyn Fn(&Question) -> Option<String>) -> Self {
        Self {
            variables: Variables::new(answer),
            sourced: Vec::new(),
            guards: 0,
            after_and: false,
            found: None,
        }
    }

    /// One simple command: assignments, words.
    pub(super) fn command(&mut self, command: &[Vec<Piece>], line: usize) -> Result<(), Error> {
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

    pub(super) fn finish(self) -> RunScript {
        let Some(mut found) = self.found else {
            return RunScript { sourced: self.sourced, ..RunScript::default() };
        };
        let chain = chain::chain(&found.words);
        chain::environment(&chain, &mut found.environment);
        RunScript {
            environment: found.environment,
            chain,
            sourced: self.sourced,
            line: found.line,
            conditional: found.conditional,
        }
    }
}
