//! What a spawner gets, and how it reports.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::report::Report;
use mailtree_protocols::smtproutes::Route;

use crate::permit::Permit;

/// One attempt to deliver a message: to one recipient on this host, or to several at one destination.
pub struct Delivery {
    /// The message.
    pub id: MessageId,
    /// When it was accepted, in microseconds since 1970.
    pub birth: u64,
    /// Reverse-path.
    pub sender: Vec<u8>,
    /// Rewritten addresses, and what the queue calls them.
    pub recipients: Vec<Recipient>,
    /// The channel they are on.
    pub channel: Channel,
    /// On the remote channel: the way `smtproutes` gives them.
    pub route: Route,
    /// A number for the process' life.
    pub serial: u64,
    /// It may have been begun before, by this process or an earlier one.
    pub again: bool,
    /// Where to report. Whatever still works on the message when its worker dies holds on to it.
    pub report: Arc<ReportPort>,
}

/// What a delivery has come to.
#[derive(Debug)]
pub struct Reported {
    /// Which delivery.
    pub serial: u64,
    /// One for each recipient, in order.
    pub reports: Vec<Report>,
    /// What is said for recipients without one.
    pub crashed: &'static str,
}

/// Hears reports.
pub type Hear = Arc<dyn Fn(Reported) + Send + Sync>;

/// Takes one report for each recipient of a delivery. When the last holder drops it without, it reports that the worker
/// crashed: a delivery never hangs.
pub struct ReportPort {
    hear: Hear,
    serial: u64,
    crashed: &'static str,
    sent: AtomicBool,
    /// Keeps a new qmail-send from starting.
    running: Mutex<Option<Permit>>,
}

impl ReportPort {
    /// A port for delivery `serial`.
    #[must_use]
    pub fn new(hear: Hear, serial: u64, crashed: &'static str, running: Permit) -> Self {
        Self { hear, serial, crashed, sent: AtomicBool::new(false), running: Mutex::new(Some(running)) }
    }

    /// Reports, in the order of the recipients. A recipient without a report counts as a crash. Only the first report
    /// counts: one that was given up may still end well.
    pub fn send(&self, reports: Vec<Report>) {
        if !self.sent.swap(true, Ordering::AcqRel) {
            (self.hear)(Reported { serial: self.serial, reports, crashed: self.crashed });
            drop(self.running.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl Drop for ReportPort {
    fn drop(&mut self) {
        self.send(Vec::new());
    }
}
