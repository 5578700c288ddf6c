//! `control/smtproutes` (qmail-remote): hosts that get mail for a domain in place of its mail exchangers.

use std::collections::HashMap;
use std::net::IpAddr;

/// Where mail for a domain goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the mail exchangers of the domain.
    Mx,
    /// To one host, whose address is looked up without regard to mail exchangers.
    Relay {
        /// The host.
        host: RelayHost,
        /// Its port; `None`: the usual one.
        port: Option<u16>,
    },
    /// Nowhere for now: the line that says where cannot be obeyed.
    Unknown {
        /// What is wrong with it, and where it stands.
        cause: String,
    },
}

/// The host of a [`Route::Relay`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayHost {
    /// A name.
    Name(String),
    /// An address, in the file with or without brackets (IPv6: with).
    Address(IpAddr),
}

/// Why a line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No colon after the domain.
    #[error(
        "no colon; allowed: `domain:relay`, `domain:relay:port`, `.domain:relay`, `:relay`, `domain:` for its MX"
    )]
    NoColon,
    /// A user and a password for the relay. Never relayed without them in silence.
    #[error(
        "authenticated relaying is not supported yet; allowed: `domain:relay` or `domain:relay:port` alone"
    )]
    Authentication,
    /// The relay is neither a name nor an address.
    #[error("the relay `{0}` is not allowed; allowed: a host name, `[192.0.2.1]`, `[2001:db8::1]`")]
    Relay(String),
    /// The port is no port.
    #[error("the port `{0}` is not allowed; allowed: 1 to 65535")]
    Port(String),
    /// A port, but no relay to take it.
    #[error("a port without a relay; allowed: `domain:relay:port`")]
    PortAlone,
}

/// The map of `smtproutes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SmtpRoutes {
    routes: HashMap<Vec<u8>, Route>,
}

impl SmtpRoutes {
    /// Adds a line. Of several for one domain the last one counts, as in qmail.
    pub fn add(&mut self, line: &[u8]) -> Result<(), Error> {
        let colon = colon(line).ok_or(Error::NoColon)?;
        let route = Route::parse(&line[colon + 1..])?;
        self.routes.insert(line[..colon].to_ascii_lowercase(), route);
        Ok(())
    }

    /// Takes a line that [`SmtpRoutes::add`] has not taken for what it is: mail that it concerns waits until it is mended,
    /// instead of going where nobody wanted it. Without a colon its first word is the domain.
    pub fn refuse(&mut self, line: &[u8], cause: &str) {
        let end = colon(line).or_else(|| line.iter().position(|b| b" \t".contains(b))).unwrap_or(line.len());
        self.routes.insert(line[..end].to_ascii_lowercase(), Route::Unknown { cause: cause.to_owned() });
    }

    /// The route of a domain: that of the domain itself, else of its longest end that begins with a dot, else of the
    /// empty domain, else its mail exchangers.
    pub fn lookup(&self, domain: &[u8]) -> &Route {
        let domain = domain.to_ascii_lowercase();
        (0..domain.len())
            .filter(|&n| n == 0 || domain[n] == b'.')
            .chain([domain.len()])
            .find_map(|n| self.routes.get(&domain[n..]))
            .unwrap_or(&Route::Mx)
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

/// Where the colon behind the domain is. A literal as the domain, `[IPv6:2001:db8::1]`, has colons of its own (RFC 5321 4.1.3).
fn colon(line: &[u8]) -> Option<usize> {
    let literal = if line.starts_with(b"[") { memchr::memchr(b']', line).unwrap_or(0) } else { 0 };
    Some(literal + memchr::memchr(b':', &line[literal..])?)
}

impl Route {
    fn parse(value: &[u8]) -> Result<Self, Error> {
        if value.iter().any(|&b| b == b'|' || b == b' ' || b == b'\t') {
            return Err(Error::Authentication);
        }
        let shown = || String::from_utf8_lossy(value).into_owned();
        let value = std::str::from_utf8(value).map_err(|_| Error::Relay(shown()))?;
        let (host, port) = match value.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or_else(|| Error::Relay(shown()))?;
                let address = address.parse().map_err(|_| Error::Relay(shown()))?;
                let port = match rest.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if rest.is_empty() => None,
                    None => return Err(Error::Relay(shown())),
                };
                (Some(RelayHost::Address(address)), port)
            }
            None => {
                let (host, port) = match value.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (value, None),
                };
                (Self::host(host)?, port)
            }
        };
        let port = match port {
            // `relay:` is what a template without a port leaves behind; qmail takes it as the usual port.
            None | Some("") => None,
            Some(digits) => Some(Self::port(digits)?),
        };
        match (host, port) {
            (Some(host), port) => Ok(Self::Relay { host, port }),
            (None, None) => Ok(Self::Mx),
            (None, Some(_)) => Err(Error::PortAlone),
        }
    }

    fn host(text: &str) -> Result<Option<RelayHost>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        if let Ok(address) = text.parse() {
            return Ok(Some(RelayHost::Address(address)));
        }
        let fits = text.len() <= 253
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            && !text.starts_with('.');
        if fits { Ok(Some(RelayHost::Name(text.to_owned()))) } else { Err(Error::Relay(text.to_owned())) }
    }

    fn port(digits: &str) -> Result<u16, Error> {
        let port = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        port.filter(|&port| port != 0).ok_or_else(|| Error::Port(digits.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(host: &str, port: Option<u16>) -> Route {
        Route::Relay { host: RelayHost::Name(host.to_owned()), port }
    }

    fn address(host: &str, port: Option<u16>) -> Route {
        Route::Relay { host: RelayHost::Address(host.parse().unwrap()), port }
    }

    #[test]
    fn the_longest_match_first() {
        let mut routes = SmtpRoutes::default();
        for line in [
            "one.example:relay.example",
            ".one.example:sub.example:26",
            ".a.one.example:",
            "four.example:[192.0.2.4]:2600",
            "six.example:[2001:db8::6]:2600",
            "bare.example:192.0.2.5",
            "[IPv6:2001:db8::1]:literal.example",
            "Twice.example:first",
            "twice.example:second:",
            ":[127.0.0.1]",
        ] {
            routes.add(line.as_bytes()).unwrap();
        }
        for (domain, expected) in [
            ("ONE.example", name("relay.example", None)),
            ("b.one.example", name("sub.example", Some(26))),
            ("a.one.example", name("sub.example", Some(26))),
            ("x.a.one.example", Route::Mx),
            ("four.example", address("192.0.2.4", Some(2600))),
            ("six.example", address("2001:db8::6", Some(2600))),
            ("bare.example", address("192.0.2.5", None)),
            ("[ipv6:2001:DB8::1]", name("literal.example", None)),
            ("twice.example", name("second", None)),
            ("anything", address("127.0.0.1", None)),
            ("", address("127.0.0.1", None)),
        ] {
            assert_eq!(*routes.lookup(domain.as_bytes()), expected, "{domain}");
        }
        assert_eq!(*SmtpRoutes::default().lookup(b"one.example"), Route::Mx);
    }

    #[test]
    fn bad_lines() {
        for (line, error) in [
            ("relay.example", Error::NoColon),
            ("d:relay|user|secret", Error::Authentication),
            ("d:relay:587 user secret", Error::Authentication),
            ("d:relay\tuser secret", Error::Authentication),
            ("d:relay:0", Error::Port("0".to_owned())),
            ("d:relay:65536", Error::Port("65536".to_owned())),
            ("d:relay:+25", Error::Port("+25".to_owned())),
            ("d::25", Error::PortAlone),
            ("d:[192.0.2.1", Error::Relay("[192.0.2.1".to_owned())),
            ("d:[host]", Error::Relay("[host]".to_owned())),
            ("d:[192.0.2.1]25", Error::Relay("[192.0.2.1]25".to_owned())),
            ("d:2001:db8::1", Error::Port("db8::1".to_owned())),
            ("d:.host", Error::Relay(".host".to_owned())),
            ("d:ho\0st", Error::Relay("ho\0st".to_owned())),
        ] {
            assert_eq!(SmtpRoutes::default().add(line.as_bytes()), Err(error), "{line}");
        }
    }
}
