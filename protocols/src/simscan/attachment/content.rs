//! What a file is, as far as there are files in it.

use super::{Kind, binhex, tnef, uuencode, yenc};

/// Bytes from the beginning on in which the header of a mail is looked for.
const MAX_HEAD: usize = 8 * 1024;

/// Bytes of a line that are looked at.
const MAX_LINE: usize = 64;

/// Fields that mails have. Two of them make a header.
const FIELDS: [&[u8]; 15] = [
    b"from",
    b"to",
    b"cc",
    b"reply-to",
    b"subject",
    b"date",
    b"message-id",
    b"received",
    b"return-path",
    b"delivered-to",
    b"mime-version",
    b"content-type",
    b"content-disposition",
    b"content-transfer-encoding",
    b"content-location",
];

/// How a file is opened, as far as its header or name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// It is a text, which is shown.
    Text,
    /// As what it looks like.
    File,
    /// As a mail.
    Mail,
}

/// Looks at a file as it is decoded, and keeps no more of it than its beginning and a line.
pub(super) fn kind(mut bytes: impl Iterator<Item = u8>, opened: Opened) -> Option<Kind> {
    let head: Vec<u8> = bytes.by_ref().take(MAX_HEAD).collect();
    if head.starts_with(tnef::SIGNATURE) {
        return Some(Kind::Tnef);
    }
    if opened == Opened::Mail || opened == Opened::File && is_mail(&head) {
        return Some(Kind::Mail);
    }
    let mut line = Vec::with_capacity(MAX_LINE);
    for byte in head.into_iter().chain(bytes).chain([b'\n']) {
        if !b"\r\n".contains(&byte) {
            if line.len() < MAX_LINE {
                line.push(byte);
            }
            continue;
        }
        if is_coded(&line) {
            return Some(Kind::Coded);
        }
        line.clear();
    }
    None
}

/// Whether a file in text may begin here.
fn is_coded(line: &[u8]) -> bool {
    let starts = |begin: &[u8]| line.starts_with(begin);
    uuencode::begin(line).is_some() || starts(yenc::BEGIN) || starts(binhex::BEGIN)
}

/// Blank lines at the beginning, which some programs skip before a header.
pub(super) fn blank_lines(text: &[u8]) -> usize {
    text.iter().take_while(|b| b"\r\n".contains(b)).count()
}

/// Whether a mail begins here (RFC 5322 2.2), or a mailbox.
pub(super) fn is_mail(text: &[u8]) -> bool {
    let text = &text[blank_lines(text)..];
    let text = &text[..text.len().min(MAX_HEAD)];
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut known = 0;
    for (n, line) in text.split(|&b| b == b'\n').map(<[u8]>::trim_ascii_end).enumerate() {
        let folded = n > 0 && line.first().is_some_and(|b| b" \t".contains(b));
        let mailbox = n == 0 && (line.starts_with(b"From ") || line.starts_with(b">From "));
        if folded || mailbox {
            continue;
        }
        let Some(name) = field_name(line) else { break };
        known += usize::from(FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field)));
        if known == 2 {
            return true;
        }
    }
    false
}

/// The name of a field. A delimiter is none, so that no two bodies share the lines they are known by.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = line[..memchr::memchr(b':', line)?].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic) && !name.starts_with(b"--");
    is_name.then_some(name)
}
