//! The addresses of rules and the keys they stand for.
//!
//! An address without a colon is a key byte for byte, as in 0.88, unless it is a range (`1.2.3.4-7`, `10.1-9.`) or a
//! network (`192.0.2.0/24`). One with a colon is IPv6, which is written in one form (RFC 5952), so a rule is found
//! whatever form stands in the file; an IPv4 address mapped into IPv6 is IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RANGE: &str = "in a range decimal numbers on both sides of the hyphen, as in 1.2.3.4-7 and 10.1-9.";
const IPV4: &str = "a network is an IPv4 address, a slash and a length from 0 to 32, as in 192.0.2.0/24";
const IPV6: &str = "an IPv6 address (2001:db8::1), the first 1 to 7 groups of one without :: (2001:db8:), or a \
                    network with a length from 0 to 128 (2001:db8::/32); after user@ an address only";

/// The keys an address stands for, or what is allowed. At most 256.
pub(super) fn keys(address: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let host = memchr::memrchr(b'@', address).map_or(0, |at| at + 1);
    let (info, host) = address.split_at(host);
    if host.contains(&b':') {
        let host = std::str::from_utf8(host).map_err(|_| IPV6)?;
        if host.contains('/') && info.is_empty() {
            return network(host).ok_or(IPV6);
        }
        let key = match host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().to_string(),
            Err(_) => groups(host).filter(|_| info.is_empty()).ok_or(IPV6)?,
        };
        return Ok(vec![[info, key.as_bytes()].concat()]);
    }
    if address.iter().any(|b| b"=@".contains(b)) {
        return Ok(vec![address.to_vec()]);
    }
    if address.contains(&b'/') {
        return std::str::from_utf8(address).ok().and_then(network).ok_or(IPV4);
    }
    match memchr::memchr(b'-', address) {
        Some(dash) => range(address, dash).ok_or(RANGE),
        None => Ok(vec![address.to_vec()]),
    }
}

/// One key for each number of a range; none if the first is above the last.
fn range(address: &[u8], dash: usize) -> Option<Vec<Vec<u8>>> {
    let left = memchr::memrchr(b'.', &address[..dash]).map_or(0, |dot| dot + 1);
    let right = memchr::memchr(b'.', &address[dash..]).map_or(address.len(), |dot| dash + dot);
    let bottom = number(&address[left..dash])?;
    let top = number(&address[dash + 1..right])?.min(255);
    let key = |number: u64| [&address[..left], number.to_string().as_bytes(), &address[right..]].concat();
    Some((bottom..=top).map(key).collect())
}

/// As scan_ulong: 0 without digits, and it wraps.
fn number(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number: u64, digit| {
        let value = u64::from(digit.checked_sub(b'0').filter(|&value| value < 10)?);
        Some(number.wrapping_mul(10).wrapping_add(value))
    })
}

/// `ADDRESS/LENGTH`; bits beyond the length do not count.
fn network(text: &str) -> Option<Vec<Vec<u8>>> {
    let (ip, length) = text.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let length: u8 = length.parse().ok().filter(|_| length.bytes().all(|b| b.is_ascii_digit()))?;
    match (ip, ip.to_canonical()) {
        (IpAddr::V4(ip), _) if length <= 32 => Some(network4(ip, length)),
        (IpAddr::V6(_), IpAddr::V4(ip)) if (96..=128).contains(&length) => Some(network4(ip, length - 96)),
        (IpAddr::V6(ip), _) if length <= 128 => Some(vec![network6(ip, length).into_bytes()]),
        _ => None,
    }
}

/// The addresses, or the prefixes with a dot at the end, that make up an IPv4 network.
fn network4(ip: Ipv4Addr, length: u8) -> Vec<Vec<u8>> {
    let octets = length.div_ceil(8).max(1);
    let shift = 32 - 8 * u32::from(octets);
    let base = ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    let key = |n: u32| {
        let text = Ipv4Addr::from_bits(base | n << shift).to_string();
        match text.match_indices('.').nth(usize::from(octets) - 1) {
            Some((dot, _)) => text.as_bytes()[..=dot].to_vec(),
            None => text.into_bytes(),
        }
    };
    (0..1 << (8 * octets - length)).map(key).collect()
}

/// The key of an IPv6 network: the address, a prefix of whole groups, or else `ADDRESS/LENGTH`.
pub(super) fn network6(ip: Ipv6Addr, length: u8) -> String {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    let ip = Ipv6Addr::from_bits(ip.to_bits() & mask);
    match length {
        128 => ip.to_string(),
        1.. if length.is_multiple_of(16) => prefix6(ip, usize::from(length / 16)),
        _ => format!("{ip}/{length}"),
    }
}

/// The first `n` groups without leading zeros, each with a colon: `2001:db8:`.
pub(super) fn prefix6(ip: Ipv6Addr, n: usize) -> String {
    ip.segments().iter().take(n).map(|group| format!("{group:x}:")).collect()
}

/// `2001:DB8:` as [`prefix6`] writes it. One with `::` is refused: how many groups it has cannot be told.
fn groups(text: &str) -> Option<String> {
    let whole = text.strip_suffix(':').is_some_and(|groups| !groups.is_empty() && !groups.contains("::"));
    let ip: Ipv6Addr = format!("{text}:").parse().ok().filter(|_| whole)?;
    Some(prefix6(ip, text.matches(':').count()))
}

/// Why no client ever has this key, if none has.
pub(super) fn odd(key: &[u8]) -> Option<String> {
    let shown = String::from_utf8_lossy(key);
    if key.iter().any(u8::is_ascii_whitespace) {
        return Some(format!("`{shown}` matches nobody: there is white space in it"));
    }
    if key.is_empty() || !key.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
        return None;
    }
    let (numbers, network) = match shown.strip_suffix('.') {
        Some(numbers) => (numbers, true),
        None => (&*shown, false),
    };
    let numbers: Vec<&str> = numbers.split('.').collect();
    // As tcpserver prints them: without zeros in front.
    let is_octet = |text: &&str| text.parse::<u8>().is_ok_and(|number| number.to_string() == **text);
    if let Some(bad) = numbers.iter().find(|text| !is_octet(text)) {
        return Some(format!("{shown} matches nobody; allowed in place of `{bad}`: 0 to 255"));
    }
    match (numbers.len(), network) {
        (4, false) | (1..=3, true) => None,
        (1..=3, false) => {
            Some(format!("{shown} matches nobody; {shown}. with a dot at its end matches a network"))
        }
        (_, _) => Some(format!("{shown} matches nobody; allowed: four numbers, or up to three and a dot")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(address: &str) -> Option<String> {
        let keys = keys(address.as_bytes()).ok()?;
        Some(keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn which_keys_an_address_stands_for() {
        for (address, keys) in [
            ("", ""),
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.", "1.2.3."),
            ("999.x", "999.x"),
            ("=", "="),
            ("=.example", "=.example"),
            ("user@1.2.3.4", "user@1.2.3.4"),
            ("user@=host.example", "user@=host.example"),
            // Ranges.
            ("1.2.3.4-6", "1.2.3.4 1.2.3.5 1.2.3.6"),
            ("10.9-10.", "10.9. 10.10."),
            ("1.2-3.4-5", "1.2.4-5 1.3.4-5"),
            ("1.2.3.254-999", "1.2.3.254 1.2.3.255"),
            ("1.2.3.08-9", "1.2.3.8 1.2.3.9"),
            ("1.5-3.", ""),
            ("1.-", "1.0"),
            ("1.18446744073709551617-2.", "1.1. 1.2."),
            ("a-b@1.2.3.4", "a-b@1.2.3.4"),
            ("=a-b.example", "=a-b.example"),
            // IPv4 networks.
            ("192.0.2.0/24", "192.0.2."),
            ("192.0.2.77/24", "192.0.2."),
            ("10.0.0.0/8", "10."),
            ("192.0.2.8/30", "192.0.2.8 192.0.2.9 192.0.2.10 192.0.2.11"),
            ("192.0.2.8/32", "192.0.2.8"),
            ("10.8.0.0/15", "10.8. 10.9."),
            ("192.0.252.0/22", "192.0.252. 192.0.253. 192.0.254. 192.0.255."),
            ("128.0.0.0/7", "128. 129."),
            ("user@1.2.3.0/24", "user@1.2.3.0/24"),
            // IPv6.
            ("::1", "::1"),
            ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
            ("2001:0db8::00a0", "2001:db8::a0"),
            ("user@2001:DB8::1", "user@2001:db8::1"),
            ("a:b@192.0.2.1", "a:b@192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:", "2001:db8:"),
            ("2001:0DB8:0000:", "2001:db8:0:"),
            ("1:2:3:4:5:6:7:", "1:2:3:4:5:6:7:"),
            ("2001:db8::", "2001:db8::"),
            ("2001:db8::/32", "2001:db8:"),
            ("2001:db8::1/64", "2001:db8:0:0:"),
            ("2001:db8::1/128", "2001:db8::1"),
            ("2001:db8:ffff::/33", "2001:db8:8000::/33"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.0/120", "192.0.2."),
        ] {
            assert_eq!(shown(address).as_deref(), Some(keys), "{address}");
        }
        assert_eq!(keys(b"0.0.0.0/0").map(|keys| keys.len()), Ok(256));
        assert_eq!(keys(b"10.0.0.0/9").map(|keys| keys.len()), Ok(128));
        assert_eq!(keys(b"10.1.2.3/25").map(|keys| keys.len()), Ok(128));
    }

    #[test]
    fn bad_addresses() {
        for address in [
            "1-x.",
            "x-2",
            "1.2--3",
            "host-name",
            "1.2.3.0/",
            "1.2.3.0/+8",
            "1.2.3.0/33",
            "1.2.3.4-5/32",
            "1.2.3/24",
            "x/24",
            ":",
            "::1:",
            "2001:db8::1:",
            "1:2:3:4:5:6:7:8:",
            "12345:",
            "2001:db8:x:",
            "user@2001:db8:",
            "user@2001:db8::/32",
            "2001:db8::/129",
            "2001:db8:/32",
            "fe80::1%eth0",
            "=a:b",
        ] {
            assert_eq!(shown(address), None, "{address}");
        }
        assert_eq!(keys(b"\xff:"), Err(IPV6));
        assert_eq!(keys(b"\xff/8"), Err(IPV4));
    }
}
