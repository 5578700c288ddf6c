//! The header of a part, as far as it says what the part is and what it is called.

use super::super::names::{boundaries, names};
use super::TooComplex;

/// Bytes of one header field that is looked into.
const MAX_FIELD: usize = 64 * 1024;

/// How a body is encoded (RFC 2045 6).
#[derive(Debug, Clone, Copy)]
pub(super) enum Encoding {
    Base64,
    QuotedPrintable,
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Type,
    Disposition,
    Encoding,
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
    pub(super) boundaries: Vec<Vec<u8>>,
    pub(super) encoding: Option<Encoding>,
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
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
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

    /// The field being read has ended.
    pub(super) fn finish(
        &mut self,
        budget: &mut usize,
        found: &mut dyn FnMut(&str),
    ) -> Result<(), TooComplex> {
        let Some((field, value)) = self.field.take() else { return Ok(()) };
        if value.len() > MAX_FIELD {
            return Err(TooComplex);
        }
        let unfolded: Vec<u8> = value.iter().copied().filter(|&b| b != b'\n').collect();
        if let Field::Encoding = field {
            let has = |word: &[u8]| memchr::memmem::find(&unfolded.to_ascii_lowercase(), word).is_some();
            let base64 = has(b"base64").then_some(Encoding::Base64);
            let encoding = base64.or_else(|| has(b"quoted-printable").then_some(Encoding::QuotedPrintable));
            self.encoding = self.encoding.or(encoding);
            return Ok(());
        }
        names(&unfolded, budget, found)?;
        let lines = value.split(|&b| b == b'\n').map(<[u8]>::trim_ascii_start);
        // Some programs take the blanks of folding away.
        let joined: Vec<u8> = lines.flatten().copied().collect();
        let folded = value.contains(&b'\n');
        if folded {
            names(&joined, budget, found)?;
        }
        if let Field::Type = field {
            self.typed = true;
            let kind = joined.split(|&b| b == b';').next().unwrap_or_default();
            let kind: Vec<u8> =
                kind.iter().filter(|b| b.is_ascii_graphic()).map(u8::to_ascii_lowercase).collect();
            let has = |word: &[u8]| memchr::memmem::find(&kind, word).is_some();
            self.multipart |= has(b"multipart/");
            self.digest |= has(b"multipart/digest");
            self.message |= has(b"message/");
            boundaries(&unfolded, budget, &mut self.boundaries)?;
            if folded {
                boundaries(&joined, budget, &mut self.boundaries)?;
            }
        }
        Ok(())
    }
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
        _ => return None,
    };
    Some((field, &line[colon + 1..]))
}
