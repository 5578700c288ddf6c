//! Bytes of strangers, made harmless: names that may be asked, texts that may be shown.

/// Longest name in bytes, without the trailing dot (RFC 7208 7.3).
pub(super) const MAX_NAME: usize = 253;

/// A name DNS can be asked for, lower case and without its trailing dot: two labels or more of 1 to 63 printable
/// characters. A backslash would be an escape to a resolver.
pub(super) fn domain_name(text: &[u8]) -> Option<String> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    let label = |label: &[u8]| {
        (1..=63).contains(&label.len()) && label.iter().all(|&b| matches!(b, 32..=126) && b != b'\\')
    };
    let fits = text.len() <= MAX_NAME && text.contains(&b'.') && text.split(|&b| b == b'.').all(label);
    fits.then(|| text.iter().map(|b| char::from(b.to_ascii_lowercase())).collect())
}

/// At most `max` bytes, all printable ASCII; others become `?`.
pub(super) fn printable(text: &[u8], max: usize) -> String {
    text.iter().take(max).map(|&b| if matches!(b, 32..=126) { char::from(b) } else { '?' }).collect()
}

/// At most 254 bytes that end no word, comment or value of a header field; others become `?`.
pub(super) fn word(text: &[u8]) -> String {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.@:[]".contains(&b);
    text.iter().take(254).map(|&b| if safe(b) { char::from(b) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        for (text, expected) in [
            ("Example.ORG", Some("example.org")),
            ("example.org.", Some("example.org")),
            ("_spf.a b%.example", Some("_spf.a b%.example")),
            (&format!("{label}.example"), Some(&*format!("{label}.example"))),
            (&longest, Some(&*longest)),
            (&format!("{longest}a"), None),
            (&format!("a{label}.example"), None),
            ("", None),
            (".", None),
            ("example", None),
            ("example.", None),
            ("a..example", None),
            (".a.example", None),
            ("a.example..", None),
            ("a\n.example", None),
            ("a\\.example", None),
            ("\u{fc}.example", None),
        ] {
            assert_eq!(domain_name(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
