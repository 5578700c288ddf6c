//! rspamd with a few rules, so that a test knows what it says of every message.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::clamd::stop;
use crate::host::{PATIENCE, free_port};
use crate::wait::wait_for;

/// The text that rspamd refuses.
pub use crate::spamd::GTUBE;

/// Words in a subject: `five`, `seven`, `twelve`, `twenty` are points; `later` is to come again, `forced` to be refused
/// with no points at all, `tell` to come again, with what rspamd knows of the message.
const RULES: &str = r#"
local function points(name, word, score)
  rspamd_config:register_symbol({
    name = name, score = score, group = 'test', type = 'normal',
    callback = function(task) return (task:get_header('Subject') or ''):find(word, 1, true) ~= nil end,
  })
  rspamd_config:set_metric_symbol({ name = name, score = score, group = 'test' })
end
points('FIVE', 'five', 5)
points('SEVEN', 'seven', 7)
points('TWELVE', 'twelve', 12.5)
points('TWENTY', 'twenty', 20)
rspamd_config:register_symbol({
  name = 'SAYS', type = 'prefilter',
  callback = function(task)
    local subject = task:get_header('Subject') or ''
    if subject:find('later', 1, true) then task:set_pre_result('soft reject', 'come again') end
    if subject:find('forced', 1, true) then task:set_pre_result('reject', 'a virus\r\n250 ok') end
    if subject:find('tell', 1, true) then
      local to = {}
      for _, rcpt in ipairs(task:get_recipients('smtp') or {}) do to[#to + 1] = rcpt.addr end
      local known = { tostring(task:get_from_ip()), task:get_helo() or '-', task:get_hostname() or '-',
        task:get_user() or '-', task:get_from('smtp')[1].addr, table.concat(to, ','), task:get_queue_id(),
        task:get_principal_recipient() or '-' }
      task:set_pre_result('soft reject', table.concat(known, ' '))
    end
  end,
})
"#;

/// A running rspamd, on a socket in its directory and on a port. It asks nobody else, and takes messages up to 1 MiB.
pub struct Rspamd {
    dir: TempDir,
    port: SocketAddr,
    controller: SocketAddr,
    child: Child,
}

impl Rspamd {
    /// Starts it and waits until it answers.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-rspamd-").tempdir().unwrap();
        let (port, controller, place) =
            (free_port("127.0.0.1"), free_port("127.0.0.1"), dir.path().display());
        // The real list of top level domains takes it ten seconds.
        let settings = format!(
            "options {{ tempdir = \"{place}\"; hs_cache_dir = \"{place}\"; control_socket = \"{place}/control\";
               url_tld = \"{place}/tld\"; filters = \"\"; gtube_patterns = \"reject\"; max_message = 1M;
               dns {{ nameserver = [\"127.0.0.1:1:1\"]; }} }}
             logging {{ type = \"console\"; level = \"info\"; }}
             worker \"normal\" {{ bind_socket = \"{port}\"; bind_socket = \"{place}/socket mode=0666\"; count = 1; }}
             worker \"controller\" {{ bind_socket = \"{controller}\"; count = 1; secure_ip = \"192.0.2.1\";
               password = \"secret word\"; }}
             actions {{ reject = 15; \"rewrite subject\" = 12; \"add header\" = 6; greylist = 4; }}
             lua = \"{place}/rules.lua\";"
        );
        for (file, text) in [("conf", settings.as_str()), ("tld", "test\n"), ("rules.lua", RULES)] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let child = Self::run(&dir);
        let mut rspamd = Self { dir, port, controller, child };
        rspamd.wait();
        rspamd
    }

    fn run(dir: &TempDir) -> Child {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("rspamd");
        command.args(["--no-fork", "--insecure", "--config"]).arg(dir.path().join("conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"))
    }

    fn wait(&mut self) {
        wait_for("rspamd to answer", PATIENCE, || {
            assert!(self.child.try_wait().unwrap().is_none(), "rspamd has ended: {}", self.log());
            let mut stream = TcpStream::connect(self.port).ok()?;
            stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.contains("pong").then_some(())
        });
    }

    /// Its socket in the file system.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Its port.
    pub fn port(&self) -> SocketAddr {
        self.port
    }

    /// The port of its controller, whose password is `secret word`.
    pub fn controller(&self) -> SocketAddr {
        self.controller
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Ends it; [`Rspamd::again`] starts it where it was.
    pub fn stop(&mut self) {
        stop(&mut self.child);
    }

    /// Starts it again.
    pub fn again(&mut self) {
        self.child = Self::run(&self.dir);
        self.wait();
    }
}

impl Drop for Rspamd {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}
