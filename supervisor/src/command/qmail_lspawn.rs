//! `qmail-lspawn`: this binary as the process that delivers with the rights of users. Only a host starts it.

use std::process::ExitCode;

use mailtree_actors::lspawn::{NAME, process};

use crate::failure::Failure;

/// Serves until the host has gone.
pub(super) fn run() -> ExitCode {
    match process::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::temporary(error.to_string()).report(NAME),
    }
}
