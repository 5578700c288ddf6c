//! The wake-up of qmail-send: in memory for what this host accepts, and `queue/lock/trigger` for what others put into
//! `todo`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::disk::owner_of_send;

type Wake = Arc<dyn Fn() + Send + Sync>;

/// The wake-up. Pulls while one is on its way are one pull.
#[derive(Clone)]
pub struct Trigger {
    pulled: Arc<AtomicBool>,
    todo: Arc<AtomicBool>,
    wake: Wake,
}

impl Trigger {
    /// A trigger that calls `wake` when it is pulled.
    #[must_use]
    pub fn new(wake: Wake) -> Self {
        Self { pulled: Arc::default(), todo: Arc::default(), wake }
    }

    /// A message has come.
    pub fn pull(&self) {
        if !self.pulled.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }

    /// Something may be in `todo` that nobody here has put there.
    pub fn pull_todo(&self) {
        self.todo.store(true, Ordering::Release);
        self.pull();
    }

    /// There is more in `todo` than could be taken: the next look must come soon.
    pub(super) fn look_again(&self) {
        self.todo.store(true, Ordering::Release);
    }

    /// The scheduler is about to look: what comes from now on pulls anew. Whether it must look into `todo` as well.
    #[must_use]
    pub fn set(&self) -> bool {
        self.pulled.store(false, Ordering::Release);
        self.todo.swap(false, Ordering::AcqRel)
    }
}

/// Pulls `trigger` whenever somebody writes to the FIFO at `path`, which is made if it is missing. Ends on an error.
///
/// # Errors
/// When the FIFO cannot be made, opened or read.
pub async fn listen(path: PathBuf, trigger: Trigger) -> io::Result<()> {
    make_if_missing(&path)?;
    // Open for writing as well: without a writer a FIFO would be at its end all the time.
    let mut fifo = pipe::OpenOptions::new().read_write(true).open_receiver(&path)?;
    let mut bytes = [0; 1024];
    loop {
        if fifo.read(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        trigger.pull_todo();
    }
}

/// Makes the FIFO at `path`, with qmail-send's owner if that is possible, if there is nothing.
///
/// # Errors
/// The system's.
pub fn make_if_missing(path: &Path) -> io::Result<()> {
    if path.try_exists()? { Ok(()) } else { make(path) }
}

/// As qmail's: everybody may wake qmail-send.
fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o622))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o622))?;
    if rustix::process::geteuid().is_root()
        && let Some(queue) = path.parent().and_then(Path::parent)
    {
        let (uid, gid) = owner_of_send(queue)?;
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn counting() -> (Trigger, Arc<AtomicU32>) {
        let woken = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&woken);
        let wake = Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        (Trigger::new(wake), woken)
    }

    #[test]
    fn pulls_before_the_look_are_one() {
        let (trigger, woken) = counting();
        trigger.pull();
        trigger.pull();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert!(!trigger.set());
        trigger.pull_todo();
        assert_eq!(woken.load(Ordering::Relaxed), 2);
        assert!(trigger.set() && !trigger.set());
    }

    #[tokio::test]
    async fn a_byte_in_the_fifo_is_a_pull_again_and_again() {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trigger");
        let (trigger, _) = counting();
        let listening = tokio::spawn(listen(path.clone(), trigger.clone()));
        for _ in 0..3 {
            // As qmail-queue does it (triggerpull.c).
            loop {
                let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
                let fifo = std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(&path);
                if let Ok(mut fifo) = fifo {
                    std::io::Write::write_all(&mut fifo, &[0]).unwrap();
                    break;
                }
                tokio::task::yield_now().await;
            }
            while !trigger.set() {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o622);
        listening.abort();
    }
}
