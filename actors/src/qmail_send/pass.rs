//! A walk through the recipients of a message on one channel, and what its deliveries report.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mailtree_config::control::Remote as Controls;
use mailtree_protocols::address;
use mailtree_protocols::bounce::{is_verp, paragraph, sender_for};
use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::report::{Class, Report, safe};
use mailtree_protocols::schedule::{SYSFAIL, is_dying, next_retry};
use mailtree_protocols::smtproutes::Route;

use super::mail::{Attempt, Group, Pass, Side};
use super::{ENDING, Message, State, shown};
use crate::clock::unix_now;
use crate::delivery::{Delivery, ReportPort, Reported};
use crate::queue::{Answer, Error, Settled};
use crate::spawn;

/// Recipients of one transaction; every host takes that many (RFC 5321 4.5.3.1.8).
const TRANSACTION: usize = 100;

impl State {
    /// Begins what is due on `channel` while there is room.
    pub(super) fn fill(&mut self, channel: Channel) {
        let now = unix_now();
        while !self.paused && self.ending < ENDING && self.lane(channel).has_room() {
            if let Some(id) = self.lane(channel).ready.pop_front() {
                self.begin_delivery(id, channel);
                continue;
            }
            let lane = self.lane(channel);
            match lane.schedule.peek() {
                Some(Reverse((due, _))) if *due <= now => (),
                _ => break,
            }
            if let Some(Reverse((due, id))) = lane.schedule.pop() {
                self.load(id, channel, due);
            }
        }
    }

    /// Reads who is left.
    fn load(&mut self, id: MessageId, channel: Channel, due: u64) {
        let Some(mail) = self.messages.get_mut(&id) else { return };
        let side = mail.side(channel);
        // An entry of the schedule that was overtaken by a retry is stale.
        if !matches!(side, Side::Waiting(at) if *at == due) {
            return;
        }
        let Some(running) = self.running.try_acquire() else { return };
        *side = Side::Loading;
        self.lane(channel).loading += 1;
        let reading = match self.queue.recipients(id, channel) {
            Answer::Now(recipients) => {
                return self.loaded(id, channel, recipients.map_err(|error| error.to_string()));
            }
            Answer::Later(reading) => reading,
        };
        let myself = self.myself.clone();
        tokio::spawn(async move {
            let recipients = reading.await.map_err(|error| error.to_string());
            drop(running);
            drop(myself.cast(Message::Loaded { id, channel, recipients }));
        });
    }

    pub(super) fn loaded(
        &mut self,
        id: MessageId,
        channel: Channel,
        recipients: Result<Vec<Recipient>, String>,
    ) {
        let lane = self.lane(channel);
        lane.loading = lane.loading.saturating_sub(1);
        match recipients {
            Ok(recipients) => self.begin_pass(id, channel, recipients),
            Err(cause) => {
                let name = channel.name();
                tracing::warn!(
                    msg = id.0,
                    "warning: unable to open {name}/{id}; will try again later: {cause}"
                );
                self.wait_until(id, channel, unix_now() + SYSFAIL);
            }
        }
    }

    fn wait_until(&mut self, id: MessageId, channel: Channel, due: u64) {
        let Some(mail) = self.messages.get_mut(&id) else { return };
        if mail.removed {
            *mail.side(channel) = Side::Finished;
            self.end_if_settled(id);
            return;
        }
        *mail.side(channel) = Side::Waiting(due);
        self.lane(channel).schedule.push(Reverse((due, id)));
    }

    /// Begins a pass over those of `recipients` that are not done.
    pub(super) fn begin_pass(&mut self, id: MessageId, channel: Channel, recipients: Vec<Recipient>) {
        let lifetime = self.control.queuelifetime.as_secs();
        let Some(mail) = self.messages.get_mut(&id) else { return };
        let left: Vec<Recipient> = recipients.into_iter().filter(|recipient| !recipient.done).collect();
        let count = left.len();
        if count == 0 || mail.removed {
            *mail.side(channel) = Side::Finished;
            self.end_if_settled(id);
            return;
        }
        let dying = is_dying(mail.born(), unix_now(), lifetime);
        let verp = is_verp(&mail.sender);
        let pending = match channel {
            Channel::Local => one_by_one(left),
            Channel::Remote => match self.controls.remote() {
                Ok(control) => Self::by_destination(&control, left, verp),
                Err(error) => {
                    // Without smtproutes nobody knows the way.
                    tracing::error!(msg = id.0, "alert: unable to read controls: {error}");
                    self.wait_until(id, channel, unix_now() + SYSFAIL);
                    return;
                }
            },
        };
        if let Some(mail) = self.messages.get_mut(&id) {
            let pass = Pass { pending, in_flight: 0, left: count, dying };
            *mail.side(channel) = Side::Passing(Box::new(pass));
            self.lane(channel).ready.push_back(id);
        }
    }

    /// Recipients that the same next host takes share a transaction, but not with VERP.
    fn by_destination(control: &Controls, recipients: Vec<Recipient>, verp: bool) -> VecDeque<Group> {
        let mut groups: BTreeMap<Vec<u8>, Group> = BTreeMap::new();
        for recipient in recipients {
            let domain = address::split(&recipient.address).1.unwrap_or_default().to_ascii_lowercase();
            let route = control.smtproutes.lookup(&domain).clone();
            let key = match &route {
                Route::Mx => domain,
                Route::Relay { host, port } => format!("\0{host:?} {port:?}").into_bytes(),
                Route::Unknown { cause } => format!("\0{cause}").into_bytes(),
            };
            groups
                .entry(key)
                .or_insert_with(|| Group { recipients: Vec::new(), route })
                .recipients
                .push(recipient);
        }
        let size = if verp { 1 } else { TRANSACTION };
        let mut pending = VecDeque::new();
        for mut group in groups.into_values() {
            while !group.recipients.is_empty() {
                let rest = group.recipients.split_off(size.min(group.recipients.len()));
                let recipients = std::mem::replace(&mut group.recipients, rest);
                pending.push_back(Group { recipients, route: group.route.clone() });
            }
        }
        pending
    }

    fn begin_delivery(&mut self, id: MessageId, channel: Channel) {
        let Some(mail) = self.messages.get_mut(&id) else { return };
        let (sender, birth, again) = (mail.sender.clone(), mail.birth, mail.again);
        let Side::Passing(pass) = mail.side(channel) else { return };
        let Some(group) = pass.pending.pop_front() else { return };
        let more = !pass.pending.is_empty();
        let Some(running) = self.running.try_acquire() else {
            pass.pending.push_front(group);
            self.lane(channel).ready.push_back(id);
            return;
        };
        pass.in_flight += 1;
        let serial = self.next_serial();
        let mut recipients = Vec::with_capacity(group.recipients.len());
        for recipient in group.recipients {
            self.last_delivery += 1;
            let delivery = self.last_delivery;
            let (to, name) = (shown(&recipient.address), channel.name());
            tracing::info!(
                msg = id.0, delivery, channel = name, recipient = %String::from_utf8_lossy(&recipient.address),
                "starting delivery {delivery}: msg {id} to {name} {to}"
            );
            recipients.push((delivery, recipient));
        }
        let lane = self.lane(channel);
        lane.set_used(lane.used + 1);
        if more {
            // Messages take turns.
            lane.ready.push_back(id);
        }
        let to: Vec<Recipient> = recipients.iter().map(|(_, recipient)| recipient.clone()).collect();
        let sender = match &*to {
            [only] => sender_for(&sender, &only.address),
            _ => sender,
        };
        self.attempts.insert(serial, Attempt { id, channel, recipients });
        self.log_status();
        let (crashed, spawn) = match channel {
            Channel::Local => ("qmail-local crashed.\n", &self.lspawn),
            Channel::Remote => ("qmail-remote crashed.\n", &self.rspawn),
        };
        let report = Arc::new(ReportPort::new(Arc::clone(&self.hear), serial, crashed, running));
        let delivery = Delivery {
            id,
            birth,
            sender,
            recipients: to,
            channel,
            route: group.route,
            serial,
            again,
            report,
        };
        // A spawner that is gone drops the delivery, and that is reported.
        drop(spawn.cast(spawn::Message::Deliver(delivery)));
    }

    /// The slot is free with the report: what is noted on disk afterwards holds up nobody.
    pub(super) fn reported(&mut self, Reported { serial, reports, crashed }: Reported) {
        let Some(Attempt { id, channel, .. }) = self.attempts.get(&serial) else { return };
        let (id, channel) = (*id, *channel);
        let lane = self.lane(channel);
        lane.set_used(lane.used.saturating_sub(1));
        let Some(Attempt { recipients, .. }) = self.attempts.get(&serial) else { return };
        let dying = match self.messages.get_mut(&id).map(|mail| mail.side(channel)) {
            Some(Side::Passing(pass)) => pass.dying,
            _ => false,
        };
        let mut reports = reports.into_iter();
        let (mut done, mut deferred) = (Vec::new(), false);
        for (delivery, recipient) in recipients {
            let report = reports.next().unwrap_or_else(|| Report::deferral(crashed));
            let report = if dying { report.at_the_end_of_its_life() } else { report };
            let (word, text) = (report.class.word(), safe(report.text.as_bytes()));
            tracing::info!(msg = id.0, delivery, result = word, "delivery {delivery}: {word}: {text}");
            match channel {
                Channel::Local => &self.local,
                Channel::Remote => &self.remote,
            }
            .results
            .count(report.class);
            match report.class {
                Class::Success => done.push((recipient.offset, None)),
                Class::Failure => {
                    let shown = self.control.virtualdomains.strip(&recipient.address);
                    done.push((recipient.offset, Some(paragraph(shown, &report.text))));
                }
                Class::Deferral => deferred = true,
            }
        }
        if let Some(mail) = self.messages.get_mut(&id) {
            // One that was given up may have been done all the same.
            mail.again |= deferred;
        }
        self.log_status();
        self.settle(serial, id, channel, done);
    }

    fn settle(&mut self, serial: u64, id: MessageId, channel: Channel, done: Vec<(u64, Option<Vec<u8>>)>) {
        let count = done.len();
        let mut finished = false;
        if let Some(mail) = self.messages.get_mut(&id)
            && let Side::Passing(pass) = mail.side(channel)
        {
            pass.left = pass.left.saturating_sub(count);
            // While another delivery is being settled the file is its, too; the end of the message removes it.
            finished = pass.left == 0 && pass.in_flight == 1 && pass.pending.is_empty();
        }
        if done.is_empty() {
            self.settled(serial, 0, false, Ok(()));
            return;
        }
        let bounced = done.iter().any(|(_, paragraph)| paragraph.is_some());
        let settling = match self.queue.settle(Settled { id, channel, done, finished, retry: None }) {
            Answer::Now(result) => return self.settled(serial, count, bounced, result),
            Answer::Later(settling) => settling,
        };
        let (myself, running) = (self.myself.clone(), self.running());
        tokio::spawn(async move {
            let result = settling.await;
            drop(running);
            drop(myself.cast(Message::Settled { serial, done: count, bounced, result }));
        });
    }

    pub(super) fn settled(&mut self, serial: u64, done: usize, bounced: bool, result: Result<(), Error>) {
        let Some(Attempt { id, channel, .. }) = self.attempts.remove(&serial) else { return };
        let failed = result.is_err();
        if let Err(error) = result {
            let name = channel.name();
            tracing::warn!(
                msg = id.0,
                "warning: trouble marking {name}/{id}; message will be delivered twice! ({error})"
            );
        }
        if let Some(mail) = self.messages.get_mut(&id) {
            mail.bouncing |= bounced && !failed;
            if let Side::Passing(pass) = mail.side(channel) {
                pass.in_flight -= 1;
                if failed {
                    pass.left += done;
                }
            }
        }
        self.end_pass_if_idle(id, channel);
    }

    /// Nothing is under way or to be begun on this channel: it is finished, or waits for its next time.
    pub(super) fn end_pass_if_idle(&mut self, id: MessageId, channel: Channel) {
        let Some(mail) = self.messages.get_mut(&id) else { return };
        let (birth, removed) = (mail.born(), mail.removed);
        let side = mail.side(channel);
        let Side::Passing(pass) = &*side else { return };
        if pass.in_flight > 0 || !pass.pending.is_empty() {
            return;
        }
        if pass.left == 0 || removed {
            *side = Side::Finished;
            self.end_if_settled(id);
            return;
        }
        let due = next_retry(birth, unix_now(), channel);
        self.wait_until(id, channel, due);
        let settled = Settled { id, channel, done: Vec::new(), finished: false, retry: Some(due) };
        let Answer::Later(noting) = self.queue.settle(settled) else { return };
        let running = self.running();
        tokio::spawn(async move {
            if let Err(error) = noting.await {
                // Only a restart would notice: it would try sooner.
                let name = channel.name();
                tracing::warn!(
                    msg = id.0,
                    "warning: unable to utime {name}/{id}; message will be retried too soon: {error}"
                );
            }
            drop(running);
        });
    }
}

fn one_by_one(recipients: Vec<Recipient>) -> VecDeque<Group> {
    recipients.into_iter().map(|one| Group { recipients: vec![one], route: Route::Mx }).collect()
}
