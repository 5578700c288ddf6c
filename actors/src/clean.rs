//! qmail-clean: removes what a finished message left, and what nobody finished.
//!
//! Owns: the right to unlink messages. Asks: the disk threads. Asked by: qmail-send. Dies when: never on its own. After a
//! restart: a message half removed is S2, which the sweep takes.

use std::time::Duration;

use futures_util::future::BoxFuture;
use mailtree_protocols::schedule::CLEANUP;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::permit::Permit;
use crate::queue::{Error, Queue};

/// The actor.
pub struct Clean;

/// How the end of a message is told.
pub type Ended = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What it hears.
pub enum Message {
    /// A message is settled: remove its files.
    Foop {
        /// What removes them.
        removing: BoxFuture<'static, Result<(), Error>>,
        /// Keeps a new qmail-send from starting while this is under way.
        running: Permit,
        /// Told when it is gone.
        ended: Ended,
    },
    /// Time to look for forgotten files.
    Sweep,
}

impl Actor for Clean {
    type Msg = Message;
    type State = Queue;
    type Arguments = Queue;

    async fn pre_start(&self, myself: ActorRef<Message>, queue: Queue) -> Result<Queue, ActorProcessingErr> {
        myself.send_interval(Duration::from_secs(CLEANUP), || Message::Sweep);
        Ok(queue)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        queue: &mut Queue,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Foop { removing, running, ended } => {
                tokio::spawn(async move {
                    let result = removing.await;
                    drop(running);
                    ended(result);
                });
            }
            Message::Sweep => {
                let queue = queue.clone();
                drop(tokio::task::spawn_blocking(move || match queue.sweep() {
                    Ok(0) => (),
                    Ok(removed) => tracing::info!("qmail-clean: removed {removed} forgotten files"),
                    Err(error) => tracing::warn!("warning: qmail-clean unable to sweep: {error}"),
                }));
            }
        }
        Ok(())
    }
}
