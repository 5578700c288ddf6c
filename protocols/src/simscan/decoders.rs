//! Bytes written as text, as leniently as any program reads them.

/// Base64 (RFC 2045 6.8), byte by byte: other characters are skipped, padding may stand within.
pub(super) struct Base64<'a> {
    text: std::slice::Iter<'a, u8>,
    bits: u32,
    count: u32,
}

impl<'a> Base64<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text: text.iter(), bits: 0, count: 0 }
    }
}

impl Iterator for Base64<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        loop {
            let value = match *self.text.next()? {
                byte @ b'A'..=b'Z' => byte - b'A',
                byte @ b'a'..=b'z' => byte - b'a' + 26,
                byte @ b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' => {
                    self.count = 0;
                    continue;
                }
                _ => continue,
            };
            self.bits = self.bits << 6 | u32::from(value);
            self.count += 6;
            if self.count >= 8 {
                self.count -= 8;
                return Some((self.bits >> self.count) as u8);
            }
        }
    }
}

/// Quoted-printable (RFC 2045 6.7), byte by byte.
pub(super) struct QuotedPrintable<'a> {
    /// What is left of the line, without a soft break.
    line: &'a [u8],
    lines: &'a [u8],
}

impl<'a> QuotedPrintable<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { line: b"", lines: text }
    }
}

impl Iterator for QuotedPrintable<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        while self.line.is_empty() {
            if self.lines.is_empty() {
                return None;
            }
            let end = memchr::memchr(b'\n', self.lines).map_or(self.lines.len(), |at| at + 1);
            let (line, rest) = self.lines.split_at(end);
            let soft = line.trim_ascii_end().strip_suffix(b"=").filter(|_| line.ends_with(b"\n"));
            (self.line, self.lines) = (soft.unwrap_or(line), rest);
        }
        let (byte, rest) = unescape(self.line, b'=')?;
        self.line = rest;
        Some(byte)
    }
}

/// `%XX` become bytes (RFC 3986 2.1); what is none stays.
pub(super) fn percent(text: &[u8]) -> Vec<u8> {
    escaped(text, b'%')
}

/// The same with another mark.
pub(super) fn escaped(mut text: &[u8], mark: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((byte, rest)) = unescape(text, mark) {
        bytes.push(byte);
        text = rest;
    }
    bytes
}

fn unescape(text: &[u8], mark: u8) -> Option<(u8, &[u8])> {
    let (&byte, rest) = text.split_first()?;
    if byte == mark
        && let [high, low, rest @ ..] = rest
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some((high << 4 | low, rest));
    }
    Some((byte, rest))
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
