//! Accepts connections: waits for a permit, then for a client.
//!
//! Supervises nobody, because it waits; the sessions it starts are tcpserver's children.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mailtree_protocols::reply::Refusal;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::net::{TcpListener, TcpStream};

use super::Shared;
use super::connection::{Connection, End};
use super::stream::Stream;
use crate::permit::Permit;
use crate::pid;

/// How long to rest when the process or the system has no file descriptors left.
const REST: Duration = Duration::from_millis(100);

pub(super) struct Acceptor;

pub(super) struct Arguments {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) shared: Arc<Shared>,
    pub(super) tcpserver: ActorCell,
}

pub(super) struct State {
    /// The one that accepted last is the last to be asked.
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    tcpserver: ActorCell,
}

/// One turn: one connection.
pub(super) struct Turn;

impl Actor for Acceptor {
    type Msg = Turn;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Turn>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { listeners, shared, tcpserver } = arguments;
        myself.cast(Turn)?;
        Ok(State { listeners, shared, tcpserver })
    }

    async fn handle(
        &self,
        myself: ActorRef<Turn>,
        _: Turn,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let permit = state.shared.permits.reserve().await;
        match state.accept().await {
            Ok(stream) => state.serve(stream, permit.begin()).await?,
            // The client has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => (),
            Err(error) if out_of_files(&error) => {
                tracing::warn!(
                    service = state.shared.arguments.service,
                    "tcpserver: warning: unable to accept: {error}"
                );
                tokio::time::sleep(REST).await;
            }
            Err(error) => return Err(error.into()),
        }
        myself.cast(Turn)?;
        Ok(())
    }
}

impl State {
    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (at, accepted) = poll_fn(|cx| {
            for (at, listener) in self.listeners.iter().enumerate() {
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    return Poll::Ready((at, accepted));
                }
            }
            Poll::Pending
        })
        .await;
        let asked = self.listeners.remove(at);
        self.listeners.push(asked);
        accepted.map(|(stream, _)| stream)
    }

    async fn serve(&self, stream: TcpStream, permit: Permit) -> Result<(), ActorProcessingErr> {
        let Shared { arguments, stopping, .. } = &*self.shared;
        let service = arguments.service.clone();
        // A client that has gone already has no address any more.
        let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return Ok(()) };
        stream.set_nodelay(true)?;
        // Of a proxy its clients count, as soon as it has said who they are.
        let is_proxy = arguments.is_proxy(peer.ip());
        let per_address = if is_proxy { None } else { self.shared.admit(peer.ip()) };
        if per_address.is_none() && !is_proxy {
            let mut refusal = Vec::new();
            Refusal::too_many_connections().write(false, &mut refusal);
            // Never waits: what the client's window does not take at once it does not get.
            drop(stream.try_write(&refusal));
            return Ok(());
        }
        let end = End::new(service, pid::next(), arguments.concurrency, permit, per_address);
        let connection = Connection {
            stream: Stream::Plain(stream),
            peer,
            local,
            end,
            stopping: stopping.clone(),
            shared: Arc::clone(&self.shared),
        };
        if let Err(error) = (arguments.start)(connection, self.tcpserver.clone()).await {
            tracing::error!("alert: unable to start a session: {error}");
        }
        Ok(())
    }
}

fn out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
