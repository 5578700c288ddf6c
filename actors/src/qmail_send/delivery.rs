//! What a spawner gets, and how it reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mailtree_protocols::queue::MessageId;
use mailtree_protocols::report::Report;
use mailtree_protocols::smtproutes::Route;
use ractor::ActorRef;

use super::Message;
use crate::permit::Permit;

/// One attempt to deliver a message: to one recipient on this host, or to several at one destination.
pub struct Delivery {
    /// The message.
    pub id: MessageId,
    /// Reverse-path.
    pub sender: Vec<u8>,
    /// Rewritten addresses.
    pub recipients: Vec<Vec<u8>>,
    /// On the remote channel: the way `smtproutes` gives them.
    pub route: Route,
    /// A number for the process' life.
    pub serial: u64,
    /// Where to report. Whatever still works on the message when its worker dies holds on to it.
    pub report: Arc<ReportPort>,
}

/// Takes one report for each recipient of a delivery. When the last holder drops it without, it reports that the worker
/// crashed: a delivery never hangs, and never ends before what was begun for it has.
pub struct ReportPort {
    to: ActorRef<Message>,
    serial: u64,
    crashed: &'static str,
    sent: AtomicBool,
    /// Keeps a new qmail-send from starting.
    _running: Permit,
}

impl ReportPort {
    pub(super) fn new(to: ActorRef<Message>, serial: u64, crashed: &'static str, running: Permit) -> Self {
        Self { to, serial, crashed, sent: AtomicBool::new(false), _running: running }
    }

    /// Reports, in the order of the recipients. A recipient without a report counts as a crash.
    pub fn send(&self, reports: Vec<Report>) {
        if !self.sent.swap(true, Ordering::AcqRel) {
            let crashed = self.crashed;
            // A scheduler that is gone has forgotten this delivery.
            drop(self.to.cast(Message::Reported { serial: self.serial, reports, crashed }));
        }
    }
}

impl Drop for ReportPort {
    fn drop(&mut self) {
        self.send(Vec::new());
    }
}
