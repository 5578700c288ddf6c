//! Accepts connections at one address: waits for a client, then for a permit, then accepts.
//!
//! Supervises nobody, because it waits; the sessions it starts are tcpserver's children.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mailtree_protocols::reply::Refusal;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};

use super::Shared;
use super::connection::{Connection, End};
use crate::permit::Permit;
use crate::pid;

/// How long to rest when the process or the system has no file descriptors left.
const REST: Duration = Duration::from_millis(100);

pub(super) struct Acceptor;

pub(super) struct Arguments {
    pub(super) listener: TcpListener,
    pub(super) shared: Arc<Shared>,
    pub(super) tcpserver: ActorCell,
}

pub(super) struct State {
    listener: AsyncFd<std::net::TcpListener>,
    shared: Arc<Shared>,
    tcpserver: ActorCell,
}

/// One turn: one connection.
pub(super) struct Turn;

impl Actor for Acceptor {
    type Msg = Turn;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Turn>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        let Arguments { listener, shared, tcpserver } = arguments;
        let listener = AsyncFd::with_interest(listener.into_std()?, Interest::READABLE)?;
        myself.cast(Turn)?;
        Ok(State { listener, shared, tcpserver })
    }

    async fn handle(&self, myself: ActorRef<Turn>, _: Turn, state: &mut State) -> Result<(), ActorProcessingErr> {
        let permit = state.client_and_permit().await?;
        match state.accept() {
            Ok(Some(stream)) => state.serve(stream, permit).await?,
            Ok(None) => (),
            // The client has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => (),
            Err(error) if out_of_files(&error) => {
                tracing::warn!(service = state.shared.arguments.service, "tcpserver: warning: unable to accept: {error}");
                tokio::time::sleep(REST).await;
            }
            Err(error) => return Err(error.into()),
        }
        myself.cast(Turn)?;
        Ok(())
    }
}

impl State {
    /// Waits until a client waits, then for a permit: a listener that nobody connects to holds none.
    async fn client_and_permit(&self) -> io::Result<Permit> {
        let mut ready = self.listener.readable().await?;
        ready.retain_ready();
        Ok(self.shared.permits.acquire().await)
    }

    fn accept(&self) -> io::Result<Option<TcpStream>> {
        match self.listener.get_ref().accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Another acceptor took it, or the readiness was old.
                drop(self.listener.try_io(Interest::READABLE, |_| Err::<(), _>(error)));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn serve(&self, stream: TcpStream, permit: Permit) -> Result<(), ActorProcessingErr> {
        let Shared { arguments, per_address, stopping, .. } = &*self.shared;
        let service = arguments.service.clone();
        // A client that has gone already has no address any more.
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return Ok(()) };
        stream.set_nodelay(true)?;
        let ip = peer.ip().to_canonical();
        let limit = if arguments.is_unlimited(ip) { u32::MAX } else { arguments.per_ip };
        let Some(per_address) = per_address.try_acquire(ip, limit) else {
            metrics::counter!("mailtree_smtpd_connections_total", "service" => service.clone(), "verdict" => "per-ip")
                .increment(1);
            tracing::warn!(service, %ip, "tcpserver: warning: dropping connection, too many from {ip}");
            let mut refusal = Vec::new();
            Refusal::too_many_connections().write(false, &mut refusal);
            // Never waits: what the client's window does not take at once it does not get.
            drop(stream.try_write(&refusal));
            return Ok(());
        };
        metrics::counter!("mailtree_smtpd_connections_total", "service" => service.clone(), "verdict" => "ok")
            .increment(1);
        let end = End::new(service, pid::next(), arguments.concurrency, (permit, per_address));
        end.log_start(peer, local);
        let connection = Connection { stream, peer, local, end, stopping: stopping.clone() };
        if let Err(error) = (arguments.start)(connection, self.tcpserver.clone()).await {
            tracing::error!("alert: unable to start a session: {error}");
        }
        Ok(())
    }
}

fn out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}
