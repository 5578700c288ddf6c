//! Macro strings (RFC 7208 7): parsed once, expanded with values the caller has.

use super::text::{MAX_NAME, domain_name};

/// Parts a name is made of, counted from the right. Parts that expand to nothing would otherwise cost without bound.
const MAX_PARTS: usize = 128;

/// A text with macros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MacroString(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    /// `%%`, `%_`, `%-`
    Escape(&'static [u8]),
    Macro(Macro),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Macro {
    letter: Letter,
    /// The letter is upper case: the value is escaped as in a URL.
    escaped: bool,
    /// Parts that are kept, counted from the right; 1 or more.
    keep: usize,
    reversed: bool,
    delimiters: Vec<u8>,
}

/// What a macro stands for (RFC 7208 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letter {
    /// `s`
    Sender,
    /// `l`
    LocalPart,
    /// `o`
    SenderDomain,
    /// `d`
    Domain,
    /// `i`
    Ip,
    /// `p`
    ValidatedName,
    /// `v`
    Family,
    /// `h`
    Helo,
    /// `c`, in explanations only
    ReadableIp,
    /// `r`, in explanations only
    Receiver,
    /// `t`, in explanations only
    Time,
}

impl MacroString {
    /// A domain-spec (RFC 7208 7.1): ends in a macro or in a dot and a top label.
    pub(super) fn domain_spec(text: &[u8]) -> Option<Self> {
        let parsed = Self::parse(text)?;
        let only_in_text = |part: &Part| {
            matches!(
                part,
                Part::Macro(Macro { letter: Letter::ReadableIp | Letter::Receiver | Letter::Time, .. })
            )
        };
        let ends_well = match parsed.0.last()? {
            Part::Literal(literal) => ends_in_top_label(literal),
            Part::Escape(_) | Part::Macro(_) => true,
        };
        (ends_well && !parsed.0.iter().any(only_in_text)).then_some(parsed)
    }

    /// Any macro string: an explanation, or the value of an unknown modifier.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (literal, behind) = rest.split_at(memchr::memchr(b'%', rest).unwrap_or(rest.len()));
            if literal.iter().any(|b| !matches!(b, 32..=126)) {
                return None;
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_vec()));
            }
            let (part, after): (_, &[u8]) = match behind {
                [] => return Some(Self(parts)),
                [_, b'%', after @ ..] => (Part::Escape(b"%"), after),
                [_, b'_', after @ ..] => (Part::Escape(b" "), after),
                [_, b'-', after @ ..] => (Part::Escape(b"%20"), after),
                [_, b'{', after @ ..] => {
                    let (inside, after) = after.split_at(memchr::memchr(b'}', after)?);
                    (Part::Macro(Macro::parse(inside)?), after.get(1..)?)
                }
                _ => return None,
            };
            parts.push(part);
            rest = after;
        }
    }

    /// The text itself, if it has no macros.
    pub(super) fn literal(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The text, of which no more than `max` bytes are made.
    pub(super) fn text<E>(
        &self,
        max: usize,
        mut value: impl FnMut(Letter) -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let mut text = Vec::new();
        for part in &self.0 {
            if text.len() >= max {
                break;
            }
            text.extend(part.expand(&mut value)?);
        }
        text.truncate(max);
        Ok(text)
    }

    /// The name DNS is asked for; labels on the left are dropped from one that is too long (RFC 7208 7.3). None for what
    /// is no name.
    ///
    /// Expanded from the right, and only as far as the longest name reaches: the cost does not grow with the macros.
    pub(super) fn name<E>(
        &self,
        mut value: impl FnMut(Letter) -> Result<Vec<u8>, E>,
    ) -> Result<Option<String>, E> {
        let mut name = Vec::new();
        for (n, part) in self.0.iter().rev().enumerate() {
            // One more for the trailing dot. A label cut in two here is the leftmost, and goes.
            if name.len() > MAX_NAME + 1 {
                break;
            }
            if n == MAX_PARTS {
                return Ok(None);
            }
            let mut longer = part.expand(&mut value)?;
            longer.append(&mut name);
            name = longer;
        }
        let mut name = name.strip_suffix(b".").unwrap_or(&name);
        while name.len() > MAX_NAME {
            match memchr::memchr(b'.', name) {
                Some(dot) => name = &name[dot + 1..],
                None => return Ok(None),
            }
        }
        Ok(domain_name(name))
    }
}

impl Part {
    fn expand<E>(&self, value: &mut impl FnMut(Letter) -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
        Ok(match self {
            Self::Literal(literal) => literal.clone(),
            Self::Escape(escape) => escape.to_vec(),
            Self::Macro(it) => it.transform(&value(it.letter)?),
        })
    }
}

impl Macro {
    /// What stands between the braces.
    fn parse(inside: &[u8]) -> Option<Self> {
        let (&letter, rest) = inside.split_first()?;
        let (digits, rest) = rest.split_at(rest.iter().take_while(|b| b.is_ascii_digit()).count());
        let number = digits.iter().fold(0, |number: usize, digit| {
            number.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
        });
        let (reversed, delimiters) = match rest {
            [b'r' | b'R', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        if (number == 0 && !digits.is_empty()) || !delimiters.iter().all(|b| b".-+,/_=".contains(b)) {
            return None;
        }
        Some(Self {
            letter: Letter::parse(letter)?,
            escaped: letter.is_ascii_uppercase(),
            keep: if digits.is_empty() { usize::MAX } else { number },
            reversed,
            delimiters: if delimiters.is_empty() { b".".to_vec() } else { delimiters.to_vec() },
        })
    }

    fn transform(&self, value: &[u8]) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = value.split(|b| self.delimiters.contains(b)).collect();
        if self.reversed {
            parts.reverse();
        }
        let kept = parts[parts.len().saturating_sub(self.keep)..].join(&b'.');
        if self.escaped { escape(&kept) } else { kept }
    }
}

impl Letter {
    const fn parse(letter: u8) -> Option<Self> {
        Some(match letter.to_ascii_lowercase() {
            b's' => Self::Sender,
            b'l' => Self::LocalPart,
            b'o' => Self::SenderDomain,
            b'd' => Self::Domain,
            b'i' => Self::Ip,
            b'p' => Self::ValidatedName,
            b'v' => Self::Family,
            b'h' => Self::Helo,
            b'c' => Self::ReadableIp,
            b'r' => Self::Receiver,
            b't' => Self::Time,
            _ => return None,
        })
    }
}

/// Everything but the unreserved characters of RFC 3986 2.3 becomes `%XX`.
fn escape(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(byte);
        } else {
            escaped.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    escaped
}

/// `.` and a label of letters, digits and inner hyphens that is no number, perhaps with a dot behind it.
fn ends_in_top_label(literal: &[u8]) -> bool {
    let literal = literal.strip_suffix(b".").unwrap_or(literal);
    let Some(dot) = memchr::memrchr(b'.', literal) else {
        return false;
    };
    let label = &literal[dot + 1..];
    !label.is_empty()
        && label.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with(b"-")
        && !label.ends_with(b"-")
        && !label.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    // The values of RFC 7208 7.4.
    fn value(letter: Letter) -> Result<Vec<u8>, Infallible> {
        Ok(match letter {
            Letter::Sender => "strong-bad@email.example.com",
            Letter::LocalPart => "strong-bad",
            Letter::Ip => "192.0.2.3",
            Letter::Family => "in-addr",
            Letter::Helo => "a/b c",
            Letter::ReadableIp => "192.0.2.3",
            _ => "email.example.com",
        }
        .into())
    }

    #[test]
    fn texts() {
        for (text, expected) in [
            ("%{s}", Some("strong-bad@email.example.com")),
            ("%{d4} %{d3} %{d2} %{d1}", Some("email.example.com email.example.com example.com com")),
            ("%{dr} %{d2r} %{dR}", Some("com.example.email example.email com.example.email")),
            ("%{l-} %{lr} %{lr-} %{l1r-}", Some("strong.bad strong-bad bad.strong strong")),
            ("%{ir}.%{v}._spf.%{d2}", Some("3.2.0.192.in-addr._spf.example.com")),
            ("%{H} %{c} 100%%%_%-", Some("a%2Fb%20c 192.0.2.3 100% %20")),
            ("%{d99999999999999999999999}", Some("email.example.com")),
            ("%{d0}", None),
            ("%{x}", None),
            ("%{}", None),
            ("%{d", None),
            ("%{d!}", None),
            ("%{d2r2}", None),
            ("%{%{d}}", None),
            ("50%", None),
            ("%d", None),
            ("caf\u{e9}", None),
        ] {
            let parsed = MacroString::parse(text.as_bytes());
            let shown = parsed.map(|parsed| String::from_utf8(parsed.text(1000, value).unwrap()).unwrap());
            assert_eq!(shown.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn domain_specs() {
        for (text, expected) in [
            ("a.example", true),
            ("a.example.", true),
            ("%{d}", true),
            ("a%%", true),
            ("%{d}.x--1", true),
            ("%{d}example", false),
            ("example", false),
            ("a.1", false),
            ("a.-a", false),
            ("a.a-", false),
            ("a.ex/24", false),
            ("", false),
            (".", false),
            ("%{c}.example", false),
            ("%{R}.example", false),
            ("%{t}", false),
        ] {
            assert_eq!(MacroString::domain_spec(text.as_bytes()).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn a_thousand_macros_cost_no_more_than_a_name() {
        let spec = MacroString::domain_spec(format!("{}%{{s}}", "%{s}.".repeat(999)).as_bytes()).unwrap();
        let mut asked = 0;
        let name = spec.name(|letter| {
            asked += 1;
            value(letter)
        });
        let name = name.unwrap().unwrap();
        assert!(name.len() <= MAX_NAME && name.ends_with(".strong-bad@email.example.com"), "{name}");
        assert!(asked < 12, "{asked}");
        let text = MacroString::parse("%{s}".repeat(1000).as_bytes()).unwrap().text(100, value).unwrap();
        assert_eq!(text.len(), 100);
    }

    #[test]
    fn a_long_value_loses_labels_on_the_left_or_is_no_name() {
        for (helo, expected) in [
            ("a".repeat(64), None),
            ("a".repeat(5000), None),
            ("abc.".repeat(1000) + "x", Some(format!("{}x.example", "abc.".repeat(61)))),
        ] {
            let spec = MacroString::domain_spec(b"%{h}.example").unwrap();
            let name = spec.name(|_| Ok::<_, Infallible>(helo.clone().into_bytes())).unwrap();
            assert_eq!(name, expected);
        }
    }
}
