//! qmail-lspawn and qmail-rspawn: a task for each delivery, over two kinds of it.
//!
//! Owns: the tasks. Asked by: qmail-send, which bounds their number. Dies when: never on its own. After a restart: what its
//! tasks were doing is reported as deferred.

use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;

use crate::delivery::Delivery;

/// A kind of delivery.
pub trait Kind: Send + Sync + Sized + 'static {
    /// What it needs to know.
    type Arguments: Send + Sync + 'static;

    /// Ready to deliver.
    fn start(arguments: Self::Arguments) -> BoxFuture<'static, Self>;

    /// Delivers, and reports.
    fn deliver(self: Arc<Self>, delivery: Delivery) -> BoxFuture<'static, ()>;
}

/// The actor.
pub struct Spawn<K>(PhantomData<fn() -> K>);

impl<K> Default for Spawn<K> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// Its state.
pub struct State<K> {
    kind: Arc<K>,
    /// They end with the actor; what they were delivering is reported as crashed.
    tasks: JoinSet<()>,
}

/// What it hears.
pub enum Message {
    /// Deliver this.
    Deliver(Delivery),
}

impl<K: Kind> Actor for Spawn<K> {
    type Msg = Message;
    type State = State<K>;
    type Arguments = K::Arguments;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        arguments: K::Arguments,
    ) -> Result<State<K>, ActorProcessingErr> {
        Ok(State { kind: Arc::new(K::start(arguments).await), tasks: JoinSet::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State<K>,
    ) -> Result<(), ActorProcessingErr> {
        let Message::Deliver(delivery) = message;
        while let Some(ended) = state.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!("alert: a delivery died: {error}");
            }
        }
        state.tasks.spawn(Arc::clone(&state.kind).deliver(delivery));
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State<K>) -> Result<(), ActorProcessingErr> {
        // Not with the state, which may wait in the parent's mailbox.
        state.tasks.abort_all();
        Ok(())
    }
}
