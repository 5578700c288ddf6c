//! The file name in a `Content-Location` (RFC 2557 4): that of a part which has no other.

use super::{decoded, encoded_words};

/// Hands over the names a program may take from the field.
pub(in super::super) fn names(field: &[u8], found: &mut dyn FnMut(&str)) {
    // RFC 2557 4.4.1: long addresses, and such that are not ASCII, stand in encoded words.
    for text in [field, encoded_words(field).as_bytes()] {
        let uncommented = memchr::memmem::find(text, b" (").map_or(text, |at| &text[..at]);
        if let Some(name) = file(uncommented) {
            decoded(name, found);
        }
    }
}

/// The last segment of the path of an address (RFC 3986 3), or of a path of Windows; without query and fragment.
fn file(address: &[u8]) -> Option<&[u8]> {
    let around = |b: &u8| b.is_ascii_whitespace() || b"\"'<>".contains(b);
    let from = address.iter().position(|b| !around(b))?;
    let to = address.iter().rposition(|b| !around(b))?;
    let address = address[from..=to].split(|b| b"?#".contains(b)).next()?;
    let path = match scheme(address) {
        Some(rest) if rest.starts_with(b"//") => {
            let host = rest[2..].iter().position(|b| b"/\\".contains(b))?;
            &rest[2 + host..]
        }
        // What has no path and an at sign is the name of a part or a mailbox, such as cid:1@www.example.com.
        Some(rest) if !rest.iter().any(|b| b"/\\".contains(b)) && rest.contains(&b'@') => return None,
        Some(rest) => rest,
        None => address,
    };
    path.rsplit(|b| b"/\\".contains(b)).next().filter(|name| !name.is_empty())
}

/// What stands behind a scheme (RFC 3986 3.1); one letter is a drive.
fn scheme(address: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', address).filter(|&colon| colon > 1)?;
    let is_scheme = address[..colon].iter().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(b));
    is_scheme.then_some(&address[colon + 1..])
}
