//! What the tree knows of a service: how it starts, what it hears, why it could not start.

use std::net::SocketAddr;
use std::sync::Arc;

use ractor::{ActorCell, SpawnErr};

/// What `svc` asks of a running service beyond living and dying; a service ignores what it has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// `svc -h`: read configuration again.
    Hup,
    /// `svc -a`: do now what waits for its time (send: run the queue).
    Alarm,
    /// `svc -p`: stop accepting or starting work.
    Pause,
    /// `svc -c`: go on after `Pause`.
    Continue,
}

/// A service that has started.
#[derive(Clone)]
pub struct Started {
    /// The service's root actor, already linked to its `supervise`.
    pub cell: ActorCell,
    /// Delivers a [`Control`] to it; never blocks, and is harmless after its death.
    pub control: Arc<dyn Fn(Control) + Send + Sync>,
    /// The addresses it listens on, for `svstat`.
    pub listen: Vec<SocketAddr>,
    /// It begins as if it had been told [`Control::Pause`].
    pub held: bool,
}

impl Started {
    /// A started actor whose messages can carry a [`Control`].
    pub fn new<M: ractor::Message + From<Control>>(actor: ractor::ActorRef<M>) -> Self {
        let cell = actor.get_cell();
        Self {
            cell,
            control: Arc::new(move |control| drop(actor.cast(control.into()))),
            listen: Vec::new(),
            held: false,
        }
    }

    /// A started actor that has no use for controls.
    pub fn deaf(cell: ActorCell) -> Self {
        Self { cell, control: Arc::new(|_| ()), listen: Vec::new(), held: false }
    }

    /// As one that begins paused, or not.
    pub fn held(mut self, held: bool) -> Self {
        self.held = held;
        self
    }

    /// With the addresses it listens on.
    pub fn listening(mut self, listen: Vec<SocketAddr>) -> Self {
        self.listen = listen;
        self
    }
}

/// Why a service did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Trying again without a change of configuration is useless (daemontools-encore: exit 100).
    #[error("{0}")]
    Permanent(String),
    /// May pass: port in use, disk full.
    #[error("{0}")]
    Temporary(String),
}

impl From<SpawnErr> for StartError {
    fn from(error: SpawnErr) -> Self {
        let SpawnErr::StartupFailed(cause) = error else { return Self::Temporary(error.to_string()) };
        match cause.downcast::<Self>() {
            Ok(cause) => *cause,
            Err(cause) => Self::Temporary(cause.to_string()),
        }
    }
}
