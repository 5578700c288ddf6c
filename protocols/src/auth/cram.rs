//! CRAM-MD5 (RFC 2195): HMAC-MD5 of the challenge.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

/// Whether `digest` is the HMAC-MD5 of the challenge under this password. The time does not depend on where digests
/// differ. An empty password, which everybody knows, is never right.
pub fn verify(password: &[u8], challenge: &[u8], digest: &[u8; 16]) -> bool {
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(password) else { return false };
    mac.update(challenge);
    mac.verify_slice(digest).is_ok() && !password.is_empty()
}

/// The 16 bytes of 32 hexadecimal digits.
pub(crate) fn digest(hex: &[u8]) -> Option<[u8; 16]> {
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = hex.as_chunks::<2>();
    if pairs.len() != 16 || !rest.is_empty() {
        return None;
    }
    let mut digest = [0; 16];
    for (byte, &[high, low]) in digest.iter_mut().zip(pairs) {
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(digest)
}

/// 32 hexadecimal digits, in lower case as clients send them.
pub(crate) fn hex(digest: &[u8; 16]) -> Vec<u8> {
    digest.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let (challenge, sent) =
            (b"<1896.697170952@postoffice.reston.mci.net>", b"b913a602c7eda7a495b4e6e7334d3890");
        let right = digest(sent).unwrap();
        assert_eq!(hex(&right), sent);
        assert!(verify(b"tanstaaftanstaaf", challenge, &right));
        assert!(!verify(b"tanstaaftanstaag", challenge, &right));
        assert!(!verify(b"tanstaaftanstaaf", b"<1@x>", &right));
        let mut wrong = right;
        wrong[15] ^= 1;
        assert!(!verify(b"tanstaaftanstaaf", challenge, &wrong));
    }

    #[test]
    fn an_empty_password_is_never_right() {
        // HMAC_MD5("", ""), RFC 2104 with an empty key.
        let empty = digest(b"74e6f7298a9c2d168935f58c001bad88").unwrap();
        assert!(!verify(b"", b"", &empty));
    }

    #[test]
    fn hexadecimal() {
        for (text, good) in [
            ("b913a602c7eda7a495b4e6e7334d3890", true),
            ("B913A602C7EDA7A495B4E6E7334D3890", true),
            ("b913a602c7eda7a495b4e6e7334d389", false),
            ("b913a602c7eda7a495b4e6e7334d38900", false),
            ("b913a602c7eda7a495b4e6e7334d38 0", false),
            ("+913a602c7eda7a495b4e6e7334d3890", false),
            ("", false),
        ] {
            assert_eq!(digest(text.as_bytes()).is_some(), good, "{text}");
        }
    }
}
