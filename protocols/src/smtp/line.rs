//! Command lines as they come over the network (RFC 5321 2.3.8, 4.5.3.1.4).

use crate::reply::Refusal;

/// Longest command line in bytes, CRLF included.
pub const MAX_LINE: usize = 2048;

/// The command line being read. Only CRLF ends it. A line that is too long or has a bare LF is answered at once, and
/// what is left of it up to its CRLF is dropped: nothing behind a bare LF is ever taken for a command.
pub(crate) struct Line {
    bytes: Vec<u8>,
    after_cr: bool,
    dropping: bool,
}

impl Line {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), after_cr: false, dropping: false }
    }

    /// Reads up to the next LF at most: `Some(Ok)` when a line is whole, `Some(Err)` when it turned out bad.
    pub(crate) fn read(&mut self, input: &[u8]) -> (usize, Option<Result<(), Refusal>>) {
        let newline = memchr::memchr(b'\n', input);
        let end = newline.unwrap_or(input.len());
        let piece = &input[..end];
        if let Some(&last) = piece.last() {
            self.after_cr = last == b'\r';
        }
        // With the LF that is still to come a line of this length breaks the limit.
        if !self.dropping && self.bytes.len() + piece.len() >= MAX_LINE {
            self.dropping = true;
            self.bytes.clear();
            return (end, Some(Err(Refusal::line_too_long())));
        }
        if !self.dropping {
            self.bytes.extend_from_slice(piece);
        }
        if newline.is_none() {
            return (end, None);
        }
        let crlf = std::mem::take(&mut self.after_cr);
        match (crlf, self.dropping) {
            (true, true) => {
                self.dropping = false;
                (end + 1, None)
            }
            (true, false) => {
                self.bytes.truncate(self.bytes.len() - 1);
                (end + 1, Some(Ok(())))
            }
            (false, true) => (end + 1, None),
            (false, false) => {
                self.dropping = true;
                self.bytes.clear();
                (end + 1, Some(Err(Refusal::bare_newline())))
            }
        }
    }

    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}
