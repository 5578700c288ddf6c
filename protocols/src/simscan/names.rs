//! Every file name a header field may give a part, to whichever mail program reads it.
//!
//! Programs disagree about broken fields: which of two parameters counts, where an open quote ends, whether a comment
//! belongs to a name. So this does not decide: it answers all of them.

mod charset;
pub(super) mod location;
mod parameters;

use super::attachment::TooComplex;
use super::decoders::{Base64, escaped, percent};
use charset::in_charset;
use parameters::{Parameter, anywhere, parameters};

/// Boundaries of one multipart: a folded parameter that programs disagree about has ten.
const MAX_BOUNDARIES: usize = 16;

/// Most sections of one parameter (RFC 2231 3).
const MAX_SECTIONS: usize = 1000;

/// The parameters that name a file.
const NAMES: [&[u8]; 2] = [b"name", b"filename"];

/// Adds all values of `boundary` in the field.
pub(super) fn boundaries(
    field: &[u8],
    budget: &mut usize,
    found: &mut Vec<Vec<u8>>,
) -> Result<(), TooComplex> {
    for parameter in anywhere(field, &[b"boundary"], budget)? {
        for value in &parameter.values {
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

/// Hands over all values of `name` and `filename` in the field, decoded, and answers whether there is one that no program
/// misses. At most `budget` parameters; what was used is taken off.
pub(super) fn names(
    field: &[u8],
    budget: &mut usize,
    found: &mut dyn FnMut(&str),
) -> Result<bool, TooComplex> {
    let mut all = parameters(field, &NAMES, budget)?;
    if !all.kept && memchr::memmem::find(field, b"=?").is_some() {
        // Parameters that stand in encoded words as a whole.
        all.readings.push(anywhere(encoded_words(field).as_bytes(), &NAMES, budget)?);
    }
    let mut named = false;
    for reading in &all.readings {
        for parameter in reading {
            // A section is no name by itself, unless nobody knows what it belongs to.
            if parameter.section.is_none() || !all.kept {
                single(parameter, found);
            }
            let plain = parameter.section.is_none() && !parameter.extended;
            let value = parameter.values.first().map(|value| value.trim_ascii());
            named |= all.kept && plain && value.is_some_and(|value| !value.is_empty());
        }
        for name in NAMES {
            sections(reading.iter().filter(|parameter| parameter.name == name), found)?;
        }
    }
    Ok(named)
}

fn single(parameter: &Parameter, found: &mut dyn FnMut(&str)) {
    for value in &parameter.values {
        decoded(value, found);
        if parameter.extended {
            let (charset, text) = after_charset(value);
            told(&in_charset(charset, &percent(text)), found);
        }
    }
}

/// The sections of a parameter (RFC 2231 3) as one value: where one is given twice the first or the last; up to the first
/// that is missing, and all.
fn sections<'a>(
    parameters: impl Iterator<Item = &'a Parameter>,
    found: &mut dyn FnMut(&str),
) -> Result<(), TooComplex> {
    let mut parts: Vec<(u32, &Parameter)> =
        parameters.filter_map(|parameter| Some((parameter.section?, parameter))).collect();
    if parts.len() > MAX_SECTIONS {
        return Err(TooComplex);
    }
    for last_wins in [false, true] {
        if last_wins {
            parts.reverse();
        }
        parts.sort_by_key(|part| part.0);
        let mut once = parts.clone();
        once.dedup_by_key(|part| part.0);
        let in_a_row = once.windows(2).take_while(|pair| pair[1].0 - pair[0].0 == 1).count() + 1;
        if in_a_row < once.len() {
            joined(&once[..in_a_row], found);
        }
        joined(&once, found);
    }
    Ok(())
}

/// Sections as one value: decoded where they say so, everywhere, nowhere.
fn joined(sections: &[(u32, &Parameter)], found: &mut dyn FnMut(&str)) {
    let value = |parameter: &Parameter| parameter.values.first().cloned().unwrap_or_default();
    let sections: Vec<_> =
        sections.iter().map(|(_, parameter)| (parameter.extended, value(parameter))).collect();
    let Some((_, first)) = sections.first() else { return };
    let (charset, _) = after_charset(first);
    for everywhere in [false, true] {
        let mut bytes = Vec::new();
        for (n, (extended, value)) in sections.iter().enumerate() {
            let encoded = *extended || everywhere;
            let text = if n == 0 && encoded { after_charset(value).1 } else { value };
            if encoded { bytes.extend(percent(text)) } else { bytes.extend_from_slice(text) }
        }
        told(&in_charset(charset, &bytes), found);
    }
    let plain: Vec<u8> = sections.into_iter().flat_map(|(_, value)| value).collect();
    decoded(&plain, found);
}

/// A name; if it has control characters also without them, and cut at a NUL.
pub(super) fn told(name: &str, found: &mut dyn FnMut(&str)) {
    found(name);
    if name.contains(char::is_control) {
        found(&name.chars().filter(|c| !c.is_control()).collect::<String>());
        found(name.split('\0').next().unwrap_or_default());
    }
}

/// UTF-16 in little-endian order.
pub(super) fn utf16(text: &[u8]) -> String {
    in_charset(b"utf-16le", text)
}

/// A value as it is, its encoded words decoded, its percents decoded.
fn decoded(value: &[u8], found: &mut dyn FnMut(&str)) {
    told(&String::from_utf8_lossy(value), found);
    if memchr::memmem::find(value, b"=?").is_some() {
        told(&encoded_words(value), found);
    }
    if value.contains(&b'%') {
        told(&String::from_utf8_lossy(&percent(value)), found);
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
            b"b" | b"B" => Base64::new(&body[..end]).collect(),
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
