//! `control/badmailfrom`, `badrcptto`, `badhelo` and their `norelay` forms (qmail-smtpd; the qregex patch): senders,
//! recipients and HELO names that are refused.
//!
//! A line is a POSIX extended regular expression, case ignored, that matches anywhere in the address unless anchored; with
//! `!` before it, it is for whatever does not match. In the lists of senders a line of the stock file keeps its meaning:
//!
//! - `user@dom.tld` and `@dom.tld`, that is an `@` and none of ``\ ^ $ * + ? ( ) [ ] { } |``, and no `!` in front: the
//!   sender is this, or its part from the last `@` on is. It is no regular expression: `@dom.tld` does not match
//!   `x@dom.tld.example`, as under qregex it would.
//! - `user+tag@dom.tld` and what else has such characters: matches as a regular expression, and as the stock line too.
//! - Without `@`: a regular expression.

pub mod log;

use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};

/// Longest line that is a regular expression, in bytes.
pub const MAX_LINE: usize = 1000;

/// Regular expressions in one file.
pub const MAX_PATTERNS: usize = 1000;

/// Bytes that one compiled expression, and its cache while it matches, may take.
const MAX_COMPILED: usize = 256 * 1024;

/// Parentheses and brackets within each other.
const MAX_NESTING: u32 = 50;

/// A line that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// No regular expression, or too large a one.
    #[error(
        "`{line}` is no regular expression: {reason}; allowed: POSIX extended ones, `!` in front to negate"
    )]
    Pattern {
        /// The line.
        line: String,
        /// What the parser says.
        reason: String,
    },
    /// Too long.
    #[error("`{0}`… is too long; allowed: regular expressions of at most {MAX_LINE} bytes")]
    Long(String),
    /// Too many lines.
    #[error("`{0}` is one too many; allowed: {MAX_PATTERNS} regular expressions")]
    Many(String),
}

/// The lines of one file.
#[derive(Debug, Clone, Default)]
pub struct BadList {
    stock: Stock,
    patterns: Vec<Pattern>,
    senders: bool,
}

/// Stock lines, of which there may be hundreds of thousands: 4 bytes each beside the text.
#[derive(Debug, Clone, Default)]
struct Stock {
    /// Lines, one behind the other, each with its newline.
    text: Vec<u8>,
    /// Where each begins.
    begins: Vec<u32>,
    /// The same in the order of the lines in lower case, equal ones in the file's order; made when it is first asked for.
    sorted: OnceLock<Vec<u32>>,
}

impl Stock {
    /// Adds a line. False: there is no room for it.
    fn add(&mut self, line: &[u8]) -> bool {
        let Ok(begin) = u32::try_from(self.text.len()) else { return false };
        self.text.extend_from_slice(line);
        self.text.push(b'\n');
        self.begins.push(begin);
        self.sorted.take();
        true
    }

    fn line(&self, begin: u32) -> &[u8] {
        let from = self.text.get(begin as usize..).unwrap_or_default();
        &from[..memchr::memchr(b'\n', from).unwrap_or(from.len())]
    }

    /// The first line that is `address`, case ignored.
    fn find(&self, address: &[u8]) -> Option<&[u8]> {
        let order = |line: &[u8], other: &[u8]| {
            line.iter().map(u8::to_ascii_lowercase).cmp(other.iter().map(u8::to_ascii_lowercase))
        };
        let sorted = self.sorted.get_or_init(|| {
            let mut sorted = self.begins.clone();
            sorted.sort_by(|a, b| order(self.line(*a), self.line(*b)));
            sorted
        });
        let at = sorted.partition_point(|begin| order(self.line(*begin), address).is_lt());
        let found = self.line(*sorted.get(at)?);
        order(found, address).is_eq().then_some(found)
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    line: String,
    negated: bool,
    regex: Regex,
}

/// The line that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match<'a> {
    /// As the file has it, `!` included.
    pub line: &'a str,
    /// Matched as stock qmail matches, not as a regular expression.
    pub stock: bool,
}

impl BadList {
    /// An empty `badmailfrom` or `badmailfromnorelay`: takes stock lines and regular expressions, and never has the null
    /// sender.
    pub fn senders() -> Self {
        Self { senders: true, ..Self::default() }
    }

    /// An empty `badrcptto`, `badhelo` or `norelay` form of them: every line is a regular expression.
    pub fn patterns() -> Self {
        Self::default()
    }

    /// Adds a line of the file.
    pub fn add(&mut self, line: &[u8]) -> Result<(), Bad> {
        let shown = || String::from_utf8_lossy(line).into_owned();
        let is_stock = self.senders && line.contains(&b'@') && !line.starts_with(b"!");
        if is_stock {
            if !self.stock.add(line) {
                return Err(Bad::Many(shown()));
            }
            if !line.iter().any(|b| br"\^$*+?()[]{}|".contains(b)) {
                return Ok(());
            }
        }
        if line.len() > MAX_LINE {
            return Err(Bad::Long(String::from_utf8_lossy(&line[..60]).into_owned()));
        }
        if self.patterns.len() >= MAX_PATTERNS {
            return Err(Bad::Many(shown()));
        }
        let bad = |reason: String| Bad::Pattern { line: shown(), reason };
        let text = std::str::from_utf8(line).map_err(|error| bad(error.to_string()))?;
        let (negated, expression) = match text.strip_prefix('!') {
            Some(expression) => (true, expression),
            None => (false, text),
        };
        let regex = RegexBuilder::new(expression)
            .unicode(false)
            .case_insensitive(true)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .nest_limit(MAX_NESTING)
            .build()
            .map_err(|error| bad(reason(&error)))?;
        self.patterns.push(Pattern { line: text.to_owned(), negated, regex });
        Ok(())
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.stock.begins.is_empty() && self.patterns.is_empty()
    }

    /// The line that this address or name is on, if any: a stock line, else the first expression in the file's order.
    /// Takes time in proportion to the length of `subject`, whatever the expressions are.
    pub fn matches(&self, subject: &[u8]) -> Option<Match<'_>> {
        if self.senders && subject.is_empty() {
            return None;
        }
        let host = memchr::memrchr(b'@', subject).map(|at| &subject[at..]);
        if let Some(line) = self.stock.find(subject).or_else(|| self.stock.find(host?)) {
            let line = std::str::from_utf8(line).unwrap_or("(a line that is not UTF-8)");
            return Some(Match { line, stock: true });
        }
        let found = self.patterns.iter().find(|pattern| pattern.regex.is_match(subject) != pattern.negated);
        found.map(|pattern| Match { line: &pattern.line, stock: false })
    }
}

/// The parser draws a picture of several lines; the last says what is wrong.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn senders(lines: &[&str]) -> BadList {
        filled(BadList::senders(), lines)
    }

    fn patterns(lines: &[&str]) -> BadList {
        filled(BadList::patterns(), lines)
    }

    fn filled(mut list: BadList, lines: &[&str]) -> BadList {
        lines.iter().for_each(|line| list.add(line.as_bytes()).unwrap());
        list
    }

    fn matched<'a>(list: &'a BadList, subject: &str) -> Option<(&'a str, bool)> {
        list.matches(subject.as_bytes()).map(|found| (found.line, found.stock))
    }

    #[test]
    fn stock_lines_match_as_they_always_did() {
        let list = senders(&["spam@example.org", "@Bad.example", "u+tag@plus.example"]);
        for (sender, expected) in [
            ("spam@example.org", Some(("spam@example.org", true))),
            ("SPAM@Example.ORG", Some(("spam@example.org", true))),
            ("ham@example.org", None),
            ("xspam@example.org", None),
            ("spam@example.org.example", None),
            ("spam@examplexorg", None),
            ("any@bad.example", Some(("@Bad.example", true))),
            ("a@b@BAD.example", Some(("@Bad.example", true))),
            ("any@bad.example@good.example", None),
            ("any@sub.bad.example", None),
            ("bad.example", None),
            ("u+tag@plus.example", Some(("u+tag@plus.example", true))),
            ("xuutag@plus.example", Some(("u+tag@plus.example", false))),
            ("", None),
        ] {
            assert_eq!(matched(&list, sender), expected, "{sender}");
        }
    }

    #[test]
    fn of_many_lines_each_is_found_and_of_equal_ones_the_first() {
        let lines: Vec<String> = (0..3000).map(|n| format!("User{n}@{}.Example", n % 7)).collect();
        let mut list = BadList::senders();
        for line in &lines {
            list.add(line.as_bytes()).unwrap();
            // Asked while it grows.
            if line.starts_with("User1000@") {
                assert!(matched(&list, "user999@5.example").is_some());
            }
        }
        list.add(b"USER7@0.example").unwrap();
        list.add(b"\xff@latin.example").unwrap();
        assert!(list.matches(b"\xff@LATIN.example").is_some_and(|found| found.stock));
        for line in &lines {
            assert_eq!(matched(&list, &line.to_uppercase()), Some((&**line, true)));
        }
        assert_eq!(matched(&list, "user3000@4.example"), None);
        assert_eq!(matched(&list, "user7@0.exampl"), None);
    }

    #[test]
    fn expressions() {
        for (line, subject, expected) in [
            ("viagra", "Buy-VIAGRA@x.example", true),
            (".tld", "a@xtld", true),
            (r"\.tld$", "a@x.tld", true),
            (r"\.tld$", "a@x.tld.example", false),
            ("^[0-9]+@", "123@x.example", true),
            ("^[0-9]+@", "a123@x.example", false),
            ("[[:digit:]]{4}", "ab1234@x.example", true),
            ("[[:digit:]]{4}", "ab123@x.example", false),
            ("^(joe|jim)@x\\.example$", "JIM@X.EXAMPLE", true),
            ("!@", "nodomain", true),
            ("!@", "a@b", false),
            (r"!\.example$", "a@x.test", true),
            (r"!\.example$", "a@x.example", false),
            (".*@bad.example", "a@bad.example.com", true),
            ("^.$", "\u{e9}", false),
            ("^..$", "\u{e9}", true),
        ] {
            for list in [senders(&[line]), patterns(&[line])] {
                assert_eq!(matched(&list, subject).is_some(), expected, "{line} {subject}");
            }
        }
    }

    #[test]
    fn lists_of_recipients_and_names_have_no_stock_lines() {
        let list = patterns(&["@bad.example", "^localhost$"]);
        for (subject, expected) in [
            ("a@bad.example.com", Some(("@bad.example", false))),
            ("a@BADxexample", Some(("@bad.example", false))),
            ("localhost", Some(("^localhost$", false))),
            ("localhost.example", None),
            ("", None),
        ] {
            assert_eq!(matched(&list, subject), expected, "{subject}");
        }
    }

    #[test]
    fn the_null_sender_is_never_listed_but_a_missing_name_may_be() {
        for line in ["!.", "^$", ".*"] {
            assert_eq!(senders(&[line]).matches(b""), None, "{line}");
            assert!(patterns(&[line]).matches(b"").is_some(), "{line}");
        }
    }

    #[test]
    fn the_first_expression_counts() {
        let list = patterns(&["two", "one", "on"]);
        assert_eq!(matched(&list, "one-two"), Some(("two", false)));
        assert_eq!(matched(&list, "one"), Some(("one", false)));
    }

    #[test]
    fn bad_lines() {
        let long = "x".repeat(MAX_LINE + 1);
        let pattern = |line: &str, reason: &str| Bad::Pattern { line: line.into(), reason: reason.into() };
        for (line, bad) in [
            ("a(b", pattern("a(b", "unclosed group")),
            ("*.example", pattern("*.example", "repetition operator missing expression")),
            ("!*x@y", pattern("!*x@y", "repetition operator missing expression")),
            ("[[:alpah:]", pattern("[[:alpah:]", "unclosed character class")),
            (&long, Bad::Long("x".repeat(60))),
        ] {
            assert_eq!(BadList::senders().add(line.as_bytes()), Err(bad), "{line}");
        }
        let huge = BadList::patterns().add(b"(x{200}){200}").unwrap_err().to_string();
        assert!(huge.contains("(x{200}){200}") && huge.contains("size limit"), "{huge}");
        let deep = "(".repeat(60) + &")".repeat(60);
        assert!(matches!(BadList::patterns().add(deep.as_bytes()), Err(Bad::Pattern { .. })));
        assert!(matches!(BadList::patterns().add(b"\xff"), Err(Bad::Pattern { .. })));
    }

    #[test]
    fn expressions_are_limited_in_number_and_stock_lines_are_not() {
        let lines: Vec<String> = (0..=MAX_PATTERNS).map(|n| format!("{n}@x.example")).collect();
        let mut stock = BadList::senders();
        assert!(lines.iter().all(|line| stock.add(line.as_bytes()).is_ok()));
        assert!(stock.matches(b"1000@x.example").is_some());
        let mut list = BadList::patterns();
        assert!(lines[..MAX_PATTERNS].iter().all(|line| list.add(line.as_bytes()).is_ok()));
        assert_eq!(list.add(b"more"), Err(Bad::Many("more".to_owned())));
    }
}
