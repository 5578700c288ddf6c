//! The messages that are not in S5: in the journal (J), or just accepted into files (S4). What the scheduler does with
//! them happens here, in memory, and in the journal; most of them are delivered before anybody writes them out.
//!
//! One lock, held for moments and never while something waits.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::journal::{Lsn, MaildirFile, Outcome, Record};
use mailtree_protocols::queue::{Channel, MessageId};

use super::body::Body;
use super::disk::{Content, Place};
use super::{Arrival, NewMessage, Rewrite, Settled};
use crate::maildir::DOUBTED;
pub(super) use entry::{Addressee, Backing, Entry, Fate, Leftover, Stage};

/// The table.
#[derive(Default)]
pub(super) struct Live(Mutex<Table>);

#[derive(Default)]
struct Table {
    entries: HashMap<MessageId, Entry>,
    /// To be told to the scheduler.
    fresh: VecDeque<MessageId>,
    /// Recipients that the scheduler takes for done and that are not: their file was not durable.
    reopened: Vec<(MessageId, Channel)>,
    /// Written out before the scheduler had heard of them.
    surfaced: Vec<MessageId>,
    /// Being accepted into files: nobody else takes them for found.
    expected: HashSet<MessageId>,
}

/// What is to be done about recipients that were settled.
pub(super) enum Settling {
    /// It is noted here; the journal is to be told.
    Noted(Vec<Record>),
    /// The message is in S5: the files are to be told.
    Files,
    /// It is being written out: ask again when that is over.
    Busy,
}

/// What is to be done about a message that ends.
pub(super) enum Ending {
    /// It is gone, or waits for a checkpoint; the journal is to be told. True: files of it, written before a crash, are to
    /// be removed when the journal knows.
    Noted(Record, bool),
    /// Its files are to be removed, and then [`Live::remove`].
    Files,
    /// It was gone before.
    Over,
    /// Somebody must get it again: it does not end.
    Reopened,
    /// It is being written out: ask again when that is over.
    Busy,
}

/// A recipient of a message in the journal, for the list of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) id: MessageId,
    pub(super) nth: usize,
}

/// A message that is to be written out.
pub(super) struct Leaving {
    pub(super) place: Place,
    pub(super) backing: Backing,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message that is accepted.
    pub(super) fn insert(&self, entries: impl IntoIterator<Item = (MessageId, Entry)>) {
        let mut table = self.lock();
        for (id, entry) in entries {
            table.fresh.push_back(id);
            table.entries.insert(id, entry);
        }
    }

    /// A message found in `todo`, unless it is known.
    pub(super) fn found(&self, id: MessageId, entry: Entry) {
        let mut table = self.lock();
        if !table.entries.contains_key(&id) && !table.expected.contains(&id) {
            table.fresh.push_back(id);
            table.entries.insert(id, entry);
        }
    }

    /// `todo/ID` is about to appear: it is not [`Live::found`] until [`Live::unexpect`].
    pub(super) fn expect(&self, id: MessageId) {
        self.lock().expected.insert(id);
    }

    pub(super) fn unexpect(&self, id: MessageId) {
        self.lock().expected.remove(&id);
    }

    /// Whether it is here, or about to be.
    pub(super) fn knows(&self, id: MessageId) -> bool {
        let table = self.lock();
        table.entries.contains_key(&id) || table.expected.contains(&id)
    }

    /// Whether it is in the journal.
    pub(super) fn is_journalled(&self, id: MessageId) -> bool {
        self.lock().entries.get(&id).is_some_and(|entry| entry.backing.serial().is_some())
    }

    /// Messages here.
    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Messages whose only place is the journal.
    pub(super) fn in_journal(&self) -> usize {
        self.lock().entries.values().filter(|entry| entry.backing.serial().is_some()).count()
    }

    /// All of them.
    pub(super) fn ids(&self) -> HashSet<MessageId> {
        let table = self.lock();
        table.entries.keys().copied().chain(table.expected.iter().copied()).collect()
    }

    /// Up to `limit` messages for the scheduler, whose recipients go where `route` says.
    pub(super) fn arrivals(&self, limit: usize, route: Rewrite<'_>) -> Vec<Arrival> {
        let mut table = self.lock();
        let mut arrivals = Vec::new();
        while arrivals.len() < limit
            && let Some(id) = table.fresh.pop_front()
        {
            let Some(entry) = table.entries.get_mut(&id) else { continue };
            // One being written out as unrouted is found in todo.
            if entry.stage != Stage::Fresh || entry.writing {
                continue;
            }
            if !entry.routed {
                entry.route(route);
            }
            for one in &mut entry.recipients {
                one.lost = false;
            }
            // It is known when it is placed: until then whoever writes it out has the scheduler look at the files.
            if entry.is_placed_first() {
                arrivals.push(Arrival::Place(id));
            } else {
                entry.stage = Stage::Known;
                arrivals.push(Arrival::Message(entry.as_new(id)));
            }
        }
        arrivals
    }

    /// A scheduler that starts hears of all messages again.
    pub(super) fn announce_all(&self) {
        let mut table = self.lock();
        table.reopened.clear();
        let Table { entries, fresh, .. } = &mut *table;
        fresh.clear();
        let mut ids: Vec<_> = entries.iter_mut().filter(|(_, entry)| entry.stage != Stage::Ended).collect();
        ids.sort_by_key(|(_, entry)| entry.birth);
        for (id, entry) in ids {
            entry.again |= entry.stage == Stage::Known;
            entry.stage = Stage::Fresh;
            fresh.push_back(*id);
        }
    }

    /// Messages of which the scheduler must look again who is left.
    pub(super) fn reopened(&self) -> Vec<(MessageId, Channel)> {
        std::mem::take(&mut self.lock().reopened)
    }

    /// Messages that are in S5 and that the scheduler has not heard of.
    pub(super) fn surfaced(&self) -> Vec<MessageId> {
        std::mem::take(&mut self.lock().surfaced)
    }

    /// Who is listed on a channel of a message that is here.
    pub(super) fn recipients(&self, id: MessageId, channel: Channel) -> Option<Vec<Recipient>> {
        let mut table = self.lock();
        let entry = table.entries.get_mut(&id).filter(|entry| entry.routed)?;
        for one in entry.recipients.iter_mut().filter(|one| one.channel == channel) {
            one.lost = false;
        }
        Some(entry.recipients(channel))
    }

    /// The message itself, if it is in memory.
    pub(super) fn body(&self, id: MessageId) -> Option<Body> {
        self.lock().entries.get(&id)?.body.clone().map(Body::memory)
    }

    /// What the bounce of a message that is here will say.
    pub(super) fn bounce(&self, id: MessageId) -> Option<Vec<u8>> {
        self.lock().entries.get(&id).map(|entry| entry.bounce.clone())
    }

    /// A copy of the message lies in Maildirs, not durably. If the journal stands behind it, the recipient counts as done,
    /// and a checkpoint must follow ([`Live::durable`]); otherwise none: the caller makes the files durable.
    pub(super) fn delivered(
        &self,
        (id, birth): (MessageId, u64),
        (channel, offset): (Channel, u64),
        maildirs: Vec<MaildirFile>,
    ) -> Option<(Noted, Record)> {
        let mut table = self.lock();
        // A thread that nobody waits for any more may speak of a message whose number is another's by now.
        let entry = table.entries.get_mut(&id).filter(|entry| entry.birth == birth)?;
        let serial = entry.backing.serial()?;
        if entry.writing {
            return None;
        }
        let nth = entry.nth(channel, offset)?;
        if entry.recipients[nth].unlucky {
            return None;
        }
        entry.recipients[nth].fate = Fate::Unsynced;
        entry.unsynced += 1;
        let recipient = u32::try_from(nth).unwrap_or(u32::MAX);
        let record = Record::Done { serial, recipient, outcome: Outcome::Delivered { maildirs } };
        Some((Noted { id, nth }, record))
    }

    /// What has become of recipients.
    pub(super) fn settle(&self, settled: &Settled) -> Settling {
        let mut table = self.lock();
        let Some(entry) = table.entries.get_mut(&settled.id) else { return Settling::Files };
        if entry.writing {
            return Settling::Busy;
        }
        let mut records = Vec::new();
        for (offset, paragraph) in &settled.done {
            let Some(nth) = entry.nth(settled.channel, *offset) else { continue };
            // What its delivery has noted already stays as it is.
            if entry.recipients[nth].fate != Fate::Open || entry.recipients[nth].lost {
                continue;
            }
            entry.recipients[nth].fate = Fate::Done;
            if let Some(paragraph) = paragraph {
                entry.recipients[nth].failed = true;
                entry.bounce.extend_from_slice(paragraph);
            }
            if let Some(serial) = entry.backing.serial() {
                let outcome = match paragraph {
                    Some(paragraph) => Outcome::Failed { paragraph: paragraph.clone() },
                    None => Outcome::Delivered { maildirs: Vec::new() },
                };
                let recipient = u32::try_from(nth).unwrap_or(u32::MAX);
                records.push(Record::Done { serial, recipient, outcome });
            }
        }
        if let Some(retry) = settled.retry {
            entry.next[settled.channel as usize] = retry;
        }
        Settling::Noted(records)
    }

    /// A forward of the message is in the journal, with the note that this recipient is done.
    pub(super) fn done(&self, id: MessageId, channel: Channel, offset: u64) {
        let mut table = self.lock();
        if let Some(entry) = table.entries.get_mut(&id)
            && let Some(nth) = entry.nth(channel, offset)
        {
            entry.recipients[nth].fate = Fate::Done;
        }
    }

    /// The serial and the place of a recipient, if the journal stands behind the message.
    pub(super) fn journalled(&self, id: MessageId, channel: Channel, offset: u64) -> Option<Record> {
        let table = self.lock();
        let entry = table.entries.get(&id).filter(|entry| !entry.writing)?;
        let (serial, nth) = (entry.backing.serial()?, entry.nth(channel, offset)?);
        let recipient = u32::try_from(nth).unwrap_or(u32::MAX);
        Some(Record::Done { serial, recipient, outcome: Outcome::Delivered { maildirs: Vec::new() } })
    }

    /// The record that the bounce of the message is queued, if the journal stands behind it.
    pub(super) fn bouncing(&self, id: MessageId, qp: u64) -> Option<Record> {
        let table = self.lock();
        let entry = table.entries.get(&id).filter(|entry| !entry.writing && !entry.bounced)?;
        Some(Record::Bounced { serial: entry.backing.serial()?, qp })
    }

    /// The bounce of the message is queued.
    pub(super) fn bounced(&self, id: MessageId) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.bounced = true;
        }
    }

    /// The message is settled, or removed whatever is left of it.
    pub(super) fn end(&self, id: MessageId, removed: bool) -> Ending {
        let mut table = self.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return Ending::Files };
        if entry.writing {
            return Ending::Busy;
        }
        if entry.stage == Stage::Ended {
            // Files that an administrator's removal left, or that could not be removed before.
            return match entry.backing.serial() {
                Some(serial) if entry.leftover == Leftover::Files => {
                    Ending::Noted(Record::Ended { serial }, true)
                }
                Some(_) => Ending::Over,
                None => Ending::Files,
            };
        }
        if !removed && entry.recipients.iter().any(|one| one.fate == Fate::Open) {
            entry.stage = Stage::Fresh;
            entry.again = true;
            table.fresh.push_back(id);
            return Ending::Reopened;
        }
        entry.stage = Stage::Ended;
        entry.place = None;
        entry.struck |= removed;
        match entry.backing.serial() {
            Some(serial) => Ending::Noted(Record::Ended { serial }, entry.leftover == Leftover::Files),
            None => Ending::Files,
        }
    }

    /// What was written of a message in the journal and counts for nothing is gone.
    pub(super) fn removed_leftover(&self, id: MessageId) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.leftover = Leftover::Removed;
        }
    }

    /// What the removal of a message left, if nothing of it waits for a checkpoint or to be removed.
    pub(super) fn forget_ended(&self, id: MessageId) -> Option<Entry> {
        let mut table = self.lock();
        let entry = table.entries.get(&id)?;
        if entry.stage != Stage::Ended || entry.unsynced > 0 || entry.leftover == Leftover::Files {
            return None;
        }
        table.entries.remove(&id)
    }

    /// Whether it is being written out.
    pub(super) fn is_writing(&self, id: MessageId) -> bool {
        self.lock().entries.get(&id).is_some_and(|entry| entry.writing)
    }

    /// The files of a message that has ended are gone. Its number was free before this is said, and may be another's by now.
    pub(super) fn remove_ended(&self, id: MessageId) {
        let mut table = self.lock();
        if table.entries.get(&id).is_some_and(|entry| entry.stage == Stage::Ended) {
            table.entries.remove(&id);
        }
    }

    /// The files of a recipient are durable. What is left of a message that has ended meanwhile.
    pub(super) fn durable(&self, Noted { id, nth }: Noted) -> Option<Entry> {
        {
            let mut table = self.lock();
            let entry = table.entries.get_mut(&id)?;
            entry.unsynced = entry.unsynced.saturating_sub(1);
            if let Some(one) = entry.recipients.get_mut(nth) {
                one.fate = Fate::Done;
            }
        }
        self.forget_ended(id)
    }

    /// The files of a recipient could not be made durable: it is not done, and the scheduler hears of it.
    pub(super) fn lost(&self, Noted { id, nth }: Noted) {
        let mut table = self.lock();
        let Table { entries, fresh, reopened, .. } = &mut *table;
        let Some(entry) = entries.get_mut(&id) else { return };
        entry.unsynced = entry.unsynced.saturating_sub(1);
        if entry.struck {
            // Nobody is to get it again.
            return;
        }
        entry.again = true;
        let Some(one) = entry.recipients.get_mut(nth) else { return };
        one.fate = Fate::Open;
        (one.lost, one.unlucky) = (true, true);
        match entry.stage {
            Stage::Ended => {
                entry.stage = Stage::Fresh;
                fresh.push_back(id);
            }
            Stage::Known => reopened.push((id, one.channel)),
            Stage::Fresh => (),
        }
    }

    /// Whether copies for a recipient could not be made durable.
    pub(super) fn is_unlucky(
        &self,
        (id, birth): (MessageId, u64),
        (channel, offset): (Channel, u64),
    ) -> bool {
        let table = self.lock();
        let entry = table.entries.get(&id).filter(|entry| entry.birth == birth);
        entry.is_some_and(|entry| entry.nth(channel, offset).is_some_and(|nth| entry.recipients[nth].unlucky))
    }

    /// The notes that copies for a recipient could not be made durable: after a crash nobody takes them for whole, or for
    /// removed by their owner.
    pub(super) fn doubted(&self, Noted { id, nth }: Noted, copies: Vec<MaildirFile>) -> Option<Record> {
        let table = self.lock();
        let serial = table.entries.get(&id)?.backing.serial()?;
        let maildirs = copies.into_iter().map(|copy| MaildirFile { mount: DOUBTED, ..copy }).collect();
        let recipient = u32::try_from(nth).unwrap_or(u32::MAX);
        Some(Record::Done { serial, recipient, outcome: Outcome::Delivered { maildirs } })
    }

    /// The oldest message in the journal for whom a copy that the journal names is not durable: no checkpoint may say so.
    pub(super) fn doubt(&self) -> Option<Lsn> {
        let table = self.lock();
        let doubtful =
            |entry: &&Entry| entry.recipients.iter().any(|one| one.unlucky && one.fate != Fate::Done);
        table.entries.values().filter(doubtful).filter_map(|entry| entry.backing.lsn()).min()
    }

    /// The oldest batch of the journal that is still needed.
    pub(super) fn needed(&self) -> Option<Lsn> {
        self.lock().entries.values().filter_map(|entry| entry.backing.lsn()).min()
    }

    /// Messages to be written out: those that were accepted `age` ago, and enough of the oldest that `keep` stay.
    pub(super) fn leaving(&self, age: Duration, keep: usize) -> Vec<MessageId> {
        let now = Instant::now();
        let table = self.lock();
        let mut candidates: Vec<_> = table
            .entries
            .iter()
            .filter(|(_, entry)| entry.stage != Stage::Ended && !entry.writing && entry.unsynced == 0)
            .filter(|(_, entry)| entry.backing.serial().is_some() || entry.routed)
            .map(|(id, entry)| (entry.arrived, *id))
            .collect();
        candidates.sort_unstable_by_key(|(arrived, id)| (*arrived, id.0));
        // What has ended only waits for a checkpoint.
        let alive = table.entries.values().filter(|entry| entry.stage != Stage::Ended).count();
        let beyond = alive.saturating_sub(keep);
        let old = candidates.partition_point(|(arrived, _)| now.duration_since(*arrived) >= age);
        candidates.truncate(old.max(beyond));
        candidates.into_iter().map(|(_, id)| id).collect()
    }

    /// Begins writing a message out; none if there is nothing to write any more.
    pub(super) fn leave(&self, id: MessageId) -> Option<Leaving> {
        let mut table = self.lock();
        let entry = table.entries.get_mut(&id)?;
        if entry.writing || entry.stage == Stage::Ended || entry.unsynced > 0 {
            return None;
        }
        let mess = match (&entry.backing, &entry.body) {
            (Backing::Journal { spare, .. }, Some(body)) => Some((body.clone(), *spare)),
            (Backing::Journal { .. }, None) => return None,
            (Backing::Todo, _) => None,
        };
        let content = if entry.routed { entry.preprocessed() } else { Content::Todo(entry.envelope()?) };
        entry.writing = true;
        let place = Place { id, birth: entry.birth, mess, content };
        Some(Leaving { place, backing: entry.backing.clone() })
    }

    /// It is written out, and the journal knows: it is in S5, or, if nobody has routed it, in S4.
    pub(super) fn left(&self, id: MessageId) -> Option<Entry> {
        let mut table = self.lock();
        let entry = table.entries.remove(&id)?;
        if entry.routed && entry.stage == Stage::Fresh {
            table.surfaced.push(id);
        }
        Some(entry)
    }

    /// It could not be written out: it stays.
    pub(super) fn stayed(&self, id: MessageId) {
        let mut table = self.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return };
        entry.writing = false;
        // Some of its files may be there.
        if entry.backing.serial().is_some() {
            entry.leftover = Leftover::Files;
        }
        let fresh = entry.stage == Stage::Fresh;
        if fresh && !table.fresh.contains(&id) {
            table.fresh.push_back(id);
        }
    }

    /// Begins placing a message before its first delivery, as the scheduler will hear of it; none if the scheduler hears of it
    /// in another way: it has been written out meanwhile ([`Live::surfaced`]), or is gone.
    pub(super) fn placing(&self, id: MessageId) -> Option<NewMessage> {
        let mut table = self.lock();
        let entry =
            table.entries.get_mut(&id).filter(|entry| entry.stage == Stage::Fresh && !entry.writing)?;
        entry.stage = Stage::Known;
        Some(entry.as_new(id))
    }

    /// Whether it is still here, not placed: the scheduler will ask again.
    pub(super) fn unplaced(&self, id: MessageId) -> bool {
        let mut table = self.lock();
        match table.entries.get_mut(&id).filter(|entry| entry.stage == Stage::Known) {
            Some(entry) => {
                entry.stage = Stage::Fresh;
                true
            }
            None => false,
        }
    }
}
