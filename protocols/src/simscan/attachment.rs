//! The names of a message's attachments, for refusing them by their ends (simscan.c: check_attach, with ripmime).
//!
//! Like ripmime it looks into what it has decoded: files that are mails, TNEF, or have files in uuencode, yEnc or BinHex
//! in them.
//!
//! A message is hostile: it is built so that the check reads one structure and the recipient's program another. So
//! where programs disagree all their readings count, and a message beyond the limits counts as refused. One pass over
//! the lines, without recursion: the time grows with the size, whatever is nested in what. What is decoded is kept only
//! when there is something in it, and until it is walked. Archives are not opened.

mod binhex;
mod content;
mod header;
mod mapi;
mod tnef;
mod uuencode;
mod yenc;

use super::decoders::{Base64, QuotedPrintable};
use super::names::told;
use content::{Opened, blank_lines, is_mail};
use header::{Encoding, Header, opened};
use mapi::Property;
use tnef::Item;

/// Multiparts within each other.
const MAX_DEPTH: usize = 32;

/// Boundaries of multiparts within each other: as many are compared with a line.
const MAX_BOUNDARIES: usize = 64;

/// Parts of a message.
const MAX_PARTS: usize = 10_000;

/// Parameters in a message that name something.
const MAX_NAMES: usize = 10_000;

/// Encoded messages, and files that hold others, within each other.
const MAX_ENCODED: usize = 8;

/// What is decoded, in sizes of the message: base64 within base64 without end makes four of one, and each is first
/// looked at and then kept.
const MAX_DECODED: usize = 8;

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
    let bytes = message.len().saturating_mul(MAX_DECODED);
    let mut walk = Walk { parts: 0, budget: MAX_NAMES, bytes, kept: Vec::new(), found };
    walk.lines(message, Some(Header::default()), None, 0)?;
    while let Some(Kept { bytes, kind, depth }) = walk.kept.pop() {
        match kind {
            Kind::Mail => walk.lines(&bytes, Some(Header::default()), None, depth)?,
            Kind::Multipart(level) => walk.lines(&bytes, None, Some(level), depth)?,
            Kind::Coded => walk.lines(&bytes, None, None, depth)?,
            Kind::Tnef => walk.tnef(&bytes, depth)?,
        }
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

/// What something decoded is.
#[derive(Debug, Clone)]
enum Kind {
    /// A message, with its header.
    Mail,
    /// The body of a multipart.
    Multipart(Level),
    Tnef,
    /// Text in which files are encoded.
    Coded,
}

/// Something decoded that is still to be looked into.
struct Kept {
    bytes: Vec<u8>,
    kind: Kind,
    depth: usize,
}

/// A body to be decoded whose end is not found yet.
struct Open {
    start: usize,
    /// None: it stands there as it is.
    encoding: Option<Encoding>,
    what: What,
    /// Levels around it.
    outside: usize,
}

/// What the header says that a body is.
#[derive(Debug, Clone)]
enum What {
    Known(Kind),
    /// What is in it decides.
    File(Opened),
}

struct Walk<'a> {
    parts: usize,
    budget: usize,
    /// Bytes that may still be decoded.
    bytes: usize,
    kept: Vec<Kept>,
    found: &'a mut dyn FnMut(&str),
}

/// Where a walk is.
struct Place<'a> {
    text: &'a [u8],
    levels: Vec<Level>,
    /// The header being read; none: a body.
    header: Option<Header>,
    /// A blank line before it does not end the header.
    header_from: usize,
    open: Vec<Open>,
    depth: usize,
}

/// An attachment in TNEF.
#[derive(Default)]
struct Attachment<'a> {
    /// It has a name of more than eight and three letters.
    named: bool,
    /// What is shown in place of a name.
    shown: Option<String>,
    /// It is opened as a mail.
    mail: bool,
    files: Vec<&'a [u8]>,
    object: bool,
}

impl Walk<'_> {
    /// A message or the body of one, or that of a multipart.
    fn lines(
        &mut self,
        text: &[u8],
        header: Option<Header>,
        level: Option<Level>,
        depth: usize,
    ) -> Result<(), TooComplex> {
        let levels = level.into_iter().collect();
        let header_from = if depth > 0 { blank_lines(text) } else { 0 };
        let mut place = Place { text, levels, header, header_from, open: Vec::new(), depth };
        let mut start = 0;
        for line in text.split_inclusive(|&b| b == b'\n') {
            let next = start + line.len();
            if next > place.header_from
                && line.iter().all(|b| b"\r\n".contains(b))
                && let Some(header) = place.header.take()
            {
                self.body(header, next, &mut place)?;
            }
            // Some programs end a line at a CR, some do not.
            let pieces = line.split(|b| b"\r\n".contains(b)).filter(|piece| !piece.is_empty());
            for (n, piece) in pieces.enumerate() {
                if let Some((at, exact)) = delimiter(piece, &place.levels) {
                    self.part(at, exact, start, &mut place)?;
                } else {
                    if let Some(header) = &mut place.header {
                        header.line(piece, n > 0, &mut self.budget, self.found)?;
                    }
                    // What is called a mail, or a part of a digest, may be in uuencode from its first line on.
                    self.coded(piece, &text[next..], depth)?;
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
        header.end(&mut self.budget, self.found)?;
        let rest = place.text.get(start..).unwrap_or_default();
        let digest = !header.typed && place.levels.last().is_some_and(|level| level.digest);
        let opened = header.opened();
        let Header { multipart, boundaries, digest: inner_digest, encodings, .. } = header;
        let mail = opened == Opened::Mail || opened == Opened::File && is_mail(rest);
        let message = header.message || digest || mail && !multipart && encodings.is_empty();
        let level = multipart.then_some(Level { boundaries, digest: inner_digest });
        let what = match &level {
            _ if message => What::Known(Kind::Mail),
            Some(level) => What::Known(Kind::Multipart(level.clone())),
            None => What::File(opened),
        };
        let outside = place.levels.len();
        place.open.extend(encodings.into_iter().map(|encoding| Open {
            start,
            encoding: Some(encoding),
            what: what.clone(),
            outside,
        }));
        if rest.starts_with(tnef::SIGNATURE) {
            place.open.push(Open { start, encoding: None, what: What::Known(Kind::Tnef), outside });
        }
        place.levels.extend(level);
        let boundaries: usize = place.levels.iter().map(|level| level.boundaries.len()).sum();
        if place.levels.len() > MAX_DEPTH || boundaries > MAX_BOUNDARIES {
            return Err(TooComplex);
        }
        if message { self.header(start + blank_lines(rest), place) } else { Ok(()) }
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
        self.header(0, place)
    }

    /// Bodies with at least `levels` levels around them end at `end`.
    fn close(&mut self, levels: usize, end: usize, place: &mut Place<'_>) -> Result<(), TooComplex> {
        while let Some(open) = place.open.pop_if(|open| open.outside >= levels) {
            let body = place.text.get(open.start..end).unwrap_or_default();
            self.charge(body.len())?;
            let kind = match (open.what, open.encoding) {
                (What::Known(kind), _) => Some(kind),
                (What::File(opened), Some(Encoding::Base64)) => content::kind(Base64::new(body), opened),
                (What::File(opened), Some(Encoding::QuotedPrintable)) => {
                    content::kind(QuotedPrintable::new(body), opened)
                }
                (What::File(_), None) => None,
            };
            let Some(kind) = kind else { continue };
            let bytes = match open.encoding {
                Some(Encoding::Base64) => Base64::new(body).collect(),
                Some(Encoding::QuotedPrintable) => QuotedPrintable::new(body).collect(),
                None => body.to_vec(),
            };
            self.keep(bytes, kind, place.depth)?;
        }
        Ok(())
    }

    /// A header starts, behind what is blank before `from`.
    fn header(&mut self, from: usize, place: &mut Place<'_>) -> Result<(), TooComplex> {
        self.parts += 1;
        place.header = Some(Header::default());
        place.header_from = from;
        if self.parts > MAX_PARTS { Err(TooComplex) } else { Ok(()) }
    }

    /// A line of a body: a file may begin in it.
    fn coded(&mut self, line: &[u8], rest: &[u8], depth: usize) -> Result<(), TooComplex> {
        if let Some(begin) = uuencode::begin(line) {
            self.spend()?;
            if begin.is_followed_by(rest) {
                (self.found)(&begin.name);
                let (bytes, read) = begin.decode(rest)?;
                self.charge(read)?;
                self.file(&bytes, opened(&begin.name), depth)?;
            }
        }
        let is_binhex = line.starts_with(binhex::BEGIN);
        if let Some(name) = yenc::name(line).or_else(|| is_binhex.then(|| binhex::name(rest)).flatten()) {
            self.spend()?;
            (self.found)(&name);
        }
        Ok(())
    }

    fn tnef(&mut self, stream: &[u8], depth: usize) -> Result<(), TooComplex> {
        let mut attachment = Attachment::default();
        tnef::read(stream, &mut |item| {
            match item {
                Item::Attachment => self.attachment(std::mem::take(&mut attachment), depth)?,
                Item::Property(property) => self.property(property, &mut attachment)?,
            }
            Ok(())
        })?;
        self.attachment(attachment, depth)
    }

    fn property<'a>(
        &mut self,
        property: Property<'a>,
        attachment: &mut Attachment<'a>,
    ) -> Result<(), TooComplex> {
        match property {
            Property::Filename(name) => {
                self.spend()?;
                attachment.mail |= opened(&name) == Opened::Mail;
                told(&name, self.found);
            }
            Property::LongFilename(name) => {
                attachment.named |= !name.is_empty();
                self.property(Property::Filename(name), attachment)?;
            }
            Property::DisplayName(name) => attachment.shown = Some(name),
            Property::Data(file) => attachment.files.push(file),
            Property::Object(file) => {
                attachment.object = true;
                attachment.files.push(file);
            }
        }
        Ok(())
    }

    /// An attachment in TNEF has ended.
    fn attachment(&mut self, attachment: Attachment<'_>, depth: usize) -> Result<(), TooComplex> {
        let Attachment { named, shown, mail, files, object } = attachment;
        // What is shown of a message is its subject.
        if let Some(name) = shown.filter(|_| !named && !object) {
            self.spend()?;
            told(&name, self.found);
        }
        let opened = if mail { Opened::Mail } else { Opened::File };
        files.into_iter().try_for_each(|file| self.file(file, opened, depth))
    }

    /// Keeps a file if there is something in it.
    fn file(&mut self, bytes: &[u8], opened: Opened, depth: usize) -> Result<(), TooComplex> {
        match content::kind(bytes.iter().copied(), opened) {
            Some(kind) => self.keep(bytes.to_vec(), kind, depth),
            None => Ok(()),
        }
    }

    /// Keeps what is `depth` levels within others.
    fn keep(&mut self, bytes: Vec<u8>, kind: Kind, depth: usize) -> Result<(), TooComplex> {
        self.charge(bytes.len())?;
        if depth >= MAX_ENCODED {
            return Err(TooComplex);
        }
        self.kept.push(Kept { bytes, kind, depth: depth + 1 });
        Ok(())
    }

    /// Takes one name off those that are looked at.
    fn spend(&mut self) -> Result<(), TooComplex> {
        self.budget = self.budget.checked_sub(1).ok_or(TooComplex)?;
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), TooComplex> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(TooComplex)?;
        Ok(())
    }
}

#[cfg(test)]
mod nested_tests;
#[cfg(test)]
mod tests;
