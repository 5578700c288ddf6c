//! The addresses of this host (qmail: ipme).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether connecting to `ip` reaches this host: an address of one of its interfaces, or an unspecified one.
pub(super) fn is_me(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if ip == Ipv4Addr::UNSPECIFIED || ip == Ipv6Addr::UNSPECIFIED {
        return true;
    }
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return ip.is_loopback() };
    interfaces.filter_map(|interface| interface.address).any(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        v4.or(v6) == Some(ip)
    })
}
