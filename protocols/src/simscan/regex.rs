//! The patterns of `regex=` (simscan.c: check_regex), searched in every line of a message, header and body as they are.

use ::regex::bytes::{RegexSet, RegexSetBuilder};

/// Bytes all patterns of a message may take when compiled.
const SIZE_LIMIT: usize = 1 << 20;

/// Patterns of one message.
#[derive(Debug, Clone)]
pub struct Patterns(RegexSet);

/// Patterns that are none, or too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Patterns {
    /// Compiles them. They match bytes, not characters; `.` never matches the end of a line.
    ///
    /// # Errors
    /// When one has an error, or all together take more than 1 MiB.
    pub fn new(patterns: &[String]) -> Result<Self, Error> {
        let mut builder = RegexSetBuilder::new(patterns);
        let set = builder.unicode(false).size_limit(SIZE_LIMIT).dfa_size_limit(4 * SIZE_LIMIT).build();
        set.map(Self).map_err(|error| Error(error.to_string()))
    }

    /// The number of the pattern that matches first: in the first line that matches one, the lowest, from 0. The time
    /// grows with the product of the sizes of patterns and message.
    #[must_use]
    pub fn search(&self, message: &[u8]) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        let lines = message.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        lines.filter(|line| self.0.is_match(line)).find_map(|line| self.0.matches(line).iter().next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_then_the_lowest_number() {
        let message = b"Subject: buy\xff now\r\n\nvery cheap\ncheap pills";
        for (patterns, expected) in [
            (&["pills$", "^cheap"][..], Some(0)),
            (&["^cheap", "pills$"], Some(0)),
            (&["pills", "(?i)BUY..now", "cheap"], Some(1)),
            (&["buy.*pills"], None),
            (&["^$"], Some(0)),
            (&["now$"], Some(0)),
            (&["\\xff"], Some(0)),
            (&[], None),
        ] {
            let patterns: Vec<_> = patterns.iter().map(|&p| p.to_owned()).collect();
            assert_eq!(Patterns::new(&patterns).unwrap().search(message), expected, "{patterns:?}");
        }
    }

    #[test]
    fn large_or_broken_patterns_are_refused() {
        for pattern in ["(", "(a{1000}){1000}", "\\1", "(?<!a)b"] {
            assert!(Patterns::new(&[pattern.to_owned()]).is_err(), "{pattern}");
        }
    }
}
