//! Programs that these programs run.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use super::reason::{is_temporary, reason};
use crate::failure::Failure;

/// Runs a program with the message and the environment, and says whether it agrees, with exit code 0. One that cannot be run does
/// not.
///
/// # Errors
/// To be tried again: its exit code is 111, it crashed, or it could not be run for now.
pub(super) fn agrees(words: &[OsString]) -> Result<bool, Failure> {
    let code = match command(words).status() {
        Ok(status) => exit_code(status)?,
        Err(error) => not_run(&error)?,
    };
    match code {
        0 => Ok(true),
        111 => Err(Failure::temporary("temporary child error")),
        _ => Ok(false),
    }
}

/// The program that the first word names, with the others as its arguments.
pub(super) fn command(words: &[OsString]) -> Command {
    let (program, arguments) = words.split_first().unzip();
    let mut command = Command::new(program.cloned().unwrap_or_default());
    command.args(arguments.unwrap_or_default());
    command
}

/// What a child exits with when its program cannot be executed.
///
/// # Errors
/// When there was no child.
pub(super) fn not_run(error: &io::Error) -> Result<u8, Failure> {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
            Err(Failure::temporary(format!("unable to fork: {}", reason(error))))
        }
        _ => Ok(if is_temporary(error) { 111 } else { 100 }),
    }
}

/// The exit code of a program that has ended.
///
/// # Errors
/// When a signal ended it.
pub(super) fn exit_code(status: ExitStatus) -> Result<u8, Failure> {
    let code = status.code().filter(|_| status.signal().is_none());
    code.and_then(|code| u8::try_from(code).ok()).ok_or_else(|| Failure::temporary("child crashed"))
}
