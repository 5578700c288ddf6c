//! qmail's control files (qmail-control) as typed values.
//!
//! qmail-smtpd and qmail-remote read their files for every session, so [`Control::smtpd`] and [`Control::remote`] are
//! asked for every session too, and [`Control::send`] for every message: they look whether a file has changed, at most every
//! 100 ms unless a change is noticed, and read only then. A file that is being written, or that is not what it should be,
//! leaves in force what was there before.

mod kept;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mailtree_protocols::badlist::BadList;
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::domains::Domains;
use mailtree_protocols::rcpthosts::RcptHosts;
use mailtree_protocols::simscan::simcontrol::{self, Simcontrol};
use mailtree_protocols::smtproutes::SmtpRoutes;
use mailtree_protocols::spf::{self, Behavior};
use mailtree_protocols::spp::Plugins;
use mailtree_protocols::validrcptto::ValidRcptTo;
use mailtree_protocols::virtualdomains::VirtualDomains;

use crate::default;
use crate::error::{Error, Problem};
use crate::read::{Kind, Missing, Reading};
use crate::setting::{Origin, Setting};
use kept::{Files, Kept};

/// The longest timeout, in seconds: one day.
const TIMEOUT_MAX: u64 = 86_400;

/// The longest queuelifetime, in seconds: ten years.
const LIFETIME_MAX: u64 = 315_360_000;

/// What qmail-smtpd reads.
#[derive(Debug, Clone)]
pub struct Smtpd {
    /// Full name of this host.
    pub me: String,
    /// `smtpgreeting`: text after 220, in 250 to HELO and in 221.
    pub greeting: String,
    /// Greatest size of a message in bytes; 0 is no limit.
    pub databytes: u64,
    /// Domains that mail is accepted for.
    pub rcpthosts: RcptHosts,
    /// Senders whose mail is refused: `badmailfrom`.
    pub badmailfrom: BadList,
    /// And those of clients that may not relay.
    pub badmailfromnorelay: BadList,
    /// Recipients that get no mail: `badrcptto`, or what older patches call `badmailto`.
    pub badrcptto: BadList,
    /// And none from clients that may not relay.
    pub badrcpttonorelay: BadList,
    /// Names in HELO and EHLO whose mail is refused.
    pub badhelo: BadList,
    /// And that of clients that may not relay.
    pub badhelonorelay: BadList,
    /// The recipients that there are; `None`: any may be.
    pub validrcptto: Option<ValidRcptTo>,
    /// Recipients of one message; `None`: as many as the service allows.
    pub maxrcpt: Option<usize>,
    /// Refused recipients after which a session ends; 0: none.
    pub brtlimit: u64,
    /// What is done about SPF.
    pub spfbehavior: Behavior,
    /// The local words on SPF: `spfrules`, `spfguess`, `spfexp`.
    pub spf: spf::Options,
    /// `smtpplugins`: what qmail-spp runs.
    pub smtpplugins: Arc<Plugins>,
    /// Longest wait for a client.
    pub timeoutsmtpd: Duration,
    /// Host put in place of `[the local address]` in recipients.
    pub localiphost: String,
}

/// What qmail-send reads.
#[derive(Debug, Clone)]
pub struct Send {
    /// Full name of this host.
    pub me: String,
    /// Domains delivered locally under their own names.
    pub locals: Domains,
    /// Domains delivered locally under prepended names.
    pub virtualdomains: VirtualDomains,
    /// Domains for which `user%fqdn@domain` means `user@fqdn`.
    pub percenthack: Domains,
    /// Host of recipients without one.
    pub envnoathost: String,
    /// Local part of the From of bounces.
    pub bouncefrom: String,
    /// Host of the From of bounces.
    pub bouncehost: String,
    /// Host of the recipient of double bounces.
    pub doublebouncehost: String,
    /// Local part of the recipient of double bounces.
    pub doublebounceto: String,
    /// A message older than this is tried one last time.
    pub queuelifetime: Duration,
    /// Local deliveries at once, 0 to 65000; 0 holds them.
    pub concurrencylocal: usize,
    /// Remote deliveries at once, 0 to 65000; 0 holds them.
    pub concurrencyremote: usize,
}

/// Which domains are this host's (`locals`, `virtualdomains`), for whoever asks about an address between two readings of
/// qmail-send.
#[derive(Debug, Clone)]
pub struct Domestic {
    /// Domains delivered locally under their own names.
    pub locals: Domains,
    /// Domains delivered locally under prepended names.
    pub virtualdomains: VirtualDomains,
}

/// What qmail-inject reads, and what sendmail says to a client of `-bs`.
#[derive(Debug, Clone)]
pub struct Inject {
    /// Put behind a host without a dot.
    pub defaultdomain: String,
    /// Host of addresses without one.
    pub defaulthost: String,
    /// Put in place of the `+` at the end of a host.
    pub plusdomain: String,
    /// Host in Message-ID.
    pub idhost: String,
    /// Name in the greeting, without ` ESMTP`.
    pub greeting: String,
}

/// What qmail-remote reads.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Name in HELO and EHLO.
    pub helohost: String,
    /// Hosts that take the place of mail exchangers.
    pub smtproutes: SmtpRoutes,
    /// Longest wait for a connection.
    pub timeoutconnect: Duration,
    /// Longest wait for a reply.
    pub timeoutremote: Duration,
}

/// The control directory of a host.
#[derive(Debug)]
pub struct Control {
    files: Files,
    smtpd: Kept<Smtpd>,
    send: Kept<Send>,
    remote: Kept<Remote>,
    simcontrol: Kept<Simcontrol>,
    domestic: Kept<Domestic>,
}

/// All control files, looked through for an administrator.
#[derive(Debug, Default)]
pub struct Examined {
    /// Every setting, with its origin.
    pub settings: Vec<Setting>,
    /// What the host does not start on.
    pub problems: Vec<Problem>,
    /// What it starts on, and what should not stay so.
    pub warnings: Vec<Problem>,
}

impl Control {
    /// The control files in a directory. Nothing is read yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            files: Files::new(dir.into()),
            smtpd: Kept::default(),
            send: Kept::default(),
            remote: Kept::default(),
            simcontrol: Kept::default(),
            domestic: Kept::default(),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.files.dir
    }

    /// What qmail-smtpd reads. An error, when the files have never been in order: `421 unable to read controls`.
    pub fn smtpd(&self) -> Result<Arc<Smtpd>, Error> {
        self.smtpd.current(&self.files, smtpd)
    }

    /// What qmail-send reads.
    pub fn send(&self) -> Result<Arc<Send>, Error> {
        self.send.current(&self.files, send)
    }

    /// The same, read at once (HUP).
    ///
    /// # Errors
    /// What is wrong with the files; what was in force stays so.
    pub fn send_anew(&self) -> Result<Arc<Send>, Error> {
        self.send.anew(&self.files, send)
    }

    /// What qmail-remote reads. An error: `Unable to read control files`.
    pub fn remote(&self) -> Result<Arc<Remote>, Error> {
        self.remote.current(&self.files, remote)
    }

    /// What simscan reads. An error: `451 qq unable to read configuration`.
    pub fn simcontrol(&self) -> Result<Arc<Simcontrol>, Error> {
        self.simcontrol.current(&self.files, simcontrol)
    }

    /// What qmail-inject reads: once, for a process that soon ends.
    pub fn inject(&self) -> Result<Inject, Error> {
        let mut reading = Reading::new(&self.files.dir);
        let inject = inject(&mut reading);
        Error::unless_none(reading.problems, inject)
    }

    /// The servers of qmail-qmqpc, one a line; none without the file.
    pub fn qmqpservers(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut reading = Reading::new(&self.files.dir);
        let servers = reading.entries_or_none("qmqpservers");
        Error::unless_none(reading.problems, servers)
    }

    /// The domains of this host.
    pub fn domestic(&self) -> Result<Arc<Domestic>, Error> {
        self.domestic.current(&self.files, domestic)
    }

    /// What is wrong with the files of qmail-send and qmail-remote as they are now.
    pub fn problems_of_send(&self) -> Vec<Problem> {
        drop((self.send(), self.remote()));
        unique(self.send.problems().into_iter().chain(self.remote.problems()))
    }

    /// What is wrong with the files of qmail-smtpd as they are now.
    pub fn problems_of_smtpd(&self) -> Vec<Problem> {
        drop((self.smtpd(), self.simcontrol(), self.domestic()));
        let problems = self.smtpd.problems().into_iter().chain(self.simcontrol.problems());
        unique(problems.chain(self.domestic.problems()))
    }

    /// Connections at once of a service that has no number of its own, 1 to 65000 (tcpserver -c).
    pub fn concurrencyincoming(&self) -> Result<usize, Error> {
        let mut reading = Reading::new(&self.files.dir);
        let number = concurrencyincoming(&mut reading);
        Error::unless_none(reading.problems, number)
    }

    /// Every setting in force with its origin, and everything that is wrong.
    pub fn examine(&self) -> Examined {
        let mut reading = Reading::new(&self.files.dir);
        smtpd(&mut reading);
        send(&mut reading);
        remote(&mut reading);
        inject(&mut reading);
        reading.entries_or_none::<Vec<Vec<u8>>>("qmqpservers");
        simcontrol(&mut reading);
        concurrencyincoming(&mut reading);
        let Reading { settings, problems, warnings, .. } = reading;
        Examined { settings, problems: unique(problems), warnings: unique(warnings) }
    }
}

/// A file that two programs read is bad once.
fn unique(problems: impl IntoIterator<Item = Problem>) -> Vec<Problem> {
    let mut found: Vec<Problem> = Vec::new();
    for problem in problems {
        if !found.contains(&problem) {
            found.push(problem);
        }
    }
    found
}

fn smtpd(reading: &mut Reading<'_>) -> Smtpd {
    Smtpd {
        me: reading.me(),
        greeting: reading.text("smtpgreeting", Missing::Me, Kind::Words),
        databytes: reading.whole("databytes", default::DATABYTES, 0, i64::MAX as u64),
        rcpthosts: rcpthosts(reading),
        badmailfrom: badlist(reading, "badmailfrom", BadList::senders()),
        badmailfromnorelay: badlist(reading, "badmailfromnorelay", BadList::senders()),
        badrcptto: badrcptto(reading, ["badrcptto", "badmailto"]),
        badrcpttonorelay: badrcptto(reading, ["badrcpttonorelay", "badmailtonorelay"]),
        badhelo: badlist(reading, "badhelo", BadList::patterns()),
        badhelonorelay: badlist(reading, "badhelonorelay", BadList::patterns()),
        validrcptto: validrcptto(reading),
        maxrcpt: maxrcpt(reading),
        brtlimit: reading.whole("brtlimit", default::BRTLIMIT, 0, u64::from(u32::MAX)),
        spfbehavior: spfbehavior(reading),
        spf: spf_options(reading),
        smtpplugins: Arc::new(smtpplugins(reading)),
        timeoutsmtpd: timeout(reading, "timeoutsmtpd", default::TIMEOUTSMTPD),
        localiphost: reading.text("localiphost", Missing::Me, Kind::Name),
    }
}

fn rcpthosts(reading: &mut Reading<'_>) -> RcptHosts {
    let Some(entries) = reading.entries("rcpthosts") else {
        reading.set("rcpthosts", "no domain".to_owned(), Origin::Default);
        return RcptHosts::default();
    };
    let more = database(reading, "morercpthosts.cdb");
    RcptHosts::new(entries, more)
}

fn database(reading: &mut Reading<'_>, name: &str) -> Option<Cdb<Vec<u8>>> {
    match Cdb::new(reading.cdb(name)?) {
        Ok(found) => {
            let value = format!("{} entries", found.iter().count());
            reading.set(name, value, Origin::File(reading.path(name), None));
            Some(found)
        }
        Err(error) => {
            reading.refuse_file(name, error);
            None
        }
    }
}

fn badlist(reading: &mut Reading<'_>, name: &str, mut list: BadList) -> BadList {
    reading.lines(name, |line| list.add(line));
    list
}

/// The qregex patch has had two names for the file; with both the lines of both count.
fn badrcptto(reading: &mut Reading<'_>, names: [&str; 2]) -> BadList {
    names.into_iter().fold(BadList::patterns(), |list, name| badlist(reading, name, list))
}

fn validrcptto(reading: &mut Reading<'_>) -> Option<ValidRcptTo> {
    let entries = reading.entries("validrcptto");
    let more = database(reading, "morevalidrcptto.cdb");
    if entries.is_none() {
        reading.set("validrcptto", "not checked".to_owned(), Origin::Default);
    }
    (entries.is_some() || more.is_some()).then(|| ValidRcptTo::new(entries.unwrap_or_default(), more))
}

/// 0, as in the patch, is no limit.
fn maxrcpt(reading: &mut Reading<'_>) -> Option<usize> {
    Some(reading.count("maxrcpt", 0, 0, default::MAXRCPT_MAX)).filter(|&most| most != 0)
}

fn smtpplugins(reading: &mut Reading<'_>) -> Plugins {
    let mut plugins = Plugins::default();
    reading.lines("smtpplugins", |line| plugins.add(line));
    plugins
}

fn virtualdomains(reading: &mut Reading<'_>) -> VirtualDomains {
    let mut virtualdomains = VirtualDomains::default();
    reading.lines("virtualdomains", |line| virtualdomains.add(line));
    virtualdomains
}

fn domestic(reading: &mut Reading<'_>) -> Domestic {
    let locals = reading.entries("locals").unwrap_or_else(|| {
        let me = reading.me();
        reading.set("locals", me.clone(), Origin::Me);
        [&me].into_iter().collect()
    });
    Domestic { locals, virtualdomains: virtualdomains(reading) }
}

fn spfbehavior(reading: &mut Reading<'_>) -> Behavior {
    let number = reading.whole("spfbehavior", default::SPFBEHAVIOR, 0, 6);
    number.to_string().parse().unwrap_or_default()
}

fn spf_options(reading: &mut Reading<'_>) -> spf::Options {
    let [rules, guess, explanation] =
        ["spfrules", "spfguess", "spfexp"].map(|name| reading.text(name, Missing::Value(""), Kind::Words));
    spf::Options::new(&rules, &guess, &explanation).unwrap_or_else(|error| {
        let name = match error {
            spf::OptionsError::Rules(_) => "spfrules",
            spf::OptionsError::Guess(_) => "spfguess",
            spf::OptionsError::Explanation(_) => "spfexp",
        };
        reading.refuse_file(name, error);
        spf::Options::default()
    })
}

/// `simcontrol.cdb` if there is one, as simscan reads; else `simcontrol`; else `ssattach`.
fn simcontrol(reading: &mut Reading<'_>) -> Simcontrol {
    if let Some(compiled) = database(reading, "simcontrol.cdb") {
        return Simcontrol::read(&compiled).unwrap_or_else(|error| {
            reading.refuse_file("simcontrol.cdb", error);
            Simcontrol::default()
        });
    }
    let Some(text) = reading.whole_text("simcontrol") else {
        return ssattach(reading);
    };
    match Simcontrol::parse(&text) {
        Ok(found) => {
            let value = format!("{} entries", found.len());
            reading.set("simcontrol", value, Origin::File(reading.path("simcontrol"), None));
            found
        }
        Err(simcontrol::Error::Line { line, text, allowed }) => {
            reading.refuse_line("simcontrol", line, format!("`{text}` is not allowed; allowed: {allowed}"));
            Simcontrol::default()
        }
        Err(error) => {
            reading.refuse_file("simcontrol", error);
            Simcontrol::default()
        }
    }
}

/// The list of suffixes of a simscan that is built without rules for domains.
fn ssattach(reading: &mut Reading<'_>) -> Simcontrol {
    let Some(text) = reading.whole_text("ssattach") else {
        reading.set("simcontrol", "nothing is scanned".to_owned(), Origin::Default);
        return Simcontrol::default();
    };
    let suffixes = simcontrol::ssattach(&text);
    reading.set("ssattach", suffixes.join(", "), Origin::File(reading.path("ssattach"), None));
    Simcontrol::parse(format!(":attach={}", suffixes.join(":")).as_bytes()).unwrap_or_else(|error| {
        reading.refuse_file("ssattach", error);
        Simcontrol::default()
    })
}

fn send(reading: &mut Reading<'_>) -> Send {
    let me = reading.me();
    let Domestic { locals, virtualdomains } = domestic(reading);
    Send {
        locals,
        virtualdomains,
        percenthack: percenthack(reading),
        envnoathost: reading.text("envnoathost", Missing::Me, Kind::Name),
        bouncefrom: reading.text("bouncefrom", Missing::Value(default::BOUNCEFROM), Kind::Name),
        bouncehost: reading.text("bouncehost", Missing::Me, Kind::Name),
        doublebouncehost: reading.text("doublebouncehost", Missing::Me, Kind::Name),
        doublebounceto: reading.text("doublebounceto", Missing::Value(default::DOUBLEBOUNCETO), Kind::Name),
        queuelifetime: Duration::from_secs(reading.whole(
            "queuelifetime",
            default::QUEUELIFETIME,
            0,
            LIFETIME_MAX,
        )),
        concurrencylocal: reading.count(
            "concurrencylocal",
            default::CONCURRENCYLOCAL,
            0,
            default::CONCURRENCY_MAX,
        ),
        concurrencyremote: reading.count(
            "concurrencyremote",
            default::CONCURRENCYREMOTE,
            0,
            default::CONCURRENCY_MAX,
        ),
        me,
    }
}

/// A domain of `percenthack` that is also in `rcpthosts` relays for the world, here as in qmail.
fn percenthack(reading: &mut Reading<'_>) -> Domains {
    let hosts: Vec<Vec<u8>> = reading.entries_or_none("percenthack");
    if !hosts.is_empty() {
        let accepted = rcpthosts(reading);
        for host in hosts.iter().filter(|host| accepted.allows(&host.to_ascii_lowercase()) == Ok(true)) {
            let host = String::from_utf8_lossy(host).into_owned();
            reading.warn_file(
                "percenthack",
                format!("{host} is in rcpthosts, too: anybody may relay through user%anywhere@{host}"),
            );
        }
    }
    hosts.iter().collect()
}

fn inject(reading: &mut Reading<'_>) -> Inject {
    Inject {
        defaultdomain: reading.text("defaultdomain", Missing::Me, Kind::Name),
        defaulthost: reading.text("defaulthost", Missing::Me, Kind::Name),
        plusdomain: reading.text("plusdomain", Missing::Me, Kind::Name),
        idhost: reading.text("idhost", Missing::Me, Kind::Name),
        greeting: reading.text("smtpgreeting", Missing::Me, Kind::Words),
    }
}

fn remote(reading: &mut Reading<'_>) -> Remote {
    let helohost = reading.text("helohost", Missing::Me, Kind::Name);
    let smtproutes = smtproutes(reading);
    Remote {
        helohost,
        smtproutes,
        timeoutconnect: timeout(reading, "timeoutconnect", default::TIMEOUTCONNECT),
        timeoutremote: timeout(reading, "timeoutremote", default::TIMEOUTREMOTE),
    }
}

/// A line that cannot be obeyed holds the mail that it concerns, and no other.
fn smtproutes(reading: &mut Reading<'_>) -> SmtpRoutes {
    let mut routes = SmtpRoutes::default();
    let refused = reading.lines_apart("smtproutes", |line| routes.add(line));
    for (line, problem) in refused {
        routes.refuse(&line, &problem.to_string());
    }
    routes
}

fn concurrencyincoming(reading: &mut Reading<'_>) -> usize {
    reading.count("concurrencyincoming", default::CONCURRENCYINCOMING, 1, default::CONCURRENCY_MAX)
}

fn timeout(reading: &mut Reading<'_>, name: &str, default: u64) -> Duration {
    Duration::from_secs(reading.whole(name, default, 1, TIMEOUT_MAX))
}
