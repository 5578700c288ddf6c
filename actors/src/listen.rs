//! The host's listening sockets. They outlive the death of a service, so that clients wait in the kernel's backlog
//! while it comes back; a service that is stopped closes its own.

pub mod unix;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::service::StartError;

/// Connections the kernel keeps until they are accepted; a small backlog drops SYNs under load.
const BACKLOG: i32 = 1024;

/// By service: the configured address, and the socket bound for it.
type Bound = HashMap<String, Vec<(SocketAddr, TcpListener)>>;

/// Sockets by service and configured address.
#[derive(Clone, Default)]
pub struct Sockets(Arc<Mutex<Bound>>);

/// Ports below this one are root's.
const PRIVILEGED: u16 = 1024;

impl Sockets {
    /// Binds the socket of `service` for `address` while this process still may; nobody is heard on it yet.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(&self, service: &str, address: SocketAddr) -> Result<(), String> {
        let socket = bound(address).map_err(|error| refused(address, &error))?;
        self.lock().entry(service.to_owned()).or_default().push((address, socket.into()));
        Ok(())
    }

    /// The socket of `service` for `address`, bound now unless an earlier incarnation left it.
    ///
    /// # Errors
    /// When the address cannot be bound: temporary, for whoever has it may let it go.
    pub fn listen(&self, service: &str, address: SocketAddr) -> Result<tokio::net::TcpListener, StartError> {
        let failed = |error: io::Error| StartError::Temporary(refused(address, &error));
        let mut sockets = self.lock();
        let ours = sockets.entry(service.to_owned()).or_default();
        let kept = ours.iter().find(|(configured, _)| *configured == address);
        let listener = match kept {
            Some((_, listener)) => listener.try_clone().map_err(failed)?,
            None => {
                let listener = TcpListener::from(bound(address).map_err(failed)?);
                ours.push((address, listener.try_clone().map_err(failed)?));
                listener
            }
        };
        if !listens(&listener) {
            SockRef::from(&listener).listen(BACKLOG).map_err(failed)?;
            let actual = listener.local_addr().map_err(failed)?;
            tracing::info!(service, %actual, "tcpserver: listening on {actual}");
        }
        tokio::net::TcpListener::from_std(listener).map_err(failed)
    }

    /// The addresses that `service` listens on or has bound.
    #[must_use]
    pub fn addresses(&self, service: &str) -> Vec<SocketAddr> {
        let sockets = self.lock();
        let ours = sockets.get(service).map(Vec::as_slice).unwrap_or_default();
        ours.iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect()
    }

    /// `service` listens no more. Accepting on a copy of the socket ends at once, too. A port that this process could not bind
    /// again stays bound.
    pub fn close(&self, service: &str) {
        let mut sockets = self.lock();
        let Some(ours) = sockets.get_mut(service) else { return };
        for (_, listener) in &*ours {
            // A copy may live on in a task that is just ending.
            drop(SockRef::from(listener).shutdown(std::net::Shutdown::Both));
        }
        if rustix::process::geteuid().is_root() {
            ours.clear();
        } else {
            ours.retain(|(address, _)| (1..PRIVILEGED).contains(&address.port()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Bound> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why `address` cannot be bound by this process, if it cannot; that others have it now is no reason. It is not listened to.
#[must_use]
pub fn unusable(address: SocketAddr) -> Option<String> {
    match bound(address) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => Some(refused(address, &error)),
        Ok(_) | Err(_) => None,
    }
}

fn refused(address: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; a port below 1024 needs root or CAP_NET_BIND_SERVICE; or listen on one above 1023"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
        _ => "",
    };
    format!("unable to bind {address}: {error}{advice}")
}

fn listens(listener: &TcpListener) -> bool {
    rustix::net::sockopt::socket_acceptconn(listener).unwrap_or(false)
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
