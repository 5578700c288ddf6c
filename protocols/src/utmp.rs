//! The file of who is logged in (utmp(5), as the GNU C library lays it out).

/// Bytes of an entry.
pub const ENTRY: usize = if cfg!(target_arch = "aarch64") { 400 } else { 384 };

/// `USER_PROCESS`: a user's session.
const USER: [u8; 2] = 7i16.to_ne_bytes();

/// The terminals on which a user is logged in, as names beneath `/dev`; those that lead out of it are left out.
pub fn terminals<'a>(utmp: &'a [u8], user: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let text = |field: &'a [u8]| field.split(|byte| *byte == 0).next().unwrap_or_default();
    let entries = utmp.chunks_exact(ENTRY).filter(|entry| entry[..2] == USER);
    let own = entries.filter(move |entry| text(&entry[44..76]) == user).map(move |entry| text(&entry[8..40]));
    own.filter(|line| !line.is_empty() && !line.starts_with(b"/") && !line.contains(&b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: i16, line: &str, user: &str) -> Vec<u8> {
        let mut entry = vec![0; ENTRY];
        entry[..2].copy_from_slice(&kind.to_ne_bytes());
        entry[8..8 + line.len()].copy_from_slice(line.as_bytes());
        entry[44..44 + user.len()].copy_from_slice(user.as_bytes());
        entry
    }

    #[test]
    fn terminals_of_a_user() {
        let long = "u".repeat(32);
        let mut utmp = [
            entry(7, "pts/1", "joe"),
            entry(8, "pts/2", "joe"),
            entry(7, "pts/3", "joey"),
            entry(7, "tty1", "joe"),
            entry(7, "../etc/x", "joe"),
            entry(7, "/etc/x", "joe"),
            entry(7, "", "joe"),
            entry(7, "pts/4", &long),
        ]
        .concat();
        utmp.extend_from_slice(&entry(7, "pts/5", "joe")[..100]);
        let found: Vec<_> = terminals(&utmp, b"joe").collect();
        assert_eq!(found, [&b"pts/1"[..], b"tty1"]);
        assert_eq!(terminals(&utmp, long.as_bytes()).count(), 1);
    }
}
