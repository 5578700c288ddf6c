//! The log lines of tcpserver (ucspi-tcp 0.88 `tcpserver.c`, option `-v`), without the newline.

use std::fmt;
use std::net::IpAddr;

/// Bytes of a field; what is longer is cut.
const FIELD_MAX: usize = 100;

/// `tcpserver: status: 3/40`: connections now and at most; at the start and whenever their number changes.
pub fn status(connections: usize, limit: usize) -> String {
    format!("tcpserver: status: {connections}/{limit}")
}

/// `tcpserver: pid 77 from 192.0.2.1`: a connection begins. An IPv4 address mapped into IPv6 is written as IPv4.
pub fn pid(pid: u64, ip: IpAddr) -> String {
    format!("tcpserver: pid {pid} from {}", ip.to_canonical())
}

/// `tcpserver: end 77 status 256`: a connection has ended. The status is that of wait(2): the exit code times 256, or
/// the number of a signal.
pub fn end(pid: u64, status: u32) -> String {
    format!("tcpserver: end {pid} status {status}")
}

/// `tcpserver: warning: dropping connection, REASON`: a connection ends before its session began.
pub fn dropping(reason: &str) -> String {
    let safe = |c: char| if c.is_control() { '?' } else { c };
    let reason: String = reason.chars().map(safe).collect();
    format!("tcpserver: warning: dropping connection, {reason}")
}

/// `tcpserver: ok 77 mx.example:192.0.2.1:25 client.example:192.0.2.7:joe:4711`: the verdict on a connection.
///
/// What others chose is made harmless as in 0.88: bytes that are not printable, spaces, `%` and `:` become `?`, and of
/// 100 bytes or more only 100 stay, with `...` after them. Addresses are written as they are: 0.88 would make `?` of
/// the colons in an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ok<'a> {
    /// Number of the session.
    pub pid: u64,
    /// Own name; `None`: unknown.
    pub local_host: Option<&'a [u8]>,
    /// Own address.
    pub local_ip: IpAddr,
    /// Own port.
    pub local_port: u16,
    /// Name of the client; `None`: unknown.
    pub remote_host: Option<&'a [u8]>,
    /// Address of the client.
    pub remote_ip: IpAddr,
    /// What ident says of the client; `None`: unknown.
    pub remote_info: Option<&'a [u8]>,
    /// Port of the client.
    pub remote_port: u16,
    /// The rules refuse it: `deny` in place of `ok`.
    pub deny: bool,
}

impl fmt::Display for Ok<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.deny { "deny" } else { "ok" };
        let (local, remote) = (self.local_ip.to_canonical(), self.remote_ip.to_canonical());
        write!(
            f,
            "tcpserver: {verdict} {} {}:{local}:{} ",
            self.pid,
            field(self.local_host),
            self.local_port
        )?;
        let (host, info) = (field(self.remote_host), field(self.remote_info));
        write!(f, "{host}:{remote}:{info}:{}", self.remote_port)
    }
}

/// A field as safecats of `tcpserver.c` writes it; it cuts, and says so, from exactly 100 bytes on.
fn field(text: Option<&[u8]>) -> String {
    let text = text.unwrap_or_default();
    let safe = |&b: &u8| if b.is_ascii_graphic() && b != b'%' && b != b':' { char::from(b) } else { '?' };
    let mut field: String = text.iter().take(FIELD_MAX).map(safe).collect();
    if text.len() >= FIELD_MAX {
        field.push_str("...");
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (line, expected) in [
            (status(0, 40), "tcpserver: status: 0/40"),
            (pid(77, "192.0.2.1".parse().unwrap()), "tcpserver: pid 77 from 192.0.2.1"),
            (pid(77, "::ffff:192.0.2.1".parse().unwrap()), "tcpserver: pid 77 from 192.0.2.1"),
            (pid(77, "2001:db8::1".parse().unwrap()), "tcpserver: pid 77 from 2001:db8::1"),
            (end(77, 25600), "tcpserver: end 77 status 25600"),
            (
                dropping("unable to read /etc/tcp.smtp.cdb: file\ndoes not exist"),
                "tcpserver: warning: dropping connection, unable to read /etc/tcp.smtp.cdb: file?does not exist",
            ),
        ] {
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn verdicts() {
        let unknown = Ok {
            pid: 77,
            local_host: None,
            local_ip: "192.0.2.1".parse().unwrap(),
            local_port: 25,
            remote_host: None,
            remote_ip: "::ffff:192.0.2.7".parse().unwrap(),
            remote_info: None,
            remote_port: 4711,
            deny: false,
        };
        let known = Ok {
            local_host: Some(b"mx.example"),
            remote_host: Some(b"client.example"),
            remote_ip: "2001:db8::7".parse().unwrap(),
            remote_info: Some(b"joe"),
            deny: true,
            ..unknown
        };
        let hostile = Ok {
            remote_host: Some(b"a\nb c%d:e~\x7f\xff"),
            remote_info: Some(b"\0\ttcpserver: ok"),
            ..unknown
        };
        for (line, expected) in [
            (unknown, "tcpserver: ok 77 :192.0.2.1:25 :192.0.2.7::4711"),
            (known, "tcpserver: deny 77 mx.example:192.0.2.1:25 client.example:2001:db8::7:joe:4711"),
            (hostile, "tcpserver: ok 77 :192.0.2.1:25 a?b?c?d?e~??:192.0.2.7:??tcpserver??ok:4711"),
        ] {
            assert_eq!(line.to_string(), expected);
        }
    }

    #[test]
    fn long_fields_are_cut() {
        for (len, expected) in
            [(99, "x".repeat(99)), (100, "x".repeat(100) + "..."), (5000, "x".repeat(100) + "...")]
        {
            assert_eq!(field(Some("x".repeat(len).as_bytes())), expected);
        }
    }
}
