//! A load balancer that says with the PROXY protocol for whom it connects.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};

use crate::smtp::dial;

/// The twelve bytes at the start of a header of version 2.
pub const MAGIC: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Port of every client that a header names.
pub const PORT: u16 = 40_000;

/// Where every client of this family says it came to, with port 25.
pub fn destination(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => [198, 51, 100, 25].into(),
        IpAddr::V6(_) => "2001:db8:25::25".parse().unwrap(),
    }
}

/// The header of version 1 for a client.
pub fn v1(client: &str) -> Vec<u8> {
    let client: IpAddr = client.parse().unwrap();
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {client} {} {PORT} 25\r\n", destination(client)).into_bytes()
}

/// The header of version 2 for a client.
pub fn v2(client: &str) -> Vec<u8> {
    let client: IpAddr = client.parse().unwrap();
    let (family, addresses) = match (client, destination(client)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (0x11, [from.octets(), to.octets()].concat()),
        (IpAddr::V6(from), IpAddr::V6(to)) => (0x21, [from.octets(), to.octets()].concat()),
        _ => unreachable!("one family"),
    };
    let ports = [PORT.to_be_bytes(), 25_u16.to_be_bytes()].concat();
    let length = u16::try_from(addresses.len() + ports.len()).unwrap().to_be_bytes();
    [MAGIC, &[0x21, family], &length, &addresses, &ports].concat()
}

/// A connection that begins with `header`, of which nothing has been read.
pub fn dial_with(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = dial(address).unwrap();
    stream.write_all(header).unwrap();
    stream
}

/// A connection in the name of a client.
pub fn dial_as(address: SocketAddr, client: &str) -> TcpStream {
    dial_with(address, &v2(client))
}
