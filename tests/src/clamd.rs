//! clamd with a database of one signature, and a stand-in that speaks its protocol and answers as it is told.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host::{PATIENCE, free_port};
use crate::smtp::dial;
use crate::wait::{tick, wait_for, wait_until};

/// The name clamd gives to [`eicar`] here.
pub const VIRUS: &str = "Eicar-Test.UNOFFICIAL";

/// Length and MD5 of [`eicar`].
const SIGNATURE: &str = "44d88612fea8a8f36de82e1278abb02f:68:Eicar-Test\n";

/// The file that every scanner takes for a virus (eicar.org). Its halves stand apart: this file is none.
pub fn eicar() -> String {
    ["X5O!P%@AP[4\\PZX54(P^)7CC)7}$EIC", "AR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat()
}

/// A running clamd, on a socket in its directory and on a port. It knows one virus.
pub struct Clamd {
    dir: TempDir,
    port: SocketAddr,
    child: Child,
}

impl Clamd {
    /// Starts it and waits until it answers.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-clamd-").tempdir().unwrap();
        let port = free_port("127.0.0.1");
        let place = dir.path().display();
        fs::create_dir(dir.path().join("database")).unwrap();
        fs::write(dir.path().join("database/test.hdb"), SIGNATURE).unwrap();
        let settings = format!(
            "DatabaseDirectory {place}/database\nTemporaryDirectory {place}\nLocalSocket {place}/socket\n\
             TCPAddr {}\nTCPSocket {}\nStreamMaxLength 30M\nMaxScanSize 30M\nMaxFileSize 30M\nConcurrentDatabaseReload no\n",
            port.ip(),
            port.port()
        );
        fs::write(dir.path().join("conf"), settings).unwrap();
        let child = Self::run(&dir);
        let mut clamd = Self { dir, port, child };
        clamd.wait();
        clamd
    }

    fn run(dir: &TempDir) -> Child {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("clamd");
        command.arg("--foreground").arg("-c").arg(dir.path().join("conf")).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"))
    }

    fn wait(&mut self) {
        wait_for("clamd to answer", PATIENCE, || {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "clamd has ended: {}", log());
            let mut stream = TcpStream::connect(self.port).ok()?;
            stream.write_all(b"zPING\0").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            (answer == "PONG\0").then_some(())
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

    /// Ends it; [`Clamd::again`] starts it where it was.
    pub fn stop(&mut self) {
        stop(&mut self.child);
    }

    /// Starts it again.
    pub fn again(&mut self) {
        self.child = Self::run(&self.dir);
        self.wait();
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// TERM, so that a server ends its children too; KILL if that does not help.
pub fn stop(child: &mut Child) {
    let end = std::time::Instant::now() + Duration::from_secs(5);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    while matches!(child.try_wait(), Ok(None)) {
        // The number is the child's as long as it was not waited for.
        if std::time::Instant::now() > end {
            drop(child.kill());
            drop(child.wait());
            return;
        }
        kill_process(pid, Signal::TERM).ok();
        tick(Duration::from_millis(10));
    }
}

/// Speaks clamd's protocol and keeps its answers back until it is told to give them.
pub struct Standin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    answer: String,
    open: AtomicBool,
    stop: AtomicBool,
    underway: AtomicUsize,
    most: AtomicUsize,
    scanned: Mutex<Vec<Vec<u8>>>,
}

impl Standin {
    /// Answers every message with `answer`, such as `stream: OK`, once [`Standin::open`] was called.
    pub fn closed(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answer: format!("{answer}\0"),
            open: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            underway: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            scanned: Mutex::default(),
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut sessions = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    if shared.stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let shared = Arc::clone(&shared);
                    sessions.push(std::thread::spawn(move || shared.serve(stream)));
                }
                for session in sessions {
                    // A client that went away is its own business.
                    drop(session.join().unwrap());
                }
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// [`Standin::closed`], and answers at once.
    pub fn start(answer: &str) -> Self {
        let standin = Self::closed(answer);
        standin.open();
        standin
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on messages are answered.
    pub fn open(&self) {
        self.shared.open.store(true, Ordering::SeqCst);
    }

    /// Connections that were not answered yet.
    pub fn underway(&self) -> usize {
        self.shared.underway.load(Ordering::SeqCst)
    }

    /// The most there ever were at once.
    pub fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// Every message that came whole.
    pub fn scanned(&self) -> Vec<Vec<u8>> {
        self.shared.scanned.lock().unwrap().clone()
    }

    /// Waits until so many are kept waiting.
    pub fn wait_underway(&self, count: usize) {
        wait_until(&format!("{count} messages at the scanner"), PATIENCE, || self.underway() == count);
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        self.most.fetch_max(self.underway.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let message = instream(&mut stream);
        while message.is_ok() && !self.open.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            tick(Duration::from_millis(5));
        }
        self.underway.fetch_sub(1, Ordering::SeqCst);
        self.scanned.lock().unwrap().push(message?);
        stream.write_all(self.answer.as_bytes())
    }
}

/// Reads `zINSTREAM` and its chunks, each behind its length; an empty one ends them.
fn instream(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut command = [0; 10];
    stream.read_exact(&mut command)?;
    assert_eq!(&command, b"zINSTREAM\0");
    let mut message = Vec::new();
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let (start, length) = (message.len(), u32::from_be_bytes(length) as usize);
        if length == 0 {
            return Ok(message);
        }
        message.resize(start + length, 0);
        stream.read_exact(&mut message[start..])?;
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(dial(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}
