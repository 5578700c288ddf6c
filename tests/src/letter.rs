//! Letters: messages whose text follows from their name, so that a delivered one can be compared byte for byte.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::chance::Chance;

/// The text of letter `name`, with LF line ends, about `size` bytes of body.
///
/// Lines begin with dots and hold 8-bit text now and then: what transparency (RFC 5321 4.5.2) and 8BITMIME must carry.
pub fn letter(name: &str, size: usize) -> String {
    let seed = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mut chance = Chance::from_seed(seed);
    let mut text = format!("From: <sender@mx.test>\nSubject: letter {name}\nX-Letter: {name} {size}\n\n");
    let full = text.len() + size;
    while text.len() < full {
        let start = *chance.pick(&["", "", ".", "..", "Grüße ", "From "]);
        writeln!(text, "{start}{:016x} {:016x} {:016x}", chance.bits(), chance.bits(), chance.bits())
            .unwrap();
    }
    writeln!(text, "end of {name}").unwrap();
    text
}

/// Which letter a delivered message is, after checking that its text is whole; the header lines mail hosts put
/// in front are passed over.
pub fn read(delivered: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(delivered);
    let line = text.lines().find_map(|line| line.strip_prefix("X-Letter: ")).ok_or("no X-Letter line")?;
    let (name, size) = line.split_once(' ').ok_or("X-Letter without size")?;
    let size = size.trim().parse().map_err(|_| "X-Letter with a bad size")?;
    let sent = letter(name, size);
    if delivered.ends_with(sent.as_bytes()) {
        Ok(name.to_owned())
    } else {
        Err(format!("letter {name} is not whole: {} bytes delivered, {} sent", delivered.len(), sent.len()))
    }
}

/// How often each letter arrived; fails at the first that is not whole.
pub fn count<'a>(delivered: impl IntoIterator<Item = &'a [u8]>) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for message in delivered {
        match read(message) {
            Ok(name) => *copies.entry(name).or_default() += 1,
            Err(cause) => panic!("{cause}\n{}", String::from_utf8_lossy(message)),
        }
    }
    copies
}
