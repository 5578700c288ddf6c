//! Messages in an mbox file (mbox.5): `>` before every line that begins with `From `, however many `>` it has already, and
//! an empty line behind the message.

/// Writes one message, piece by piece, in memory that does not grow with it.
#[derive(Debug, Default)]
pub struct Quoting(At);

/// Where in a line the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    /// At its beginning.
    #[default]
    Start,
    /// Behind nothing but `>`.
    Quotes,
    /// Behind so many letters of `From `, which are not written yet.
    From(usize),
    /// Where it does not matter any more.
    Inside,
}

const FROM: &[u8] = b"From ";

impl Quoting {
    /// The next piece of the message, as it stands in the file.
    pub fn write(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &byte in piece {
            let matched = match self.0 {
                At::Start | At::Quotes if byte == b'>' => {
                    out.push(byte);
                    self.0 = At::Quotes;
                    continue;
                }
                At::From(matched) => matched,
                At::Start | At::Quotes | At::Inside => 0,
            };
            if self.0 != At::Inside && FROM[matched] == byte {
                self.0 = At::From(matched + 1);
                if matched + 1 == FROM.len() {
                    // One more `>` behind the others is as good as one before them.
                    out.push(b'>');
                    out.extend_from_slice(FROM);
                    self.0 = At::Inside;
                }
                continue;
            }
            out.extend_from_slice(&FROM[..matched]);
            out.push(byte);
            self.0 = if byte == b'\n' { At::Start } else { At::Inside };
        }
    }

    /// What follows the message: the end of its last line, and an empty line.
    pub fn end(self, out: &mut Vec<u8>) {
        if let At::From(matched) = self.0 {
            out.extend_from_slice(&FROM[..matched]);
        }
        if self.0 != At::Start {
            out.push(b'\n');
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(message: &[u8], pieces: usize) -> Vec<u8> {
        let (mut quoting, mut out) = (Quoting::default(), Vec::new());
        for piece in message.chunks(pieces.max(1)) {
            quoting.write(piece, &mut out);
        }
        quoting.end(&mut out);
        out
    }

    /// Line by line, as qmail-local's getln sees it.
    fn expected(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in message.split_inclusive(|byte| *byte == b'\n') {
            let quotes = line.iter().take_while(|byte| **byte == b'>').count();
            if line[quotes..].starts_with(b"From ") {
                out.push(b'>');
            }
            out.extend_from_slice(line);
            if !line.ends_with(b"\n") {
                out.push(b'\n');
            }
        }
        out.push(b'\n');
        out
    }

    #[test]
    fn lines_that_begin_with_from_are_quoted() {
        for (message, quoted) in [
            ("From a\n", ">From a\n\n"),
            (">From a\n>>From b\n", ">>From a\n>>>From b\n\n"),
            ("From\nFrom: x\n From a\nfrom a\n", "From\nFrom: x\n From a\nfrom a\n\n"),
            ("no end", "no end\n\n"),
            ("a\nFro", "a\nFro\n\n"),
            ("a\n>>", "a\n>>\n\n"),
            ("", "\n"),
        ] {
            assert_eq!(written(message.as_bytes(), 3), quoted.as_bytes(), "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(message in "[>From \nx]{0,60}", pieces in 1..9usize) {
            prop_assert_eq!(written(message.as_bytes(), pieces), expected(message.as_bytes()));
        }
    }
}
