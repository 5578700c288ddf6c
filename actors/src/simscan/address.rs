//! Where a scanner listens, the connection to it, and the message on its way there.

use std::fmt;
use std::io::{self, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{Message, Trouble};

/// Bytes of a message in memory at a time.
pub(super) const CHUNK: usize = 64 * 1024;

/// Where a scanner listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// On a port.
    Tcp(SocketAddr),
    /// On a socket in the filesystem.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Address {
    pub(super) async fn connect(&self) -> Result<Box<dyn Connection>, Trouble> {
        let connected: io::Result<Box<dyn Connection>> = match self {
            Self::Tcp(address) => TcpStream::connect(address).await.map(|stream| Box::new(stream) as _),
            Self::Unix(path) => UnixStream::connect(path).await.map(|stream| Box::new(stream) as _),
        };
        connected.map_err(|error| Trouble::Connect { address: self.to_string(), error: error.to_string() })
    }
}

/// The bytes of a message, one chunk after the other: as many as its size says, or an error.
pub(super) struct Chunks {
    file: File,
    left: u64,
}

impl Chunks {
    pub(super) async fn open(message: &Message) -> Result<Self, Trouble> {
        let mut file = File::open(&message.file).await.map_err(Trouble::message)?;
        file.seek(SeekFrom::Start(message.skip)).await.map_err(Trouble::message)?;
        Ok(Self { file, left: message.size })
    }

    /// Whether nothing is left.
    pub(super) const fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The next bytes at the beginning of `chunk`; 0 after the last.
    pub(super) async fn next(&mut self, chunk: &mut [u8]) -> Result<usize, Trouble> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(chunk.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut chunk[..most]).await.map_err(Trouble::message)?;
        if read == 0 {
            return Err(Trouble::message(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
