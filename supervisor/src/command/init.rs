//! `init`: makes a home with everything a host needs, and a first virtual domain with a postmaster.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_config::Host;
use mailtree_config::host::{FILE, Paths};
use mailtree_protocols::queue::{Dir, Layout};
use mailtree_protocols::{assign, tcprules};
use rustix::fs::{CWD, Mode};

use crate::account::Account;
use crate::control::RUN_MODE;
use crate::durable::{self, DirLock, Owner};
use crate::failure::{Doing, Failure};
use crate::output;
use crate::password;
use crate::vpopmail::{NewDomain, NewUser, Unknown, Vpopmail, create_dirs, domain_name};

/// Standard port of SMTP (RFC 5321 4.5.4.2).
const SMTP: u16 = 25;

/// Port of message submission (RFC 6409).
const SUBMISSION: u16 = 587;

/// Port of submission with TLS from the first byte (RFC 8314).
const SMTPS: u16 = 465;

/// Port of the metrics before the offset is added.
const METRICS: u16 = 9100;

/// The greatest offset at which every port is still one.
const OFFSET_MAX: u16 = u16::MAX - METRICS;

/// `concurrencylocal` and `concurrencyremote` of a new host. qmail's 10 and 20 are for a process each; here a delivery
/// is an actor, and the disk makes durable together what is delivered together.
const CONCURRENCY: &str = "100";

/// `concurrencyincoming` of a new host.
const CONCURRENCYINCOMING: &str = "100";

/// `databytes` of a new host: 20 MiB.
const DATABYTES: &str = "20971520";

/// Bytes of `queue/lock/tcpto` (qmail-tcpto: 64 slots of 16 bytes).
const TCPTO: usize = 1024;

/// Clients of the host itself may relay, all others may send to its own domains.
const TCP_SMTP: &str = "\
# Compiled to tcp.smtp.cdb. ADDRESS:allow or deny, then ,VARIABLE=\"value\"
127.:allow,RELAYCLIENT=\"\"
::1:allow,RELAYCLIENT=\"\"
:allow
";

/// Years until the first certificate expires.
const CERTIFICATE_YEARS: i16 = 10;

/// Makes the home of a new host.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Full name of the host; default: the system's name
    #[arg(long, value_name = "FQDN")]
    me: Option<String>,
    /// Address to listen on; may be given several times
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: Vec<IpAddr>,
    /// Added to every standard port
    #[arg(long, value_name = "N", default_value_t = Options::OFFSET, value_parser = clap::value_parser!(u16).range(0..=i64::from(OFFSET_MAX)))]
    port_offset: u16,
}

/// What can be chosen for a new home.
#[derive(Debug, Clone)]
pub struct Options {
    /// Full name of the host; `None`: the system's name.
    pub me: Option<String>,
    /// Addresses to listen on.
    pub listen: Vec<IpAddr>,
    /// Added to every standard port.
    pub port_offset: u16,
}

impl Options {
    const OFFSET: u16 = 2500;
}

impl Default for Options {
    fn default() -> Self {
        Self { me: None, listen: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], port_offset: Self::OFFSET }
    }
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Report {
    /// The home, absolute.
    pub home: PathBuf,
    /// Full name of the host, and its first virtual domain.
    pub me: String,
    /// Where SMTP will listen.
    pub smtpd: Vec<SocketAddr>,
    /// Where users will hand in mail, STARTTLS first.
    pub submission: Vec<SocketAddr>,
    /// The same with TLS from the first byte.
    pub smtps: Vec<SocketAddr>,
    /// Where the metrics will be.
    pub metrics: SocketAddr,
    /// The first user.
    pub user: String,
    /// The first user's password; it is kept nowhere, but for [`Report::kept`].
    pub password: String,
    /// The file that the password was put into in place of being shown.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Puts the password into a file that only its owner can read, for whom nobody watches a terminal: what is printed may
    /// go to a log.
    pub(crate) fn keep_password(&mut self) -> Result<(), Failure> {
        let path = self.home.join("postmaster.password");
        durable::create(&path, format!("{}\n", self.password).as_bytes(), 0o600, Owner::own())?;
        self.kept = Some(path);
        Ok(())
    }
}

/// Makes a home and prints what was made.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    let options = Options { me: args.me.clone(), listen: args.listen.clone(), port_offset: args.port_offset };
    match initialise(home, &options) {
        Ok(report) => {
            for doubt in doubts(&report, &options) {
                errln!("mailtree init: warning: {doubt}");
            }
            outln!("{report}");
            match output::flush() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => Failure::temporary(format!(
                    "the home was made, but the password of {} could not be written to standard output: {error}",
                    report.user
                ))
                .report("mailtree init"),
            }
        }
        Err(failure) => failure.report("mailtree init"),
    }
}

/// What may not be meant so.
fn doubts(report: &Report, options: &Options) -> Vec<String> {
    let mut doubts = Vec::new();
    if !report.me.contains('.') {
        doubts.push(format!(
            "`{}` is not a full name: other hosts may refuse mail from it; --me FQDN",
            report.me
        ));
    }
    let any = |unspecified: IpAddr| options.listen.contains(&unspecified);
    if any(Ipv6Addr::UNSPECIFIED.into()) && !any(Ipv4Addr::UNSPECIFIED.into()) {
        doubts.push("`--listen ::` is IPv6 alone; for IPv4 too: --listen :: --listen 0.0.0.0".to_owned());
    }
    doubts
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "home:       {}", self.home.display())?;
        writeln!(f, "me:         {}", self.me)?;
        for (label, addresses) in
            [("smtpd:     ", &self.smtpd), ("submission:", &self.submission), ("smtps:     ", &self.smtps)]
        {
            for address in addresses {
                writeln!(f, "{label} {address}")?;
            }
        }
        writeln!(f, "metrics:    {}", self.metrics)?;
        writeln!(f, "user:       {}", self.user)?;
        match &self.kept {
            Some(path) => write!(f, "password:   in {}  (remove it when you have read it)", path.display()),
            None => write!(f, "password:   {}  (shown only now)", self.password),
        }
    }
}

/// Whether there is nothing yet where a home is to be: no directory, or an empty one.
pub fn is_vacant(home: &Path) -> Result<bool, Failure> {
    match std::fs::read_dir(home) {
        Ok(entries) => {
            for entry in entries {
                // A file system of its own is as good as empty.
                if entry.doing("read", home)?.file_name() != "lost+found" {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Failure::io("read", home, &error)),
    }
}

/// Makes a home in a directory that is empty or not there. `host.ron` comes last: a directory with it is complete. If
/// something fails, everything made is removed.
pub fn initialise(home: &Path, options: &Options) -> Result<Report, Failure> {
    let me = match &options.me {
        Some(me) => domain_name(me).map_err(|_| {
            Failure::permanent(format!("--me {me}: not a host name; allowed: such as mail.example.org"))
        })?,
        None => default_me(),
    };
    let plan = Plan::new(me, options)?;
    let existed = home.exists();
    create_dirs(home)?;
    let home = std::fs::canonicalize(home).doing("find", home)?;
    let _lock = DirLock::try_take(&home)?
        .ok_or_else(|| Failure::temporary(format!("{}: another init is at work there", home.display())))?;
    if !is_vacant(&home)? {
        let text = if home.join(FILE).exists() {
            "is a home already; nothing was changed"
        } else {
            "is not empty; allowed: an empty directory, or one that is not there yet"
        };
        return Err(Failure::permanent(format!("{} {text}", home.display())));
    }
    plan.carry_out(&home).inspect_err(|_| {
        clear(&home);
        if !existed {
            // Not empty only if somebody else put something there, which then stays.
            std::fs::remove_dir(&home).unwrap_or_default();
        }
    })
}

/// Removes what an unfinished init made. What cannot be removed is found and named by the next init.
fn clear(home: &Path) {
    for name in MADE {
        let path = home.join(name);
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.unwrap_or_default();
    }
}

/// Everything that stands in a home.
const MADE: [&str; 9] =
    [FILE, "control", "queue", "users", "alias", "domains", "run", "tcp.smtp", "tcp.smtp.cdb"];

/// The system's name if it is a full one. Otherwise it gets `.localdomain`, which is nobody's domain, so that a host
/// without a name of its own never speaks in the name of another.
fn default_me() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_str().ok().and_then(|name| domain_name(name).ok());
    match name {
        Some(name) if name.contains('.') => name,
        Some(name) => format!("{name}.localdomain"),
        None => "localhost.localdomain".to_owned(),
    }
}

struct Plan {
    me: String,
    smtpd: Vec<SocketAddr>,
    submission: Vec<SocketAddr>,
    smtps: Vec<SocketAddr>,
    metrics: SocketAddr,
    host_ron: String,
    password: String,
}

impl Plan {
    fn new(me: String, options: &Options) -> Result<Self, Failure> {
        let port = |standard: u16| {
            standard.checked_add(options.port_offset).ok_or_else(|| {
                Failure::permanent(format!(
                    "--port-offset {}: allowed: 0 to {OFFSET_MAX}",
                    options.port_offset
                ))
            })
        };
        let [smtp, submission, smtps, metrics] =
            [port(SMTP)?, port(SUBMISSION)?, port(SMTPS)?, port(METRICS)?];
        if options.listen.is_empty() {
            return Err(Failure::permanent("--listen: allowed: one address or more"));
        }
        let listen = |port: u16| -> Vec<SocketAddr> {
            options.listen.iter().map(|&address| SocketAddr::new(address, port)).collect()
        };
        let (smtpd, submission, smtps) = (listen(smtp), listen(submission), listen(smtps));
        // Whoever is to see them from elsewhere says so in host.ron.
        let metrics = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), metrics);
        let host_ron = host_ron([&smtpd, &submission, &smtps], metrics);
        // Two equal addresses, or one that another contains, are refused here and not at the first start.
        Host::parse(Path::new("."), &host_ron)?;
        Ok(Self {
            me,
            smtpd,
            submission,
            smtps,
            metrics,
            host_ron,
            password: password::random(password::LENGTH),
        })
    }

    fn carry_out(self, home: &Path) -> Result<Report, Failure> {
        let host = Host::parse(home, &self.host_ron)?;
        let paths = host.paths();
        let owner = Owner::own();
        let account = Account::for_new_home(home);
        // What the host writes, and what it only obeys.
        let host = account.as_ref().map_or(owner, Account::owner);
        self.control(&paths, owner)?;
        queue(&paths.queue, host)?;
        users(&paths, owner)?;
        self.alias(&paths, host)?;
        durable::create_dir(&paths.domains, 0o755, host)?;
        durable::create_dir(&paths.run, RUN_MODE, host)?;
        let user = self.domain(&paths)?;
        let rules = tcprules::parse(TCP_SMTP.as_bytes()).and_then(|rules| tcprules::compile(&rules));
        let rules = rules.map_err(|error| Failure::permanent(error.to_string()))?;
        durable::create(&home.join("tcp.smtp"), TCP_SMTP.as_bytes(), 0o644, owner)?;
        durable::create(&home.join("tcp.smtp.cdb"), &rules, 0o644, owner)?;
        let mut host_ron = self.host_ron;
        if let Some(account) = &account {
            let named = format!("    users: (host: \"{}\"),\n", account.name);
            host_ron = host_ron.replace("    // users: (host: None),\n", &named);
            account.take_over(&paths)?;
        }
        durable::create(&home.join(FILE), host_ron.as_bytes(), 0o644, owner)?;
        durable::sync_dir(home)?;
        Ok(Report {
            home: home.to_owned(),
            me: self.me,
            smtpd: self.smtpd,
            submission: self.submission,
            smtps: self.smtps,
            metrics: self.metrics,
            user,
            password: self.password,
            kept: None,
        })
    }

    fn control(&self, paths: &Paths, owner: Owner) -> Result<(), Failure> {
        let dir = &paths.control;
        durable::create_dir(dir, 0o755, owner)?;
        for (name, text) in [
            ("me", self.me.as_str()),
            // The host's own name is a virtual domain, so it cannot be local.
            ("locals", "localhost"),
            ("rcpthosts", "localhost"),
            ("concurrencyincoming", CONCURRENCYINCOMING),
            ("databytes", DATABYTES),
            ("concurrencylocal", CONCURRENCY),
            ("concurrencyremote", CONCURRENCY),
        ] {
            durable::create(&dir.join(name), format!("{text}\n").as_bytes(), 0o644, owner)?;
        }
        let pem = certificate(&self.me)?;
        durable::create(&dir.join("servercert.pem"), pem.as_bytes(), 0o600, owner)
    }

    fn alias(&self, paths: &Paths, owner: Owner) -> Result<(), Failure> {
        durable::create_dir(&paths.alias, 0o755, owner)?;
        let line = format!("&postmaster@{}\n", self.me);
        for name in ["postmaster", "mailer-daemon", "root"] {
            durable::create(&paths.alias.join(format!(".qmail-{name}")), line.as_bytes(), 0o644, owner)?;
        }
        Ok(())
    }

    fn domain(&self, paths: &Paths) -> Result<String, Failure> {
        let domain =
            NewDomain { name: self.me.clone(), dir: None, uid: None, gid: None, unknown: Unknown::Bounce };
        let postmaster = NewUser {
            name: "postmaster".to_owned(),
            domain: self.me.clone(),
            password: password::hash(&self.password)?,
            gecos: "Postmaster".to_owned(),
            quota: "NOQUOTA".to_owned(),
        };
        let vpopmail = Vpopmail::new(paths);
        vpopmail.add_domain(&domain, || vpopmail.add_user(&postmaster))?;
        Ok(format!("postmaster@{}", self.me))
    }
}

/// Directories and locks of the queue with the modes of qmail's hier.c.
fn queue(queue: &Path, owner: Owner) -> Result<(), Failure> {
    let layout = Layout::default();
    durable::create_dir(queue, 0o750, owner)?;
    for dir in Dir::ALL {
        let mode = match dir {
            Dir::Mess | Dir::Todo => 0o750,
            Dir::Intd | Dir::Info | Dir::Local | Dir::Remote | Dir::Bounce => 0o700,
        };
        let path = queue.join(dir.name());
        durable::create_dir(&path, mode, owner)?;
        if layout.is_split(dir) {
            for below in layout.directories(dir) {
                durable::create_dir_unsynced(&queue.join(below), mode, owner)?;
            }
            durable::sync_dir(&path)?;
        }
    }
    durable::create_dir(&queue.join("pid"), 0o700, owner)?;
    let lock = queue.join("lock");
    durable::create_dir(&lock, 0o750, owner)?;
    durable::create(&lock.join("sendmutex"), b"", 0o600, owner)?;
    durable::create(&lock.join("tcpto"), &[0; TCPTO], 0o644, owner)?;
    let trigger = lock.join("trigger");
    rustix::fs::mkfifoat(CWD, &trigger, Mode::from_raw_mode(0o622))
        .map_err(io::Error::from)
        .doing("create", &trigger)?;
    // The umask takes away what qmail-queue, as another user, needs.
    owner.give(&trigger).doing("chown", &trigger)?;
    std::fs::set_permissions(&trigger, PermissionsExt::from_mode(0o622)).doing("chmod", &trigger)?;
    durable::sync_dir(&lock)
}

/// No assignments yet.
fn users(paths: &Paths, owner: Owner) -> Result<(), Failure> {
    durable::create_dir(&paths.users, 0o755, owner)?;
    let cdb = assign::compile(&[]).map_err(|error| Failure::permanent(error.to_string()))?;
    durable::create(&paths.users.join("assign"), &assign::format(&[]), 0o644, owner)?;
    durable::create(&paths.users.join("cdb"), &cdb, 0o644, owner)
}

/// Certificate and key, self-signed, in one file as qmail's TLS patch reads them.
fn certificate(me: &str) -> Result<String, Failure> {
    let failed = |error: rcgen::Error| Failure::temporary(format!("unable to make a certificate: {error}"));
    let mut params = rcgen::CertificateParams::new(vec![me.to_owned()]).map_err(failed)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // RFC 5280 appendix A.1, ub-common-name: 64 characters. The full name is in the alternative names.
    params.distinguished_name.push(rcgen::DnType::CommonName, if me.len() <= 64 { me } else { "mailtree" });
    let today = jiff::Zoned::now().date();
    let month = u8::try_from(today.month()).unwrap_or(1);
    // The first of the month exists in every year, the 29th of February does not.
    params.not_before = rcgen::date_time_ymd(i32::from(today.year()), month, 1);
    params.not_after = rcgen::date_time_ymd(i32::from(today.year() + CERTIFICATE_YEARS), month, 1);
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// The text of `host.ron`: every field with its default, those that are chosen set.
fn host_ron(listen: [&[SocketAddr]; 3], metrics: SocketAddr) -> String {
    let [smtpd, submission, smtps] = listen.map(|addresses| {
        let texts: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        texts.join(", ")
    });
    format!(
        r#"// The host: which services there are, where they listen, and what qmail had no file for.
// Every field may be left out. What stands behind // is the default.
// `mailtree check` shows every setting in force and where it comes from.
(
    // Directories with control/ queue/ users/ alias/, and with domains/; relative to this one.
    // qmail_home: ".",
    // vpopmail_home: ".",

    // What goes to standard output. format: classic (qmail's lines) or json; level: error warn info debug trace.
    // log: (format: classic, level: "info"),

    // Who runs the host when root has started it: an account or a number. None: whom run/ or the home belongs to.
    // users: (host: None),

    // A stop may take this long: sessions and deliveries that still run then are cut.
    // grace: "20s",

    services: {{
        // Mail from other hosts.
        "smtpd": smtpd(
            listen: [{smtpd}],
            // Connections at once; None: control/concurrencyincoming says it.
            // concurrency: None,
            // Connections from one address at once, except from those networks.
            // per_ip: 16,
            // unlimited: ["127.0.0.0/8", "::1"],
            // Recipients of one message.
            // recipients: 1000,
            // Who may connect and who may relay: compiled from tcp.smtp by `mailtree qmailctl cdb`.
            // rules: "tcp.smtp.cdb",
            // Names of clients: off (tcpserver -H), on (-h), paranoid (-p).
            // reverse_dns: off,
            // Load balancers that say with the PROXY protocol for whom they connect.
            // proxies: [],
            // The arguments of rblsmtpd, such as ["-r", "zen.spamhaus.org"].
            // rblsmtpd: [],
            // What a run script exports; tcp.smtp may set the same for a client. chkuser refuses unknown recipients of
            // domains that bounce them.
            environment: {{"CHKUSER_START": "DOMAIN"}},
            // Whether AUTH, which SMTPAUTH switches on, is offered without TLS too.
            // auth_in_clear: false,
            // Whether the Received field of an authenticated client leaves out its address and names.
            // hide_client: false,
            // Whom an authenticated client may name in MAIL: any, or own (an address whose mail comes to him).
            // sender: any,
            // A checkpassword program with its arguments; none: the users of the virtual domains.
            // checkpassword: [],
        ),
        // Mail from our users: AUTH is a must, and so is TLS.
        "submission": smtpd(
            listen: [{submission}],
            environment: {{"CHKUSER_START": "DOMAIN", "SMTPAUTH": "!", "FORCETLS": "1"}},
            sender: own,
        ),
        // The same with TLS from the first byte.
        "smtps": smtpd(
            listen: [{smtps}],
            environment: {{"CHKUSER_START": "DOMAIN", "SMTPAUTH": "!", "SMTPS": "1"}},
            sender: own,
        ),
        "metrics": metrics(listen: "{metrics}"),
    }},

    // Limits of accepting mail: messages and bytes being received at once, what must stay free on the disk of the
    // queue, threads that make its files durable; whether there is a journal in front of the files, and how large it is.
    // queue: (receiving: 200, receiving_bytes: "1GiB", free_bytes: "64MiB", free_inodes: 1000, disk_threads: 4, journal: on, segment: "64MiB", segments: 8),

    // Begin no delivery until `svc -c send`: a rehearsal.
    // hold: false,

    // DNS. servers: [] means those of the system. cache: "8 MiB" of answers are kept.
    // resolver: (servers: [], deadline: "30s", in_flight: 1024),

    // Delivery to other hosts. outgoing_ip: own address of such connections; None: the system chooses.
    // remote: (port: 25, outgoing_ip: None),

    // Checking passwords: threads, how many may wait, networks whose wrong passwords are not slowed down.
    // auth: (threads: 2, waiting: 100, allow: []),

    // The scanners of simscan: an address or the path of a socket. rspamd: "127.0.0.1:11333" is asked in place of
    // spamd; rspamd_password: file with the password it wants. fail_open: a message goes on unscanned when a scanner
    // cannot be asked, in place of 451. quarantine: directory for copies of what is refused for a virus or as spam.
    // scanners: (clamd: "127.0.0.1:3310", spamd: "127.0.0.1:783", rspamd: None, rspamd_password: None, at_once: 8, deadline: "2m", fail_open: false, quarantine: None),

    // Programs. Of sessions, QMAILQUEUE and checkpassword: how many at once, and for how long. Of deliveries: for how long.
    // Of both: with how much memory; of deliveries also descriptors and processor time of each, and processes of a user.
    // programs: (at_once: 20, deadline: "5m", delivery: "15m", memory: "512MiB", files: 256, processes: 512, cpu: "5m"),
)
"#
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use mailtree_config::host::Service;
    use mailtree_config::{Control, Origin};
    use mailtree_protocols::cdb::Cdb;
    use mailtree_protocols::vpasswd;

    use super::*;

    fn options(me: &str) -> Options {
        Options { me: Some(me.to_owned()), ..Options::default() }
    }

    fn read(path: &Path) -> String {
        String::from_utf8(std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn a_new_home_is_complete() {
        let parent = tempfile::tempdir().unwrap();
        let home = parent.path().join("deep/home");
        let report = initialise(&home, &options("Mail.Example.org")).unwrap();
        assert_eq!(report.me, "mail.example.org");
        assert_eq!(report.smtpd, ["127.0.0.1:2525".parse().unwrap()]);
        assert_eq!(report.metrics, "127.0.0.1:11600".parse().unwrap());
        for (file, expected) in [
            ("control/me", "mail.example.org\n"),
            ("control/locals", "localhost\n"),
            ("control/rcpthosts", "localhost\nmail.example.org\n"),
            ("control/virtualdomains", "mail.example.org:mail.example.org\n"),
            ("control/concurrencyincoming", "100\n"),
            ("alias/.qmail-postmaster", "&postmaster@mail.example.org\n"),
        ] {
            assert_eq!(read(&home.join(file)), expected, "{file}");
        }
        for (path, mode) in [
            ("queue", 0o750),
            ("queue/mess/0", 0o750),
            ("queue/remote/22", 0o700),
            ("queue/todo", 0o750),
            ("queue/lock/trigger", 0o622),
            ("queue/lock/sendmutex", 0o600),
            ("control/servercert.pem", 0o600),
            ("domains/mail.example.org", 0o700),
            ("domains/mail.example.org/vpasswd", 0o600),
            ("domains/mail.example.org/vpasswd.cdb", 0o600),
            ("domains/mail.example.org/postmaster/Maildir/new", 0o700),
            ("run", 0o711),
        ] {
            assert_eq!(std::fs::metadata(home.join(path)).unwrap().mode() & 0o7777, mode, "{path}");
        }
        assert!(std::fs::metadata(home.join("queue/lock/trigger")).unwrap().file_type().is_fifo());
        assert_eq!(std::fs::metadata(home.join("queue/lock/tcpto")).unwrap().len(), 1024);
        assert!(!home.join("queue/mess/23").exists() && !home.join("queue/todo/0").exists());
        let pem = read(&home.join("control/servercert.pem"));
        assert!(pem.contains("BEGIN CERTIFICATE") && pem.contains("BEGIN PRIVATE KEY"), "{pem}");
        let rules = Cdb::new(std::fs::read(home.join("tcp.smtp.cdb")).unwrap()).unwrap();
        for (key, data) in [("127.", "+RELAYCLIENT=\0"), ("::1", "+RELAYCLIENT=\0"), ("", "")] {
            assert_eq!(rules.get(key.as_bytes()), Some(data.as_bytes()), "{key}");
        }
    }

    #[test]
    fn the_postmaster_can_log_in_with_the_password_that_was_shown() {
        use sha_crypt::{PasswordHash, PasswordVerifier, ShaCrypt};
        let home = tempfile::tempdir().unwrap();
        let report = initialise(home.path(), &options("mail.example.org")).unwrap();
        let dir = report.home.join("domains/mail.example.org");
        let users = Cdb::new(std::fs::read(dir.join("vpasswd.cdb")).unwrap()).unwrap();
        let entry = vpasswd::lookup(&users, b"postmaster").unwrap().unwrap();
        assert_eq!(Path::new(std::str::from_utf8(&entry.dir).unwrap()), dir.join("postmaster"));
        let hash = PasswordHash::new(std::str::from_utf8(&entry.password).unwrap()).unwrap();
        ShaCrypt::default().verify_password(report.password.as_bytes(), &hash).unwrap();
        let users = Cdb::new(std::fs::read(report.home.join("users/cdb")).unwrap()).unwrap();
        let found = assign::lookup(&users, b"mail.example.org-postmaster").unwrap().unwrap();
        assert_eq!(
            (found.home.as_slice(), found.ext.as_slice()),
            (dir.as_os_str().as_encoded_bytes(), &b"postmaster"[..])
        );
    }

    #[test]
    fn host_ron_and_control_are_read_back() {
        let home = tempfile::tempdir().unwrap();
        let chosen = Options {
            listen: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            port_offset: 0,
            ..options("mail.example.org")
        };
        initialise(home.path(), &chosen).unwrap();
        let host = Host::load(home.path()).unwrap();
        let listen: Vec<String> =
            host.services.iter().flat_map(|(_, service)| service.listen()).map(ToString::to_string).collect();
        let expected =
            ["25", "587", "465"].map(|port| [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
        assert_eq!(listen, [&expected.concat()[..], &["127.0.0.1:9100".to_owned()]].concat());
        let control = Control::new(host.paths().control);
        assert_eq!(control.concurrencyincoming().unwrap(), 100);
        assert_eq!(control.smtpd().unwrap().rcpthosts.allows(b"mail.example.org"), Ok(true));
        assert!(!control.send().unwrap().locals.contains(b"mail.example.org"));
    }

    #[test]
    fn the_comments_of_host_ron_tell_the_defaults() {
        let listen =
            ["127.0.0.1:2525", "127.0.0.1:3087", "127.0.0.1:2965"].map(|text| [text.parse().unwrap()]);
        let text = host_ron([&listen[0], &listen[1], &listen[2]], "127.0.0.1:11600".parse().unwrap());
        let fields = |line: &str| {
            line.trim_start()
                .strip_prefix("// ")
                .filter(|rest| {
                    rest.split_once(": ").is_some_and(|(name, value)| {
                        name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && value.ends_with(',')
                    })
                })
                .map(str::to_owned)
        };
        let uncommented: Vec<String> =
            text.lines().map(|line| fields(line).unwrap_or_else(|| line.to_owned())).collect();
        let host = Host::parse(Path::new("."), &uncommented.join("\n")).unwrap();
        let default = Host::default();
        let of = |host: &Host, name: &str| host.services.iter().find(|(own, _)| own == name).cloned();
        let Some((_, Service::Smtpd(smtpd))) = of(&host, "smtpd") else { panic!("no smtpd") };
        let plain = mailtree_config::host::Smtpd { environment: Vec::new(), ..smtpd };
        assert_eq!(Some(("smtpd".to_owned(), Service::Smtpd(plain))), of(&default, "smtpd"));
        assert_eq!(of(&host, "metrics"), of(&default, "metrics"));
        assert_eq!(
            (&host.auth, &host.scanners, &host.programs),
            (&default.auth, &default.scanners, &default.programs)
        );
        assert_eq!(
            (&host.queue, &host.resolver, &host.remote),
            (&default.queue, &default.resolver, &default.remote)
        );
        assert_eq!((&host.log, host.grace), (&default.log, default.grace));
        let untold = host.settings().into_iter().filter(|setting| setting.origin == Origin::Default);
        let untold: Vec<_> = untold
            .filter(|setting| {
                // The last one is told in a sentence.
                let elsewhere = ["services.submission.", "services.smtps.", "resolver.cache"];
                !elsewhere.iter().any(|of| setting.name.starts_with(of))
            })
            .collect();
        assert!(untold.is_empty(), "{untold:#?}");
    }

    #[test]
    fn an_existing_home_is_untouched() {
        let home = tempfile::tempdir().unwrap();
        initialise(home.path(), &options("mail.example.org")).unwrap();
        let before = read(&home.path().join("domains/mail.example.org/vpasswd"));
        let failure = initialise(home.path(), &options("other.example.org")).unwrap_err();
        assert!(failure.is_permanent() && failure.to_string().contains("is a home already"), "{failure}");
        assert_eq!(read(&home.path().join("domains/mail.example.org/vpasswd")), before);
        assert_eq!(read(&home.path().join("control/me")), "mail.example.org\n");
    }

    #[test]
    fn a_directory_in_use_is_untouched() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("thesis.tex"), "x").unwrap();
        let failure = initialise(home.path(), &options("mail.example.org")).unwrap_err();
        assert!(failure.is_permanent() && failure.to_string().contains("is not empty"), "{failure}");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_at_once_make_one_home() {
        let parent = tempfile::tempdir().unwrap();
        let home = parent.path().join("home");
        let made = std::thread::scope(|scope| {
            let threads: Vec<_> = ["a.example", "b.example", "c.example"]
                .map(|me| scope.spawn(|| initialise(&home, &options(me))))
                .into();
            threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect::<Vec<_>>()
        });
        let [report] = made.as_slice() else { panic!("{made:?}") };
        assert_eq!(read(&home.join("control/me")), format!("{}\n", report.me));
        assert!(home.join("host.ron").exists());
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        // Colons cannot stand in users/assign, which is found out when half of the home is made.
        let home = parent.path().join("a:b");
        let failure = initialise(&home, &options("mail.example.org")).unwrap_err();
        assert!(failure.is_permanent(), "{failure}");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        std::fs::create_dir(&home).unwrap();
        initialise(&home, &options("mail.example.org")).unwrap_err();
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
    }

    #[test]
    fn bad_choices_make_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let home = parent.path().join("home");
        for bad in [
            options("not a name"),
            options("-x.example"),
            options(""),
            Options { listen: vec![], ..options("mail.example.org") },
            Options { listen: vec!["127.0.0.1".parse().unwrap(); 2], ..options("mail.example.org") },
            Options { port_offset: OFFSET_MAX + 1, ..options("mail.example.org") },
        ] {
            let failure = initialise(&home, &bad).unwrap_err();
            assert!(failure.is_permanent() && !home.exists(), "{bad:?} {failure}");
        }
    }

    #[test]
    fn a_home_where_none_can_be() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        let failure = initialise(&file.join("home"), &options("mail.example.org")).unwrap_err();
        assert!(failure.to_string().contains("unable to create"), "{failure}");
    }
}
