//! DNS: every question of the host goes through here, bounded in number and time.
//!
//! Owns: the hickory resolver and its cache. Asks: name servers. Asked by: rspawn's deliveries. Dies when: never on its
//! own. After a restart: the cache is empty; questions that were under way are answered with a temporary failure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinSet;

use crate::answer::answer;
use crate::permit::{Permit, Permits};
use crate::service::{Control, StartError};
use crate::wire::Wire;

/// Records of one answer that are looked at.
const MAX_RECORDS: usize = 100;

/// Answers kept until they expire.
const CACHE: u64 = 16 * 1024;

/// The resolver as other actors reach it.
#[derive(Clone)]
pub struct Resolver {
    wire: Wire<Message>,
    in_flight: Permits,
    deadline: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The name does not exist (NXDOMAIN), or is no name.
    #[error("no such name")]
    NoName,
    /// Nobody can say now.
    #[error("{0}")]
    Temporary(String),
}

impl Failure {
    fn other_question() -> Self {
        Self::Temporary("answer to another question".into())
    }
}

/// A mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mx {
    /// The lower, the better.
    pub preference: u16,
    /// Its name, without the trailing dot; empty for a null MX (RFC 7505).
    pub host: String,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The mail exchangers of a domain.
    Mx(String),
    /// The addresses of a host, IPv4 and IPv6.
    Addresses(String),
    /// The IPv4 addresses of a name.
    A(String),
    /// The IPv6 addresses of a name.
    Aaaa(String),
    /// The texts of a name.
    Txt(String),
    /// The names of an address.
    Ptr(IpAddr),
}

/// The answer to a [`Question`]; an existing name without such records has an empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Mx`].
    Mx(Vec<Mx>),
    /// To [`Question::Addresses`], [`Question::A`], [`Question::Aaaa`].
    Addresses(Vec<IpAddr>),
    /// To [`Question::Txt`]: the strings of a record are joined.
    Txt(Vec<Vec<u8>>),
    /// To [`Question::Ptr`]: names without the trailing dot.
    Ptr(Vec<String>),
}

impl Resolver {
    /// A way to the resolver with `in_flight` questions at once and `deadline` for each.
    #[must_use]
    pub fn new(in_flight: usize, deadline: Duration) -> Self {
        Self { wire: Wire::default(), in_flight: Permits::new("resolver", in_flight), deadline }
    }

    /// The mail exchangers of `domain`, in no order.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn mx(&self, domain: &str) -> Result<Vec<Mx>, Failure> {
        match self.ask(Question::Mx(domain.to_owned())).await? {
            Answer::Mx(mx) => Ok(mx),
            _ => Err(Failure::other_question()),
        }
    }

    /// The addresses of `host`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        match self.ask(Question::Addresses(host.to_owned())).await? {
            Answer::Addresses(addresses) => Ok(addresses),
            _ => Err(Failure::other_question()),
        }
    }

    /// The names of an address.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn names(&self, ip: IpAddr) -> Result<Vec<String>, Failure> {
        match self.ask(Question::Ptr(ip)).await? {
            Answer::Ptr(names) => Ok(names),
            _ => Err(Failure::other_question()),
        }
    }

    /// The answer to a question.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn ask(&self, question: Question) -> Result<Answer, Failure> {
        let asked = async {
            let permit = self.in_flight.acquire().await;
            self.wire.call(|reply| Message::Ask { question, permit, reply }, self.deadline).await
        };
        match tokio::time::timeout(self.deadline, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(unanswered)) => Err(Failure::Temporary(unanswered.to_string())),
            Err(_) => Err(Failure::Temporary("no answer in time".into())),
        }
    }
}

/// The service.
pub struct Dns;

/// What it needs.
pub struct Arguments {
    /// Where it will be reached.
    pub resolver: Resolver,
    /// Name servers; none: those of the system.
    pub servers: Vec<SocketAddr>,
}

/// Its state.
pub struct State {
    arguments: Arguments,
    dns: TokioResolver,
    running: JoinSet<()>,
}

/// What it hears.
pub enum Message {
    /// A question.
    Ask {
        /// What is asked.
        question: Question,
        /// The right to ask.
        permit: Permit,
        /// The answer.
        reply: RpcReplyPort<Result<Answer, Failure>>,
    },
    /// From `svc`.
    Control(Control),
}

impl From<Control> for Message {
    fn from(control: Control) -> Self {
        Self::Control(control)
    }
}

impl Actor for Dns {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let dns = build(&arguments).map_err(|error| StartError::Temporary(format!("resolver: {error}")))?;
        arguments.resolver.wire.connect(myself);
        Ok(State { arguments, dns, running: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Ask { question, permit, reply } => {
                while state.running.try_join_next().is_some() {}
                let dns = state.dns.clone();
                let deadline = state.arguments.resolver.deadline;
                state.running.spawn(async move {
                    let asked = tokio::time::timeout(deadline, lookup(&dns, &question)).await;
                    let result =
                        asked.unwrap_or_else(|_| Err(Failure::Temporary("no answer in time".into())));
                    let outcome = match &result {
                        Ok(_) => "found",
                        Err(Failure::NoName) => "no-name",
                        Err(Failure::Temporary(_)) => "failed",
                    };
                    metrics::counter!("mailtree_resolver_lookups_total", "result" => outcome).increment(1);
                    drop(permit);
                    answer(reply, result);
                });
            }
            // resolv.conf may have changed; a bad one keeps the old resolver.
            Message::Control(Control::Hup) => match build(&state.arguments) {
                Ok(dns) => state.dns = dns,
                Err(error) => tracing::error!("alert: unable to reread resolver configuration: {error}"),
            },
            Message::Control(Control::Alarm) => state.dns.clear_cache(),
            Message::Control(Control::Pause | Control::Continue) => (),
        }
        Ok(())
    }
}

fn build(arguments: &Arguments) -> Result<TokioResolver, NetError> {
    let mut builder = if arguments.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = arguments.servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = (arguments.resolver.deadline / 4).max(Duration::from_millis(500));
    options.attempts = 2;
    options.ndots = 0;
    options.cache_size = CACHE;
    builder.build()
}

async fn lookup(dns: &TokioResolver, question: &Question) -> Result<Answer, Failure> {
    match question {
        Question::A(name) => addresses(dns, name, RecordType::A).await,
        Question::Aaaa(name) => addresses(dns, name, RecordType::AAAA).await,
        Question::Txt(name) => {
            let texts =
                records(dns, name, RecordType::TXT).await?.into_iter().filter_map(|data| match data {
                    RData::TXT(txt) => Some(txt.txt_data.concat()),
                    _ => None,
                });
            Ok(Answer::Txt(texts.collect()))
        }
        Question::Ptr(ip) => {
            let name = Name::from(*ip).to_ascii();
            let names =
                records(dns, &name, RecordType::PTR).await?.into_iter().filter_map(|data| match data {
                    RData::PTR(ptr) => Some(text(&ptr.0)),
                    _ => None,
                });
            Ok(Answer::Ptr(names.collect()))
        }
        Question::Mx(domain) => {
            let records = records(dns, domain, RecordType::MX).await?;
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
                tokio::join!(records(dns, host, RecordType::A), records(dns, host, RecordType::AAAA));
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

async fn addresses(dns: &TokioResolver, name: &str, kind: RecordType) -> Result<Answer, Failure> {
    let found = records(dns, name, kind).await?;
    Ok(Answer::Addresses(found.iter().filter_map(RData::ip_addr).collect()))
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

/// The records of a name; none if it exists without such records.
async fn records(dns: &TokioResolver, name: &str, kind: RecordType) -> Result<Vec<RData>, Failure> {
    // Any bytes may stand in a label (RFC 2181 11); the text form of hickory takes letters, digits, `-` and `_` alone.
    // What is beyond ASCII is asked for by its A-labels (RFC 5890).
    let parsed = if name.is_ascii() {
        Name::from_labels(name.strip_suffix('.').unwrap_or(name).split('.').map(str::as_bytes))
    } else {
        Name::from_utf8(name)
    };
    let Ok(mut name) = parsed else { return Err(Failure::NoName) };
    name.set_fqdn(true);
    match dns.lookup(name, kind).await {
        Ok(found) => {
            let matching = found.answers().iter().filter(|record| record.record_type() == kind);
            Ok(matching.take(MAX_RECORDS).map(|record| record.data.clone()).collect())
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Err(Failure::NoName),
            ResponseCode::NoError => Ok(Vec::new()),
            code => Err(Failure::Temporary(code.to_string())),
        },
        Err(error) => Err(Failure::Temporary(error.to_string())),
    }
}
