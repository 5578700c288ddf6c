//! `svstat`: shows how services are, as daemontools' program of this name; without arguments, the tree.

use std::path::Path;
use std::process::ExitCode;

use mailtree_protocols::svc::service_name;

use super::words::Words;
use crate::control::{AskError, Reply, Request, ask};
use crate::output;
use crate::service::STANDARD;
use crate::service::is_known;
use crate::status::{Phase, Picture, Row};
use crate::svscan::Refusal;

/// `svstat [--json] [service...]`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON array of all services, or of those named
    #[arg(long)]
    json: bool,
    /// Services, or their directories; none: the whole tree
    #[arg(value_parser = Words(&STANDARD), hide_possible_values = true)]
    services: Vec<String>,
}

/// What the host says of itself.
type Services = Result<(u32, Vec<Row>), AskError>;

/// Shows them. The exit code is 0 whatever their state; 111 if the tree was to be shown and there is none.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    let services = services(home);
    let shown = match (&services, args.json, args.services.is_empty()) {
        (Err(error), true, _) | (Err(error), false, true) => Err(error.to_string()),
        (Ok((_, rows)), true, _) => {
            output::json(&named(rows, &args.services));
            return ExitCode::SUCCESS;
        }
        (Ok((pid, rows)), false, true) => Ok(Picture { pid: *pid, rows }.to_string()),
        (_, false, false) => Ok(args.services.iter().map(|name| line(home, name, &services)).collect()),
    };
    match shown {
        Ok(text) => {
            out!("{text}");
            ExitCode::SUCCESS
        }
        Err(cause) => {
            errln!("svstat: fatal: {cause}");
            ExitCode::from(111)
        }
    }
}

/// The line of each of `services`, names or directories.
pub(super) fn lines(home: &Path, arguments: &[String]) -> String {
    let services = services(home);
    arguments.iter().map(|argument| line(home, argument, &services)).collect()
}

fn services(home: &Path) -> Services {
    match ask(home, &Request::Svstat {}) {
        Ok(Reply::Services { pid, rows }) => Ok((pid, rows)),
        Ok(Reply::Error(error)) => Err(AskError::Unreadable(error)),
        Ok(Reply::Done | Reply::Killed(_) | Reply::Queue(_) | Reply::Refused(_)) => {
            Err(AskError::Unreadable("the answer is to another question".to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn named<'a>(rows: &'a [Row], arguments: &[String]) -> Vec<&'a Row> {
    let named =
        |row: &&Row| arguments.is_empty() || arguments.iter().any(|name| service_name(name) == row.service);
    rows.iter().filter(named).collect()
}

fn line(home: &Path, argument: &str, services: &Services) -> String {
    let service = service_name(argument);
    let state = match services {
        Ok((_, rows)) => match rows.iter().find(|row| row.service == service) {
            None => format!("unable to chdir: {}", Refusal::Unknown),
            Some(row) if row.state == Phase::Left => Refusal::NotRunning.to_string(),
            Some(row) => row.svstat().to_string(),
        },
        Err(AskError::NotRunning(_)) if is_known(home, service) => Refusal::NotRunning.to_string(),
        Err(AskError::NotRunning(_)) => format!("unable to chdir: {}", Refusal::Unknown),
        Err(error) => format!("unable to open supervise/ok: {error}"),
    };
    format!("{argument}: {state}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Wish;

    fn row(service: &str, state: Phase) -> Row {
        Row {
            service: service.to_owned(),
            state,
            pid: (state == Phase::Up).then_some(77),
            seconds: 12,
            restarts: 2,
            want: Wish::Up,
            normally_up: true,
            paused: false,
            wait: (state == Phase::Resting).then_some(48),
            reason: (state == Phase::Resting).then(|| "address in use".to_owned()),
            listen: if state == Phase::Up { vec!["127.0.0.1:2525".to_owned()] } else { Vec::new() },
            troubles: Vec::new(),
        }
    }

    #[test]
    fn lines_echo_the_argument() {
        let services =
            Ok((77, vec![row("smtpd", Phase::Up), row("send", Phase::Resting), row("pop3d", Phase::Left)]));
        let home = Path::new("/nowhere");
        for (argument, expected) in [
            ("/service/qmail-smtpd", "/service/qmail-smtpd: up (pid 77) 12 seconds\n"),
            ("send", "send: down 12 seconds, normally up, want up\n"),
            ("pop3d", "pop3d: supervise not running\n"),
            ("./ftpd", "./ftpd: unable to chdir: file does not exist\n"),
        ] {
            assert_eq!(line(home, argument, &services), expected);
        }
        let down = Err(AskError::NotRunning(std::path::PathBuf::from(".")));
        assert_eq!(line(home, "qmail-send", &down), "qmail-send: supervise not running\n");
        assert_eq!(line(home, "ftpd", &down), "ftpd: unable to chdir: file does not exist\n");
    }

    #[test]
    fn picture_of_the_tree() {
        let rows = [row("smtpd", Phase::Up), row("send", Phase::Resting)];
        assert_eq!(
            Picture { pid: 77, rows: &rows }.to_string(),
            "svscan (pid 77)\n\
             ├─ smtpd  up            12 s  127.0.0.1:2525, 2 restarts\n\
             └─ send   resting       12 s  want up, next start in 48 s, 2 restarts, last: address in use\n"
        );
    }

    #[test]
    fn json_rows_are_those_named() {
        let rows = [row("smtpd", Phase::Up), row("send", Phase::Resting)];
        assert_eq!(named(&rows, &[]), rows.iter().collect::<Vec<_>>());
        assert_eq!(named(&rows, &["/service/qmail-send".to_owned()]), [&rows[1]]);
        let value = serde_json::to_value(named(&rows[..1], &[])).unwrap();
        assert!(value[0]["state"] == "up" && value[0]["pid"] == 77, "{value}");
    }
}
