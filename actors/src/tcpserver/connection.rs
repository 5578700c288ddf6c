//! One connection, and the log lines of its life.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use mailtree_protocols::tcpserver as line;
use tokio::sync::watch;

use super::Shared;
use super::stream::Stream;
use crate::permit::{AddressPermit, Permit};

/// Raw wait status of a process that was killed: what a session leaves that could not end itself.
const KILLED: u32 = 9;

/// An accepted connection with the permits for it.
pub struct Connection {
    /// The bytes.
    pub stream: Stream,
    /// The client.
    pub peer: SocketAddr,
    /// This host, as the client reached it.
    pub local: SocketAddr,
    /// Its end; dropped with the session.
    pub end: End,
    /// Turns true when the service stops.
    pub stopping: watch::Receiver<bool>,
    pub(super) shared: Arc<Shared>,
}

impl Connection {
    /// Whether the client may say for whom it connects (PROXY protocol).
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        self.shared.arguments.is_proxy(self.peer.ip())
    }

    /// The proxy said who the client is. From now on that client's limit counts: `false` if it is reached.
    #[must_use]
    pub fn proxied(&mut self, peer: SocketAddr, local: SocketAddr) -> bool {
        (self.peer, self.local) = (peer, local);
        self.end.per_address = self.shared.admit(peer.ip());
        self.end.per_address.is_some()
    }
}

/// Sessions at once, by service: N of `status: N/LIMIT`.
static SESSIONS: Mutex<Option<HashMap<String, usize>>> = Mutex::new(None);

/// Logs how a session ends, however it ends, and frees its permits.
pub struct End {
    service: String,
    pid: u64,
    limit: usize,
    status: u32,
    /// None for a proxy, until it has said who the client is.
    per_address: Option<AddressPermit>,
    _permit: Permit,
}

impl End {
    pub(super) fn new(
        service: String,
        pid: u64,
        limit: usize,
        permit: Permit,
        per_address: Option<AddressPermit>,
    ) -> Self {
        let end = Self { service, pid, limit, status: KILLED, per_address, _permit: permit };
        end.count(|sessions| *sessions += 1);
        end
    }

    /// The session's number.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.pid
    }

    /// The session ends with this exit code.
    pub fn exit(&mut self, code: u8) {
        self.status = u32::from(code) << 8;
    }

    /// `tcpserver: pid PID from IP`.
    pub fn log_pid(&self, ip: IpAddr) {
        let Self { service, pid, .. } = self;
        tracing::info!(service, pid, %ip, "{}", line::pid(*pid, ip));
    }

    /// `tcpserver: ok PID …`, or `deny`.
    pub fn log_verdict(&self, verdict: &line::Ok<'_>) {
        let Self { service, pid, .. } = self;
        let ip = verdict.remote_ip;
        tracing::info!(service, pid, %ip, port = verdict.remote_port, "{verdict}");
    }

    fn count(&self, change: impl FnOnce(&mut usize)) {
        let mut all = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = all.get_or_insert_default().entry(self.service.clone()).or_default();
        change(sessions);
        tracing::info!(service = self.service, "{}", line::status(*sessions, self.limit));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Self { service, pid, status, .. } = self;
        tracing::info!(service, pid, status, "{}", line::end(*pid, *status));
        self.count(|sessions| *sessions = sessions.saturating_sub(1));
    }
}
