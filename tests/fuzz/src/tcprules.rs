//! Rules of tcpserver: what parses compiles, and the lookup in the database finds what a search through the rules finds.
//!
//! The input is lines: what ident says, the client's name, its address, then the rules. Clients are also made of the
//! rules' own keys.

#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::tcprules::{self, Client, HOST_MAX, Hit, INFO_MAX, LookupError, Rule, Variables};

/// Keys that clients are made of.
const MAX_KEYS: usize = 6;

/// Rules that are searched through.
const MAX_RULES: usize = 3000;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(4, |&b| b == b'\n');
    let [info, host, ip, text] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let rules = match tcprules::parse(text) {
        Ok(rules) if rules.len() <= MAX_RULES => rules,
        Ok(_) => return,
        Err(error) => {
            assert!(error.to_string().starts_with("unable to parse this line: "));
            return;
        }
    };
    let bytes = tcprules::compile(&rules).expect("rules that compile");
    let cdb = Cdb::new(bytes).expect("a database");
    let records: Vec<_> = cdb.iter().map(|record| record.expect("a record")).collect();
    let expected: Vec<_> = rules.iter().map(|rule| (&*rule.address, &*rule.data)).collect();
    assert_eq!(records, expected);

    let ip = address(ip);
    compare(&rules, &cdb, some(info), ip, some(host));
    compare(&rules, &cdb, None, ip, None);
    for rule in rules.iter().rev().take(MAX_KEYS) {
        let (before, rest) = match rule.address.iter().rposition(|&b| b == b'@') {
            Some(at) => (Some(&rule.address[..at]), &rule.address[at + 1..]),
            None => (some(info), &*rule.address),
        };
        match rest.strip_prefix(b"=") {
            Some(name) => {
                let within = [b"x", name].concat();
                let name = if name.starts_with(b".") { &*within } else { name };
                compare(&rules, &cdb, before, ip, Some(name));
            }
            None => compare(&rules, &cdb, before, inside(rest, ip), some(host)),
        }
    }
});

/// An empty line is none, a single NUL is empty.
fn some(line: &[u8]) -> Option<&[u8]> {
    match line {
        b"" => None,
        b"\0" => Some(b""),
        line => Some(line),
    }
}

/// The address in a line, or one that its bytes make.
fn address(line: &[u8]) -> IpAddr {
    if let Some(ip) = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()) {
        return ip;
    }
    match (line.first_chunk::<16>(), line.first_chunk::<4>()) {
        (Some(octets), _) => IpAddr::from(*octets),
        (None, Some(octets)) => IpAddr::from(*octets),
        (None, None) => IpAddr::from([10, 0, 0, 1]),
    }
}

/// An address that the key may be for; `other` fills it up.
fn inside(key: &[u8], other: IpAddr) -> IpAddr {
    let text = std::str::from_utf8(key).unwrap_or_default();
    let bits = match other {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let octet = bits & 255;
    let filled = match text.split_once('/') {
        Some((ip, length)) => {
            let length = length.parse().unwrap_or(128_u32);
            let net = ip.parse::<Ipv6Addr>().map_or(0, Ipv6Addr::to_bits);
            Ipv6Addr::from_bits(net | bits & u128::MAX.checked_shr(length).unwrap_or(0)).to_string()
        }
        None if text.ends_with('.') => {
            let missing = 4_usize.saturating_sub(text.matches('.').count());
            format!("{text}{}", vec![octet.to_string(); missing].join("."))
        }
        None if text.ends_with(':') && !text.ends_with("::") => format!("{text}:{octet:x}"),
        None => text.to_owned(),
    };
    filled.parse().unwrap_or(other)
}

fn compare(rules: &[Rule], cdb: &Cdb<Vec<u8>>, info: Option<&[u8]>, ip: IpAddr, host: Option<&[u8]>) {
    let client = Client { info, ip, host };
    let found = tcprules::lookup(cdb, &client);
    let too_long = |text: Option<&[u8]>, max| text.is_some_and(|text| text.len() > max);
    if too_long(host, HOST_MAX) || too_long(info, INFO_MAX) {
        assert!(matches!(found, Err(LookupError::TooLong { .. })));
        return;
    }
    let found = found.expect("a verdict");
    assert!(tcprules::tcprulescheck(found.as_ref()).ends_with(b"connection\n"));
    // The first of those that come first.
    let ranked = rules.iter().filter_map(|rule| Some((rank(&rule.address, &client)?, rule)));
    let expected = ranked.min_by_key(|(rank, _)| *rank).map(|(_, rule)| hit(rule));
    assert_eq!(found, expected, "{client:?}");
    if let Some(hit) = found {
        let variables: Variables = hit.variables.iter().cloned().collect();
        for (name, _) in &hit.variables {
            let last =
                hit.variables.iter().rfind(|(other, _)| other == name).map(|(_, value)| value.as_slice());
            let value = std::str::from_utf8(name).ok().map(|name| variables.get(name));
            assert!(value.is_none_or(|value| value == last));
        }
    }
}

fn hit(rule: &Rule) -> Hit {
    let mut hit = Hit { key: rule.address.clone(), deny: false, variables: Vec::new() };
    for item in rule.data.split(|&b| b == 0).filter(|item| !item.is_empty()) {
        if item == b"D" {
            hit.deny = true;
            continue;
        }
        let assignment = item.strip_prefix(b"+").expect("a variable");
        let equals = assignment.iter().position(|&b| b == b'=').expect("an assignment");
        hit.variables.push((assignment[..equals].to_vec(), assignment[equals + 1..].to_vec()));
    }
    hit
}

/// How early the key comes in the order of the documentation; `None`: it is not for this client.
fn rank(key: &[u8], client: &Client<'_>) -> Option<usize> {
    let ip = client.ip.to_canonical();
    let padded = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.segments().map(|group| format!("{group:04x}")).join(":"),
    };
    let text = ip.to_string();
    let (short, long) = (text.as_bytes(), padded.as_bytes());
    let mut ranks = Vec::new();
    if let Some(rest) = client.info.and_then(|info| key.strip_prefix(info)?.strip_prefix(b"@")) {
        ranks.extend((rest == short).then_some(0));
        ranks.extend((rest == long).then_some(1));
        ranks.extend((rest.strip_prefix(b"=").is_some_and(|host| Some(host) == client.host)).then_some(2));
    }
    ranks.extend((key == short).then_some(3));
    ranks.extend((key == long).then_some(4));
    ranks.extend((key.strip_prefix(b"=").is_some_and(|host| Some(host) == client.host)).then_some(5));
    match ip {
        IpAddr::V4(_) if key.ends_with(b".") && short.starts_with(key) => ranks.push(100 - key.len()),
        IpAddr::V4(_) => {}
        IpAddr::V6(ip) => ranks.extend(rank6(std::str::from_utf8(key).unwrap_or_default(), ip, &text)),
    }
    if let Some(host) = client.host {
        let suffix =
            key.strip_prefix(b"=").filter(|suffix| suffix.starts_with(b".") && host.ends_with(suffix));
        ranks.extend(suffix.map(|suffix| 2000 - suffix.len()));
        ranks.extend((key == b"=").then_some(2001));
    }
    ranks.extend(key.is_empty().then_some(2002));
    ranks.into_iter().min()
}

/// The same for what stands for several IPv6 addresses: the one with the most bits is first, and of those with as many
/// the one of the text, the one without zeros, the one with zeros.
fn rank6(key: &str, ip: Ipv6Addr, text: &str) -> Option<usize> {
    let rank = |bits: usize, form| Some(200 + (128 - bits) * 4 + form);
    if let Some((net, length)) = key.split_once('/') {
        let (net, bits) = (net.parse::<Ipv6Addr>().ok()?, length.parse::<u32>().ok()?);
        let differ = (net.to_bits() ^ ip.to_bits()).leading_zeros();
        return if differ >= bits { rank(bits as usize, 3) } else { None };
    }
    let groups = |text: &str| text.split(':').filter(|group| !group.is_empty()).count();
    let head = key.strip_suffix(':').filter(|head| !head.is_empty())?;
    if let Some(rest) = text.strip_prefix(key) {
        let number = if key.contains("::") { 8 - groups(rest) } else { groups(key) };
        return rank(16 * number, 0);
    }
    let own = ip.segments();
    let head: Vec<_> = head.split(':').collect();
    let is = |form: fn(u16) -> String| {
        head.len() < 8 && head.iter().zip(own).all(|(group, own)| **group == form(own))
    };
    if is(|group| format!("{group:x}")) {
        return rank(16 * head.len(), 1);
    }
    if is(|group| format!("{group:04x}")) { rank(16 * head.len(), 2) } else { None }
}
