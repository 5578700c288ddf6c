//! One connection, and the log lines of its life.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::permit::{AddressPermit, Permit};

/// Raw wait status of a process that was killed: what a session leaves that could not end itself.
const KILLED: u32 = 9;

/// An accepted connection with the permits for it.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// The client.
    pub peer: SocketAddr,
    /// This host, as the client reached it.
    pub local: SocketAddr,
    /// Its end; dropped with the session.
    pub end: End,
    /// Turns true when the service stops.
    pub stopping: watch::Receiver<bool>,
}

/// Sessions at once, by service: N of `status: N/LIMIT`.
static SESSIONS: Mutex<Option<HashMap<String, usize>>> = Mutex::new(None);

/// Logs how a session ends, however it ends, and frees its permits.
pub struct End {
    service: String,
    pid: u64,
    limit: usize,
    status: u32,
    _permits: (Permit, AddressPermit),
}

impl End {
    pub(super) fn new(service: String, pid: u64, limit: usize, permits: (Permit, AddressPermit)) -> Self {
        let end = Self { service, pid, limit, status: KILLED, _permits: permits };
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

    pub(super) fn log_start(&self, peer: SocketAddr, local: SocketAddr) {
        let Self { service, pid, .. } = self;
        let (ip, host) = (peer.ip().to_canonical(), local.ip().to_canonical());
        tracing::info!(service, pid, %ip, "tcpserver: pid {pid} from {ip}");
        tracing::info!(
            service, pid, %ip, port = peer.port(),
            "tcpserver: ok {pid} :{host}:{} :{ip}::{}", local.port(), peer.port()
        );
    }

    fn count(&self, change: impl FnOnce(&mut usize)) {
        let mut all = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = all.get_or_insert_default().entry(self.service.clone()).or_default();
        change(sessions);
        tracing::info!(service = self.service, "tcpserver: status: {sessions}/{}", self.limit);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Self { service, pid, status, .. } = self;
        tracing::info!(service, pid, status, "tcpserver: end {pid} status {status}");
        self.count(|sessions| *sessions = sessions.saturating_sub(1));
    }
}
