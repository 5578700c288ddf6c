//! TLS of the SMTP server, made of the files netqmail's TLS patch reads in control/:
//!
//! - `servercert.pem`: certificate, chain and private key. Without it there is no TLS.
//! - `serverkey.pem`: the private key, which then need not be in `servercert.pem`. The two are taken together or not at all.
//! - `servercerts/HOST/servercert.pem`, and `serverkey.pem` beside it: the same for clients that ask for HOST (SNI). HOST is a name or `*.` and a name,
//!   the star being one label. Everybody else gets `servercert.pem`.
//! - `clientca.pem`, `clientcrl.pem`: who vouches for client certificates; `tlsclients`: which of them may relay.
//! - `tlsserverciphers`: a choice of cipher suites in OpenSSL's words.
//!
//! TLS 1.2 and 1.3 are spoken, with nine suites, all of them with forward secrecy and authenticated encryption.
//!
//! Clients are asked for a certificate when there is a `clientca.pem`. None is needed, and one that does not verify does
//! not end the handshake: it only does not let its owner relay. One whose owner cannot prove that he has its key ends it.
//!
//! A file that turns bad is told once, and what it said before stays in use. One that is bad from the start counts as
//! missing, with two exceptions that never give more than was asked for: a bad `tlsserverciphers` leaves the suites of
//! TLS 1.3 alone, and with a bad `clientcrl.pem` no certificate is asked for.

mod accept;
mod check;
mod ciphers;
mod client;
mod files;
mod identity;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use mailtree_config::Control;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};

pub use accept::{Accepted, Failure, accept};
pub use check::{Problem, Report, check};
pub use identity::Certificate;

use crate::clock::unix_now;
use ciphers::Ciphers;
use files::Stamp;
use identity::Identity;

/// The files are looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// The server's side of TLS, as control/ has it now. A clone is the same one.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    control: Arc<Control>,
    current: ArcSwapOption<Context>,
    reload: AtomicBool,
    seen: Mutex<Seen>,
}

/// What was found at the last look.
struct Seen {
    at: Instant,
    stamps: Vec<(PathBuf, Option<Stamp>)>,
    parts: Parts,
    /// What is wrong with the files, so that what they said before counts.
    wrong: Vec<String>,
    /// What was told of the certificates in use.
    told: Vec<Problem>,
    /// Those that the metrics show.
    shown: Vec<String>,
}

/// What a handshake needs: the certificates, and who may relay.
pub struct Context {
    config: Arc<ServerConfig>,
    clients: Option<client::Verifier>,
    tlsclients: HashSet<String>,
}

/// What the files say.
#[derive(Clone, Default)]
struct Parts {
    servercert: Option<Arc<Identity>>,
    servercerts: BTreeMap<String, Arc<Identity>>,
    clients: Option<client::Verifier>,
    tlsclients: HashSet<String>,
    /// `None` before the first reading.
    ciphers: Option<Ciphers>,
}

impl Tls {
    /// Reads the files of TLS in `control`. What is wrong with them is logged.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Self {
        let seen = Seen {
            at: Instant::now(),
            stamps: Vec::new(),
            parts: Parts::default(),
            wrong: Vec::new(),
            told: Vec::new(),
            shown: Vec::new(),
        };
        let current = ArcSwapOption::empty();
        let tls =
            Self(Arc::new(Inner { control, current, reload: AtomicBool::new(true), seen: seen.into() }));
        tls.look();
        tls
    }

    /// What a new session's handshake needs; `None` when TLS is not offered. Reads files that have changed; looks at
    /// most once a second whether any has.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Context>> {
        self.look();
        self.0.current.load_full()
    }

    /// What was wrong with the files at the last look, from memory; nothing while they are being read.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.0.seen.try_lock().map(|seen| seen.wrong.clone()).unwrap_or_default()
    }

    /// The next session has every file read again (HUP).
    pub fn reload(&self) {
        self.0.reload.store(true, Ordering::Release);
    }

    fn look(&self) {
        let inner = &*self.0;
        // While one session reads, the others go on with what was there.
        let mut seen = match inner.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return,
        };
        let reload = inner.reload.swap(false, Ordering::AcqRel);
        if !reload && seen.at.elapsed() < LOOK {
            return;
        }
        seen.at = Instant::now();
        // Taken before the files are read: a file that changes meanwhile is read again.
        let control = inner.control.dir();
        let stamps = files::stamps(control);
        let changed = reload || stamps != seen.stamps;
        if changed {
            seen.stamps = stamps;
            let (parts, problems) = seen.parts.reread(control);
            problems.iter().for_each(tell);
            seen.wrong =
                problems.iter().filter(|problem| !problem.warning).map(ToString::to_string).collect();
            match parts.context() {
                Ok(context) => {
                    inner.current.store(context);
                    seen.parts = parts;
                }
                Err(error) => tracing::error!("alert: tls: {}: {error}", control.display()),
            }
        }
        seen.examine(changed, control, &own_names(&inner.control));
    }
}

/// The names under which other hosts and users may look for this one, in lower case.
fn own_names(control: &Control) -> Vec<String> {
    let mut names = Vec::new();
    // What cannot be read is told elsewhere, and nobody is served then.
    if let (Ok(smtpd), Ok(remote)) = (control.smtpd(), control.remote()) {
        let greeting = smtpd.greeting.split_whitespace().next();
        for name in [Some(&*smtpd.me), greeting, Some(&*remote.helohost)].into_iter().flatten() {
            let name = name.to_ascii_lowercase();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn tell(problem: &Problem) {
    if problem.warning || problem.expires.is_some() {
        tracing::warn!("tls: warning: {problem}");
    } else {
        tracing::error!("alert: tls: {problem}");
    }
}

impl Seen {
    /// Looks at the certificates in use, told of anew when they were read anew, and else when something has become of them:
    /// their time passes without any change of a file.
    fn examine(&mut self, anew: bool, control: &Path, names: &[String]) {
        let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        let mut told = Vec::new();
        let mut shown = Vec::new();
        for (certificate, hosts) in self.parts.certificates(names) {
            let misnamed = certificate.misnamed(&hosts);
            let label = certificate.path.strip_prefix(control).unwrap_or(&certificate.path);
            let label = label.display().to_string();
            let gauge = |name: &'static str, value: f64| {
                metrics::gauge!(name, "certificate" => label.clone()).set(value);
            };
            gauge(NOT_BEFORE, certificate.not_before as f64);
            gauge(NOT_AFTER, certificate.not_after as f64);
            gauge(NAMED, if misnamed.is_none() { 1.0 } else { 0.0 });
            told.extend(certificate.validity(now).into_iter().chain(misnamed));
            shown.push(label);
        }
        // A series cannot be taken back: one without a certificate has no number.
        for gone in self.shown.iter().filter(|label| !shown.contains(label)) {
            for name in [NOT_BEFORE, NOT_AFTER, NAMED] {
                metrics::gauge!(name, "certificate" => gone.clone()).set(f64::NAN);
            }
        }
        told.iter().filter(|problem| anew || !self.told.contains(problem)).for_each(tell);
        (self.told, self.shown) = (told, shown);
    }
}

/// Gauges of each certificate in use.
const NOT_BEFORE: &str = "mailtree_tls_certificate_not_before_timestamp_seconds";
const NOT_AFTER: &str = "mailtree_tls_certificate_not_after_timestamp_seconds";
const NAMED: &str = "mailtree_tls_certificate_name_matches";

impl Parts {
    /// The files of `control` as they are now; a bad one counts as it did before.
    fn reread(&self, control: &Path) -> (Self, Vec<Problem>) {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        let mut parts = self.clone();
        let mut problems = Vec::new();

        match Identity::read(&control.join(files::SERVERCERT), &provider) {
            Ok(found) => parts.servercert = found.map(Arc::new),
            Err(problem) => problems.push(problem),
        }
        match files::entries(control) {
            Ok(entries) => {
                parts.servercerts.clear();
                for (file, host) in entries.into_iter().filter_map(|entry| Some((entry.file, entry.host?))) {
                    let found = Identity::read(&file, &provider).map(|found| found.map(Arc::new));
                    let found = found.unwrap_or_else(|problem| {
                        problems.push(problem);
                        self.servercerts.get(&host).cloned()
                    });
                    parts.servercerts.extend(found.map(|identity| (host, identity)));
                }
            }
            Err(problem) => problems.push(problem),
        }
        match client::verifier(control, provider, now) {
            Ok((clients, told)) => {
                parts.clients = clients;
                problems.extend(told);
            }
            Err(problem) => problems.push(problem),
        }
        match client::tlsclients(control) {
            Ok(tlsclients) => parts.tlsclients = tlsclients,
            Err(problem) => problems.push(problem),
        }
        match read_ciphers(control) {
            Ok((ciphers, told)) => {
                parts.ciphers = Some(ciphers);
                problems.extend(told);
            }
            Err(problem) => problems.push(problem),
        }
        (parts, problems)
    }

    /// The certificates in use, each with the hosts it should be for one of; `names` are those of this host.
    fn certificates<'a>(&'a self, names: &[String]) -> impl Iterator<Item = (&'a Certificate, Vec<String>)> {
        // Whoever asks for a name that has its own certificate does not get the other one.
        let named = names.iter().any(|name| own_of(name, |own| self.servercerts.get(own)).is_some());
        let names = if named { Vec::new() } else { names.to_vec() };
        let own = self.servercert.iter().map(move |identity| (&identity.certificate, names.clone()));
        own.chain(self.servercerts.iter().map(|(host, identity)| (&identity.certificate, vec![host.clone()])))
    }

    fn context(&self) -> Result<Option<Arc<Context>>, rustls::Error> {
        let Some(servercert) = &self.servercert else { return Ok(None) };
        let mut provider = aws_lc_rs::default_provider();
        let ciphers = self.ciphers.clone().unwrap_or_else(Ciphers::tls13);
        provider.cipher_suites.retain(|suite| ciphers.suites.contains(&suite.suite()));
        let builder = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13, &TLS12])?;
        let builder = match &self.clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::new(client::Ask(Arc::clone(clients)))),
            None => builder.with_no_client_auth(),
        };
        let key = |identity: &Identity| Arc::clone(&identity.key);
        let named = self.servercerts.iter().map(|(host, identity)| (host.clone(), key(identity)));
        let by_name = ByName { default: key(servercert), named: named.collect() };
        let config = Arc::new(builder.with_cert_resolver(Arc::new(by_name)));
        let (clients, tlsclients) = (self.clients.clone(), self.tlsclients.clone());
        Ok(Some(Arc::new(Context { config, clients, tlsclients })))
    }
}

/// Reads `tlsserverciphers`; the second part of the answer tells of words that mean nothing.
fn read_ciphers(control: &Path) -> Result<(Ciphers, Option<Problem>), Problem> {
    let path = control.join(files::TLSSERVERCIPHERS);
    let contents = files::read(&path)?.unwrap_or_default();
    let ciphers = Ciphers::parse(&contents).map_err(|text| Problem::error(&path, text))?;
    let unknown = check::unknown(&path, &ciphers);
    Ok((ciphers, unknown))
}

/// Gives every client the certificate of the host it asks for.
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    /// By name, or `*.` and a name.
    named: HashMap<String, Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().map(str::to_ascii_lowercase);
        let named = asked.and_then(|name| own_of(&name, |own| self.named.get(own)));
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}

/// What a host has of its own in `servercerts`: under its name, or the wildcard that covers it.
fn own_of<T>(name: &str, get: impl Fn(&str) -> Option<T>) -> Option<T> {
    get(name).or_else(|| get(&format!("*.{}", name.split_once('.')?.1)))
}
