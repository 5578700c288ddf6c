//! Answers of clamd (clamd(8)) to `zINSTREAM`.

use super::printable;

/// Longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 4096;

/// What clamd found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Clean,
    /// A virus, by its name: printable ASCII without blanks.
    Virus(String),
}

/// An answer that tells nothing about the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// clamd says that it failed.
    #[error("clamd: {0}")]
    Failed(String),
    /// The message is longer than its StreamMaxLength: it is so the next time too.
    #[error("clamd: {0}")]
    TooLarge(String),
    /// Not an answer of clamd.
    #[error("`{0}` is no answer of clamd; allowed: `stream: OK`, `stream: NAME FOUND`, `TEXT ERROR`")]
    Unknown(String),
}

/// Reads an answer, up to its NUL or line end.
///
/// # Errors
/// Whenever it says neither that the message is clean nor that it has a virus.
pub fn parse(answer: &[u8]) -> Result<Answer, Error> {
    let end = answer.iter().position(|b| b"\0\n".contains(b)).unwrap_or(answer.len());
    let line = answer[..end].trim_ascii();
    let shown = || printable(line);
    let Some(result) = line.strip_prefix(b"stream: ") else {
        // session.c, server-th.c of clamd.
        if line.starts_with(b"INSTREAM size limit exceeded") {
            return Err(Error::TooLarge(shown()));
        }
        return Err(if line.ends_with(b"ERROR") { Error::Failed(shown()) } else { Error::Unknown(shown()) });
    };
    match result.strip_suffix(b" FOUND") {
        Some(name) => match name.trim_ascii().split(|b| *b == b' ').next() {
            Some(name) if !name.is_empty() => Ok(Answer::Virus(printable(name))),
            _ => Err(Error::Unknown(shown())),
        },
        None if result == b"OK" => Ok(Answer::Clean),
        None if result.ends_with(b"ERROR") => Err(Error::Failed(shown())),
        None => Err(Error::Unknown(shown())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let virus = |name: &str| Ok(Answer::Virus(name.to_owned()));
        let failed = |text: &str| Err(Error::Failed(text.to_owned()));
        let unknown = |text: &str| Err(Error::Unknown(text.to_owned()));
        for (answer, expected) in [
            ("stream: OK\0", Ok(Answer::Clean)),
            ("stream: OK\n", Ok(Answer::Clean)),
            ("stream: Win.Test.EICAR_HDB-1 FOUND\0", virus("Win.Test.EICAR_HDB-1")),
            (
                "stream: Eicar(44d88612fea8a8f36de82e1278abb02f:68) FOUND\0",
                virus("Eicar(44d88612fea8a8f36de82e1278abb02f:68)"),
            ),
            ("stream: a\rb\u{e9} FOUND\0", virus("a?b??")),
            ("stream: OK FOUND\0", virus("OK")),
            (
                "INSTREAM size limit exceeded. ERROR\0",
                Err(Error::TooLarge("INSTREAM size limit exceeded. ERROR".to_owned())),
            ),
            ("stream: Can't allocate memory ERROR\0", failed("stream: Can't allocate memory ERROR")),
            ("UNKNOWN COMMAND\0", unknown("UNKNOWN COMMAND")),
            ("stream:  FOUND\0", unknown("stream:  FOUND")),
            ("stream: FOUND\0", unknown("stream: FOUND")),
            ("stream: OK\0stream: X FOUND\0", Ok(Answer::Clean)),
            ("stream: O\0K", unknown("stream: O")),
            ("stream: NOT OK", unknown("stream: NOT OK")),
            ("OK\0", unknown("OK")),
            ("", unknown("")),
        ] {
            assert_eq!(parse(answer.as_bytes()), expected, "{answer:?}");
        }
    }
}
