//! The official SPF test suite (data/rfc7208-tests.yml): its scenarios as values, its zones as answers.
//!
//! The zones follow the conventions of the suite's own driver. Names compare without case. SPF records stand as TXT too,
//! unless the name has TXT of its own; `TXT: NONE` only says that there is none. `TIMEOUT` is the answer to every type
//! the name has no record of in the file. A name that is not in the zone does not exist.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mailtree_protocols::spf::{Answer, Question};
use serde::Deserialize;

const SUITE: &str = include_str!("../data/rfc7208-tests.yml");

/// Aliases that are followed from one name (RFC 1034 3.6.2).
const MAX_ALIASES: usize = 8;

/// A zone and the cases that are checked against it.
#[derive(Debug, Deserialize)]
pub struct Scenario {
    /// What it is about.
    pub description: String,
    /// The records of each name.
    #[serde(rename = "zonedata")]
    pub zone: BTreeMap<String, Vec<Record>>,
    /// The cases by name.
    pub tests: BTreeMap<String, Case>,
}

/// A record of a zone.
#[derive(Debug, Deserialize)]
pub enum Record {
    /// The obsolete type 99.
    #[serde(rename = "SPF")]
    Spf(Strings),
    /// Text.
    #[serde(rename = "TXT")]
    Txt(Strings),
    /// IPv4 address.
    A(Ipv4Addr),
    /// IPv6 address.
    #[serde(rename = "AAAA")]
    Aaaa(Ipv6Addr),
    /// Preference and name of a mail exchanger.
    #[serde(rename = "MX")]
    Mx(u16, String),
    /// Name of an address.
    #[serde(rename = "PTR")]
    Ptr(String),
    /// The name of which this one is an alias.
    #[serde(rename = "CNAME")]
    Cname(String),
    /// No answer.
    #[serde(rename = "TIMEOUT")]
    Timeout,
}

/// The strings of a text record; one stands for itself.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Strings {
    /// One.
    One(String),
    /// Any number.
    Many(Vec<String>),
}

/// A client, and what SPF must say of it.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// What it called itself.
    pub helo: String,
    /// Its address.
    pub host: IpAddr,
    /// The reverse-path.
    pub mailfrom: String,
    /// The result; of several any is right.
    pub result: Strings,
    /// The explanation; `DEFAULT` is the host's own.
    pub explanation: Option<String>,
}

/// All scenarios, in the order of the file.
pub fn scenarios() -> Vec<Scenario> {
    serde_saphyr::from_multiple(SUITE).unwrap()
}

impl Strings {
    /// Each string.
    pub fn each(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
        .iter()
        .map(String::as_str)
    }

    /// The strings joined; the file writes bytes as characters up to U+00FF.
    fn bytes(&self) -> Vec<u8> {
        self.each().flat_map(str::chars).map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
    }
}

impl Scenario {
    /// What DNS answers in this scenario.
    pub fn answer(&self, question: &Question) -> Answer {
        match question {
            Question::Txt(name) => self.look(name, Answer::Txt, |record| match record {
                Record::Txt(text) if text.each().eq(["NONE"]) => None,
                Record::Txt(text) => Some(text.bytes()),
                _ => None,
            }),
            Question::Addresses4(name) => self.look(name, Answer::Addresses, |record| match record {
                Record::A(ip) => Some((*ip).into()),
                _ => None,
            }),
            Question::Addresses6(name) => self.look(name, Answer::Addresses, |record| match record {
                Record::Aaaa(ip) => Some((*ip).into()),
                _ => None,
            }),
            Question::Mx(name) => self.look(name, Answer::Mx, |record| match record {
                Record::Mx(preference, host) => Some((*preference, plain(host))),
                _ => None,
            }),
            Question::Ptr(ip) => self.look(&reverse(*ip), Answer::Ptr, |record| match record {
                Record::Ptr(host) => Some(plain(host)),
                _ => None,
            }),
        }
    }

    fn look<T>(&self, name: &str, answer: fn(Vec<T>) -> Answer, of: impl Fn(&Record) -> Option<T>) -> Answer {
        let mut name = plain(name);
        for _ in 0..=MAX_ALIASES {
            let Some((_, records)) = self.zone.iter().find(|(key, _)| plain(key) == name) else {
                return Answer::NoName;
            };
            let alias = records.iter().find_map(|record| match record {
                Record::Cname(to) => Some(plain(to)),
                _ => None,
            });
            if let Some(alias) = alias {
                name = alias;
                continue;
            }
            let found: Vec<T> = records.iter().filter_map(&of).collect();
            if found.is_empty() && records.iter().any(|record| matches!(record, Record::Timeout)) {
                return Answer::Failed;
            }
            if records.iter().any(|record| matches!(record, Record::Txt(_))) {
                return answer(found);
            }
            let copies = records.iter().filter_map(|record| match record {
                Record::Spf(Strings::One(text)) => of(&Record::Txt(Strings::One(text.clone()))),
                Record::Spf(Strings::Many(texts)) => of(&Record::Txt(Strings::Many(texts.clone()))),
                _ => None,
            });
            return answer(found.into_iter().chain(copies).collect());
        }
        Answer::Failed
    }
}

/// Lower case, without the trailing dot.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles: Vec<String> =
                format!("{:032x}", ip.to_bits()).chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", nibbles.join("."))
        }
    }
}
