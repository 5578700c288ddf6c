//! Which field stands where in a RON text: for the origin of values and for errors that name the field.
//!
//! A scanner, not a parser: it follows strings, comments, brackets and `key:`; what is not valid RON the parser refuses.

/// A field and where its key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Field names from the outside in, joined by dots.
    pub(crate) path: String,
    /// Line of the key, from 1.
    pub(crate) line: usize,
    /// Column of the key in characters, from 1.
    pub(crate) column: usize,
}

/// Deeper nesting than this is not followed; the parser's own limit is in the same range.
const DEPTH: usize = 128;

/// The fields of a text in the order of their keys.
pub(crate) fn places(text: &str) -> Vec<Place> {
    let mut scan = Scan { rest: text.chars().collect(), at: 0, line: 1, column: 1 };
    let mut found = Vec::new();
    // One name for every open bracket: the key whose value the bracket belongs to.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut key: Option<String> = None;
    let mut candidate: Option<(String, usize, usize)> = None;
    while let Some(c) = scan.peek(0) {
        let (line, column) = (scan.line, scan.column);
        match c {
            '/' if matches!(scan.peek(1), Some('/' | '*')) => scan.comment(),
            '"' => candidate = Some((scan.string(), line, column)),
            'r' if matches!(scan.peek(1), Some('"' | '#')) => {
                candidate = Some((scan.raw_string(), line, column))
            }
            c if c == '_' || c.is_alphabetic() => candidate = Some((scan.word(), line, column)),
            ':' => {
                scan.next();
                if let Some((name, line, column)) = candidate.take() {
                    let path: Vec<&str> =
                        open.iter().filter_map(Option::as_deref).chain([name.as_str()]).collect();
                    found.push(Place { path: path.join("."), line, column });
                    key = Some(name);
                }
            }
            '(' | '[' | '{' => {
                scan.next();
                candidate = None;
                if open.len() == DEPTH {
                    return found;
                }
                open.push(key.take());
            }
            ')' | ']' | '}' => {
                scan.next();
                candidate = None;
                key = None;
                open.pop();
            }
            ',' => {
                scan.next();
                candidate = None;
                key = None;
            }
            c => {
                scan.next();
                if !c.is_whitespace() {
                    candidate = None;
                }
            }
        }
    }
    found
}

/// The last field whose key stands at or before this position.
pub(crate) fn field_at(places: &[Place], line: usize, column: usize) -> Option<&Place> {
    places.iter().rev().find(|place| (place.line, place.column) <= (line, column))
}

struct Scan {
    rest: Vec<char>,
    at: usize,
    line: usize,
    column: usize,
}

impl Scan {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek(0)?;
        self.at += 1;
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek(0).filter(|&c| c == '_' || c == '-' || c.is_alphanumeric()) {
            word.push(c);
            self.next();
        }
        word
    }

    fn string(&mut self) -> String {
        self.next();
        let mut text = String::new();
        while let Some(c) = self.next() {
            match c {
                '"' => break,
                '\\' => text.extend(self.next()),
                c => text.push(c),
            }
        }
        text
    }

    fn raw_string(&mut self) -> String {
        let mut text = String::from("r");
        self.next();
        let mut hashes = 0;
        while self.peek(0) == Some('#') {
            self.next();
            hashes += 1;
        }
        if self.peek(0) != Some('"') {
            // `r#name` is an identifier.
            return self.word();
        }
        self.next();
        text.clear();
        while let Some(c) = self.next() {
            if c == '"' && (0..hashes).all(|n| self.peek(n) == Some('#')) {
                (0..hashes).for_each(|_| {
                    self.next();
                });
                break;
            }
            text.push(c);
        }
        text
    }

    fn comment(&mut self) {
        self.next();
        if self.next() == Some('/') {
            while self.next().is_some_and(|c| c != '\n') {}
            return;
        }
        let mut depth = 1;
        while depth > 0 {
            match (self.next(), self.peek(0)) {
                (None, _) => return,
                (Some('*'), Some('/')) => {
                    self.next();
                    depth -= 1;
                }
                (Some('/'), Some('*')) => {
                    self.next();
                    depth += 1;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_with_their_paths() {
        let text = r##"
( // a: comment
  grace: "20s", /* b: (c: /* d: */ ) */
  log: (format: json, level: "in(fo"),
  services: { "smtpd": smtpd(listen: ["127.0.0.1:25"], per_ip: 16),
              r#"me"trics"#: metrics(listen: "x") },
)"##;
        let found: Vec<(String, usize)> =
            places(text).into_iter().map(|place| (place.path, place.line)).collect();
        let expected = [
            ("grace", 3),
            ("log", 4),
            ("log.format", 4),
            ("log.level", 4),
            ("services", 5),
            ("services.smtpd", 5),
            ("services.smtpd.listen", 5),
            ("services.smtpd.per_ip", 5),
            ("services.me\"trics", 6),
            ("services.me\"trics.listen", 6),
        ];
        assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    }

    #[test]
    fn an_unfinished_text_ends() {
        for text in ["(a: \"", "/* ", "r##\"", "(((", ")))", "a:b:c:", "\"\\"] {
            places(text);
        }
    }
}
