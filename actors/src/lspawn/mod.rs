//! qmail-lspawn: a worker for each delivery on this host.
//!
//! Owns: nothing. Children: workers. Asked by: qmail-send, which bounds their number. Dies when: never on its own. After a
//! restart: what its workers were doing is reported as deferred.

mod deliver;
mod plan;

use std::path::PathBuf;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::cdb_files::CdbFiles;
use crate::qmail_send::Delivery;
use crate::queue::Queue;

/// What local deliveries need to know.
#[derive(Clone)]
pub struct Arguments {
    /// The queue.
    pub queue: Queue,
    /// `users/cdb`.
    pub users_cdb: PathBuf,
    /// Home of user alias.
    pub alias: PathBuf,
    /// What an empty `.qmail` file means, relative to the home directory.
    pub defaultdelivery: String,
    /// Name of this host, for file names.
    pub me: String,
}

/// The actor.
pub struct Lspawn;

/// Its state, shared with the workers.
#[derive(Clone)]
pub struct State {
    arguments: Arc<Arguments>,
    cdb_files: CdbFiles,
}

/// What it hears.
pub enum Message {
    /// Deliver this.
    Deliver(Delivery),
}

impl Actor for Lspawn {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State { arguments: Arc::new(arguments), cdb_files: CdbFiles::default() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Message::Deliver(delivery) = message;
        let arguments = (state.clone(), delivery);
        if let Err(error) = Actor::spawn_linked(None, deliver::Local, arguments, myself.get_cell()).await {
            tracing::error!("alert: unable to start a local delivery: {error}");
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
