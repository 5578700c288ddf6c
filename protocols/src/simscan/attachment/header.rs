//! The header of a part, as far as it says what the part is and what it is called.

use super::super::names::{boundaries, location, names};
use super::content::Opened;
use super::{TooComplex, trimmed};

/// Bytes of one header field that is looked into.
const MAX_FIELD: usize = 64 * 1024;

/// Ends of the names of files that are opened as mails, whatever their types are.
const MAILS: [&str; 6] = [".eml", ".mht", ".mhtml", ".nws", ".mim", ".mime"];

/// How a body is encoded (RFC 2045 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Base64,
    QuotedPrintable,
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Type,
    Disposition,
    Encoding,
    Location,
}

/// What has been read of a header. Of contradicting fields all count.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// The field being read; its lines are separated by LF.
    field: Option<(Field, Vec<u8>)>,
    /// It has a type.
    pub(super) typed: bool,
    pub(super) multipart: bool,
    pub(super) digest: bool,
    /// It is a message, or something else that begins with a header.
    pub(super) message: bool,
    /// It has a name, or a type that is none of text.
    file: bool,
    /// Its name is that of a file that is opened as a mail.
    mail: bool,
    pub(super) boundaries: Vec<Vec<u8>>,
    pub(super) encodings: Vec<Encoding>,
    /// It has a name that no program misses.
    named: bool,
    locations: Vec<Vec<u8>>,
}

impl Header {
    /// Takes a line. `after_cr`: it follows a bare CR, so that some programs take it for more of the line before.
    pub(super) fn line(
        &mut self,
        line: &[u8],
        after_cr: bool,
        budget: &mut usize,
        found: &mut dyn FnMut(&str),
    ) -> Result<(), TooComplex> {
        let folded = line.starts_with(b" ") || line.starts_with(b"\t") || self.is_continued_by(line);
        if folded || after_cr {
            if let Some((_, value)) = &mut self.field {
                value.push(b'\n');
                value.extend_from_slice(line);
                if value.len() > MAX_FIELD {
                    return Err(TooComplex);
                }
            }
            if folded {
                return Ok(());
            }
        }
        let field = field(line);
        if !after_cr || field.is_some() {
            self.finish(budget, found)?;
            self.field = field.map(|(field, value)| (field, value.to_vec()));
        }
        Ok(())
    }

    /// Whether programs mend the line, which is not indented: the one before is not complete, and this one is no field.
    fn is_continued_by(&self, line: &[u8]) -> bool {
        let Some((Field::Type | Field::Disposition, value)) = &self.field else { return false };
        let incomplete = value.trim_ascii_end().last().is_some_and(|b| b";=".contains(b));
        let is_field = line.iter().find(|b| b":=".contains(b)) == Some(&b':');
        line.starts_with(b";") || incomplete && !is_field
    }

    /// How the body is opened.
    pub(super) fn opened(&self) -> Opened {
        match (self.mail, self.file) {
            (true, _) => Opened::Mail,
            (false, true) => Opened::File,
            (false, false) => Opened::Text,
        }
    }

    /// The header has ended.
    pub(super) fn end(&mut self, budget: &mut usize, found: &mut dyn FnMut(&str)) -> Result<(), TooComplex> {
        self.finish(budget, found)?;
        for location in self.locations.drain(..).filter(|_| !self.named) {
            location::names(&location, &mut noting(&mut self.mail, &mut self.file, found));
        }
        Ok(())
    }

    /// The field being read has ended.
    fn finish(&mut self, budget: &mut usize, found: &mut dyn FnMut(&str)) -> Result<(), TooComplex> {
        let Some((field, value)) = self.field.take() else { return Ok(()) };
        if value.len() > MAX_FIELD {
            return Err(TooComplex);
        }
        let unfolded: Vec<u8> = value.iter().copied().filter(|&b| b != b'\n').collect();
        let lines = value.split(|&b| b == b'\n').map(<[u8]>::trim_ascii_start);
        // Some programs take the blanks of folding away.
        let joined: Vec<u8> = lines.flatten().copied().collect();
        let folded = value.contains(&b'\n');
        match field {
            Field::Encoding => self.encoded(&unfolded.to_ascii_lowercase()),
            Field::Location => {
                *budget = budget.checked_sub(1).ok_or(TooComplex)?;
                self.locations.extend(folded.then_some(unfolded));
                self.locations.push(joined);
            }
            Field::Type | Field::Disposition => {
                let is_type = matches!(field, Field::Type);
                if is_type {
                    self.typed(&joined);
                }
                for text in [Some(&unfolded), folded.then_some(&joined)].into_iter().flatten() {
                    let mut noted = noting(&mut self.mail, &mut self.file, found);
                    self.named |= names(text, budget, &mut noted)?;
                    if is_type {
                        boundaries(text, budget, &mut self.boundaries)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn encoded(&mut self, field: &[u8]) {
        for (word, encoding) in
            [(b"base64".as_slice(), Encoding::Base64), (b"quoted-printable", Encoding::QuotedPrintable)]
        {
            if memchr::memmem::find(field, word).is_some() && !self.encodings.contains(&encoding) {
                self.encodings.push(encoding);
            }
        }
    }

    fn typed(&mut self, field: &[u8]) {
        self.typed = true;
        let kind = field.split(|&b| b == b';').next().unwrap_or_default();
        let kind: Vec<u8> =
            kind.iter().filter(|b| b.is_ascii_graphic()).map(u8::to_ascii_lowercase).collect();
        let has = |word: &[u8]| memchr::memmem::find(&kind, word).is_some();
        self.multipart |= has(b"multipart/");
        self.digest |= has(b"multipart/digest");
        self.message |= has(b"message/");
        self.file |= !kind.is_empty() && !has(b"text/");
    }
}

/// Passes names on, and notes when there is one, and when it is that of a mail.
fn noting<'a>(
    mail: &'a mut bool,
    file: &'a mut bool,
    found: &'a mut dyn FnMut(&str),
) -> impl FnMut(&str) + 'a {
    move |name| {
        *file |= !name.is_empty();
        *mail |= opened(name) == Opened::Mail;
        found(name);
    }
}

/// How a file of this name is opened.
pub(super) fn opened(name: &str) -> Opened {
    let name = trimmed(name).as_bytes();
    let ends = |mail: &str| {
        let end = name.get(name.len().wrapping_sub(mail.len())..);
        end.is_some_and(|end| end.eq_ignore_ascii_case(mail.as_bytes()))
    };
    if MAILS.into_iter().any(ends) { Opened::Mail } else { Opened::File }
}

/// A field that is looked into, and the rest of its line.
fn field(line: &[u8]) -> Option<(Field, &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let name: Vec<u8> =
        line[..colon].iter().filter(|b| b.is_ascii_graphic()).map(u8::to_ascii_lowercase).collect();
    let field = match name.as_slice() {
        b"content-type" => Field::Type,
        b"content-disposition" => Field::Disposition,
        b"content-transfer-encoding" => Field::Encoding,
        b"content-location" => Field::Location,
        _ => return None,
    };
    Some((field, &line[colon + 1..]))
}
