//! An SMTP client that says exactly what it is told, line by line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// One reply, all its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The lines as sent, without CRLF.
    pub lines: Vec<String>,
}

impl Reply {
    /// The lines with LF between them.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Fails unless the code is `code`.
    #[track_caller]
    pub fn expect(self, code: u16) -> Self {
        assert_eq!(self.code, code, "reply was: {}", self.text());
        self
    }
}

/// A connection whose greeting has been read.
pub struct Client {
    stream: BufReader<TcpStream>,
    /// The greeting.
    pub greeting: Reply,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::greeted(dial(address)?)
    }

    /// Reads the greeting on a connection that is there.
    pub fn greeted(stream: TcpStream) -> io::Result<Self> {
        let mut stream = BufReader::new(stream);
        let greeting = read_reply(&mut stream)?;
        Ok(Self { stream, greeting })
    }

    /// Sends a line and reads the reply.
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Sends a line and fails unless the reply has this code.
    #[track_caller]
    pub fn say(&mut self, line: &str, code: u16) -> Reply {
        self.command(line).unwrap_or_else(|cause| panic!("{line}: {cause}")).expect(code)
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads the next reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        read_reply(&mut self.stream)
    }

    /// Reads until the server closes.
    pub fn rest(&mut self) -> io::Result<String> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }

    /// Whether the server has closed: `true` also for a reset.
    pub fn closed(&mut self) -> bool {
        !matches!(self.stream.fill_buf(), Ok(bytes) if !bytes.is_empty())
    }

    /// Closes our direction only.
    pub fn half_close(&self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// One whole transaction; the reply to the end of data, or the first reply that was not what it should be.
    pub fn transact(&mut self, from: &str, to: &[&str], text: &str) -> io::Result<Reply> {
        let mut reply = self.command(&format!("MAIL FROM:<{from}> BODY=8BITMIME"))?;
        for mailbox in to {
            if reply.code != 250 {
                return Ok(reply);
            }
            reply = self.command(&format!("RCPT TO:<{mailbox}>"))?;
        }
        if reply.code != 250 {
            return Ok(reply);
        }
        reply = self.command("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.send(&wire(text))?;
        self.reply()
    }
}

/// A connection of which nothing has been read.
pub fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection from an own address: any of 127.0.0.0/8, or `::1`.
pub fn dial_from(source: &str, address: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let source = SocketAddr::new(source.parse().unwrap(), 0);
    let family = if source.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    bind(&socket, &source)?;
    connect(&socket, &address)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A text with LF line ends as mail data on the wire: CRLF, dots doubled, the final dot.
pub fn wire(text: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(text.len() + text.len() / 16 + 8);
    for line in text.lines() {
        if line.starts_with('.') {
            data.push(b'.');
        }
        data.extend_from_slice(line.as_bytes());
        data.extend_from_slice(b"\r\n");
    }
    data.extend_from_slice(b".\r\n");
    data
}

/// Reads one reply of any number of lines; fails at what is not a reply, and at the end of the connection.
pub fn read_reply(stream: &mut impl BufRead) -> io::Result<Reply> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        stream.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(text) = line.strip_suffix(b"\r\n") else {
            return Err(io::Error::other(format!(
                "reply line does not end in CRLF: {:?}",
                String::from_utf8_lossy(&line)
            )));
        };
        let text = String::from_utf8_lossy(text).into_owned();
        let code = text.get(..3).and_then(|code| code.parse().ok());
        let Some(code) = code else { return Err(io::Error::other(format!("not a reply line: {text:?}"))) };
        let last = text.as_bytes().get(3) != Some(&b'-');
        lines.push(text);
        if last {
            return Ok(Reply { code, lines });
        }
    }
}

/// Plays a transcript: lines `C: …` are sent, lines `S: …` must come, where `*` stands for any text.
/// At its end `S: (closes)` means that the server closes the connection.
#[track_caller]
pub fn play(address: SocketAddr, transcript: &str) {
    play_on(dial(address).unwrap(), transcript);
}

/// [`play`] on a connection that is there.
#[track_caller]
pub fn play_on(stream: TcpStream, transcript: &str) {
    let mut stream = BufReader::new(stream);
    for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_at_checked(2) {
            Some(("C:", said)) => {
                let said = said.strip_prefix(' ').unwrap_or(said);
                stream.get_mut().write_all(format!("{said}\r\n").as_bytes()).unwrap();
            }
            Some(("S:", " (closes)")) => {
                assert!(stream.fill_buf().is_ok_and(<[u8]>::is_empty), "the server did not close");
            }
            Some(("S:", expected)) => {
                let mut heard = String::new();
                stream
                    .read_line(&mut heard)
                    .unwrap_or_else(|cause| panic!("waiting for {expected:?}: {cause}"));
                let heard = heard.trim_end_matches(['\r', '\n']);
                assert!(
                    like(expected.trim_start(), heard),
                    "expected {:?}, heard {heard:?}\n{transcript}",
                    expected.trim_start()
                );
            }
            _ => panic!("not a line of a transcript: {line:?}"),
        }
    }
}

/// Whether `text` is `pattern`, in which each `*` stands for any text.
pub fn like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| like(rest, &text[at..]))
        }),
    }
}
