//! A stored message made ready for the wire: LF becomes CRLF, dots at the start of lines are doubled (RFC 5321 4.5.2;
//! blast in qmail-remote.c).

/// Turns the pieces of a stored message into mail data, up to but without the final `.` CRLF.
///
/// Every CR is part of a CRLF in what comes out: a bare CR ends a line, as in notqmail, and what follows it is stuffed
/// like any line. So nothing in the message can end the data.
#[derive(Debug)]
pub struct DotStuffer {
    line_start: bool,
    after_cr: bool,
}

/// The message does not end in a line end; SMTP cannot carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("partial final line")]
pub struct PartialLine;

impl Default for DotStuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl DotStuffer {
    /// At the start of a message.
    pub const fn new() -> Self {
        Self { line_start: true, after_cr: false }
    }

    /// Appends the next piece, stuffed: at most twice its length and two bytes.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while let Some(&first) = piece.first() {
            if std::mem::take(&mut self.after_cr) {
                self.end_line(out);
                if first == b'\n' {
                    piece = &piece[1..];
                    continue;
                }
            }
            let run = memchr::memchr2(b'\r', b'\n', piece).unwrap_or(piece.len());
            if run > 0 {
                if self.line_start && first == b'.' {
                    out.push(b'.');
                }
                self.line_start = false;
                out.extend_from_slice(&piece[..run]);
            }
            match piece.get(run) {
                Some(b'\r') => self.after_cr = true,
                Some(_) => self.end_line(out),
                None => return,
            }
            piece = &piece[run + 1..];
        }
    }

    /// The message has ended: appends what was held back. A message without any line is whole.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), PartialLine> {
        if self.after_cr {
            self.end_line(out);
        }
        if self.line_start { Ok(()) } else { Err(PartialLine) }
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n");
        self.line_start = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuffed(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut stuffer, mut out) = (DotStuffer::new(), Vec::new());
        for piece in pieces {
            stuffer.push(piece, &mut out);
        }
        let whole = stuffer.finish(&mut out).is_ok();
        (out, whole)
    }

    #[test]
    fn what_goes_over_the_wire() {
        let cases: &[(&[u8], &[u8], bool)] = &[
            (b"", b"", true),
            (b"a\n", b"a\r\n", true),
            (b".\n", b"..\r\n", true),
            (b"..\n.a\nb.\n", b"...\r\n..a\r\nb.\r\n", true),
            (b"a\r\n", b"a\r\n", true),
            (b"a\rb\n", b"a\r\nb\r\n", true),
            (b"a\r.\rb\n", b"a\r\n..\r\nb\r\n", true),
            (b"a\r\r\n", b"a\r\n\r\n", true),
            (b"a\r", b"a\r\n", true),
            (b"a\n\r\n.\r\nQUIT\r\n", b"a\r\n\r\n..\r\nQUIT\r\n", true),
            (b"\0\xff\n", b"\0\xff\r\n", true),
            (b"a", b"a", false),
            (b"a\n.", b"a\r\n..", false),
        ];
        for (mess, wire, whole) in cases {
            assert_eq!(stuffed(&[mess]), (wire.to_vec(), *whole), "{:?}", mess.escape_ascii().to_string());
        }
    }

    proptest! {
        #[test]
        fn where_the_pieces_end_changes_nothing(mess in "[a.\r\n]{0,40}", cut in 0usize..40) {
            let mess = mess.as_bytes();
            let (head, tail) = mess.split_at(cut.min(mess.len()));
            prop_assert_eq!(stuffed(&[head, tail]), stuffed(&[mess]));
        }

        #[test]
        fn nothing_but_crlf_and_never_the_end_of_data(mess in "[a.\r\n]{0,40}") {
            let (wire, _) = stuffed(&[mess.as_bytes()]);
            let lines: Vec<&[u8]> = wire.split(|&b| b == b'\n').collect();
            let (last, whole) = lines.split_last().unwrap();
            prop_assert!(!last.contains(&b'\r'));
            for line in whole {
                let text = line.strip_suffix(b"\r").unwrap();
                prop_assert!(!text.contains(&b'\r') && text != b".");
            }
        }
    }
}
