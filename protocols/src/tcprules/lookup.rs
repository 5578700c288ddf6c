//! The one rule that applies to a client.

use std::iter::once;
use std::net::{IpAddr, Ipv6Addr};

use super::address::{network6, prefix6};
use super::{DATA_MAX, VARIABLES_MAX};
use crate::cdb::{self, Cdb};

/// Most bytes of a client's name: a domain name has no more (RFC 1035 2.3.4).
pub const HOST_MAX: usize = 255;

/// Most bytes of what ident says of a client (RFC 1413 3: a user id has at most 512 octets).
pub const INFO_MAX: usize = 512;

/// What is known of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client<'a> {
    /// TCPREMOTEINFO: what ident says; `None`: it was not asked or did not answer.
    pub info: Option<&'a [u8]>,
    /// TCPREMOTEIP. An IPv4 address mapped into IPv6 is taken as IPv4.
    pub ip: IpAddr,
    /// TCPREMOTEHOST: the name of the address. Keys are compared byte for byte, so it must be in lower case and
    /// without a dot at the end, as tcpserver gives it.
    pub host: Option<&'a [u8]>,
}

/// The rule that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Its key.
    pub key: Vec<u8>,
    /// The connection is refused.
    pub deny: bool,
    /// Names and values, as often and in the order as they stand in the rule; [`super::Variables`] collects them.
    pub variables: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why no verdict can be given. Whoever asks must not take it for a permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The database is damaged.
    #[error(transparent)]
    Cdb(#[from] cdb::Error),
    /// The data of a record is not what tcprules writes.
    #[error(
        "the rule `{key}` is damaged: {what}; allowed: `D` for deny and up to {VARIABLES_MAX} of +VARIABLE=value, \
         each with NUL at its end, {DATA_MAX} bytes"
    )]
    Record {
        /// The key of the record.
        key: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A client's name or ident answer that is longer than one can be.
    #[error("{what} has {len} bytes; allowed: {max}")]
    TooLong {
        /// TCPREMOTEHOST or TCPREMOTEINFO.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// How many there may be.
        max: usize,
    },
}

/// Finds the rule for a client; `None`: there is none, which allows the connection and sets nothing.
///
/// The first hit wins: `INFO@IP`, `INFO@=HOST`, `IP`, `=HOST`, the prefixes of IP that end in a dot, longest first, the
/// suffixes of HOST that begin with a dot, longest first, `=` if there is a HOST, the empty key.
///
/// An IPv6 address is looked up as its text (RFC 5952) and as its eight groups with all their zeros. Its prefixes end
/// in a colon and are tried from the one with the most bits: of the text, of the groups without and with their zeros,
/// and between them the networks (`2001:db8::/33`) of every other length.
pub fn lookup<B: AsRef<[u8]>>(rules: &Cdb<B>, client: &Client<'_>) -> Result<Option<Hit>, LookupError> {
    for (what, text, max) in
        [("TCPREMOTEHOST", client.host, HOST_MAX), ("TCPREMOTEINFO", client.info, INFO_MAX)]
    {
        if let Some(text) = text.filter(|text| text.len() > max) {
            return Err(LookupError::TooLong { what, len: text.len(), max });
        }
    }
    for key in keys(client) {
        if let Some(data) = rules.find(&key)? {
            return match read(data) {
                Ok((deny, variables)) => Ok(Some(Hit { key, deny, variables })),
                Err(what) => {
                    Err(LookupError::Record { key: String::from_utf8_lossy(&key).into_owned(), what })
                }
            };
        }
    }
    Ok(None)
}

/// What tcprulescheck prints of a verdict.
pub fn tcprulescheck(hit: Option<&Hit>) -> Vec<u8> {
    let Some(Hit { key, deny, variables }) = hit else { return b"default:\nallow connection\n".to_vec() };
    let mut text = [b"rule ", key.as_slice(), b":\n"].concat();
    if *deny {
        text.extend_from_slice(b"deny connection\n");
        return text;
    }
    for (name, value) in variables {
        text.extend([b"set environment variable ", name.as_slice(), b"=", value, b"\n"].concat());
    }
    text.extend_from_slice(b"allow connection\n");
    text
}

/// The keys in the order in which they are tried.
fn keys<'a>(client: &Client<'a>) -> impl Iterator<Item = Vec<u8>> + use<'a> {
    let Client { info, host, .. } = *client;
    let ip = client.ip.to_canonical();
    let forms = match ip {
        IpAddr::V4(ip) => vec![ip.to_string()],
        IpAddr::V6(ip) => vec![ip.to_string(), padded(ip, 8)],
    };
    let named = |at: &[u8]| host.map(|host| [at, b"=", host].concat());
    let mut whole = Vec::new();
    if let Some(info) = info {
        let at = [info, b"@"].concat();
        whole.extend(forms.iter().map(|form| [at.as_slice(), form.as_bytes()].concat()));
        whole.extend(named(&at));
    }
    whole.extend(forms.iter().map(|form| form.clone().into_bytes()));
    whole.extend(named(b""));
    let prefixes: Box<dyn Iterator<Item = String>> = match ip {
        IpAddr::V4(ip) => Box::new(prefixes4(&ip.to_string()).into_iter()),
        IpAddr::V6(ip) => Box::new(prefixes6(ip)),
    };
    let suffixes = host.into_iter().flat_map(|host| {
        let dots = (0..host.len()).filter(|&at| host[at] == b'.');
        dots.map(|at| [b"=", &host[at..]].concat()).chain(once(b"=".to_vec()))
    });
    whole.into_iter().chain(prefixes.map(String::into_bytes)).chain(suffixes).chain(once(Vec::new()))
}

fn prefixes4(text: &str) -> Vec<String> {
    text.rmatch_indices('.').map(|(dot, _)| text[..=dot].to_owned()).collect()
}

fn prefixes6(ip: Ipv6Addr) -> impl Iterator<Item = String> {
    let text = ip.to_string();
    (0..128).rev().flat_map(move |length: u8| {
        let n = usize::from(length / 16);
        if length == 0 || !length.is_multiple_of(16) {
            return vec![network6(ip, length)];
        }
        let mut keys = vec![prefix6(ip, n), padded(ip, n)];
        keys.splice(0..0, of_text(&text, n).map(str::to_owned));
        keys.dedup();
        keys
    })
}

/// The beginning of the text that ends with a colon and has `n` groups, those that `::` stands for included. A single
/// colon is none.
fn of_text(text: &str, n: usize) -> Option<&str> {
    let ends = text.match_indices(':').map(|(at, _)| at + 1).filter(|&end| end > 1);
    let has = |(head, tail): &(&str, &str)| {
        let groups = |text: &str| text.split(':').filter(|group| !group.is_empty()).count();
        n == if head.contains("::") { 8 - groups(tail) } else { groups(head) }
    };
    ends.map(|end| text.split_at(end)).find(has).map(|(head, _)| head)
}

/// The first `n` groups with their zeros, each but the eighth with a colon.
fn padded(ip: Ipv6Addr, n: usize) -> String {
    let text: String = ip.segments().iter().take(n).map(|group| format!("{group:04x}:")).collect();
    if n == 8 { text.trim_end_matches(':').to_owned() } else { text }
}

type Assignments = Vec<(Vec<u8>, Vec<u8>)>;

/// Deny and the variables of a record, or what is wrong with it.
fn read(data: &[u8]) -> Result<(bool, Assignments), &'static str> {
    if data.len() > DATA_MAX {
        return Err("it is too long");
    }
    let (mut deny, mut variables, mut rest) = (false, Vec::new(), data);
    while !rest.is_empty() {
        let end = memchr::memchr(0, rest).ok_or("its last item does not end with NUL")?;
        match rest[..end].split_first() {
            Some((b'D', [])) => deny = true,
            Some((b'+', assignment)) => {
                let equals = memchr::memchr(b'=', assignment).ok_or("a variable without `=`")?;
                if variables.len() == VARIABLES_MAX {
                    return Err("too many variables");
                }
                variables.push((assignment[..equals].to_vec(), assignment[equals + 1..].to_vec()));
            }
            _ => return Err("an item that is neither deny nor a variable"),
        }
        rest = &rest[end + 1..];
    }
    Ok((deny, variables))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{compile, parse};
    use super::*;
    use crate::cdb::CdbMake;

    fn client<'a>(info: Option<&'a str>, ip: &str, host: Option<&'a str>) -> Client<'a> {
        let bytes = |text: Option<&'a str>| text.map(str::as_bytes);
        Client { info: bytes(info), ip: ip.parse().unwrap(), host: bytes(host) }
    }

    /// The key of the rule that applies.
    fn found(rules: &str, client: &Client<'_>) -> Option<String> {
        let rules = Cdb::new(compile(&parse(rules.as_bytes()).unwrap()).unwrap()).unwrap();
        lookup(&rules, client).unwrap().map(|hit| String::from_utf8(hit.key).unwrap())
    }

    fn tried(client: &Client<'_>) -> Vec<String> {
        keys(client).map(|key| String::from_utf8(key).unwrap()).filter(|key| !key.contains('/')).collect()
    }

    #[test]
    fn keys_are_tried_in_this_order() {
        assert_eq!(
            tried(&client(Some("joe"), "192.0.2.7", Some("a.mail.example"))),
            [
                "joe@192.0.2.7",
                "joe@=a.mail.example",
                "192.0.2.7",
                "=a.mail.example",
                "192.0.2.",
                "192.0.",
                "192.",
                "=.mail.example",
                "=.example",
                "=",
                ""
            ]
        );
        assert_eq!(
            tried(&client(Some(""), "10.0.0.1", None)),
            ["@10.0.0.1", "10.0.0.1", "10.0.0.", "10.0.", "10.", ""]
        );
        assert_eq!(
            tried(&client(None, "10.0.0.1", Some("")))[1..],
            ["=", "10.0.0.", "10.0.", "10.", "=", ""]
        );
        assert_eq!(tried(&client(None, "::ffff:10.0.0.1", None))[0], "10.0.0.1");
        assert_eq!(
            tried(&client(Some("joe"), "2001:db8::1:2", Some("h.example"))),
            [
                "joe@2001:db8::1:2",
                "joe@2001:0db8:0000:0000:0000:0000:0001:0002",
                "joe@=h.example",
                "2001:db8::1:2",
                "2001:0db8:0000:0000:0000:0000:0001:0002",
                "=h.example",
                "2001:db8::1:",
                "2001:db8:0:0:0:0:1:",
                "2001:0db8:0000:0000:0000:0000:0001:",
                "2001:db8::",
                "2001:db8:0:0:0:0:",
                "2001:0db8:0000:0000:0000:0000:",
                "2001:db8:0:0:0:",
                "2001:0db8:0000:0000:0000:",
                "2001:db8:0:0:",
                "2001:0db8:0000:0000:",
                "2001:db8:0:",
                "2001:0db8:0000:",
                "2001:db8:",
                "2001:0db8:",
                "2001:",
                "=.example",
                "=",
                ""
            ]
        );
        let of_loopback = tried(&client(None, "::1", None));
        assert!(of_loopback.contains(&"::".to_owned()) && !of_loopback.contains(&":".to_owned()));
    }

    #[test]
    fn each_step_gives_way_to_those_before_it() {
        let steps = [
            "joe@192.0.2.7",
            "joe@=a.mail.example",
            "192.0.2.7",
            "=a.mail.example",
            "192.0.2.",
            "192.0.",
            "192.",
            "=.mail.example",
            "=.example",
            "=",
            "",
        ];
        let client = client(Some("joe"), "192.0.2.7", Some("a.mail.example"));
        for n in 0..steps.len() {
            let rules: String = steps[n..].iter().rev().map(|key| format!("{key}:allow\n")).collect();
            assert_eq!(found(&rules, &client).as_deref(), Some(steps[n]));
        }
        assert_eq!(found("joe@192.0.2.8:deny\n=.mail:deny\n2:deny\nmail.example:deny\n", &client), None);
    }

    #[test]
    fn networks_and_forms_of_ipv6() {
        for (rules, ip, key) in [
            ("2001:DB8:0:0:0:0:0:1:deny", "2001:db8::1", Some("2001:db8::1")),
            ("2001:db8:0::deny", "2001:db8::1", Some("2001:db8:0:")),
            ("2001:db8:0::deny", "2001:db8:0:1:1:1:1:1", Some("2001:db8:0:")),
            ("2001:db8:0::deny", "2001:db8:1::", None),
            ("2001:db8::/32:deny", "2001:db8:ffff::1", Some("2001:db8:")),
            ("2001:db8::/32:deny", "2001:db9::", None),
            ("2001:db8::/33:deny", "2001:db8:7fff::1", Some("2001:db8::/33")),
            ("2001:db8::/33:deny", "2001:db8:8000::1", None),
            ("2001:db8::/29:deny\n2001:db8::/33:deny\n2001:db8::deny", "2001:db8::1", Some("2001:db8::/33")),
            ("2001:db8::/29:deny\n::/0:deny\n2001:db8::deny", "2001:dbf::1", Some("2001:db8::/29")),
            ("::/0:deny\n:allow", "2001:db8::1", Some("::/0")),
            ("::/0:deny", "192.0.2.1", None),
            ("::2/127:deny", "::3", Some("::2/127")),
            ("192.0.2.0/25:deny", "192.0.2.127", Some("192.0.2.127")),
            ("192.0.2.0/25:deny", "192.0.2.128", None),
            ("172.16.0.0/12:deny", "172.31.255.255", Some("172.31.")),
            ("172.16.0.0/12:deny", "172.32.0.0", None),
            ("192.0.2.0/24:deny", "::ffff:192.0.2.1", Some("192.0.2.")),
        ] {
            assert_eq!(found(rules, &client(None, ip, None)).as_deref(), key, "{rules} {ip}");
        }
    }

    #[test]
    fn what_tcprulescheck_prints() {
        let rules = "10.:deny,A=\"x\"\n:allow,A=\"1\",B=\"\",A=\"2\"\n";
        let rules = Cdb::new(compile(&parse(rules.as_bytes()).unwrap()).unwrap()).unwrap();
        let printed = |ip| {
            let hit = lookup(&rules, &client(None, ip, None)).unwrap();
            String::from_utf8(tcprulescheck(hit.as_ref())).unwrap()
        };
        assert_eq!(printed("10.0.0.1"), "rule 10.:\ndeny connection\n");
        assert_eq!(
            printed("11.0.0.1"),
            "rule :\nset environment variable A=1\nset environment variable B=\nset environment variable A=2\n\
             allow connection\n"
        );
        assert_eq!(tcprulescheck(None), b"default:\nallow connection\n");
    }

    fn with_data(data: &[u8]) -> Result<Option<Hit>, LookupError> {
        let mut make = CdbMake::new();
        make.add(b"", data).unwrap();
        lookup(&Cdb::new(make.finish()).unwrap(), &client(None, "10.0.0.1", None))
    }

    #[test]
    fn damaged_records_give_no_verdict() {
        assert!(with_data(b"").is_ok_and(|hit| hit.is_some_and(|hit| !hit.deny)));
        assert!(with_data(b"+A=1\0D\0").is_ok_and(|hit| hit.is_some_and(|hit| hit.deny)));
        for (data, what) in [
            (&b"D"[..], "its last item does not end with NUL"),
            (b"D\0+A=1", "its last item does not end with NUL"),
            (b"+A\0", "a variable without `=`"),
            (b"X\0", "an item that is neither deny nor a variable"),
            (b"Deny\0", "an item that is neither deny nor a variable"),
            (b"\0", "an item that is neither deny nor a variable"),
            (&b"+=\0".repeat(VARIABLES_MAX + 1), "too many variables"),
            (&vec![0; DATA_MAX + 1], "it is too long"),
        ] {
            assert_eq!(with_data(data), Err(LookupError::Record { key: String::new(), what }));
        }
        let long = "h".repeat(HOST_MAX + 1);
        let rules = Cdb::new(CdbMake::new().finish()).unwrap();
        assert!(matches!(
            lookup(&rules, &client(None, "::1", Some(&long))),
            Err(LookupError::TooLong { what: "TCPREMOTEHOST", .. })
        ));
    }

    proptest! {
        #[test]
        fn variables_come_back(values in prop::collection::vec(("[^\0=]{0,9}", "[^\0]{0,9}"), 0..9), deny: bool) {
            let mut data = if deny { b"D\0".to_vec() } else { Vec::new() };
            for (name, value) in &values {
                data.extend(format!("+{name}={value}\0").into_bytes());
            }
            let hit = with_data(&data).unwrap().unwrap();
            let expected: Vec<_> =
                values.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
            prop_assert_eq!((hit.deny, hit.variables), (deny, expected));
        }

        #[test]
        fn any_record_and_any_client_do_no_harm(
            data in prop::collection::vec(prop::sample::select(b"D+=A\0".to_vec()), 0..40),
            ip: IpAddr,
            host in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        ) {
            let mut make = CdbMake::new();
            make.add(b"", &data).unwrap();
            let client = Client { info: host.as_deref(), ip, host: host.as_deref() };
            let found = lookup(&Cdb::new(make.finish()).unwrap(), &client);
            prop_assert!(!matches!(found, Ok(None)));
        }

        #[test]
        fn a_network_holds_what_its_bits_say(ip: IpAddr, other: IpAddr, length in 0..=128_u8, near: bool) {
            let ip = ip.to_canonical();
            let (whole, bits) = match ip {
                IpAddr::V4(ip) => (32, u128::from(ip.to_bits()) << 96),
                IpAddr::V6(ip) => (128, ip.to_bits()),
            };
            let length = length % (whole + 1);
            // Half the time an address that differs from bit `length` on at the earliest.
            let other = match (ip, near) {
                (IpAddr::V4(ip), true) => IpAddr::from((ip.to_bits() ^ 1_u32.checked_shl(31 - u32::from(length.min(31))).unwrap_or(0)).to_be_bytes()),
                (IpAddr::V6(ip), true) => IpAddr::from((ip.to_bits() ^ 1 << (127 - length.min(127))).to_be_bytes()),
                (_, false) => other.to_canonical(),
            };
            let inside = match other {
                IpAddr::V4(other) => ip.is_ipv4() && (u128::from(other.to_bits()) << 96 ^ bits).leading_zeros() >= u32::from(length),
                IpAddr::V6(other) => ip.is_ipv6() && (other.to_bits() ^ bits).leading_zeros() >= u32::from(length),
            };
            let rules = format!("{ip}/{length}:deny");
            let client = Client { info: None, ip: other, host: None };
            prop_assert_eq!(found(&rules, &client).is_some(), inside, "{} {}", rules, other);
        }
    }
}
