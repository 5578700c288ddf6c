//! `preline` and `predate`: lines in front of the message that another program gets.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ExitCode, Stdio};

use mailtree_protocols::inject::getopt::{Getopt, Unknown};

use super::{Broken, child, copy_input_to, reason, usage};
use crate::command::qmail_inject::{date, words};
use crate::failure::Failure;

const USAGE: &str = "preline: usage: preline cmd [ arg ... ]";

/// `preline [-frdFRD] cmd [arg ...]`: $UFLINE, $RPLINE and $DTLINE before the message.
pub(in super::super) fn preline(_: &Path, arguments: &[OsString]) -> ExitCode {
    let mut lines = Vec::new();
    for (letter, name) in [(b'f', "UFLINE"), (b'r', "RPLINE"), (b'd', "DTLINE")] {
        let Ok(line) = super::variable(name) else { return usage(USAGE) };
        lines.push((letter, line, true));
    }
    let words = words(arguments);
    let mut getopt = Getopt::new(&words, "frdFRD");
    while let Some(option) = getopt.next() {
        let letter = match option {
            Ok((letter, _)) => letter,
            Err(Unknown(text)) => {
                errln!("preline: {text}");
                return usage(USAGE);
            }
        };
        let own = |line: &&mut (u8, Vec<u8>, bool)| line.0 == letter.to_ascii_lowercase();
        lines.iter_mut().filter(own).for_each(|line| line.2 = letter.is_ascii_uppercase());
    }
    let program = &arguments[arguments.len() - getopt.rest().len()..];
    if program.is_empty() {
        return usage(USAGE);
    }
    let head: Vec<u8> = lines.into_iter().filter(|line| line.2).flat_map(|line| line.1).collect();
    let given = give(
        program,
        |error| if super::reason::is_temporary(error) { 111 } else { 100 },
        |input| {
            input.write_all(&head).map_err(Broken::Output)?;
            copy_input_to(input)
        },
    );
    match given {
        Ok((code, None)) => code,
        Ok((_, Some(Broken::Input(error) | Broken::Output(error)))) => {
            Failure::temporary(format!("unable to copy input: {}", reason(&error))).report("preline")
        }
        Err(failure) => said(&failure, "preline"),
    }
}

/// `predate child`: a Date field before the message, in local time.
pub(in super::super) fn predate(_: &Path, arguments: &[OsString]) -> ExitCode {
    if arguments.is_empty() {
        return usage("predate: usage: predate child");
    }
    let field = date();
    let given = give(
        arguments,
        |_| 111,
        |input| {
            input.write_all(&field).map_err(Broken::Output)?;
            copy_input_to(input)
        },
    );
    match given {
        // Whether it wants all of the message is the program's affair.
        Ok((code, None | Some(Broken::Output(_)))) => code,
        Ok((_, Some(Broken::Input(error)))) => {
            Failure::temporary(format!("unable to copy input: {}", reason(&error))).report("predate")
        }
        Err(failure) => said(&failure, "predate"),
    }
}

/// Why nothing came of it, with the exit code for that.
struct NotGiven {
    text: String,
    code: u8,
}

impl From<Failure> for NotGiven {
    fn from(failure: Failure) -> Self {
        Self { text: failure.to_string(), code: 111 }
    }
}

fn said(NotGiven { text, code }: &NotGiven, program: &str) -> ExitCode {
    errln!("{program}: fatal: {text}");
    ExitCode::from(*code)
}

/// Runs a program with what `write` writes on its standard input; its exit code, and what `write` could not.
fn give(
    words: &[OsString],
    not_run: impl Fn(&io::Error) -> u8,
    write: impl FnOnce(&mut ChildStdin) -> Result<(), Broken>,
) -> Result<(ExitCode, Option<Broken>), NotGiven> {
    let mut command = child::command(words);
    let mut child = command.stdin(Stdio::piped()).spawn().map_err(|error| match child::not_run(&error) {
        Err(failure) => failure.into(),
        Ok(_) => {
            let program = words.first().map(|word| word.display().to_string()).unwrap_or_default();
            NotGiven { text: format!("unable to run {program}: {}", reason(&error)), code: not_run(&error) }
        }
    })?;
    let written = child.stdin.take().map_or(Ok(()), |mut input| write(&mut input));
    let status =
        child.wait().map_err(|error| Failure::temporary(format!("wait failed: {}", reason(&error))))?;
    Ok((ExitCode::from(child::exit_code(status)?), written.err()))
}
