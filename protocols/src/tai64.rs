//! TAI64N labels as daemontools writes them: `@` and 24 hexadecimal digits.
//!
//! Source: daemontools `tai64n`, `tai64nlocal`; libtai `tai64n`. The offset is 2^62 + 10 seconds before 1970, without
//! leap seconds after it, because that is what every reader of these logs takes off again.

use std::fmt;

/// Label of 1970-01-01 00:00:00 UTC: 2^62 + 10.
pub const EPOCH: u64 = (1 << 62) + 10;

/// Length of the text form: `@`, 16 digits of seconds, 8 of nanoseconds.
pub const TEXT_LEN: usize = 25;

const NANOS: u32 = 1_000_000_000;

/// A moment with nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tai64n {
    label: u64,
    nanos: u32,
}

impl Tai64n {
    /// The moment `secs` and `nanos` after 1970 in UTC. More than a second of nanoseconds is held at the last one.
    pub fn from_unix(secs: i64, nanos: u32) -> Self {
        Self { label: EPOCH.saturating_add_signed(secs), nanos: nanos.min(NANOS - 1) }
    }

    /// Seconds and nanoseconds after 1970 in UTC.
    pub fn to_unix(self) -> (i64, u32) {
        let secs = i128::from(self.label) - i128::from(EPOCH);
        (i64::try_from(secs).unwrap_or(i64::MAX), self.nanos)
    }

    /// The 12 bytes of the external format, as in `supervise/status`.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.label.to_be_bytes());
        bytes[8..].copy_from_slice(&self.nanos.to_be_bytes());
        bytes
    }

    /// The text form, `@4000...`, as bytes.
    pub fn to_text(self) -> [u8; TEXT_LEN] {
        let mut text = [b'@'; TEXT_LEN];
        for (pair, byte) in text[1..].chunks_exact_mut(2).zip(self.to_bytes()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        text
    }

    /// Reads a label at the start of `line` and gives what follows it. As `tai64nlocal`, only small letters are digits.
    pub fn parse(line: &[u8]) -> Option<(Self, &[u8])> {
        let (text, rest) = line.split_at_checked(TEXT_LEN)?;
        let digits = text.strip_prefix(b"@")?;
        let number = |digits: &[u8]| {
            digits.iter().try_fold(0u64, |number, &digit| {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some(number << 4 | u64::from(value))
            })
        };
        let label = number(&digits[..16])?;
        let nanos = u32::try_from(number(&digits[16..])?).ok().filter(|&nanos| nanos < NANOS)?;
        Some((Self { label, nanos }, rest))
    }
}

impl fmt::Display for Tai64n {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{:016x}{:08x}", self.label, self.nanos)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn offset_is_daemontools_own() {
        assert_eq!(EPOCH, 4_611_686_018_427_387_914);
        assert_eq!(Tai64n::from_unix(0, 0).to_string(), "@400000000000000a00000000");
        // 1999-08-24 04:03:43.31 UTC
        assert_eq!(Tai64n::from_unix(935_467_423, 310_000_000).to_string(), "@4000000037c219a9127a3980");
    }

    #[test]
    fn label_is_read_only_where_it_is_whole() {
        type Case<'a> = (&'a [u8], Option<(i64, u32)>, &'a [u8]);
        let table: &[Case<'_>] = &[
            (b"@400000000000000a00000000", Some((0, 0)), b""),
            (b"@400000000000000b00000001 new msg 7", Some((1, 1)), b" new msg 7"),
            (b"@400000000000000900000000", Some((-1, 0)), b""),
            (b"@400000000000000A00000000", None, b""),
            (b"@400000000000000a3b9aca00", None, b""),
            (b"@400000000000000a0000000", None, b""),
            (b"400000000000000a000000000", None, b""),
            (b"", None, b""),
        ];
        for (line, moment, rest) in table {
            let parsed = Tai64n::parse(line);
            assert_eq!(parsed.map(|(label, _)| label.to_unix()), *moment, "{}", line.escape_ascii());
            assert_eq!(parsed.map_or(&b""[..], |(_, rest)| rest), *rest, "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(secs in -4_000_000_000_000i64..4_000_000_000_000, nanos in 0..NANOS) {
            let moment = Tai64n::from_unix(secs, nanos);
            let text = moment.to_text();
            prop_assert_eq!(Tai64n::parse(&text), Some((moment, &b""[..])));
            prop_assert_eq!(String::from_utf8_lossy(&text), moment.to_string());
            prop_assert_eq!(moment.to_unix(), (secs, nanos));
        }

        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(Tai64n::parse(&line).is_none_or(|(_, rest)| line.ends_with(rest)));
        }
    }
}
