//! BinHex 4.0 (RFC 1741 A): files of a Macintosh in text.

/// The beginning of the line that stands before a file.
pub(super) const BEGIN: &[u8] = b"(This file must be converted with BinHex";

const DIGITS: &[u8; 64] = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr";

/// Stands behind a byte that is repeated as often as the next one says.
const REPEAT: u8 = 0x90;

/// Bytes in which the name is looked for: blank lines, and at most 63 bytes with their repetitions.
const MAX_AHEAD: usize = 512;

/// The name of the file that follows; it comes first in it, with its length before it.
pub(super) fn name(rest: &[u8]) -> Option<String> {
    let rest = &rest[..rest.len().min(MAX_AHEAD)];
    let digits = rest.trim_ascii_start().strip_prefix(b":")?;
    let (mut bits, mut count) = (0_u32, 0);
    let mut coded = Vec::new();
    for digit in digits.iter().filter(|b| !b.is_ascii_whitespace()) {
        let Some(value) = memchr::memchr(*digit, DIGITS) else { break };
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            coded.push((bits >> count) as u8);
        }
    }
    let bytes = repeated(&coded);
    let (&length, text) = bytes.split_first()?;
    let name = text.get(..length.into()).filter(|name| !name.is_empty() && name.len() <= 63)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn repeated(coded: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut coded = coded.iter().copied();
    while let Some(byte) = coded.next() {
        match (byte, bytes.last().copied()) {
            (REPEAT, last) => match (coded.next(), last) {
                (Some(0), _) => bytes.push(REPEAT),
                (Some(times), Some(last)) => bytes.extend(std::iter::repeat_n(last, usize::from(times) - 1)),
                _ => break,
            },
            _ => bytes.push(byte),
        }
    }
    bytes
}
