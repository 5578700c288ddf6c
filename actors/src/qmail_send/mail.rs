//! What the scheduler keeps in memory of a message: ids and times; addresses only while they are being delivered to.

use std::collections::VecDeque;

use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::queue::Channel;
use mailtree_protocols::smtproutes::Route;

/// A preprocessed message.
pub(super) struct Mail {
    /// Reverse-path.
    pub(super) sender: Vec<u8>,
    /// When it was queued, in microseconds since 1970.
    pub(super) birth: u64,
    /// Tells it from an earlier message with the same number.
    pub(super) serial: u64,
    /// Somebody may have begun to deliver it before.
    pub(super) again: bool,
    pub(super) local: Side,
    pub(super) remote: Side,
    /// Somebody failed.
    pub(super) bouncing: bool,
    /// An administrator removed it: no further deliveries, no bounce.
    pub(super) removed: bool,
    /// Both sides are finished; it is being bounced or removed.
    pub(super) ending: bool,
}

impl Mail {
    /// When it was queued, in Unix seconds.
    pub(super) fn born(&self) -> u64 {
        self.birth / 1_000_000
    }

    pub(super) fn side(&mut self, channel: Channel) -> &mut Side {
        match channel {
            Channel::Local => &mut self.local,
            Channel::Remote => &mut self.remote,
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        matches!((&self.local, &self.remote), (Side::Finished, Side::Finished))
    }
}

/// How far one channel of a message is.
pub(super) enum Side {
    /// Nobody is left.
    Finished,
    /// To be tried at this time, in Unix seconds.
    Waiting(u64),
    /// Its recipients are being read from disk.
    Loading,
    /// Being tried.
    Passing(Box<Pass>),
}

/// One walk through the recipients of a channel (qmail-send: pass).
pub(super) struct Pass {
    /// Not yet begun.
    pub(super) pending: VecDeque<Group>,
    /// Begun and not yet settled.
    pub(super) in_flight: usize,
    /// Recipients that are not done.
    pub(super) left: usize,
    /// The last one: what is deferred fails.
    pub(super) dying: bool,
}

/// Recipients that share a transaction.
pub(super) struct Group {
    pub(super) recipients: Vec<Recipient>,
    pub(super) route: Route,
}

/// A delivery that is under way.
pub(super) struct Attempt {
    pub(super) id: mailtree_protocols::queue::MessageId,
    pub(super) channel: Channel,
    /// Number in the log, and recipient.
    pub(super) recipients: Vec<(u64, Recipient)>,
}
