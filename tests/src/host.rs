//! A mailtree host in a home of its own, driven through its command line and its sockets only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::maildir::Maildir;
use crate::probe::{Metrics, get};
use crate::qmail::{Layout, Queue};
use crate::smtp::Client;
use crate::wait::{wait_for, wait_until};

/// How long a host may take to start or to stop before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The host's own name and first virtual domain in every test.
pub const ME: &str = "mx.test";

/// The `mailtree` binary: `MAILTREE_BIN`, else the one cargo put beside the test's own directory.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MAILTREE_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let binary = own.ancestors().skip(1).map(|dir| dir.join("mailtree")).find(|path| path.is_file());
    binary.unwrap_or_else(|| panic!("no mailtree binary near {}: cargo build --release first", own.display()))
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Runs a command to its end with no input.
    pub fn new(command: &mut Command) -> Self {
        let output =
            command.stdin(Stdio::null()).output().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails unless the exit code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Standard output of a command that ended well, as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let ran = self.expect(0);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|cause| panic!("{cause}: {ran:#?}"))
    }
}

/// The address of a host's smtpd, the new one after each restart.
#[derive(Clone)]
pub struct Address(Arc<RwLock<SocketAddr>>);

impl Address {
    /// An address that stays as it is.
    pub fn new(address: SocketAddr) -> Self {
        Self(Arc::new(RwLock::new(address)))
    }

    /// Where it is now.
    pub fn get(&self) -> SocketAddr {
        *self.0.read().unwrap()
    }

    fn set(&self, address: SocketAddr) {
        *self.0.write().unwrap() = address;
    }
}

/// A home being prepared. Every host has users `bob` and `sender` beside `postmaster`, all in [`ME`].
pub struct Setup {
    keep: Option<TempDir>,
    /// Where the log goes: never on the disk under test.
    logs: TempDir,
    home: PathBuf,
    /// The queue: the home's own, or that of a qmail.
    queue: PathBuf,
    fields: BTreeMap<&'static str, String>,
    /// The whole `host.ron`, in place of the fields.
    host_ron: Option<String>,
    env: Vec<(String, String)>,
    wrapper: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// A home in a temporary directory.
    pub fn new() -> Self {
        let keep = tempfile::Builder::new().prefix("mailtree-test-").tempdir().unwrap();
        let mut setup = Self::at(keep.path().join("home"));
        setup.keep = Some(keep);
        setup
    }

    /// A home at `home`, which must not exist yet; initialised with `mailtree init`.
    pub fn at(home: impl Into<PathBuf>) -> Self {
        let home = home.into();
        let init = ["init", "--me", ME, "--listen", "127.0.0.1", "--port-offset", "20000", "--home"];
        Ran::new(Command::new(binary()).args(init).arg(&home)).expect(0);
        let setup = Self::existing(home);
        for user in ["bob", "sender"] {
            setup.user(&format!("{user}@{ME}"));
        }
        setup
    }

    /// A home that was initialised before.
    pub fn existing(home: impl Into<PathBuf>) -> Self {
        let services =
            "{ \"smtpd\": smtpd(listen: [\"127.0.0.1:0\"]), \"metrics\": metrics(listen: \"127.0.0.1:0\") }";
        let fields = [
            ("services", services.to_owned()),
            // Nothing answers here: a test that needs DNS says so.
            ("resolver", "(servers: [\"127.0.0.1:1\"], deadline: \"2s\")".to_owned()),
            ("grace", "\"10s\"".to_owned()),
            // A home for a moment needs no large journal.
            ("queue", "(segment: \"4MiB\")".to_owned()),
        ];
        let logs = tempfile::Builder::new().prefix("mailtree-log-").tempdir().unwrap();
        let home = home.into();
        Self {
            keep: None,
            logs,
            queue: home.join("queue"),
            home,
            fields: fields.into(),
            host_ron: None,
            env: Vec::new(),
            wrapper: Vec::new(),
        }
    }

    /// Sets a field of `host.ron`.
    pub fn field(mut self, name: &'static str, ron: impl Into<String>) -> Self {
        self.fields.insert(name, ron.into());
        self
    }

    /// A whole `host.ron`, which names this queue.
    pub fn host_ron(mut self, text: impl Into<String>, queue: impl Into<PathBuf>) -> Self {
        self.host_ron = Some(text.into());
        self.queue = queue.into();
        self
    }

    /// The fields of the service `smtpd` in `host.ron`, beside `listen`.
    pub fn smtpd(self, ron: &str) -> Self {
        let services = format!(
            "{{ \"smtpd\": smtpd(listen: [\"127.0.0.1:0\"], {ron}), \"metrics\": metrics(listen: \"127.0.0.1:0\") }}"
        );
        self.field("services", services)
    }

    /// Whether the journal stands in front of the files of the queue.
    pub fn journal(self, on: bool) -> Self {
        let journal = if on { "on" } else { "off" };
        self.field("queue", format!("(journal: {journal}, segment: \"4MiB\")"))
    }

    /// Puts control files, users and aliases into a qmail beside the home, whose queue has this layout, and lets the
    /// host work on it. Control files of the test come before.
    pub fn on_qmail(mut self, layout: Layout) -> (Self, Queue) {
        let qmail = self.home.join("qmail");
        fs::create_dir(&qmail).unwrap();
        let mut copy = Command::new("cp");
        copy.arg("-a").args(["control", "users", "alias"].map(|name| self.home.join(name))).arg(&qmail);
        Ran::new(&mut copy).expect(0);
        self.queue = qmail.join("queue");
        let queue = Queue::make(&self.queue, layout);
        (self.field("qmail_home", format!("{qmail:?}")), queue)
    }

    /// The home's own queue, to be filled by hand.
    pub fn queue(&self) -> Queue {
        Queue::at(&self.queue, Layout::QMAIL)
    }

    /// Questions go to the DNS server at `address`.
    pub fn resolver(self, address: SocketAddr) -> Self {
        self.field("resolver", format!("(servers: [\"{address}\"], deadline: \"5s\")"))
    }

    /// Writes a control file.
    pub fn control(self, name: &str, text: &str) -> Self {
        fs::write(self.home.join("control").join(name), text).unwrap();
        self
    }

    /// Writes `tcp.smtp` and compiles it.
    pub fn rules(self, text: &str) -> Self {
        fs::write(self.home.join("tcp.smtp"), text).unwrap();
        self.write();
        self.run(&["qmailctl", "cdb"]).expect(0);
        self
    }

    /// Adds an environment variable of `mailtree up`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs `mailtree up` under another command, which must end in exec.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Adds a mailbox.
    pub fn user(&self, mailbox: &str) {
        self.run(&["vadduser", mailbox, "secret-of-the-test"]).expect(0);
    }

    /// The home's directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Gives what a test has made as root to the user who runs the host.
    pub fn give(&self, path: &Path) {
        let owner = fs::metadata(self.home.join("domains")).unwrap();
        let owner = format!("{}:{}", owner.uid(), owner.gid());
        if rustix::process::geteuid().is_root() {
            Ran::new(Command::new("chown").args(["-R", "-h", &owner]).arg(path)).expect(0);
        }
    }

    /// Runs a subcommand on this home.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::new(Command::new(binary()).args(args).env("MAILTREE_HOME", &self.home))
    }

    /// Writes `host.ron`.
    pub fn write(&self) {
        let fields: Vec<_> = self.fields.iter().map(|(name, ron)| format!("    {name}: {ron},\n")).collect();
        let text = self.host_ron.clone().unwrap_or_else(|| format!("(\n{})\n", fields.concat()));
        fs::write(self.home.join("host.ron"), text).unwrap();
    }

    /// The command `mailtree up` on this home, without `host.ron` being written.
    pub fn command(&self) -> Command {
        let mut words: Vec<std::ffi::OsString> = self.wrapper.iter().map(Into::into).collect();
        words.extend([binary().into_os_string(), "up".into(), "--home".into(), self.home.clone().into()]);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts the host and waits until all its services are up.
    pub fn start(self) -> Host {
        let host = self.launch();
        host.wait_up();
        host
    }

    /// Starts the host and waits for nothing.
    pub fn launch(self) -> Host {
        self.write();
        let log = self.logs.path().join("log");
        let child = spawn(&self, &log);
        Host { setup: self, log, child, address: Address::new(SocketAddr::from(([127, 0, 0, 1], 1))) }
    }
}

fn spawn(setup: &Setup, log: &Path) -> Child {
    let output = File::options().create(true).append(true).open(log).unwrap();
    let mut command = setup.command();
    command.stdout(output.try_clone().unwrap()).stderr(output);
    command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"))
}

/// A running host.
pub struct Host {
    setup: Setup,
    log: PathBuf,
    child: Child,
    address: Address,
}

impl Host {
    /// A host with nothing special.
    pub fn start() -> Self {
        Setup::new().start()
    }

    /// The home's directory.
    pub fn home(&self) -> &Path {
        &self.setup.home
    }

    /// Gives what a test has made as root to the user who runs the host.
    pub fn give(&self, path: &Path) {
        self.setup.give(path);
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a subcommand on this host.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.setup.run(args)
    }

    /// Runs a subcommand that must end with exit code 0; its standard output.
    #[track_caller]
    pub fn ask(&self, args: &[&str]) -> String {
        self.run(args).expect(0).stdout
    }

    /// The rows of `svstat --json`; none while the host does not answer.
    pub fn status(&self) -> Vec<Value> {
        let ran = self.run(&["svstat", "--json"]);
        match serde_json::from_str(&ran.stdout) {
            Ok(Value::Array(rows)) => rows,
            _ => ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
        }
    }

    /// The row of one service.
    pub fn service(&self, name: &str) -> Option<Value> {
        self.status().into_iter().find(|row| row["service"] == name)
    }

    /// Whether a service is up.
    pub fn is_up(&self, name: &str) -> bool {
        self.service(name).is_some_and(|row| row["state"] == "up")
    }

    /// Waits until every service is up, and takes down where smtpd listens.
    pub fn wait_up(&self) {
        let rows = wait_for("all services up", PATIENCE, || {
            assert!(is_running(self.pid()), "the host has ended:\n{}", self.log_tail());
            let rows = self.status();
            (!rows.is_empty() && rows.iter().all(|row| row["state"] == "up")).then_some(rows)
        });
        let smtpd = rows.iter().find(|row| row["service"] == "smtpd");
        if let Some(address) = smtpd.and_then(|row| row["listen"][0].as_str()) {
            self.address.set(address.parse().unwrap());
        }
    }

    /// Where a service listens first.
    pub fn listens(&self, service: &str) -> SocketAddr {
        wait_for(&format!("{service} to listen"), PATIENCE, || {
            self.service(service)?["listen"][0].as_str()?.parse().ok()
        })
    }

    /// Where smtpd listens, also after restarts.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    /// A client that has read the greeting.
    pub fn smtp(&self) -> Client {
        Client::connect(self.address.get()).unwrap()
    }

    /// Sends one message; fails unless it is accepted.
    #[track_caller]
    pub fn send(&self, from: &str, to: &[&str], text: &str) {
        let mut client = self.smtp();
        client.say("EHLO client.test", 250);
        client.transact(from, to, text).unwrap().expect(250);
        client.say("QUIT", 221);
    }

    /// Plays a transcript on a new connection; see [`crate::smtp::play`].
    #[track_caller]
    pub fn play(&self, transcript: &str) {
        crate::smtp::play(self.address.get(), transcript);
    }

    /// The Maildir of a user of [`ME`].
    pub fn maildir(&self, user: &str) -> Maildir {
        self.maildir_of(ME, user)
    }

    /// The Maildir of a user of any virtual domain.
    pub fn maildir_of(&self, domain: &str, user: &str) -> Maildir {
        Maildir::new(self.home().join("domains").join(domain).join(user).join("Maildir"))
    }

    /// Where it logs: standard output and standard error of all its processes.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Everything logged so far, over all restarts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Log lines without their stamps.
    pub fn log_lines(&self) -> Vec<String> {
        let unstamped = |line: &str| match line.split_once(' ') {
            Some((stamp, rest)) if stamp.len() == 25 && stamp.starts_with('@') => rest.to_owned(),
            _ => line.to_owned(),
        };
        self.log().lines().map(unstamped).collect()
    }

    /// Waits for a log line like `pattern` (see [`crate::smtp::like`]) and gives it.
    pub fn wait_log(&self, pattern: &str) -> String {
        wait_for(&format!("log line {pattern:?}"), PATIENCE, || {
            self.log_lines().into_iter().find(|line| crate::smtp::like(pattern, line))
        })
    }

    /// The end of the log, for messages of failure.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// What the metrics service says now.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&get(self.listens("metrics"), "/metrics").unwrap())
    }

    /// Files in the queue, of all kinds that a message leaves there; not those that the host keeps for the next one.
    pub fn queue_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for kind in ["mess", "todo", "intd", "info", "local", "remote", "bounce", "pid"] {
            walk(&self.setup.queue.join(kind), &mut files);
        }
        let kept = |path: &PathBuf| path.to_string_lossy().contains("/pid/spare.");
        files.retain(|path| !kept(path));
        files
    }

    /// Waits until the queue holds nothing at all, asking `send` to try everything now and then.
    pub fn wait_queue_empty(&self, limit: Duration) {
        let mut looks = 0_u32;
        let mut left = Vec::new();
        let start = std::time::Instant::now();
        while start.elapsed() < limit {
            left = self.queue_files();
            // What has no files yet is counted, too.
            if left.is_empty() && self.run(&["qmail-qstat"]).stdout.starts_with("messages in queue: 0\n") {
                return;
            }
            if looks % 20 == 19 {
                self.run(&["svc", "-a", "send"]).expect(0);
            }
            looks += 1;
            crate::wait::tick(Duration::from_millis(50));
        }
        panic!("still in the queue after {limit:?}: {left:#?}\n{}", self.run(&["qmail-qstat"]).stdout);
    }

    /// Puts a control file in place of the old one; it has been finished for a while, and counts at once.
    pub fn control(&self, name: &str, text: &str) {
        let new = self.home().join("control").join(format!("{name}.new"));
        fs::write(&new, text).unwrap();
        let finished = SystemTime::now() - Duration::from_secs(1);
        fs::File::open(&new).unwrap().set_modified(finished).unwrap();
        fs::rename(&new, new.with_file_name(name)).unwrap();
    }

    /// Removes a control file, a while ago.
    pub fn without_control(&self, name: &str) {
        let dir = self.home().join("control");
        fs::remove_file(dir.join(name)).unwrap();
        fs::File::open(dir).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    }

    /// Sends a signal to the host's process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// `kill -9`, and waits for the end of the process.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until the process ends by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        wait_for("the host to end", limit, || self.child.try_wait().unwrap())
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether the process has done all that it can do to end: a thread that waits for a frozen file system keeps the
    /// kernel from telling its parent.
    pub fn is_over(&mut self) -> bool {
        self.ended().is_some() || !is_running(self.pid())
    }

    /// Whether the host has come so far that all its services are up, or has ended: what a bad home leads to.
    pub fn settles(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            let rows = self.status();
            if !rows.is_empty() && rows.iter().all(|row| row["state"] == "up") {
                self.wait_up();
                return None;
            }
            assert!(
                start.elapsed() < limit,
                "neither up nor ended after {limit:?}: {rows:#?}\n{}",
                self.log_tail()
            );
            crate::wait::tick(Duration::from_millis(20));
        }
    }

    /// TERM, and fails unless the host ends in order.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", self.log_tail());
    }

    /// Starts the host again on the same home after its end.
    pub fn restart(&mut self) {
        self.relaunch();
        self.wait_up();
    }

    /// [`Host::restart`] without waiting.
    pub fn relaunch(&mut self) {
        assert!(self.ended().is_some(), "the host still runs");
        self.child = spawn(&self.setup, &self.log);
    }

    /// Starts the host again while the process before, which [`Host::is_over`], cannot be reaped yet; that process.
    pub fn restart_beside(&mut self) -> Child {
        assert!(self.is_over(), "the host still runs");
        let before = std::mem::replace(&mut self.child, spawn(&self.setup, &self.log));
        self.wait_up();
        before
    }

    /// Starts the host again with another environment.
    pub fn restart_with(&mut self, env: &[(&str, &str)]) {
        self.relaunch_with(env);
        self.wait_up();
    }

    /// [`Host::restart_with`] without waiting.
    pub fn relaunch_with(&mut self, env: &[(&str, &str)]) {
        self.setup.env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.relaunch();
    }

    /// Waits until smtpd takes a connection and greets.
    pub fn wait_greeting(&self) {
        wait_until("a greeting", PATIENCE, || {
            Client::connect(self.address.get()).is_ok_and(|client| client.greeting.code == 220)
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the host's log ---\n{}", self.log_tail());
        }
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Whether there is such a process.
pub fn is_running(pid: u32) -> bool {
    // A zombie counts as ended: its state follows the name in brackets.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

/// A port that was free a moment ago, for servers that cannot be told to choose and say.
pub fn free_port(address: &str) -> SocketAddr {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}
