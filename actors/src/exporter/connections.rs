//! The connections for metrics: few, and none for long, so that who reads slowly, or not at all, takes neither descriptors nor
//! memory from the mail.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::permit::{AddressPermit, PerAddress};

/// Connections at once; more wait in the kernel's backlog.
const MAX: usize = 16;

/// The same from one address; more are closed at once.
const PER_ADDRESS: u32 = 4;

/// A connection is closed after this, whatever it is at: time for one answer.
const LONGEST: Duration = Duration::from_secs(10);

/// How long to rest when there are no file descriptors left.
const REST: Duration = Duration::from_millis(100);

/// Accepts connections.
pub(super) struct Connections {
    listener: TcpListener,
    all: Arc<Semaphore>,
    per_address: PerAddress,
    longest: Duration,
}

impl Connections {
    pub(super) fn new(listener: TcpListener) -> Self {
        let (all, per_address) = (Arc::new(Semaphore::new(MAX)), PerAddress::default());
        Self { listener, all, per_address, longest: LONGEST }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let Ok(permit) = Arc::clone(&self.all).acquire_owned().await else { continue };
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => {
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let address = self.per_address.try_acquire(peer.ip(), PER_ADDRESS);
            let verdict = if address.is_some() { "ok" } else { "per-ip" };
            metrics::counter!("mailtree_metrics_connections_total", "verdict" => verdict).increment(1);
            if let Some(address) = address {
                let over = Box::pin(tokio::time::sleep(self.longest));
                return (Connection { stream, over, _permit: permit, _address: address }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its end.
pub(super) struct Connection {
    stream: TcpStream,
    over: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
    _address: AddressPermit,
}

impl Connection {
    /// What a call for the stream gives, unless the time is over.
    fn in_time<T>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        call: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        call(Pin::new(&mut self.stream), cx)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.in_time(cx, |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_few_from_an_address_some_in_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Connections::new(listener);
        let from = async |last: u8| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
            socket.connect(address).await.unwrap()
        };
        let mut held = Vec::new();
        let mut clients = Vec::new();
        for last in 1..=4 {
            for _ in 0..4 {
                clients.push(from(last).await);
                held.push(connections.accept().await.0);
            }
            if last == 1 {
                // The fifth is closed, the next address is asked in.
                let mut fifth = from(last).await;
                clients.push(from(4).await);
                held.push(connections.accept().await.0);
                assert_eq!(fifth.read(&mut [0]).await.unwrap_or(0), 0);
                held.pop();
                clients.pop();
            }
        }
        assert_eq!(held.len(), MAX);
        clients.push(from(9).await);
        tokio::select! {
            biased;
            _ = connections.accept() => panic!("one more than {MAX} was accepted"),
            () = tokio::task::yield_now() => (),
        }
        held.pop();
        let peer = connections.accept().await.1;
        assert_eq!(peer.ip().to_string(), "127.0.0.9");
    }

    #[tokio::test]
    async fn the_end_comes_to_who_waits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut connections =
            Connections { longest: Duration::from_millis(20), ..Connections::new(listener) };
        let (mut connection, _) = connections.accept().await;
        let error = connection.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
