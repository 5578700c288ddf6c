//! Load: many sessions that send letters and remember which of them got `250` after the final dot.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::Address;
use crate::letter::letter;
use crate::smtp::Client;
use crate::wait::{tick, wait_until};

/// Forward-paths by the name of the letter.
pub type Recipients = dyn Fn(&str) -> Vec<String> + Send + Sync;

/// What is sent.
#[derive(Clone)]
pub struct Plan {
    /// Letter names, sent once each (again only if the outcome was not a `250`).
    pub names: Vec<String>,
    /// Sessions at the same time.
    pub sessions: usize,
    /// Messages a session sends before it says QUIT.
    pub reuse: usize,
    /// Body bytes of each letter.
    pub size: usize,
    /// Reverse-path.
    pub from: String,
    /// The forward-paths of a letter.
    pub to: Arc<Recipients>,
}

impl Plan {
    /// `count` letters named `prefix-N` of 1 KiB to one mailbox, from 10 sessions.
    pub fn to(mailbox: &str, prefix: &str, count: usize) -> Self {
        let mailbox = mailbox.to_owned();
        Self {
            names: (0..count).map(|number| format!("{prefix}-{number}")).collect(),
            sessions: 10,
            reuse: 3,
            size: 1024,
            from: "sender@mx.test".to_owned(),
            to: Arc::new(move |_| vec![mailbox.clone()]),
        }
    }
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<VecDeque<String>>,
    accepted: Mutex<BTreeSet<String>>,
    doubtful: Mutex<BTreeSet<String>>,
    stop: AtomicBool,
    underway: AtomicUsize,
    refusals: Mutex<Vec<String>>,
}

/// The letters whose connection ended while they were sent: the host may have taken them before it could say so, and
/// they were sent again. Only of all others can it be asked that they arrive once.
#[derive(Clone)]
pub struct Doubts(Arc<Shared>);

impl Doubts {
    /// Their names, so far.
    pub fn names(&self) -> BTreeSet<String> {
        self.0.doubtful.lock().unwrap().clone()
    }
}

/// A running load. Letters that fail in any way are sent again until they are accepted or the load is stopped.
pub struct Load {
    shared: Arc<Shared>,
    sessions: Vec<JoinHandle<()>>,
    total: usize,
}

impl Load {
    /// Starts the sessions; they look up the address anew for each connection, so that the host may restart.
    pub fn start(address: Address, plan: &Plan) -> Self {
        let shared = Arc::new(Shared {
            waiting: Mutex::new(plan.names.iter().cloned().collect()),
            ..Default::default()
        });
        let sessions = (0..plan.sessions)
            .map(|_| {
                let (shared, address, plan) = (Arc::clone(&shared), address.clone(), plan.clone());
                std::thread::spawn(move || session(&shared, &address, &plan))
            })
            .collect();
        Self { shared, sessions, total: plan.names.len() }
    }

    /// The letters that may rightly arrive twice; to be asked when the load has ended.
    pub fn doubts(&self) -> Doubts {
        Doubts(Arc::clone(&self.shared))
    }

    /// The letters that have got their `250` so far.
    pub fn accepted(&self) -> BTreeSet<String> {
        self.shared.accepted.lock().unwrap().clone()
    }

    /// How many letters have got their `250` so far.
    pub fn count(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    /// Whether all letters have been accepted.
    pub fn is_finished(&self) -> bool {
        self.count() == self.total
    }

    /// Waits until all have been accepted.
    pub fn finish(self, limit: Duration) -> BTreeSet<String> {
        let shared = Arc::clone(&self.shared);
        let state = || {
            format!(
                "{} of {} letters accepted; last refusals: {:?}",
                shared.accepted.lock().unwrap().len(),
                self.total,
                last(&shared)
            )
        };
        let start = std::time::Instant::now();
        while !self.is_finished() {
            assert!(start.elapsed() < limit, "after {limit:?} {}", state());
            tick(Duration::from_millis(10));
        }
        self.stop()
    }

    /// Stops sending: letters under way are finished or given up with their connection. What got `250`.
    pub fn stop(self) -> BTreeSet<String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for session in self.sessions {
            session.join().unwrap();
        }
        self.shared.accepted.lock().unwrap().clone()
    }

    /// Waits until `count` letters have been accepted.
    pub fn wait_accepted(&self, count: usize, limit: Duration) {
        wait_until(&format!("{count} letters accepted"), limit, || self.count() >= count);
    }

    /// The last replies that were not what they should be.
    pub fn refusals(&self) -> Vec<String> {
        last(&self.shared)
    }
}

fn last(shared: &Shared) -> Vec<String> {
    let refusals = shared.refusals.lock().unwrap();
    refusals.iter().rev().take(5).cloned().collect()
}

fn session(shared: &Shared, address: &Address, plan: &Plan) {
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.waiting.lock().unwrap().is_empty() {
            if shared.underway.load(Ordering::Relaxed) == 0 {
                return;
            }
            tick(Duration::from_millis(5));
            continue;
        }
        if let Err(cause) = connection(shared, address.get(), plan) {
            shared.refusals.lock().unwrap().push(cause.to_string());
            tick(Duration::from_millis(20));
        }
    }
}

fn connection(shared: &Shared, address: SocketAddr, plan: &Plan) -> io::Result<()> {
    let refused = |reply: crate::smtp::Reply| io::Error::other(reply.text());
    let mut client = Client::connect(address)?;
    if client.greeting.code != 220 {
        return Err(refused(client.greeting));
    }
    let reply = client.command("EHLO load.test")?;
    if reply.code != 250 {
        return Err(refused(reply));
    }
    for _ in 0..plan.reuse {
        let Some(name) = shared.waiting.lock().unwrap().pop_front() else { break };
        shared.underway.fetch_add(1, Ordering::Relaxed);
        let mailboxes = (plan.to)(&name);
        let mailboxes: Vec<_> = mailboxes.iter().map(String::as_str).collect();
        let outcome = client.transact(&plan.from, &mailboxes, &letter(&name, plan.size));
        match &outcome {
            Ok(reply) if reply.code == 250 => {
                shared.accepted.lock().unwrap().insert(name);
            }
            Err(_) => {
                shared.doubtful.lock().unwrap().insert(name.clone());
                shared.waiting.lock().unwrap().push_back(name);
            }
            Ok(_) => shared.waiting.lock().unwrap().push_back(name),
        }
        shared.underway.fetch_sub(1, Ordering::Relaxed);
        match outcome? {
            reply if reply.code == 250 => {}
            reply => return Err(refused(reply)),
        }
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    client.command("QUIT").map(drop)
}
