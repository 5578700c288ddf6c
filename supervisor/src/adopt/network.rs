//! Where a service listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mailtree_protocols::runscript::Tcpserver;

use super::{Old, Options, Report, shown};

/// Ports by name, if `/etc/services` does not say it.
const PORTS: [(&str, u16); 9] = [
    ("smtp", 25),
    ("mail", 25),
    ("submission", 587),
    ("smtps", 465),
    ("ssmtp", 465),
    ("urd", 465),
    ("submissions", 465),
    ("pop3", 110),
    ("pop3s", 995),
];

/// The addresses that a tcpserver listens on, as they are to be; none, and a row, if they are not known.
pub(super) fn listen(
    old: &Old,
    service: &str,
    tcpserver: &Tcpserver,
    options: &Options,
    from: &str,
    report: &mut Report,
) -> Vec<SocketAddr> {
    let port = tcpserver.port.known().and_then(|name| port(old, name));
    let Some(port) = port.and_then(|port| port.checked_add(options.port_offset)) else {
        let port = shown(&tcpserver.port.text);
        report.not_yet(
            format!("{service} port"),
            from,
            format!("`{port}` is no port that is known; add the service to host.ron by hand"),
        );
        return Vec::new();
    };
    if !options.listen.is_empty() {
        return options.listen.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    }
    let ipv6 = tcpserver.options.last("46") == Some('6');
    let host = tcpserver.host.known().and_then(|host| match host {
        "0" | "" if ipv6 => Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        "0" | "" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.parse().ok().or_else(|| in_hosts(old, host)),
    });
    let host = host.unwrap_or_else(|| {
        report.not_yet(
            format!("{service} address"),
            from,
            format!(
                "`{}` is no address that is known: it listens on 127.0.0.1 until host.ron says another",
                shown(&tcpserver.host.text)
            ),
        );
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    });
    vec![SocketAddr::new(host, port)]
}

fn port(old: &Old, name: &str) -> Option<u16> {
    if let Ok(port) = name.parse() {
        return Some(port).filter(|port| *port != 0);
    }
    let services = old.look(&old.at("/etc/services")).unwrap_or_default();
    let services = String::from_utf8_lossy(&services);
    let listed = services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (own, port) = (words.next()?, words.next()?);
        let port = port.strip_suffix("/tcp")?;
        (own == name || words.any(|alias| alias == name)).then(|| port.parse().ok())?
    });
    listed.or_else(|| PORTS.iter().find(|(own, _)| *own == name).map(|(_, port)| *port))
}

fn in_hosts(old: &Old, name: &str) -> Option<IpAddr> {
    let hosts = old.look(&old.at("/etc/hosts"))?;
    let hosts = String::from_utf8_lossy(&hosts);
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|own| own.eq_ignore_ascii_case(name)).then_some(address)
    })
}
