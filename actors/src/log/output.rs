//! Standard output, written without ever waiting for its reader longer than is wanted: who reads the log may have stopped.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// As much fits into a pipe that is ready (POSIX's PIPE_BUF, as Linux has it): such a write does not wait.
const PIECE: usize = 4096;

/// How long its reader is waited for before it is asked whether to go on.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What was taken from the log and is not written yet: a line that was begun is ended by the next who writes.
#[derive(Default)]
pub(super) struct Output(Mutex<Vec<u8>>);

impl Output {
    /// The right to write; nobody has it for long.
    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes `bytes` as long as `goes_on`; what could not be written stays.
///
/// # Errors
/// When standard output takes nothing any more.
pub(super) fn write(bytes: &mut Vec<u8>, goes_on: impl Fn() -> bool) -> io::Result<()> {
    let stdout = io::stdout();
    let mut written = 0;
    let result = loop {
        if written == bytes.len() || !goes_on() {
            break Ok(());
        }
        match poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => (),
            Err(error) => break Err(error),
        }
        let piece = &bytes[written..bytes.len().min(written + PIECE)];
        match rustix::io::write(&stdout, piece) {
            Ok(count) => written += count,
            // Somebody else made it non-blocking, and the room is gone again.
            Err(Errno::INTR | Errno::AGAIN) => (),
            Err(error) => break Err(error),
        }
    };
    bytes.drain(..written);
    Ok(result?)
}
