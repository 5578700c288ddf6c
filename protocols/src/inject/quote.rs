//! Quoting of local parts in header fields (quote.c).

/// Whether a local part must be quoted.
pub(super) fn needs(local: &[u8]) -> bool {
    let plain = |&byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-./=?^_`{|}~".contains(&byte);
    local.is_empty()
        || !local.iter().all(plain)
        || local.starts_with(b".")
        || local.ends_with(b".")
        || local.windows(2).any(|pair| pair == b"..")
}

/// An address with its local part quoted where it must be. The empty address is empty.
pub(super) fn quoted(address: &[u8]) -> Vec<u8> {
    if address.is_empty() {
        return Vec::new();
    }
    let at = memchr::memrchr(b'@', address).unwrap_or(address.len());
    let (local, host) = address.split_at(at);
    if !needs(local) {
        return address.to_vec();
    }
    let mut out = vec![b'"'];
    for &byte in local {
        if matches!(byte, b'\r' | b'\n' | b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
    out.extend_from_slice(host);
    out
}
