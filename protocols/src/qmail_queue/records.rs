//! The records that qmail-queue reads on descriptor 1: `F` sender NUL, `T` recipient NUL …, and a NUL of its own
//! (qmail-queue.8, qmail-queue.c).

use super::exit;

/// Longest address, in bytes: with its NUL it is one of 1003 (qmail-queue.c, ADDR).
const MAX_ADDRESS: usize = crate::envelope::MAX_ADDRESS - 1;

/// Largest envelope that is taken, in bytes: some hundred thousand recipients.
pub const MAX_ENVELOPE: usize = 16 * 1024 * 1024;

/// What is wrong with an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A record begins with another letter than it may.
    #[error("it is no envelope")]
    Format,
    /// An address is longer than 1002 bytes.
    #[error("an address is too long")]
    TooLong,
}

impl Fault {
    /// qmail-queue's exit code for it.
    #[must_use]
    pub const fn exit(self) -> u8 {
        match self {
            Self::Format => exit::FORMAT,
            Self::TooLong => exit::ADDRESS,
        }
    }
}

/// Follows an envelope to its end, and keeps nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanner(Expected);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// `F`.
    Sender,
    /// More of an address, or its NUL; so many bytes have come.
    Address(usize),
    /// `T`, or the NUL that is the end.
    Recipient,
    Nothing,
}

impl Default for Scanner {
    fn default() -> Self {
        Self(Expected::Sender)
    }
}

impl Scanner {
    /// Whether the end has come.
    #[must_use]
    pub fn is_done(self) -> bool {
        self.0 == Expected::Nothing
    }

    /// How many of these bytes belong to the envelope.
    ///
    /// # Errors
    /// [`Fault`]; nothing more can be scanned then.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        for (at, &byte) in bytes.iter().enumerate() {
            self.0 = match (self.0, byte) {
                (Expected::Sender, b'F') | (Expected::Recipient, b'T') => Expected::Address(0),
                (Expected::Recipient, 0) => Expected::Nothing,
                (Expected::Sender | Expected::Recipient, _) => return Err(Fault::Format),
                (Expected::Address(_), 0) => Expected::Recipient,
                (Expected::Address(MAX_ADDRESS), _) => return Err(Fault::TooLong),
                (Expected::Address(len), _) => Expected::Address(len + 1),
                (Expected::Nothing, _) => return Ok(at),
            };
        }
        Ok(bytes.len())
    }
}

/// Gathers an envelope that comes in pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reader {
    scanner: Scanner,
    bytes: Vec<u8>,
}

impl Reader {
    /// More of it; what follows its end is ignored.
    ///
    /// # Errors
    /// [`Fault`]: it is none.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let own = self.scanner.scan(bytes)?;
        self.bytes.extend_from_slice(&bytes[..own]);
        Ok(())
    }

    /// What was gathered.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the end has come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.scanner.is_done()
    }

    /// Sender and recipients; `None` if it has no end yet.
    #[must_use]
    pub fn finish(self) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        if !self.scanner.is_done() {
            return None;
        }
        let mut addresses = self.bytes.split(|&byte| byte == 0).filter_map(|record| record.get(1..));
        let sender = addresses.next()?.to_vec();
        Some((sender, addresses.map(<[u8]>::to_vec).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Envelope = (Vec<u8>, Vec<Vec<u8>>);

    fn read(bytes: &[u8], piece: usize) -> Result<Option<Envelope>, Fault> {
        let mut reader = Reader::default();
        for piece in bytes.chunks(piece) {
            reader.push(piece)?;
        }
        Ok(reader.finish())
    }

    #[test]
    fn envelopes_are_read_as_qmail_queue_reads_them() {
        let long = |len: usize| [&b"F\0T"[..], &vec![b'a'; len], b"\0\0"].concat();
        let envelope = |sender: &[u8], to: &[&[u8]]| {
            Ok(Some((sender.to_vec(), to.iter().map(|to| to.to_vec()).collect::<Vec<_>>())))
        };
        for (bytes, read_as) in [
            (&b"Fa@x\0Tb@y\0Tc@z\0\0"[..], envelope(b"a@x", &[b"b@y", b"c@z"])),
            (b"F\0\0", envelope(b"", &[])),
            (b"F\0T\0\0", envelope(b"", &[b""])),
            (b"Fa\0Tb\0\0Xjunk", envelope(b"a", &[b"b"])),
            (&long(1002), envelope(b"", &[&[b'a'; 1002]])),
            (&long(1003), Err(Fault::TooLong)),
            (b"Tb\0\0", Err(Fault::Format)),
            (b"\0", Err(Fault::Format)),
            (b"Fa\0Fb\0\0", Err(Fault::Format)),
            (b"Fa\0Tb\0", Ok(None)),
            (b"Fa", Ok(None)),
            (b"", Ok(None)),
        ] {
            for piece in [1, 2, 3, 4096] {
                assert_eq!(read(bytes, piece), read_as, "{bytes:?} by {piece}");
            }
        }
        assert_eq!((Fault::Format.exit(), Fault::TooLong.exit()), (91, 11));
    }

    proptest! {
        #[test]
        fn what_is_said_to_a_program_is_read(sender in "[^\0]{0,60}", to in prop::collection::vec("[^\0]{0,60}", 0..9)) {
            let to: Vec<Vec<u8>> = to.into_iter().map(String::into_bytes).collect();
            let bytes = super::super::envelope(sender.as_bytes(), &to).unwrap();
            prop_assert_eq!(read(&bytes, 7), Ok(Some((sender.into_bytes(), to))));
        }
    }
}
