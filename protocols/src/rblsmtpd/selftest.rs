//! Whether a list works (RFC 5782 5): it must list 127.0.0.2 and must not list 127.0.0.1.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::source::{Answer, Source};

/// Which of the two pairs of addresses is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 127.0.0.2 and 127.0.0.1.
    V4,
    /// ::FFFF:7F00:2 and ::FFFF:7F00:1, for lists of IPv6 addresses alone.
    V6,
}

impl Family {
    /// The address that must be listed.
    pub const fn listed(self) -> IpAddr {
        self.address(2)
    }

    /// The address that must not be.
    pub const fn unlisted(self) -> IpAddr {
        self.address(1)
    }

    const fn address(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, last as u16)),
        }
    }
}

/// The two names to ask: that of the address that must be listed, then that of the one that must not. Types of records as
/// [`Source::records`] has them, answers by [`Source::answer`].
pub fn questions(source: &Source, family: Family) -> [String; 2] {
    [source.name(family.listed()), source.name(family.unlisted())]
}

/// What the self-test says of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Works,
    /// The address that every list has is not listed.
    Empty(IpAddr),
    /// The address that no list has is listed.
    ListsEverybody(IpAddr),
    /// An answer that is no listing.
    Odd(Ipv4Addr),
    /// A question was not answered.
    NoAnswer,
}

impl Verdict {
    /// Judges the answers for the two [`questions`].
    pub const fn of(family: Family, listed: &Answer, unlisted: &Answer) -> Self {
        match (listed, unlisted) {
            (_, Answer::Listed(_)) => Self::ListsEverybody(family.unlisted()),
            (Answer::Odd(ip), _) | (_, Answer::Odd(ip)) => Self::Odd(*ip),
            (Answer::Failed, _) | (_, Answer::Failed) => Self::NoAnswer,
            (Answer::NotListed, Answer::NotListed) => Self::Empty(family.listed()),
            (Answer::Listed(_), Answer::NotListed) => Self::Works,
        }
    }

    /// Whether the list may be used.
    pub const fn works(&self) -> bool {
        matches!(self, Self::Works)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Empty(ip) => write!(f, "does not list {ip}: not in service, or not for these addresses"),
            Self::ListsEverybody(ip) => write!(f, "lists {ip}: it lists everybody, do not use it"),
            Self::Odd(ip) if ip.is_loopback() => {
                write!(f, "answers the error code {ip}: it does not serve this resolver")
            }
            Self::Odd(ip) => write!(f, "answers {ip}, which is not in 127.0.0.0/8: it is no list (any more)"),
            Self::NoAnswer => f.write_str("does not answer now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let source = Source::rbl("l.example").unwrap();
        assert_eq!(questions(&source, Family::V4), ["2.0.0.127.l.example", "1.0.0.127.l.example"]);
        let six = [2, 1].map(|last| format!("{last}.0.0.0.0.0.f.7.f.f.f.f.{}l.example", "0.".repeat(20)));
        assert_eq!(questions(&source, Family::V6), six);
    }

    #[test]
    fn verdicts() {
        use Answer::{Failed, NotListed};
        let listed = Answer::Listed(b"x".to_vec());
        let odd = Answer::Odd(Ipv4Addr::new(203, 0, 113, 7));
        let refused = Answer::Odd(Ipv4Addr::new(127, 255, 255, 254));
        for (two, one, text) in [
            (&listed, &NotListed, "works"),
            (&NotListed, &NotListed, "does not list 127.0.0.2: not in service, or not for these addresses"),
            (&listed, &listed, "lists 127.0.0.1: it lists everybody, do not use it"),
            (&NotListed, &listed, "lists 127.0.0.1: it lists everybody, do not use it"),
            (&odd, &odd, "answers 203.0.113.7, which is not in 127.0.0.0/8: it is no list (any more)"),
            (&refused, &NotListed, "answers the error code 127.255.255.254: it does not serve this resolver"),
            (&Failed, &NotListed, "does not answer now"),
            (&listed, &Failed, "does not answer now"),
        ] {
            let verdict = Verdict::of(Family::V4, two, one);
            assert_eq!(verdict.to_string(), text);
            assert_eq!(verdict.works(), text == "works");
        }
    }
}
