//! The words of a shell script, before expansion.

use super::Error;

/// Brackets in brackets.
const DEPTH_MAX: usize = 16;

/// A part of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word, never without a piece.
    Word(Vec<Piece>),
    /// The end of a command.
    End,
    /// `&&` or `||`: the end of a command, and the next one depends on it.
    Conditional,
    /// `|`.
    Pipe,
}

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) what: What,
    /// Whether the value stays one word.
    pub(super) quoted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Literal(String),
    /// `$NAME`, `${NAME}`, and with `otherwise` `${NAME:-WORD}`, `${NAME-WORD}`, `${NAME:=WORD}`, `${NAME=WORD}`.
    Variable {
        name: String,
        otherwise: Option<Vec<Piece>>,
        raw: String,
    },
    /// `` `COMMAND` `` or `$(COMMAND)`.
    Command(String),
    /// What only a running shell knows.
    Raw(String),
}

/// The text of a word without expansions and quotes: a keyword is one.
pub(super) fn literal(word: &[Piece]) -> Option<&str> {
    match word {
        [Piece { what: What::Literal(text), quoted: false }] => Some(text),
        _ => None,
    }
}

/// Name and value of a word `NAME=VALUE`.
pub(super) fn assignment(word: &[Piece]) -> Option<(&str, Vec<Piece>)> {
    let Some((Piece { what: What::Literal(text), quoted: false }, rest)) = word.split_first() else {
        return None;
    };
    let (name, value) = text.split_once('=')?;
    if !is_name(name) {
        return None;
    }
    let first = Piece { what: What::Literal(value.to_owned()), quoted: false };
    Some((name, [&[first], rest].concat()))
}

pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The tokens, each with its line. Redirections are left out, and what stands behind `<<`.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, Error> {
    let mut lexer = Lexer::new(text, 1, 0);
    let mut tokens = Vec::new();
    // The next word is the file of a redirection.
    let mut target = false;
    while let Some(c) = lexer.peek() {
        let line = lexer.line;
        match c {
            ' ' | '\t' | '\r' => lexer.skip(),
            '#' => {
                while lexer.peek().is_some_and(|c| c != '\n') {
                    lexer.skip();
                }
            }
            '\\' if lexer.second() == Some('\n') => {
                lexer.skip();
                lexer.skip();
            }
            '\n' | ';' | '(' | ')' => {
                lexer.skip();
                target = false;
                tokens.push((Token::End, line));
            }
            '&' | '|' => {
                lexer.skip();
                let double = lexer.peek() == Some(c);
                if double {
                    lexer.skip();
                }
                tokens.push(match (c, double) {
                    (_, true) => (Token::Conditional, line),
                    ('|', false) => (Token::Pipe, line),
                    (_, false) => (Token::End, line),
                });
            }
            '<' | '>' => {
                lexer.skip();
                if c == '<' && lexer.peek() == Some('<') {
                    return Ok(tokens);
                }
                while lexer.peek().is_some_and(|c| "<>&|".contains(c)) {
                    lexer.skip();
                }
                target = true;
            }
            _ => {
                let word = lexer.word(Until::Blank)?;
                let number = literal(&word).is_some_and(|text| text.bytes().all(|b| b.is_ascii_digit()));
                let descriptor = number && lexer.peek().is_some_and(|c| "<>".contains(c));
                if !std::mem::take(&mut target) && !descriptor {
                    tokens.push((Token::Word(word), line));
                }
            }
        }
    }
    Ok(tokens)
}

/// Where a word ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// At a blank or an operator.
    Blank,
    /// At the `}` of `${NAME:-WORD}`.
    Brace,
    /// At the closing quote.
    Quote,
}

struct Lexer<'a> {
    rest: std::str::Chars<'a>,
    line: usize,
    depth: usize,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str, line: usize, depth: usize) -> Self {
        Self { rest: text.chars(), line, depth }
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn second(&self) -> Option<char> {
        self.rest.clone().nth(1)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn skip(&mut self) {
        self.next();
    }

    fn word(&mut self, until: Until) -> Result<Vec<Piece>, Error> {
        let mut word = Word { pieces: Vec::new(), quoted: until == Until::Quote };
        while let Some(c) = self.peek() {
            match (c, until) {
                (' ' | '\t' | '\n' | '\r' | ';' | '&' | '|' | '<' | '>' | '(' | ')', Until::Blank)
                | ('}', Until::Brace)
                | ('"', Until::Quote) => break,
                ('\\', _) => {
                    self.skip();
                    match self.next() {
                        Some('\n') | None => (),
                        Some(c) if until == Until::Quote && !"$`\"\\".contains(c) => {
                            word.push('\\', true);
                            word.push(c, true);
                        }
                        Some(c) => word.push(c, true),
                    }
                }
                ('\'', Until::Blank | Until::Brace) => {
                    self.skip();
                    let text = self.through('\'', "'")?;
                    word.pieces.push(Piece { what: What::Literal(text), quoted: true });
                }
                ('"', Until::Blank | Until::Brace) => {
                    let line = self.line;
                    self.skip();
                    let inner = self.deeper(Until::Quote)?;
                    self.close('"', line, "\"")?;
                    // `""` is a word.
                    word.pieces.push(Piece { what: What::Literal(String::new()), quoted: true });
                    word.pieces.extend(inner);
                }
                ('`', _) => {
                    self.skip();
                    let command = self.through('`', "`")?;
                    word.piece(What::Command(command));
                }
                ('$', _) => {
                    self.skip();
                    let what = self.dollar(until == Until::Quote)?;
                    word.piece(what);
                }
                (c, _) => {
                    self.skip();
                    word.push(c, until == Until::Quote);
                }
            }
        }
        Ok(word.pieces)
    }

    fn deeper(&mut self, until: Until) -> Result<Vec<Piece>, Error> {
        if self.depth == DEPTH_MAX {
            return Err(Error::Depth(self.line));
        }
        self.depth += 1;
        let word = self.word(until);
        self.depth -= 1;
        word
    }

    fn close(&mut self, closing: char, line: usize, opened: &'static str) -> Result<(), Error> {
        if self.next() == Some(closing) { Ok(()) } else { Err(Error::Open { line, opened }) }
    }

    /// Everything up to the closing character. A backslash in backquotes quotes the next one.
    fn through(&mut self, closing: char, opened: &'static str) -> Result<String, Error> {
        let line = self.line;
        let mut text = String::new();
        loop {
            match self.next() {
                Some(c) if c == closing => return Ok(text),
                Some('\\') if closing == '`' => text.extend(self.next().filter(|c| *c != '\n')),
                Some(c) => text.push(c),
                None => return Err(Error::Open { line, opened }),
            }
        }
    }

    /// What stands behind a `$`.
    fn dollar(&mut self, quoted: bool) -> Result<What, Error> {
        let line = self.line;
        match self.peek() {
            Some('(') => {
                self.skip();
                let text = self.brackets(line)?;
                let arithmetic = text.starts_with('(');
                Ok(if arithmetic { What::Raw(format!("$({text})")) } else { What::Command(text) })
            }
            Some('{') => {
                self.skip();
                let before = self.rest.as_str();
                let name = self.name();
                let mut otherwise = None;
                let with_colon = self.peek() == Some(':');
                if with_colon && self.second().is_some_and(|c| "-=".contains(c)) {
                    self.skip();
                }
                let raw = |rest: &str| format!("${{{}", &before[..before.len() - rest.len()]);
                match self.peek() {
                    Some('}') => (),
                    Some('-' | '=') if !name.is_empty() => {
                        self.skip();
                        let until = if quoted { "\"" } else { "" };
                        otherwise = Some(self.otherwise(until)?);
                    }
                    _ => {
                        self.deeper(Until::Brace)?;
                        self.close('}', line, "${")?;
                        return Ok(What::Raw(raw(self.rest.as_str())));
                    }
                }
                self.close('}', line, "${")?;
                Ok(What::Variable { name, otherwise, raw: raw(self.rest.as_str()) })
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.name();
                let raw = format!("${name}");
                Ok(What::Variable { name, otherwise: None, raw })
            }
            Some(c) if c.is_ascii_digit() || "@*#?$!-".contains(c) => {
                self.skip();
                Ok(What::Raw(format!("${c}")))
            }
            _ => Ok(What::Literal("$".to_owned())),
        }
    }

    /// The default of a variable. Within quotes it is quoted as a whole.
    fn otherwise(&mut self, quote: &str) -> Result<Vec<Piece>, Error> {
        let mut pieces = self.deeper(Until::Brace)?;
        if !quote.is_empty() {
            pieces.iter_mut().for_each(|piece| piece.quoted = true);
        }
        Ok(pieces)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
            self.skip();
        }
        name
    }

    /// Everything up to the bracket that closes `$(`; quotes may hold brackets.
    fn brackets(&mut self, line: usize) -> Result<String, Error> {
        let (mut text, mut open, mut quote) = (String::new(), 1, None);
        while let Some(c) = self.next() {
            match (c, quote) {
                ('\\', Some('"') | None) => {
                    text.push(c);
                    text.extend(self.next());
                    continue;
                }
                ('\'' | '"', None) => quote = Some(c),
                (c, Some(closing)) if c == closing => quote = None,
                ('(', None) => open += 1,
                (')', None) => open -= 1,
                _ => (),
            }
            if open == 0 {
                return Ok(text);
            }
            text.push(c);
        }
        Err(Error::Open { line, opened: "$(" })
    }
}

struct Word {
    pieces: Vec<Piece>,
    quoted: bool,
}

impl Word {
    fn push(&mut self, c: char, quoted: bool) {
        match self.pieces.last_mut() {
            Some(Piece { what: What::Literal(text), quoted: own }) if *own == quoted => text.push(c),
            _ => self.pieces.push(Piece { what: What::Literal(c.to_string()), quoted }),
        }
    }

    fn piece(&mut self, what: What) {
        self.pieces.push(Piece { what, quoted: self.quoted });
    }
}
