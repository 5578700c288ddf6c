//! Maildir++ quotas: the quota in vpasswd, and `Maildir/maildirsize`, which says how much of it is used (vpopmail's
//! maildirquota.c; the Maildir++ specification).

use std::fmt;
use std::time::Duration;

/// Bytes of a `maildirsize` from which on it is written anew (the specification, "Calculating the quota").
pub const MAX_SIZE: u64 = 5120;

/// Age of a `maildirsize`, since it was last changed, beyond which it is written anew.
pub const MAX_AGE: Duration = Duration::from_secs(15 * 60);

/// Percent of a quota from which on its user is warned (vpopmail's QUOTA_WARN_PERCENT).
pub const WARN_PERCENT: u32 = 90;

/// How long a user is not warned again: a day since the time of change of `Maildir/quotawarn`.
pub const WARN_AGAIN: Duration = Duration::from_secs(24 * 60 * 60);

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
            let unit = part[digits..].to_ascii_uppercase();
            if unit == b"C" {
                quota.messages = number;
                continue;
            }
            // Behind the unit an S, a B or both, as vpopmail's format_maildirquota takes them off.
            let unit = unit.strip_suffix(b"S").unwrap_or(&unit);
            quota.bytes = match unit.strip_suffix(b"B").unwrap_or(unit) {
                b"" => number,
                b"K" => number.checked_mul(1 << 10)?,
                b"M" => number.checked_mul(1 << 20)?,
                _ => return None,
            };
        }
        Some(quota)
    }

    /// Whether it limits nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a Maildir that holds this is within it. What fills it to the last byte is.
    pub fn holds(&self, usage: &Usage) -> bool {
        let within = |used: u64, limit: u64| limit == 0 || used <= limit;
        within(usage.bytes, self.bytes) && within(usage.messages, self.messages)
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

/// The first line of a `maildirsize`, without its newline.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bytes, self.messages) {
            (0, 0) => f.write_str("NOQUOTA"),
            (bytes, 0) => write!(f, "{bytes}S"),
            (0, messages) => write!(f, "{messages}C"),
            (bytes, messages) => write!(f, "{bytes}S,{messages}C"),
        }
    }
}

impl Usage {
    /// With one more message of this size.
    #[must_use]
    pub fn and(self, size: u64) -> Self {
        Self { bytes: self.bytes.saturating_add(size), messages: self.messages.saturating_add(1) }
    }

    /// The size of a message as the name of its file tells it, by the last `,S=` of what stands before the flags. `None`: only
    /// the file knows.
    pub fn size_in_name(name: &[u8]) -> Option<u64> {
        let base = name.split(|&b| b == b':').next().unwrap_or_default();
        let at = memchr::memmem::rfind(base, b",S=")? + 3;
        let digits = base[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        std::str::from_utf8(&base[at..at + digits]).ok()?.parse().ok()
    }
}

/// Whether the messages of a directory of this name, beside `new` and `cur`, count: those of every folder but the trash. That it
/// holds a file `maildirfolder` is not asked for, neither by vpopmail, whose own `.Junk` has none, nor by Courier.
pub fn is_counted_folder(name: &[u8]) -> bool {
    name.starts_with(b".") && !matches!(name, b"." | b".." | TRASH)
}

/// The folder whose messages do not count.
pub const TRASH: &[u8] = b".Trash";

/// Whether a file of this name, in `new` or `cur`, is a message that counts: one with the flag `T`, trashed, does not.
pub fn is_counted(name: &[u8]) -> bool {
    if name.starts_with(b".") {
        return false;
    }
    let flags = memchr::memmem::find(name, b":2,").map_or(&[][..], |at| &name[at + 3..]);
    !flags.iter().take_while(|flag| flag.is_ascii_uppercase()).any(|flag| *flag == b'T')
}

/// What a `maildirsize` says: the quota, then lines `BYTES COUNT`, which may be padded and negative, to be summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maildirsize {
    /// The first line; none if it is no quota.
    pub quota: Option<Quota>,
    bytes: i64,
    messages: i64,
    /// Lines behind the first.
    lines: usize,
}

/// What a `maildirsize` means for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is room.
    Admitted,
    /// There is none.
    Over,
    /// The file is not to be believed: the Maildir must be counted.
    Recount,
}

impl Maildirsize {
    /// Reads the file. Lines that are no two numbers add nothing, as with Courier.
    pub fn parse(text: &[u8]) -> Self {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut lines = text.split(|&b| b == b'\n');
        let first = lines.next().unwrap_or_default();
        let quota = Quota::parse(first.trim_ascii()).filter(|_| !first.trim_ascii().is_empty());
        let mut read = Self { quota, bytes: 0, messages: 0, lines: 0 };
        for line in lines {
            read.lines += 1;
            let mut numbers = std::str::from_utf8(line).unwrap_or_default().split_ascii_whitespace();
            let mut number = || numbers.next().and_then(|word| word.parse::<i64>().ok());
            if let (Some(more), Some(count)) = (number(), number()) {
                read.bytes = read.bytes.saturating_add(more);
                read.messages = read.messages.saturating_add(count);
            }
        }
        read
    }

    /// The sums; what is below zero counts as nothing.
    pub fn usage(&self) -> Usage {
        let used = |sum: i64| u64::try_from(sum).unwrap_or(0);
        Usage { bytes: used(self.bytes), messages: used(self.messages) }
    }

    /// Whether a message of `size` bytes may be added under `quota`, by a file of `len` bytes that was last changed `age` ago.
    /// One that was counted within [`MAX_AGE`], and to which nothing has been added since, is believed when there is no room.
    pub fn verdict(&self, len: u64, age: Duration, quota: &Quota, size: u64) -> Verdict {
        let is_old = len >= MAX_SIZE || age > MAX_AGE;
        let is_wrong = self.lines == 0 || self.bytes < 0 || self.messages < 0 || self.quota != Some(*quota);
        if is_old || is_wrong {
            Verdict::Recount
        } else if quota.holds(&self.usage().and(size)) {
            Verdict::Admitted
        } else if self.lines == 1 {
            Verdict::Over
        } else {
            Verdict::Recount
        }
    }
}

/// A `maildirsize` of a Maildir that was counted.
pub fn counted(quota: &Quota, usage: &Usage) -> String {
    format!("{quota}\n{} {}\n", usage.bytes, usage.messages)
}

/// The line for a message of `size` bytes that came.
pub fn added(size: u64) -> String {
    format!("{size} 1\n")
}

/// The line for one that went.
pub fn removed(size: u64) -> String {
    format!("-{size} -1\n")
}

/// The name in `tmp` of a `maildirsize` that is being written at this time, in seconds since 1970; `nth` of this process.
pub fn tmp_name(seconds: u64, process: u32, nth: u32, host: &str) -> String {
    let nth = if nth == 0 { String::new() } else { format!("_{nth}") };
    format!("{seconds}.{process}{nth}_NeWmAiLdIrSiZe.{}", crate::maildir::host_in_name(host))
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
            ("1000C,5s", Some((5, 1000))),
            ("5C", Some((0, 5))),
            ("10MB", Some((10 << 20, 0))),
            ("10MS", Some((10 << 20, 0))),
            ("10MBS,3C", Some((10 << 20, 3))),
            ("1000kb", Some((1000 << 10, 0))),
            ("1000K", Some((1000 << 10, 0))),
            ("77", Some((77, 0))),
            ("77B", Some((77, 0))),
            ("x", None),
            ("10GB", None),
            ("10SB", None),
            ("S", None),
            ("5S,", None),
            ("-5S", None),
            ("99999999999999999999S", None),
            ("99999999999999999MB", None),
        ] {
            let quota = expected.map(|(bytes, messages)| Quota { bytes, messages });
            assert_eq!(Quota::parse(text.as_bytes()), quota, "{text}");
            if let Some(quota) = quota {
                assert_eq!(Quota::parse(quota.to_string().as_bytes()), Some(quota), "{quota}");
            }
        }
    }

    #[test]
    fn usage_of_a_quota() {
        let read =
            Maildirsize::parse(b"1000S,10C\n500 2\n-100 -1\nnonsense\n50 x\n         500            4\n");
        let usage = read.usage();
        assert_eq!((usage, read.lines), (Usage { bytes: 900, messages: 5 }, 5));
        for (quota, percent) in [("1000S,10C", 90), ("NOQUOTA", 0), ("5C", 100), ("100S", 900)] {
            assert_eq!(Quota::parse(quota.as_bytes()).unwrap().percent(&usage), percent, "{quota}");
        }
        assert_eq!(Maildirsize::parse(b"0S\n-5 -5\n").usage(), Usage::default());
        let full = Quota::parse(b"10S,2C").unwrap();
        for (bytes, messages, holds) in [(10, 2, true), (11, 2, false), (10, 3, false)] {
            assert_eq!(full.holds(&Usage { bytes, messages }), holds);
        }
    }

    #[test]
    fn what_a_file_means() {
        use Verdict::{Admitted, Over, Recount};
        let fresh = Duration::from_secs(15 * 60);
        let quota = Quota::parse(b"1000S,3C").unwrap();
        for (text, size, age, expected) in [
            ("1000S,3C\n500 1\n", 500, fresh, Admitted),
            ("3C,1000S\n500 1\n", 500, fresh, Admitted),
            ("1000S,3C\n500 1\n", 501, fresh, Over),
            ("1000S,3C\n5 3\n", 1, fresh, Over),
            // Somebody may have removed some since.
            ("1000S,3C\n500 1\n400 1\n", 101, fresh, Recount),
            ("1000S,3C\n500 1\n", 500, fresh + Duration::from_secs(1), Recount),
            ("1000S,4C\n500 1\n", 500, fresh, Recount),
            ("NOQUOTA\n500 1\n", 500, fresh, Recount),
            ("1000S,3C\n500 1\n-600 -1\n", 1, fresh, Recount),
            ("1000S,3C\n5 1\n-5 -2\n", 1, fresh, Recount),
            ("1000S,3C\n", 1, fresh, Recount),
            ("", 1, fresh, Recount),
            ("\0\0\0", 1, fresh, Recount),
        ] {
            let read = Maildirsize::parse(text.as_bytes());
            assert_eq!(read.verdict(text.len() as u64, age, &quota, size), expected, "{text:?} {size}");
        }
        let read = Maildirsize::parse(b"1000S,3C\n5 1\n");
        let verdict = |len| read.verdict(len, fresh, &quota, 5);
        assert_eq!((verdict(5119), verdict(5120)), (Admitted, Recount));
    }

    #[test]
    fn names_that_count() {
        for (name, counts, size) in [
            ("1.2.mx,S=345:2,S", true, Some(345)),
            ("1.2.mx,S=345:2,ST", false, Some(345)),
            ("1.2.mx,S=345,W=350:2,S", true, Some(345)),
            ("1.2.mx,S=1,S=2", true, Some(2)),
            ("1.2.mx:2,S,S=9", true, None),
            ("1.2.mx,S=:2,", true, None),
            ("1.2.mx:2,aT", true, None),
            ("1.2.mxT", true, None),
            (".hidden,S=5", false, Some(5)),
        ] {
            let found = (is_counted(name.as_bytes()), Usage::size_in_name(name.as_bytes()));
            assert_eq!(found, (counts, size), "{name}");
        }
        let folders = [".Sent", ".a.b", "..x", ".", "..", ".Trash", "new", "tmp"];
        let counted: Vec<_> = folders.into_iter().filter(|name| is_counted_folder(name.as_bytes())).collect();
        assert_eq!(counted, [".Sent", ".a.b", "..x"]);
    }

    #[test]
    fn what_is_written() {
        let quota = Quota::parse(b"10MB,7C").unwrap();
        let text = counted(&quota, &Usage { bytes: 12, messages: 3 }) + &added(5) + &removed(6);
        assert_eq!(text, "10485760S,7C\n12 3\n5 1\n-6 -1\n");
        assert_eq!(Maildirsize::parse(text.as_bytes()).usage(), Usage { bytes: 11, messages: 3 });
        assert_eq!(tmp_name(12, 34, 0, "mx.test"), "12.34_NeWmAiLdIrSiZe.mx.test");
        assert_eq!(tmp_name(12, 34, 2, "a/b"), "12.34_2_NeWmAiLdIrSiZe.a\\057b");
    }
}
