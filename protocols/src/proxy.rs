//! The PROXY protocol, versions 1 and 2: for whom a proxy connects.

use std::net::SocketAddr;

use proxy_header::{Error as HeaderError, ParseConfig, ProxyHeader};

/// The longest header that is read, in bytes. Version 1 has at most 107; version 2 has 16, 36 bytes of IPv6 addresses,
/// and fields of its own that carry certificates' names.
pub const MAX_HEADER: usize = 2048;

/// The longest line of version 1, in bytes, CR LF included.
const MAX_V1: usize = 107;

/// Not a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something else.
    #[error("not a PROXY header of version 1 or 2")]
    Invalid,
    /// It does not end.
    #[error("longer than {MAX_HEADER} bytes")]
    Long,
}

/// The client and the address it came to; none when the proxy speaks for itself (`LOCAL`, `UNKNOWN`).
pub type Addresses = Option<(SocketAddr, SocketAddr)>;

/// Reads a header at the beginning of `bytes`: what it says and its length. `Ok(None)`: it is not whole yet.
pub fn parse(bytes: &[u8]) -> Result<Option<(Addresses, usize)>, Error> {
    const V1: &[u8] = b"PROXY ";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    if ![V1, V2].iter().any(|magic| {
        let common = magic.len().min(bytes.len());
        bytes[..common] == magic[..common]
    }) {
        return Err(Error::Invalid);
    }
    // However the bytes were cut, the first LF ends the line of version 1, and it has a CR in front.
    if bytes.starts_with(V1) {
        match memchr::memchr(b'\n', bytes) {
            Some(at) if at < MAX_V1 && bytes[..at].ends_with(b"\r") => {}
            None if bytes.len() < MAX_V1 => {}
            _ => return Err(Error::Invalid),
        }
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, length)) => {
            let addresses = header.proxied_address().map(|found| (found.source, found.destination));
            Ok(Some((addresses, length)))
        }
        // What is whole does not get better.
        Err(HeaderError::BufferTooShort) if is_whole(bytes) => Err(Error::Invalid),
        Err(HeaderError::BufferTooShort) if bytes.len() < MAX_HEADER => Ok(None),
        Err(HeaderError::BufferTooShort) => Err(Error::Long),
        Err(_) => Err(Error::Invalid),
    }
}

/// Whether a header has come to the end that it names itself: the line of version 1, the length of version 2.
fn is_whole(bytes: &[u8]) -> bool {
    match (bytes.first(), bytes.get(14..16)) {
        (Some(b'P'), _) => bytes.contains(&b'\n'),
        (_, Some(&[high, low])) => bytes.len() >= 16 + usize::from(u16::from_be_bytes([high, low])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, addresses].concat()
    }

    #[test]
    fn headers() {
        let v4 = Some(("192.0.2.1:4711".parse().unwrap(), "192.0.2.25:25".parse().unwrap()));
        let v6 = Some(("[2001:db8::1]:4711".parse().unwrap(), "[2001:db8::25]:25".parse().unwrap()));
        let addresses4 = [192, 0, 2, 1, 192, 0, 2, 25, 0x12, 0x67, 0, 25];
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.25 4711 25\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001:db8::1 2001:db8::25 4711 25\r\n".to_vec(), v6),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2(0x21, 0x11, &addresses4), v4),
            (v2(0x20, 0, &[]), None),
        ] {
            let whole = [&header[..], b"EHLO x\r\n"].concat();
            assert_eq!(parse(&whole), Ok(Some((expected, header.len()))), "{}", whole.escape_ascii());
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        for bytes in [&b"EHLO x\r\n"[..], b"PROXY TCP4 x y 1 2\r\n", b"\r\n\r\nx", b"PROXY TCP4 1.2.3.4\r\n"]
        {
            assert_eq!(parse(bytes), Err(Error::Invalid), "{}", bytes.escape_ascii());
        }
        assert!(parse(&[b"PROXY ".to_vec(), vec![b'x'; MAX_HEADER]].concat()).is_err());
        assert!(parse(&v2(0x21, 0x11, &[0; 3])).is_err());
    }
}
