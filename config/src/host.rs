//! `host.ron`: which services exist, where they listen, and the limits that qmail has no file for.
//!
//! Every field may be left out; its default is in [`crate::default`]. A field nobody knows is an error.

mod filters;
mod smtpd;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ron::extensions::Extensions;
use serde::{Deserialize, Deserializer};

use crate::default;
use crate::error::{Error, Problem};
use crate::place::{self, Place};
use crate::regular;
use crate::setting::{Origin, Setting};
use crate::unit;
pub use filters::{Auth, Programs, Scanner, Scanners};
pub use smtpd::{ReverseDns, SenderPolicy, Smtpd};

/// The name of the file in the home.
pub const FILE: &str = "host.ron";

/// The name of the socket of qmail-queue in `run/`.
pub const QMAIL_QUEUE_SOCKET: &str = "qmail-queue.sock";

/// A longer `host.ron` is refused: 1 MiB.
const SIZE_MAX: u64 = 1 << 20;

/// Names that belong to services every host has.
const RESERVED: [&str; 8] = ["svscan", "log", "resolver", "queue", "users", "send", "control", "inject"];

/// One host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Directory with `control/`, `queue/`, `users/`, `alias/`; relative to the home.
    #[serde(deserialize_with = "unit::path")]
    pub qmail_home: PathBuf,
    /// Directory with `domains/`; relative to the home.
    #[serde(deserialize_with = "unit::path")]
    pub vpopmail_home: PathBuf,
    /// What goes to standard output.
    pub log: Log,
    /// A stop may take this long.
    #[serde(deserialize_with = "unit::time::<_, 0, 3600>")]
    pub grace: Duration,
    /// Whether no delivery begins until `svc -c send`.
    pub hold: bool,
    /// The services in the order of the file, by name.
    #[serde(deserialize_with = "services")]
    pub services: Vec<(String, Service)>,
    /// Limits of accepting mail.
    pub queue: Queue,
    /// DNS.
    pub resolver: Resolver,
    /// Delivery to other hosts.
    pub remote: Remote,
    /// Checking passwords.
    pub auth: Auth,
    /// The scanners that simscan asks.
    pub scanners: Scanners,
    /// Programs of SMTP sessions and of deliveries.
    pub programs: Programs,
    /// Whose rights the host has.
    pub users: Users,
    #[serde(skip)]
    home: PathBuf,
    #[serde(skip)]
    places: Places,
}

/// What goes to standard output.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// What is worth a line.
    pub level: LogLevel,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The lines of qmail and tcpserver with TAI64N stamps.
    Classic,
    /// One JSON object a line.
    Json,
}

/// What is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// And warnings.
    Warn,
    /// And what qmail logs.
    Info,
    /// And what helps to find a fault.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word for the level, as in `host.ron`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl std::str::FromStr for LogLevel {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or(())
    }
}

impl unit::Allowed for LogLevel {
    const ALLOWED: &'static str = "\"error\", \"warn\", \"info\", \"debug\", \"trace\"";
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        unit::text(input)
    }
}

/// `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// A service that `host.ron` names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// SMTP in: tcpserver and qmail-smtpd.
    Smtpd(Smtpd),
    /// Prometheus metrics over HTTP.
    Metrics(Metrics),
}

impl Service {
    /// The addresses it listens on.
    pub fn listen(&self) -> &[SocketAddr] {
        match self {
            Self::Smtpd(smtpd) => &smtpd.listen,
            Self::Metrics(metrics) => std::slice::from_ref(&metrics.listen),
        }
    }
}

/// Prometheus metrics over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Address to listen on. Port 0 is a port the system chooses.
    #[serde(deserialize_with = "unit::text")]
    pub listen: SocketAddr,
}

/// Limits of accepting mail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Messages being received at once over all services, 1 to 100000.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 100_000>")]
    pub receiving: usize,
    /// Bytes of messages being received at once over all services.
    #[serde(deserialize_with = "unit::bytes")]
    pub receiving_bytes: u64,
    /// Bytes that must be free on the disk of the queue.
    #[serde(deserialize_with = "unit::bytes")]
    pub free_bytes: u64,
    /// Inodes that must be free in the file system of the queue; 0 for file systems that do not count them.
    #[serde(deserialize_with = "unit::ranged::<_, _, 0, { u64::MAX }>")]
    pub free_inodes: u64,
    /// Threads that make messages durable, 1 to 64.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 64>")]
    pub disk_threads: usize,
    /// Whether messages go into the journal first.
    pub journal: Switch,
    /// Size of a segment of the journal, in bytes, 4 MiB to 1 GiB.
    #[serde(deserialize_with = "unit::bytes_between::<_, 4_194_304, 1_073_741_824>")]
    pub segment: u64,
    /// Segments that the journal may have, 2 to 64.
    #[serde(deserialize_with = "unit::ranged::<_, _, 2, 64>")]
    pub segments: usize,
}

/// DNS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resolver {
    /// Name servers; none: those of the system (`/etc/resolv.conf`).
    #[serde(deserialize_with = "unit::name_servers")]
    pub servers: Vec<SocketAddr>,
    /// A question is given up after this long, 1 s to 600 s.
    #[serde(deserialize_with = "unit::time::<_, 1, 600>")]
    pub deadline: Duration,
    /// Questions asked at once, 1 to 65000.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 65000>")]
    pub in_flight: usize,
    /// Bytes of answers that are kept until they expire.
    #[serde(deserialize_with = "unit::bytes")]
    pub cache: u64,
}

/// Whose rights the host has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Users {
    /// The account that runs the host when root has started it, or its number; `None`: whom `run/` or the home belongs to.
    pub host: Option<String>,
}

/// Delivery to other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Remote {
    /// Port of other mail hosts where smtproutes names none.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 65535>")]
    pub port: u16,
    /// Own address of outgoing connections of its family; `None`: the system chooses.
    #[serde(deserialize_with = "unit::optional_text")]
    pub outgoing_ip: Option<IpAddr>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            qmail_home: ".".into(),
            vpopmail_home: ".".into(),
            log: Log::default(),
            grace: default::GRACE,
            hold: false,
            services: vec![
                ("smtpd".to_owned(), Service::Smtpd(Smtpd::default())),
                ("metrics".to_owned(), Service::Metrics(Metrics::default())),
            ],
            queue: Queue::default(),
            resolver: Resolver::default(),
            remote: Remote::default(),
            auth: Auth::default(),
            scanners: Scanners::default(),
            programs: Programs::default(),
            users: Users::default(),
            home: ".".into(),
            places: Places::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Classic, level: LogLevel::Info }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: default::METRICS_LISTEN }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            receiving: default::RECEIVING,
            receiving_bytes: default::RECEIVING_BYTES,
            free_bytes: default::FREE_BYTES,
            free_inodes: default::FREE_INODES,
            disk_threads: default::DISK_THREADS,
            journal: Switch::On,
            segment: default::SEGMENT,
            segments: default::SEGMENTS,
        }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            deadline: default::RESOLVER_DEADLINE,
            in_flight: default::RESOLVER_IN_FLIGHT,
            cache: default::RESOLVER_CACHE,
        }
    }
}

impl Default for Remote {
    fn default() -> Self {
        Self { port: default::REMOTE_PORT, outgoing_ip: None }
    }
}

/// Where things are: every path of the host, absolute if the home is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The home.
    pub home: PathBuf,
    /// `host.ron`.
    pub host_ron: PathBuf,
    /// qmail's control files.
    pub control: PathBuf,
    /// qmail's queue.
    pub queue: PathBuf,
    /// `assign` and `cdb`.
    pub users: PathBuf,
    /// `.qmail-*` of the user alias.
    pub alias: PathBuf,
    /// vpopmail's domains.
    pub domains: PathBuf,
    /// Control socket and lock of the running host.
    pub run: PathBuf,
    /// Which journal of the queue is this host's.
    pub journal_id: PathBuf,
    /// Networks from which passwords were right.
    pub trusted: PathBuf,
}

impl Paths {
    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// The socket of qmail-queue.
    pub fn qmail_queue_socket(&self) -> PathBuf {
        self.run.join(QMAIL_QUEUE_SOCKET)
    }
}

impl Host {
    /// Reads and checks `host.ron` in a home.
    pub fn load(home: &Path) -> Result<Self, Error> {
        let path = home.join(FILE);
        let text = regular::read(&path, SIZE_MAX)
            .and_then(|text| text.ok_or_else(|| rustix::io::Errno::NOENT.into()))
            .map_err(|error| Problem::unreadable(&path, &error))?;
        if text.len() as u64 > SIZE_MAX {
            return Err(
                Problem::file(&path, format!("the file is too long; allowed: {SIZE_MAX} bytes")).into()
            );
        }
        let text = String::from_utf8(text).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
            Problem::line(&path, line, "not UTF-8")
        })?;
        Self::parse(home, &text)
    }

    /// Checks a text as the `host.ron` of a home.
    pub fn parse(home: &Path, text: &str) -> Result<Self, Error> {
        let path = home.join(FILE);
        let places = place::places(text);
        let options = ron::Options::default()
            .with_default_extension(Extensions::IMPLICIT_SOME | Extensions::UNWRAP_VARIANT_NEWTYPES);
        let mut host: Self = options.from_str(text).map_err(|error| refused(&path, &places, &error))?;
        host.home = home.to_owned();
        host.places = Places { path: Some(path.clone()), places };
        let problems = host.clashes(&path);
        Error::unless_none(problems, host)
    }

    /// The same settings for another home.
    #[must_use]
    pub fn at(self, home: &Path) -> Self {
        Self { home: home.to_owned(), ..self }
    }

    /// The paths of this host.
    pub fn paths(&self) -> Paths {
        let qmail = joined(&self.home, &self.qmail_home);
        Paths {
            home: self.home.clone(),
            host_ron: self.home.join(FILE),
            control: qmail.join("control"),
            queue: qmail.join("queue"),
            users: qmail.join("users"),
            alias: qmail.join("alias"),
            domains: joined(&self.home, &self.vpopmail_home).join("domains"),
            run: self.home.join("run"),
            journal_id: self.home.join("journal.id"),
            trusted: self.home.join("auth.trusted"),
        }
    }

    /// A path of `host.ron` as seen from the working directory.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        joined(&self.home, path)
    }

    /// Two listeners on one address: the later one is named.
    fn clashes(&self, path: &Path) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
        for (name, service) in &self.services {
            for &address in service.listen() {
                if let Some((other, held)) = taken.iter().find(|(_, held)| clash(*held, address)) {
                    let field = format!("services.{name}.listen");
                    let (line, column) = self.places.position(&field).unzip();
                    let text = format!(
                        "{address} clashes with {held} of services.{other}; allowed: an address once"
                    );
                    problems.push(Problem { line, column, field: Some(field), ..Problem::file(path, text) });
                }
                taken.push((name, address));
            }
        }
        problems
    }

    /// Every setting in force with its origin; paths as [`Host::resolve`] gives them.
    pub fn settings(&self) -> Vec<Setting> {
        let mut list = List { places: &self.places, settings: Vec::new() };
        list.add("qmail_home", self.resolve(&self.qmail_home).display());
        list.add("vpopmail_home", self.resolve(&self.vpopmail_home).display());
        list.add(
            "log.format",
            match self.log.format {
                LogFormat::Classic => "classic",
                LogFormat::Json => "json",
            },
        );
        list.add("log.level", self.log.level.as_str());
        list.time("grace", self.grace);
        list.add("hold", self.hold);
        for (name, service) in &self.services {
            let name = |field: &str| format!("services.{name}.{field}");
            match service {
                Service::Smtpd(smtpd) => smtpd.settings(&mut |field, value| match field {
                    "rules" => list.add(&name(field), self.resolve(&smtpd.rules).display()),
                    field => list.add(&name(field), value),
                }),
                Service::Metrics(metrics) => list.add(&name("listen"), metrics.listen),
            }
        }
        list.add("queue.receiving", self.queue.receiving);
        list.add("queue.receiving_bytes", self.queue.receiving_bytes);
        list.add("queue.free_bytes", self.queue.free_bytes);
        list.add("queue.free_inodes", self.queue.free_inodes);
        list.add("queue.disk_threads", self.queue.disk_threads);
        list.add("queue.journal", self.queue.journal);
        list.add("queue.segment", self.queue.segment);
        list.add("queue.segments", self.queue.segments);
        match self.resolver.servers.as_slice() {
            [] => list.add("resolver.servers", "the system's"),
            servers => list.add("resolver.servers", joined_texts(servers)),
        }
        list.time("resolver.deadline", self.resolver.deadline);
        list.add("resolver.in_flight", self.resolver.in_flight);
        list.add("resolver.cache", self.resolver.cache);
        list.add("remote.port", self.remote.port);
        match self.remote.outgoing_ip {
            Some(address) => list.add("remote.outgoing_ip", address),
            None => list.add("remote.outgoing_ip", "the system's choice"),
        }
        self.auth.settings(&mut |field, value| list.add(field, value));
        self.scanners.settings(&mut |field, value| match (field, &self.scanners.quarantine) {
            ("scanners.quarantine", Some(dir)) => list.add(field, self.resolve(dir).display()),
            (field, _) => list.add(field, value),
        });
        self.programs.settings(&mut |field, value| list.add(field, value));
        list.add("users.host", self.users.host.as_deref().unwrap_or("the owner of run/ or of the home"));
        list.settings
    }
}

/// Where the fields of the file stand.
#[derive(Debug, Clone, PartialEq, Default)]
struct Places {
    path: Option<PathBuf>,
    places: Vec<Place>,
}

impl Places {
    fn position(&self, field: &str) -> Option<(usize, usize)> {
        self.places.iter().find(|place| place.path == field).map(|place| (place.line, place.column))
    }

    fn origin(&self, field: &str) -> Origin {
        match (&self.path, self.position(field)) {
            (Some(path), Some((line, _))) => Origin::File(path.clone(), Some(line)),
            (Some(_) | None, _) => Origin::Default,
        }
    }
}

struct List<'a> {
    places: &'a Places,
    settings: Vec<Setting>,
}

impl List<'_> {
    fn add(&mut self, name: &str, value: impl fmt::Display) {
        let origin = self.places.origin(name);
        self.settings.push(Setting { name: name.to_owned(), value: value.to_string(), origin });
    }

    fn time(&mut self, name: &str, time: Duration) {
        self.add(name, shown(time));
    }
}

pub(crate) fn shown(time: Duration) -> String {
    humantime_serde::re::humantime::format_duration(time).to_string()
}

pub(crate) fn joined_texts<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// `home/.` would be seen in every message: it is the home.
fn joined(home: &Path, path: &Path) -> PathBuf {
    if path == Path::new(".") { home.to_owned() } else { home.join(path) }
}

/// Whether two listeners cannot both be: the same port of the same address, or of all addresses of its family.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn services<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<(String, Service)>, D::Error> {
    unit::ordered(input, |name| {
        let fits = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
            && name.as_bytes()[0].is_ascii_alphanumeric();
        if !fits {
            return Err(format!("\"{name}\" is not the name of a service; allowed: 1 to 32 of a-z 0-9 - _"));
        }
        if RESERVED.contains(&name) {
            return Err(format!("\"{name}\" is a service that every host has; allowed: another name"));
        }
        Ok(())
    })
}

fn refused(path: &Path, places: &[Place], error: &ron::error::SpannedError) -> Error {
    let (line, column) = (error.span.end.line, error.span.end.col);
    let field = place::field_at(places, line, column).map(|place| place.path.clone());
    let problem = Problem {
        line: Some(line),
        column: Some(column),
        field,
        ..Problem::file(path, error.code.to_string())
    };
    problem.into()
}
