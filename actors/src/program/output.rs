//! What a program says on its standard output and standard error: lines for the log, and not too many.

use std::convert::Infallible;

use rustix::process::Pid;
use tokio::net::unix::pipe::Receiver;

/// Lines of one run that are logged; the others are counted.
const MAX_LINES: usize = 100;

/// Longest line in bytes; the rest of it counts as a new one.
const MAX_LINE: usize = 1000;

/// Bytes still read when the program has ended: more than a pipe holds.
const MAX_REST: usize = 1 << 20;

/// The reading end.
pub(super) struct Output {
    pipe: Receiver,
    program: String,
    pid: i32,
    line: Vec<u8>,
    lines: usize,
    dropped: usize,
}

impl Output {
    pub(super) fn new(pipe: Receiver, program: String, pid: Pid) -> Self {
        Self { pipe, program, pid: pid.as_raw_pid(), line: Vec::new(), lines: 0, dropped: 0 }
    }

    /// Logs what comes, for ever. Reading goes on above the limit: a program that floods is not held up.
    pub(super) async fn read(&mut self) -> Infallible {
        let mut buffer = [0; 4096];
        while self.pipe.readable().await.is_ok() {
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => self.take(&buffer[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        std::future::pending().await
    }

    /// Logs what is in the pipe now and waits for nothing: a process that escaped may still hold the other end.
    pub(super) fn finish(mut self) {
        let mut buffer = [0; 4096];
        let mut rest = MAX_REST;
        // Not `try_read`, which knows what the runtime has seen so far and not what there is.
        while rest > 0
            && let Ok(len @ 1..) = rustix::io::read(&self.pipe, &mut buffer)
        {
            self.take(&buffer[..len]);
            rest = rest.saturating_sub(len);
        }
        self.end_line();
        if self.dropped > 0 {
            let Self { program, pid, dropped, .. } = self;
            tracing::warn!(program, pid, "{program}: {dropped} more lines are not logged");
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else {
                if self.line.len() == MAX_LINE {
                    self.end_line();
                }
                self.line.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        if self.lines < MAX_LINES {
            self.lines += 1;
            tracing::info!(program = self.program, pid = self.pid, "{}", String::from_utf8_lossy(&self.line));
        } else {
            self.dropped += 1;
        }
        self.line.clear();
    }
}
