//! supervise: keeps one service as its administrator wants it.
//!
//! Owns: the service's root actor, its only child.   Asks: nobody.   Asked by: svscan.
//! Dies when: the service has left (`svc -x`).   After a restart: goes on from its board; the child died with it.
//!
//! Decides nothing: the policy is [`mailtree_protocols::policy`], and this carries out its effects without ever
//! waiting in a handler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use mailtree_actors::answer::answer;
use mailtree_actors::service::{Control, StartError, Started};
use mailtree_protocols::policy::{self, Effect, Event, Moment, State as Phase, Word};
use mailtree_protocols::svc::Letter;
use ractor::concurrency::JoinHandle;
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, MessagingErr, RpcReplyPort, SupervisionEvent,
};
use tokio::task::JoinSet;

use crate::service::ServiceSpec;
use crate::status::{Age, Board};
use crate::svscan::{self, Refusal};

#[cfg(not(panic = "unwind"))]
compile_error!("a service that panics takes the host with it: panic = \"unwind\" in every profile");

/// How long after its grace a service may still be in the way of an ordered stop.
pub(crate) const AFTER_KILL: Duration = Duration::from_secs(5);
/// Longest reason shown, in bytes.
const MAX_REASON: usize = 300;
/// Most actors looked at for a victim.
const MAX_DESCENDANTS: usize = 100_000;
/// Ends of children heard before their start was reported.
const MAX_EARLY: usize = 8;

pub type Ref = ActorRef<Message>;
pub struct Supervise;

pub struct Arguments {
    pub spec: ServiceSpec,
    pub board: Arc<Board>,
    pub age: Age,
    /// Hears [`svscan::Message::Settled`] once.
    pub svscan: svscan::Ref,
    /// The service's place in svscan's list.
    pub service: usize,
}

type Timer = JoinHandle<Result<(), MessagingErr<Message>>>;

pub struct State {
    spec: ServiceSpec,
    board: Arc<Board>,
    age: Age,
    svscan: svscan::Ref,
    service: usize,
    settled: bool,
    policy: policy::Service,
    /// What the log last said of it.
    logged: Option<(Phase, bool)>,
    child: Option<Child>,
    /// The start under way; dropped with this state, it is broken off.
    start: JoinSet<()>,
    wake: Option<Timer>,
    grace: Option<Timer>,
    early: Vec<(ActorId, String)>,
}

struct Child {
    generation: u64,
    started: Started,
}

pub enum Message {
    /// Letters of `svc`, in order.
    Svc { letters: Vec<Letter>, reply: Option<RpcReplyPort<Result<(), Refusal>>> },
    /// Kill one actor of the service by chance; the answer names it.
    Chaos { reply: RpcReplyPort<Result<String, Refusal>> },
    /// A start has succeeded, failed, or was broken off.
    StartEnded { generation: u64, result: Result<Started, StartError> },
    /// A timer has run out.
    Due { timer: u64 },
    /// A child told to stop has had its grace.
    GraceOver { generation: u64 },
}

impl Actor for Supervise {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: Ref, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { spec, board, age, svscan, service } = arguments;
        let policy = board.policy();
        Ok(State {
            spec,
            board,
            age,
            svscan,
            service,
            settled: false,
            policy,
            logged: None,
            child: None,
            start: JoinSet::new(),
            wake: None,
            grace: None,
            early: Vec::new(),
        })
    }

    async fn post_start(&self, myself: Ref, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.happened(&myself, Event::Begin);
        Ok(())
    }

    async fn handle(
        &self,
        myself: Ref,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Svc { letters, reply } => {
                for letter in letters {
                    state.happened(&myself, Event::Svc(letter));
                }
                if let Some(reply) = reply {
                    answer(reply, Ok(()));
                }
            }
            Message::Chaos { reply } => answer(reply, state.chaos(&myself).ok_or(Refusal::NothingRuns)),
            Message::StartEnded { generation, result } => state.start_ended(&myself, generation, result),
            Message::Due { timer } => state.happened(&myself, Event::Due { timer }),
            Message::GraceOver { generation } => state.happened(&myself, Event::GraceOver { generation }),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: Ref,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
            SupervisionEvent::ActorTerminated(child, last_state, reason) => {
                drop(last_state);
                state.exited(&myself, &child, &reason.unwrap_or_else(|| "exited".to_owned()));
            }
            SupervisionEvent::ActorFailed(child, error) => state.exited(&myself, &child, &error.to_string()),
        }
        Ok(())
    }

    async fn post_stop(&self, _: Ref, state: &mut State) -> Result<(), ActorProcessingErr> {
        for timer in [state.wake.take(), state.grace.take()].into_iter().flatten() {
            timer.abort();
        }
        Ok(())
    }
}

impl State {
    fn happened(&mut self, myself: &Ref, event: Event) {
        let moment = Moment { now: self.age.now(), chance: rand::random() };
        let (policy, effects) = self.policy.clone().step(event, moment);
        let restarts = policy.restarts() - self.policy.restarts();
        metrics::counter!("mailtree_service_restarts_total", "service" => self.spec.name.clone())
            .increment(restarts);
        self.policy = policy;
        for effect in effects {
            self.carry_out(myself, effect);
        }
    }

    fn carry_out(&mut self, myself: &Ref, effect: Effect) {
        match effect {
            Effect::Start { generation } => self.begin_start(myself, generation),
            Effect::Stop { generation } => {
                if let Some(child) = self.child(generation) {
                    child.started.cell.stop(Some("stopped".to_owned()));
                }
                let timer = myself.send_after(self.spec.grace, move || Message::GraceOver { generation });
                replace(&mut self.grace, timer);
            }
            Effect::Kill { generation } => match self.child(generation) {
                Some(child) => child.started.cell.kill(),
                None => self.break_start_off(myself, generation),
            },
            Effect::Tell(word) => {
                if let Some(child) = &self.child {
                    (child.started.control)(match word {
                        Word::Hup => Control::Hup,
                        Word::Alarm => Control::Alarm,
                        Word::Pause => Control::Pause,
                        Word::Continue => Control::Continue,
                    });
                }
            }
            Effect::Wake { timer, after } => {
                replace(&mut self.wake, myself.send_after(after, move || Message::Due { timer }));
            }
            Effect::Announce => self.announce(),
            Effect::Leave => myself.stop(Some("left".to_owned())),
        }
    }

    fn child(&self, generation: u64) -> Option<&Child> {
        self.child.as_ref().filter(|child| child.generation == generation)
    }

    fn begin_start(&mut self, myself: &Ref, generation: u64) {
        let (start, supervise, limit) =
            (Arc::clone(&self.spec.start), myself.clone(), self.spec.start_timeout);
        let remains = self.board.remains();
        self.early.clear();
        self.start = JoinSet::new();
        self.start.spawn(async move {
            let begin = AssertUnwindSafe(async {
                for former in &remains {
                    former
                        .wait(None)
                        .await
                        .map_err(|_| StartError::Temporary("its last run goes on".to_owned()))?;
                }
                start(supervise.get_cell()).await
            });
            let result = match tokio::time::timeout(limit, begin.catch_unwind()).await {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => {
                    Err(StartError::Temporary(format!("panic at start: {}", panic_text(&*panic))))
                }
                Err(_) => Err(StartError::Temporary(format!("not started within {limit:?}"))),
            };
            tell(&supervise, Message::StartEnded { generation, result });
        });
    }

    /// The report comes only when the start's future is gone, so nothing of it can appear later.
    fn break_start_off(&mut self, myself: &Ref, generation: u64) {
        let (mut start, supervise) = (std::mem::take(&mut self.start), myself.clone());
        tokio::spawn(async move {
            start.shutdown().await;
            let result = Err(StartError::Temporary("start broken off".to_owned()));
            tell(&supervise, Message::StartEnded { generation, result });
        });
    }

    fn start_ended(&mut self, myself: &Ref, generation: u64, result: Result<Started, StartError>) {
        let expected = self.policy.state() == (Phase::Starting { generation });
        match result {
            Ok(started) if expected => {
                let id = started.cell.get_id();
                // Seen by the next supervise if this one is killed.
                self.board.bury(started.cell.clone());
                if started.held {
                    self.happened(myself, Event::Held);
                }
                self.child = Some(Child { generation, started });
                self.happened(myself, Event::Started { generation });
                if let Some(nth) = self.early.iter().position(|(dead, _)| *dead == id) {
                    let (_, reason) = self.early.swap_remove(nth);
                    self.child_ended(myself, reason);
                }
            }
            // Its start was broken off too late; that report follows.
            Ok(_) => self.kill_strays(myself),
            Err(error) => {
                self.kill_strays(myself);
                let permanent = matches!(error, StartError::Permanent(_));
                let reason = one_line(&error.to_string());
                self.happened(myself, Event::StartFailed { generation, permanent, reason });
            }
        }
    }

    /// A start that failed may have left a linked actor behind.
    fn kill_strays(&self, myself: &Ref) {
        let child = self.child.as_ref().map(|child| child.started.cell.get_id());
        for stray in myself.get_children() {
            if Some(stray.get_id()) != child {
                stray.kill();
                self.board.bury(stray);
            }
        }
    }

    fn exited(&mut self, myself: &Ref, cell: &ActorCell, reason: &str) {
        let reason = one_line(reason);
        if self.child.as_ref().is_some_and(|child| child.started.cell.get_id() == cell.get_id()) {
            self.child_ended(myself, reason);
        } else if self.early.len() < MAX_EARLY {
            self.early.push((cell.get_id(), reason));
        }
    }

    fn child_ended(&mut self, myself: &Ref, reason: String) {
        let Some(Child { generation, .. }) = self.child.take() else { return };
        if let Some(grace) = self.grace.take() {
            grace.abort();
        }
        self.happened(myself, Event::Exited { generation, reason });
    }

    fn announce(&mut self) {
        let name = &self.spec.name;
        let listen =
            self.child.iter().flat_map(|child| &child.started.listen).map(ToString::to_string).collect();
        self.board.announce(self.policy.clone(), listen);
        let up = matches!(self.policy.state(), Phase::Up { .. });
        metrics::gauge!("mailtree_service_up", "service" => name.clone()).set(if up { 1.0 } else { 0.0 });
        let logged = (self.policy.state(), self.policy.paused());
        if self.logged.replace(logged) != Some(logged) {
            self.log();
        }
        if !self.settled && !matches!(self.policy.state(), Phase::Starting { .. }) {
            self.settled = true;
            tell(&self.svscan, svscan::Message::Settled { service: self.service });
        }
    }

    /// The name is in the text too: classic log lines have no fields.
    fn log(&self) {
        let service = self.spec.name.as_str();
        let reason = self.policy.reason().unwrap_or_default();
        match self.policy.state() {
            Phase::Down => tracing::info!(service, reason, "supervise: {service}: down"),
            Phase::Waiting { until, wait, .. } => {
                let seconds = until.saturating_sub(self.age.now()).as_secs_f32();
                match wait {
                    policy::Wait::Apart | policy::Wait::BackOff => tracing::warn!(
                        service,
                        reason,
                        seconds,
                        "supervise: {service}: down, next start in {seconds:.1} s: {reason}"
                    ),
                    policy::Wait::Resting => tracing::error!(
                        service,
                        reason,
                        seconds,
                        "supervise: {service}: fails too often, rests {seconds:.0} s: {reason}"
                    ),
                    policy::Wait::Misconfigured => tracing::error!(
                        service,
                        reason,
                        seconds,
                        "supervise: {service}: cannot start as configured, rests {seconds:.0} s: {reason}"
                    ),
                }
            }
            Phase::Starting { .. } => tracing::debug!(service, "supervise: {service}: starting"),
            Phase::Up { .. } if self.policy.paused() => {
                tracing::info!(service, "supervise: {service}: up, paused")
            }
            Phase::Up { .. } => tracing::info!(service, "supervise: {service}: up"),
            Phase::Stopping { killed: false, .. } => {
                tracing::info!(service, "supervise: {service}: stopping")
            }
            Phase::Stopping { killed: true, .. } => tracing::info!(service, "supervise: {service}: killed"),
            Phase::Left => tracing::info!(service, "supervise: {service}: left"),
        }
    }

    fn chaos(&mut self, myself: &Ref) -> Option<String> {
        let mut actors = myself.get_children();
        let mut next = 0;
        while next < actors.len() && actors.len() < MAX_DESCENDANTS {
            let children = actors[next].get_children();
            actors.extend(children);
            next += 1;
        }
        let victim = actors.get(rand::random_range(0..actors.len().max(1)))?;
        self.happened(myself, Event::Sabotaged);
        victim.kill();
        Some(victim.get_id().to_string())
    }
}

fn replace(timer: &mut Option<Timer>, with: Timer) {
    if let Some(former) = timer.replace(with) {
        former.abort();
    }
}

/// To one of the tree's own; a message to one that has ended is of no use to anybody.
pub(crate) fn tell<M: ractor::Message>(to: &ActorRef<M>, message: M) {
    if to.cast(message).is_err() {
        tracing::debug!(actor = %to.get_id(), "supervise: message to an actor that has ended");
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "unknown cause".to_owned(),
    }
}

/// A reason fit for one line of `svstat` and the log; `...` shows that it was longer.
fn one_line(reason: &str) -> String {
    let mut line: String = reason.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
        line.truncate(end);
        line.push_str("...");
    }
    line
}
