//! The grammar of a record (RFC 7208 4.6.1, 5, 6, 12).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::SpfResult;
use super::macros::MacroString;
use super::text::printable;

/// Longest record in bytes that is read.
pub const MAX_RECORD: usize = 8192;
const VERSION: &[u8] = b"v=spf1";

/// What is wrong with a record; the text is the term, shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Syntax {
    /// Longer than [`MAX_RECORD`].
    #[error("{0} bytes long, at most {MAX_RECORD} are read")]
    TooLong(usize),
    /// A byte that is not printable ASCII.
    #[error("{0}: not printable ASCII")]
    NotAscii(String),
    /// Neither mechanism nor modifier.
    #[error("{0}: no mechanism or modifier")]
    Unknown(String),
    /// `all` with an argument.
    #[error("{0}: takes no argument")]
    Argument(String),
    /// No domain-spec where one is needed, or a broken one.
    #[error("{0}: takes a domain, perhaps with macros")]
    Domain(String),
    /// No address, or no prefix length.
    #[error("{0}: takes an IP address and a prefix length up to 32 (IPv4) or 128 (IPv6)")]
    Network(String),
    /// A prefix length that is out of range.
    #[error("{0}: takes a prefix length up to 32 (IPv4) or, behind //, up to 128 (IPv6)")]
    Prefix(String),
    /// A `%` without its macro.
    #[error("{0}: broken macro")]
    Macro(String),
    /// `redirect=` or `exp=` for the second time.
    #[error("{0}: stands twice")]
    Twice(String),
    /// A modifier among local rules.
    #[error("{0}: only mechanisms may stand here")]
    Modifier(String),
}

/// Makes the error of a term.
type Fault = fn(String) -> Syntax;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Record {
    pub(super) directives: Vec<Directive>,
    pub(super) redirect: Option<MacroString>,
    pub(super) exp: Option<MacroString>,
}

/// A mechanism and what it gives when it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) result: SpfResult,
    pub(super) mechanism: Mechanism,
    /// As it stands in the record.
    pub(super) text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(MacroString),
    A(Option<MacroString>, Prefixes),
    Mx(Option<MacroString>, Prefixes),
    Ptr(Option<MacroString>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(MacroString),
}

/// The prefix lengths of `a` and `mx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefixes {
    /// 0 to 32
    pub(super) ip4: u8,
    /// 0 to 128
    pub(super) ip6: u8,
}

impl Record {
    /// Whether a TXT record is one of SPF (RFC 7208 4.5).
    pub(super) fn is_spf(text: &[u8]) -> bool {
        text.split_at_checked(VERSION.len()).is_some_and(|(version, rest)| {
            version.eq_ignore_ascii_case(VERSION) && matches!(rest, [] | [b' ', ..])
        })
    }

    /// Reads a record, with or without `v=spf1` in front. An error anywhere counts (RFC 7208 4.6).
    pub(super) fn parse(text: &[u8]) -> Result<Self, Syntax> {
        if text.len() > MAX_RECORD {
            return Err(Syntax::TooLong(text.len()));
        }
        let terms = if Self::is_spf(text) { &text[VERSION.len()..] } else { text };
        let mut record = Self::default();
        for term in terms.split(|&b| b == b' ').filter(|term| !term.is_empty()) {
            record.term(term).map_err(|fault| fault(printable(term, 64)))?;
        }
        Ok(record)
    }

    fn term(&mut self, term: &[u8]) -> Result<(), Fault> {
        if term.iter().any(|b| !matches!(b, 33..=126)) {
            return Err(Syntax::NotAscii);
        }
        let in_name = |b: &&u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        let (name, rest) = term.split_at(term.iter().take_while(in_name).count());
        match rest {
            [b'=', value @ ..] if name.first().is_some_and(u8::is_ascii_alphabetic) => {
                self.modifier(name, value)
            }
            _ => {
                self.directives.push(directive(term)?);
                Ok(())
            }
        }
    }

    fn modifier(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        let place = if name.eq_ignore_ascii_case(b"redirect") {
            &mut self.redirect
        } else if name.eq_ignore_ascii_case(b"exp") {
            &mut self.exp
        } else {
            return MacroString::parse(value).map(drop).ok_or(Syntax::Macro);
        };
        if place.is_some() {
            return Err(Syntax::Twice);
        }
        *place = Some(domain_spec(value)?);
        Ok(())
    }
}

fn directive(term: &[u8]) -> Result<Directive, Fault> {
    let (result, mechanism) = match term {
        [b'+', rest @ ..] => (SpfResult::Pass, rest),
        [b'-', rest @ ..] => (SpfResult::Fail, rest),
        [b'~', rest @ ..] => (SpfResult::Softfail, rest),
        [b'?', rest @ ..] => (SpfResult::Neutral, rest),
        rest => (SpfResult::Pass, rest),
    };
    Ok(Directive { result, mechanism: parse_mechanism(mechanism)?, text: printable(term, 128) })
}

fn parse_mechanism(text: &[u8]) -> Result<Mechanism, Fault> {
    let (name, rest) = text.split_at(text.iter().take_while(|b| !b":/".contains(b)).count());
    let argument = rest.strip_prefix(b":");
    match &*name.to_ascii_lowercase() {
        b"all" if rest.is_empty() => Ok(Mechanism::All),
        b"all" => Err(Syntax::Argument),
        b"include" => Ok(Mechanism::Include(domain_spec(argument.unwrap_or_default())?)),
        b"exists" => Ok(Mechanism::Exists(domain_spec(argument.unwrap_or_default())?)),
        b"ptr" => Ok(Mechanism::Ptr(optional_domain(rest)?)),
        b"a" => hosts(rest).map(|(domain, prefixes)| Mechanism::A(domain, prefixes)),
        b"mx" => hosts(rest).map(|(domain, prefixes)| Mechanism::Mx(domain, prefixes)),
        b"ip4" => network(argument, 32).map(|(ip, prefix)| Mechanism::Ip4(ip, prefix)),
        b"ip6" => network(argument, 128).map(|(ip, prefix)| Mechanism::Ip6(ip, prefix)),
        _ => Err(Syntax::Unknown),
    }
}

fn domain_spec(text: &[u8]) -> Result<MacroString, Fault> {
    MacroString::domain_spec(text).ok_or(Syntax::Domain)
}

/// Nothing, or `:` and a domain-spec.
fn optional_domain(rest: &[u8]) -> Result<Option<MacroString>, Fault> {
    match rest {
        [] => Ok(None),
        [b':', domain @ ..] => domain_spec(domain).map(Some),
        _ => Err(Syntax::Domain),
    }
}

/// `[":" domain-spec] ["/" ip4-cidr-length] ["//" ip6-cidr-length]`; read from the end, a domain may contain slashes but
/// its top label may not.
fn hosts(rest: &[u8]) -> Result<(Option<MacroString>, Prefixes), Fault> {
    let (rest, ip6) = prefix_behind(rest, b"//", 128)?;
    let (rest, ip4) = prefix_behind(rest, b"/", 32)?;
    Ok((optional_domain(rest)?, Prefixes { ip4, ip6 }))
}

fn prefix_behind<'a>(rest: &'a [u8], slashes: &[u8], max: u8) -> Result<(&'a [u8], u8), Fault> {
    let digits = rest.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (front, number) = rest.split_at(rest.len() - digits);
    match front.strip_suffix(slashes) {
        Some(front) if digits > 0 => Ok((front, prefix(number, max).ok_or(Syntax::Prefix as Fault)?)),
        _ => Ok((rest, max)),
    }
}

/// A number up to `max` without leading zeros.
fn prefix(digits: &[u8], max: u8) -> Option<u8> {
    let plain = digits == b"0" || digits.first().is_some_and(|b| matches!(b, b'1'..=b'9'));
    let number = plain.then(|| str::from_utf8(digits).ok()?.parse().ok()).flatten();
    number.filter(|&number| number <= max)
}

fn network<Ip: std::str::FromStr>(argument: Option<&[u8]>, max: u8) -> Result<(Ip, u8), Fault> {
    let read = || {
        let text = str::from_utf8(argument?).ok()?;
        match text.split_once('/') {
            Some((ip, digits)) => Some((ip.parse().ok()?, prefix(digits.as_bytes(), max)?)),
            None => Some((text.parse().ok()?, max)),
        }
    };
    read().ok_or(Syntax::Network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_texts_are_spf() {
        for (text, expected) in [
            ("v=spf1", true),
            ("V=SPF1 all", true),
            ("v=spf10", false),
            ("v=spf1\tall", false),
            (" v=spf1", false),
            ("", false),
        ] {
            assert_eq!(Record::is_spf(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn terms_that_are_refused() {
        let faults: [(&str, Fault); 25] = [
            ("moo", Syntax::Unknown),
            ("", Syntax::Unknown),
            ("all.", Syntax::Unknown),
            ("all:x.example", Syntax::Argument),
            ("include", Syntax::Domain),
            ("include:", Syntax::Domain),
            ("include/24", Syntax::Domain),
            ("exists:x.example/24", Syntax::Domain),
            ("ptr/24", Syntax::Domain),
            ("a:", Syntax::Domain),
            ("a:%{d1/2}", Syntax::Domain),
            ("a/", Syntax::Domain),
            ("a/24/24", Syntax::Domain),
            ("a/33", Syntax::Prefix),
            ("a/032", Syntax::Prefix),
            ("mx//129", Syntax::Prefix),
            ("mx//999999999999999999999", Syntax::Prefix),
            ("ip4", Syntax::Network),
            ("ip4:01.2.3.4", Syntax::Network),
            ("ip4:1.2.3.4/", Syntax::Network),
            ("ip4:1.2.3.4/+3", Syntax::Network),
            ("ip6:::1//64", Syntax::Network),
            ("x=%", Syntax::Macro),
            ("redirect=x", Syntax::Domain),
            ("a\u{b}", Syntax::NotAscii),
        ];
        for (term, fault) in faults {
            // The empty term is a lone qualifier.
            let term = if term.is_empty() { "+" } else { term };
            let shown = term.replace('\u{b}', "?");
            assert_eq!(Record::parse(format!("v=spf1 {term} -all").as_bytes()), Err(fault(shown)), "{term}");
        }
    }

    #[test]
    fn hosts_of_a_and_mx() {
        let domain = |text: &str| Some(MacroString::domain_spec(text.as_bytes()).unwrap());
        for (rest, name, ip4, ip6) in [
            ("", None, 32, 128),
            ("/24", None, 24, 128),
            ("//64", None, 32, 64),
            ("/0//0", None, 0, 0),
            (":a/b.example", domain("a/b.example"), 32, 128),
            (":a/b.example/8//9", domain("a/b.example"), 8, 9),
        ] {
            assert_eq!(hosts(rest.as_bytes()).ok(), Some((name, Prefixes { ip4, ip6 })), "{rest}");
        }
    }

    #[test]
    fn the_longest_record() {
        let text = |length: usize| format!("v=spf1 {}", "a ".repeat(length)).into_bytes();
        assert_eq!(Record::parse(&text(4000)).unwrap().directives.len(), 4000);
        assert_eq!(Record::parse(&text(40_000)), Err(Syntax::TooLong(80_007)));
    }
}
