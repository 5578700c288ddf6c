//! `qmailctl`: one program for the whole mail host, as the script of this name in "Life with qmail".

use std::path::Path;
use std::process::ExitCode;

use mailtree_config::Host;
use mailtree_config::host::Service;
use mailtree_protocols::simscan::simcontrol::Simcontrol;

use super::words::Words;
use super::{qmail_qread, svc, svok, svstat, tcprules};
use crate::durable::{self, Owner};
use crate::failure::{Doing as _, Failure};
use crate::rules;

const USAGE: &str =
    "Usage: qmailctl {start|stop|restart|doqueue|flush|reload|stat|pause|cont|cdb|queue|help}";

/// What a shell offers; a wrong word is answered with the script's own usage.
const ORDERS: [&str; 11] =
    ["start", "stop", "restart", "doqueue", "flush", "reload", "stat", "pause", "cont", "cdb", "queue"];

const HELP: &str = "\
start -- starts qmail-send and the services that take connections
stop -- stops them; connections get no answer, nothing is delivered
restart -- stops the services that take connections, restarts qmail-send, starts them again
doqueue -- has qmail-send try now what waits for its time (also: alrm, flush)
reload -- has qmail-send read its control files again (also: hup)
stat -- shows how the services are and counts the messages in the queue
pause -- stops taking connections and starting deliveries for a while
cont -- goes on after pause
cdb -- compiles the rules of tcpserver, such as tcp.smtp
queue -- counts the messages in the queue, and lists them and their recipients
help -- shows this";

/// `qmailctl {start|stop|restart|doqueue|flush|reload|stat|pause|cont|cdb|queue|help}`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do; `help` tells
    #[arg(value_parser = Words(&ORDERS), hide_possible_values = true)]
    arguments: Vec<String>,
}

impl Args {
    /// Whether something is to be done on a host, and no help or usage is shown.
    pub(super) fn is_order(&self) -> bool {
        self.arguments.first().is_some_and(|word| word != "help")
    }
}

/// Does it. 1: no such subcommand; otherwise 0 as in the script, but not where a database could not be made or the
/// queue could not be read.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    let qmailctl = Qmailctl { home, listeners: listeners(home) };
    match args.arguments.first().map_or("", String::as_str) {
        "start" => qmailctl.start(),
        "stop" => qmailctl.stop(),
        "restart" => qmailctl.restart(),
        "stat" => return qmailctl.stat(),
        "doqueue" | "alrm" | "flush" => {
            outln!("Sending ALRM signal to qmail-send.");
            qmailctl.svc("a", SEND);
        }
        "reload" | "hup" => {
            outln!("Sending HUP signal to qmail-send.");
            qmailctl.svc("h", SEND);
        }
        "pause" => qmailctl.each("Pausing", "p"),
        "cont" => qmailctl.each("Continuing", "c"),
        "queue" => return queue(home),
        "cdb" => {
            if let Err(failure) = cdb(home) {
                return failure.report("qmailctl");
            }
        }
        "help" => outln!("{HELP}"),
        _ => {
            outln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

const SEND: &str = "send";

struct Qmailctl<'a> {
    home: &'a Path,
    /// The services that take connections from others.
    listeners: Vec<String>,
}

/// Without a readable `host.ron` the one that every host has.
fn listeners(home: &Path) -> Vec<String> {
    let Ok(host) = Host::load(home) else { return vec!["smtpd".to_owned()] };
    let mail = |service: &Service| !matches!(service, Service::Metrics(_));
    host.services.into_iter().filter(|(_, service)| mail(service)).map(|(name, _)| name).collect()
}

impl Qmailctl<'_> {
    fn svc(&self, letters: &str, service: &str) {
        if let Err(warning) = svc::tell(self.home, service, letters) {
            errln!("svc: warning: {warning}");
        }
    }

    /// qmail-send first.
    fn services(&self) -> impl Iterator<Item = &str> {
        std::iter::once(SEND).chain(self.listeners.iter().map(String::as_str))
    }

    fn each(&self, doing: &str, letters: &str) {
        for service in self.services() {
            outln!("{doing} qmail-{service}");
            self.svc(letters, service);
        }
    }

    fn start(&self) {
        outln!("Starting qmail");
        let mut down = false;
        for service in self.services() {
            match svok::check(self.home, service) {
                Ok(true) => self.svc("u", service),
                Ok(false) => {
                    outln!("qmail-{service} supervise not running");
                    down = true;
                }
                Err(cause) => errln!("svok: fatal: {cause}"),
            }
        }
        if down {
            let home = self.home.display();
            errln!(
                "qmailctl: a host that does not run is started by mailtree --home {home} up, or the unit or run script for it"
            );
        }
    }

    /// The log is the host's and goes on.
    fn stop(&self) {
        outln!("Stopping qmail...");
        for service in self.listeners.iter().map(String::as_str).chain([SEND]) {
            outln!("  qmail-{service}");
            self.svc("d", service);
        }
    }

    fn restart(&self) {
        outln!("Restarting qmail:");
        for service in &self.listeners {
            outln!("* Stopping qmail-{service}.");
            self.svc("d", service);
        }
        outln!("* Sending qmail-send SIGTERM and restarting.");
        self.svc("t", SEND);
        for service in &self.listeners {
            outln!("* Restarting qmail-{service}.");
            self.svc("u", service);
        }
    }

    fn stat(&self) -> ExitCode {
        let directories: Vec<String> = self
            .services()
            .flat_map(|service| {
                [format!("/service/qmail-{service}"), format!("/service/qmail-{service}/log")]
            })
            .collect();
        out!("{}", svstat::lines(self.home, &directories));
        qmail_qread::qstat(self.home)
    }
}

fn queue(home: &Path) -> ExitCode {
    let counted = qmail_qread::qstat(home);
    if counted == ExitCode::SUCCESS { qmail_qread::run(home) } else { counted }
}

/// Compiles every file that has a database in the running host; the first that cannot be stops it.
fn cdb(home: &Path) -> Result<(), Failure> {
    let host = Host::load(home)?;
    for source in rules::sources(&host)? {
        let source = std::path::absolute(&source).doing("find", &source)?;
        let text = reload(&source, tcprules::compile)?;
        for said in rules::doubtful(&host, &source, &text) {
            errln!("qmailctl: warning: {said}");
        }
    }
    for said in rules::not_in_force(&host) {
        errln!("qmailctl: warning: {said}");
    }
    let simcontrol = host.paths().control.join("simcontrol");
    if simcontrol.exists() { reload(&simcontrol, simcontrol_cdb).map(drop) } else { Ok(()) }
}

/// What simscanmk makes of `control/simcontrol`.
fn simcontrol_cdb(text: &[u8]) -> Result<Vec<u8>, Failure> {
    let compiled = Simcontrol::parse(text).and_then(|simcontrol| simcontrol.compile());
    compiled.map_err(|error| Failure::permanent(error.to_string()))
}

/// Compiles a file into the one of the same name with `.cdb`, which stays as it is if that fails. The file's text.
fn reload(source: &Path, compile: impl Fn(&[u8]) -> Result<Vec<u8>, Failure>) -> Result<Vec<u8>, Failure> {
    let missing = || Failure::temporary(format!("unable to read {}: file does not exist", source.display()));
    let text = durable::read(source)?.ok_or_else(missing)?;
    let cdb = compile(&text).map_err(|failure| failure.within(source))?;
    let mut path = source.as_os_str().to_owned();
    path.push(".cdb");
    durable::replace(Path::new(&path), &cdb, 0o644, Owner::own())?;
    outln!("Reloaded {}.", source.display());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use mailtree_protocols::cdb::Cdb;

    use super::*;
    use crate::command::init::{Options, initialise};

    #[test]
    fn every_subcommand_of_the_usage_has_a_line_of_help() {
        let names = USAGE.split(['{', '}']).nth(1).unwrap();
        for name in names.split('|').filter(|&name| name != "flush") {
            assert!(HELP.lines().any(|line| line.starts_with(&format!("{name} -- "))), "{name}");
        }
    }

    #[test]
    fn cdb_compiles_the_rules_of_the_services_or_leaves_them() {
        let dir = tempfile::tempdir().unwrap();
        initialise(dir.path(), &Options { me: Some("mail.example".to_owned()), ..Options::default() })
            .unwrap();
        assert_eq!(listeners(dir.path()), ["smtpd", "submission", "smtps"]);
        let source = dir.path().join("tcp.smtp");
        std::fs::write(&source, "10.:deny\n:allow\n").unwrap();
        cdb(dir.path()).unwrap();
        let compiled = || std::fs::read(dir.path().join("tcp.smtp.cdb")).unwrap();
        let before = compiled();
        assert_eq!(Cdb::new(&before).unwrap().iter().count(), 2);
        std::fs::write(&source, "10.:refuse\n").unwrap();
        let said = cdb(dir.path()).unwrap_err().to_string();
        let expected = format!("{}: unable to parse this line: 10.:refuse\n", source.display());
        assert!(said.starts_with(&expected), "{said}");
        assert_eq!(compiled(), before);
        std::fs::remove_file(&source).unwrap();
        assert!(cdb(dir.path()).unwrap_err().to_string().ends_with("tcp.smtp: file does not exist"));
        assert_eq!(compiled(), before);
    }
}
