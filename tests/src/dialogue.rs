//! SMTP dialogues that do not begin with a plain greeting: over TLS, by the openssl program, and behind a load balancer
//! that says with the PROXY protocol for whom it connects.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::NamedTempFile;

use crate::smtp::{Reply, dial, read_reply, wire};

/// A dialogue.
pub struct Dialogue {
    input: Box<dyn BufRead + Send>,
    output: Option<Box<dyn Write + Send>>,
    /// The greeting; an empty reply where STARTTLS took its place.
    pub greeting: Reply,
    openssl: Option<Openssl>,
}

struct Openssl {
    child: Child,
    told: NamedTempFile,
}

impl Drop for Openssl {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Dialogue {
    /// The client `ip`, which came to our port `port`, in the words of a load balancer; the host must have it in `proxies`.
    pub fn proxied(address: SocketAddr, ip: &str, port: u16) -> io::Result<Self> {
        let mut output = dial(address)?;
        let mut input = BufReader::new(output.try_clone()?);
        write!(output, "PROXY TCP4 {ip} 127.0.0.1 40000 {port}\r\n")?;
        let greeting = read_reply(&mut input)?;
        Ok(Self { input: Box::new(input), output: Some(Box::new(output)), greeting, openssl: None })
    }

    /// STARTTLS, then the handshake as `openssl s_client` does it with these arguments. The error is what it said.
    pub fn starttls(address: SocketAddr, args: &[&str]) -> Result<Self, String> {
        Self::openssl(address, &[args, &["-starttls", "smtp"]].concat()).and_then(|mut dialogue| {
            dialogue.command("NOOP").map_err(|_| dialogue.end())?;
            Ok(dialogue)
        })
    }

    /// The same with TLS from the first byte.
    pub fn smtps(address: SocketAddr, args: &[&str]) -> Result<Self, String> {
        let mut dialogue = Self::openssl(address, args)?;
        dialogue.greeting = dialogue.reply().map_err(|_| dialogue.end())?;
        Ok(dialogue)
    }

    fn openssl(address: SocketAddr, args: &[&str]) -> Result<Self, String> {
        let told = NamedTempFile::new().unwrap();
        let mut child = Command::new("openssl")
            .args(["s_client", "-brief", "-nocommands", "-connect", &address.to_string()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(told.reopen().unwrap())
            .spawn()
            .map_err(|cause| cause.to_string())?;
        let (input, output) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        Ok(Self {
            input: Box::new(BufReader::new(input)),
            output: Some(Box::new(output)),
            greeting: Reply { code: 0, lines: Vec::new() },
            openssl: Some(Openssl { child, told }),
        })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let output = self.output.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        output.write_all(bytes)?;
        output.flush()
    }

    /// Reads the next reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        read_reply(&mut self.input)
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

    /// `AUTH PLAIN` with an initial response.
    pub fn auth_plain(&mut self, user: &str, password: &str) -> io::Result<Reply> {
        let response = base64(format!("\0{user}\0{password}").as_bytes());
        self.command(&format!("AUTH PLAIN {response}"))
    }

    /// What a stranger's address is answered, after a sender of ours: 250 only for a client that may relay.
    #[track_caller]
    pub fn relay_code(&mut self) -> u16 {
        self.say("MAIL FROM:<bob@mx.test>", 250);
        let code = self.command("RCPT TO:<x@far.test>").unwrap().code;
        self.say("RSET", 250);
        code
    }

    /// One message that must be taken.
    #[track_caller]
    pub fn deliver(&mut self, from: &str, to: &str, text: &str) {
        self.say(&format!("MAIL FROM:<{from}>"), 250);
        self.say(&format!("RCPT TO:<{to}>"), 250);
        self.say("DATA", 354);
        self.send(&wire(text)).unwrap();
        self.reply().unwrap().expect(250);
    }

    /// Leaves; what openssl said of the connection.
    pub fn end(&mut self) -> String {
        drop(self.output.take());
        let Some(openssl) = &mut self.openssl else { return String::new() };
        openssl.child.wait().unwrap();
        fs::read_to_string(openssl.told.path()).unwrap()
    }
}

/// RFC 4648, section 4.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |chunk: &[u8], n: usize| {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        let shown = n <= chunk.len();
        if shown { char::from(DIGITS[(bits >> (18 - 6 * n)) as usize & 63]) } else { '=' }
    };
    bytes.chunks(3).flat_map(|chunk| (0..4).map(move |n| digit(chunk, n))).collect()
}
