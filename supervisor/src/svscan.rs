//! svscan: the root of the tree. Keeps one `supervise` for each service and knows nothing else.
//!
//! Owns: the `supervise` actors.   Asks: nobody.   Asked by: the control socket, signals.
//! Dies when: told to stop, after its services have ended in the reverse order of their starts.
//!
//! Services start in the order given: each begins when the one before it is up or has failed for the first time.

use std::sync::Arc;
use std::time::Duration;

use mailtree_actors::answer::answer;
use mailtree_actors::wire::{Unanswered, Wire};
use mailtree_protocols::policy::{self, Limits};
use mailtree_protocols::svc::Letter;
use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use serde::{Deserialize, Serialize};

use crate::service::ServiceSpec;
use crate::status::{Age, Board, Row};
use crate::supervise::{self, AFTER_KILL, Supervise, tell};

/// svscan and supervise answer at once; this only bounds a fault.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tree as everyone else sees it; made before it grows, so that its own services can hold it.
#[derive(Clone, Default)]
pub struct Tree {
    svscan: Wire<Message>,
}

/// How the tree behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// When services are started again.
    pub limits: Limits,
    /// Whether [`Tree::chaos`] may kill.
    pub chaos: bool,
}

/// Why a service cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no such service.
    #[error("file does not exist")]
    Unknown,
    /// It has left the tree, or its supervise is being restarted.
    #[error("supervise not running")]
    NotRunning,
    /// The host was not started for chaos.
    #[error("the host was not started with MAILTREE_CHAOS=1")]
    NoChaos,
    /// The service has no actor to kill.
    #[error("nothing runs")]
    NothingRuns,
}

impl Tree {
    /// Starts svscan, and with it the services in order. The handle ends with the tree.
    pub async fn grow(
        &self,
        services: Vec<ServiceSpec>,
        options: Options,
    ) -> Result<JoinHandle<()>, SpawnErr> {
        let (svscan, ended) = Svscan::spawn(None, Svscan, Arguments { services, options }).await?;
        self.svscan.connect(svscan);
        Ok(ended)
    }

    /// `svc` with these letters. Done when `supervise` has taken them, not when the service has followed.
    pub async fn svc(&self, service: &str, letters: Vec<Letter>) -> Result<Result<(), Refusal>, Unanswered> {
        let service = service.to_owned();
        let told = self.svscan.call(|reply| Message::Svc { service, letters, reply }, PATIENCE).await;
        match told {
            // The supervise that was to answer died.
            Err(Unanswered::Dropped) => Ok(Err(Refusal::NotRunning)),
            told => told,
        }
    }

    /// All services as they are, in the order of starting.
    pub async fn rows(&self) -> Result<Vec<Row>, Unanswered> {
        self.svscan.call(|reply| Message::Rows { reply }, PATIENCE).await
    }

    /// Waits until every service has come up or failed once.
    pub async fn ready(&self, timeout: Duration) -> Result<Vec<Row>, Unanswered> {
        self.svscan.call(|reply| Message::Ready { reply }, timeout).await
    }

    /// Kills an actor of `service` by chance, or its supervise, and names it.
    pub async fn chaos(&self, service: &str, supervise: bool) -> Result<Result<String, Refusal>, Unanswered> {
        let service = service.to_owned();
        let ask = |reply| match supervise {
            true => Message::KillSupervise { service, reply },
            false => Message::Chaos { service, reply },
        };
        match self.svscan.call(ask, PATIENCE).await {
            Err(Unanswered::Dropped) => Ok(Err(Refusal::NotRunning)),
            done => done,
        }
    }

    /// HUP to all services; services that left come back. `false`: there is no tree.
    pub fn hup(&self) -> bool {
        self.svscan.cast(Message::Hup)
    }

    /// ALRM to one service.
    pub fn alarm(&self, service: &str) -> bool {
        self.svscan.cast(Message::Alarm { service: service.to_owned() })
    }

    /// Stops the services in reverse order, each within its grace, and then svscan.
    pub fn stop(&self) -> bool {
        self.svscan.cast(Message::Stop)
    }

    /// Kills everything.
    pub fn kill(&self) -> bool {
        self.svscan.cast(Message::Kill)
    }
}

pub type Ref = ActorRef<Message>;
pub struct Svscan;

pub struct Arguments {
    pub services: Vec<ServiceSpec>,
    pub options: Options,
}

pub struct State {
    services: Vec<Service>,
    options: Options,
    age: Age,
    ready: Vec<RpcReplyPort<Vec<Row>>>,
    stop: Option<Step>,
}

struct Service {
    spec: ServiceSpec,
    board: Arc<Board>,
    supervise: Option<supervise::Ref>,
    /// Its first start was tried.
    opened: bool,
    /// Its first start has succeeded or failed.
    settled: bool,
}

/// The ordered stop stands at this service.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Step {
    service: usize,
}

pub enum Message {
    /// Hand letters to a service's supervise, which answers.
    Svc { service: String, letters: Vec<Letter>, reply: RpcReplyPort<Result<(), Refusal>> },
    /// Tell how all services are.
    Rows { reply: RpcReplyPort<Vec<Row>> },
    /// The same as soon as each has settled.
    Ready { reply: RpcReplyPort<Vec<Row>> },
    /// Kill an actor of a service by chance.
    Chaos { service: String, reply: RpcReplyPort<Result<String, Refusal>> },
    /// Kill a service's supervise.
    KillSupervise { service: String, reply: RpcReplyPort<Result<String, Refusal>> },
    /// `h` to all; services that left come back.
    Hup,
    /// `a` to one.
    Alarm { service: String },
    /// End in order.
    Stop,
    /// End now.
    Kill,
    /// A service's first start has succeeded or failed.
    Settled { service: usize },
    /// A dead supervise has been dead long enough.
    Respawn { service: usize },
    /// The service at which the stop stands has had all its time.
    StepOver { service: usize },
}

impl Actor for Svscan {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, _: Ref, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { services: specs, options } = arguments;
        let mut services: Vec<Service> = Vec::with_capacity(specs.len());
        for spec in specs {
            if services.iter().any(|other| other.spec.name == spec.name) {
                return Err(format!("two services are named {}", spec.name).into());
            }
            metrics::counter!("mailtree_service_restarts_total", "service" => spec.name.clone()).increment(0);
            metrics::gauge!("mailtree_service_up", "service" => spec.name.clone()).set(0.0);
            let board =
                Arc::new(Board::new(policy::Service::new(options.limits.clone(), spec.normally_down)));
            services.push(Service { spec, board, supervise: None, opened: false, settled: false });
        }
        Ok(State { services, options, age: Age::begin(), ready: Vec::new(), stop: None })
    }

    async fn post_start(&self, myself: Ref, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.open_next(&myself).await;
        Ok(())
    }

    async fn handle(
        &self,
        myself: Ref,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Svc { service, letters, reply } => state.svc(&service, letters, reply),
            Message::Rows { reply } => answer(reply, state.rows()),
            Message::Ready { reply } => {
                state.ready.push(reply);
                state.answer_ready();
            }
            Message::Chaos { service, reply } => state.chaos(&service, reply),
            Message::KillSupervise { service, reply } => state.kill_supervise(&service, reply),
            Message::Hup => state.hup(&myself).await,
            Message::Alarm { service } => state.alarm(&service),
            Message::Stop => state.begin_stop(&myself),
            Message::Kill => state.kill(&myself),
            Message::Settled { service } => state.settled(&myself, service).await,
            Message::Respawn { service } => state.respawn(&myself, service).await,
            Message::StepOver { service } => state.step_over(service),
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
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
            SupervisionEvent::ActorTerminated(dead, last_state, reason) => {
                drop(last_state);
                state.supervise_ended(&myself, &dead, &reason.unwrap_or_default()).await;
                Ok(())
            }
            SupervisionEvent::ActorFailed(dead, error) => {
                state.supervise_ended(&myself, &dead, &error.to_string()).await;
                Ok(())
            }
        }
    }
}

impl State {
    fn find(&self, name: &str) -> Result<&Service, Refusal> {
        self.services.iter().find(|service| service.spec.name == name).ok_or(Refusal::Unknown)
    }

    fn supervise(&self, name: &str) -> Result<&supervise::Ref, Refusal> {
        self.find(name)?.supervise.as_ref().ok_or(Refusal::NotRunning)
    }

    fn rows(&self) -> Vec<Row> {
        let now = self.age.now();
        let row = |service: &Service| {
            let Service { spec, board, .. } = service;
            Row { troubles: (spec.troubles)(), ..board.row(&spec.name, now) }
        };
        self.services.iter().map(row).collect()
    }

    fn svc(&self, name: &str, letters: Vec<Letter>, reply: RpcReplyPort<Result<(), Refusal>>) {
        match self.supervise(name) {
            Ok(supervise) => tell(supervise, supervise::Message::Svc { letters, reply: Some(reply) }),
            Err(refusal) => answer(reply, Err(refusal)),
        }
    }

    fn chaos(&self, name: &str, reply: RpcReplyPort<Result<String, Refusal>>) {
        if !self.options.chaos {
            return answer(reply, Err(Refusal::NoChaos));
        }
        match self.supervise(name) {
            Ok(supervise) => tell(supervise, supervise::Message::Chaos { reply }),
            Err(refusal) => answer(reply, Err(refusal)),
        }
    }

    fn kill_supervise(&self, name: &str, reply: RpcReplyPort<Result<String, Refusal>>) {
        if !self.options.chaos {
            return answer(reply, Err(Refusal::NoChaos));
        }
        let killed = self.supervise(name).map(|supervise| {
            supervise.kill();
            supervise.get_id().to_string()
        });
        answer(reply, killed);
    }

    async fn hup(&mut self, myself: &Ref) {
        for service in 0..self.services.len() {
            let Service { spec, board, supervise, .. } = &mut self.services[service];
            match supervise {
                Some(supervise) => {
                    tell(supervise, supervise::Message::Svc { letters: vec![Letter::Hup], reply: None });
                }
                None if board.has_left() && self.stop.is_none() => {
                    *board = Arc::new(Board::new(policy::Service::new(
                        self.options.limits.clone(),
                        spec.normally_down,
                    )));
                    self.open(myself, service).await;
                }
                None => {}
            }
        }
    }

    fn alarm(&self, name: &str) {
        match self.supervise(name) {
            Ok(supervise) => {
                tell(supervise, supervise::Message::Svc { letters: vec![Letter::Alarm], reply: None })
            }
            Err(refusal) => tracing::warn!(service = name, %refusal, "svscan: alarm for {name}: {refusal}"),
        }
    }

    /// Starts the next service that was never tried.
    async fn open_next(&mut self, myself: &Ref) {
        if self.stop.is_some() {
            return;
        }
        match self.services.iter().position(|service| !service.opened) {
            Some(next) => self.open(myself, next).await,
            None => self.answer_ready(),
        }
    }

    async fn open(&mut self, myself: &Ref, nth: usize) {
        let service = &mut self.services[nth];
        service.opened = true;
        let arguments = supervise::Arguments {
            spec: service.spec.clone(),
            board: Arc::clone(&service.board),
            age: self.age,
            svscan: myself.clone(),
            service: nth,
        };
        match Supervise::spawn_linked(None, Supervise, arguments, myself.get_cell()).await {
            Ok((supervise, _)) => service.supervise = Some(supervise),
            Err(error) => {
                let name = service.spec.name.as_str();
                tracing::error!(service = name, %error, "svscan: unable to start supervise {name}: {error}");
                self.respawn_later(myself, nth);
            }
        }
    }

    fn respawn_later(&self, myself: &Ref, service: usize) {
        drop(myself.send_after(self.options.limits.apart, move || Message::Respawn { service }));
    }

    async fn respawn(&mut self, myself: &Ref, service: usize) {
        if self.stop.is_none() && self.services[service].supervise.is_none() {
            self.open(myself, service).await;
        }
    }

    async fn settled(&mut self, myself: &Ref, service: usize) {
        if !std::mem::replace(&mut self.services[service].settled, true) {
            self.open_next(myself).await;
        }
    }

    fn answer_ready(&mut self) {
        if self.services.iter().all(|service| service.settled) {
            let rows = self.rows();
            for reply in self.ready.drain(..) {
                answer(reply, rows.clone());
            }
        }
    }

    async fn supervise_ended(&mut self, myself: &Ref, dead: &ActorCell, reason: &str) {
        let is_dead = |service: &Service| {
            service.supervise.as_ref().is_some_and(|supervise| supervise.get_id() == dead.get_id())
        };
        let Some(nth) = self.services.iter().position(is_dead) else { return };
        self.services[nth].supervise = None;
        let left = self.services[nth].board.has_left();
        let name = &self.services[nth].spec.name;
        metrics::gauge!("mailtree_service_up", "service" => name.clone()).set(0.0);
        if !left {
            tracing::error!(service = name, reason, "svscan: supervise {name} died: {reason}");
        }
        match self.stop {
            Some(step) if step.service == nth => self.stop_from(myself, nth),
            Some(_) => {}
            None if left => self.settled(myself, nth).await,
            None => self.respawn_later(myself, nth),
        }
    }

    fn begin_stop(&mut self, myself: &Ref) {
        if self.stop.is_none() {
            tracing::info!("svscan: stopping all services, the last one first");
            self.stop_from(myself, self.services.len());
        }
    }

    /// Stops the nearest service before `end` that is still there, or ends svscan when there is none.
    fn stop_from(&mut self, myself: &Ref, end: usize) {
        for nth in (0..end).rev() {
            let Service { spec, supervise: Some(supervise), .. } = &self.services[nth] else { continue };
            tell(
                supervise,
                supervise::Message::Svc { letters: vec![Letter::Down, Letter::Exit], reply: None },
            );
            drop(myself.send_after(spec.grace + AFTER_KILL, move || Message::StepOver { service: nth }));
            self.stop = Some(Step { service: nth });
            return;
        }
        self.stop = Some(Step { service: 0 });
        myself.stop(Some("stopped".to_owned()));
    }

    /// A service that neither stops nor dies must not hold the stop up.
    fn step_over(&self, nth: usize) {
        let Service { spec, supervise: Some(supervise), .. } = &self.services[nth] else { return };
        let name = spec.name.as_str();
        tracing::error!(service = name, "svscan: {name} did not stop in time and is left behind");
        supervise.kill();
    }

    fn kill(&mut self, myself: &Ref) {
        tracing::warn!("svscan: all services are killed");
        self.stop = Some(Step { service: 0 });
        // With svscan end its children, and theirs.
        myself.kill();
    }
}

#[cfg(test)]
mod tests;
