//! qmail-send: decides when which message is tried, and what becomes of it.
//!
//! Owns: the schedule (ids and times; the truth is on disk). Asks: queue (disk threads), lspawn, rspawn, clean. Asked by:
//! the control socket. Dies when: it cannot read the queue. After a restart: reads `info`, `local`, `remote` and `todo`
//! again, once nothing that the last one began is under way any more.

mod bounce;
mod mail;
mod pass;
mod todo;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mailtree_config::control::{Control as Controls, Send as SendControl};
use mailtree_protocols::bounce::From as BounceFrom;
use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::report::{Class, safe};
use mailtree_protocols::schedule::{SYSFAIL, TODO};
use metrics::{Counter, Gauge};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::Serialize;

use crate::answer::answer;
use crate::clean;
use crate::clock::unix_now;
use crate::delivery::{Hear, Reported};
use crate::permit::{Permit, Permits};
use crate::queue::disk::Surveyed;
use crate::queue::{Answer, Error, NewMessage, Queue};
use crate::service::{Control, StartError};
use crate::spawn;
use mail::{Attempt, Mail, Side};

/// How often the schedule is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Messages being removed at once; beyond that no new delivery begins.
const ENDING: usize = 2000;

/// The actor.
pub struct QmailSend;

/// What it needs.
pub struct Arguments {
    /// The queue.
    pub queue: Queue,
    /// The control files.
    pub controls: Arc<Controls>,
    /// One permit for everything under way that touches the queue.
    pub running: Permits,
    /// Deliveries on this host.
    pub lspawn: ActorRef<spawn::Message>,
    /// Deliveries to other hosts.
    pub rspawn: ActorRef<spawn::Message>,
    /// Removals.
    pub clean: ActorRef<clean::Message>,
    /// True: no delivery begins until `svc -c`, which makes it false.
    pub hold: Arc<AtomicBool>,
    /// All permits: held until the schedule is made.
    pub all: Permit,
}

/// Its state.
pub struct State {
    queue: Queue,
    controls: Arc<Controls>,
    running: Permits,
    lspawn: ActorRef<spawn::Message>,
    rspawn: ActorRef<spawn::Message>,
    clean: ActorRef<clean::Message>,
    myself: ActorRef<Message>,
    /// Where deliveries report.
    hear: Hear,
    control: Arc<SendControl>,
    bounce_from: Arc<BounceFrom>,
    messages: HashMap<MessageId, Mail>,
    local: Lane,
    remote: Lane,
    attempts: HashMap<u64, Attempt>,
    /// Messages whose end failed for a reason inside the host, by the time of the next try.
    retry_end: BinaryHeap<Reverse<(u64, MessageId)>>,
    ending: usize,
    last_delivery: u64,
    last_serial: u64,
    /// Somebody has pulled the trigger.
    pulled: bool,
    /// `todo` is to be looked into.
    look: bool,
    /// It is being looked into.
    looking: bool,
    next_todo: u64,
    /// Messages in `todo` that cannot be read, until the next slow look.
    bad: Arc<HashSet<MessageId>>,
    /// Messages that could not be placed, and when to try again.
    unplaced: Vec<(u64, MessageId)>,
    /// Messages whose files could not be read, and when to look again.
    unseen: Vec<(u64, MessageId)>,
    paused: bool,
    hold: Arc<AtomicBool>,
    exit: Option<RpcReplyPort<()>>,
    exitasap: bool,
}

/// One of the two channels.
struct Lane {
    channel: Channel,
    /// When which message is due.
    schedule: BinaryHeap<Reverse<(u64, MessageId)>>,
    /// Messages being tried, with deliveries to begin.
    ready: VecDeque<MessageId>,
    /// Messages whose recipients are being read.
    loading: usize,
    /// Deliveries under way.
    used: usize,
    /// Deliveries allowed at once.
    limit: usize,
    in_use: Gauge,
    results: Results,
}

/// Counts what deliveries come to.
struct Results {
    success: Counter,
    failure: Counter,
    deferral: Counter,
}

impl Results {
    fn new(channel: &'static str) -> Self {
        let of = |class: Class| metrics::counter!("mailtree_deliveries_total", "channel" => channel, "result" => class.word());
        Self { success: of(Class::Success), failure: of(Class::Failure), deferral: of(Class::Deferral) }
    }

    fn count(&self, class: Class) {
        match class {
            Class::Success => &self.success,
            Class::Failure => &self.failure,
            Class::Deferral => &self.deferral,
        }
        .increment(1);
    }
}

/// What it hears.
pub enum Message {
    /// Somebody pulled the trigger.
    Trigger,
    /// `todo` was looked into: what cannot be read there, and why.
    Looked(Result<Vec<(MessageId, String)>, String>),
    /// A message was placed before its first delivery, or not.
    Placed {
        /// The message.
        id: MessageId,
        /// It, as it arrives.
        result: Result<Option<NewMessage>, Error>,
    },
    /// The recipients of a message have been read.
    Loaded {
        /// The message.
        id: MessageId,
        /// Its channel.
        channel: Channel,
        /// Who is listed there.
        recipients: Result<Vec<Recipient>, String>,
    },
    /// A spawner has reported.
    Reported(Reported),
    /// What a delivery did is noted on disk.
    Settled {
        /// Which delivery.
        serial: u64,
        /// Recipients that are done.
        done: usize,
        /// Some of them failed.
        bounced: bool,
        /// How it went.
        result: Result<(), Error>,
    },
    /// A bounce was queued, or not.
    Bounced {
        /// The failed message.
        id: MessageId,
        /// The number of the queueing, if there was a bounce to send.
        result: Result<Option<u64>, String>,
    },
    /// A message was removed, or not.
    Ended {
        /// The message.
        id: MessageId,
        /// Which of that number.
        serial: u64,
        /// How it went.
        result: Result<(), Error>,
    },
    /// A message that could not be read before was looked at again.
    Seen {
        /// The message.
        id: MessageId,
        /// What was found; none if it is gone.
        result: Result<Option<Surveyed>, String>,
    },
    /// Time to look at the schedule.
    Tick,
    /// An administrator: take this message out of the queue, without a bounce.
    Remove {
        /// The message.
        id: MessageId,
        /// Whether there is such a message; sent when it is gone for good.
        reply: RpcReplyPort<Result<bool, String>>,
    },
    /// A removed message is out of the queue for good.
    Struck {
        /// The message.
        id: MessageId,
    },
    /// An administrator: this message, or all, are due now.
    Retry {
        /// The message; all if none.
        id: Option<MessageId>,
        /// How many there were.
        reply: RpcReplyPort<usize>,
    },
    /// What is being done.
    Status(RpcReplyPort<Status>),
    /// The tree stops: finish what is under way, begin nothing new.
    Exit(RpcReplyPort<()>),
    /// From `svc`.
    Control(Control),
}

impl From<Control> for Message {
    fn from(control: Control) -> Self {
        Self::Control(control)
    }
}

/// What qmail-send is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Preprocessed messages.
    pub messages: usize,
    /// Local deliveries under way.
    pub local: usize,
    /// `concurrencylocal`.
    pub concurrencylocal: usize,
    /// Remote deliveries under way.
    pub remote: usize,
    /// `concurrencyremote`.
    pub concurrencyremote: usize,
    /// No new deliveries begin (`svc -p`).
    pub paused: bool,
}

impl Actor for QmailSend {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { queue, controls, running, lspawn, rspawn, clean, hold, all } = arguments;
        let control = controls.send().map_err(|error| {
            let cause = format!("alert: cannot start: unable to read controls: {error}");
            if error.is_temporary() { StartError::Temporary(cause) } else { StartError::Permanent(cause) }
        })?;
        let surveyed = queue.clone();
        let survey = tokio::task::spawn_blocking(move || surveyed.survey()).await?;
        let survey = survey.map_err(|error| {
            StartError::Temporary(format!("alert: cannot start: unable to read queue: {error}"))
        })?;
        for (id, error) in &survey.failed {
            tracing::warn!(msg = id.0, "warning: unable to stat info/{id}; will try again later: {error}");
        }
        let unseen = survey.failed.iter().map(|(id, _)| (unix_now() + SYSFAIL, *id)).collect();
        let mut state = State {
            local: Lane::new(Channel::Local, control.concurrencylocal),
            remote: Lane::new(Channel::Remote, control.concurrencyremote),
            bounce_from: Arc::new(bounce_from(&control)),
            queue,
            controls,
            running,
            lspawn,
            rspawn,
            clean,
            hear: {
                let myself = myself.clone();
                // A scheduler that is gone has forgotten this delivery.
                Arc::new(move |reported| drop(myself.cast(Message::Reported(reported))))
            },
            myself: myself.clone(),
            control,
            messages: HashMap::new(),
            attempts: HashMap::new(),
            retry_end: BinaryHeap::new(),
            ending: 0,
            last_delivery: 0,
            last_serial: 0,
            pulled: true,
            look: true,
            looking: false,
            next_todo: unix_now() + TODO,
            bad: Arc::default(),
            unplaced: Vec::new(),
            unseen,
            paused: hold.load(Ordering::Acquire),
            hold,
            exit: None,
            exitasap: false,
        };
        for message in survey.messages {
            state.found(message);
        }
        state.log_status();
        if state.paused {
            tracing::warn!("status: held: no delivery begins until svc -c send");
        }
        myself.send_interval(TICK, || Message::Tick);
        myself.cast(Message::Tick)?;
        drop(all);
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Trigger => state.pulled = true,
            Message::Looked(result) => state.looked(result),
            Message::Placed { id, result } => state.placed(id, result),
            Message::Loaded { id, channel, recipients } => state.loaded(id, channel, recipients),
            Message::Reported(reported) => state.reported(reported),
            Message::Settled { serial, done, bounced, result } => {
                state.settled(serial, done, bounced, result)
            }
            Message::Bounced { id, result } => state.bounced(id, result),
            Message::Ended { id, serial, result } => state.ended(id, serial, result),
            Message::Seen { id, result } => state.seen(id, result),
            Message::Tick => state.tick(),
            Message::Remove { id, reply } => state.remove(id, reply),
            Message::Struck { id } => state.struck(id),
            Message::Retry { id, reply } => {
                let count = state.retry(id);
                answer(reply, count);
            }
            Message::Status(reply) => answer(reply, state.status()),
            Message::Exit(reply) => {
                state.exitasap = true;
                state.exit = Some(reply);
                state.log_status();
            }
            Message::Control(Control::Alarm) => drop(state.retry(None)),
            Message::Control(Control::Hup) => state.reread(),
            Message::Control(Control::Pause) => state.paused = true,
            Message::Control(Control::Continue) => {
                state.paused = false;
                state.hold.store(false, Ordering::Release);
            }
        }
        state.work();
        Ok(())
    }
}

impl Lane {
    fn new(channel: Channel, limit: usize) -> Self {
        metrics::gauge!("mailtree_permits_limit", "permit" => channel.name()).set(limit as f64);
        let in_use = metrics::gauge!("mailtree_permits_in_use", "permit" => channel.name());
        in_use.set(0.0);
        Self {
            channel,
            schedule: BinaryHeap::new(),
            ready: VecDeque::new(),
            loading: 0,
            used: 0,
            limit,
            in_use,
            results: Results::new(channel.name()),
        }
    }

    fn has_room(&self) -> bool {
        self.used + self.loading < self.limit
    }

    fn set_used(&mut self, used: usize) {
        self.used = used;
        self.in_use.set(used as f64);
    }
}

fn bounce_from(control: &SendControl) -> BounceFrom {
    BounceFrom {
        bouncefrom: control.bouncefrom.clone(),
        bouncehost: control.bouncehost.clone(),
        doublebounceto: format!("{}@{}", control.doublebounceto, control.doublebouncehost).into_bytes(),
    }
}

impl State {
    fn lane(&mut self, channel: Channel) -> &mut Lane {
        match channel {
            Channel::Local => &mut self.local,
            Channel::Remote => &mut self.remote,
        }
    }

    /// A permit for something that touches the queue. There are more than could ever be in use.
    fn running(&self) -> Option<Permit> {
        self.running.try_acquire()
    }

    fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    /// Everything that can be begun now is begun.
    fn work(&mut self) {
        if self.exitasap {
            self.exit_if_idle();
            return;
        }
        self.take_arrivals();
        self.look_into_todo();
        for channel in Channel::ALL {
            self.fill(channel);
        }
    }

    fn exit_if_idle(&mut self) {
        let idle = self.attempts.is_empty() && !self.looking && self.ending == 0;
        if idle && let Some(reply) = self.exit.take() {
            tracing::info!("status: exiting");
            answer(reply, ());
        }
    }

    /// Counts the messages, which walks the table: once in a while.
    fn count_messages(&self) {
        let set = |state: &'static str, count: usize| {
            metrics::gauge!("mailtree_queue_messages", "state" => state).set(count as f64);
        };
        let waiting = |side: fn(&Mail) -> &Side| {
            self.messages.values().filter(|mail| !matches!(side(mail), Side::Finished)).count()
        };
        set("preprocessed", self.messages.len());
        set("local", waiting(|mail| &mail.local));
        set("remote", waiting(|mail| &mail.remote));
        set("bouncing", self.messages.values().filter(|mail| mail.bouncing).count());
        let oldest = self.messages.values().map(Mail::born).min();
        let age = oldest.map_or(0, |born| unix_now().saturating_sub(born));
        metrics::gauge!("mailtree_queue_oldest_message_age_seconds").set(age as f64);
    }

    fn tick(&mut self) {
        let now = unix_now();
        if now >= self.next_todo {
            self.next_todo = now + TODO;
            (self.pulled, self.look) = (true, true);
            self.bad = Arc::default();
        }
        while let Some(Reverse((due, id))) = self.retry_end.peek().copied()
            && due <= now
        {
            self.retry_end.pop();
            self.end_if_settled(id);
        }
        self.notice_controls();
        // Routes are asked for when a pass begins; what is wrong with them is said before.
        drop(self.controls.remote());
        // A pull may have met an earlier incarnation.
        self.pulled = true;
        self.look_at_unseen(now);
        self.place_again(now);
        self.count_messages();
    }

    fn look_at_unseen(&mut self, now: u64) {
        let (due, later): (Vec<_>, Vec<_>) = self.unseen.drain(..).partition(|(due, _)| *due <= now);
        self.unseen = later;
        for (_, id) in due {
            let (queue, myself, running) = (self.queue.clone(), self.myself.clone(), self.running());
            drop(tokio::task::spawn_blocking(move || {
                let result = queue.look(id).map_err(|error| error.to_string());
                drop(running);
                drop(myself.cast(Message::Seen { id, result }));
            }));
        }
    }

    fn seen(&mut self, id: MessageId, result: Result<Option<Surveyed>, String>) {
        match result {
            // A message that was preprocessed meanwhile is known.
            Ok(Some(message)) if !self.messages.contains_key(&id) => self.found(message),
            Ok(_) => (),
            Err(cause) => {
                tracing::warn!(
                    msg = id.0,
                    "warning: unable to stat info/{id}; will try again later: {cause}"
                );
                self.unseen.push((unix_now() + SYSFAIL, id));
            }
        }
    }

    /// A message that an earlier incarnation left.
    fn found(&mut self, message: Surveyed) {
        let Surveyed { id, sender, birth, local, remote, bouncing } = message;
        let serial = self.next_serial();
        let side = |due: Option<u64>| due.map_or(Side::Finished, Side::Waiting);
        let mail = Mail {
            sender,
            birth,
            serial,
            again: true,
            local: side(local),
            remote: side(remote),
            bouncing,
            removed: false,
            ending: false,
        };
        self.messages.insert(id, mail);
        for (channel, due) in [(Channel::Local, local), (Channel::Remote, remote)] {
            if let Some(due) = due {
                self.lane(channel).schedule.push(Reverse((due, id)));
            }
        }
        if local.is_none() && remote.is_none() {
            self.retry_end.push(Reverse((0, id)));
        }
    }

    /// Both channels are finished: bounce if somebody failed, then remove.
    fn end_if_settled(&mut self, id: MessageId) {
        let Some(mail) = self.messages.get_mut(&id) else { return };
        if !mail.is_settled() || mail.ending {
            return;
        }
        let Some(running) = self.running.try_acquire() else { return };
        mail.ending = true;
        self.ending += 1;
        if mail.bouncing && !mail.removed {
            let (queue, from) = (self.queue.clone(), Arc::clone(&self.bounce_from));
            let (sender, myself) = (mail.sender.clone(), self.myself.clone());
            tokio::spawn(async move {
                let result = bounce::inject(&queue, &from, id, &sender).await;
                drop(running);
                drop(myself.cast(Message::Bounced { id, result }));
            });
        } else {
            let serial = mail.serial;
            self.end(id, serial, running);
        }
    }

    fn end(&mut self, id: MessageId, serial: u64, running: Permit) {
        let removing = match self.queue.end(id) {
            Answer::Now(result) => return self.ended(id, serial, result),
            Answer::Later(removing) => removing,
        };
        let myself = self.myself.clone();
        let ended: clean::Ended =
            Box::new(move |result| drop(myself.cast(Message::Ended { id, serial, result })));
        // clean lives and dies with us.
        drop(self.clean.cast(clean::Message::Foop { removing, running, ended }));
    }

    fn bounced(&mut self, id: MessageId, result: Result<Option<u64>, String>) {
        let Some(mail) = self.messages.get_mut(&id) else { return };
        match result {
            Ok(Some(qp)) => tracing::info!(msg = id.0, qp, "bounce msg {id} qp {qp}"),
            Ok(None) => tracing::info!(msg = id.0, "triple bounce: discarding bounce/{id}"),
            Err(cause) => {
                tracing::warn!(msg = id.0, "warning: trouble injecting bounce message, will try later");
                tracing::warn!(msg = id.0, "warning: bounce/{id}: {cause}");
                self.end_failed(id);
                return;
            }
        }
        mail.bouncing = false;
        let serial = mail.serial;
        match self.running() {
            Some(running) => self.end(id, serial, running),
            None => self.end_failed(id),
        }
    }

    fn ended(&mut self, id: MessageId, serial: u64, result: Result<(), Error>) {
        // The number may be another message's by now.
        if self.messages.get(&id).is_none_or(|mail| mail.serial != serial) {
            self.ending = self.ending.saturating_sub(1);
            return;
        }
        match result {
            Ok(()) => {
                self.messages.remove(&id);
                self.ending = self.ending.saturating_sub(1);
                tracing::info!(msg = id.0, "end msg {id}");
            }
            Err(error) => {
                tracing::warn!(msg = id.0, "warning: qmail-clean unable to clean up mess/{id}: {error}");
                self.end_failed(id);
            }
        }
    }

    fn end_failed(&mut self, id: MessageId) {
        self.ending = self.ending.saturating_sub(1);
        if let Some(mail) = self.messages.get_mut(&id) {
            mail.ending = false;
            self.retry_end.push(Reverse((unix_now() + SYSFAIL, id)));
        }
    }

    /// Nothing more of the message is begun; it is struck from the queue durably, and then removed when nothing of it is under
    /// way.
    fn remove(&mut self, id: MessageId, reply: RpcReplyPort<Result<bool, String>>) {
        let Some(mail) = self.messages.get_mut(&id) else { return answer(reply, Ok(false)) };
        mail.removed = true;
        for channel in Channel::ALL {
            match mail.side(channel) {
                Side::Finished | Side::Loading => (),
                side @ Side::Waiting(_) => *side = Side::Finished,
                Side::Passing(pass) => pass.pending.clear(),
            }
        }
        let (queue, myself, running) = (self.queue.clone(), self.myself.clone(), self.running());
        tokio::spawn(async move {
            let struck = queue.strike(id).await.map_err(|error| error.to_string());
            drop(running);
            drop(myself.cast(Message::Struck { id }));
            answer(reply, struck.map(|()| true));
        });
    }

    /// A removed message is out of the queue: what is left of it goes when nothing of it is under way.
    fn struck(&mut self, id: MessageId) {
        for channel in Channel::ALL {
            self.end_pass_if_idle(id, channel);
        }
        self.end_if_settled(id);
    }

    fn retry(&mut self, only: Option<MessageId>) -> usize {
        let ids: Vec<MessageId> = match only {
            Some(id) => vec![id],
            None => self.messages.keys().copied().collect(),
        };
        let mut count = 0;
        for id in ids {
            let Some(mail) = self.messages.get_mut(&id) else { continue };
            count += 1;
            for channel in Channel::ALL {
                if let side @ Side::Waiting(_) = mail.side(channel) {
                    *side = Side::Waiting(0);
                    let lane = match channel {
                        Channel::Local => &mut self.local,
                        Channel::Remote => &mut self.remote,
                    };
                    lane.schedule.push(Reverse((0, id)));
                }
            }
        }
        (self.pulled, self.look) = (true, true);
        count
    }

    /// Takes the control files as they are in force now.
    fn notice_controls(&mut self) {
        // They were in order at the start, so something is in force.
        if let Ok(control) = self.controls.send()
            && !Arc::ptr_eq(&control, &self.control)
        {
            self.obey(control);
        }
    }

    fn obey(&mut self, control: Arc<SendControl>) {
        self.bounce_from = Arc::new(bounce_from(&control));
        self.local.limit = control.concurrencylocal;
        self.remote.limit = control.concurrencyremote;
        for lane in [&self.local, &self.remote] {
            metrics::gauge!("mailtree_permits_limit", "permit" => lane.channel.name()).set(lane.limit as f64);
        }
        self.control = control;
    }

    fn reread(&mut self) {
        match self.controls.send_anew() {
            Ok(control) => {
                self.obey(control);
                self.bad = Arc::default();
                (self.pulled, self.look) = (true, true);
                self.log_status();
            }
            Err(error) => tracing::error!("alert: unable to reread controls, keeping the old ones: {error}"),
        }
    }

    fn status(&self) -> Status {
        Status {
            messages: self.messages.len(),
            local: self.local.used,
            concurrencylocal: self.local.limit,
            remote: self.remote.used,
            concurrencyremote: self.remote.limit,
            paused: self.paused,
        }
    }

    fn log_status(&self) {
        let (l, cl, r, cr) = (self.local.used, self.local.limit, self.remote.used, self.remote.limit);
        let exitasap = if self.exitasap { " exitasap" } else { "" };
        tracing::info!(local = l, remote = r, "status: local {l}/{cl} remote {r}/{cr}{exitasap}");
    }
}

/// How an address stands in the log.
fn shown(address: &[u8]) -> String {
    safe(address)
}
