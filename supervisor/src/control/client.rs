//! Asking a running host.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailtree_actors::listen::unix::ShortPath;

use super::{MAX_REPLY, MAX_REQUEST, Reply, Request, SOCKET, run_dir};

/// The host answers at once, but a queue tool may read many files.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens on the socket, or there is none.
    #[error("mailtree is not running in {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket failed.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// The request is longer than the host reads.
    #[error("request has {0} bytes, more than {MAX_REQUEST}")]
    TooLong(usize),
    /// The host closed without an answer, or it is not one.
    #[error("unreadable answer from the host: {0}")]
    Unreadable(String),
}

/// Asks the host of `home`. Blocks, at most about a minute.
pub fn ask(home: &Path, request: &Request) -> Result<Reply, AskError> {
    let mut line = serde_json::to_vec(request).map_err(|error| AskError::Unreadable(error.to_string()))?;
    line.push(b'\n');
    if line.len() > MAX_REQUEST {
        return Err(AskError::TooLong(line.len()));
    }
    let mut stream = connect(home)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&line)?;
    let mut reply = Vec::new();
    BufReader::new(stream).take(MAX_REPLY as u64 + 1).read_until(b'\n', &mut reply)?;
    if reply.len() > MAX_REPLY {
        return Err(AskError::Unreadable(format!("more than {MAX_REPLY} bytes")));
    }
    if reply.is_empty() {
        return Err(AskError::Unreadable("closed without an answer".to_owned()));
    }
    serde_json::from_slice(&reply).map_err(|error| AskError::Unreadable(error.to_string()))
}

fn connect(home: &Path) -> Result<UnixStream, AskError> {
    let connect = || UnixStream::connect(ShortPath::of(&run_dir(home))?.join(SOCKET));
    connect().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
            AskError::NotRunning(home.to_owned())
        }
        _ => AskError::Io(error),
    })
}
