//! Preprocessing: from `todo` into `info`, `local` and `remote`.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::route::route;
use ractor::ActorProcessingErr;

use super::mail::{Mail, Side};
use super::{ENDING, Message, State, shown};
use crate::clock::unix_now;
use crate::queue::Route;
use crate::queue::disk::{NewMessage, Preprocessed};
use crate::queue::sync::Error as DiskError;

/// Messages preprocessed together.
const BATCH: usize = 256;

impl State {
    pub(super) fn look_at_todo(&mut self) {
        if self.preprocessing || !self.pulled || self.ending >= ENDING {
            return;
        }
        let Some(running) = self.running() else { return };
        self.preprocessing = true;
        self.pulled = false;
        self.queue.trigger().set();
        let control = Arc::clone(&self.control);
        let rewrite: Route = Arc::new(move |recipient| {
            let routed = route(
                recipient,
                &control.locals,
                &control.virtualdomains,
                &control.percenthack,
                control.envnoathost.as_bytes(),
            );
            (routed.channel, routed.address)
        });
        let (queue, except, myself) = (self.queue.clone(), Arc::clone(&self.bad), self.myself.clone());
        tokio::spawn(async move {
            let result = queue.preprocess(rewrite, BATCH, except).await;
            drop(running);
            drop(myself.cast(Message::Preprocessed(result)));
        });
    }

    pub(super) fn preprocessed(
        &mut self,
        result: Result<Preprocessed, DiskError>,
    ) -> Result<(), ActorProcessingErr> {
        self.preprocessing = false;
        let Preprocessed { messages, failed, more } = match result {
            Ok(preprocessed) => preprocessed,
            Err(DiskError::Gone) => {
                // The queue service is down; nothing was done. The next tick tries again.
                self.next_todo = unix_now() + 1;
                return Ok(());
            }
            // Some messages may have left todo: whoever starts anew finds them.
            Err(error) => return Err(format!("unable to preprocess todo: {error}").into()),
        };
        self.pulled |= more;
        if !failed.is_empty() {
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
        for message in messages {
            self.arrived(message);
        }
        Ok(())
    }

    fn arrived(&mut self, message: NewMessage) {
        let NewMessage { id, bytes, birth, envelope, local, remote } = message;
        let (sender, qp, uid) = (envelope.sender, envelope.qp, envelope.uid);
        tracing::info!(msg = id.0, "new msg {id}");
        tracing::info!(
            msg = id.0, bytes, sender = %String::from_utf8_lossy(&sender), qp, uid,
            "info msg {id}: bytes {bytes} from <{}> qp {qp} uid {uid}", shown(&sender)
        );
        let serial = self.next_serial();
        let mail = Mail {
            sender,
            birth,
            serial,
            local: Side::Finished,
            remote: Side::Finished,
            bouncing: false,
            removed: false,
            ending: false,
        };
        // An entry that is still there is a removed message with this number, about to say so.
        self.messages.insert(id, mail);
        for (channel, recipients) in [(Channel::Local, local), (Channel::Remote, remote)] {
            if !recipients.is_empty() {
                self.arrived_on(id, channel, recipients, birth);
            }
        }
        self.end_if_settled(id);
    }

    /// The first pass uses what is in memory, if it can begin soon; otherwise only the id is kept.
    fn arrived_on(&mut self, id: MessageId, channel: Channel, recipients: Vec<Recipient>, birth: u64) {
        let lane = self.lane(channel);
        if lane.ready.len() < lane.limit {
            self.begin_pass(id, channel, recipients);
            return;
        }
        lane.schedule.push(Reverse((birth, id)));
        if let Some(mail) = self.messages.get_mut(&id) {
            *mail.side(channel) = Side::Waiting(birth);
        }
    }
}
