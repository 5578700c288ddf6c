//! The rules of tcpserver, compiled (tcprules).

use crate::cdb::{self, CdbMake};

/// A rule: an address and what to do with connections from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The key of the rule, byte for byte: `127.`, `192.0.2.1`, `=host.example`, empty for everybody …
    pub address: Vec<u8>,
    /// The data of its record: `D\0` for deny, then `+VARIABLE=value\0` for each variable.
    pub data: Vec<u8>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line that tcprules refuses, with its number, counted from 1.
    #[error("unable to parse this line: {text}")]
    Line {
        /// The line's number.
        line: usize,
        /// The line.
        text: String,
    },
    /// The rules do not fit into a database.
    #[error(transparent)]
    Cdb(#[from] cdb::Error),
}

/// Reads a file of rules. Empty lines, comments and lines without a colon are skipped; a range of addresses becomes one
/// rule for each number in it.
pub fn parse(text: &[u8]) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::new();
    for (n, line) in text.split(|&b| b == b'\n').enumerate() {
        let end = line.iter().rposition(|b| !b" \t".contains(b)).map_or(0, |last| last + 1);
        let line = &line[..end];
        if line.starts_with(b"#") || !line.contains(&b':') {
            continue;
        }
        let bad = || Error::Line { line: n + 1, text: String::from_utf8_lossy(line).into_owned() };
        // The IPv6 build of tcprules: the colon that separates is the first before `allow` or `deny`.
        let colon = (0..line.len())
            .filter(|&at| line[at] == b':')
            .find(|&at| line[at + 1..].starts_with(b"allow") || line[at + 1..].starts_with(b"deny"))
            .ok_or_else(bad)?;
        let data = instructions(&line[colon + 1..]).ok_or_else(bad)?;
        rules.extend(
            addresses(&line[..colon]).into_iter().map(|address| Rule { address, data: data.clone() }),
        );
    }
    Ok(rules)
}

/// The bytes of the database; of several rules for one address the first counts.
pub fn compile(rules: &[Rule]) -> Result<Vec<u8>, Error> {
    let mut make = CdbMake::new();
    for rule in rules {
        make.add(&rule.address, &rule.data)?;
    }
    Ok(make.finish())
}

/// `allow` or `deny`, then `,VARIABLE=qVALUEq`, q being any byte.
fn instructions(text: &[u8]) -> Option<Vec<u8>> {
    let (mut data, mut rest) = match text.strip_prefix(b"allow") {
        Some(rest) => (Vec::new(), rest),
        None => (b"D\0".to_vec(), text.strip_prefix(b"deny")?),
    };
    while let Some(item) = rest.strip_prefix(b",") {
        let equals = memchr::memchr(b'=', item)?;
        let (&quote, value) = item[equals + 1..].split_first()?;
        let end = memchr::memchr(quote, value)?;
        // The items are separated by NUL.
        if item[..equals].contains(&0) || value[..end].contains(&0) {
            return None;
        }
        data.push(b'+');
        data.extend_from_slice(&item[..=equals]);
        data.extend_from_slice(&value[..end]);
        data.push(0);
        rest = &value[end + 1..];
    }
    rest.is_empty().then_some(data)
}

/// The addresses of a range such as `1.2.3.4-7` or `10.1-9.`; any other address stands for itself.
fn addresses(address: &[u8]) -> Vec<Vec<u8>> {
    range(address).unwrap_or_else(|| vec![address.to_vec()])
}

fn range(address: &[u8]) -> Option<Vec<Vec<u8>>> {
    if address.iter().any(|b| b"=@".contains(b)) {
        return None;
    }
    let dash = memchr::memchr(b'-', address)?;
    let left = memchr::memrchr(b'.', &address[..dash]).map_or(0, |dot| dot + 1);
    let right = memchr::memchr(b'.', &address[dash..]).map_or(address.len(), |dot| dash + dot);
    let bottom = leading_number(&address[left..dash]);
    let top = leading_number(&address[dash + 1..right]).min(255);
    let numbers = bottom..=top;
    Some(
        numbers
            .map(|number| [&address[..left], number.to_string().as_bytes(), &address[right..]].concat())
            .collect(),
    )
}

/// As scan_ulong: the digits at the start, 0 without any.
fn leading_number(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |number: u64, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let rules = parse(text.as_bytes()).unwrap();
        let rules = rules.iter().map(|rule| {
            let data = String::from_utf8_lossy(&rule.data).replace('\0', "|");
            format!("{} {data}", String::from_utf8_lossy(&rule.address))
        });
        rules.collect()
    }

    #[test]
    fn rules() {
        for (text, expected) in [
            ("127.:allow,RELAYCLIENT=\"\"", vec!["127. +RELAYCLIENT=|"]),
            ("::1:allow,RELAYCLIENT=\"\"", vec!["::1 +RELAYCLIENT=|"]),
            (":allow", vec![" "]),
            (":deny  \t", vec![" D|"]),
            ("1.2.3.4:deny,A=/x, :y/,B='z'", vec!["1.2.3.4 D|+A=x, :y|+B=z|"]),
            ("# comment:allow\n\nno colon\n=host.example:allow", vec!["=host.example "]),
            ("1.2.3.4-6:allow", vec!["1.2.3.4 ", "1.2.3.5 ", "1.2.3.6 "]),
            ("10.9-10.:deny", vec!["10.9. D|", "10.10. D|"]),
            ("1.2.3.254-999:allow", vec!["1.2.3.254 ", "1.2.3.255 "]),
            ("a-b@1.2.3.4:allow", vec!["a-b@1.2.3.4 "]),
            ("=a-b.example:allow", vec!["=a-b.example "]),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn bad_lines() {
        for text in [
            "1.2.3.4:Allow",
            "1.2.3.4:allowed",
            "1.:allow,A",
            "1.:allow,A=",
            "1.:allow,A=\"b",
            "1.:allow,A=\"b\"c",
        ] {
            let expected = Error::Line { line: 2, text: text.to_owned() };
            assert_eq!(parse(format!(":allow\n{text}\n").as_bytes()), Err(expected), "{text}");
        }
    }
}
