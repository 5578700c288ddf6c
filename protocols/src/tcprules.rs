//! The rules of tcpserver: their grammar, their database and the search in it (ucspi-tcp 0.88 `tcprules.c`, `rules.c`,
//! `tcprulescheck.c`, and its IPv6 patch).
//!
//! A database made here is one of tcprules, and one of tcprules is read here. Beyond 0.88 the grammar knows IPv6
//! addresses, prefixes of them (`2001:db8:`) and networks (`192.0.2.0/24`, `2001:db8::/32`). The keys of IPv4 networks
//! and of IPv6 networks that end between two groups are those that tcpserver looks up itself; any other IPv6 network
//! is a key (`2001:db8::/33`) that only [`lookup`] asks for.

mod address;
mod grammar;
mod lookup;
mod variables;

pub use lookup::{Client, HOST_MAX, Hit, INFO_MAX, LookupError, lookup, tcprulescheck};
pub use variables::Variables;

use crate::cdb::{self, CdbMake};
use crate::variable;

/// Most variables of one rule.
pub const VARIABLES_MAX: usize = 1024;

/// Most bytes of one rule's data.
pub const DATA_MAX: usize = 64 * 1024;

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
    /// A line that is no rule. The first line of the message is that of tcprules.
    #[error("unable to parse this line: {text}\nline {line}; allowed: {allowed}")]
    Line {
        /// The line's number, counted from 1.
        line: usize,
        /// The line.
        text: String,
        /// What may stand where it went wrong.
        allowed: &'static str,
    },
    /// The rules do not fit into a database.
    #[error(transparent)]
    Cdb(#[from] cdb::Error),
}

/// Reads a file of rules. Empty lines, lines that begin with `#` and lines without a colon are skipped; a range of
/// addresses or a network becomes one rule for each key it stands for.
pub fn parse(text: &[u8]) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::new();
    for (n, line) in text.split(|&b| b == b'\n').enumerate() {
        let end = line.iter().rposition(|b| !b" \t".contains(b)).map_or(0, |last| last + 1);
        let line = &line[..end];
        if line.starts_with(b"#") || !line.contains(&b':') {
            continue;
        }
        let bad =
            |allowed| Error::Line { line: n + 1, text: String::from_utf8_lossy(line).into_owned(), allowed };
        const LF: &str = "lines that end with LF alone, without the CR of CR LF";
        let (keys, data) =
            grammar::rule(line).map_err(|allowed| bad(if line.ends_with(b"\r") { LF } else { allowed }))?;
        rules.extend(keys.into_iter().map(|address| Rule { address, data: data.clone() }));
    }
    Ok(rules)
}

/// What may be meant otherwise in a file of rules: the number of a line, and what is odd about its address or a variable that it
/// sets. Names in `custom` mean something to this host. Lines that tcprules refuses are skipped.
pub fn doubtful(text: &[u8], custom: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, number) in text.split(|&b| b == b'\n').zip(1..) {
        // As a file of one line it is a rule or none.
        let Ok(rules) = parse(line) else { continue };
        let Some(rule) = rules.first() else {
            let line = line.trim_ascii();
            if !line.is_empty() && !line.starts_with(b"#") {
                found.push((number, "no colon: this line is skipped, as a comment is".to_owned()));
            }
            continue;
        };
        let odd = rules.iter().find_map(|rule| address::odd(&rule.address));
        found.extend(odd.map(|odd| (number, odd)));
        let assigned = rule.data.split(|&b| b == 0).filter_map(|item| item.strip_prefix(b"+"));
        let assigned: Vec<(String, Vec<u8>)> = assigned
            .filter_map(|item| {
                let equals = memchr::memchr(b'=', item)?;
                Some((String::from_utf8_lossy(&item[..equals]).into_owned(), item[equals + 1..].to_vec()))
            })
            .collect();
        for (name, _) in &assigned {
            if let Some(meant) = variable::meant(name, custom.iter().map(String::as_str)) {
                found.push((number, format!("{name} is no variable of this host; {meant}?")));
            }
        }
        let get =
            |name: &str| assigned.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.clone());
        found.extend(variable::bad_values(&get).into_iter().map(|bad| (number, bad)));
    }
    found
}

/// The bytes of the database, the same as tcprules writes; of several rules for one address the first counts.
pub fn compile(rules: &[Rule]) -> Result<Vec<u8>, Error> {
    let mut make = CdbMake::new();
    for rule in rules {
        make.add(&rule.address, &rule.data)?;
    }
    Ok(make.finish())
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
            ("1.:allow,A=xx", vec!["1. +A=|"]),
            ("1.:allow,A=\"1\",A=\"2\"", vec!["1. +A=1|+A=2|"]),
            ("1.:allow,,a,=\",:allow,\"", vec!["1. +,a,=,:allow,|"]),
            ("1.:allow,=xyx", vec!["1. +=y|"]),
            ("# comment:allow\n\nno colon\n \t\n=host.example:allow", vec!["=host.example "]),
            (" # no comment:allow", vec![" # no comment "]),
            ("1.:allow\n1.:deny\n:allow", vec!["1. ", "1. D|", " "]),
            ("=.example:deny\n=:allow\nuser@=host:allow", vec!["=.example D|", "= ", "user@=host "]),
            ("\u{e4}@1.2.3.4:deny", vec!["\u{e4}@1.2.3.4 D|"]),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn bad_lines() {
        for (text, allowed) in [
            ("1.2.3.4:Allow", "then `allow` or `deny`"),
            ("1.2.3.4: allow", "then `allow` or `deny`"),
            ("host.example:80", "then `allow` or `deny`"),
            ("1.2.3.4:allowed", "a quote of any one character"),
            ("1.:allow,A", "a quote of any one character"),
            ("1.:allow,A=", "a quote of any one character"),
            ("1.:allow,A=\"b", "a quote of any one character"),
            ("1.:allow,A=\"b\"c", "a quote of any one character"),
            ("1.:allow,A=\"b\",", "a quote of any one character"),
            ("1.:allow\r", "without the CR of CR LF"),
            ("1.:allow,A=\"\0\"", "a quote of any one character"),
            ("1.2.3.4-x:allow", "decimal numbers on both sides"),
            ("10.0.0.0/33:deny", "0 to 32"),
            ("10.0.0/8:deny", "0 to 32"),
            ("2001:db8::/129:deny", "0 to 128"),
            ("1.2.3.4:8:allow", "an IPv6 address"),
            ("fe80::1%eth0:allow", "an IPv6 address"),
        ] {
            let error = parse(format!(":allow\n{text}\n").as_bytes()).unwrap_err();
            let said = error.to_string();
            assert!(
                said.starts_with(&format!("unable to parse this line: {text}\nline 2; allowed: ")),
                "{said}"
            );
            assert!(said.contains(allowed), "{text}: {said}");
        }
    }

    #[test]
    fn a_rule_is_bounded() {
        let variables = |n: usize| format!(":allow{}", ",A=\"\"".repeat(n));
        assert!(parse(variables(VARIABLES_MAX).as_bytes()).is_ok());
        assert!(parse(variables(VARIABLES_MAX + 1).as_bytes()).is_err());
        let value = |n: usize| format!(":allow,A=\"{}\"", "x".repeat(n));
        assert!(parse(value(DATA_MAX - 4).as_bytes()).is_ok());
        assert!(parse(value(DATA_MAX - 3).as_bytes()).is_err());
    }
}
