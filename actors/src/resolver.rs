//! DNS: every question of the host goes through here, bounded in number and time.
//!
//! Owns: hickory's resolvers and a cache that is bounded in bytes. Asks: name servers. Asked by: rspawn's deliveries. Dies when: never on its
//! own. After a restart: the cache is empty; questions that were under way are answered with a temporary failure.

mod cache;
mod lookup;
mod servers;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinSet;

use crate::answer::answer;
use crate::permit::{Permit, Permits};
use crate::service::{Control, StartError};
use crate::wire::Wire;
use cache::Cache;
use servers::Servers;

/// The resolver as other actors reach it.
#[derive(Clone)]
pub struct Resolver {
    wire: Wire<Message>,
    in_flight: Permits,
    deadline: Duration,
    /// Questions that may still be asked, where they are counted.
    left: Option<Arc<AtomicUsize>>,
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
        Self { wire: Wire::default(), in_flight: Permits::new("resolver", in_flight), deadline, left: None }
    }

    /// The same for somebody who may ask `questions` in all; beyond that each fails for now.
    #[must_use]
    pub fn counted(&self, questions: usize) -> Self {
        Self { left: Some(Arc::new(AtomicUsize::new(questions))), ..self.clone() }
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
        let spend = |left: usize| left.checked_sub(1);
        if let Some(left) = &self.left
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_err()
        {
            return Err(Failure::Temporary("too many questions for one client".into()));
        }
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
    /// Name servers; none: those of the system, and 127.0.0.1 where it names none.
    pub servers: Vec<SocketAddr>,
    /// Bytes of answers that are kept until they expire.
    pub cache: u64,
}

/// Its state.
pub struct State {
    arguments: Arguments,
    servers: Servers,
    cache: Cache,
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
        let servers = Servers::new(&arguments.servers, arguments.resolver.deadline)
            .map_err(|error| StartError::Temporary(format!("resolver: {error}")))?;
        let cache = Cache::new(arguments.cache);
        arguments.resolver.wire.connect(myself);
        Ok(State { arguments, servers, cache, running: JoinSet::new() })
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
                let source = lookup::Source { servers: state.servers.clone(), cache: state.cache.clone() };
                let deadline = state.arguments.resolver.deadline;
                state.running.spawn(async move {
                    let asked = tokio::time::timeout(deadline, source.answer(&question)).await;
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
            // resolv.conf may have changed; a bad one keeps the old servers.
            Message::Control(Control::Hup) => {
                let Arguments { servers, resolver, .. } = &state.arguments;
                match Servers::new(servers, resolver.deadline) {
                    Ok(servers) => state.servers = servers,
                    Err(error) => tracing::error!("alert: unable to reread resolver configuration: {error}"),
                }
            }
            Message::Control(Control::Alarm) => state.cache.clear(),
            Message::Control(Control::Pause | Control::Continue) => (),
        }
        Ok(())
    }
}
