//! qmail-rspawn: a worker for each transaction with another host, and the table of hosts that do not answer.
//!
//! Owns: tcpto. Children: workers. Asks: resolver. Asked by: qmail-send, which bounds the number of workers. Dies when:
//! never on its own. After a restart: what its workers were doing is reported as deferred; tcpto is read again.

mod deliver;
mod exchangers;
mod ipme;
mod mess;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mailtree_config::control::Control as Controls;
use mailtree_protocols::tcpto::Tcpto;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::clock::unix_now;
use crate::qmail_send::Delivery;
use crate::queue::Queue;
use crate::resolver::Resolver;

/// What remote deliveries need to know.
#[derive(Clone)]
pub struct Arguments {
    /// The queue.
    pub queue: Queue,
    /// The control files, read for each delivery.
    pub controls: Arc<Controls>,
    /// DNS.
    pub resolver: Resolver,
    /// `queue/lock/tcpto`.
    pub tcpto: PathBuf,
    /// The port of mail exchangers: 25 but for tests and odd networks.
    pub port: u16,
    /// The address that connections come from.
    pub outgoing_ip: Option<IpAddr>,
}

/// The actor.
pub struct Rspawn;

/// Its state, shared with the workers.
#[derive(Clone)]
pub struct State {
    arguments: Arc<Arguments>,
    tcpto: Arc<Mutex<Tcpto>>,
}

/// What it hears.
pub enum Message {
    /// Deliver this.
    Deliver(Delivery),
}

impl Actor for Rspawn {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        // A table that cannot be read is an empty one: it only saves time.
        let tcpto =
            tokio::fs::read(&arguments.tcpto).await.map(|bytes| Tcpto::parse(&bytes)).unwrap_or_default();
        Ok(State { arguments: Arc::new(arguments), tcpto: Arc::new(Mutex::new(tcpto)) })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Message::Deliver(delivery) = message;
        let arguments = (state.clone(), delivery);
        if let Err(error) = Actor::spawn_linked(None, deliver::Remote, arguments, myself.get_cell()).await {
            tracing::error!("alert: unable to start a remote delivery: {error}");
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Message>,
        _: SupervisionEvent,
        _: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // A worker's end is told by its report.
        Ok(())
    }
}

impl State {
    fn is_down(&self, ip: IpAddr, spread: u64) -> bool {
        self.tcpto.lock().unwrap_or_else(PoisonError::into_inner).is_down(ip, unix_now(), spread)
    }

    /// Connecting to `ip` timed out, or worked; the file follows when that is news.
    async fn note(&self, ip: IpAddr, timed_out: bool) {
        let bytes = {
            let mut tcpto = self.tcpto.lock().unwrap_or_else(PoisonError::into_inner);
            let before = tcpto.clone();
            tcpto.note(ip, timed_out, unix_now());
            (*tcpto != before).then(|| tcpto.to_bytes())
        };
        if let Some(bytes) = bytes
            && let Err(error) = tokio::fs::write(&self.arguments.tcpto, bytes).await
        {
            tracing::warn!("warning: unable to write {}: {error}", self.arguments.tcpto.display());
        }
    }
}
