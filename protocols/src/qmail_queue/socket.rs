//! What a qmail-queue process says to the host over `run/qmail-queue.sock`, and the answer.
//!
//! The process says [`HELLO`], then frames: a letter, the length of what follows as four bytes, least significant first,
//! and so many bytes. `M` is more of the message, `E` more of the envelope as it comes on descriptor 1, `I` nothing, and
//! `.` says that both are whole. All of the message comes before the envelope. The host answers one byte, qmail-queue's
//! exit code, or [`BUSY`]; before that, [`GO`] when it is the process's turn, which one
//! whose message is large waits for. Whoever leaves before the `.` has handed in nothing.

/// The first bytes of a conversation; another version of it has others.
pub const HELLO: [u8; 4] = *b"qq1\n";

/// Longest content of a frame, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

/// Bytes before the content of a frame.
pub const HEADER: usize = 5;

/// The answer of a host that has not begun to listen, since its user has too many processes there: come again.
pub const BUSY: u8 = 255;

/// The word of a host that listens now.
pub const GO: u8 = 254;

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// More of the message.
    Message,
    /// More of the envelope.
    Envelope,
    /// The process still lives.
    Idle,
    /// Message and envelope are whole.
    End,
}

impl Kind {
    const fn letter(self) -> u8 {
        match self {
            Self::Message => b'M',
            Self::Envelope => b'E',
            Self::Idle => b'I',
            Self::End => b'.',
        }
    }

    fn of(letter: u8) -> Option<Self> {
        [Self::Message, Self::Envelope, Self::Idle, Self::End]
            .into_iter()
            .find(|kind| kind.letter() == letter)
    }
}

/// The bytes before `len` bytes of content, at most [`MAX_FRAME`].
#[must_use]
pub fn header(kind: Kind, len: usize) -> [u8; HEADER] {
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    [kind.letter(), len[0], len[1], len[2], len[3]]
}

/// What the process said is none of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not what a qmail-queue of this version says")]
pub struct Fault;

/// Something a process said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// More of the message.
    Message(&'a [u8]),
    /// More of the envelope.
    Envelope(&'a [u8]),
    /// Both are whole; what follows is not heard.
    End,
}

/// Takes a conversation apart, in whatever pieces it comes, and keeps nothing of it.
#[derive(Debug, Clone)]
pub struct Listener {
    expected: Expected,
    /// The last kind that counted.
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    Hello(usize),
    Header([u8; HEADER], usize),
    Content(Kind, usize),
}

impl Default for Listener {
    fn default() -> Self {
        Self { expected: Expected::Hello(0), kind: Kind::Message }
    }
}

impl Listener {
    /// The next thing said in `bytes`, which it is taken from; `None` when they are used up.
    ///
    /// # Errors
    /// [`Fault`]: whoever talks is no qmail-queue.
    pub fn hear<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Said<'a>>, Fault> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.expected {
                Expected::Hello(at) => {
                    *bytes = rest;
                    if byte != HELLO[at] {
                        return Err(Fault);
                    }
                    self.expected = if at + 1 < HELLO.len() {
                        Expected::Hello(at + 1)
                    } else {
                        Expected::Header([0; HEADER], 0)
                    };
                }
                Expected::Header(mut header, at) => {
                    *bytes = rest;
                    header[at] = byte;
                    if at + 1 < HEADER {
                        self.expected = Expected::Header(header, at + 1);
                        continue;
                    }
                    let (kind, len) = self.begin(header)?;
                    self.expected = Expected::Content(kind, len);
                    if len == 0 {
                        self.expected = Expected::Header([0; HEADER], 0);
                        if kind == Kind::End {
                            return Ok(Some(Said::End));
                        }
                    }
                }
                Expected::Content(kind, left) => {
                    let (content, rest) = bytes.split_at(left.min(bytes.len()));
                    *bytes = rest;
                    let left = left - content.len();
                    self.expected = if left == 0 {
                        Expected::Header([0; HEADER], 0)
                    } else {
                        Expected::Content(kind, left)
                    };
                    return Ok(Some(match kind {
                        Kind::Envelope => Said::Envelope(content),
                        _ => Said::Message(content),
                    }));
                }
            }
        }
        Ok(None)
    }

    fn begin(&mut self, header: [u8; HEADER]) -> Result<(Kind, usize), Fault> {
        let kind = Kind::of(header[0]).ok_or(Fault)?;
        let len = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
        let len = usize::try_from(len).map_err(|_| Fault)?;
        let allowed = match (self.kind, kind) {
            (Kind::End, _) | (Kind::Envelope, Kind::Message) => return Err(Fault),
            (_, Kind::Message | Kind::Envelope) => MAX_FRAME,
            (_, Kind::Idle | Kind::End) => 0,
        };
        if len > allowed {
            return Err(Fault);
        }
        if kind != Kind::Idle {
            self.kind = kind;
        }
        Ok((kind, len))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: Kind, content: &[u8]) -> Vec<u8> {
        [&header(kind, content.len())[..], content].concat()
    }

    /// Message, envelope, and whether the end came.
    fn heard(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, bool), Fault> {
        let (mut listener, mut heard) = (Listener::default(), (Vec::new(), Vec::new(), false));
        for mut piece in bytes.chunks(piece.max(1)) {
            while let Some(said) = listener.hear(&mut piece)? {
                match said {
                    Said::Message(bytes) => heard.0.extend_from_slice(bytes),
                    Said::Envelope(bytes) => heard.1.extend_from_slice(bytes),
                    Said::End => heard.2 = true,
                }
            }
        }
        Ok(heard)
    }

    #[test]
    fn a_conversation_is_taken_apart_however_it_comes() {
        let said = [
            HELLO.to_vec(),
            frame(Kind::Message, b"Subject: x\n"),
            frame(Kind::Idle, b""),
            frame(Kind::Message, b""),
            frame(Kind::Message, b"\nbody\n"),
            frame(Kind::Envelope, b"Fa\0"),
            frame(Kind::Idle, b""),
            frame(Kind::Envelope, b"Tb\0\0"),
            frame(Kind::End, b""),
        ]
        .concat();
        for piece in [1, 2, 3, 5, 7, 1000] {
            let (message, envelope, end) = heard(&said, piece).unwrap();
            assert_eq!(
                (&message[..], &envelope[..], end),
                (&b"Subject: x\n\nbody\n"[..], &b"Fa\0Tb\0\0"[..], true)
            );
        }
        assert!(!heard(&said[..said.len() - 1], 9).unwrap().2);
    }

    #[test]
    fn other_talk_is_refused() {
        let hello = |frames: &[Vec<u8>]| [&HELLO[..], &frames.concat()].concat();
        for bytes in [
            b"EHLO x\r\n".to_vec(),
            b"qq2\n".to_vec(),
            hello(&[frame(Kind::Envelope, b"F"), frame(Kind::Message, b"late")]),
            hello(&[frame(Kind::End, b""), frame(Kind::Envelope, b"F")]),
            hello(&[frame(Kind::End, b"x")]),
            hello(&[frame(Kind::Idle, b"x")]),
            hello(&[header(Kind::Message, MAX_FRAME + 1).to_vec()]),
            hello(&[b"X\0\0\0\0".to_vec()]),
        ] {
            assert_eq!(heard(&bytes, 3), Err(Fault), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, piece in 1_usize..9) {
            drop(heard(&[&HELLO[..], &bytes].concat(), piece));
        }
    }
}
