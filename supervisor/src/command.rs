//! The programs in the one binary.

pub mod adopt;
pub mod check;
pub mod completions;
mod delivery;
pub mod direct;
pub mod explain;
mod help;
mod home;
pub mod init;
pub mod links;
mod qmail_inject;
mod qmail_lspawn;
pub mod qmail_newmrh;
pub mod qmail_newu;
mod qmail_pw2u;
pub mod qmail_qread;
pub(crate) mod qmail_queue;
pub mod qmailctl;
mod qmqp;
pub mod queue;
pub mod relocate;
mod sendmail;
pub mod svc;
pub mod svok;
pub mod svstat;
pub mod tcprules;
pub mod tcprulescheck;
pub mod up;
pub mod vadddomain;
pub mod vadduser;
mod words;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{FromArgMatches as _, Parser};
use mailtree_actors::lspawn;
use mailtree_actors::queue::crash::Point;

use crate::control::{AskError, Reply, Request, ask};
use crate::failure::Failure;
use crate::output;
use home::Home;

/// A qmail-style mail host as one supervised tree of actors.
///
/// Begin with `mailtree up`: it makes a home, starts everything on loopback, and says what to type. Called through a
/// link with the name of a classic program (see `mailtree links`), it is that program.
#[derive(Debug, Parser)]
#[command(name = "mailtree", version, propagate_version = true)]
struct Cli {
    /// The host's home directory; without it $MAILTREE_HOME, what `links` noted, what /etc/mailtree/home names, or
    /// ./mailtree-home
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
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
    /// Hand in the message on descriptor 0 with the envelope on descriptor 1
    QmailQueue(direct::Args),
    /// Complete a message and hand it in
    QmailInject(direct::Args),
    /// Hand in a message as sendmail does
    Sendmail(direct::Args),
    /// List the queue as sendmail does
    Mailq(direct::Args),
    /// Say where aliases are
    Newaliases(direct::Args),
    /// Hand in a message with the date of this place
    Datemail(direct::Args),
    /// Hand in a text with a subject
    Mailsubj(direct::Args),
    /// Pass a message on to a QMQP server, in place of qmail-queue
    QmailQmqpc(direct::Args),
    /// Take a message in by QMQP, under tcpserver
    QmailQmqpd(direct::Args),
    /// List the messages in the queue and their recipients
    QmailQread,
    /// Count the messages in the queue
    QmailQstat,
    /// Forward the message: for .qmail
    Forward(direct::Args),
    /// Bounce the message with a text, if a program agrees: for .qmail
    Bouncesaying(direct::Args),
    /// Redirect the message, if a program agrees: for .qmail
    Condredirect(direct::Args),
    /// Turn a program's answer into its opposite: for .qmail
    Except(direct::Args),
    /// Give the message to a program with its first lines: for .qmail
    Preline(direct::Args),
    /// Give the message to a program with a Date field
    Predate(direct::Args),
    /// Answer a message that asks for a receipt: for .qmail
    Qreceipt(direct::Args),
    /// Tell a user of new mail on his terminal: for .qmail
    Qbiff(direct::Args),
    /// Make a Maildir
    Maildirmake(direct::Args),
    /// Move the messages of a Maildir into an mbox file
    Maildir2mbox(direct::Args),
    /// Copy the messages of an mbox file into a Maildir
    Mbox2maildir(direct::Args),
    /// Compile control/morercpthosts
    QmailNewmrh,
    /// Compile users/assign
    QmailNewu,
    /// Make users/assign of the system's accounts: passwd on standard input
    #[command(name = "qmail-pw2u")]
    QmailPw2u(direct::Args),
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
    /// Print completions for a shell
    Completions(completions::Args),
    /// Write the manual pages of all commands
    Man(completions::ManArgs),
    /// The places where MAILTREE_CRASH_POINT can stop the host
    #[command(hide = true)]
    CrashPoints,
}

/// The program that `arguments` name: the first one, if it is a classic name, or the subcommand.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    if arguments.first().is_some_and(|name| name == lspawn::NAME) {
        return qmail_lspawn::run();
    }
    output::finish(run(arguments))
}

fn run(arguments: Vec<OsString>) -> ExitCode {
    if let Some(program) = direct::called(arguments.first()) {
        return program.run(&arguments);
    }
    let program = arguments.first().cloned();
    let arguments = vadduser::classic(with_subcommand(arguments));
    let name = arguments.get(1).cloned();
    let parsed = help::command().try_get_matches_from(arguments).and_then(|matches| {
        let command = matches.subcommand_name().unwrap_or_default().to_owned();
        Ok((command, Cli::from_arg_matches(&matches)?))
    });
    let (command, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return help::report(&error, name.as_ref().and_then(|name| name.to_str())),
    };
    let named = cli.home.clone().or_else(|| cli.command.home());
    let home = match Home::find(named, program.as_deref()) {
        Ok(home) => home,
        Err(failure) => return failure.report("mailtree"),
    };
    let needed = cli.command.needs_home();
    let code = obey(cli.command, &command, &home);
    if needed {
        home.note_if_missing("mailtree");
    }
    code
}

impl Command {
    /// The home that a command which reads its arguments itself was given.
    fn home(&self) -> Option<PathBuf> {
        if let Self::Svc(args) = self { args.home() } else { None }
    }

    /// Whether there must be a home already.
    fn needs_home(&self) -> bool {
        match self {
            Self::Svc(args) => args.is_order(),
            Self::Qmailctl(args) => args.is_order(),
            Self::Up(_)
            | Self::Init(_)
            | Self::Adopt(_)
            | Self::Links(_)
            | Self::Completions(_)
            | Self::Forward(_)
            | Self::Bouncesaying(_)
            | Self::Condredirect(_)
            | Self::Except(_)
            | Self::Preline(_)
            | Self::Predate(_)
            | Self::Qreceipt(_)
            | Self::Qbiff(_)
            | Self::Maildirmake(_)
            | Self::Maildir2mbox(_)
            | Self::Mbox2maildir(_)
            | Self::QmailQueue(_)
            | Self::QmailQmqpc(_)
            | Self::QmailQmqpd(_)
            | Self::Man(_)
            | Self::Tcprules(_)
            | Self::Tcprulescheck(_)
            | Self::CrashPoints => false,
            _ => true,
        }
    }
}

/// Obeys a command, whose name is `name`.
fn obey(command: Command, name: &str, chosen: &Home) -> ExitCode {
    let home = &*chosen.path;
    match command {
        Command::Up(args) => up::run(home, &args),
        Command::Init(args) => init::run(home, &args),
        Command::Adopt(args) => adopt::run(home, &args),
        Command::Check(args) => check::run(home, &args),
        Command::Explain(args) => explain::run(home, &args),
        Command::Svc(args) => svc::run(home, &args),
        Command::Svstat(args) => svstat::run(home, &args),
        Command::Svok(args) => svok::run(home, &args),
        Command::Queue(args) => queue::run(home, &args),
        Command::QmailQueue(args)
        | Command::QmailInject(args)
        | Command::Sendmail(args)
        | Command::Mailq(args)
        | Command::Newaliases(args)
        | Command::Datemail(args)
        | Command::Mailsubj(args)
        | Command::QmailQmqpc(args)
        | Command::QmailQmqpd(args)
        | Command::Forward(args)
        | Command::Bouncesaying(args)
        | Command::Condredirect(args)
        | Command::Except(args)
        | Command::Preline(args)
        | Command::Predate(args)
        | Command::Qreceipt(args)
        | Command::Qbiff(args)
        | Command::Maildirmake(args)
        | Command::Maildir2mbox(args)
        | Command::Mbox2maildir(args)
        | Command::QmailPw2u(args) => direct::run(name, home, &args),
        Command::QmailQread => qmail_qread::run(home),
        Command::QmailQstat => qmail_qread::qstat(home),
        Command::QmailNewmrh => qmail_newmrh::run(home),
        Command::QmailNewu => qmail_newu::run(home),
        Command::Qmailctl(args) => qmailctl::run(home, &args),
        Command::Tcprules(args) => tcprules::run(&args),
        Command::Tcprulescheck(args) => tcprulescheck::run(&args),
        Command::Vadddomain(args) => vadddomain::run(home, &args, || reread(home)),
        Command::Vadduser(args) => vadduser::run(home, &args),
        Command::Relocate(args) => relocate::run(home, &args),
        Command::Links(args) => links::run(chosen, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => completions::man(&args),
        Command::CrashPoints => {
            for (number, point) in Point::ALL.iter().enumerate() {
                outln!("{:2} {}", number + 1, point.name());
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
