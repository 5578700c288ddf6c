//! What a spawner gets, and how it reports.

use std::sync::Arc;

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
    /// Where to report.
    pub report: ReportPort,
    /// Keeps a new qmail-send from starting while this one's work is under way.
    pub running: Arc<Permit>,
}

/// Takes one report for each recipient of a delivery. Dropped without, it reports that the worker crashed, so that a
/// delivery never hangs.
pub struct ReportPort {
    to: ActorRef<Message>,
    serial: u64,
    crashed: &'static str,
    sent: bool,
}

impl ReportPort {
    pub(super) fn new(to: ActorRef<Message>, serial: u64, crashed: &'static str) -> Self {
        Self { to, serial, crashed, sent: false }
    }

    /// Reports, in the order of the recipients. A recipient without a report counts as a crash.
    pub fn send(mut self, reports: Vec<Report>) {
        self.cast(reports);
    }

    fn cast(&mut self, reports: Vec<Report>) {
        self.sent = true;
        let crashed = self.crashed;
        // A scheduler that is gone has forgotten this delivery.
        drop(self.to.cast(Message::Reported { serial: self.serial, reports, crashed }));
    }
}

impl Drop for ReportPort {
    fn drop(&mut self) {
        if !self.sent {
            self.cast(Vec::new());
        }
    }
}
