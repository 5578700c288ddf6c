//! Programs that others call for each message. Called by their own names they read their arguments themselves, and
//! nothing is made ready that they do not need.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use mailtree_protocols::qmail_queue::exit;

use super::home::Home;
use super::{delivery, help, qmail_inject, qmail_pw2u, qmail_queue, qmqp, sendmail};
use crate::failure::Failure;

/// The arguments of such a program, as it reads them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// As the classic program has them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// One such program.
pub(super) struct Program {
    name: &'static str,
    main: fn(home: &Path, arguments: &[OsString]) -> ExitCode,
}

const PROGRAMS: [Program; 21] = [
    Program { name: "qmail-queue", main: |home, _| qmail_queue::run(home) },
    Program { name: "qmail-inject", main: qmail_inject::run },
    Program { name: "sendmail", main: sendmail::run },
    Program { name: "mailq", main: sendmail::mailq },
    Program { name: "newaliases", main: sendmail::newaliases },
    Program { name: "datemail", main: sendmail::datemail },
    Program { name: "mailsubj", main: qmail_inject::mailsubj },
    Program { name: "qmail-qmqpc", main: |home, _| qmqp::client(home) },
    Program { name: "qmail-qmqpd", main: |home, _| qmqp::server(home) },
    Program { name: "forward", main: delivery::forward },
    Program { name: "bouncesaying", main: delivery::bouncesaying },
    Program { name: "condredirect", main: delivery::condredirect },
    Program { name: "except", main: delivery::except },
    Program { name: "preline", main: delivery::preline },
    Program { name: "predate", main: delivery::predate },
    Program { name: "qreceipt", main: delivery::qreceipt },
    Program { name: "qbiff", main: delivery::qbiff },
    Program { name: "maildirmake", main: delivery::maildirmake },
    Program { name: "maildir2mbox", main: delivery::maildir2mbox },
    Program { name: "mbox2maildir", main: delivery::mbox2maildir },
    Program { name: "qmail-pw2u", main: qmail_pw2u::run },
];

/// The program whose name is the last part of `called`.
pub(super) fn called(called: Option<&OsString>) -> Option<&'static Program> {
    named(Path::new(called?).file_name()?)
}

fn named(name: &OsStr) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| name == program.name)
}

impl Program {
    /// Runs it as it was called.
    pub(super) fn run(&self, called: &[OsString]) -> ExitCode {
        let (program, arguments) = called.split_first().unzip();
        match Home::find(None, program.map(OsString::as_os_str)) {
            Ok(home) => self.main(&home.path, arguments.unwrap_or_default()),
            Err(failure) => self.homeless(&failure),
        }
    }

    fn main(&self, home: &Path, arguments: &[OsString]) -> ExitCode {
        if arguments.first().is_some_and(|word| word == "--help") {
            return help::print(self.name);
        }
        (self.main)(home, arguments)
    }

    /// Those that stand where qmail-queue does never print.
    fn homeless(&self, failure: &Failure) -> ExitCode {
        match self.name {
            "qmail-queue" | "qmail-qmqpc" => ExitCode::from(exit::HOME),
            name => failure.report(name),
        }
    }
}

/// Runs the program called `name` as a command of `mailtree`.
pub(super) fn run(name: &str, home: &Path, args: &Args) -> ExitCode {
    match named(OsStr::new(name)) {
        Some(program) => program.main(home, &args.arguments),
        None => ExitCode::from(100),
    }
}
