//! What is known of a client when the dialogue begins: its addresses and its environment.

use std::net::{IpAddr, SocketAddr};

use mailtree_protocols::tcprules::Variables;

use crate::resolver::Resolver;

/// A client.
#[derive(Clone)]
pub(super) struct Client {
    /// Where it is.
    pub(super) peer: SocketAddr,
    /// Where it came to.
    pub(super) local: SocketAddr,
    /// The environment of its session: the service's, tcpserver's, then the rule's.
    pub(super) variables: Variables,
    /// For questions that it is the reason of; they are counted.
    pub(super) resolver: Resolver,
}

/// Questions to name servers that a session may be the reason of: forty senders with an SPF record as deep as may be.
pub(super) const QUESTIONS: usize = 1000;

impl Client {
    /// TCPREMOTEIP.
    pub(super) fn ip(&self) -> IpAddr {
        let set = self.text("TCPREMOTEIP").and_then(|text| text.parse().ok());
        set.unwrap_or(self.peer.ip()).to_canonical()
    }

    /// TCPREMOTEHOST, if it is known.
    pub(super) fn host(&self) -> Option<&str> {
        self.text("TCPREMOTEHOST").filter(|host| !host.is_empty())
    }

    /// TCPREMOTEINFO, if it is known.
    pub(super) fn info(&self) -> Option<&str> {
        self.text("TCPREMOTEINFO").filter(|info| !info.is_empty())
    }

    /// Whether a variable is set, to whatever.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.variables.get(name).is_some()
    }

    /// A variable that is UTF-8.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.variables.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// A variable that is a whole number. One that is none counts as not set, and is named in the log.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let value = self.variables.get(name)?;
        let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let number = text.and_then(|text| text.parse().ok());
        if number.is_none() {
            let (value, ip) = (value.escape_ascii(), self.ip());
            tracing::warn!("qmail-smtpd: warning: {name}=\"{value}\" for {ip}: allowed: a whole number");
        }
        number
    }
}
