//! The names of a message's attachments, for refusing them by their ends (simscan.c: check_attach, with ripmime).
//!
//! A message is hostile: it is built so that the check reads one structure and the recipient's program another. So
//! where programs disagree all their readings count, and a message beyond the limits counts as refused. One pass over
//! the lines, without recursion: the time grows with the size, whatever is nested in what. Archives are not opened.

mod header;

use super::names::{base64, quoted_printable};
use header::{Encoding, Header};

/// Multiparts within each other.
const MAX_DEPTH: usize = 32;

/// Boundaries of multiparts within each other: as many are compared with a line.
const MAX_BOUNDARIES: usize = 64;

/// Parts of a message.
const MAX_PARTS: usize = 10_000;

/// Parameters in a message that name something.
const MAX_NAMES: usize = 10_000;

/// Encoded messages within each other.
const MAX_ENCODED: usize = 8;

/// A message with more parts, names or levels than are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many parts, names or levels")]
pub struct TooComplex;

/// The first name in `message` that ends in one of `suffixes` (lower case), as it may be shown: lower case, printable
/// ASCII, at most its last 100 characters.
///
/// # Errors
/// [`TooComplex`], which is to be taken for a match.
pub fn blocked(message: &[u8], suffixes: &[String]) -> Result<Option<String>, TooComplex> {
    let mut blocked = None;
    names(message, &mut |name| {
        let name = trimmed(name).to_lowercase();
        if blocked.is_none() && suffixes.iter().any(|end| !end.is_empty() && name.ends_with(end)) {
            blocked = Some(shown(&name));
        }
    })?;
    Ok(blocked)
}

/// Hands over every name a program may give an attachment, some of them more than once.
///
/// # Errors
/// [`TooComplex`].
pub fn names(message: &[u8], found: &mut dyn FnMut(&str)) -> Result<(), TooComplex> {
    // Decoding never makes more of it, but encoded parts may overlap.
    let bytes = message.len().saturating_mul(2);
    let mut walk = Walk { parts: 0, budget: MAX_NAMES, bytes, encoded: Vec::new(), found };
    walk.entity(message, None, 0)?;
    while let Some(Encoded { text, level, depth }) = walk.encoded.pop() {
        walk.entity(&text, level, depth)?;
    }
    Ok(())
}

/// A name as Windows makes it a file: without blanks and dots at its end; also without quotes, and
/// the backslash an open quote may leave.
fn trimmed(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_whitespace() || c.is_control() || ".\"'\\".contains(c))
}

fn shown(name: &str) -> String {
    let skipped = name.chars().count().saturating_sub(100);
    name.chars().skip(skipped).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// A multipart being read.
#[derive(Debug, Clone)]
struct Level {
    /// What may separate its parts; none: every line that begins with two dashes does.
    boundaries: Vec<Vec<u8>>,
    /// A part without a type is a message.
    digest: bool,
}

impl Level {
    /// Whether the line is the delimiter, or the last one (RFC 2046 5.1.1).
    fn is_delimiter(&self, line: &[u8]) -> bool {
        self.boundaries.iter().any(|boundary| {
            let rest = line.strip_prefix(boundary.as_slice()).map(<[u8]>::trim_ascii_end);
            rest.is_some_and(|rest| matches!(rest, b"" | b"--"))
        })
    }

    /// Whether a careless program takes the line for the delimiter.
    fn is_alike(&self, line: &[u8]) -> bool {
        self.boundaries.is_empty() || self.boundaries.iter().any(|boundary| line.starts_with(boundary))
    }
}

/// The level whose delimiter the line is, the innermost, and whether it really is.
fn delimiter(line: &[u8], levels: &[Level]) -> Option<(usize, bool)> {
    let line = line.strip_prefix(b"--")?;
    let exact = levels.iter().rposition(|level| level.is_delimiter(line)).map(|at| (at, true));
    exact.or_else(|| levels.iter().rposition(|level| level.is_alike(line)).map(|at| (at, false)))
}

/// Bytes behind a line that begins a file in uuencode at which is looked.
const MAX_ENCODED_LINE: usize = 64;

/// The name of a file that begins here in uuencode, which old programs take for an attachment in any text.
fn uuencoded(line: &[u8], rest: &[u8]) -> Option<String> {
    let line = line.strip_prefix(b"begin ")?;
    let digits = line.iter().take_while(|b| matches!(b, b'0'..=b'7')).count();
    let name = line[digits..].strip_prefix(b" ")?.trim_ascii();
    // A line of uuencode has at most 61 bytes. No further is looked: what follows may be one line of megabytes.
    let rest = &rest[..rest.len().min(MAX_ENCODED_LINE)];
    let first = rest.split(|b| b"\r\n".contains(b)).next()?;
    let encoded = first.len() > 1 && first.iter().all(|b| matches!(b, b' '..=b'`'));
    let begins = matches!(digits, 3 | 4) && !name.is_empty() && name.len() <= 1024 && encoded;
    begins.then(|| String::from_utf8_lossy(name).into_owned())
}

/// An encoded message or multipart, decoded, still to be looked into.
struct Encoded {
    text: Vec<u8>,
    level: Option<Level>,
    depth: usize,
}

/// An encoded message or multipart whose end is not found yet.
struct Open {
    start: usize,
    encoding: Encoding,
    level: Option<Level>,
    /// Levels around it.
    outside: usize,
}

struct Walk<'a> {
    parts: usize,
    budget: usize,
    /// Bytes that may still be decoded.
    bytes: usize,
    encoded: Vec<Encoded>,
    found: &'a mut dyn FnMut(&str),
}

/// Where a walk is.
struct Place<'a> {
    text: &'a [u8],
    levels: Vec<Level>,
    /// The header being read; none: a body.
    header: Option<Header>,
    open: Vec<Open>,
    depth: usize,
}

impl Walk<'_> {
    /// A message with its header, or the body of a multipart.
    fn entity(&mut self, text: &[u8], level: Option<Level>, depth: usize) -> Result<(), TooComplex> {
        let header = level.is_none().then(Header::default);
        let mut place = Place { text, levels: level.into_iter().collect(), header, open: Vec::new(), depth };
        let mut start = 0;
        for line in text.split_inclusive(|&b| b == b'\n') {
            let next = start + line.len();
            if line.iter().all(|b| b"\r\n".contains(b))
                && let Some(header) = place.header.take()
            {
                self.body(header, next, &mut place)?;
            }
            // Some programs end a line at a CR, some do not.
            let pieces = line.split(|b| b"\r\n".contains(b)).filter(|piece| !piece.is_empty());
            for (n, piece) in pieces.enumerate() {
                if let Some((at, exact)) = delimiter(piece, &place.levels) {
                    self.part(at, exact, start, &mut place)?;
                } else if let Some(header) = &mut place.header {
                    header.line(piece, n > 0, &mut self.budget, self.found)?;
                } else if piece.starts_with(b"begin ") {
                    self.budget = self.budget.checked_sub(1).ok_or(TooComplex)?;
                    if let Some(name) = uuencoded(piece, &text[next..]) {
                        (self.found)(&name);
                    }
                }
            }
            start = next;
        }
        if let Some(header) = place.header.take() {
            self.body(header, text.len(), &mut place)?;
        }
        self.close(0, text.len(), &mut place)
    }

    /// A header has ended, its body starts at `start`.
    fn body(&mut self, mut header: Header, start: usize, place: &mut Place<'_>) -> Result<(), TooComplex> {
        header.finish(&mut self.budget, self.found)?;
        let digest = !header.typed && place.levels.last().is_some_and(|level| level.digest);
        let message = header.message || digest;
        let Header { multipart, boundaries, digest, encoding, .. } = header;
        let level = multipart.then_some(Level { boundaries, digest });
        if let Some(encoding) = encoding.filter(|_| message || multipart) {
            let inner = if message { None } else { level.clone() };
            place.open.push(Open { start, encoding, level: inner, outside: place.levels.len() });
        }
        place.levels.extend(level);
        let boundaries: usize = place.levels.iter().map(|level| level.boundaries.len()).sum();
        if place.levels.len() > MAX_DEPTH || boundaries > MAX_BOUNDARIES {
            return Err(TooComplex);
        }
        if message { self.header(place) } else { Ok(()) }
    }

    /// A delimiter of level `at` begins at `start`. A header may follow, even after the last one.
    fn part(
        &mut self,
        at: usize,
        exact: bool,
        start: usize,
        place: &mut Place<'_>,
    ) -> Result<(), TooComplex> {
        if let Some(header) = place.header.take() {
            self.body(header, start, place)?;
        }
        // A line that only looks like it ends nothing: what is around it goes on.
        if exact {
            self.close(at + 1, start, place)?;
            place.levels.truncate(at + 1);
        }
        self.header(place)
    }

    /// Encoded bodies with at least `levels` levels around them end at `end`.
    fn close(&mut self, levels: usize, end: usize, place: &mut Place<'_>) -> Result<(), TooComplex> {
        while let Some(open) = place.open.pop_if(|open| open.outside >= levels) {
            let body = place.text.get(open.start..end).unwrap_or_default();
            self.bytes = self.bytes.checked_sub(body.len()).ok_or(TooComplex)?;
            if place.depth >= MAX_ENCODED {
                return Err(TooComplex);
            }
            let text = match open.encoding {
                Encoding::Base64 => base64(body),
                Encoding::QuotedPrintable => quoted_printable(body),
            };
            self.encoded.push(Encoded { text, level: open.level, depth: place.depth + 1 });
        }
        Ok(())
    }

    fn header(&mut self, place: &mut Place<'_>) -> Result<(), TooComplex> {
        self.parts += 1;
        place.header = Some(Header::default());
        if self.parts > MAX_PARTS { Err(TooComplex) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
