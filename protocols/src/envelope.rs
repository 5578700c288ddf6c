//! Envelopes as the queue stores them: records `u` `p` `F` `T` in `intd` and `todo`, `F` in `info`, `T`/`D` in `local`
//! and `remote`, each ending in NUL (qmail-queue, qmail-send).

/// Longest address the queue takes, in bytes (qmail-queue's ADDR).
pub const MAX_ADDRESS: usize = 1003;

/// The envelope of a message: who sends it to whom, and who put it into the queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// User id of the process that queued it.
    pub uid: u32,
    /// Number of that process; `qp` in the log.
    pub qp: u64,
    /// Reverse-path without angle brackets; empty for a bounce.
    pub sender: Vec<u8>,
    /// Forward-paths without angle brackets.
    pub recipients: Vec<Vec<u8>>,
}

/// What is wrong with an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An address may not hold NUL, which ends a record.
    #[error("NUL in an address")]
    Nul,
    /// An address is longer than the queue takes.
    #[error("address of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// The last record has no NUL: the file was cut.
    #[error("last record is not complete")]
    Cut,
    /// A record begins with an unknown letter.
    #[error("unknown record type {0:#04x}")]
    Unknown(u8),
    /// A `u` or `p` record is not a number.
    #[error("record {0} is not a number")]
    Number(char),
    /// There is no `F` record, or more than one.
    #[error("not exactly one sender record")]
    Sender,
}

impl Envelope {
    /// The bytes of `intd/ID` and `todo/ID`.
    ///
    /// # Errors
    /// [`Error::Nul`], [`Error::TooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = format!("u{}\0p{}\0", self.uid, self.qp).into_bytes();
        push(&mut bytes, b'F', &self.sender)?;
        for recipient in &self.recipients {
            push(&mut bytes, b'T', recipient)?;
        }
        Ok(bytes)
    }

    /// Reads `todo/ID`. Record types a later qmail may add before `F` are refused, as qmail-send does.
    ///
    /// # Errors
    /// [`Error`], for a file that no qmail-queue wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut envelope = Self::default();
        let mut senders = 0;
        for (_, letter, value) in Records::new(bytes) {
            match letter? {
                b'u' => envelope.uid = number(value).ok_or(Error::Number('u'))?,
                b'p' => envelope.qp = number(value).ok_or(Error::Number('p'))?,
                b'F' => {
                    senders += 1;
                    envelope.sender = value.to_vec();
                }
                b'T' => envelope.recipients.push(value.to_vec()),
                other => return Err(Error::Unknown(other)),
            }
        }
        if senders == 1 { Ok(envelope) } else { Err(Error::Sender) }
    }
}

/// The bytes of `info/ID`.
///
/// # Errors
/// As [`Envelope::to_bytes`].
pub fn info(sender: &[u8]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(sender.len() + 2);
    record(&mut bytes, b'F', sender)?;
    Ok(bytes)
}

/// The sender in `info/ID`.
///
/// # Errors
/// [`Error::Sender`] when there is none.
pub fn parse_info(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    match bytes.strip_prefix(b"F").and_then(|rest| rest.strip_suffix(b"\0")) {
        Some(sender) if !sender.contains(&0) => Ok(sender.to_vec()),
        _ => Err(Error::Sender),
    }
}

/// A recipient in `local/ID` or `remote/ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Where its record begins, in bytes; the letter there says whether it is done.
    pub offset: u64,
    /// Delivered or bounced.
    pub done: bool,
    /// The rewritten address.
    pub address: Vec<u8>,
}

/// The bytes of `local/ID` or `remote/ID`: addresses, and whether they are done.
///
/// # Errors
/// As [`Envelope::to_bytes`].
pub fn channel<'a>(recipients: impl IntoIterator<Item = (&'a [u8], bool)>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for (address, done) in recipients {
        record(&mut bytes, if done { b'D' } else { b'T' }, address)?;
    }
    Ok(bytes)
}

/// The recipients in `local/ID` or `remote/ID`, and what is wrong behind them: a last record that was cut keeps nobody
/// before it from delivery.
///
/// # Errors
/// [`Error`] for a file that is not one.
pub fn parse_channel(bytes: &[u8]) -> Result<(Vec<Recipient>, Option<Error>), Error> {
    let mut recipients = Vec::new();
    for (offset, letter, address) in Records::new(bytes) {
        let done = match letter {
            Ok(b'T') => false,
            Ok(b'D') => true,
            Err(Error::Cut) => return Ok((recipients, Some(Error::Cut))),
            Ok(other) => return Err(Error::Unknown(other)),
            Err(error) => return Err(error),
        };
        recipients.push(Recipient { offset: offset as u64, done, address: address.to_vec() });
    }
    Ok((recipients, None))
}

/// NUL-terminated records: offset, letter or error, rest.
struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (usize, Result<u8, Error>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, rest) = (self.at, &self.bytes[self.at..]);
        if rest.is_empty() {
            return None;
        }
        let Some(len) = memchr::memchr(0, rest) else {
            self.at = self.bytes.len();
            return Some((at, Err(Error::Cut), &[]));
        };
        self.at += len + 1;
        Some(match rest[..len].split_first() {
            Some((letter, value)) => (at, Ok(*letter), value),
            None => (at, Err(Error::Unknown(0)), &[]),
        })
    }
}

/// An address that is new to the queue.
pub(crate) fn push(bytes: &mut Vec<u8>, letter: u8, address: &[u8]) -> Result<(), Error> {
    if address.len() > MAX_ADDRESS {
        return Err(Error::TooLong { len: address.len(), max: MAX_ADDRESS });
    }
    record(bytes, letter, address)
}

/// An address that was accepted; rewriting may have made it longer than a new one may be.
fn record(bytes: &mut Vec<u8>, letter: u8, address: &[u8]) -> Result<(), Error> {
    if address.contains(&0) {
        return Err(Error::Nul);
    }
    bytes.push(letter);
    bytes.extend_from_slice(address);
    bytes.push(0);
    Ok(())
}

fn number<N: std::str::FromStr>(value: &[u8]) -> Option<N> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(value).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_envelope_is_written_as_qmail_queue_writes_it() {
        let envelope = Envelope {
            uid: 7791,
            qp: 4242,
            sender: b"a@x.test".to_vec(),
            recipients: vec![b"b@y.test".to_vec(), b"c".to_vec()],
        };
        let bytes = b"u7791\0p4242\0Fa@x.test\0Tb@y.test\0Tc\0";
        assert_eq!(envelope.to_bytes().unwrap(), bytes);
        assert_eq!(Envelope::parse(bytes).unwrap(), envelope);
    }

    #[test]
    fn a_damaged_envelope_is_named() {
        for (bytes, error) in [
            (&b"u1\0p2\0Fa\0Tb"[..], Error::Cut),
            (b"u1\0p2\0Tb\0", Error::Sender),
            (b"Fa\0Fb\0", Error::Sender),
            (b"", Error::Sender),
            (b"u1\0\0Fa\0", Error::Unknown(0)),
            (b"Xz\0", Error::Unknown(b'X')),
            (b"u-1\0", Error::Number('u')),
            (b"p\0", Error::Number('p')),
        ] {
            assert_eq!(Envelope::parse(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn a_finished_recipient_is_one_changed_byte() {
        let mut bytes = channel([(&b"a@x"[..], false), (b"b@y", false)]).unwrap();
        let (recipients, _) = parse_channel(&bytes).unwrap();
        bytes[usize::try_from(recipients[1].offset).unwrap()] = b'D';
        let (again, _) = parse_channel(&bytes).unwrap();
        assert!(!again[0].done && again[1].done);
        assert_eq!(again[1].address, b"b@y");
        assert_eq!(channel([(&b"a@x"[..], false), (b"b@y", true)]).unwrap(), bytes);
    }

    #[test]
    fn a_cut_last_record_keeps_nobody_before_it() {
        let (recipients, wrong) = parse_channel(b"Ta@x\0Db@y\0Tc@").unwrap();
        assert_eq!((recipients.len(), wrong), (2, Some(Error::Cut)));
        assert_eq!(parse_channel(b"Xa\0Tb"), Err(Error::Unknown(b'X')));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(sender in "[^\0]{0,80}", to in prop::collection::vec("[^\0]{1,80}", 0..9)) {
            let recipients: Vec<Vec<u8>> = to.into_iter().map(String::into_bytes).collect();
            let envelope = Envelope { uid: 1, qp: 2, sender: sender.into_bytes(), recipients };
            prop_assert_eq!(Envelope::parse(&envelope.to_bytes().unwrap()), Ok(envelope.clone()));
            prop_assert_eq!(parse_info(&info(&envelope.sender).unwrap()), Ok(envelope.sender.clone()));
            let listed = channel(envelope.recipients.iter().map(|address| (&**address, false))).unwrap();
            let (read, wrong) = parse_channel(&listed).unwrap();
            prop_assert_eq!(wrong, None);
            let read: Vec<_> = read.into_iter().map(|recipient| recipient.address).collect();
            prop_assert_eq!(read, envelope.recipients);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            drop((Envelope::parse(&bytes), parse_channel(&bytes), parse_info(&bytes)));
        }
    }
}
