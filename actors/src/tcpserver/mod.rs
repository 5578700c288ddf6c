//! tcpserver: listens, and has a session for each connection, within the limits.
//!
//! Owns: the permits of its service. Children: the acceptor and the sessions. Dies when: a port
//! cannot be bound. After a restart: sessions of the old one are gone, clients waiting in the backlog are served.

mod acceptor;
mod connection;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mailtree_config::network::Network;
use mailtree_protocols::tcpserver as line;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::watch;

use crate::listen::Sockets;
use crate::permit::{AddressPermit, PerAddress, Permits};
use crate::service::{Control, StartError};
use acceptor::Acceptor;
pub use connection::{Connection, End};
pub use stream::Stream;

/// Starts a session for a connection, as a child of the cell.
pub type StartSession =
    Arc<dyn Fn(Connection, ActorCell) -> BoxFuture<'static, Result<(), SpawnErr>> + Send + Sync>;

/// The service.
pub struct Tcpserver;

/// What it needs.
#[derive(Clone)]
pub struct Arguments {
    /// Name of the service.
    pub service: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Sessions at once.
    pub concurrency: usize,
    /// Sessions at once from one address.
    pub per_ip: u32,
    /// Who is not bound by that.
    pub unlimited: Vec<Network>,
    /// Who says for whom it connects.
    pub proxies: Vec<Network>,
    /// The host's listening sockets.
    pub sockets: Sockets,
    /// What is done with a connection.
    pub start: StartSession,
    /// What is done at HUP.
    pub reload: Arc<dyn Fn() + Send + Sync>,
    /// Time that sessions have to say goodbye when the service stops.
    pub goodbye: Duration,
}

impl Arguments {
    fn is_unlimited(&self, ip: IpAddr) -> bool {
        self.unlimited.iter().any(|network| network.contains(ip))
    }

    fn is_proxy(&self, ip: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(ip))
    }
}

/// What all acceptors of a service share.
pub(crate) struct Shared {
    arguments: Arguments,
    permits: Permits,
    per_address: PerAddress,
    stopping: watch::Receiver<bool>,
}

impl Shared {
    /// A permit for one more connection of the client at `ip`; none when the limit is reached.
    fn admit(&self, ip: IpAddr) -> Option<AddressPermit> {
        let Self { arguments, per_address, .. } = self;
        let (service, ip) = (&arguments.service, ip.to_canonical());
        let limit = if arguments.is_unlimited(ip) { u32::MAX } else { arguments.per_ip };
        let permit = per_address.try_acquire(ip, limit);
        let verdict = if permit.is_some() { "ok" } else { "per-ip" };
        count(service, verdict);
        if permit.is_none() {
            tracing::warn!(service, %ip, "{}", line::dropping(&format!("too many from {ip}")));
        }
        permit
    }
}

/// Counts a connection by what was decided of it.
pub(crate) fn count(service: &str, verdict: &'static str) {
    let service = service.to_owned();
    metrics::counter!("mailtree_smtpd_connections_total", "service" => service, "verdict" => verdict)
        .increment(1);
}

/// Its state.
pub struct State {
    shared: Arc<Shared>,
    stopping: watch::Sender<bool>,
    acceptor: Option<ActorCell>,
    paused: bool,
}

/// What it hears.
pub enum Message {
    /// An acceptor that died is to be replaced.
    Accept,
    /// From `svc`.
    Control(Control),
}

impl From<Control> for Message {
    fn from(control: Control) -> Self {
        Self::Control(control)
    }
}

impl Actor for Tcpserver {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        for address in &arguments.listen {
            // Bound here so that a port in use is a failed start.
            drop(arguments.sockets.listen(&arguments.service, *address)?);
        }
        for verdict in ["ok", "per-ip", "deny", "rblsmtpd"] {
            let service = arguments.service.clone();
            metrics::counter!("mailtree_smtpd_connections_total", "service" => service, "verdict" => verdict)
                .increment(0);
        }
        let (stopping, stop) = watch::channel(false);
        let shared = Shared {
            permits: Permits::new(&arguments.service, arguments.concurrency),
            per_address: PerAddress::default(),
            stopping: stop,
            arguments,
        };
        let service = &shared.arguments.service;
        tracing::info!(service, "{}", line::status(0, shared.arguments.concurrency));
        myself.cast(Message::Accept)?;
        Ok(State { shared: Arc::new(shared), stopping, acceptor: None, paused: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Accept if !state.paused => state.accept(&myself).await?,
            Message::Control(Control::Pause) => {
                state.paused = true;
                state.stop_accepting();
            }
            Message::Control(Control::Continue) => {
                state.paused = false;
                state.accept(&myself).await?;
            }
            Message::Control(Control::Hup) => (state.shared.arguments.reload)(),
            Message::Accept | Message::Control(Control::Alarm) => (),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let ended = match &event {
            SupervisionEvent::ActorTerminated(cell, ..) => cell,
            SupervisionEvent::ActorFailed(cell, cause) => {
                tracing::error!(service = state.shared.arguments.service, "alert: session died: {cause}");
                cell
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        if state.acceptor.as_ref().is_some_and(|acceptor| acceptor.get_id() == ended.get_id()) {
            state.acceptor = None;
            myself.cast(Message::Accept)?;
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Message>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.shared.arguments.sockets.close(&state.shared.arguments.service);
        state.stop_accepting();
        // Sessions say 421 at their next turn; those that do not are killed with us.
        state.stopping.send_replace(true);
        let cell = myself.get_cell();
        let all_gone = async {
            for session in cell.get_children() {
                drop(session.wait(None).await);
            }
        };
        drop(tokio::time::timeout(state.shared.arguments.goodbye, all_gone).await);
        Ok(())
    }
}

impl State {
    /// Starts an acceptor, unless there is one.
    async fn accept(&mut self, myself: &ActorRef<Message>) -> Result<(), ActorProcessingErr> {
        if self.acceptor.is_some() {
            return Ok(());
        }
        let Arguments { listen, service, sockets, .. } = &self.shared.arguments;
        let listeners: Result<Vec<_>, StartError> =
            listen.iter().map(|address| sockets.listen(service, *address)).collect();
        let arguments = acceptor::Arguments {
            listeners: listeners?,
            shared: Arc::clone(&self.shared),
            tcpserver: myself.get_cell(),
        };
        let (acceptor, _) = Actor::spawn_linked(None, Acceptor, arguments, myself.get_cell()).await?;
        self.acceptor = Some(acceptor.get_cell());
        Ok(())
    }

    fn stop_accepting(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.kill();
        }
    }
}
