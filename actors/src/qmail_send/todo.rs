//! New messages: from the queue into the schedule, and what other programs put into `todo`.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::route::route;

use super::mail::{Mail, Side};
use super::{ENDING, Message, State, shown};
use crate::clock::unix_now;
use crate::queue::{Arrival, Error, NewMessage};

/// Messages taken together.
const BATCH: usize = 256;

impl State {
    /// Takes what has come.
    pub(super) fn take_arrivals(&mut self) {
        if !self.pulled || self.ending >= ENDING {
            return;
        }
        self.notice_controls();
        self.look |= self.queue.trigger().set();
        let now = unix_now();
        self.unseen.extend(self.queue.surfaced().into_iter().map(|id| (now, id)));
        for (id, channel) in self.queue.reopened() {
            self.reopened(id, channel);
        }
        let control = Arc::clone(&self.control);
        let rewrite = move |recipient: &[u8]| {
            let routed = route(
                recipient,
                &control.locals,
                &control.virtualdomains,
                &control.percenthack,
                control.envnoathost.as_bytes(),
            );
            (routed.channel, routed.address)
        };
        let arrivals = self.queue.arrivals(BATCH, &rewrite);
        self.pulled = arrivals.len() == BATCH;
        for arrival in arrivals {
            match arrival {
                Arrival::Message(message) => self.arrived(message),
                Arrival::Place(id) => self.place(id),
            }
        }
        if self.pulled {
            // The rest after what else there is to do.
            self.queue.trigger().pull();
        }
    }

    /// Looks for messages of other programs, when there may be some.
    pub(super) fn look_into_todo(&mut self) {
        if self.looking || !self.look {
            return;
        }
        let Some(running) = self.running() else { return };
        (self.looking, self.look) = (true, false);
        let (queue, except, myself) = (self.queue.clone(), Arc::clone(&self.bad), self.myself.clone());
        drop(tokio::task::spawn_blocking(move || {
            let result = queue.look_into_todo(&except).map_err(|error| error.to_string());
            drop(running);
            drop(myself.cast(Message::Looked(result)));
        }));
    }

    pub(super) fn looked(&mut self, result: Result<Vec<(MessageId, String)>, String>) {
        self.looking = false;
        match result {
            Ok(failed) if failed.is_empty() => (),
            Ok(failed) => {
                let mut bad: HashSet<MessageId> = self.bad.as_ref().clone();
                for (id, cause) in failed {
                    tracing::error!(
                        msg = id.0,
                        "alert: unable to preprocess todo/{id}; will try again later: {cause}"
                    );
                    bad.insert(id);
                }
                self.bad = Arc::new(bad);
            }
            Err(cause) => tracing::error!("alert: unable to read todo; will try again later: {cause}"),
        }
    }

    fn place(&self, id: MessageId) {
        let Some(running) = self.running() else { return };
        let (queue, myself) = (self.queue.clone(), self.myself.clone());
        tokio::spawn(async move {
            let result = queue.place(id).await;
            drop(running);
            drop(myself.cast(Message::Placed { id, result }));
        });
    }

    pub(super) fn placed(&mut self, id: MessageId, result: Result<Option<NewMessage>, Error>) {
        match result {
            Ok(Some(message)) => self.arrived(message),
            // It is surfacing.
            Ok(None) => (),
            Err(error) => {
                tracing::warn!(
                    msg = id.0,
                    "warning: unable to preprocess todo/{id}; will try again later: {error}"
                );
                self.unplaced.push((unix_now() + 1, id));
            }
        }
    }

    /// Tries those again that could not be placed.
    pub(super) fn place_again(&mut self, now: u64) {
        let (due, later): (Vec<_>, Vec<_>) = self.unplaced.drain(..).partition(|(due, _)| *due <= now);
        self.unplaced = later;
        for (_, id) in due {
            self.place(id);
        }
    }

    pub(super) fn arrived(&mut self, message: NewMessage) {
        let NewMessage { id, bytes, birth, uid, qp, sender, local, remote, bouncing, next, again } = message;
        tracing::info!(msg = id.0, "new msg {id}");
        tracing::info!(
            msg = id.0, bytes, sender = %String::from_utf8_lossy(&sender), qp, uid,
            "info msg {id}: bytes {bytes} from <{}> qp {qp} uid {uid}", shown(&sender)
        );
        let serial = self.next_serial();
        // Nobody is left on one channel before the other has been looked at: that alone does not end the message.
        let side = |recipients: &[Recipient], channel: Channel| match recipients {
            [] => Side::Finished,
            _ => Side::Waiting(next[channel as usize]),
        };
        let mail = Mail {
            sender,
            birth,
            serial,
            again,
            local: side(&local, Channel::Local),
            remote: side(&remote, Channel::Remote),
            bouncing,
            removed: false,
            ending: false,
        };
        // An entry that is still there is a removed message with this number, about to say so.
        self.messages.insert(id, mail);
        for (channel, recipients) in [(Channel::Local, local), (Channel::Remote, remote)] {
            if !recipients.is_empty() {
                self.arrived_on(id, channel, recipients, next[channel as usize]);
            }
        }
        self.end_if_settled(id);
    }

    /// The first pass uses what is in memory, if it can begin soon; otherwise only the id is kept.
    fn arrived_on(&mut self, id: MessageId, channel: Channel, recipients: Vec<Recipient>, due: u64) {
        let lane = self.lane(channel);
        if lane.ready.len() < lane.limit && due <= unix_now() {
            self.begin_pass(id, channel, recipients);
            return;
        }
        lane.schedule.push(Reverse((due, id)));
        if let Some(mail) = self.messages.get_mut(&id) {
            *mail.side(channel) = Side::Waiting(due);
        }
    }

    /// A delivery that counted as done was not durable: the channel is looked at again.
    fn reopened(&mut self, id: MessageId, channel: Channel) {
        let now = unix_now();
        let Some(mail) = self.messages.get_mut(&id) else { return };
        tracing::warn!(msg = id.0, "warning: msg {id}: a delivery was not durable; it is done again");
        mail.again = true;
        match mail.side(channel) {
            Side::Passing(pass) => pass.left += 1,
            Side::Loading => (),
            side @ (Side::Waiting(_) | Side::Finished) => {
                *side = Side::Waiting(now);
                self.lane(channel).schedule.push(Reverse((now, id)));
            }
        }
    }
}
