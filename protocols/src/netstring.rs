//! Netstrings (`LENGTH:BYTES,`) as they come and go (netstrings.txt, qmail-qmqpd.c).

/// A longer one is not read, in bytes (qmail-qmqpd.c).
pub const MAX: u64 = 200_000_000;

/// What came is no netstring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No digit where a length is, or no comma at its end.
    #[error("this is no netstring")]
    Syntax,
    /// It is longer than [`MAX`].
    #[error("a netstring of more than {MAX} bytes")]
    TooLong,
}

/// Reads a length, with its colon.
#[derive(Debug, Clone, Copy, Default)]
pub struct Length(u64);

impl Length {
    /// The next byte; the length once that is the colon.
    ///
    /// # Errors
    /// [`Error`].
    pub fn push(&mut self, byte: u8) -> Result<Option<u64>, Error> {
        match byte {
            b':' => Ok(Some(self.0)),
            // As there, digits are counted only up to where it is too long.
            _ if self.0 > MAX => Err(Error::TooLong),
            b'0'..=b'9' => {
                self.0 = self.0 * 10 + u64::from(byte - b'0');
                Ok(None)
            }
            _ => Err(Error::Syntax),
        }
    }
}

/// Appends one.
pub fn write(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.push(b',');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(text: &str) -> Result<Option<u64>, Error> {
        let mut length = Length::default();
        for byte in text.bytes() {
            if let Some(length) = length.push(byte)? {
                return Ok(Some(length));
            }
        }
        Ok(None)
    }

    #[test]
    fn lengths_are_read_up_to_their_colon() {
        assert_eq!(length("12:xy"), Ok(Some(12)));
        assert_eq!(length(":"), Ok(Some(0)));
        assert_eq!(length("200000000:"), Ok(Some(MAX)));
        assert_eq!(length("12"), Ok(None));
        assert_eq!(length("-1:"), Err(Error::Syntax));
        assert_eq!(length("1 :"), Err(Error::Syntax));
        assert_eq!(length("99999999999999999999999999999:"), Err(Error::TooLong));
        let mut out = Vec::new();
        write(b"hello", &mut out);
        write(b"", &mut out);
        assert_eq!(out, b"5:hello,0:,");
    }
}
