//! From configuration to services: the only place where services are named.
//!
//! Each start of a service reads `host.ron` again, as a run script would; a file that has become bad keeps the last good
//! one, and says so.

pub(crate) mod front;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mailtree_actors::exporter::{self, Exporter};
use mailtree_actors::listen::{Sockets, unix};
use mailtree_actors::log::{Lines, Log};
use mailtree_actors::lspawn::Spawner;
use mailtree_actors::pool::Pool;
use mailtree_actors::qmail_local::QmailLocal;
use mailtree_actors::qmail_queue;
use mailtree_actors::qmail_start::{self, QmailStart, Running};
use mailtree_actors::queue::disk::Disk;
use mailtree_actors::queue::{self, QmailQueue, Queue, Trigger};
use mailtree_actors::resolver::{self, Dns};
use mailtree_actors::service::{StartError, Started};
use mailtree_actors::tcpserver::{self, Tcpserver};
use mailtree_actors::users::{self, Vchkpw};
use mailtree_actors::wire::Wire;
use mailtree_actors::{lspawn, qmail_send, rspawn};
use mailtree_config::host::{QMAIL_QUEUE_SOCKET, Service, Switch};
use mailtree_config::{Host, Problem};
use mailtree_protocols::queue::OSSIFIED;
use metrics_exporter_prometheus::PrometheusHandle;
use ractor::{Actor, ActorCell};
use rustix::fs::Mode;

use crate::control;
use crate::queue_requests;
use crate::service::{ServiceSpec, Troubles};
use crate::svscan::Tree;
use front::Front;

/// Time for a service without connections or deliveries to stop.
const QUICK: Duration = Duration::from_secs(5);

/// The queue replays its journal when it starts, and that may lie on a slow disk.
const REPLAY: Duration = Duration::from_secs(300);

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(30);

/// qmail-send reads the whole queue when it starts, and that may be large and on a cold disk.
const SURVEY: Duration = Duration::from_secs(900);

/// What is done without a `.qmail` file.
pub(crate) const DEFAULTDELIVERY: &str = "./Maildir/";

/// What the services share over all their starts.
#[derive(Clone)]
struct Shared {
    configuration: Configuration,
    sockets: Sockets,
    front: Front,
    queue: Queue,
    pool: Pool,
    spawner: Spawner,
    /// No delivery begins until `svc -c send`.
    hold: Arc<AtomicBool>,
    /// `up` was told so, whatever `host.ron` says.
    hold_asked: bool,
    running: Running,
    send: Wire<qmail_send::Message>,
}

/// `host.ron` as it was last good, and what is wrong with it since.
#[derive(Clone)]
struct Configuration {
    home: PathBuf,
    good: Arc<std::sync::Mutex<(Arc<Host>, Option<String>)>>,
}

impl Configuration {
    /// The file as it is now, or as it was when it was last good.
    fn read(&self) -> Arc<Host> {
        let mut good = self.lock();
        match Host::load(&self.home) {
            Ok(host) => *good = (Arc::new(host), None),
            Err(error) => {
                tracing::error!("alert: bad configuration, keeping the old one: {error}");
                good.1 = Some(format!("{error}; the old configuration stays in force"));
            }
        }
        Arc::clone(&good.0)
    }

    /// As it was when it was last read and good.
    fn in_force(&self) -> Arc<Host> {
        Arc::clone(&self.lock().0)
    }

    /// What was wrong when it was last read.
    fn trouble(&self) -> Option<String> {
        self.lock().1.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Arc<Host>, Option<String>)> {
        self.good.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What was made while the host still had the rights to.
pub struct Prepared {
    /// The queue.
    pub disk: Disk,
    /// Bound for the services.
    pub sockets: Sockets,
    /// Delivers with the rights of users.
    pub spawner: Spawner,
}

/// The services of `host`, in the order of starting: those that others need come first.
///
pub fn services(
    home: &Path,
    host: Host,
    lines: &Lines,
    recorder: &PrometheusHandle,
    tree: &Tree,
    Prepared { disk, sockets, spawner }: Prepared,
    hold: bool,
) -> (Vec<ServiceSpec>, Queue) {
    let paths = host.paths();
    let send: Wire<qmail_send::Message> = Wire::default();
    let trigger = Trigger::new({
        let send = send.clone();
        Arc::new(move || {
            // While qmail-send is down nobody needs waking: it looks into todo when it starts.
            send.cast(qmail_send::Message::Trigger);
        })
    });
    let host = Arc::new(host);
    let pool = Pool::new("delivery");
    let messages = Queue::new(Arc::new(disk), trigger, pool.clone(), paths.journal_id);
    let front = Front::new(&host, messages.clone());
    let shared = Shared {
        sockets,
        front,
        queue: messages.clone(),
        pool,
        spawner,
        hold: Arc::new(AtomicBool::new(hold || host.hold)),
        hold_asked: hold,
        running: Running::default(),
        send,
        configuration: Configuration {
            home: home.to_owned(),
            good: Arc::new(std::sync::Mutex::new((Arc::clone(&host), None))),
        },
    };
    let mut services = vec![log(lines.clone())];
    let configuration = shared.configuration.clone();
    services.push(ServiceSpec {
        troubles: Arc::new(move || configuration.trouble().into_iter().collect()),
        ..control::service(
            home.to_owned(),
            tree.clone(),
            queue_requests::answer_with(shared.send.clone(), shared.queue.clone()),
        )
    });
    for (name, service) in &host.services {
        if let Service::Metrics(_) = service {
            services.push(metrics(name, shared.clone(), recorder.clone()));
        }
    }
    services.push(resolver(shared.clone()));
    services.push(users(shared.clone()));
    services.push(queue(shared.clone()));
    services.push(qmail_queue_service(shared.clone()));
    services.push(send_service(shared.clone(), host.grace));
    for (name, service) in &host.services {
        if let Service::Smtpd(_) = service {
            services.push(smtpd(name, shared.clone(), host.grace));
        }
    }
    (services, messages)
}

fn spec<F>(name: &str, grace: Duration, start: F) -> ServiceSpec
where
    F: Fn(ActorCell) -> BoxFuture<'static, Result<Started, StartError>> + Send + Sync + 'static,
{
    ServiceSpec {
        name: name.to_owned(),
        start: Arc::new(start),
        grace,
        start_timeout: START,
        normally_down: false,
        troubles: ServiceSpec::untroubled(),
    }
}

fn log(lines: Lines) -> ServiceSpec {
    spec("log", QUICK, move |supervise| {
        let lines = lines.clone();
        Box::pin(async move {
            let (log, _) = Actor::spawn_linked(None, Log, lines, supervise).await?;
            Ok(Started::deaf(log.get_cell()))
        })
    })
}

fn metrics(name: &str, shared: Shared, handle: PrometheusHandle) -> ServiceSpec {
    let service = name.to_owned();
    spec(name, QUICK, move |supervise| {
        let (shared, handle, service) = (shared.clone(), handle.clone(), service.clone());
        Box::pin(async move {
            let host = shared.configuration.read();
            let Some(Service::Metrics(metrics)) = find(&host, &service) else {
                return Err(not_there(&service));
            };
            let sockets = shared.sockets.clone();
            let arguments = exporter::Arguments {
                service: service.clone(),
                listen: metrics.listen,
                sockets: sockets.clone(),
                handle,
            };
            let (exporter, _) = Actor::spawn_linked(None, Exporter, arguments, supervise).await?;
            Ok(Started::deaf(exporter.get_cell()).listening(sockets.addresses(&service)))
        })
    })
}

fn resolver(shared: Shared) -> ServiceSpec {
    spec("resolver", QUICK, move |supervise| {
        let shared = shared.clone();
        Box::pin(async move {
            let mailtree_config::host::Resolver { servers, cache, .. } =
                shared.configuration.read().resolver.clone();
            let arguments = resolver::Arguments { resolver: shared.front.resolver.clone(), servers, cache };
            let (dns, _) = Actor::spawn_linked(None, Dns, arguments, supervise).await?;
            Ok(Started::new(dns))
        })
    })
}

fn users(shared: Shared) -> ServiceSpec {
    let vpopmail = shared.front.users.vpopmail.clone();
    let troubles: Troubles = Arc::new(move || vpopmail.troubles());
    let service = spec("users", QUICK, move |supervise| {
        let shared = shared.clone();
        Box::pin(async move {
            let host = shared.configuration.read();
            let auth = host.auth.clone();
            let arguments = users::Arguments {
                users: shared.front.users.clone(),
                threads: auth.threads,
                waiting: auth.waiting,
                allow: auth.allow,
                trusted: host.paths().trusted,
            };
            let (vchkpw, _) = Actor::spawn_linked(None, Vchkpw, arguments, supervise).await?;
            Ok(Started::deaf(vchkpw.get_cell()))
        })
    });
    ServiceSpec { troubles, ..service }
}

fn queue(shared: Shared) -> ServiceSpec {
    let start = move |supervise: ActorCell| -> BoxFuture<'static, Result<Started, StartError>> {
        let shared = shared.clone();
        Box::pin(async move {
            let host = shared.configuration.read();
            let limits = host.queue.clone();
            // On another host's queue a qmail-queue may be at work.
            let ours = host.qmail_home == Path::new(".");
            let arguments = queue::Arguments {
                queue: shared.queue.clone(),
                receiving: limits.receiving,
                receiving_bytes: limits.receiving_bytes,
                free_bytes: limits.free_bytes,
                free_inodes: limits.free_inodes,
                disk_threads: limits.disk_threads,
                journal: limits.journal == Switch::On,
                segment: limits.segment,
                segments: limits.segments,
                unfinished: if ours { Duration::ZERO } else { Duration::from_secs(OSSIFIED) },
            };
            let (queue, _) = Actor::spawn_linked(None, QmailQueue, arguments, supervise).await?;
            Ok(Started::new(queue))
        })
    };
    ServiceSpec { start_timeout: REPLAY, ..spec("queue", QUICK, start) }
}

fn qmail_queue_service(shared: Shared) -> ServiceSpec {
    let run = shared.configuration.in_force().paths().run;
    let everybody = Mode::from_raw_mode(0o666);
    let socket = Arc::new(unix::Socket::new(run.clone(), QMAIL_QUEUE_SOCKET, everybody));
    spec("inject", QUICK, move |supervise| {
        let (shared, socket, run) = (shared.clone(), Arc::clone(&socket), run.clone());
        Box::pin(async move {
            let host = shared.configuration.read();
            let known = tokio::task::spawn_blocking(move || {
                control::let_pass(&run);
                crate::command::qmail_queue::known_users()
            });
            let arguments = qmail_queue::Arguments {
                socket,
                queue: shared.queue,
                // The other half is for clients of the network.
                messages: (host.queue.receiving / 2).max(1),
                known: known.await.unwrap_or_default(),
            };
            let (service, _) =
                Actor::spawn_linked(None, qmail_queue::QmailQueue, arguments, supervise).await?;
            Ok(Started::deaf(service.get_cell()))
        })
    })
}

fn send_service(shared: Shared, grace: Duration) -> ServiceSpec {
    let controls = Arc::clone(&shared.front.controls);
    let troubles: Troubles = Arc::new(move || in_words(controls.problems_of_send()));
    let start = move |supervise: ActorCell| -> BoxFuture<'static, Result<Started, StartError>> {
        let shared = shared.clone();
        Box::pin(async move {
            let host = shared.configuration.read();
            let paths = host.paths();
            // Its name stands in the names of files: read as the programs read it, at their start.
            let controls = shared.front.controls.send().map_err(bad_controls)?;
            if !(shared.hold_asked || host.hold) {
                shared.hold.store(false, Ordering::Release);
            }
            let held = shared.hold.load(Ordering::Acquire);
            let arguments = qmail_start::Arguments {
                lspawn: lspawn::Arguments {
                    queue: shared.queue.clone(),
                    pool: shared.pool,
                    local: QmailLocal {
                        vpopmail: shared.front.users.vpopmail.clone(),
                        domains: paths.domains,
                        alias: paths.alias,
                        defaultdelivery: DEFAULTDELIVERY.to_owned(),
                        me: controls.me.clone(),
                    },
                    spawner: shared.spawner,
                },
                rspawn: rspawn::Arguments {
                    queue: shared.queue.clone(),
                    controls: Arc::clone(&shared.front.controls),
                    resolver: shared.front.resolver.clone(),
                    tcpto: paths.queue.join("lock/tcpto"),
                    port: host.remote.port,
                    outgoing_ip: host.remote.outgoing_ip,
                },
                queue: shared.queue,
                controls: shared.front.controls,
                running: shared.running,
                send: shared.send,
                hold: shared.hold,
                // The rest of the grace is for the stop itself.
                grace: grace.saturating_sub(Duration::from_secs(1)).max(grace / 2),
            };
            let (start, _) = Actor::spawn_linked(None, QmailStart, arguments, supervise).await?;
            Ok(Started::new(start).held(held))
        })
    };
    ServiceSpec { start_timeout: SURVEY, troubles, ..spec("send", grace, start) }
}

fn smtpd(name: &str, shared: Shared, grace: Duration) -> ServiceSpec {
    let service = name.to_owned();
    let troubles = smtpd_troubles(name.to_owned(), &shared);
    let service = spec(name, grace, move |supervise| {
        let (shared, service) = (shared.clone(), service.clone());
        Box::pin(async move {
            let host = shared.configuration.read();
            let Some(Service::Smtpd(smtpd)) = find(&host, &service) else { return Err(not_there(&service)) };
            let concurrency = match smtpd.concurrency {
                Some(concurrency) => concurrency,
                None => shared.front.controls.concurrencyincoming().map_err(bad_controls)?,
            };
            let tls = shared.front.tls.clone();
            let session = Arc::new(shared.front.session(&service, smtpd, &host)?);
            tokio::spawn(front::test_lists(Arc::clone(&session)));
            let sockets = shared.sockets;
            let arguments = tcpserver::Arguments {
                service: service.clone(),
                listen: smtpd.listen.clone(),
                concurrency,
                per_ip: u32::try_from(smtpd.per_ip).unwrap_or(u32::MAX),
                unlimited: smtpd.unlimited.clone(),
                proxies: smtpd.proxies.clone(),
                sockets: sockets.clone(),
                start: Arc::new(move |connection, tcpserver| {
                    Box::pin(Arc::clone(&session).start(connection, tcpserver))
                }),
                // Control files are read for each connection; certificates when they have changed, and now.
                reload: Arc::new(move || tls.reload()),
                goodbye: grace.saturating_sub(Duration::from_secs(1)).max(grace / 2),
            };
            let (tcpserver, _) = Actor::spawn_linked(None, Tcpserver, arguments, supervise).await?;
            Ok(Started::new(tcpserver).listening(sockets.addresses(&service)))
        })
    });
    ServiceSpec { troubles, ..service }
}

fn smtpd_troubles(name: String, shared: &Shared) -> Troubles {
    let (controls, files) = (Arc::clone(&shared.front.controls), shared.front.files.clone());
    let tls = shared.front.tls.clone();
    let configuration = shared.configuration.clone();
    Arc::new(move || {
        let mut troubles = in_words(controls.problems_of_smtpd());
        let host = configuration.in_force();
        if let Some(Service::Smtpd(smtpd)) = find(&host, &name) {
            troubles.extend(files.trouble(&host.resolve(&smtpd.rules)));
        }
        troubles.extend(tls.troubles());
        troubles
    })
}

fn in_words(problems: Vec<Problem>) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn find<'a>(host: &'a Host, name: &str) -> Option<&'a Service> {
    host.services.iter().find(|(service, _)| service == name).map(|(_, service)| service)
}

fn not_there(service: &str) -> StartError {
    StartError::Permanent(format!("host.ron has no service {service} of this kind any more"))
}

fn bad_controls(error: mailtree_config::Error) -> StartError {
    let text = format!("unable to read controls: {error}");
    if error.is_temporary() { StartError::Temporary(text) } else { StartError::Permanent(text) }
}
