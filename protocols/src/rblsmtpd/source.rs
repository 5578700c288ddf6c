//! One DNS list: its option, its questions and the meaning of its answers (rblsmtpd.c; RFC 5782).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Longest base in bytes: with the 32 nibbles of an IPv6 address in front the name stays within 253.
pub const MAX_BASE: usize = 253 - 64;

/// Longest message template in bytes.
pub const MAX_MESSAGE: usize = 1000;

/// What a listing means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `-r`: the client is rejected.
    Rbl,
    /// `-a`: the client is accepted.
    Antirbl,
}

/// A list that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    kind: Kind,
    base: String,
    message: Option<String>,
}

/// An option that names no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The base is no domain.
    #[error(
        "`{0}` is no base of a list; allowed: a domain of letters, digits, `-`, `_` and dots, \
         at most {MAX_BASE} bytes, no label longer than 63"
    )]
    Base(String),
    /// Nothing behind the colon, or too much.
    #[error(
        "`{0}`: allowed after the colon: a message of 1 to {MAX_MESSAGE} bytes; `%IP%` stands for the address"
    )]
    Message(String),
}

/// A type of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A (an IPv4 address).
    A,
    /// TXT.
    Txt,
}

/// What DNS says to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// The records; none for a name without such records (NODATA).
    Records(Vec<T>),
    /// The name does not exist (NXDOMAIN).
    NoName,
    /// Nobody can say now.
    Failed,
}

/// What the answers of a list mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The client is listed; the text for it, empty for `-a`.
    Listed(Vec<u8>),
    /// It is not.
    NotListed,
    /// The list answers something that is no listing: an address outside 127.0.0.0/8, as the wildcard of a domain that
    /// is no list any more does, or an error code in 127.255.255.0/24. It never decides anything.
    Odd(Ipv4Addr),
    /// Nobody can say now.
    Failed,
}

/// Letters and digits that a key has at least: Spamhaus' query service has 26.
const KEY: usize = 16;

/// A text with lists' names in it, without keys: of a first label that looks like one only the end is left.
pub fn masked(text: &str) -> String {
    let word = |word: &str| {
        let (label, rest) = match word.split_once('.') {
            Some((label, rest)) if !rest.is_empty() => (label, rest),
            _ => return word.to_owned(),
        };
        let is_key = label.len() >= KEY
            && label.bytes().all(|b| b.is_ascii_alphanumeric())
            && label.bytes().any(|b| b.is_ascii_digit());
        let end = label.len().saturating_sub(3);
        if is_key { format!("***{}.{rest}", &label[end..]) } else { word.to_owned() }
    };
    // An option may stand in the word of its value.
    let option = |text: &str| match text.get(..2) {
        Some(letter @ ("-r" | "-a")) => format!("{letter}{}", word(&text[2..])),
        _ => word(text),
    };
    text.split(' ').map(option).collect::<Vec<_>>().join(" ")
}

impl Source {
    /// `-r base` or `-r base:message`.
    pub fn rbl(text: &str) -> Result<Self, Error> {
        let (base, message) = match text.split_once(':') {
            Some((base, message)) => (base, Some(message)),
            None => (text, None),
        };
        if message.is_some_and(|message| message.is_empty() || message.len() > MAX_MESSAGE) {
            return Err(Error::Message(text.to_owned()));
        }
        Ok(Self { kind: Kind::Rbl, base: domain(base)?, message: message.map(str::to_owned) })
    }

    /// `-a base`.
    pub fn antirbl(text: &str) -> Result<Self, Error> {
        Ok(Self { kind: Kind::Antirbl, base: domain(text)?, message: None })
    }

    /// What a listing means.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The domain of the list, without a dot at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same for those who look: without the key that some lists have in their names.
    pub fn shown(&self) -> String {
        masked(&self.base)
    }

    /// The name that is asked for a client: reversed octets (RFC 5782 2.1) or nibbles (2.4) in front of the base, without
    /// a dot at its end. An IPv4-mapped address is the IPv4 address.
    pub fn query(&self, client: IpAddr) -> String {
        self.name(client.to_canonical())
    }

    /// The name for this address, mapped or not.
    pub(super) fn name(&self, ip: IpAddr) -> String {
        let mut name = String::with_capacity(MAX_BASE + 64);
        // Writing to a String does not fail.
        match ip {
            IpAddr::V4(ip) => ip.octets().iter().rev().for_each(|octet| {
                write!(name, "{octet}.").ok();
            }),
            IpAddr::V6(ip) => ip.octets().iter().rev().for_each(|octet| {
                write!(name, "{:x}.{:x}.", octet & 15, octet >> 4).ok();
            }),
        }
        name.push_str(&self.base);
        name
    }

    /// What is asked, all at once. A plain `-r` needs the A record besides its TXT: only that tells a listing from a
    /// wildcard or an error code.
    pub const fn records(&self) -> &'static [Record] {
        match (self.kind, &self.message) {
            (Kind::Rbl, None) => &[Record::A, Record::Txt],
            _ => &[Record::A],
        }
    }

    /// What the answers to [`Self::records`] mean for a client; `txt` is looked at only for a plain `-r`.
    ///
    /// - An A record in 127.0.0.0/8 that is no error code is a listing; any other is [`Answer::Odd`].
    /// - A plain `-r` takes its text from the first TXT record. Without one it lists nobody, as rblsmtpd always had it.
    /// - A list of TXT records alone (rblsmtpd's oldest) answers A with NODATA: there TXT lists by itself.
    pub fn answer(&self, client: IpAddr, a: &Lookup<Ipv4Addr>, txt: &Lookup<Vec<u8>>) -> Answer {
        let codes = match a {
            Lookup::Records(codes) => codes,
            Lookup::NoName => return Answer::NotListed,
            Lookup::Failed => return Answer::Failed,
        };
        if let Some(&odd) = codes.first()
            && !codes.iter().any(is_listing)
        {
            return Answer::Odd(odd);
        }
        match (self.kind, &self.message) {
            (Kind::Rbl, None) => match txt {
                Lookup::Records(texts) => match texts.first() {
                    Some(text) if !text.is_empty() => Answer::Listed(text.clone()),
                    _ => Answer::NotListed,
                },
                Lookup::NoName => Answer::NotListed,
                Lookup::Failed => Answer::Failed,
            },
            _ if codes.is_empty() => Answer::NotListed,
            (Kind::Rbl, Some(message)) => {
                Answer::Listed(message.replace("%IP%", &client.to_canonical().to_string()).into_bytes())
            }
            (Kind::Antirbl, _) => Answer::Listed(Vec::new()),
        }
    }
}

/// RFC 5782 2.1: 127.0.0.0/8. Lists in use answer 127.255.255.0/24 to a resolver they refuse.
fn is_listing(code: &Ipv4Addr) -> bool {
    code.is_loopback() && !code.octets().starts_with(&[127, 255, 255])
}

fn domain(text: &str) -> Result<String, Error> {
    let base = text.strip_suffix('.').unwrap_or(text);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
    if base.len() <= MAX_BASE && base.split('.').all(is_label) {
        Ok(base.to_owned())
    } else {
        Err(Error::Base(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_name_is_shown_to_nobody() {
        for (text, shown) in [
            ("abcdefgh12345678ijklmnop90.zen.dq.spamhaus.net", "***p90.zen.dq.spamhaus.net"),
            (
                "-r abcdefgh12345678ijklmnop90.zen.dq.spamhaus.net -a ok.test",
                "-r ***p90.zen.dq.spamhaus.net -a ok.test",
            ),
            ("-rabcdefgh12345678ijklmnop90.zen.dq.spamhaus.net", "-r***p90.zen.dq.spamhaus.net"),
            ("zen.spamhaus.org", "zen.spamhaus.org"),
            ("averyveryverylongname.example", "averyveryverylongname.example"),
            ("abcdefgh12345678ijklmnop90", "abcdefgh12345678ijklmnop90"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn options() {
        for (text, base, message) in [
            ("zen.example", "zen.example", None),
            ("zen.example.", "zen.example", None),
            ("Key_1.zen.example", "Key_1.zen.example", None),
            ("a.example:no", "a.example", Some("no")),
            ("a.example:see http://a.example/?%IP%", "a.example", Some("see http://a.example/?%IP%")),
        ] {
            let expected =
                Source { kind: Kind::Rbl, base: base.to_owned(), message: message.map(str::to_owned) };
            assert_eq!(Source::rbl(text), Ok(expected), "{text}");
        }
        for text in ["", ".", "a..b", "a b", "a/b", "*.a", &"a".repeat(64), &"a.".repeat(120)] {
            assert_eq!(Source::rbl(text), Err(Error::Base(text.to_owned())), "{text}");
            assert_eq!(Source::antirbl(text), Err(Error::Base(text.to_owned())), "{text}");
        }
        for text in ["a.example:".to_owned(), format!("a.example:{}", "x".repeat(1001))] {
            assert_eq!(Source::rbl(&text), Err(Error::Message(text.clone())), "{text}");
        }
        assert_eq!(Source::antirbl("a:b"), Err(Error::Base("a:b".to_owned())));
    }

    #[test]
    fn questions() {
        let source = Source::rbl("l.example").unwrap();
        for (client, expected) in [
            ("192.0.2.99", "99.2.0.192.l.example"),
            ("::ffff:192.0.2.99", "99.2.0.192.l.example"),
            (
                "2001:db8:1:2:3:4:567:89ab",
                "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.l.example",
            ),
        ] {
            assert_eq!(source.query(client.parse().unwrap()), expected);
        }
        let long = Source::rbl(&"a.".repeat(94)).unwrap();
        assert!(long.query("2001:db8::1".parse().unwrap()).len() <= 253);
        assert_eq!(source.records(), [Record::A, Record::Txt]);
        assert_eq!(Source::rbl("l.example:m").unwrap().records(), [Record::A]);
        assert_eq!(Source::antirbl("l.example").unwrap().records(), [Record::A]);
    }

    fn codes(codes: &[&str]) -> Lookup<Ipv4Addr> {
        Lookup::Records(codes.iter().map(|code| code.parse().unwrap()).collect())
    }

    fn texts(texts: &[&str]) -> Lookup<Vec<u8>> {
        Lookup::Records(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
    }

    fn listed(text: &str) -> Answer {
        Answer::Listed(text.as_bytes().to_vec())
    }

    fn odd(ip: &str) -> Answer {
        Answer::Odd(ip.parse().unwrap())
    }

    #[test]
    fn answers_of_a_plain_list() {
        use Answer::{Failed, NotListed};
        let client = "192.0.2.9".parse().unwrap();
        let source = Source::rbl("l.example").unwrap();
        for (a, txt, expected) in [
            (codes(&["127.0.0.2"]), texts(&["go away", "again"]), listed("go away")),
            (codes(&["127.1.2.3"]), texts(&["x"]), listed("x")),
            (codes(&["10.0.0.1", "127.0.0.2"]), texts(&["x"]), listed("x")),
            (codes(&[]), texts(&["txt only"]), listed("txt only")),
            (codes(&[]), texts(&[]), NotListed),
            (codes(&["127.0.0.2"]), texts(&[]), NotListed),
            (codes(&["127.0.0.2"]), texts(&[""]), NotListed),
            (codes(&["127.0.0.2"]), Lookup::NoName, NotListed),
            (codes(&["127.0.0.2"]), Lookup::Failed, Failed),
            (codes(&["203.0.113.7"]), texts(&["x"]), odd("203.0.113.7")),
            (codes(&["127.255.255.254"]), texts(&["x"]), odd("127.255.255.254")),
            (codes(&["203.0.113.7"]), Lookup::Failed, odd("203.0.113.7")),
            (Lookup::NoName, texts(&["x"]), NotListed),
            (Lookup::NoName, Lookup::Failed, NotListed),
            (Lookup::Failed, texts(&["x"]), Failed),
        ] {
            assert_eq!(source.answer(client, &a, &txt), expected, "{a:?} {txt:?}");
        }
    }

    #[test]
    fn answers_of_lists_asked_for_addresses_only() {
        use Answer::{Failed, NotListed};
        let client = "::ffff:192.0.2.9".parse().unwrap();
        let message = Source::rbl("l.example:%IP% is bad: 100% %IP").unwrap();
        let antirbl = Source::antirbl("l.example").unwrap();
        for (a, rejected, accepted) in [
            (codes(&["127.0.0.2"]), listed("192.0.2.9 is bad: 100% %IP"), listed("")),
            (codes(&[]), NotListed, NotListed),
            (Lookup::NoName, NotListed, NotListed),
            (Lookup::Failed, Failed, Failed),
            (codes(&["203.0.113.7"]), odd("203.0.113.7"), odd("203.0.113.7")),
            (codes(&["127.255.255.252"]), odd("127.255.255.252"), odd("127.255.255.252")),
        ] {
            assert_eq!(message.answer(client, &a, &Lookup::NoName), rejected, "{a:?}");
            assert_eq!(antirbl.answer(client, &a, &Lookup::NoName), accepted, "{a:?}");
        }
    }
}
