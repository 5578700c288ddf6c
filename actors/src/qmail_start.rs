//! qmail-start: qmail-send, lspawn, rspawn and clean as one service; they live and die together.
//!
//! Owns: the listener at `queue/lock/trigger`. Children: the four. Dies when: one of them does. After a restart: all four are new; the new qmail-send
//! starts only when nothing that the old ones began is under way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mailtree_config::control::Control as Controls;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::JoinSet;

use crate::clean::{self, Clean};
use crate::lspawn::{self, Lspawn};
use crate::permit::Permits;
use crate::qmail_send::{self, QmailSend};
use crate::queue::{self, Queue};
use crate::rspawn::{self, Rspawn};
use crate::service::{Control, StartError};
use crate::spawn;
use crate::wire::{Unanswered, Wire};

/// More than could ever be under way; a start takes them all once.
const RUNNING: u32 = 1 << 24;

/// After a fault of `lock/trigger`.
const TRIGGER_AGAIN: Duration = Duration::from_secs(60);

/// How long a start waits for what an earlier incarnation began.
const OLD_ONES: Duration = Duration::from_secs(8);

/// Everything under way that touches the queue, over all incarnations of the service.
#[derive(Clone)]
pub struct Running(Permits);

impl Default for Running {
    fn default() -> Self {
        Self(Permits::new("send", RUNNING as usize))
    }
}

/// What the service needs.
#[derive(Clone)]
pub struct Arguments {
    /// The queue.
    pub queue: Queue,
    /// The control files.
    pub controls: Arc<Controls>,
    /// What is under way.
    pub running: Running,
    /// Where qmail-send will be reached.
    pub send: Wire<qmail_send::Message>,
    /// For deliveries on this host.
    pub lspawn: lspawn::Arguments,
    /// For deliveries to other hosts.
    pub rspawn: rspawn::Arguments,
    /// How long running deliveries may take when the service stops.
    pub grace: Duration,
    /// True: no delivery begins until `svc -c`, which makes it false.
    pub hold: Arc<AtomicBool>,
}

/// The service.
pub struct QmailStart;

/// Its state.
pub struct State {
    clean: ActorRef<clean::Message>,
    lspawn: ActorRef<spawn::Message>,
    rspawn: ActorRef<spawn::Message>,
    send: ActorRef<qmail_send::Message>,
    grace: Duration,
    /// Listens at `lock/trigger`; ends with the actor.
    listening: JoinSet<()>,
}

/// What it hears.
pub enum Message {
    /// From `svc`; for qmail-send.
    Control(Control),
}

impl From<Control> for Message {
    fn from(control: Control) -> Self {
        Self::Control(control)
    }
}

impl Actor for QmailStart {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { queue, controls, running: Running(running), send: wire, lspawn, rspawn, grace, hold } =
            arguments;
        let all = tokio::time::timeout(OLD_ONES, running.acquire_many(RUNNING)).await;
        let all = all.map_err(|_| {
            StartError::Temporary("an earlier qmail-send is still writing to the queue".into())
        })?;
        let trigger = queue.trigger().clone();
        let trigger_path = queue.disk().root().join("lock/trigger");
        let cell = myself.get_cell();
        let (clean, _) = Actor::spawn_linked(None, Clean, queue.clone(), cell.clone()).await?;
        let (lspawn, _) = Actor::spawn_linked(None, Lspawn::default(), lspawn, cell.clone()).await?;
        let (rspawn, _) = Actor::spawn_linked(None, Rspawn::default(), rspawn, cell.clone()).await?;
        let arguments = qmail_send::Arguments {
            queue,
            controls,
            running: running.clone(),
            lspawn: lspawn.clone(),
            rspawn: rspawn.clone(),
            clean: clean.clone(),
            hold,
            all,
        };
        let send = Actor::spawn_linked(None, QmailSend, arguments, cell).await;
        let (send, _) = send.map_err(StartError::from)?;
        wire.connect(send.clone());
        // A pull between its look into todo and now has woken nobody, and as long as it stands no other one does.
        drop(send.cast(qmail_send::Message::Trigger));
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            loop {
                let path = trigger_path.clone();
                let Err(error) = queue::listen(path, trigger.clone()).await else { continue };
                // Without it todo is looked into from time to time all the same.
                tracing::error!("alert: {}: {error}; will try again later", trigger_path.display());
                tokio::time::sleep(TRIGGER_AGAIN).await;
            }
        });
        Ok(State { clean, lspawn, rspawn, send, grace, listening })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Message::Control(control) = message;
        drop(state.send.cast(control.into()));
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (ended, cause) = match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
            SupervisionEvent::ActorTerminated(cell, _, reason) => (cell.get_id(), reason.unwrap_or_default()),
            SupervisionEvent::ActorFailed(cell, cause) => (cell.get_id(), cause.to_string()),
        };
        let lost = match ended {
            id if id == state.clean.get_id() => "alert: oh no! lost qmail-clean connection! dying...",
            id if id == state.send.get_id() => "alert: lost qmail-send! dying...",
            _ => "alert: oh no! lost spawn connection! dying...",
        };
        tracing::error!(cause, "{lost}");
        Err(format!("{lost} {cause}").into())
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.listening.abort_all();
        let send = Wire::default();
        send.connect(state.send.clone());
        match send.call(qmail_send::Message::Exit, state.grace).await {
            Ok(()) | Err(Unanswered::Down | Unanswered::Dropped) => (),
            Err(Unanswered::Late) => {
                tracing::warn!("warning: deliveries under way are cut and will be tried again")
            }
        }
        for cell in
            [state.send.get_cell(), state.rspawn.get_cell(), state.lspawn.get_cell(), state.clean.get_cell()]
        {
            cell.stop(None);
        }
        Ok(())
    }
}
