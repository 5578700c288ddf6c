//! users: who may say that he is who (vchkpw). Passwords are checked on threads of their own, at low priority: a flood of
//! logins must not slow the mail.
//!
//! Owns: the threads, `auth.trusted`. Asks: nobody. Asked by: sessions. Dies when: a thread cannot be started. After a
//! restart: guessing is still remembered; checks that were under way are answered on the old threads.

mod files;
mod lastauth;
mod trust;

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_channel::{Receiver, Sender, bounded};
use mailtree_config::network::Network;
use mailtree_protocols::auth::throttle::{self, Attempt, Limits, Throttle, Trusted};
use mailtree_protocols::auth::vchkpw::{self, Login, Outcome, Service};
use mailtree_protocols::auth::{Credentials, Proof};
use mailtree_protocols::vpasswd::{Entry, flag};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;

use crate::clock::unix_now;
use crate::permit::{Permit, Permits};
use crate::pool::{Key, Mounts, Pool};
use crate::service::StartError;
use crate::vpopmail::Vpopmail;

/// A check that takes longer is given up.
const LONGEST: Duration = Duration::from_secs(60);

/// How often it is kept who is trusted.
const KEPT: Duration = Duration::from_secs(30);

/// How much nicer the threads are than the rest of the host.
const NICE: i32 = 10;

/// The users as sessions reach them.
#[derive(Clone)]
pub struct Users {
    /// The domains.
    pub vpopmail: Vpopmail,
    threads: Arc<ArcSwapOption<Threads>>,
    throttle: Arc<Mutex<Throttle>>,
    allow: Arc<ArcSwap<Vec<Network>>>,
    begin: Instant,
    /// Who was trusted before this process is known.
    restored: Arc<Once>,
    pool: Pool,
    mounts: Mounts,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// The client.
    pub ip: IpAddr,
    /// The port it came to.
    pub port: u16,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The client is a user.
    Accepted {
        /// No flag of the user forbids relaying.
        relays: bool,
    },
    /// It is not.
    Refused,
    /// There were too many wrong passwords for the account or from the network; nothing was checked.
    TooMany,
    /// Nobody can say now.
    Temporary,
}

impl Users {
    /// The users of these domains. Nobody can be checked before the service runs. `pool` reads and writes in users' directories.
    #[must_use]
    pub fn new(vpopmail: Vpopmail, pool: Pool) -> Self {
        Self {
            vpopmail,
            threads: Arc::default(),
            throttle: Arc::new(Mutex::new(Throttle::new(Limits::default(), rand::random()))),
            allow: Arc::default(),
            begin: Instant::now(),
            restored: Arc::new(Once::new()),
            pool,
            mounts: Mounts::default(),
        }
    }

    /// Checks credentials against the domains' vpasswd. The client waits as long as its guessing asks for.
    pub async fn vchkpw(&self, credentials: &Credentials, asker: Asker, default_domain: &str) -> Verdict {
        let login = Login::parse(&credentials.user, Some(default_domain.as_bytes()));
        let service = Service::of_port(asker.port);
        let login = match login {
            Ok(login) => login,
            Err(outcome) => return self.told(outcome, &service, &credentials.user, credentials, asker),
        };
        let account = login.address();
        let Some(_under_way) = self.wait(&account, asker.ip).await else { return Verdict::TooMany };
        let unable = |error: String| {
            let name = account.escape_ascii();
            tracing::error!("alert: unable to check the password of {name}: {error}");
            Verdict::Temporary
        };
        // Found before a thread is taken: a domain whose file system hangs must not hold those that others wait for.
        let found = self.ask(&account, move |vpopmail| entry(vpopmail, &login)).await.flatten();
        let entry = match found {
            Ok(entry) => entry,
            Err(error) => return unable(error.to_string()),
        };
        let (of, job, job_service) = (entry.clone(), credentials.clone(), service.clone());
        let decided = self.on_a_thread(move || vchkpw::decide(of.as_ref(), &job, &job_service)).await;
        let outcome = match decided {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => return unable(error.to_string()),
            None => return Verdict::Temporary,
        };
        self.remember(&account, credentials, asker.ip, outcome == Outcome::Success);
        let relays = entry.as_ref().is_some_and(|entry| entry.flags & flag::NO_RELAY == 0);
        if let Some(entry) = entry
            && outcome == Outcome::Success
        {
            self.note_login(&account, entry, asker.ip);
        }
        match self.told(outcome, &service, &account, credentials, asker) {
            Verdict::Accepted { .. } => Verdict::Accepted { relays },
            other => other,
        }
    }

    /// Waits as long as the guessing at this account, and from this network, asks for. None: too much of it. What is
    /// returned is held until the verdict is remembered.
    pub async fn wait(&self, account: &[u8], ip: IpAddr) -> Option<UnderWay> {
        let attempt = self.attempt(account, ip);
        let verdict = self.lock().before(&attempt);
        let refused = || {
            count("throttled");
            let name = account.escape_ascii();
            tracing::warn!("qmail-smtpd: warning: too many wrong passwords for {name} or from {ip}");
        };
        let milliseconds = match verdict {
            throttle::Verdict::Refuse => {
                refused();
                return None;
            }
            throttle::Verdict::Wait(milliseconds) => milliseconds,
            throttle::Verdict::Go => 0,
        };
        let under_way =
            UnderWay { users: self.clone(), account: account.to_vec(), ip, allowed: attempt.allowed };
        if milliseconds > 0 {
            count("slowed");
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            if self.lock().is_refused(&self.attempt(account, ip)) {
                refused();
                return None;
            }
        }
        Some(under_way)
    }

    /// Remembers how a check ended.
    pub fn remember(&self, account: &[u8], credentials: &Credentials, ip: IpAddr, success: bool) {
        let attempt = self.attempt(account, ip);
        if success {
            self.lock().succeeded(&attempt);
        } else {
            let password = match &credentials.proof {
                Proof::Password(password) => Some(password.as_slice()),
                Proof::Cram { .. } => None,
            };
            self.lock().failed(&attempt, password);
        }
    }

    fn attempt<'a>(&self, account: &'a [u8], client: IpAddr) -> Attempt<'a> {
        let allowed = self.allow.load().iter().any(|network| network.contains(client));
        Attempt { account, client, allowed, now: self.now() }
    }

    /// Milliseconds of a clock that does not go back.
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes over who was trusted when the host was stopped. Blocks.
    fn restore(&self, path: &Path) {
        let (now, today) = (self.now(), unix_now());
        let until = |trusted: Trusted| {
            let left = trusted.until.checked_sub(today).filter(|left| *left > 0)?;
            Some(Trusted { until: now.saturating_add(left.saturating_mul(1000)), ..trusted })
        };
        match trust::read(path) {
            Ok(Some((key, trusted))) => {
                let trusted = trusted.into_iter().filter_map(until);
                *self.lock() = Throttle::restored(Limits::default(), key, trusted);
            }
            Ok(None) => (),
            Err(error) => tracing::warn!("warning: {}: {error}: nobody is trusted yet", path.display()),
        }
    }

    /// Keeps who is trusted, if anybody is new. Blocks.
    fn keep(&self, path: &Path) {
        let (now, today) = (self.now(), unix_now());
        let changed = self.lock().trusted(now);
        let Some((key, mut trusted)) = changed else { return };
        for one in &mut trusted {
            one.until = today.saturating_add(one.until.saturating_sub(now) / 1000);
        }
        if let Err(error) = trust::write(path, key, &trusted) {
            tracing::warn!("warning: unable to write {}: {error}", path.display());
        }
    }

    /// Logs an outcome as vchkpw does.
    fn told(
        &self,
        outcome: Outcome,
        service: &Service,
        name: &[u8],
        credentials: &Credentials,
        asker: Asker,
    ) -> Verdict {
        tracing::info!("{}", outcome.log(service, name, &credentials.proof, asker.ip));
        let (result, verdict) = match outcome {
            Outcome::Success => ("success", Verdict::Accepted { relays: true }),
            Outcome::Denied => ("denied", Verdict::Refused),
            _ => ("refused", Verdict::Refused),
        };
        count(result);
        verdict
    }

    /// Has the login noted in the user's directory, whose file system may hang: nobody waits for it, and where it does not answer
    /// it is left out.
    fn note_login(&self, account: &[u8], entry: Entry, ip: IpAddr) {
        let dir = PathBuf::from(OsString::from_vec(entry.dir));
        let mut hasher = DefaultHasher::new();
        account.hash(&mut hasher);
        let key = Key { device: self.mounts.device(&dir), person: hasher.finish() };
        let work = move || {
            if let Err(error) = lastauth::note(&dir, ip) {
                tracing::warn!("warning: unable to write {}/lastauth: {error}", dir.display());
            }
        };
        self.pool.submit(key, Box::new(work));
    }

    async fn on_a_thread<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let threads = self.threads.load_full()?;
        let Some(permit) = threads.waiting.try_acquire() else {
            count("busy");
            return None;
        };
        let (reply, answer) = oneshot::channel();
        let run = Box::new(move || {
            // A client that has gone needs no answer.
            drop(reply.send(job()));
        });
        threads.jobs.try_send(Job { run, _permit: permit }).ok()?;
        // The job keeps its permit: a file system that hangs takes threads and places, never sessions.
        tokio::time::timeout(LONGEST, answer).await.ok()?.ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The user, if a virtual domain has him. Blocks.
fn entry(vpopmail: &Vpopmail, login: &Login) -> io::Result<Option<Entry>> {
    match vpopmail.domain(&login.domain)? {
        Some(domain) => vpopmail.user(&domain, &login.user),
        None => Ok(None),
    }
}

fn count(result: &'static str) {
    metrics::counter!("mailtree_auth_attempts_total", "result" => result).increment(1);
}

/// An attempt that has not come to its end.
pub struct UnderWay {
    users: Users,
    account: Vec<u8>,
    ip: IpAddr,
    allowed: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Self { users, account, ip, allowed } = self;
        let attempt = Attempt { allowed: *allowed, ..users.attempt(account, *ip) };
        users.lock().over(&attempt);
    }
}

/// The way to the threads.
struct Threads {
    jobs: Sender<Job>,
    waiting: Permits,
}

struct Job {
    run: Box<dyn FnOnce() + Send>,
    _permit: Permit,
}

fn work(jobs: &Receiver<Job>) {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::warn!("warning: unable to lower the priority of a thread: {error}");
    }
    while let Ok(job) = jobs.recv() {
        // A check that panics must not take the thread with it; its client is told to come again.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job.run)).is_err() {
            tracing::error!("alert: checking a password died");
        }
    }
}

/// The service.
pub struct Vchkpw;

/// What it needs.
pub struct Arguments {
    /// Where it will be reached.
    pub users: Users,
    /// Threads that check passwords.
    pub threads: usize,
    /// Passwords that may wait.
    pub waiting: usize,
    /// Networks that are not slowed.
    pub allow: Vec<Network>,
    /// Where networks are kept from which passwords were right.
    pub trusted: PathBuf,
}

/// Its state: whose trust is kept, and where.
pub struct State {
    users: Users,
    trusted: PathBuf,
}

impl State {
    async fn keep(&self) {
        let (users, trusted) = (self.users.clone(), self.trusted.clone());
        drop(tokio::task::spawn_blocking(move || users.keep(&trusted)).await);
    }
}

/// Its only message: who is trusted is to be kept.
pub struct Keep;

impl Actor for Vchkpw {
    type Msg = Keep;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Keep>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { users, threads, waiting, allow, trusted } = arguments;
        let (restoring, path) = (users.clone(), trusted.clone());
        let restored = move || restoring.restored.call_once(|| restoring.restore(&path));
        tokio::task::spawn_blocking(restored).await?;
        let (sender, receiver) = bounded(waiting);
        for n in 0..threads {
            let receiver = receiver.clone();
            std::thread::Builder::new()
                .name(format!("vchkpw {n}"))
                .spawn(move || work(&receiver))
                .map_err(|error| StartError::Temporary(format!("unable to start a thread: {error}")))?;
        }
        users.allow.store(Arc::new(allow));
        let waiting = Permits::new("passwords", waiting);
        users.threads.store(Some(Arc::new(Threads { jobs: sender, waiting })));
        myself.send_interval(KEPT, || Keep);
        Ok(State { users, trusted })
    }

    async fn handle(
        &self,
        _: ActorRef<Keep>,
        Keep: Keep,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.keep().await;
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Keep>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.keep().await;
        Ok(())
    }
}
