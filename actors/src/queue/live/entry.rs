//! One message of the table.

use std::sync::Arc;
use std::time::Instant;

use mailtree_protocols::envelope::{Envelope, Recipient};
use mailtree_protocols::journal::{Lsn, Serial};
use mailtree_protocols::queue::{Channel, MessageId};

use super::super::disk::Content;
use super::super::disk::spare::Spare;
use super::super::{NewMessage, Rewrite};
use crate::permit::Permit;

/// A message that is not in S5.
pub(in super::super) struct Entry {
    pub(in super::super) backing: Backing,
    /// When it was accepted, in microseconds since 1970.
    pub(in super::super) birth: u64,
    pub(in super::super) uid: u32,
    pub(in super::super) qp: u64,
    pub(in super::super) sender: Vec<u8>,
    /// In bytes.
    pub(in super::super) size: u64,
    /// In memory, for what is in the journal.
    pub(in super::super) body: Option<Arc<[u8]>>,
    /// The right to that memory.
    pub(in super::super) room: Option<Permit>,
    /// The right to be here; given back when it ends.
    pub(in super::super) place: Option<Permit>,
    pub(in super::super) recipients: Vec<Addressee>,
    /// Whether it is known where the recipients go.
    pub(in super::super) routed: bool,
    pub(in super::super) bounce: Vec<u8>,
    /// Its bounce is queued.
    pub(in super::super) bounced: bool,
    /// Next attempt in Unix seconds, by channel, local first.
    pub(in super::super) next: [u64; 2],
    pub(in super::super) arrived: Instant,
    pub(in super::super) stage: Stage,
    /// Recipients whose files are not durable yet.
    pub(in super::super) unsynced: usize,
    pub(in super::super) writing: bool,
    /// Somebody may have begun to deliver it before.
    pub(in super::super) again: bool,
    pub(in super::super) leftover: Leftover,
    /// An administrator has removed it.
    pub(in super::super) struck: bool,
}

/// Files of a message in the journal that count for nothing: it was being written out when the host crashed, or that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Leftover {
    /// There are none.
    Never,
    /// There are some; the journal must know the message until they are gone.
    Files,
    /// There were some: the file with its number may have been among them.
    Removed,
}

/// What keeps a message safe.
#[derive(Debug, Clone)]
pub(in super::super) enum Backing {
    /// The journal: the message's serial, the batch that holds it, and the file that holds its number.
    Journal { serial: Serial, lsn: Lsn, spare: Spare },
    /// `mess` and `todo`.
    Todo,
}

impl Backing {
    pub(in super::super) fn serial(&self) -> Option<Serial> {
        match self {
            Self::Journal { serial, .. } => Some(*serial),
            Self::Todo => None,
        }
    }

    pub(in super::super) fn lsn(&self) -> Option<Lsn> {
        match self {
            Self::Journal { lsn, .. } => Some(*lsn),
            Self::Todo => None,
        }
    }
}

/// Who knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Stage {
    /// The scheduler has not heard of it.
    Fresh,
    /// The scheduler works on it.
    Known,
    /// It is over; only files of its deliveries wait for a checkpoint.
    Ended,
}

/// One recipient.
pub(in super::super) struct Addressee {
    /// As it was accepted.
    pub(in super::super) original: Vec<u8>,
    pub(in super::super) channel: Channel,
    /// Rewritten.
    pub(in super::super) address: Vec<u8>,
    /// Where its record begins in the channel's file, whether or not there is one yet: what the scheduler calls it.
    pub(in super::super) offset: u64,
    pub(in super::super) fate: Fate,
    /// It is done because it failed; the entry's bounce says so.
    pub(in super::super) failed: bool,
    /// Its delivery was not durable; the scheduler has not heard of it yet.
    pub(in super::super) lost: bool,
    /// A delivery was not durable: the next one makes sure by itself, and is tried when it is due.
    pub(in super::super) unlucky: bool,
}

/// What has become of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Fate {
    Open,
    /// Delivered; the journal stands behind it until its file is durable.
    Unsynced,
    Done,
}

impl Addressee {
    pub(in super::super) fn new(original: Vec<u8>, fate: Fate) -> Self {
        Self {
            original,
            channel: Channel::Local,
            address: Vec::new(),
            offset: 0,
            fate,
            failed: false,
            lost: false,
            unlucky: false,
        }
    }
}

impl Entry {
    /// An accepted message that nobody has looked at.
    pub(in super::super) fn new(backing: Backing, birth: u64, size: u64, envelope: Envelope) -> Self {
        let Envelope { uid, qp, sender, recipients } = envelope;
        Self {
            backing,
            birth,
            uid,
            qp,
            sender,
            size,
            body: None,
            room: None,
            place: None,
            recipients: recipients.into_iter().map(|one| Addressee::new(one, Fate::Open)).collect(),
            routed: false,
            bounce: Vec::new(),
            bounced: false,
            next: [birth / 1_000_000; 2],
            arrived: Instant::now(),
            stage: Stage::Fresh,
            unsynced: 0,
            writing: false,
            again: false,
            leftover: Leftover::Never,
            struck: false,
        }
    }

    /// Every recipient gets its channel, its rewritten address, and its place in the channel's file: all of them are
    /// listed there in their order, so that a place does not change when some are done.
    pub(super) fn route(&mut self, route: Rewrite<'_>) {
        let mut ends = [0, 0];
        for one in &mut self.recipients {
            (one.channel, one.address) = route(&one.original);
            let end = &mut ends[one.channel as usize];
            one.offset = *end;
            // A letter, the address, NUL.
            *end += one.address.len() as u64 + 2;
        }
        self.routed = true;
    }

    pub(super) fn nth(&self, channel: Channel, offset: u64) -> Option<usize> {
        self.recipients.iter().position(|one| one.channel == channel && one.offset == offset)
    }

    pub(super) fn recipients(&self, channel: Channel) -> Vec<Recipient> {
        self.recipients
            .iter()
            .filter(|one| one.channel == channel)
            .map(|one| Recipient {
                offset: one.offset,
                done: one.fate != Fate::Open,
                address: one.address.clone(),
            })
            .collect()
    }

    /// Without the journal a message to several is preprocessed before its first delivery, as qmail does it: each
    /// recipient's end can be noted then.
    pub(super) fn is_placed_first(&self) -> bool {
        matches!(self.backing, Backing::Todo) && self.recipients.len() > 1
    }

    pub(super) fn as_new(&self, id: MessageId) -> NewMessage {
        NewMessage {
            id,
            bytes: self.size,
            birth: self.birth,
            uid: self.uid,
            qp: self.qp,
            sender: self.sender.clone(),
            local: self.recipients(Channel::Local),
            remote: self.recipients(Channel::Remote),
            bouncing: !self.bounce.is_empty() && !self.bounced,
            next: self.next,
            again: self.again,
        }
    }

    /// Who is left, as in `todo`. Whoever has failed, and is in no bounce yet, is left as well: there is no other file for him.
    pub(super) fn envelope(&self) -> Option<Vec<u8>> {
        let left = |one: &&Addressee| one.fate == Fate::Open || (one.failed && !self.bounced);
        let recipients = self.recipients.iter().filter(left);
        let envelope = Envelope {
            uid: self.uid,
            qp: self.qp,
            sender: self.sender.clone(),
            recipients: recipients.map(|one| one.original.clone()).collect(),
        };
        // Before it was accepted it was made sure that this can be written.
        envelope.to_bytes().ok()
    }

    pub(super) fn preprocessed(&self) -> Content {
        let channel = |channel: Channel| {
            let of_channel = self.recipients.iter().filter(|one| one.channel == channel);
            let listed = of_channel.map(|one| (one.address.clone(), one.fate == Fate::Done)).collect();
            (listed, self.next[channel as usize])
        };
        Content::Preprocessed {
            sender: self.sender.clone(),
            channels: [channel(Channel::Local), channel(Channel::Remote)],
            bounce: if self.bounced { Vec::new() } else { self.bounce.clone() },
        }
    }
}
