//! Variables, and what stands for something else in a word.

use super::token::{Piece, Token, What, literal, tokens};
use super::{Error, Question, TEXT_MAX, Word, base};

/// Commands in commands, and defaults in defaults.
const DEPTH_MAX: usize = 8;

/// A word remembers so many of its questions.
const ASKED_MAX: usize = 16;

/// The variables of a script as it runs.
pub(super) struct Variables<'a> {
    answer: &'a dyn Fn(&Question) -> Option<String>,
    entries: Vec<Variable>,
    /// Bytes that may still be made.
    left: usize,
}

struct Variable {
    name: String,
    value: Option<Word>,
    exported: bool,
}

impl<'a> Variables<'a> {
    pub(super) fn new(answer: &'a dyn Fn(&Question) -> Option<String>) -> Self {
        Self { answer, entries: Vec::new(), left: TEXT_MAX }
    }

    fn entry(&mut self, name: &str) -> &mut Variable {
        let at = self.entries.iter().position(|own| own.name == name).unwrap_or_else(|| {
            self.entries.push(Variable { name: name.to_owned(), value: None, exported: false });
            self.entries.len() - 1
        });
        &mut self.entries[at]
    }

    /// Sets a variable. Under a condition only one that has no value yet: the script makes sure that it has one.
    pub(super) fn set(
        &mut self,
        name: &str,
        value: Word,
        conditional: bool,
        line: usize,
    ) -> Result<(), Error> {
        self.spend(name.len(), line)?;
        let own = self.entry(name);
        if !conditional || own.value.as_ref().is_none_or(|own| own.text.is_empty()) {
            own.value = Some(value);
        }
        Ok(())
    }

    pub(super) fn export(&mut self, name: &str) {
        self.entry(name).exported = true;
    }

    pub(super) fn unset(&mut self, name: &str) {
        self.entries.retain(|own| own.name != name);
    }

    pub(super) fn exported(&self) -> Vec<(String, Word)> {
        let exported = self.entries.iter().filter(|own| own.exported);
        exported.filter_map(|own| Some((own.name.clone(), own.value.clone()?))).collect()
    }

    /// Expands what stays one word, as the value of an assignment does.
    pub(super) fn word(&mut self, pieces: &[Piece], line: usize) -> Result<Word, Error> {
        self.joined(pieces, line, 0)
    }

    /// Expands a word into none, one or several.
    pub(super) fn words(
        &mut self,
        pieces: &[Piece],
        words: &mut Vec<Word>,
        line: usize,
    ) -> Result<(), Error> {
        self.split(pieces, words, line, 0)
    }

    fn spend(&mut self, bytes: usize, line: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes + 1).ok_or(Error::Long(line))?;
        Ok(())
    }

    fn joined(&mut self, pieces: &[Piece], line: usize, depth: usize) -> Result<Word, Error> {
        let mut word = Word::default();
        for (n, piece) in pieces.iter().enumerate() {
            let value = self.piece(piece, n == 0, line, depth)?;
            self.spend(value.text.len(), line)?;
            append(&mut word, value);
        }
        Ok(word)
    }

    fn split(
        &mut self,
        pieces: &[Piece],
        words: &mut Vec<Word>,
        line: usize,
        depth: usize,
    ) -> Result<(), Error> {
        let mut word: Option<Word> = None;
        for (n, piece) in pieces.iter().enumerate() {
            let value = self.piece(piece, n == 0, line, depth)?;
            self.spend(value.text.len(), line)?;
            let whole =
                piece.quoted || matches!(piece.what, What::Literal(_)) || !value.unresolved.is_empty();
            if whole {
                append(word.get_or_insert_default(), value);
                continue;
            }
            let blank = |c: char| c.is_ascii_whitespace();
            if value.text.starts_with(blank) {
                words.extend(word.take());
            }
            let mut fields = value.text.split_ascii_whitespace().peekable();
            while let Some(field) = fields.next() {
                let field =
                    Word { text: field.to_owned(), asked: value.asked.clone(), unresolved: Vec::new() };
                append(word.get_or_insert_default(), field);
                if fields.peek().is_some() || value.text.ends_with(blank) {
                    words.extend(word.take());
                }
            }
        }
        words.extend(word);
        Ok(())
    }

    fn piece(&mut self, piece: &Piece, first: bool, line: usize, depth: usize) -> Result<Word, Error> {
        match &piece.what {
            What::Literal(text) => match text.strip_prefix('~') {
                Some(rest) if first && !piece.quoted => Ok(self.home(rest)),
                _ => Ok(Word::from(text.as_str())),
            },
            What::Raw(raw) => Ok(unresolved(raw)),
            What::Command(_) | What::Variable { otherwise: Some(_), .. } if depth == DEPTH_MAX => {
                Err(Error::Depth(line))
            }
            What::Command(command) => self.command(command, line, depth + 1),
            What::Variable { name, otherwise, raw } => {
                let own = self.entries.iter().find(|own| own.name == *name);
                let value = own.and_then(|own| own.value.clone());
                match (value, otherwise) {
                    (Some(value), None) => Ok(value),
                    (Some(value), Some(_)) if !value.text.is_empty() => Ok(value),
                    (_, Some(otherwise)) => self.joined(otherwise, line, depth + 1),
                    (None, None) => Ok(unresolved(raw)),
                }
            }
        }
    }

    /// `~NAME/REST`.
    fn home(&self, text: &str) -> Word {
        let (name, rest) = text.split_at(text.find('/').unwrap_or(text.len()));
        let question = Question::Home(name.to_owned());
        match (self.answer)(&question).filter(|_| !name.is_empty()) {
            Some(home) => Word { text: home + rest, asked: vec![question], unresolved: Vec::new() },
            None => unresolved(&format!("~{text}")),
        }
    }

    /// What a command would print, if it is one of those that can be answered.
    fn command(&mut self, command: &str, line: usize, depth: usize) -> Result<Word, Error> {
        let raw = format!("`{command}`");
        let Ok(tokens) = tokens(command) else { return Ok(unresolved(&raw)) };
        let mut words = Vec::new();
        for (token, _) in &tokens {
            let Token::Word(pieces) = token else { return Ok(unresolved(&raw)) };
            if literal(pieces) != Some("command") {
                self.split(pieces, &mut words, line, depth)?;
            }
        }
        let known: Option<Vec<&str>> = words.iter().map(Word::known).collect();
        let Some(question) = known.and_then(|words| question(&words)) else { return Ok(unresolved(&raw)) };
        match (self.answer)(&question) {
            Some(text) => {
                self.spend(text.len(), line)?;
                let text = text.trim_end_matches('\n').to_owned();
                Ok(Word { text, asked: vec![question], unresolved: Vec::new() })
            }
            None => Ok(unresolved(&raw)),
        }
    }
}

fn question(words: &[&str]) -> Option<Question> {
    let (program, arguments) = words.split_first()?;
    Some(match (base(program), arguments) {
        ("cat", [file]) => Question::Cat((*file).to_owned()),
        ("head", ["-1" | "-n1", file] | ["-n", "1", file]) => Question::FirstLine((*file).to_owned()),
        ("id", ["-u" | "-ur", name]) => Question::Uid((*name).to_owned()),
        ("id", ["-g" | "-gr", name]) => Question::Gid((*name).to_owned()),
        ("hostname", [] | ["-f" | "--fqdn"]) | ("uname", ["-n"]) => Question::Hostname,
        _ => return None,
    })
}

fn unresolved(raw: &str) -> Word {
    Word { text: raw.to_owned(), asked: Vec::new(), unresolved: vec![raw.to_owned()] }
}

/// Values that are put together again and again must not remember more and more.
fn append(word: &mut Word, more: Word) {
    word.text.push_str(&more.text);
    word.asked.extend(more.asked);
    word.asked.truncate(ASKED_MAX);
    word.unresolved.extend(more.unresolved);
    word.unresolved.truncate(ASKED_MAX);
}
