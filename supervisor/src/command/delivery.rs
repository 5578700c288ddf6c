//! The programs for lines of `.qmail` files, and those around Maildirs and mbox files, as qmail's of these names: their
//! environment is qmail-local's, their words and exit codes are djb's, and they print to standard error.

mod child;
mod forward;
mod maildir2mbox;
mod mbox2maildir;
mod preline;
mod qbiff;
mod qreceipt;
mod reason;

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) use forward::{condredirect, forward};
pub(super) use maildir2mbox::run as maildir2mbox;
pub(super) use mbox2maildir::run as mbox2maildir;
pub(super) use preline::{predate, preline};
pub(super) use qbiff::run as qbiff;
pub(super) use qreceipt::run as qreceipt;
use reason::reason;

use crate::failure::Failure;

/// Bytes that are read at a time.
const CHUNK: usize = 64 * 1024;

/// `bouncesaying error [program [arg ...]]`: a failure for good with this text, if there is no program, or it agrees.
pub(super) fn bouncesaying(_: &Path, arguments: &[OsString]) -> ExitCode {
    let Some((error, program)) = arguments.split_first() else {
        return usage("bouncesaying: usage: bouncesaying error [ program [ arg ... ] ]");
    };
    match if program.is_empty() { Ok(true) } else { child::agrees(program) } {
        Ok(true) => {
            errln!("{}", error.display());
            ExitCode::from(100)
        }
        Ok(false) => ExitCode::SUCCESS,
        Err(failure) => failure.report("bouncesaying"),
    }
}

/// `except program [arg ...]`: a failure for good if the program agrees, success if not.
pub(super) fn except(_: &Path, arguments: &[OsString]) -> ExitCode {
    if arguments.is_empty() {
        return usage("except: usage: except program [ arg ... ]");
    }
    match child::agrees(arguments) {
        Ok(true) => ExitCode::from(100),
        Ok(false) => ExitCode::SUCCESS,
        Err(failure) => failure.report("except"),
    }
}

/// `maildirmake name`: makes a Maildir that nobody else may read.
pub(super) fn maildirmake(_: &Path, arguments: &[OsString]) -> ExitCode {
    let Some(name) = arguments.first() else { return usage("maildirmake: usage: maildirmake name") };
    match make_maildir(Path::new(name)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("maildirmake"),
    }
}

fn make_maildir(maildir: &Path) -> Result<(), Failure> {
    let below = ["tmp", "new", "cur"].map(|name| maildir.join(name));
    for dir in [maildir.to_owned()].iter().chain(&below) {
        DirBuilder::new().mode(0o700).create(dir).map_err(|error| unable("mkdir", dir, &error))?;
    }
    Ok(())
}

fn usage(text: &str) -> ExitCode {
    errln!("{text}");
    ExitCode::from(100)
}

/// `unable to DO WHAT: REASON`, to be tried again.
fn unable(doing: &str, what: &Path, error: &io::Error) -> Failure {
    Failure::temporary(format!("unable to {doing} {}: {}", what.display(), reason(error)))
}

/// A variable of qmail-local's; permanent if it is not there.
fn variable(name: &str) -> Result<Vec<u8>, Failure> {
    let value = std::env::var_os(name).map(OsString::into_vec);
    value.ok_or_else(|| Failure::permanent(format!("{name} not set")))
}

/// Which end of a copy failed.
enum Broken {
    Input(io::Error),
    Output(io::Error),
}

/// Gives standard input to `take`, from where it is to its end.
fn copy_input(mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Broken> {
    let mut input = io::stdin().lock();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match input.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::Input(error)),
        };
        take(&chunk[..read]).map_err(Broken::Output)?;
    }
}

/// The same, into `output`.
fn copy_input_to(output: &mut impl Write) -> Result<(), Broken> {
    copy_input(|bytes| output.write_all(bytes))
}
