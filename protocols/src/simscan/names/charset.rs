//! Text in a charset its sender has named, to be read by whatever program knows it.

use mail_parser::decoders::charsets::map::charset_decoder;

use super::super::decoders::Base64;

/// The text; in a charset that nobody knows, what is ASCII or else EBCDIC of it.
pub(super) fn in_charset(charset: &[u8], text: &[u8]) -> String {
    // RFC 2231 5: `charset*language` in encoded words.
    let charset = charset.split(|&b| b == b'*').next().unwrap_or_default();
    let key: Vec<u8> =
        charset.iter().filter(|b| b.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
    let is = |name: &[u8]| memchr::memmem::find(&key, name).is_some();
    if is(b"utf7") {
        return utf7(text);
    }
    if is(b"utf32") || is(b"ucs4") {
        return utf32(text);
    }
    // The decoder takes what tells no order for little-endian (against RFC 2781 4.3): it is that of most zeros.
    let unordered = (is(b"utf16") || is(b"ucs2") || is(b"unicode")) && !is(b"le");
    if unordered && is_big_endian(text) {
        return charset_decoder(b"utf-16be").map_or_else(String::new, |decoder| decoder(text));
    }
    match charset_decoder(charset) {
        // For ISO-2022-KR and HZ a decoder that says nothing: both are ASCII until told otherwise.
        Some(decoder) if !(is(b"2022kr") || is(b"2022cn") || is(b"hzgb")) => decoder(text),
        _ if is(b"ibm") || is(b"ebcdic") || key.starts_with(b"cp") => ebcdic(text),
        _ => String::from_utf8_lossy(text).into_owned(),
    }
}

/// RFC 2152, whose shifts may also end without their `-`.
fn utf7(text: &[u8]) -> String {
    let mut out = String::new();
    let mut parts = text.split(|&b| b == b'+');
    out.push_str(&String::from_utf8_lossy(parts.next().unwrap_or_default()));
    for part in parts {
        let end = part.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'/').unwrap_or(part.len());
        let (shifted, rest) = part.split_at(end);
        if shifted.is_empty() {
            out.push('+');
        }
        let units: Vec<u8> = Base64::new(shifted).collect();
        let units = units.as_chunks().0.iter().map(|unit| u16::from_be_bytes(*unit));
        out.extend(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
        out.push_str(&String::from_utf8_lossy(rest.strip_prefix(b"-").unwrap_or(rest)));
    }
    out
}

/// Whether UTF-16 has more zeros in front of a character than behind it.
fn is_big_endian(text: &[u8]) -> bool {
    let zeros = |at: usize| text.as_chunks::<2>().0.iter().filter(|unit| unit[at] == 0).count();
    zeros(0) > zeros(1)
}

/// Of either order: the first byte of a character is zero, or the last.
fn utf32(text: &[u8]) -> String {
    let (units, _) = text.as_chunks::<4>();
    let big = units.iter().all(|unit| unit[0] == 0);
    let read = if big { u32::from_be_bytes } else { u32::from_le_bytes };
    let characters = units.iter().map(|unit| char::from_u32(read(*unit)));
    characters.map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// What all code pages of EBCDIC have in common, as far as it stands in names.
fn ebcdic(text: &[u8]) -> String {
    let letter = |byte: u8, from: u8, first: u8| char::from(first + (byte - from));
    text.iter()
        .map(|&byte| match byte {
            0x81..=0x89 => letter(byte, 0x81, b'a'),
            0x91..=0x99 => letter(byte, 0x91, b'j'),
            0xa2..=0xa9 => letter(byte, 0xa2, b's'),
            0xc1..=0xc9 => letter(byte, 0xc1, b'A'),
            0xd1..=0xd9 => letter(byte, 0xd1, b'J'),
            0xe2..=0xe9 => letter(byte, 0xe2, b'S'),
            0xf0..=0xf9 => letter(byte, 0xf0, b'0'),
            0x40 => ' ',
            0x4b => '.',
            0x60 => '-',
            0x61 => '/',
            0x6d => '_',
            _ => char::REPLACEMENT_CHARACTER,
        })
        .collect()
}
