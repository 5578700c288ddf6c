//! Networks from which passwords were right, kept over a restart: `auth.trusted` in the home.
//!
//! A line for the key, then one for each network: three hexadecimal numbers, account and network as keyed hashes and the
//! second since 1970 until which it is trusted. Without it nobody is trusted; nothing else depends on it.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use mailtree_config::regular;
use mailtree_protocols::auth::throttle::Trusted;

use crate::durable::{self, Owner};

/// No such file is longer, in bytes: so many are trusted at most.
const MAX: u64 = 16 << 20;

/// What a file begins with.
const FIRST: &str = "mailtree-trusted 1 ";

/// The key, and who is trusted until which second since 1970. None if there is no such file.
pub(super) fn read(path: &Path) -> io::Result<Option<([u8; 16], Vec<Trusted>)>> {
    let mut text = String::new();
    let length = match regular::open(path)? {
        Some(file) => file.take(MAX + 1).read_to_string(&mut text)?,
        None => return Ok(None),
    };
    let bad =
        |line: usize| io::Error::new(ErrorKind::InvalidData, format!("line {line} is not of this kind"));
    if length as u64 > MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("longer than {MAX} bytes")));
    }
    let mut lines = text.lines();
    let key = lines.next().and_then(|line| line.strip_prefix(FIRST)).filter(|key| key.len() == 32);
    let key = key.and_then(|key| u128::from_str_radix(key, 16).ok()).ok_or_else(|| bad(1))?;
    let trusted = lines.enumerate().map(|(n, line)| {
        let mut numbers = line.split(' ').map(|number| u64::from_str_radix(number, 16).ok());
        let mut next = || numbers.next().flatten().ok_or_else(|| bad(n + 2));
        Ok(Trusted { account: next()?, pair: next()?, until: next()? })
    });
    Ok(Some((key.to_be_bytes(), trusted.collect::<io::Result<_>>()?)))
}

/// Writes it, for its owner's eyes: who has the key could tell which account was used from where.
pub(super) fn write(path: &Path, key: [u8; 16], trusted: &[Trusted]) -> io::Result<()> {
    let mut text = format!("{FIRST}{:032x}\n", u128::from_be_bytes(key));
    for Trusted { account, pair, until } in trusted {
        text.push_str(&format!("{account:x} {pair:x} {until:x}\n"));
    }
    durable::replace(path, text.as_bytes(), 0o600, Owner::own())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.trusted");
        assert!(read(&path).unwrap().is_none());
        let trusted = vec![
            Trusted { account: 1, pair: u64::MAX, until: 1_800_000_000 },
            Trusted { account: 0, pair: 2, until: 3 },
        ];
        write(&path, [9; 16], &trusted).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().unwrap(), ([9; 16], trusted));
        for (text, error) in [
            ("", "line 1 is not of this kind"),
            ("mailtree-trusted 2 00000000000000000000000000000000\n", "line 1 is not of this kind"),
            ("mailtree-trusted 1 00000000000000000000000000000000\n1 2 x\n", "line 2 is not of this kind"),
            (
                "mailtree-trusted 1 00000000000000000000000000000000\n1 2 3\n1 2\n",
                "line 3 is not of this kind",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap_err().to_string(), error);
        }
    }
}
