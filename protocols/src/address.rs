//! Addresses: the unquoted form the queue stores, and the quoted form of the wire (RFC 5321 4.1.2; quote.c and
//! addrparse in qmail-smtpd.c).
//!
//! Stored: quotes and backslashes removed, local part and domain split at the last `@`. An address without `@` is a
//! local part alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest address in bytes (addrparse in qmail-smtpd.c).
pub const MAX_ADDRESS: usize = 900;

/// Longest domain in bytes (RFC 5321 4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;

/// A stored address in its two parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    /// Local part, unquoted, letters as they came.
    pub local: Vec<u8>,
    /// Domain in lower case; `None` for an address without `@`.
    pub domain: Option<Vec<u8>>,
}

impl Mailbox {
    /// Splits a stored address at its last `@`.
    pub fn split(address: &[u8]) -> Self {
        let (local, domain) = split(address);
        Self { local: local.to_vec(), domain: domain.map(<[u8]>::to_ascii_lowercase) }
    }

    /// The stored form, `local@domain`.
    pub fn address(&self) -> Vec<u8> {
        let mut address = self.local.clone();
        if let Some(domain) = &self.domain {
            address.push(b'@');
            address.extend_from_slice(domain);
        }
        address
    }
}

/// The parts of a stored address around its last `@`, as they are.
pub fn split(address: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memrchr(b'@', address) {
        Some(at) => (&address[..at], Some(&address[at + 1..])),
        None => (address, None),
    }
}

/// The address with its domain in A-labels, as everybody else knows it (RFC 5890 2.3.2.4); what has none stays as it is.
pub fn in_a_labels(address: Vec<u8>) -> Vec<u8> {
    let (local, Some(domain)) = split(&address) else { return address };
    let ascii = std::str::from_utf8(domain).ok().filter(|domain| !domain.is_ascii());
    let ascii = ascii.and_then(|domain| idna::domain_to_ascii(domain).ok());
    match ascii.filter(|ascii| is_domain(ascii.as_bytes())) {
        Some(ascii) => [local, b"@", ascii.as_bytes()].concat(),
        None => address,
    }
}

/// The address as it stands between `<` and `>` on the wire: the local part quoted where RFC 5321 needs it. The empty
/// address is the null reverse-path. `None` if no quoting can carry it: control characters, a broken domain.
pub fn quoted(address: &[u8]) -> Option<Vec<u8>> {
    if address.is_empty() {
        return Some(Vec::new());
    }
    let (local, domain) = split(address);
    if address.iter().any(u8::is_ascii_control) || domain.is_some_and(|d| !is_domain(d)) {
        return None;
    }
    let mut wire = Vec::with_capacity(address.len() + 2);
    if is_dot_string(local) {
        wire.extend_from_slice(local);
    } else {
        wire.push(b'"');
        for &b in local {
            if matches!(b, b'"' | b'\\') {
                wire.push(b'\\');
            }
            wire.push(b);
        }
        wire.push(b'"');
    }
    if let Some(domain) = domain {
        wire.push(b'@');
        wire.extend_from_slice(domain);
    }
    Some(wire)
}

/// Dot-string of RFC 5321 4.1.2, with RFC 6531's non-ASCII.
fn is_dot_string(local: &[u8]) -> bool {
    local.split(|&b| b == b'.').all(|atom| !atom.is_empty() && atom.iter().all(|&b| is_atext(b)))
}

const fn is_atext(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || b >= 128
        || matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
        )
}

/// A domain that can stand on the wire and in a log: atoms with dots, more widely than host names, or a literal.
pub fn is_domain(domain: &[u8]) -> bool {
    if domain.is_empty() || domain.len() > MAX_DOMAIN {
        return false;
    }
    if domain.starts_with(b"[") {
        let inner = domain[1..].strip_suffix(b"]");
        return inner.is_some_and(|i| i.iter().all(|&b| is_atext(b) || matches!(b, b'.' | b':')));
    }
    domain.iter().all(|&b| is_atext(b) || b == b'.')
}

/// The address of a literal `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3).
pub fn literal(domain: &[u8]) -> Option<IpAddr> {
    let inner = domain.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let text = std::str::from_utf8(inner).ok()?;
    match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => text[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Why a path was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in address")]
pub struct PathError;

/// Reads a path as qmail-smtpd does: `<...>`, or without brackets up to a space; a source route is dropped, quotes and
/// backslashes are removed. Returns the stored address, empty for `<>`, and what stands behind the path.
///
/// Stricter than qmail where it guesses: an open bracket, quote or backslash, a space outside quotes, an empty part or
/// a route without address is an error, so an address never turns into the null reverse-path or into another address.
pub fn parse_path(text: &[u8]) -> Result<(Vec<u8>, &[u8]), PathError> {
    let bracketed = text.first() == Some(&b'<');
    let start = usize::from(bracketed);
    let end = path_end(text, start, bracketed)?;
    let after = &text[(end + usize::from(bracketed)).min(text.len())..];
    let path = &text[start..end];
    if path.is_empty() {
        return if bracketed { Ok((Vec::new(), after)) } else { Err(PathError) };
    }
    let address = unquote(without_route(path)?)?;
    let (local, domain) = split(&address);
    if address.len() > MAX_ADDRESS
        || address.iter().any(u8::is_ascii_control)
        || (local.is_empty() && domain.is_none_or(|_| !path.contains(&b'"')))
        || domain.is_some_and(|d| !is_domain(d))
    {
        return Err(PathError);
    }
    Ok((address, after))
}

/// Where the path ends: the first unquoted `>`, or space or end of line when there is no bracket.
fn path_end(text: &[u8], start: usize, bracketed: bool) -> Result<usize, PathError> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &b) in text.iter().enumerate().skip(start) {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'>' if bracketed => return Ok(at),
            b' ' if !bracketed => return Ok(at),
            b' ' | b'<' | b'>' => return Err(PathError),
            _ => {}
        }
    }
    if bracketed || quoted || escaped { Err(PathError) } else { Ok(text.len()) }
}

/// `@a,@b:user@c` is `user@c` (RFC 5321 4.1.1.3).
fn without_route(path: &[u8]) -> Result<&[u8], PathError> {
    if path.first() != Some(&b'@') {
        return Ok(path);
    }
    let colon = memchr::memchr(b':', path).ok_or(PathError)?;
    if colon + 1 == path.len() { Err(PathError) } else { Ok(&path[colon + 1..]) }
}

fn unquote(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut address = Vec::with_capacity(path.len());
    let (mut quoted, mut escaped) = (false, false);
    for &b in path {
        match b {
            _ if escaped => {
                escaped = false;
                address.push(b);
            }
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ => address.push(b),
        }
    }
    // A route cut inside a quote leaves one open.
    if quoted || escaped { Err(PathError) } else { Ok(address) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_domain_in_another_script_is_known_by_its_a_labels() {
        for (address, known) in [
            ("bob@b\u{fc}cher.example", "bob@xn--bcher-kva.example"),
            ("b\u{f6}b@B\u{dc}CHER.example", "b\u{f6}b@xn--bcher-kva.example"),
            ("bob@xn--bcher-kva.example", "bob@xn--bcher-kva.example"),
            ("bob@Example.org", "bob@Example.org"),
            ("b\u{f6}b", "b\u{f6}b"),
            ("bob@\u{2488}.example", "bob@\u{2488}.example"),
        ] {
            assert_eq!(in_a_labels(address.into()), known.as_bytes());
        }
    }

    #[test]
    fn paths() {
        let cases: &[(&str, Option<(&str, &str)>)] = &[
            ("<joe@example.com>", Some(("joe@example.com", ""))),
            ("<joe@example.com> SIZE=1", Some(("joe@example.com", " SIZE=1"))),
            ("joe@example.com SIZE=1", Some(("joe@example.com", " SIZE=1"))),
            ("<>", Some(("", ""))),
            ("<postmaster>", Some(("postmaster", ""))),
            ("<@a.example,@b.example:joe@c.example>", Some(("joe@c.example", ""))),
            ("<\"joe smith\"@example.com>", Some(("joe smith@example.com", ""))),
            ("<joe\\ smith@example.com>", Some(("joe smith@example.com", ""))),
            ("<\"a\\\"b>c\"@example.com>", Some(("a\"b>c@example.com", ""))),
            ("<\"a@b\"@example.com>", Some(("a@b@example.com", ""))),
            ("<\"\"@example.com>", Some(("@example.com", ""))),
            ("<joe@[192.0.2.1]>", Some(("joe@[192.0.2.1]", ""))),
            ("<joe@[IPv6:2001:db8::1]>", Some(("joe@[IPv6:2001:db8::1]", ""))),
            ("<joe@example.com", None),
            ("<\"joe@example.com>", None),
            ("<joe@example.com\\>", None),
            ("<joe smith@example.com>", None),
            ("<<joe@example.com>>", None),
            ("<joe@>", None),
            ("<@example.com>", None),
            ("<@example.com:>", None),
            ("<\"\">", None),
            ("<joe@\"exa mple\">", None),
            ("<joe@\"example.com>\">", None),
            ("<joe\0@example.com>", None),
            ("<\"joe\r\n\"@example.com>", None),
            ("", None),
            (" ", None),
        ];
        for (text, expected) in cases {
            let found = parse_path(text.as_bytes()).ok();
            let expected = expected.map(|(a, rest)| (a.as_bytes().to_vec(), rest.as_bytes()));
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn nine_hundred_bytes_and_no_more() {
        let path = |n: usize| format!("<{}@example.com>", "x".repeat(n - "@example.com".len()));
        assert!(parse_path(path(900).as_bytes()).is_ok());
        assert_eq!(parse_path(path(901).as_bytes()), Err(PathError));
    }

    #[test]
    fn quoting() {
        let cases: &[(&str, Option<&str>)] = &[
            ("joe@example.com", Some("joe@example.com")),
            ("", Some("")),
            ("postmaster", Some("postmaster")),
            ("joe smith@example.com", Some("\"joe smith\"@example.com")),
            ("a\"b\\c@example.com", Some("\"a\\\"b\\\\c\"@example.com")),
            ("a@b@example.com", Some("\"a@b\"@example.com")),
            (".joe@example.com", Some("\".joe\"@example.com")),
            ("joe..smith@example.com", Some("\"joe..smith\"@example.com")),
            ("@example.com", Some("\"\"@example.com")),
            ("j\u{f6}@example.com", Some("j\u{f6}@example.com")),
            ("joe@exa mple", None),
            ("joe@x> SIZE=1", None),
            ("joe\r\nRSET@example.com", None),
            ("joe@", None),
        ];
        for (stored, expected) in cases {
            assert_eq!(quoted(stored.as_bytes()), expected.map(|e| e.as_bytes().to_vec()), "{stored:?}");
        }
    }

    #[test]
    fn literals() {
        assert_eq!(literal(b"[192.0.2.1]"), "192.0.2.1".parse().ok());
        assert_eq!(literal(b"[IPv6:2001:db8::1]"), "2001:db8::1".parse().ok());
        assert_eq!(literal(b"[2001:db8::1]"), None);
        assert_eq!(literal(b"192.0.2.1"), None);
        assert_eq!(literal("[I\u{e9}\u{e9}:]".as_bytes()), None);
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(stored in proptest::collection::vec(any::<u8>(), 1..60)) {
            if let Some(wire) = quoted(&stored) {
                let text = [b"<", wire.as_slice(), b"> X"].concat();
                prop_assert_eq!(parse_path(&text), Ok((stored, &b" X"[..])));
            }
        }

        #[test]
        fn what_is_read_can_be_written(text in "[<>@:a\\\\\" .,\\[\\]]{0,20}") {
            if let Ok((address, _)) = parse_path(text.as_bytes()) {
                prop_assert!(quoted(&address).is_some(), "{:?}", address);
            }
        }
    }
}
