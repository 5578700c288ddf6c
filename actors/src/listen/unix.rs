//! Unix sockets under names of the home. Like [`super::Sockets`] they outlive the death of a service.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixSocket;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::service::StartError;

/// Connections that the kernel lets wait.
const BACKLOG: u32 = 1024;

/// A short way to a directory, because the path of a Unix socket may have 107 bytes only. The path is good as long as the
/// value lives.
pub struct ShortPath {
    _directory: File,
    path: PathBuf,
}

impl ShortPath {
    /// The way to `directory`, which needs to be passed through only.
    ///
    /// # Errors
    /// When it is none, or cannot be reached.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let flags = i32::try_from((OFlags::PATH | OFlags::DIRECTORY).bits()).map_err(io::Error::other)?;
        let open = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        // Without /proc the path itself must do.
        let path = if path.exists() { path } else { directory.to_owned() };
        Ok(Self { _directory: open, path })
    }

    /// A name in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

/// A listening socket with a name. A service that dies leaves it to the next one, which the accept loop of the dead one may
/// still hold.
pub struct Socket {
    directory: PathBuf,
    name: &'static str,
    mode: Mode,
    kept: Mutex<Option<Bound>>,
}

struct Bound {
    listener: UnixListener,
    /// Device and inode of its name: somebody may have removed that.
    name: (u64, u64),
}

impl Socket {
    /// The socket `name` in `directory`, for whom `mode` lets write to it. It is not there yet.
    #[must_use]
    pub fn new(directory: PathBuf, name: &'static str, mode: Mode) -> Self {
        Self { directory, name, mode, kept: Mutex::default() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    /// The socket that is there already, or a new one.
    ///
    /// # Errors
    /// When it cannot be bound: temporary.
    pub fn listen(&self) -> Result<tokio::net::UnixListener, StartError> {
        self.listener().map_err(|error| {
            StartError::Temporary(format!("unable to bind {}: {error}", self.path().display()))
        })
    }

    fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        let path = self.path();
        let name = || std::fs::symlink_metadata(&path).map(|meta| (meta.dev(), meta.ino()));
        let mut kept = self.lock();
        if !kept.as_ref().is_some_and(|bound| name().is_ok_and(|name| name == bound.name)) {
            // A socket without its name is closed first: nobody can reach it.
            *kept = None;
            let listener = self.bind()?;
            *kept = Some(Bound { listener, name: name()? });
        }
        match &*kept {
            Some(bound) => tokio::net::UnixListener::from_std(bound.listener.try_clone()?),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The socket appears under its name only when it is bound, and nobody was let in before: its mode is that of its
    /// descriptor. No directory is made for it: the host must be commanded on a disk that has no block left.
    fn bind(&self) -> io::Result<UnixListener> {
        let short = ShortPath::of(&self.directory)?;
        let (draft, path) = (short.join(format!(".{}", self.name)), short.join(self.name));
        if UnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers there"));
        }
        // Whoever holds `run/lock` is alone here: it is the rest of a start that was killed.
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => (),
        }
        let socket = UnixSocket::new_stream()?;
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        socket.bind(&draft)?;
        let listener = socket.listen(BACKLOG)?;
        // The mode of the descriptor when it was bound has lost what the umask takes.
        rustix::fs::chmod(&draft, self.mode)?;
        std::fs::rename(&draft, &path)?;
        listener.into_std()
    }

    /// Nobody is listened to any more.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// Takes its name away. Only tidiness: a socket that nobody answers is replaced by the next start.
    pub fn unlink(&self) {
        let path = self.path();
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!("warning: unable to unlink {}: {error}", path.display());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bound>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The accept loop of a socket. It owns the connections, and whoever has this owns the loop: all end with it.
pub struct Accepting {
    socket: Arc<Socket>,
    stop: Arc<Notify>,
    accept: JoinSet<()>,
}

/// Says that an accept loop is over, by a panic, too.
struct Ended<F: FnMut()>(F);

impl<F: FnMut()> Drop for Ended<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Accepting {
    /// Has `accept` put connections into the set until it is told to stop; then those within go on to their end. `ended` is
    /// called when all is over.
    ///
    /// # Errors
    /// As [`Socket::listen`].
    pub fn start(
        socket: Arc<Socket>,
        ended: impl FnMut() + Send + 'static,
        accept: impl for<'a> FnOnce(&'a tokio::net::UnixListener, &'a mut JoinSet<()>) -> BoxFuture<'a, ()>
        + Send
        + 'static,
    ) -> Result<Self, StartError> {
        let listener = socket.listen()?;
        let stop = Arc::new(Notify::new());
        let (ended, stopped) = (Ended(ended), Arc::clone(&stop));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            tokio::select! {
                () = stopped.notified() => {}
                () = accept(&listener, &mut connections) => {}
            }
            drop(listener);
            while connections.join_next().await.is_some() {}
            drop(ended);
        });
        Ok(Self { socket, stop, accept: tasks })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Lets nobody in any more, and waits for those within.
    pub async fn stop(&mut self) {
        self.socket.close();
        self.stop.notify_one();
        while self.accept.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_kept_has_its_mode_and_is_made_again_without_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let socket = Socket::new(deep.clone(), "q.sock", Mode::from_raw_mode(0o666));
        let first = socket.listen().unwrap();
        let meta = || std::fs::metadata(socket.path()).unwrap();
        assert_eq!(meta().permissions().mode() & 0o777, 0o666);
        let inode = meta().ino();
        drop(first);
        drop(socket.listen().unwrap());
        assert_eq!(meta().ino(), inode);
        UnixStream::connect(ShortPath::of(&deep).unwrap().join("q.sock")).unwrap();
        std::fs::remove_file(socket.path()).unwrap();
        let again = socket.listen().unwrap();
        UnixStream::connect(ShortPath::of(&deep).unwrap().join("q.sock")).unwrap();
        let other = Socket::new(deep.clone(), "q.sock", Mode::RUSR);
        assert!(other.listen().unwrap_err().to_string().ends_with("somebody answers there"));
        drop(again);
        socket.close();
        assert!(UnixStream::connect(ShortPath::of(&deep).unwrap().join("q.sock")).is_err());
        socket.unlink();
        assert!(!socket.path().exists());
    }
}
