//! The header of a message as qmail's programs read it: its fields, and where it ends (headerbody.c).

use super::field;

/// The value of a field `Subject`, from behind its colon to its last newline.
#[must_use]
pub fn subject(header: &[u8]) -> Option<&[u8]> {
    let found = fields(header).find(|(name, _)| name.eq_ignore_ascii_case(b"subject"))?.1;
    let colon = found.iter().position(|byte| *byte == b':')?;
    Some(&found[colon + 1..])
}

/// How many bytes at the front of a message are its header, as qmail reads it: up to the blank line, or to the first line that is no
/// field.
#[must_use]
pub fn header_len(message: &[u8]) -> usize {
    fields(message).map(|(_, field)| field.len()).sum()
}

/// The fields of a header in their order: names, and all of each with the lines that continue it. The line of an mbox file is one.
pub fn fields(header: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let line = |text: &[u8]| text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
        let mut end = line(rest);
        let name = name(&rest[..end])?;
        while rest.get(end).is_some_and(|byte| b" \t".contains(byte)) {
            end += line(&rest[end..]);
        }
        let field;
        (field, rest) = rest.split_at(end);
        Some((name, field))
    })
}

/// The name of a field; none if the line is not the first of one.
fn name(line: &[u8]) -> Option<&[u8]> {
    if line.starts_with(b"From ") {
        return Some(b"");
    }
    field::name(line).filter(|_| field::is_field(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_end_as_qmail_ends_them() {
        for (text, len, subject_is) in [
            ("Subject: a\n b\nX: y\n\nbody", 19, Some(" a\n b\n")),
            ("X: y\nbody: no\n", 14, None),
            ("X: y\nbody\nSubject: x\n", 5, None),
            ("Subject: x", 10, Some(" x")),
            ("\nSubject: x\n", 0, None),
            ("", 0, None),
        ] {
            let found = (header_len(text.as_bytes()), subject(text.as_bytes()));
            assert_eq!(found, (len, subject_is.map(str::as_bytes)), "{text:?}");
        }
    }
}
