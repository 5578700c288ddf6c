//! Questions to name servers, and what their answers mean.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::cache::{Cache, Known};
use super::servers::Servers;
use super::{Answer, Failure, Mx, Question};

/// Records of one answer that are looked at.
const MAX_RECORDS: usize = 100;

/// How often a question is asked that no server answers in time.
const TRIES: usize = 3;

/// Where answers come from.
pub(super) struct Source {
    pub(super) servers: Servers,
    pub(super) cache: Cache,
}

impl Source {
    /// The answer to a question.
    pub(super) async fn answer(&self, question: &Question) -> Result<Answer, Failure> {
        match question {
            Question::A(name) => self.addresses(name, RecordType::A).await,
            Question::Aaaa(name) => self.addresses(name, RecordType::AAAA).await,
            Question::Txt(name) => {
                let texts =
                    self.records(name, RecordType::TXT).await?.into_iter().filter_map(|data| match data {
                        RData::TXT(txt) => Some(txt.txt_data.concat()),
                        _ => None,
                    });
                Ok(Answer::Txt(texts.collect()))
            }
            Question::Ptr(ip) => {
                let name = Name::from(*ip).to_ascii();
                let names =
                    self.records(&name, RecordType::PTR).await?.into_iter().filter_map(|data| match data {
                        RData::PTR(ptr) => Some(text(&ptr.0)),
                        _ => None,
                    });
                Ok(Answer::Ptr(names.collect()))
            }
            Question::Mx(domain) => {
                let records = self.records(domain, RecordType::MX).await?;
                Ok(Answer::Mx(
                    records
                        .into_iter()
                        .filter_map(|data| match data {
                            RData::MX(mx) => Some(Mx { preference: mx.preference, host: text(&mx.exchange) }),
                            _ => None,
                        })
                        .collect(),
                ))
            }
            Question::Addresses(host) => {
                let (v4, v6) =
                    tokio::join!(self.records(host, RecordType::A), self.records(host, RecordType::AAAA));
                // Half an answer is good enough to deliver to; no answer is not "no address" while one half failed.
                let mut found = Vec::new();
                let mut failure = None;
                for half in [v4, v6] {
                    match half {
                        Ok(records) => found.extend(records),
                        Err(Failure::NoName) if failure.is_none() => failure = Some(Failure::NoName),
                        Err(Failure::NoName) => (),
                        Err(temporary) => failure = Some(temporary),
                    }
                }
                let addresses: Vec<IpAddr> = found.iter().filter_map(RData::ip_addr).collect();
                match failure {
                    Some(failure) if addresses.is_empty() => Err(failure),
                    _ => Ok(Answer::Addresses(addresses)),
                }
            }
        }
    }

    async fn addresses(&self, name: &str, kind: RecordType) -> Result<Answer, Failure> {
        let found = self.records(name, kind).await?;
        Ok(Answer::Addresses(found.iter().filter_map(RData::ip_addr).collect()))
    }

    /// The records of a name; none if it exists without such records.
    async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, Failure> {
        let key = (name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(), kind);
        let known = match self.cache.get(&key) {
            Some(known) => known,
            None => {
                let (known, lifetime) = self.ask(&key.0, kind).await?;
                self.cache.keep(key, known.clone(), lifetime);
                known
            }
        };
        match known {
            Known::Records(records) => Ok(records.to_vec()),
            Known::NoName => Err(Failure::NoName),
        }
    }

    /// Asks until there is an answer: whoever waits has a deadline. Each time it is a question of its own, with another id.
    async fn ask(&self, name: &str, kind: RecordType) -> Result<(Known, Duration), Failure> {
        // Any bytes may stand in a label (RFC 2181 11); the text form of hickory takes letters, digits, `-` and `_` alone.
        // What is beyond ASCII is asked for by its A-labels (RFC 5890).
        let parsed = if name.is_ascii() {
            Name::from_labels(name.split('.').map(str::as_bytes))
        } else {
            Name::from_utf8(name)
        };
        let Ok(mut name) = parsed else { return Err(Failure::NoName) };
        name.set_fqdn(true);
        let mut servers = &self.servers.edns;
        let mut tries = 0;
        loop {
            tries += 1;
            let trouble = match answered(servers.lookup(name.clone(), kind).await, kind) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            match trouble {
                // Servers from before EDNS (RFC 6891 7).
                Trouble::Code(ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS)
                    if std::ptr::eq(servers, &self.servers.edns) =>
                {
                    servers = &self.servers.plain;
                }
                Trouble::Silence if tries < TRIES => (),
                Trouble::Code(code) => return Err(Failure::Temporary(code.to_string())),
                Trouble::Silence => return Err(Failure::Temporary("no answer".into())),
                Trouble::Other(cause) if tries < 2 => {
                    tracing::debug!(cause, "resolver: asked again");
                }
                Trouble::Other(cause) => return Err(Failure::Temporary(cause)),
            }
        }
    }
}

/// Why there is no answer.
enum Trouble {
    /// The server said so.
    Code(ResponseCode),
    /// It did not answer in time.
    Silence,
    Other(String),
}

/// What a server has said, and how long it holds.
fn answered(result: Result<Lookup, NetError>, kind: RecordType) -> Result<(Known, Duration), Trouble> {
    match result {
        Ok(found) => {
            let matching = found.answers().iter().filter(|record| record.record_type() == kind);
            let records: Vec<_> = matching.take(MAX_RECORDS).map(|record| record.data.clone()).collect();
            let lifetime = found.valid_until().saturating_duration_since(Instant::now());
            Ok((Known::Records(records.into()), lifetime))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            let lifetime = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
            match none.response_code {
                ResponseCode::NXDomain => Ok((Known::NoName, lifetime)),
                ResponseCode::NoError => Ok((Known::Records([].into()), lifetime)),
                code => Err(Trouble::Code(code)),
            }
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(Trouble::Code(code)),
        Err(NetError::Timeout) => Err(Trouble::Silence),
        Err(error) => Err(Trouble::Other(error.to_string())),
    }
}

/// A name in lower case without the trailing dot, as it is asked for; what no question can hold is escaped.
fn text(name: &Name) -> String {
    let plain = |label: &[u8]| label.iter().all(|&b| b.is_ascii_graphic() && !b".\\".contains(&b));
    let text = if name.iter().all(plain) {
        name.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(".")
    } else {
        name.to_ascii().trim_end_matches('.').to_owned()
    };
    text.to_ascii_lowercase()
}
