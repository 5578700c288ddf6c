//! uuencode (POSIX.1-2017, uuencode): files in text, which old programs take for attachments wherever they stand.

use super::super::decoders::Base64;
use super::TooComplex;

/// Bytes behind a line that begins a file at which is looked to see whether it does.
const MAX_AHEAD: usize = 64;

/// Times its text that a file may be long, beside [`MAX_SMALL`]: blanks that got lost are made up for.
const MAX_GROWTH: usize = 2;

/// Bytes a file may have whatever its text has.
const MAX_SMALL: usize = 4096;

/// Longest name of a file.
const MAX_NAME: usize = 1024;

/// A file that begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) name: String,
    base64: bool,
}

/// The line says that a file begins.
pub(super) fn begin(line: &[u8]) -> Option<Begin> {
    let line = line.strip_prefix(b"begin")?;
    let (base64, line) = line.strip_prefix(b"-base64").map_or((false, line), |line| (true, line));
    let line = line.strip_prefix(b" ")?.trim_ascii_start();
    let digits = line.iter().take_while(|b| matches!(b, b'0'..=b'7')).count();
    let name = line[digits..].strip_prefix(b" ")?.trim_ascii();
    let named = matches!(digits, 3..=7) && !name.is_empty() && name.len() <= MAX_NAME;
    named.then(|| Begin { name: String::from_utf8_lossy(name).into_owned(), base64 })
}

impl Begin {
    /// Whether what follows is a file.
    pub(super) fn is_followed_by(&self, rest: &[u8]) -> bool {
        // No further is looked: what follows may be one line of megabytes.
        let rest = &rest[..rest.len().min(MAX_AHEAD)];
        let first = rest.split(|b| b"\r\n".contains(b)).next().unwrap_or_default();
        first.len() > 1 && first.iter().all(|&b| if self.base64 { is_base64(b) } else { is_digit(b) })
    }

    /// The file, and how many bytes were read for it: up to its end, or the first line that does not belong to it.
    pub(super) fn decode(&self, rest: &[u8]) -> Result<(Vec<u8>, usize), TooComplex> {
        let mut bytes = Vec::new();
        let mut read = 0;
        for line in rest.split_inclusive(|&b| b == b'\n') {
            let text = line.trim_ascii_end();
            let belongs = if self.base64 {
                text.iter().all(|&b| is_base64(b)) && !text.starts_with(b"====")
            } else {
                decode_line(line, &mut bytes)
            };
            if !belongs {
                break;
            }
            read += line.len();
            if bytes.len() > MAX_SMALL + MAX_GROWTH * read {
                return Err(TooComplex);
            }
        }
        if self.base64 {
            bytes.extend(Base64::new(&rest[..read]));
        }
        Ok((bytes, read))
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b' '..=b'`')
}

/// Adds the bytes of a line: its first digit is their number; digits at its end that are blanks may have got lost.
fn decode_line(line: &[u8], bytes: &mut Vec<u8>) -> bool {
    let end = line.iter().rposition(|b| !b"\r\n".contains(b)).map_or(0, |at| at + 1);
    let value = |digit: u8| u32::from(digit.wrapping_sub(b' ') & 63);
    let Some((&first, digits)) = line[..end].split_first() else { return true };
    let count = value(first) as usize;
    let expected = count.div_ceil(3) * 4;
    // Some programs add a sum, or a blank that keeps the others.
    if digits.len() > expected + 2 || !is_digit(first) || !digits.iter().all(|&b| is_digit(b)) {
        return false;
    }
    let until = bytes.len() + count;
    let mut digits = digits.iter().copied().chain(std::iter::repeat(b' ')).take(expected).map(value);
    while let (Some(a), Some(b), Some(c), Some(d)) =
        (digits.next(), digits.next(), digits.next(), digits.next())
    {
        let [_, three @ ..] = (a << 18 | b << 12 | c << 6 | d).to_be_bytes();
        bytes.extend(three);
    }
    bytes.truncate(until);
    true
}
