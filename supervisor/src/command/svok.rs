//! `svok`: tells by its exit code whether a service has its supervise, as daemontools' program of this name.

use std::path::Path;
use std::process::ExitCode;

use mailtree_protocols::svc::service_name;

use super::words::Words;
use crate::control::{AskError, Reply, Request, ask};
use crate::service::STANDARD;
use crate::service::is_known;
use crate::svscan::Refusal;

/// `svok service`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A service, or its directory
    #[arg(value_parser = Words(&STANDARD), hide_possible_values = true)]
    service: String,
}

/// 0: its supervise runs. 100: it does not. 111: that cannot be told.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    match check(home, &args.service) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(100),
        Err(cause) => {
            errln!("svok: fatal: {cause}");
            ExitCode::from(111)
        }
    }
}

/// Whether its supervise runs; the error is worded for after `svok: fatal: `.
pub(super) fn check(home: &Path, argument: &str) -> Result<bool, String> {
    let service = service_name(argument);
    let chdir = || format!("unable to chdir to {argument}: {}", Refusal::Unknown);
    let open = |reason: String| format!("unable to open {argument}/supervise/ok: {reason}");
    match ask(home, &Request::Svok { service: service.to_owned() }) {
        Ok(Reply::Done) => Ok(true),
        Ok(Reply::Refused(Refusal::Unknown)) => Err(chdir()),
        Ok(Reply::Refused(Refusal::NotRunning | Refusal::NoChaos | Refusal::NothingRuns)) => Ok(false),
        Ok(Reply::Error(error)) => Err(open(error)),
        Ok(Reply::Services { .. } | Reply::Killed(_) | Reply::Queue(_)) => {
            Err(open("the host's answer is to another question".to_owned()))
        }
        Err(AskError::NotRunning(_)) if is_known(home, service) => Ok(false),
        Err(AskError::NotRunning(_)) => Err(chdir()),
        Err(error) => Err(open(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_that_is_down_runs_nothing() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(check(home.path(), "/service/qmail-send/"), Ok(false));
        assert_eq!(
            check(home.path(), "ftpd"),
            Err("unable to chdir to ftpd: file does not exist".to_owned())
        );
    }
}
