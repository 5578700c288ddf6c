//! Standard output and standard error of the commands: the only place that writes to them.
//!
//! A reader that has gone (`| head -1`) stops nobody from ending his work; [`finish`] then gives the exit code that a
//! shell gives to a filter which SIGPIPE ended. `println!` would panic.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mailtree_protocols::visible::{visible_json, visible_lines};
use serde::Serialize;

/// What a shell reports of a process that SIGPIPE ended: 128 + 13.
const SIGPIPE: u8 = 141;

/// Bytes that are collected before they are written.
const BUFFER: usize = 64 * 1024;

/// Prints to standard output.
macro_rules! out {
    ($($arg:tt)*) => { $crate::output::text(format_args!($($arg)*)) };
}

/// Prints a line to standard output.
macro_rules! outln {
    ($($arg:tt)*) => { $crate::output::text(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Prints a line to standard error, behind everything that was printed to standard output.
macro_rules! errln {
    ($($arg:tt)*) => { $crate::output::error(format_args!("{}\n", format_args!($($arg)*))) };
}

#[derive(Default)]
struct Output {
    buffer: Vec<u8>,
    failed: Option<io::Error>,
}

static OUTPUT: Mutex<Output> = Mutex::new(Output { buffer: Vec::new(), failed: None });

fn output() -> MutexGuard<'static, Output> {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output {
    fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
            if self.buffer.len() >= BUFFER {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        if self.failed.is_none() && !self.buffer.is_empty() {
            let mut stdout = io::stdout().lock();
            self.failed = stdout.write_all(&self.buffer).and_then(|()| stdout.flush()).err();
        }
        self.buffer.clear();
    }
}

/// Prints lines. Characters that steer a terminal become escapes.
pub(crate) fn text(text: fmt::Arguments<'_>) {
    output().push(visible_lines(&text.to_string()).as_bytes());
}

/// Prints bytes as they are; false once nobody reads them.
pub(crate) fn raw(bytes: &[u8]) -> bool {
    let mut output = output();
    output.push(bytes);
    output.failed.is_none()
}

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) {
    // Only a map with keys that are no strings fails, and no command has one.
    let document = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    output().push(visible_json(&document).as_bytes());
}

/// Prints to standard error. That it cannot be written is nothing that could be said anywhere.
pub(crate) fn error(text: fmt::Arguments<'_>) {
    output().write();
    let text = text.to_string();
    io::stderr().write_all(visible_lines(&text).as_bytes()).unwrap_or_default();
}

/// How far a long piece of work is, in one line of a terminal; where standard error is none, nothing is shown.
pub(crate) struct Progress {
    /// What is 100 percent.
    whole: u64,
    /// None: nothing is shown.
    shown: Option<u64>,
}

impl Progress {
    /// Characters of the bar.
    const WIDTH: usize = 40;

    pub(crate) fn new(whole: u64) -> Self {
        Self { whole, shown: io::stderr().is_terminal().then_some(0) }
    }

    /// So much of the whole is done, in so many messages. Written when another percent is.
    pub(crate) fn at(&mut self, done: u64, messages: u64) {
        let percent =
            done.saturating_mul(100).checked_div(self.whole).map_or(100, |percent| percent.min(100));
        if self.shown.is_some_and(|shown| percent > shown) {
            self.shown = Some(percent);
            Self::write(&Self::line(percent, messages));
        }
    }

    /// Takes the line away.
    pub(crate) fn end(self) {
        if self.shown.is_some_and(|shown| shown > 0) {
            Self::write("");
        }
    }

    fn line(percent: u64, messages: u64) -> String {
        let full = usize::try_from(percent).unwrap_or(100) * Self::WIDTH / 100;
        format!("[{}{}] {percent:3} %  {messages} messages", "#".repeat(full), " ".repeat(Self::WIDTH - full))
    }

    /// In the place of what stands in the line.
    fn write(line: &str) {
        io::stderr().write_all(format!("\r{line}\x1b[K").as_bytes()).unwrap_or_default();
    }
}

/// Has everything written, and says what went wrong since the last time.
pub(crate) fn flush() -> io::Result<()> {
    let mut output = output();
    output.write();
    output.failed.take().map_or(Ok(()), Err)
}

/// The exit code of a command that ended with `code`: success is none if its output was not written.
pub(crate) fn finish(code: ExitCode) -> ExitCode {
    match flush() {
        Err(error) if code == ExitCode::SUCCESS => match error.kind() {
            ErrorKind::BrokenPipe => ExitCode::from(SIGPIPE),
            _ => {
                errln!("mailtree: fatal: unable to write to standard output: {error}");
                ExitCode::from(111)
            }
        },
        Ok(()) | Err(_) => code,
    }
}
