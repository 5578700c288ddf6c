//! `up`: the host itself, in the foreground.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IsTerminal as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mailtree_actors::exporter;
use mailtree_actors::listen::Sockets;
use mailtree_actors::log::{Format, Lines, log_panics};
use mailtree_actors::lspawn::{self, QueueRights, Spawner};
use mailtree_actors::qmail_local::Limits;
use mailtree_actors::queue::disk::{Disk, owner_of_send};
use mailtree_actors::queue::{self, crash};
use mailtree_config::Host;
use mailtree_config::host::{LogFormat, Paths};
use mailtree_config::regular;
use rustix::event::Timespec;
use rustix::fs::{FlockOperation, flock};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::account::Account;
use crate::boot;
use crate::command::init;
use crate::control::lock;
use crate::elsewhere;
use crate::failure::{Doing as _, Failure};
use crate::notify::Manager;
use crate::output;
use crate::rules;
use crate::signals::{Ending, Signals};
use crate::status::{Phase, Row};
use crate::svscan::{Options, Tree};

/// Threads that wait for the queue's own disk beside the disk threads; each has memory of its own.
const BLOCKING: usize = 32;

/// How long `up` waits for the services before it says what is up.
const READY: Duration = Duration::from_secs(60);

/// How long an earlier host's process may still have the queue's lock.
const HANDING_BACK: Duration = Duration::from_secs(2);

/// `up [--hold]`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Begin no delivery until `svc -c send`: a rehearsal that sends nothing
    #[arg(long)]
    hold: bool,
}

/// Runs the host until a signal ends it.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    match up(home, args.hold) {
        Ok(ending) => ExitCode::from(ending.exit_code()),
        Err(failure) => failure.report("mailtree"),
    }
}

fn up(home: &Path, hold: bool) -> Result<Ending, Failure> {
    let first = if init::is_vacant(home)? {
        let mut report = init::initialise(home, &init::Options::default())?;
        if !std::io::stdout().is_terminal() {
            report.keep_password()?;
        }
        outln!("{report}");
        if let Err(error) = output::flush() {
            errln!("mailtree: warning: unable to write the password of {}: {error}", report.user);
        }
        true
    } else {
        false
    };
    let host = Host::load(home)?;
    let paths = host.paths();
    check_controls(&paths)?;
    match elsewhere::in_time(&paths, elsewhere::find) {
        Ok(found) => {
            if let Some(one) = found.first() {
                return Err(Failure::permanent(format!("{}: {one}", one.file.display())));
            }
        }
        // What cannot be looked at now keeps nobody else from his mail.
        Err(failure) if !failure.is_permanent() => errln!("mailtree: warning: {failure}"),
        Err(failure) => return Err(failure),
    }
    prepare_process();
    crash::arm_from_env().map_err(Failure::permanent)?;
    let _host = lock(home).map_err(|error| Failure::temporary(error.to_string()))?;
    let queue_lock = lock_queue(&paths)?;
    let disk = Disk::open(&paths.queue)
        .map_err(|error| Failure::permanent(format!("unable to open the queue: {error}")))?;
    // Before there is a second thread.
    let prepared = prepare(&host, &paths, disk, &queue_lock)?;
    let spawner = prepared.spawner.clone();
    let recorder = exporter::install().map_err(Failure::temporary)?;
    let lines = Lines::new(match host.log.format {
        // A person reads no TAI64N; what goes to a file or a program is as multilog writes it.
        LogFormat::Classic if std::io::stdout().is_terminal() => {
            Format::Terminal { colour: std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()) }
        }
        LogFormat::Classic => Format::Classic,
        LogFormat::Json => Format::Json,
    });
    let filter = format!(
        "{},ractor=warn,rustls=error,hickory_resolver=error,hickory_net=error",
        host.log.level.as_str()
    );
    let filter = EnvFilter::try_new(filter).map_err(|error| Failure::permanent(error.to_string()))?;
    tracing_subscriber::registry().with(filter).with(lines.clone()).init();
    log_panics();
    let grace = host.grace;
    if rustix::process::geteuid().is_root() {
        tracing::warn!(
            "warning: running as root, for nobody else is named who could: see users.host in README"
        );
    }
    for said in rules::not_in_force(&host) {
        tracing::warn!("warning: {said}");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING).build();
    let runtime =
        runtime.map_err(|error| Failure::temporary(format!("unable to start the runtime: {error}")))?;
    let ending = runtime.block_on(async {
        let signals = Signals::install()
            .map_err(|error| Failure::temporary(format!("unable to hear signals: {error}")))?;
        let manager = Manager::from_env()
            .map_err(|error| Failure::temporary(format!("unable to start a thread: {error}")))?;
        let tree = Tree::default();
        let me = first_line(&paths.control.join("me"));
        let held = hold || host.hold;
        if held {
            for look in [elsewhere::doubtful, elsewhere::outward] {
                match elsewhere::in_time(&paths, look) {
                    Ok(said) => said.iter().for_each(|said| tracing::warn!("warning: {said}")),
                    Err(failure) => tracing::warn!("warning: {failure}"),
                }
            }
            elsewhere::programs(&host).iter().for_each(|said| tracing::warn!("warning: {said}"));
        }
        let (services, queue) = boot::services(home, host, &lines, &recorder, &tree, prepared, hold);
        let options = Options {
            chaos: std::env::var_os("MAILTREE_CHAOS").is_some_and(|value| value == "1"),
            ..Options::default()
        };
        let ended = tree.grow(services, options).await;
        let ended = ended.map_err(|error| Failure::temporary(format!("unable to start svscan: {error}")))?;
        let greeting = first || std::io::stderr().is_terminal();
        let greeting = greeting.then(|| {
            let (tree, home) = (tree.clone(), home.to_owned());
            tokio::spawn(async move {
                if let Ok(rows) = tree.ready(READY).await {
                    errln!("{}", what_to_type(&home, &me, &rows, first, held).trim_end_matches('\n'));
                }
            })
        });
        let ending = tokio::select! {
            ending = signals.pass_on(&tree, "send", ended, &manager) => ending,
            never = manager.follow(&tree) => match never {},
        };
        if let Some(greeting) = greeting {
            greeting.abort();
        }
        let emptied = manager.outlast(queue.close(grace)).await;
        emptied.map(|()| ending).map_err(|left| Failure::temporary(left.to_string()))
    });
    // Blocked threads of a tree that was killed must not hold up the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    spawner.end();
    match lines.flush() {
        // That nobody reads the log is no failure of the host.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::temporary(format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => ending,
    }
}

/// What takes root: ports, files of others, a process for users' rights. Then root is given up, if there is anybody else.
fn prepare(host: &Host, paths: &Paths, disk: Disk, lock: &File) -> Result<boot::Prepared, Failure> {
    let sockets = Sockets::default();
    let mut account = Account::of_host(host)?;
    let mut others = None;
    if let Some(account) = &mut account {
        if !account.reaches(&paths.host_ron) {
            let (home, name) = (paths.home.display(), &account.name);
            return Err(Failure::permanent(format!(
                "{home}: user {name}, who is to run this host, cannot get there; allowed: a home below directories that \
                 everybody may search, or another users.host"
            )));
        }
        account.take_over(paths)?;
        let trigger = paths.queue.join("lock/trigger");
        queue::make_trigger_if_missing(&trigger).doing("make", &trigger)?;
        if let Some(mut rights) =
            QueueRights::of(&paths.queue, account.user.as_raw()).doing("look at", &paths.queue)?
        {
            let groups = rights.groups().map_err(|error| Failure::permanent(error.to_string()))?;
            account.join(&groups);
            rights.let_group_in().doing("open to its group", &paths.queue)?;
            others = Some(rights);
        }
        for (service, address) in host
            .services
            .iter()
            .flat_map(|(name, service)| service.listen().iter().map(move |address| (name, *address)))
        {
            // What cannot be bound now is tried again, and said, by the service.
            sockets.bind(service, address).unwrap_or(());
        }
    }
    let user = account.as_ref().map_or(rustix::process::geteuid().as_raw(), |account| account.user.as_raw());
    let settings =
        lspawn::Settings { queue: others.clone().unwrap_or_default(), ..spawner_settings(host, paths, user) };
    let spawner = Spawner::start(&settings, others.as_ref().map(|_| lock))
        .map_err(|error| Failure::temporary(format!("unable to start qmail-lspawn: {error}")))?;
    if others.is_some() {
        disk.without_rights(Arc::new(spawner.clone()));
    }
    if let Some(account) = account {
        account.become_him()?;
    }
    Ok(boot::Prepared { disk, sockets, spawner })
}

fn spawner_settings(host: &Host, paths: &Paths, user: u32) -> lspawn::Settings {
    let programs = &host.programs;
    lspawn::Settings {
        control: paths.control.clone(),
        users_cdb: paths.users.join("cdb"),
        domains: paths.domains.clone(),
        alias: paths.alias.clone(),
        defaultdelivery: boot::DEFAULTDELIVERY.to_owned(),
        me: first_line(&paths.control.join("me")),
        host: user,
        queue: QueueRights::default(),
        limits: Limits {
            memory: if programs.memory == 0 { u64::MAX } else { programs.memory },
            files: programs.files,
            processes: programs.processes,
            cpu: programs.cpu.as_secs(),
            deadline: programs.delivery,
        },
    }
}

/// A host does not start on bad control files: all that is wrong with them is said at once.
fn check_controls(paths: &Paths) -> Result<(), Failure> {
    let problems = mailtree_config::Control::new(&paths.control).examine().problems;
    if problems.is_empty() { Ok(()) } else { Err(mailtree_config::Error { problems }.into()) }
}

/// `queue/lock/sendmutex`, as qmail-send holds it: no qmail runs on this queue while we do.
fn lock_queue(paths: &Paths) -> Result<File, Failure> {
    let path = paths.queue.join("lock/sendmutex");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = regular::open_as(&mut options, &path).doing("open", &path)?;
    give_to_send(&file, &paths.queue, &path);
    let begun = Instant::now();
    // What handed the queue back to its owners may just be at the end of that.
    let patience = if rustix::process::geteuid().is_root() { HANDING_BACK } else { Duration::ZERO };
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if begun.elapsed() >= patience {
            let path = path.display();
            return Err(Failure::temporary(format!(
                "cannot start: qmail-send is already running: {path} is locked"
            )));
        }
        rustix::event::poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap_or(0);
    }
    Ok(file)
}

/// What was made just now is qmail-send's, as in qmail. Only root can.
fn give_to_send(file: &File, queue: &Path, path: &Path) {
    if rustix::process::geteuid().is_root()
        && file.metadata().is_ok_and(|meta| meta.uid() == 0)
        && let Err(error) =
            owner_of_send(queue).and_then(|(uid, gid)| std::os::unix::fs::fchown(file, Some(uid), Some(gid)))
    {
        errln!("mailtree: warning: unable to chown {}: {error}", path.display());
    }
}

/// Files get the modes that are asked for, and there may be as many descriptors as the system allows: copies of messages in
/// Maildirs stay open until they are durable.
fn prepare_process() {
    if let Err(error) = lspawn::close_on_exec() {
        errln!("mailtree: warning: unable to keep descriptors from programs: {error}");
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        errln!("mailtree: warning: unable to raise the limit of open files: {error}");
    }
}

/// Bytes of a file whose first line is wanted.
const FIRST_LINE_MAX: u64 = 1 << 16;

fn first_line(path: &Path) -> String {
    let text = regular::read(path, FIRST_LINE_MAX).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

/// What a newcomer does next.
fn what_to_type(home: &Path, me: &str, rows: &[Row], first: bool, held: bool) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| row.state != Phase::Up) {
        let why = row.reason.as_deref().unwrap_or("no reason known");
        text.push_str(&format!("mailtree: warning: {} is not up: {why}\n", row.service));
    }
    let smtpd = rows.iter().find(|row| row.service == "smtpd").and_then(|row| row.listen.first());
    let Some(smtpd) = smtpd else { return text };
    let home = home.display();
    let program = std::env::args().next().unwrap_or_else(|| "mailtree".to_owned());
    if held {
        text.push_str(&format!(
            "\nNothing is delivered until you say: {program} --home {home} svc -c send\n"
        ));
    }
    text.push_str(&format!(
        "\nThe host is up. Send a message:\n\n  \
         printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | curl -sS smtp://{smtpd} --mail-from you@{me} \
         --mail-rcpt postmaster@{me} -T -\n\n\
         Read it:\n\n  cat {home}/domains/{me}/postmaster/Maildir/new/*\n\n\
         See the tree:\n\n  {program} --home {home} svstat\n\n\
         Ctrl-C stops the host.\n"
    ));
    if first && std::io::stdout().is_terminal() {
        text.push_str("The password above is not shown again: note it now.\n");
    }
    text.push('\n');
    text
}
