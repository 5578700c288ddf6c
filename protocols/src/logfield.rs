//! Fields of a log line that the other side chose.

/// Bytes of a field that are shown; more than any deliverable address has.
const MAX_FIELD: usize = 256;

/// Appends a field. What is not printable ASCII, a space, `<`, `>` and the separator of the line become `?`, so that
/// nobody forges a field or a line; what is too long ends in `...`.
pub(crate) fn push(line: &mut String, field: &[u8], separator: Option<u8>) {
    let safe = |&b: &u8| match b {
        b'<' | b'>' => '?',
        33..=126 if Some(b) != separator => char::from(b),
        _ => '?',
    };
    line.extend(field.iter().take(MAX_FIELD).map(safe));
    if field.len() > MAX_FIELD {
        line.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (field, separator, expected) in [
            ("a@b.example", None, "a@b.example"),
            ("a:b|c", None, "a:b|c"),
            ("a:b|c", Some(b':'), "a?b|c"),
            ("a> rcpt <b\r\nc\u{e9}%", None, "a??rcpt??b??c??%"),
            ("", Some(b':'), ""),
        ] {
            let mut line = String::new();
            push(&mut line, field.as_bytes(), separator);
            assert_eq!(line, expected, "{field:?}");
        }
        let mut line = String::new();
        push(&mut line, &[b'x'; 257], None);
        assert_eq!(line.len(), 256 + 3);
        assert!(line.ends_with("x..."));
    }
}
