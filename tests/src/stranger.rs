//! Clients from any address: they come through the PROXY protocol (version 1), which a host takes from 127.0.0.1 with
//! [`PROXIES`].

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::host::Host;
use crate::smtp::{Client, Reply, dial, like};

/// Fields of the service `smtpd` that let 127.0.0.1 speak for others, as many as they are.
pub const PROXIES: &str = "proxies: [\"127.0.0.1\"], per_ip: 1000";

/// A client at `ip` that has read the greeting.
pub fn connect(address: SocketAddr, ip: IpAddr) -> Client {
    let mut stream = dial(address).unwrap();
    let (family, here) = if ip.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
    stream.write_all(format!("PROXY {family} {ip} {here} 4000 25\r\n").as_bytes()).unwrap();
    Client::greeted(stream).unwrap_or_else(|cause| panic!("a client from {ip}: {cause}"))
}

impl Host {
    /// A client at `ip` that has read the greeting; the host needs [`PROXIES`].
    pub fn from(&self, ip: &str) -> Client {
        connect(self.address().get(), ip.parse().unwrap())
    }

    /// Compiles these lines of `tcp.smtp`; the next connection obeys them.
    pub fn rules(&self, text: &str) {
        fs::write(self.home().join("tcp.smtp"), text).unwrap();
        self.ask(&["qmailctl", "cdb"]);
    }
}

/// Says each line and checks the reply to it (see [`like`]); gives the replies.
#[track_caller]
pub fn talk(client: &mut Client, lines: &[(&str, &str)]) -> Vec<Reply> {
    let mut replies = Vec::new();
    for (said, expected) in lines {
        let reply = client.command(said).unwrap_or_else(|cause| panic!("{said}: {cause}"));
        assert!(like(expected, &reply.text()), "{said}: {expected:?} expected, heard {:?}", reply.text());
        replies.push(reply);
    }
    replies
}

/// The reply to RCPT in a session of HELO, MAIL and RCPT; an earlier refusal ends it.
pub fn rcpt(mut client: Client, from: &str, to: &str) -> String {
    for line in ["HELO client.test".to_owned(), format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>")] {
        let reply = client.command(&line).unwrap_or_else(|cause| panic!("{line}: {cause}"));
        if reply.code != 250 || line.starts_with("RCPT") {
            return reply.text();
        }
    }
    unreachable!("RCPT is the last line");
}
