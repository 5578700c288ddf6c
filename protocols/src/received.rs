//! The trace header fields the host writes (qmail-queue; received.c).

use std::net::IpAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Who handed a message to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invoker {
    /// An SMTP client.
    Network,
    /// A forward from a local address.
    Alias,
    /// qmail-send, for a bounce.
    Bounce,
    /// A process of this user.
    Uid(u32),
}

/// The line the queue puts above every message; `qp` is the number of its queueing.
#[must_use]
pub fn qmail(invoker: Invoker, qp: u64, now: Timestamp) -> String {
    let by = match invoker {
        Invoker::Network => "from network",
        Invoker::Alias => "by alias",
        Invoker::Bounce => "for bounce",
        Invoker::Uid(uid) => &format!("by uid {uid}"),
    };
    format!("Received: (qmail {qp} invoked {by}); {}\n", date(now))
}

/// A client's connection, as its trace field tells it.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its name by reverse DNS, if known.
    pub host: Option<&'a str>,
    /// What it called itself.
    pub helo: &'a [u8],
    /// Who it is, by AUTH or ident, if known.
    pub info: Option<&'a str>,
    /// Its address.
    pub ip: IpAddr,
    /// This host's name.
    pub local: &'a str,
    /// `SMTP`, `ESMTP`…
    pub protocol: &'a str,
    /// The cipher suite of a connection that TLS secures.
    pub cipher: Option<&'a str>,
}

/// The line qmail-smtpd writes: `Received: from RDNS (HELO H) (INFO@IP)`, then `by LOCAL with (CIPHER encrypted) PROTOCOL;
/// DATE`.
#[must_use]
pub fn smtp(client: Client<'_>, now: Timestamp) -> String {
    let host = safe(client.host.unwrap_or("unknown").as_bytes());
    let helo = safe(client.helo);
    let helo = if helo.is_empty() || helo.eq_ignore_ascii_case(&host) {
        String::new()
    } else {
        format!(" (HELO {helo})")
    };
    let Client { ip, local, protocol, .. } = client;
    let info = client.info.map_or_else(String::new, |info| format!("{}@", safe(info.as_bytes())));
    let cipher =
        client.cipher.map_or_else(String::new, |name| format!("({} encrypted) ", safe(name.as_bytes())));
    format!(
        "Received: from {host}{helo} ({info}{ip})\n  by {} with {cipher}{protocol}; {}\n",
        safe(local.as_bytes()),
        date(now)
    )
}

/// The line qmail-qmqpd writes of a client that says no name; what is not known of it is `unknown`.
#[must_use]
pub fn qmqp(
    host: Option<&[u8]>,
    info: Option<&[u8]>,
    ip: Option<&[u8]>,
    local: Option<&[u8]>,
    now: Timestamp,
) -> String {
    let known = |name: Option<&[u8]>| safe(name.unwrap_or(b"unknown"));
    let info = info.map_or_else(String::new, |info| format!("{}@", safe(info)));
    let (host, ip, local) = (known(host), known(ip), known(local));
    format!("Received: from {host} ({info}{ip})\n  by {local} with QMQP; {}\n", date(now))
}

/// The line for an authenticated client that is to stay unnamed (`hide_client`): no address, no name, nothing of what it
/// called itself. `unknown` and `localhost` stand where RFC 5321 4.4 and qmail's form have something.
#[must_use]
pub fn hidden(client: Client<'_>, now: Timestamp) -> String {
    let Client { local, protocol, .. } = client;
    let user = client.info.map_or_else(String::new, |user| format!(" ({})", safe(user.as_bytes())));
    let cipher =
        client.cipher.map_or_else(String::new, |name| format!("({} encrypted) ", safe(name.as_bytes())));
    format!(
        "Received: from unknown (HELO localhost){user}\n  by {} with {cipher}{protocol}; {}\n",
        safe(local.as_bytes()),
        date(now)
    )
}

/// `26 Sep 1995 04:46:54 -0000`, as qmail writes dates.
#[must_use]
pub fn date(now: Timestamp) -> String {
    now.to_zoned(TimeZone::UTC).strftime("%-d %b %Y %H:%M:%S -0000").to_string()
}

/// Letters, digits and `.@%+/=:-_[]` stay, everything else becomes `?` (received.c: issafe; brackets for literals,
/// the underscore for cipher suites).
fn safe(text: &[u8]) -> String {
    text.iter()
        .map(|byte| match byte {
            b'.' | b'@' | b'%' | b'+' | b'/' | b'=' | b':' | b'-' | b'_' | b'[' | b']' => char::from(*byte),
            byte if byte.is_ascii_alphanumeric() => char::from(*byte),
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_fields_are_qmails() {
        let now = Timestamp::from_second(812_090_814).unwrap();
        assert_eq!(
            qmail(Invoker::Network, 42, now),
            "Received: (qmail 42 invoked from network); 26 Sep 1995 04:46:54 -0000\n"
        );
        assert_eq!(
            qmail(Invoker::Uid(1000), 7, now),
            "Received: (qmail 7 invoked by uid 1000); 26 Sep 1995 04:46:54 -0000\n"
        );
        let client = Client {
            host: None,
            helo: b"evil\r\nBcc: x(",
            info: None,
            ip: "10.0.0.1".parse().unwrap(),
            local: "mx.test",
            protocol: "ESMTP",
            cipher: None,
        };
        assert_eq!(
            smtp(client, now),
            "Received: from unknown (HELO evil??Bcc:?x?) (10.0.0.1)\n  by mx.test with ESMTP; 26 Sep 1995 04:46:54 -0000\n"
        );
        let known = Client { host: Some("a.test"), helo: b"A.test", ..client };
        assert!(smtp(known, now).starts_with("Received: from a.test (10.0.0.1)\n"));
        let user = Client {
            info: Some("joe@b.test"),
            protocol: "ESMTPSA",
            cipher: Some("TLS_AES_256_GCM_SHA384"),
            ..known
        };
        assert_eq!(
            smtp(user, now),
            "Received: from a.test (joe@b.test@10.0.0.1)\n  by mx.test with (TLS_AES_256_GCM_SHA384 encrypted) ESMTPSA; 26 Sep 1995 04:46:54 -0000\n"
        );
        assert_eq!(
            hidden(user, now),
            "Received: from unknown (HELO localhost) (joe@b.test)\n  by mx.test with (TLS_AES_256_GCM_SHA384 encrypted) ESMTPSA; 26 Sep 1995 04:46:54 -0000\n"
        );
    }
}
