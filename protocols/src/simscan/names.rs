//! Every file name a header field may give a part, to whichever mail program reads it.
//!
//! Programs disagree about broken fields: which of two parameters counts, where an open quote ends, whether a comment
//! belongs to a name. So this does not decide: it answers all of them.

use mail_parser::decoders::charsets::map::charset_decoder;

use super::attachment::TooComplex;

/// Longest value of a parameter, in bytes.
const MAX_VALUE: usize = 4096;

/// Boundaries of one multipart: a folded parameter that programs disagree about has ten.
const MAX_BOUNDARIES: usize = 16;

/// Most sections of one parameter (RFC 2231 3).
const MAX_SECTIONS: usize = 1000;

/// A parameter: its name in lower case without stars, its section, whether it is percent-encoded, and the bytes from
/// behind its `=` on.
struct Parameter<'a> {
    name: Vec<u8>,
    section: Option<u32>,
    extended: bool,
    rest: &'a [u8],
}

/// The parameters of a field, wherever something that looks like one stands in it: also in comments and quotes.
fn parameters(field: &[u8]) -> impl Iterator<Item = Parameter<'_>> {
    memchr::memchr_iter(b'=', field).filter_map(|equals| {
        let before = field[..equals].trim_ascii_end();
        // Blanks may stand around the stars; a name is never long.
        let from = before.len().saturating_sub(64);
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"-_*".contains(b);
        let start = before[from..].iter().rposition(|b| !token(b)).map_or(from, |at| from + at + 1);
        let mut stars = before[start..].split(|&b| b == b'*');
        let name = stars.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
        let (mut section, mut extended) = (None, false);
        for part in stars {
            match std::str::from_utf8(part).ok().and_then(|digits| digits.parse().ok()) {
                Some(number) => section = Some(number),
                None => extended = true,
            }
        }
        Some(Parameter { name, section, extended, rest: field[equals + 1..].trim_ascii_start() })
    })
}

/// Adds all values of `boundary` in the field.
pub(super) fn boundaries(
    field: &[u8],
    budget: &mut usize,
    found: &mut Vec<Vec<u8>>,
) -> Result<(), TooComplex> {
    for parameter in parameters(field).filter(|parameter| parameter.name == b"boundary") {
        *budget = budget.checked_sub(1).ok_or(TooComplex)?;
        for value in readings(parameter.rest)? {
            let value = value.trim_ascii_end();
            let value = if parameter.extended { percent(after_charset(value).1) } else { value.to_vec() };
            if !value.is_empty() && !found.contains(&value) {
                found.push(value);
            }
        }
        if found.len() > MAX_BOUNDARIES {
            return Err(TooComplex);
        }
    }
    Ok(())
}

/// Hands over all values of `name` and `filename` in the field, decoded. At most `budget` parameters; what was used is
/// taken off.
pub(super) fn names(field: &[u8], budget: &mut usize, found: &mut dyn FnMut(&str)) -> Result<(), TooComplex> {
    let mut sections: Vec<(Vec<u8>, u32, bool, Vec<u8>)> = Vec::new();
    for parameter in parameters(field) {
        if !matches!(parameter.name.as_slice(), b"name" | b"filename") {
            continue;
        }
        *budget = budget.checked_sub(1).ok_or(TooComplex)?;
        let values = readings(parameter.rest)?;
        for value in &values {
            decoded(value, found);
            if parameter.extended {
                let (charset, text) = after_charset(value);
                found(&in_charset(charset, &percent(text)));
            }
        }
        if let Some(number) = parameter.section {
            if sections.len() >= MAX_SECTIONS {
                return Err(TooComplex);
            }
            let value = values.into_iter().next().unwrap_or_default();
            sections.push((parameter.name, number, parameter.extended, value));
        }
    }
    for name in [b"name".as_slice(), b"filename"] {
        let mut parts: Vec<_> = sections.iter().filter(|section| section.0 == name).collect();
        for last_wins in [false, true] {
            if last_wins {
                parts.reverse();
            }
            parts.sort_by_key(|section| section.1);
            let mut once = parts.clone();
            once.dedup_by_key(|section| section.1);
            joined(&once, found);
        }
    }
    Ok(())
}

/// The sections of a parameter as one value: decoded where they say so, everywhere, nowhere.
fn joined(sections: &[&(Vec<u8>, u32, bool, Vec<u8>)], found: &mut dyn FnMut(&str)) {
    let Some((_, _, _, first)) = sections.first() else { return };
    let (charset, _) = after_charset(first);
    for everywhere in [false, true] {
        let mut bytes = Vec::new();
        for (n, (_, _, extended, value)) in sections.iter().enumerate() {
            let text = if n == 0 && (*extended || everywhere) { after_charset(value).1 } else { value };
            if *extended || everywhere { bytes.extend(percent(text)) } else { bytes.extend_from_slice(text) }
        }
        found(&in_charset(charset, &bytes));
    }
    let plain: Vec<u8> = sections.iter().flat_map(|section| section.3.clone()).collect();
    decoded(&plain, found);
}

/// What a value may be: the first is that of RFC 2045, the others those of programs that do not read closely.
fn readings(rest: &[u8]) -> Result<Vec<Vec<u8>>, TooComplex> {
    let rest = &rest[..rest.len().min(MAX_VALUE + 1)];
    let to_semicolon = rest.split(|&b| b == b';').next().unwrap_or_default();
    let without_quotes = to_semicolon.iter().copied().filter(|&b| b != b'"').collect();
    let (with_comments, without_comments) = to_free_semicolon(rest);
    let all = match rest.strip_prefix(b"\"") {
        Some(inner) => {
            let (unescaped, escaped) = quoted(inner);
            // The last one: a program that knows no escapes.
            let plain = inner.split(|&b| b == b'"').next().unwrap_or_default().to_vec();
            vec![unescaped, escaped, plain, with_comments, without_comments, without_quotes]
        }
        None => {
            let word = to_semicolon.split(u8::is_ascii_whitespace).next().unwrap_or_default().to_vec();
            vec![word, to_semicolon.to_vec(), with_comments, without_comments, without_quotes]
        }
    };
    let mut readings: Vec<Vec<u8>> = Vec::new();
    for reading in all {
        if reading.len() >= MAX_VALUE {
            return Err(TooComplex);
        }
        if !readings.contains(&reading) {
            readings.push(reading);
        }
    }
    Ok(readings)
}

/// A quoted string up to its end, or the field's: without its backslashes, and with them.
fn quoted(inner: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut escaped = false;
    for &byte in inner {
        match byte {
            b'"' if !escaped => break,
            b'\\' if !escaped => escaped = true,
            _ => {
                escaped = false;
                without.push(byte);
            }
        }
        with.push(byte);
    }
    (without, with)
}

/// Up to a semicolon outside of quotes and comments, without quotes: with comments, and without them.
fn to_free_semicolon(rest: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (mut quoted, mut comments) = (false, 0_u32);
    for &byte in rest {
        match byte {
            b'"' if comments == 0 => quoted = !quoted,
            b';' if !quoted && comments == 0 => break,
            b')' if !quoted && comments > 0 => {
                comments -= 1;
                with.push(byte);
            }
            _ => {
                comments += u32::from(byte == b'(' && !quoted);
                with.push(byte);
                if comments == 0 {
                    without.push(byte);
                }
            }
        }
    }
    (with, without.trim_ascii().to_vec())
}

/// A value as it is, its encoded words decoded, its percents decoded, cut at a NUL.
fn decoded(value: &[u8], found: &mut dyn FnMut(&str)) {
    found(&String::from_utf8_lossy(value));
    if let Some(nul) = memchr::memchr(0, value) {
        found(&String::from_utf8_lossy(&value[..nul]));
        found(&String::from_utf8_lossy(value).replace('\0', ""));
    }
    if memchr::memmem::find(value, b"=?").is_some() {
        found(&encoded_words(value));
    }
    if value.contains(&b'%') {
        found(&in_charset(b"", &percent(value)));
    }
}

/// `charset'language'text` (RFC 2231 4); without both quotes everything is text.
fn after_charset(value: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = value.splitn(3, |&b| b == b'\'');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(charset), Some(_), Some(text)) => (charset, text),
        _ => (b"", value),
    }
}

fn in_charset(charset: &[u8], text: &[u8]) -> String {
    // RFC 2231 5: `charset*language` in encoded words.
    let charset = charset.split(|&b| b == b'*').next().unwrap_or_default();
    match charset_decoder(charset) {
        Some(decoder) => decoder(text),
        None => String::from_utf8_lossy(text).into_owned(),
    }
}

fn percent(text: &[u8]) -> Vec<u8> {
    escaped(text, b'%')
}

/// `=XX` or `%XX` become bytes; what is none stays.
fn escaped(text: &[u8], mark: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| Some((digit(hex[0])?, digit(hex[1])?)));
        match hex {
            Some((high, low)) if byte == mark => {
                bytes.push(high << 4 | low);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Quoted-printable (RFC 2045 6.7), as leniently as any program reads it.
pub(super) fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&b| b == b'\n') {
        let end = line.trim_ascii_end();
        match end.strip_suffix(b"=") {
            Some(soft) if line.ends_with(b"\n") => bytes.extend(escaped(soft, b'=')),
            _ => bytes.extend(escaped(line, b'=')),
        }
    }
    bytes
}

/// Base64 (RFC 2045 6.8), as leniently as any program reads it: other characters are skipped, padding may stand within.
pub(super) fn base64(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for &byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                count = 0;
                continue;
            }
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// Text with its encoded words decoded (RFC 2047), also such that are not quite ones; white space between them goes.
fn encoded_words(text: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, b"=?") {
        let (before, after) = rest.split_at(at);
        let mut parts = after[2..].splitn(3, |&b| b == b'?');
        let word = (parts.next(), parts.next(), parts.next());
        let (Some(charset), Some(encoding), Some(body)) = word else { break };
        let end = memchr::memmem::find(body, b"?=").unwrap_or(body.len());
        let bytes = match encoding {
            b"b" | b"B" => base64(&body[..end]),
            b"q" | b"Q" => {
                let spaces: Vec<_> = body[..end].iter().map(|&b| if b == b'_' { b' ' } else { b }).collect();
                escaped(&spaces, b'=')
            }
            _ => {
                out.push_str(&String::from_utf8_lossy(&rest[..at + 2]));
                rest = &after[2..];
                continue;
            }
        };
        if !before.trim_ascii().is_empty() {
            out.push_str(&String::from_utf8_lossy(before));
        }
        out.push_str(&in_charset(charset, &bytes));
        rest = body.get(end + 2..).unwrap_or_default();
    }
    out.push_str(&String::from_utf8_lossy(rest));
    out
}
