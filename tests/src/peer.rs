//! A scripted SMTP server, for what `smtp-sink` cannot do: other answers on other connections, exact records, hanging.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::wait::wait_for;

/// One mail transaction that a [`Peer`] took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// Number of the connection, from 1.
    pub connection: usize,
    /// The argument of HELO or EHLO.
    pub helo: String,
    /// The whole MAIL command.
    pub mail: String,
    /// Accepted forward-paths, as given between `<` and `>`.
    pub to: Vec<String>,
    /// Mail data with LF line ends, dots removed.
    pub data: Vec<u8>,
}

/// What happens at some point of the dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What an obliging server says.
    Usual,
    /// These lines.
    Say(String),
    /// The connection is closed without a word.
    Close,
    /// No answer until the peer is dropped or the client goes away.
    Hang,
}

/// An [`Answer`] of these lines.
pub fn say(reply: &str) -> Answer {
    Answer::Say(reply.to_owned())
}

/// Decides: number of the connection from 1, and `CONNECT`, the command line, or `.` at the end of data.
pub type Script = dyn Fn(usize, &str) -> Answer + Send + Sync;

/// The server.
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    script: Box<Script>,
    received: Mutex<Vec<Received>>,
    commands: Mutex<Vec<String>>,
    connections: AtomicUsize,
    stop: AtomicBool,
}

impl Peer {
    /// Takes everything.
    pub fn obliging() -> Self {
        Self::start("127.0.0.1:0", |_, _| Answer::Usual)
    }

    /// Listens at `address` and answers by `script`.
    pub fn start(address: &str, script: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|cause| panic!("{address}: {cause}"));
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            received: Mutex::default(),
            commands: Mutex::default(),
            connections: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming() {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // A connection that breaks is the client's affair; the test looks at what was received.
                    std::thread::spawn(move || stream.and_then(|stream| serve(&shared, stream)).ok());
                }
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A line of `control/smtproutes` that sends `domain` here.
    pub fn route(&self, domain: &str) -> String {
        format!("{domain}:[{}]:{}\n", self.address.ip(), self.address.port())
    }

    /// Transactions taken so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits until there are `count` transactions, and fails if there are more.
    pub fn wait(&self, count: usize, limit: Duration) -> Vec<Received> {
        let enough = || Some(self.received()).filter(|received| received.len() >= count);
        let received = wait_for(&format!("{count} transactions at the peer"), limit, enough);
        assert_eq!(received.len(), count, "{received:#?}");
        received
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Every command line so far, over all connections.
    pub fn commands(&self) -> Vec<String> {
        self.shared.commands.lock().unwrap().clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the acceptor, which then sees that it is over.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    let connection = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut stream = BufReader::new(stream);
    let mut underway = Received { connection, ..Received::default() };
    let mut point = "CONNECT".to_owned();
    loop {
        let usual = match point.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "CONNECT" => "220 peer.test ESMTP",
            "EHLO" => "250-peer.test\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME",
            "DATA" if underway.to.is_empty() => "503 no valid recipients",
            "DATA" => "354 go on",
            "QUIT" => "221 bye",
            "." => "250 taken",
            _ => "250 fine",
        };
        let reply = match (shared.script)(connection, &point) {
            Answer::Usual => usual.to_owned(),
            Answer::Say(reply) => reply,
            Answer::Close => return Ok(()),
            Answer::Hang => return hang(&mut stream),
        };
        let done = reply.starts_with('2');
        match point.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "HELO" | "EHLO" => underway.helo = point[4..].trim().to_owned(),
            "MAIL" if done => underway.mail.clone_from(&point),
            "RCPT" if done => {
                let path = point.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>'));
                underway.to.push(path.map_or("", |(path, _)| path).to_owned());
            }
            "." => {
                let fresh = Received { connection, helo: underway.helo.clone(), ..Received::default() };
                let finished = std::mem::replace(&mut underway, fresh);
                if done {
                    // Before the reply: who has seen the 250 finds the record.
                    shared.received.lock().unwrap().push(finished);
                }
            }
            _ => {}
        }
        stream.get_mut().write_all(format!("{reply}\r\n").as_bytes())?;
        if point == "QUIT" || reply.starts_with("421") {
            return Ok(());
        }
        if reply.starts_with("354") {
            underway.data = data(&mut stream)?;
            ".".clone_into(&mut point);
            continue;
        }
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        String::from_utf8_lossy(&line).trim_end().clone_into(&mut point);
        shared.commands.lock().unwrap().push(point.clone());
    }
}

fn data(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(data);
        }
        let line = line.strip_prefix(b".").unwrap_or(&line);
        match line.strip_suffix(b"\r\n") {
            Some(line) => {
                data.extend_from_slice(line);
                data.push(b'\n');
            }
            // What is not a line of SMTP stays as it came, so that the comparison fails.
            None => data.extend_from_slice(line),
        }
    }
}

fn hang(stream: &mut impl BufRead) -> io::Result<()> {
    loop {
        let read = stream.fill_buf()?.len();
        if read == 0 {
            return Ok(());
        }
        stream.consume(read);
    }
}
