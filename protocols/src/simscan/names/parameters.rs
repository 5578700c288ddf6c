//! The parameters of a header field (RFC 2045 5.1, RFC 2231).
//!
//! A field that keeps to the grammar means what the grammar says: what stands in quotes or in another parameter is no
//! parameter. Only programs that know no escapes, or no comments, may read it otherwise, as long as it keeps to the
//! grammar for them too. In a field that does not keep to it everything that looks like a parameter counts, with every
//! value a program may give it.

use super::super::attachment::TooComplex;

/// Longest value of a parameter, in bytes.
const MAX_VALUE: usize = 4096;

/// A parameter: its name in lower case without stars, its section, whether it is percent-encoded, and what its value
/// may be; the first is that of RFC 2045.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: Vec<u8>,
    pub(super) section: Option<u32>,
    pub(super) extended: bool,
    pub(super) values: Vec<Vec<u8>>,
}

impl Parameter {
    /// With a name as it stands: `filename*1*`.
    fn new(name: &[u8], values: Vec<Vec<u8>>) -> Option<Self> {
        let mut stars = name.split(|&b| b == b'*');
        let name = stars.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
        let (mut section, mut extended) = (None, false);
        for part in stars {
            match std::str::from_utf8(part).ok().and_then(|digits| digits.parse().ok()) {
                Some(number) => section = Some(number),
                None => extended = true,
            }
        }
        Some(Self { name, section, extended, values })
    }
}

/// The parameters of a field, of some names.
#[derive(Debug)]
pub(super) struct Parameters {
    /// The field keeps to the grammar.
    pub(super) kept: bool,
    /// As different programs read them.
    pub(super) readings: Vec<Vec<Parameter>>,
}

/// Those called one of `wanted`. Each takes one off `budget`.
pub(super) fn parameters(
    field: &[u8],
    wanted: &[&[u8]],
    budget: &mut usize,
) -> Result<Parameters, TooComplex> {
    let Some(standard) = Dialect { escapes: true, comments: true }.read(field) else {
        return Ok(Parameters { kept: false, readings: vec![anywhere(field, wanted, budget)?] });
    };
    let mut all = vec![standard];
    if field.iter().any(|b| b"\\(".contains(b)) {
        let others = [(false, true), (true, false), (false, false)];
        all.extend(
            others.iter().filter_map(|&(escapes, comments)| Dialect { escapes, comments }.read(field)),
        );
    }
    let mut readings = Vec::new();
    for mut reading in all {
        reading.retain(|parameter| wanted.contains(&parameter.name.as_slice()));
        if readings.contains(&reading) {
            continue;
        }
        *budget = budget.checked_sub(reading.len()).ok_or(TooComplex)?;
        if reading.iter().any(|parameter| parameter.values.iter().any(|value| value.len() >= MAX_VALUE)) {
            return Err(TooComplex);
        }
        readings.push(reading);
    }
    Ok(Parameters { kept: true, readings })
}

/// Whatever looks like a parameter, also in comments and quotes.
pub(super) fn anywhere(
    field: &[u8],
    wanted: &[&[u8]],
    budget: &mut usize,
) -> Result<Vec<Parameter>, TooComplex> {
    let mut found = Vec::new();
    for equals in memchr::memchr_iter(b'=', field) {
        let before = field[..equals].trim_ascii_end();
        // A name is never long.
        let from = before.len().saturating_sub(64);
        let start = before[from..].iter().rposition(|&b| !is_name(b)).map_or(from, |at| from + at + 1);
        let Some(mut parameter) = Parameter::new(&before[start..], Vec::new()) else { continue };
        if wanted.contains(&parameter.name.as_slice()) {
            *budget = budget.checked_sub(1).ok_or(TooComplex)?;
            parameter.values = values(field[equals + 1..].trim_ascii_start())?;
            found.push(parameter);
        }
    }
    Ok(found)
}

/// A byte of a name; with the specials of addresses: in `?name=` is no name.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"()<>@,;:\\\"'[]".contains(&byte)
}

/// What a program knows of the grammar.
#[derive(Clone, Copy)]
struct Dialect {
    escapes: bool,
    comments: bool,
}

impl Dialect {
    /// All parameters; none: the field does not keep to the grammar.
    fn read(self, field: &[u8]) -> Option<Vec<Parameter>> {
        let segments = self.segments(field)?;
        let (kind, parameters) = segments.split_first()?;
        if kind.iter().any(|b| b"=\"".contains(b)) {
            return None;
        }
        let parameters = parameters.iter().filter(|segment| !segment.trim_ascii().is_empty());
        parameters.map(|segment| self.parameter(segment)).collect()
    }

    /// What stands between free semicolons, without comments; none: a quote or a comment does not end.
    fn segments(self, field: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut segments = vec![Vec::new()];
        let (mut quoted, mut comments, mut escaped) = (false, 0_u32, false);
        for &byte in field {
            let literal = std::mem::take(&mut escaped);
            if !literal && byte == b'\\' {
                escaped = self.escapes && (quoted || comments > 0);
            } else if !literal && comments == 0 && byte == b'"' {
                quoted = !quoted;
            } else if !literal && !quoted && self.comments && byte == b'(' {
                comments += 1;
            } else if !literal && comments > 0 && byte == b')' {
                comments -= 1;
                continue;
            } else if !quoted && comments == 0 && byte == b';' {
                segments.push(Vec::new());
                continue;
            }
            if comments == 0 {
                segments.last_mut()?.push(byte);
            }
        }
        (!quoted && comments == 0).then_some(segments)
    }

    fn parameter(self, segment: &[u8]) -> Option<Parameter> {
        let Some(equals) = memchr::memchr(b'=', segment) else {
            // A word alone harms nobody.
            return if segment.contains(&b'"') { None } else { Parameter::new(segment, Vec::new()) };
        };
        let (name, value) = (segment[..equals].trim_ascii(), segment[equals + 1..].trim_ascii());
        if !name.iter().all(|&b| is_name(b)) {
            return None;
        }
        let values = match value.strip_prefix(b"\"") {
            Some(inner) => {
                let (unescaped, plain) = quoted(inner, self.escapes);
                if inner.len() != plain.len() + 1 {
                    return None;
                }
                vec![unescaped, plain]
            }
            None => {
                let has = |bytes: &[u8]| value.iter().any(|b| bytes.contains(b));
                // A quote within, or another parameter whose semicolon is missing.
                if has(b"\"") || has(b"=") && has(b" \t,") {
                    return None;
                }
                let word = value.split(u8::is_ascii_whitespace).next().unwrap_or_default();
                vec![word.to_vec(), value.to_vec()]
            }
        };
        Parameter::new(name, values)
    }
}

/// What a value may be that is read from `rest` on: the first is that of RFC 2045, the others those of programs that do
/// not read closely.
fn values(rest: &[u8]) -> Result<Vec<Vec<u8>>, TooComplex> {
    let rest = &rest[..rest.len().min(MAX_VALUE + 1)];
    let to_semicolon = rest.split(|&b| b == b';').next().unwrap_or_default();
    let without_quotes = to_semicolon.iter().copied().filter(|&b| b != b'"').collect();
    let (with_comments, without_comments) = to_free_semicolon(rest);
    let all = match rest.strip_prefix(b"\"") {
        Some(inner) => {
            let (unescaped, escaped) = quoted(inner, true);
            let (_, plain) = quoted(inner, false);
            vec![unescaped, escaped, plain, with_comments, without_comments, without_quotes]
        }
        None => {
            let word = to_semicolon.split(u8::is_ascii_whitespace).next().unwrap_or_default().to_vec();
            vec![word, to_semicolon.to_vec(), with_comments, without_comments, without_quotes]
        }
    };
    let mut values: Vec<Vec<u8>> = Vec::new();
    for value in all {
        if value.len() >= MAX_VALUE {
            return Err(TooComplex);
        }
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}

/// A quoted string up to its end, or the field's: without its backslashes, and with them.
fn quoted(inner: &[u8], escapes: bool) -> (Vec<u8>, Vec<u8>) {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut escaped = false;
    for &byte in inner {
        match byte {
            b'"' if !escaped => break,
            b'\\' if !escaped && escapes => escaped = true,
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
