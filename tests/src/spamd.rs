//! spamd with three rules, so that a test knows the points of every message.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::clamd::stop;
use crate::host::{PATIENCE, free_port};
use crate::wait::wait_for;

/// Five points make spam. A subject with `seven` has 7, with `three` 3, the text of SpamAssassin for tests has 1000.
const RULES: &str = r"
required_score 5
report_safe 0
use_bayes 0
clear_headers
add_header spam Flag _YESNOCAPS_
add_header all Status _YESNO_, score=_SCORE_ required=_REQD_ tests=_TESTS_
body GTUBE /XJS\*C4JDBQADN1\.NSBN3\*2IDNEN\*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL\*C\.34X/
score GTUBE 1000
header SEVEN Subject =~ /seven/
score SEVEN 7
header THREE Subject =~ /three/
score THREE 3
";

/// The text that SpamAssassin takes for spam.
pub const GTUBE: &str = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";

/// A running spamd. It asks nobody else.
pub struct Spamd {
    dir: TempDir,
    port: SocketAddr,
    child: Child,
}

impl Spamd {
    /// Starts it and waits until it answers.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-spamd-").tempdir().unwrap();
        let port = free_port("127.0.0.1");
        for (sub, file, text) in [
            ("rules", "rules.cf", RULES),
            ("site", "check.pre", "loadplugin Mail::SpamAssassin::Plugin::Check\n"),
            ("home", "empty", ""),
        ] {
            fs::create_dir(dir.path().join(sub)).unwrap();
            fs::write(dir.path().join(sub).join(file), text).unwrap();
        }
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let path = |option: &str, name: &str| format!("{option}={}", dir.path().join(name).display());
        let mut command = Command::new("spamd");
        command.args(["--local", "--nouser-config", "--max-children=2", "--min-spare=1", "--syslog=stderr"]);
        command.args([format!("--listen={}", port.ip()), format!("--port={}", port.port())]);
        command.args([
            path("--configpath", "rules"),
            path("--siteconfigpath", "site"),
            path("--helper-home-dir", "home"),
        ]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
        let mut spamd = Self { dir, port, child };
        wait_for("spamd to answer", PATIENCE, || {
            assert!(spamd.child.try_wait().unwrap().is_none(), "spamd has ended: {}", spamd.log());
            let mut stream = TcpStream::connect(port).ok()?;
            stream.write_all(b"PING SPAMC/1.2\r\n\r\n").ok()?;
            stream.shutdown(Shutdown::Write).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.contains("PONG").then_some(())
        });
        spamd
    }

    /// Its port.
    pub fn port(&self) -> SocketAddr {
        self.port
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Spamd {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}
