//! The programs in the one binary.

pub mod adopt;
pub mod check;
pub mod explain;
pub mod init;
pub mod links;
pub mod qmail_newmrh;
pub mod qmail_qread;
pub mod qmailctl;
pub mod queue;
pub mod relocate;
pub mod svc;
pub mod svok;
pub mod svstat;
pub mod tcprules;
pub mod tcprulescheck;
pub mod up;
pub mod vadddomain;
pub mod vadduser;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use mailtree_actors::queue::crash::Point;

use crate::control::{AskError, Reply, Request, ask};
use crate::failure::Failure;

/// A qmail-style mail host as one supervised tree of actors.
///
/// Begin with `mailtree up`: it makes a home, starts everything on loopback, and says what to type. Called through a
/// link with the name of a classic program (see `mailtree links`), it is that program.
#[derive(Debug, Parser)]
#[command(name = "mailtree", version, propagate_version = true)]
struct Cli {
    /// The host's home directory
    #[arg(long, global = true, env = "MAILTREE_HOME", default_value = "./mailtree-home", value_name = "DIR")]
    home: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the host in the foreground; an empty or missing home is initialised first
    Up(up::Args),
    /// Make a home: configuration, queue, a first domain with a postmaster
    Init(init::Args),
    /// Read a qmail host and write a host.ron for it; the old host stays as it is
    Adopt(adopt::Args),
    /// Print every effective setting and where it comes from; fail on a bad one
    Check(check::Args),
    /// Tell what a client or a recipient would meet, and why
    #[command(subcommand)]
    Explain(explain::Args),
    /// Tell services what to do
    Svc(svc::Args),
    /// Show services, or the whole tree
    Svstat(svstat::Args),
    /// Exit 0 if a service's supervise runs
    Svok(svok::Args),
    /// The queue: list, show, remove, retry
    #[command(subcommand)]
    Queue(queue::Args),
    /// List the messages in the queue and their recipients
    QmailQread,
    /// Count the messages in the queue
    QmailQstat,
    /// Compile control/morercpthosts
    QmailNewmrh,
    /// Start, stop, show and steer the whole mail host
    Qmailctl(qmailctl::Args),
    /// Compile rules for connections
    Tcprules(tcprules::Args),
    /// Tell which rule a connection would follow
    Tcprulescheck(tcprulescheck::Args),
    /// Add a virtual domain and its postmaster
    Vadddomain(vadddomain::Args),
    /// Add a user to a virtual domain
    Vadduser(vadduser::Args),
    /// Rewrite the paths of a home that was moved or copied
    Relocate(relocate::Args),
    /// Make links of the classic names to this program
    Links(links::Args),
    /// The places where MAILTREE_CRASH_POINT can stop the host
    #[command(hide = true)]
    CrashPoints,
}

/// The program that `arguments` name: the first one, if it is a classic name, or the subcommand.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments = vadduser::classic(with_subcommand(arguments));
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a wrong command line is permanent.
            let code = if error.use_stderr() { ExitCode::from(100) } else { ExitCode::SUCCESS };
            return if error.print().is_ok() { code } else { ExitCode::from(111) };
        }
    };
    let home = &*cli.home;
    match cli.command {
        Command::Up(args) => up::run(home, &args),
        Command::Init(args) => init::run(home, &args),
        Command::Adopt(args) => adopt::run(home, &args),
        Command::Check(args) => check::run(home, &args),
        Command::Explain(args) => explain::run(home, &args),
        Command::Svc(args) => svc::run(home, &args),
        Command::Svstat(args) => svstat::run(home, &args),
        Command::Svok(args) => svok::run(home, &args),
        Command::Queue(args) => queue::run(home, &args),
        Command::QmailQread => qmail_qread::run(home),
        Command::QmailQstat => qmail_qread::qstat(home),
        Command::QmailNewmrh => qmail_newmrh::run(home),
        Command::Qmailctl(args) => qmailctl::run(home, &args),
        Command::Tcprules(args) => tcprules::run(&args),
        Command::Tcprulescheck(args) => tcprulescheck::run(&args),
        Command::Vadddomain(args) => vadddomain::run(home, &args, || reread(home)),
        Command::Vadduser(args) => vadduser::run(home, &args),
        Command::Relocate(args) => relocate::run(home, &args),
        Command::Links(args) => links::run(&args),
        Command::CrashPoints => {
            for (number, point) in Point::ALL.iter().enumerate() {
                println!("{:2} {}", number + 1, point.name());
            }
            ExitCode::SUCCESS
        }
    }
}

/// A classic name in front becomes the subcommand of that name.
fn with_subcommand(arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().and_then(|name| Path::new(name).file_name());
    match name.and_then(|name| name.to_str()).filter(|name| links::NAMES.contains(name)) {
        Some(name) => [OsString::from("mailtree"), name.into()]
            .into_iter()
            .chain(arguments.into_iter().skip(1))
            .collect(),
        None => arguments,
    }
}

/// Has a running qmail-send read its control files again.
fn reread(home: &Path) -> Result<(), Failure> {
    let request = Request::Svc { service: "send".to_owned(), letters: "h".to_owned() };
    match ask(home, &request) {
        Ok(Reply::Done) | Err(AskError::NotRunning(_)) => Ok(()),
        Ok(other) => Err(Failure::temporary(format!("unable to tell qmail-send: {other:?}"))),
        Err(error) => Err(Failure::temporary(format!("unable to tell qmail-send: {error}"))),
    }
}
