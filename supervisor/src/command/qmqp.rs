//! `qmail-qmqpc` and `qmail-qmqpd`: mail from a host without a queue to one that has it (QMQP, qmqp.txt; qmail-qmqpc.8,
//! qmail-qmqpd.8).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mailtree_config::{Control, Host};
use mailtree_protocols::netstring::{self, Length};
use mailtree_protocols::qmail_queue::{MAX_ENVELOPE, Reader, exit};
use mailtree_protocols::received;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::qmail_inject::stdin;
use crate::qmail_open;

/// Port of QMQP.
const PORT: u16 = 628;

/// Time for a server to take the connection (qmail-qmqpc.c).
const CONNECT: Duration = Duration::from_secs(10);

/// Time for a server to go on (qmail-qmqpc.c).
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of an answer that are looked at.
const MAX_ANSWER: u64 = 4096;

/// Time for a client to hand in its message (qmail-qmqpd.c).
const WHOLE: Duration = Duration::from_secs(3600);

/// Longest address, in bytes, that a client may name (qmail-qmqpd.c).
const MAX_ADDRESS: u64 = 999;

/// `qmail-qmqpc`, in place of qmail-queue: its exit code is all it says.
pub(super) fn client(home: &Path) -> ExitCode {
    ExitCode::from(pass_on(home).err().unwrap_or(0))
}

fn pass_on(home: &Path) -> Result<(), u8> {
    if !home.is_dir() {
        return Err(exit::HOME);
    }
    let host = Host::load(home).map_err(|_| 55)?;
    let servers = Control::new(host.paths().control).qmqpservers().map_err(|_| 55)?;
    // It is said first how long the message is: one that cannot be measured waits in a file that nobody else sees.
    let mut message = tempfile::tempfile().map_err(|_| exit::WRITE)?;
    copy(&mut stdin(), &mut message)?;
    let mut reader = Reader::default();
    let mut bytes = [0; 4096];
    while !reader.is_done() {
        match rustix::io::read(io::stdout(), &mut bytes) {
            Ok(0) => return Err(exit::FORMAT),
            Ok(read) => reader.push(&bytes[..read]).map_err(|fault| fault.exit())?,
            Err(rustix::io::Errno::INTR) => (),
            Err(_) => return Err(exit::READ),
        }
        if reader.bytes().len() > MAX_ENVELOPE {
            return Err(exit::MEMORY);
        }
    }
    let (sender, recipients) = reader.finish().ok_or(exit::FORMAT)?;
    let mut envelope = Vec::new();
    netstring::write(&sender, &mut envelope);
    recipients.iter().for_each(|recipient| netstring::write(recipient, &mut envelope));
    let mut failed = 55;
    for server in servers.iter().filter_map(|line| address(line)) {
        match TcpStream::connect_timeout(&server, CONNECT) {
            // A server that has begun to listen may have the message: no other gets it.
            Ok(stream) => return send(stream, &mut message, &envelope),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => failed = exit::CONNECT,
            Err(_) => failed = 73,
        }
    }
    Err(failed)
}

fn copy(from: &mut impl Read, to: &mut File) -> Result<(), u8> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read]).map_err(|_| exit::WRITE)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(_) => return Err(exit::READ),
        }
    }
}

/// An address, and a port if it is not QMQP's own. As in qmail, another line is no server.
fn address(line: &[u8]) -> Option<SocketAddr> {
    let line = std::str::from_utf8(line).ok()?;
    let address = line.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    address.or_else(|_| line.parse()).ok()
}

fn send(stream: TcpStream, message: &mut File, envelope: &[u8]) -> Result<(), u8> {
    let mut exchange = || -> io::Result<u8> {
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let size = message.stream_position()?;
        message.rewind()?;
        let head = format!("{size}:");
        let whole = head.len() as u64 + size + 1 + envelope.len() as u64;
        let mut to = BufWriter::with_capacity(64 * 1024, &stream);
        write!(to, "{whole}:{head}")?;
        if io::copy(&mut message.take(size), &mut to)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(b",")?;
        to.write_all(envelope)?;
        to.write_all(b",")?;
        to.flush()?;
        for byte in BufReader::new(&stream).take(MAX_ANSWER).bytes() {
            let byte = byte?;
            if matches!(byte, b'K' | b'Z' | b'D') {
                return Ok(byte);
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    match exchange() {
        Ok(b'K') => Ok(()),
        Ok(b'D') => Err(31),
        Ok(_) => Err(exit::REFUSED),
        Err(_) => Err(exit::COMMUNICATION),
    }
}

/// `qmail-qmqpd`: whoever reaches it may send to anybody, so tcprules say who that is.
pub(super) fn server(home: &Path) -> ExitCode {
    match take_in(home, &mut Bounded::new(stdin())) {
        Ok(answer) => {
            let mut out = Vec::new();
            netstring::write(answer.as_bytes(), &mut out);
            // A client that has gone has no use for it.
            io::stdout().write_all(&out).and_then(|()| io::stdout().flush()).unwrap_or(());
            ExitCode::SUCCESS
        }
        Err(code) => ExitCode::from(code),
    }
}

/// What a client says: no more than it has announced, and not for ever.
struct Bounded<R> {
    from: R,
    buffer: Vec<u8>,
    at: usize,
    left: u64,
    until: Instant,
}

/// The client has gone: nobody is answered.
const GONE: u8 = 0;

/// It spoke no QMQP.
const PROTOCOL: u8 = 100;

/// Too long, too large, or no queue.
const RESOURCES: u8 = 111;

impl<R: Read> Bounded<R> {
    fn new(from: R) -> Self {
        // The first length, of which no more than so many bytes are read.
        let (buffer, left, until) = (Vec::new(), 100, Instant::now() + WHOLE);
        Self { from, buffer, at: 0, left, until }
    }

    /// Some bytes that are there, at least one and at most `max`.
    fn some(&mut self, max: u64) -> Result<&[u8], u8> {
        if self.left == 0 {
            return Err(PROTOCOL);
        }
        if self.at == self.buffer.len() {
            self.wait()?;
            self.buffer.resize(64 * 1024, 0);
            let read = self.from.read(&mut self.buffer).map_err(|_| GONE)?;
            self.buffer.truncate(read);
            self.at = 0;
            if read == 0 {
                return Err(GONE);
            }
        }
        let there = (self.buffer.len() - self.at) as u64;
        let take = there.min(max).min(self.left);
        self.left -= take;
        let from = self.at;
        self.at += usize::try_from(take).map_err(|_| RESOURCES)?;
        Ok(&self.buffer[from..self.at])
    }

    fn wait(&self) -> Result<(), u8> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let time = Timespec::try_from(left).map_err(|_| RESOURCES)?;
            match poll(&mut [PollFd::new(&io::stdin(), PollFlags::IN)], Some(&time)) {
                Ok(0) => return Err(RESOURCES),
                Err(rustix::io::Errno::INTR) => (),
                Ok(_) | Err(_) => return Ok(()),
            }
        }
    }

    fn length(&mut self) -> Result<u64, u8> {
        let mut length = Length::default();
        loop {
            let byte = self.some(1)?[0];
            match length.push(byte) {
                Ok(Some(length)) => return Ok(length),
                Ok(None) => (),
                Err(netstring::Error::Syntax) => return Err(PROTOCOL),
                Err(netstring::Error::TooLong) => return Err(RESOURCES),
            }
        }
    }

    fn comma(&mut self) -> Result<(), u8> {
        if self.some(1)? == b"," { Ok(()) } else { Err(PROTOCOL) }
    }

    /// An address; none if it is none.
    fn address(&mut self) -> Result<Option<Vec<u8>>, u8> {
        let mut left = self.length()?;
        let fits = left <= MAX_ADDRESS;
        let mut address = Vec::new();
        while left > 0 {
            let bytes = self.some(left)?;
            left -= bytes.len() as u64;
            if fits {
                address.extend_from_slice(bytes);
            }
        }
        self.comma()?;
        Ok((fits && !address.contains(&0)).then_some(address))
    }
}

fn take_in<R: Read>(home: &Path, client: &mut Bounded<R>) -> Result<String, u8> {
    client.left = client.length()?;
    let mut left = client.length()?;
    let mut message = qmail_open::open(home).map_err(|_| RESOURCES)?;
    message.put(trace().as_bytes());
    while left > 0 {
        let bytes = client.some(left)?;
        left -= bytes.len() as u64;
        message.put(bytes);
    }
    client.comma()?;
    let qp = message.qp();
    let sender = client.address()?;
    let mut good = sender.is_some();
    let mut envelope = message.from(&sender.unwrap_or_default());
    while client.left > 0 {
        match client.address()? {
            Some(recipient) => envelope.to(&recipient),
            None => good = false,
        }
    }
    client.left = 1;
    client.comma()?;
    if !good {
        envelope.fail();
    }
    let closed = envelope.close();
    if !good {
        return Ok("Dsorry, I can't accept addresses like that (#5.1.3)".to_owned());
    }
    Ok(match closed {
        Ok(()) => format!("Kok {} qp {qp}", Timestamp::now().as_second()),
        Err(refusal) => {
            format!("{}{}", if refusal.is_permanent() { 'D' } else { 'Z' }, refusal.text())
        }
    })
}

fn trace() -> String {
    let variable = |name: &str| std::env::var_os(name).map(OsStringExt::into_vec);
    received::qmqp(
        variable("TCPREMOTEHOST").as_deref(),
        variable("TCPREMOTEINFO").as_deref(),
        variable("TCPREMOTEIP").as_deref(),
        variable("TCPLOCALHOST").or_else(|| variable("TCPLOCALIP")).as_deref(),
        Timestamp::now(),
    )
}
