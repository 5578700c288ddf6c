//! One line: `ADDRESS:INSTRUCTIONS`.

use super::{DATA_MAX, VARIABLES_MAX, address};

const WHOLE: &str = "ADDRESS, a colon, then `allow` or `deny` in lower case";
const INSTRUCTIONS: &str = "after `allow` or `deny` any number of ,VARIABLE=\"value\"; in place of \" a quote of any \
                            one character that is not in the value; no NUL, nothing after the last quote";
const BOUNDS: &str = "1024 variables and 65536 bytes in one rule";

/// Keys and data of the rule in a line, or what is allowed where it is wrong.
pub(super) fn rule(line: &[u8]) -> Result<(Vec<Vec<u8>>, Vec<u8>), &'static str> {
    // The colon that separates is the first before an instruction (IPv6 patch). Where that is not the first colon,
    // 0.88 refuses the line, so no line that both take is read in two ways.
    let colon = memchr::memchr_iter(b':', line)
        .find(|&at| line[at + 1..].starts_with(b"allow") || line[at + 1..].starts_with(b"deny"))
        .ok_or(WHOLE)?;
    let data = instructions(&line[colon + 1..])?;
    Ok((address::keys(&line[..colon])?, data))
}

/// `allow` or `deny`, then `,VARIABLE=qVALUEq`, q being any byte.
fn instructions(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (mut data, mut rest) = match text.strip_prefix(b"allow") {
        Some(rest) => (Vec::new(), rest),
        None => (b"D\0".to_vec(), text.strip_prefix(b"deny").ok_or(WHOLE)?),
    };
    let mut variables = 0;
    while let Some(item) = rest.strip_prefix(b",") {
        let (assignment, after) = variable(item).ok_or(INSTRUCTIONS)?;
        variables += 1;
        data.push(b'+');
        data.extend_from_slice(&assignment);
        data.push(0);
        if variables > VARIABLES_MAX || data.len() > DATA_MAX {
            return Err(BOUNDS);
        }
        rest = after;
    }
    if rest.is_empty() { Ok(data) } else { Err(INSTRUCTIONS) }
}

/// `VARIABLE=VALUE` without the quotes, and what follows.
fn variable(item: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let equals = memchr::memchr(b'=', item)?;
    let (&quote, value) = item[equals + 1..].split_first()?;
    let end = memchr::memchr(quote, value)?;
    let assignment = [&item[..=equals], &value[..end]].concat();
    // NUL ends an item of the data.
    (!assignment.contains(&0)).then(|| (assignment, &value[end + 1..]))
}
