//! `sendmail -bs`: SMTP on standard input and output, for a program that hands mail in as its user.
//!
//! The dialogue is the host's own ([`server`]). Each message goes through a qmail-queue process like any other of this
//! user, who may send to anybody, as he may with every other program here. So a client of the network is not served: he
//! would have that right.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use mailtree_protocols::received;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::{Accepted, Next, Policy, Sender, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::AddressFamily;

use super::super::qmail_inject::read_controls;
use crate::failure::Failure;
use crate::qmail_open::{self, Message};

/// How long a client may be silent (`control/timeoutsmtpd`).
const SILENCE: Duration = Duration::from_secs(1200);

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// As many as the recipients of one message may be, 16 MiB of addresses.
const RECIPIENTS: usize = 100_000;

/// Where a program of this machine is.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) fn run(home: &Path) -> ExitCode {
    match talk(home) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("sendmail"),
    }
}

/// tcpserver says so, or there is a socket with an address of the internet.
fn is_of_the_network() -> bool {
    let relays = std::env::var_os("RELAYCLIENT").is_some();
    let socket = rustix::net::getsockname(io::stdin());
    let internet = |family| matches!(family, AddressFamily::INET | AddressFamily::INET6);
    (std::env::var_os("PROTO").is_some() && !relays)
        || socket.is_ok_and(|address| internet(address.address_family()))
}

fn talk(home: &Path) -> Result<(), Failure> {
    if is_of_the_network() {
        return Err(Failure::permanent(
            "-bs is for programs of this machine; clients of the network are served by a service of host.ron",
        ));
    }
    let controls = read_controls(home)?;
    let policy = Policy {
        greeting: controls.greeting,
        databytes: 0,
        recipients: RECIPIENTS,
        brtlimit: 0,
        localiphost: None,
        starttls: false,
        secured: false,
        tls_required: false,
        auth: None,
        auth_in_clear: false,
        unique: String::new(),
    };
    let mut client =
        Client { home, session: Session::new(policy), out: Vec::new(), body: Vec::new(), message: None };
    client.session.greeting(&mut client.out);
    client.serve()
}

struct Client<'a> {
    home: &'a Path,
    session: Session,
    out: Vec<u8>,
    body: Vec<u8>,
    message: Option<Message>,
}

impl Client<'_> {
    fn serve(&mut self) -> Result<(), Failure> {
        let (mut input, mut buffer) = (Vec::new(), vec![0; CHUNK]);
        loop {
            let (read, next) = self.session.receive(&input, &mut self.out, &mut self.body);
            input.drain(..read);
            if let Some(message) = &mut self.message {
                message.put(&self.body);
            }
            self.body.clear();
            match next {
                Next::Read if read > 0 && !input.is_empty() => continue,
                Next::Read => {
                    self.send()?;
                    match self.silence()? {
                        false => {
                            self.session.timeout(&mut self.out);
                            return self.send();
                        }
                        true => match rustix::io::read(io::stdin(), &mut buffer) {
                            // A client that has gone left nothing behind that counts.
                            Ok(0) => return Ok(()),
                            Ok(read) => input.extend_from_slice(&buffer[..read]),
                            Err(rustix::io::Errno::INTR) => (),
                            Err(error) => return Err(Failure::temporary(format!("read error: {error}"))),
                        },
                    }
                }
                Next::Helo => self.session.greeted(Ok(()), &mut self.out),
                Next::Sender => self.session.sender(Sender::Accepted, &mut self.out),
                Next::Recipient => {
                    let path = self.session.forward_path().map(<[u8]>::to_vec).unwrap_or_default();
                    self.session.recipient(Ok(path), &mut self.out);
                }
                Next::Open => {
                    let opened = self.open();
                    self.session.opened(opened, &mut self.out);
                }
                Next::Commit => {
                    let queued = self.commit();
                    self.session.queued(queued, &mut self.out);
                }
                Next::Discard => self.message = None,
                Next::Quit => self.session.left(&mut self.out),
                Next::Close => return self.send(),
                // Neither is offered.
                Next::Starttls => self.session.secured(),
                Next::Authenticate => {
                    self.session.authenticated(Err(Refusal::unimplemented()), &mut self.out);
                }
            }
        }
    }

    /// Whether the client says something in time.
    fn silence(&self) -> Result<bool, Failure> {
        let time = Timespec::try_from(SILENCE).unwrap_or(Timespec { tv_sec: 1200, tv_nsec: 0 });
        let stdin = io::stdin();
        match poll(&mut [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)], Some(&time)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(Failure::temporary(format!("read error: {error}"))),
        }
    }

    fn send(&mut self) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&self.out).and_then(|()| stdout.flush());
        self.out.clear();
        written.map_err(|error| Failure::temporary(format!("write error: {error}")))
    }

    fn open(&mut self) -> Result<(), Refusal> {
        let mut message = qmail_open::open(self.home).map_err(|_| Refusal::qqt_failure())?;
        let client = received::Client {
            host: Some("localhost"),
            helo: self.session.helo().unwrap_or_default(),
            info: Some("sendmail-bs"),
            ip: LOOPBACK,
            local: "localhost",
            protocol: self.session.protocol(),
            cipher: None,
        };
        message.put(received::smtp(client, Timestamp::now()).as_bytes());
        self.message = Some(message);
        Ok(())
    }

    fn commit(&mut self) -> Result<Accepted, Refusal> {
        let (Some(message), Some(transaction)) = (self.message.take(), self.session.transaction()) else {
            return Err(Refusal::qq_crashed());
        };
        let qp = message.qp().into();
        let mut envelope = message.from(&transaction.reverse_path);
        transaction.forward_paths.iter().for_each(|path| envelope.to(path));
        envelope.close()?;
        Ok(Accepted { time: u64::try_from(Timestamp::now().as_second()).unwrap_or_default(), qp })
    }
}
