//! The address of a service that survives its restarts.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ractor::rpc::CallResult;
use ractor::{ActorRef, Message, RpcReplyPort};

/// Where a service can be reached now; filled at each of its starts.
pub struct Wire<M: Message>(Arc<ArcSwapOption<ActorRef<M>>>);

impl<M: Message> Clone for Wire<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Message> Default for Wire<M> {
    fn default() -> Self {
        Self(Arc::new(ArcSwapOption::empty()))
    }
}

/// Why a call over a wire has no answer. The call may have been carried out all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The service is down.
    #[error("service is down")]
    Down,
    /// It died, or dropped the question, before it answered.
    #[error("service dropped the request")]
    Dropped,
    /// It did not answer in time.
    #[error("service did not answer in time")]
    Late,
}

impl<M: Message> Wire<M> {
    /// From now on the service is `actor`.
    pub fn connect(&self, actor: ActorRef<M>) {
        self.0.store(Some(Arc::new(actor)));
    }

    /// The actor behind the wire, if one was ever connected.
    pub fn actor(&self) -> Option<ActorRef<M>> {
        self.0.load_full().map(|actor| ActorRef::clone(&actor))
    }

    /// Sends without waiting. `false`: the service is down and the message is gone.
    pub fn cast(&self, message: M) -> bool {
        self.0.load().as_ref().is_some_and(|actor| actor.cast(message).is_ok())
    }

    /// Asks and waits for the answer, at most `timeout`.
    pub async fn call<R: Send + 'static>(
        &self,
        ask: impl FnOnce(RpcReplyPort<R>) -> M,
        timeout: Duration,
    ) -> Result<R, Unanswered> {
        let actor = self.actor().ok_or(Unanswered::Down)?;
        match actor.call(ask, Some(timeout)).await {
            Err(_) => Err(Unanswered::Down),
            Ok(CallResult::Success(answer)) => Ok(answer),
            Ok(CallResult::SenderError) => Err(Unanswered::Dropped),
            Ok(CallResult::Timeout) => Err(Unanswered::Late),
        }
    }
}
