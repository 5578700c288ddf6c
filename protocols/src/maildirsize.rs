//! Maildir++ quotas: the quota in vpasswd, and `Maildir/maildirsize`, which says how much of it is used (vpopmail's
//! maildirquota.c; the Maildir++ specification).

/// Bytes of a `maildirsize` beyond which it is to be written anew; a longer one is not read.
pub const MAX_SIZE: u64 = 64 * 1024;

/// How much a Maildir may hold; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Bytes.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
}

/// What a Maildir holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
}

impl Quota {
    /// Reads `NOQUOTA`, `10000000S`, `10000000S,1000C`, or vpopmail's old `10000000`, `1000KB`, `10MB`. `None`: it is none of
    /// these.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut quota = Self::default();
        if text.is_empty() || text.eq_ignore_ascii_case(b"NOQUOTA") {
            return Some(quota);
        }
        for part in text.split(|&b| b == b',') {
            let digits = part.iter().take_while(|b| b.is_ascii_digit()).count();
            let number: u64 = std::str::from_utf8(&part[..digits]).ok()?.parse().ok()?;
            match part[digits..].to_ascii_uppercase().as_slice() {
                b"C" => quota.messages = number,
                b"" | b"S" => quota.bytes = number,
                b"K" | b"KB" => quota.bytes = number.checked_mul(1 << 10)?,
                b"M" | b"MB" => quota.bytes = number.checked_mul(1 << 20)?,
                _ => return None,
            }
        }
        Some(quota)
    }

    /// How much of it is used, in percent, of bytes or messages whichever is more; 0 without a limit.
    pub fn percent(&self, usage: &Usage) -> u32 {
        let part = |used: u64, limit: u64| match limit {
            0 => 0,
            limit => u32::try_from(u128::from(used) * 100 / u128::from(limit)).unwrap_or(u32::MAX),
        };
        part(usage.bytes, self.bytes).max(part(usage.messages, self.messages))
    }
}

impl Usage {
    /// The sum of the lines of a `maildirsize` behind its first, which holds the quota. Lines that are no two numbers are
    /// passed over, as vpopmail does.
    pub fn sum(text: &[u8]) -> Self {
        let (mut bytes, mut messages) = (0i64, 0i64);
        for line in text.split(|&b| b == b'\n').skip(1) {
            let mut numbers = std::str::from_utf8(line).unwrap_or_default().split_ascii_whitespace();
            let mut number = || numbers.next().and_then(|word| word.parse::<i64>().ok());
            if let (Some(more), Some(count)) = (number(), number()) {
                bytes = bytes.saturating_add(more);
                messages = messages.saturating_add(count);
            }
        }
        Self { bytes: u64::try_from(bytes).unwrap_or(0), messages: u64::try_from(messages).unwrap_or(0) }
    }

    /// Counts one message by its file name, whose `,S=` tells its size. `None`: only the file knows.
    pub fn size_in_name(name: &[u8]) -> Option<u64> {
        let at = memchr::memmem::find(name, b",S=")? + 3;
        let digits = name[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        std::str::from_utf8(&name[at..at + digits]).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas() {
        for (text, expected) in [
            ("NOQUOTA", Some((0, 0))),
            ("", Some((0, 0))),
            ("10000000S", Some((10_000_000, 0))),
            ("10000000S,1000C", Some((10_000_000, 1000))),
            ("5C", Some((0, 5))),
            ("10MB", Some((10 << 20, 0))),
            ("1000kb", Some((1000 << 10, 0))),
            ("77", Some((77, 0))),
            ("x", None),
            ("10GB", None),
            ("S", None),
            ("99999999999999999999S", None),
        ] {
            let quota = expected.map(|(bytes, messages)| Quota { bytes, messages });
            assert_eq!(Quota::parse(text.as_bytes()), quota, "{text}");
        }
    }

    #[test]
    fn usage_of_a_quota() {
        let usage = Usage::sum(b"1000S,10C\n500 2\n-100 -1\nnonsense\n50 x\n  500   4 \n");
        assert_eq!(usage, Usage { bytes: 900, messages: 5 });
        for (quota, percent) in [("1000S,10C", 90), ("NOQUOTA", 0), ("5C", 100), ("100S", 900)] {
            assert_eq!(Quota::parse(quota.as_bytes()).unwrap().percent(&usage), percent, "{quota}");
        }
        assert_eq!(Usage::sum(b"0S\n-5 -5\n"), Usage::default());
        assert_eq!(Usage::size_in_name(b"1.2.mx,S=345:2,S"), Some(345));
        assert_eq!(Usage::size_in_name(b"1.2.mx"), None);
    }
}
