//! `svc`: tells services what to do, as daemontools' program of this name.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_protocols::svc::{USAGE, letters, service_name};

use super::help;
use super::words::Words;
use crate::control::{AskError, Reply, Request, ask};
use crate::service::STANDARD;
use crate::service::is_known;
use crate::svscan::Refusal;

/// `svc [-udopchaitkx] service...`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Letters after a hyphen (u up, d down, o once, x exit, p pause, c continue, h hup, a alarm, i interrupt, t term,
    /// k kill), then services or their directories. A service that has exited comes back when the host is started again
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_parser = Words(&STANDARD), hide_possible_values = true)]
    arguments: Vec<String>,
}

impl Args {
    /// Whether services are to be told something, and no help or usage is shown.
    pub(super) fn is_order(&self) -> bool {
        Order::parse(Path::new(""), &self.arguments).is_some()
    }

    /// What `--home` among them names.
    pub(super) fn home(&self) -> Option<PathBuf> {
        let none = Path::new("");
        Order::parse(none, &self.arguments).map(|order| order.home).filter(|home| home != none)
    }
}

/// Tells them, in the order given. A service that cannot be told is a warning; the exit code is 0 all the same.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    if args.arguments.first().is_some_and(|word| word == "--help") {
        return help::print("svc");
    }
    let Some(Order { home, letters, services }) = Order::parse(home, &args.arguments) else {
        errln!("{USAGE}");
        return ExitCode::from(100);
    };
    for argument in services {
        if let Err(warning) = tell(&home, argument, &letters) {
            errln!("svc: warning: {warning}");
        }
    }
    ExitCode::SUCCESS
}

#[derive(Debug, PartialEq, Eq)]
struct Order<'a> {
    home: PathBuf,
    letters: String,
    services: Vec<&'a str>,
}

impl<'a> Order<'a> {
    /// getopt's reading: letters may stand together or apart and end at the first other word, or at `--`.
    fn parse(home: &Path, arguments: &'a [String]) -> Option<Self> {
        let mut home = home.to_owned();
        let mut options = String::new();
        let mut words = arguments.iter().map(String::as_str);
        let mut services = Vec::new();
        while let Some(word) = words.next() {
            match word.strip_prefix('-') {
                Some("-") => break,
                Some("-home") => home = PathBuf::from(words.next()?),
                Some(long) if long.starts_with("-home=") => home = PathBuf::from(&long["-home=".len()..]),
                None | Some("") => {
                    services.push(word);
                    break;
                }
                Some(letters) => options.push_str(letters),
            }
        }
        services.extend(words);
        let letters = letters(&options)?.into_iter().map(|letter| letter.as_char()).collect();
        Some(Self { home, letters, services })
    }
}

/// Tells one service; the error is worded for after `svc: warning: `.
pub(super) fn tell(home: &Path, argument: &str, letters: &str) -> Result<(), String> {
    let service = service_name(argument);
    let chdir = || format!("unable to chdir to {argument}: {}", Refusal::Unknown);
    let control = |reason: String| format!("unable to control {argument}: {reason}");
    match ask(home, &Request::Svc { service: service.to_owned(), letters: letters.to_owned() }) {
        Ok(Reply::Done) => Ok(()),
        Ok(Reply::Refused(Refusal::Unknown)) => Err(chdir()),
        Ok(Reply::Refused(refusal)) => Err(control(refusal.to_string())),
        Ok(Reply::Error(error)) => Err(control(error)),
        Ok(Reply::Services { .. } | Reply::Killed(_) | Reply::Queue(_)) => {
            Err(control("the host's answer is to another question".to_owned()))
        }
        Err(AskError::NotRunning(_)) if is_known(home, service) => {
            Err(control(Refusal::NotRunning.to_string()))
        }
        Err(AskError::NotRunning(_)) => Err(chdir()),
        Err(error) => Err(control(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<(String, String, Vec<String>)> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Order::parse(Path::new("/h"), &words).map(|order| {
            let services = order.services.into_iter().map(str::to_owned).collect();
            (order.home.display().to_string(), order.letters, services)
        })
    }

    #[test]
    fn letters_then_services() {
        let order = |home: &str, letters: &str, services: &[&str]| {
            Some((
                home.to_owned(),
                letters.to_owned(),
                services.iter().map(|name| (*name).to_owned()).collect(),
            ))
        };
        assert_eq!(parse("-du smtpd"), order("/h", "du", &["smtpd"]));
        assert_eq!(parse("-d -x /service/qmail-send /service/qmail-send/log"), {
            order("/h", "dx", &["/service/qmail-send", "/service/qmail-send/log"])
        });
        assert_eq!(parse("-h send"), order("/h", "h", &["send"]));
        assert_eq!(parse("-dd -- -x"), order("/h", "d", &["-x"]));
        assert_eq!(parse("send -d"), order("/h", "", &["send", "-d"]));
        assert_eq!(parse("--home /m -t send"), order("/m", "t", &["send"]));
        assert_eq!(parse("-t --home=/m send"), order("/m", "t", &["send"]));
        assert_eq!(parse(""), order("/h", "", &[]));
        assert_eq!(parse("-z smtpd"), None);
        assert_eq!(parse("--help"), None);
    }

    #[test]
    fn host_that_is_down_is_a_warning() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(
            tell(home.path(), "/service/qmail-smtpd", "d").unwrap_err(),
            "unable to control /service/qmail-smtpd: supervise not running"
        );
        assert_eq!(
            tell(home.path(), "/service/ftpd", "d").unwrap_err(),
            "unable to chdir to /service/ftpd: file does not exist"
        );
    }
}
