//! Every default in one place. Times are in seconds and sizes in bytes where the name says nothing else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

// host.ron: what qmail has no file for.

/// A stop takes at most this long: sessions and deliveries that still run then are cut.
pub const GRACE: Duration = Duration::from_secs(20);
/// Connections from one address at a time.
pub const PER_IP: usize = 16;
/// Recipients of one transaction; RFC 5321 4.5.3.1.8 asks for at least 100.
pub const RECIPIENTS: usize = 1000;
/// Networks that the limit of connections for one address does not bind.
pub const UNLIMITED: [&str; 2] = ["127.0.0.0/8", "::1"];
/// The compiled rules of tcpserver, relative to the home.
pub const RULES: &str = "tcp.smtp.cdb";
/// Where smtpd listens.
pub const SMTPD_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2525);
/// Where the metrics are served.
pub const METRICS_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 11600);
/// Messages being received at once, over all services.
pub const RECEIVING: usize = 200;
/// Bytes of messages being received at once, over all services: 1 GiB.
pub const RECEIVING_BYTES: u64 = 1 << 30;
/// The queue takes no message when its disk has fewer free bytes: 64 MiB.
pub const FREE_BYTES: u64 = 64 << 20;
/// The queue takes no message when its file system has fewer free inodes.
pub const FREE_INODES: u64 = 1000;
/// Threads that make the queue's files durable.
pub const DISK_THREADS: usize = 4;
/// Size of a segment of the journal: 64 MiB.
pub const SEGMENT: u64 = 64 << 20;
/// Segments that the journal may have.
pub const SEGMENTS: usize = 8;
/// A DNS question is given up after this long.
pub const RESOLVER_DEADLINE: Duration = Duration::from_secs(30);
/// DNS questions asked at once.
pub const RESOLVER_IN_FLIGHT: usize = 1024;
/// Bytes of answers that the resolver keeps.
pub const RESOLVER_CACHE: u64 = 8 * 1024 * 1024;
/// Threads that check passwords.
pub const AUTH_THREADS: usize = 2;
/// Passwords that wait to be checked.
pub const AUTH_WAITING: usize = 100;
/// Where clamd listens.
pub const CLAMD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3310);
/// Where spamd listens.
pub const SPAMD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 783);
/// Messages scanned at once.
pub const SCANNERS_AT_ONCE: usize = 8;
/// A message is scanned for at most so long.
pub const SCANNERS_DEADLINE: Duration = Duration::from_secs(120);
/// Programs run at once for sessions.
pub const PROGRAMS_AT_ONCE: usize = 20;
/// A program runs for at most so long.
pub const PROGRAMS_DEADLINE: Duration = Duration::from_secs(300);
/// Address space of a program: 512 MiB.
pub const PROGRAMS_MEMORY: u64 = 512 << 20;

/// A program of a delivery may run for so long.
pub const PROGRAMS_DELIVERY: Duration = Duration::from_secs(900);

/// Descriptors of a program of a delivery.
pub const PROGRAMS_FILES: u64 = 256;

/// Processes of a user to whom something is delivered.
pub const PROGRAMS_PROCESSES: u64 = 512;

/// Processor time of a process of a delivery.
pub const PROGRAMS_CPU: Duration = Duration::from_secs(300);
/// Port of other mail hosts.
pub const REMOTE_PORT: u16 = 25;
/// Port of a name server whose address is given without one.
pub const DNS_PORT: u16 = 53;

// Control files (qmail-control); those that are not here have `me` or nothing as their default.

/// `concurrencyincoming`: connections at once (tcpserver -c).
pub const CONCURRENCYINCOMING: usize = 40;
/// `concurrencylocal` (qmail-send).
pub const CONCURRENCYLOCAL: usize = 10;
/// `concurrencyremote` (qmail-send).
pub const CONCURRENCYREMOTE: usize = 20;
/// The greatest number that a concurrency may have.
pub const CONCURRENCY_MAX: usize = 65000;
/// `databytes` (qmail-smtpd): 0 is no limit.
pub const DATABYTES: u64 = 0;
/// `brtlimit` (realrcptto patch): no limit.
pub const BRTLIMIT: u64 = 0;
/// The greatest number that `maxrcpt` may have.
pub const MAXRCPT_MAX: usize = 100_000;
/// `spfbehavior` (SPF patch): SPF is not checked.
pub const SPFBEHAVIOR: u64 = 0;
/// `queuelifetime` (qmail-send): one week.
pub const QUEUELIFETIME: u64 = 604_800;
/// `timeoutsmtpd` (qmail-smtpd).
pub const TIMEOUTSMTPD: u64 = 1200;
/// `timeoutconnect` (qmail-remote).
pub const TIMEOUTCONNECT: u64 = 60;
/// `timeoutremote` (qmail-remote).
pub const TIMEOUTREMOTE: u64 = 1200;
/// `bouncefrom` (qmail-send).
pub const BOUNCEFROM: &str = "MAILER-DAEMON";
/// `doublebounceto` (qmail-send).
pub const DOUBLEBOUNCETO: &str = "postmaster";
