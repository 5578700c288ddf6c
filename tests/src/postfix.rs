//! Programs of the Postfix package: `smtp-source`, `smtp-sink`, and a whole private Postfix for comparison.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::host::{PATIENCE, Ran, free_port};
use crate::maildir::Maildir;
use crate::wait::wait_for;

/// `name` in a directory for administrators' programs, which may not be in a user's PATH.
pub(crate) fn program(name: &str) -> PathBuf {
    let dirs = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/libexec/postfix"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name}: install postfix"))
}

/// What `smtp-source` is to send.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Messages.
    pub count: usize,
    /// Bytes of each.
    pub size: usize,
    /// Sessions at a time.
    pub sessions: usize,
    /// A session sends message after message, instead of one.
    pub reuse: bool,
}

impl Source {
    /// Sends; fails unless all messages were accepted.
    pub fn send(self, to: SocketAddr, from: &str, mailbox: &str) {
        let numbers = [self.count, self.size, self.sessions].map(|number| number.to_string());
        let mut command = Command::new(program("smtp-source"));
        command.args([
            "-4",
            "-m",
            &numbers[0],
            "-l",
            &numbers[1],
            "-s",
            &numbers[2],
            "-f",
            from,
            "-t",
            mailbox,
        ]);
        if self.reuse {
            command.arg("-d");
        }
        Ran::new(command.arg(to.to_string())).expect(0);
    }
}

/// Sends `count` messages of `size` bytes at `sessions` sessions with `smtp-source`; fails unless all were accepted.
pub fn source(to: SocketAddr, from: &str, mailbox: &str, count: usize, size: usize, sessions: usize) {
    Source { count, size, sessions, reuse: false }.send(to, from, mailbox);
}

/// A running `smtp-sink` that writes each message it takes to a file.
pub struct Sink {
    address: SocketAddr,
    dumps: TempDir,
    child: Child,
}

/// A message that a [`Sink`] took.
#[derive(Debug, Clone)]
pub struct Dump {
    /// What the sink noted: lines `X-Client-Addr: …`, `X-Mail-Args: …`, `X-Rcpt-Args: …`.
    pub notes: Vec<String>,
    /// Mail data with LF line ends.
    pub data: String,
}

impl Sink {
    /// Listens on some port of 127.0.0.1.
    pub fn start(options: &[&str]) -> Self {
        Self::at(free_port("127.0.0.1"), options)
    }

    /// Listens at `address` with more options of `smtp-sink`.
    pub fn at(address: SocketAddr, options: &[&str]) -> Self {
        let dumps = tempfile::Builder::new().prefix("mailtree-sink-").tempdir().unwrap();
        let mut command = Command::new(program("smtp-sink"));
        command.arg("-d").arg(dumps.path().join("message."));
        if rustix::process::geteuid().is_root() {
            // smtp-sink gives up root only when told to, and then must still be able to write.
            command.args(["-u", "nobody"]);
            Ran::new(Command::new("chown").arg("nobody").arg(dumps.path())).expect(0);
        }
        command.args(options).arg(address.to_string()).arg("1024").stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for("smtp-sink to listen", PATIENCE, || {
            assert!(child.try_wait().unwrap().is_none(), "smtp-sink ended at once");
            TcpStream::connect(address).ok()
        });
        Self { address, dumps, child }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A line of `control/smtproutes` that sends `domain` here.
    pub fn route(&self, domain: &str) -> String {
        format!("{domain}:[{}]:{}\n", self.address.ip(), self.address.port())
    }

    /// The messages taken so far. The sink writes a dump line by line and ends it with an empty line.
    pub fn taken(&self) -> Vec<Dump> {
        let entries = fs::read_dir(self.dumps.path()).unwrap();
        let texts = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap());
        texts.filter_map(|text| dump(&String::from_utf8_lossy(&text))).collect()
    }

    /// Waits until `count` messages were taken, and fails if there are more.
    pub fn wait(&self, count: usize, limit: Duration) -> Vec<Dump> {
        let enough = || Some(self.taken()).filter(|taken| taken.len() >= count);
        let taken = wait_for(&format!("{count} messages at smtp-sink"), limit, enough);
        assert_eq!(taken.len(), count, "{taken:#?}");
        taken
    }
}

fn dump(text: &str) -> Option<Dump> {
    let text = text.strip_suffix("\n\n").map(|text| format!("{text}\n"))?;
    // The sink's notes end with its own Received field, three lines of it.
    let mut lines = text.split_inclusive('\n');
    let mut notes = Vec::new();
    let mut rest = String::new();
    for line in lines.by_ref() {
        let note = line.starts_with("X-Client-")
            || line.starts_with("X-Helo-")
            || line.starts_with("X-Mail-")
            || line.starts_with("X-Rcpt-");
        if note {
            notes.push(line.trim_end().to_owned());
        } else {
            rest.push_str(line);
            break;
        }
    }
    rest.extend(lines);
    Some(Dump { notes, data: rest })
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A private instance of Postfix as Debian ships it, TLS off, that delivers to one Maildir. Needs root.
pub struct Postfix {
    dir: TempDir,
    /// Where the log goes: never on the disk under test.
    _logs: TempDir,
    address: SocketAddr,
}

/// The mailbox of [`Postfix`].
pub const MAILBOX: &str = "bench@local.test";

impl Postfix {
    /// Starts it on some port of 127.0.0.1.
    pub fn start() -> Self {
        Self::at(&std::env::temp_dir(), "")
    }

    /// Starts it with its spool and its Maildir below `parent`, and with more lines of main.cf.
    pub fn at(parent: &Path, lines: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("postfix-").tempdir_in(parent).unwrap();
        let logs = tempfile::Builder::new().prefix("mailtree-log-").tempdir().unwrap();
        let root = dir.path().display().to_string();
        let address = free_port("127.0.0.1");
        for name in ["etc", "spool", "data", "mail"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Ran::new(Command::new("chmod").args(["755", &root])).expect(0);
        Ran::new(Command::new("chown").args(["postfix", &format!("{root}/data")])).expect(0);
        Ran::new(Command::new("chown").args(["nobody", &format!("{root}/mail")])).expect(0);
        let main = format!(
            "compatibility_level = 3.6\n\
             queue_directory = {root}/spool\n\
             data_directory = {root}/data\n\
             command_directory = /usr/sbin\n\
             daemon_directory = /usr/lib/postfix/sbin\n\
             mail_owner = postfix\n\
             setgid_group = postdrop\n\
             myhostname = mx.local.test\n\
             mydestination =\n\
             mynetworks = 127.0.0.0/8\n\
             inet_interfaces = 127.0.0.1\n\
             inet_protocols = ipv4\n\
             disable_dns_lookups = yes\n\
             alias_maps =\n\
             alias_database =\n\
             virtual_mailbox_domains = local.test\n\
             virtual_mailbox_base = {root}/mail\n\
             virtual_mailbox_maps = static:bench/Maildir/\n\
             virtual_uid_maps = static:{uid}\n\
             virtual_gid_maps = static:{gid}\n\
             smtpd_tls_security_level = none\n\
             smtp_tls_security_level = none\n\
             maillog_file_prefixes = /tmp, /var, {logs}\n\
             maillog_file = {logs}/log\n\
             {lines}",
            uid = id("-u"),
            gid = id("-g"),
            logs = logs.path().display(),
        );
        fs::write(dir.path().join("etc/main.cf"), main).unwrap();
        fs::write(dir.path().join("etc/master.cf"), master(address)).unwrap();
        let postfix = Self { dir, _logs: logs, address };
        postfix.control("start").expect(0);
        wait_for("Postfix to listen", PATIENCE, || TcpStream::connect(address).ok());
        postfix
    }

    fn control(&self, verb: &str) -> Ran {
        Ran::new(Command::new(program("postfix")).arg("-c").arg(self.dir.path().join("etc")).arg(verb))
    }

    /// Where smtpd listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where mail for [`MAILBOX`] arrives.
    pub fn maildir(&self) -> Maildir {
        Maildir::new(self.dir.path().join("mail/bench/Maildir"))
    }

    /// Its spool.
    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    /// The process of master(8), parent of all others.
    pub fn pid(&self) -> u32 {
        let pid = fs::read_to_string(self.spool().join("pid/master.pid")).unwrap();
        pid.trim().parse().unwrap()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        drop(self.control("stop"));
    }
}

fn id(flag: &str) -> String {
    Ran::new(Command::new("id").args([flag, "nobody"])).expect(0).stdout.trim().to_owned()
}

/// Debian's master.cf with our port and without chroot, which the temporary directory is not made for.
fn master(address: SocketAddr) -> String {
    let dist = fs::read_to_string("/usr/share/postfix/master.cf.dist").unwrap();
    let mut services = String::new();
    for line in dist.lines().filter(|line| !line.starts_with('#')) {
        let mut words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        if words.len() >= 8 && !line.starts_with([' ', '\t']) {
            if words[0] == "smtp" && words[1] == "inet" {
                words[0] = address.to_string();
            }
            words[4] = "n".to_owned();
            services.push_str(&words.join(" "));
        } else {
            services.push_str(line);
        }
        services.push('\n');
    }
    if !services.contains("\npostlog ") {
        services.push_str("postlog unix-dgram n - n - 1 postlogd\n");
    }
    services
}
