//! The command line of rblsmtpd (rblsmtpd.c), without the program it runs.

use super::conversation::TIMEOUT;
use super::decision::Options;
use super::source::{self, Source};

/// The greatest `-t`: an hour.
const TIMEOUT_MAX: u64 = 3600;

/// More lists than these nobody asks for every client.
const SOURCES_MAX: usize = 32;

/// What the command line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// Which lists are asked, and what they decide.
    pub options: Options,
    /// Seconds the conversation with a rejected client may take; 0: it is told once (`-t`).
    pub timeout: u64,
}

/// What is wrong with a command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not an option.
    #[error(
        "`{0}` is not allowed; allowed: -b -B -c -C, -t SECONDS, -r BASE, -r \"BASE:TEXT %IP%\", -a BASE"
    )]
    Option(String),
    /// An option without what must follow it.
    #[error("`{0}` is the last word; something must follow it")]
    Missing(String),
    /// Not a number of seconds.
    #[error("`-t {0}` is not allowed; allowed: 0 to {TIMEOUT_MAX}")]
    Timeout(String),
    /// Not a list.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// Too many lists.
    #[error("too many lists; allowed: {SOURCES_MAX}")]
    Many,
}

impl Arguments {
    /// Reads the words as getopt does: letters share a word, and a value stands behind its letter (`-Ct5`) or in the next
    /// word.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self, Error> {
        let mut arguments = Self { options: Options::default(), timeout: TIMEOUT };
        let mut words = words.iter().map(AsRef::as_ref);
        while let Some(word) = words.next() {
            let mut letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
            if letters.is_none() {
                return Err(Error::Option(word.to_owned()));
            }
            while let Some((letter, rest)) = letters.and_then(first) {
                letters = Some(rest);
                let options = &mut arguments.options;
                match letter {
                    'b' => options.bounce = true,
                    'B' => options.bounce = false,
                    'c' => options.fail_closed = true,
                    'C' => options.fail_closed = false,
                    'r' | 'a' | 't' => {
                        let value = letters.take().filter(|rest| !rest.is_empty()).or_else(|| words.next());
                        let value = value.ok_or_else(|| Error::Missing(format!("-{letter}")))?;
                        arguments.value(letter, value)?;
                    }
                    _ => return Err(Error::Option(word.to_owned())),
                }
            }
        }
        Ok(arguments)
    }

    fn value(&mut self, letter: char, value: &str) -> Result<(), Error> {
        let sources = &mut self.options.sources;
        match letter {
            'r' => sources.push(Source::rbl(value)?),
            'a' => sources.push(Source::antirbl(value)?),
            _ => {
                let seconds = value.parse().ok().filter(|seconds| *seconds <= TIMEOUT_MAX);
                self.timeout = seconds.ok_or_else(|| Error::Timeout(value.to_owned()))?;
            }
        }
        if sources.len() > SOURCES_MAX { Err(Error::Many) } else { Ok(()) }
    }
}

fn first(letters: &str) -> Option<(char, &str)> {
    let letter = letters.chars().next()?;
    Some((letter, &letters[letter.len_utf8()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let parsed =
            Arguments::parse(&["-b", "-c", "-t5", "-r", "a.test", "-ab.test", "-r", "c.test:see %IP%"]);
        let parsed = parsed.unwrap();
        assert!(parsed.options.bounce && parsed.options.fail_closed);
        assert_eq!(parsed.timeout, 5);
        let bases: Vec<_> = parsed.options.sources.iter().map(Source::base).collect();
        assert_eq!(bases, ["a.test", "b.test", "c.test"]);
        let cluster = Arguments::parse(&["-bcCt0", "-cra.test", "-Bt", "7"]).unwrap();
        assert!(!cluster.options.bounce && cluster.options.fail_closed);
        assert_eq!((cluster.timeout, cluster.options.sources.len()), (7, 1));
        let off = Arguments::parse(&["-b", "-c", "-B", "-C", "-t", "0"]).unwrap();
        assert_eq!(off, Arguments { options: Options::default(), timeout: 0 });
    }

    #[test]
    fn bad_command_lines() {
        for (words, text) in [
            (&["x"][..], "`x` is not allowed"),
            (&["-bx"], "`-bx` is not allowed"),
            (&["-"], "`-` is not allowed"),
            (&["-Cr"], "`-r` is the last word"),
            (&["-r"], "`-r` is the last word"),
            (&["-t", "x"], "`-t x` is not allowed; allowed: 0 to 3600"),
            (&["-r", "no domain"], "`no domain` is no base of a list"),
        ] {
            let error = Arguments::parse(words).unwrap_err().to_string();
            assert!(error.starts_with(text), "{words:?}: {error}");
        }
        assert_eq!(Arguments::parse(&["-ra.test"; 33]), Err(Error::Many));
    }
}
