//! rbldnsd: the DNS server that real block lists run on.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::wait::wait_until;

/// A zone: its name, the kind of its data set (`ip4set`, `ip6trie` …), its data.
pub type Zone<'a> = (&'a str, &'a str, &'a str);

/// The server; ends when dropped.
pub struct Rbldnsd {
    address: SocketAddr,
    child: Child,
    _data: TempDir,
}

impl Rbldnsd {
    /// Starts it with these zones on a free port of 127.0.0.1.
    pub fn start(zones: &[Zone<'_>]) -> Self {
        let data = tempfile::Builder::new().prefix("mailtree-rbldnsd-").tempdir().unwrap();
        // Started by root it reads as a user of its own.
        fs::set_permissions(data.path(), Permissions::from_mode(0o755)).unwrap();
        let mut arguments = Vec::new();
        for (n, (name, kind, text)) in zones.iter().enumerate() {
            fs::write(data.path().join(format!("zone{n}")), text).unwrap();
            arguments.push(format!("{name}:{kind}:zone{n}"));
        }
        // It cannot be told to choose a port and say which.
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(program());
        command.args(["-n", "-b", &format!("127.0.0.1/{}", address.port()), "-w"]).arg(data.path());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
        wait_until("rbldnsd to answer", Duration::from_secs(10), || {
            assert_eq!(child.try_wait().unwrap(), None, "rbldnsd ended: {zones:?}");
            answers(address)
        });
        Self { address, child, _data: data }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Rbldnsd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Debian puts it where only root looks.
fn program() -> PathBuf {
    let there = PathBuf::from("/usr/sbin/rbldnsd");
    if there.exists() { there } else { "rbldnsd".into() }
}

/// Whether a question about the root gets any answer.
fn answers(address: SocketAddr) -> bool {
    // RFC 1035 4.1: an identifier, no flags, one question: name, type A, class IN.
    const QUESTION: &[u8] = b"\x4d\x54\0\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01";
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let asked = socket.connect(address).and_then(|()| socket.send(QUESTION));
    asked.and_then(|_| socket.recv(&mut [0; 512])).is_ok()
}
