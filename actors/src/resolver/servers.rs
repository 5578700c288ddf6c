//! The name servers: those of `host.ron` or of `/etc/resolv.conf`, with and without EDNS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::DnsExchange;
use hickory_resolver::{ConnectionProvider, PoolContext, Resolver, system_conf};
use mailtree_config::regular;

/// Where the system names its servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Bytes of it that are read: 1 MiB.
const RESOLV_CONF_MAX: u64 = 1 << 20;

/// The ways to ask.
#[derive(Clone)]
pub(super) struct Servers {
    /// As RFC 6891 has it.
    pub(super) edns: Resolver<OneTry>,
    /// For servers that know nothing of it.
    pub(super) plain: Resolver<OneTry>,
}

impl Servers {
    /// The servers named, or the system's; each is given an eighth of `deadline` to answer by UDP.
    ///
    /// # Errors
    /// When what the system says cannot be read.
    pub(super) fn new(named: &[SocketAddr], deadline: Duration) -> Result<Self, NetError> {
        let config = if named.is_empty() { of_the_system()? } else { of(named) };
        let build = |edns0| {
            let patience = (deadline / 8).max(Duration::from_millis(500));
            let mut builder = Resolver::builder_with_config(
                config.clone(),
                OneTry { patience, runtime: TokioRuntimeProvider::default() },
            );
            let options: &mut ResolverOpts = builder.options_mut();
            options.timeout = deadline;
            // Tries are counted where each gets a question of its own.
            options.attempts = 0;
            options.ndots = 0;
            options.edns0 = edns0;
            // What is kept is kept in `Cache`.
            options.cache_size = 0;
            builder.build()
        };
        Ok(Self { edns: build(true)?, plain: build(false)? })
    }
}

fn of(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |server: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}

/// The servers of `resolv.conf`; this machine's where it names none, or is none (resolv.conf(5)).
fn of_the_system() -> Result<ResolverConfig, NetError> {
    let here = || of(&[SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)]);
    let Some(text) = regular::read(Path::new(RESOLV_CONF), RESOLV_CONF_MAX)? else { return Ok(here()) };
    let names = |line: &[u8]| line.trim_ascii_start().starts_with(b"nameserver");
    if !text.split(|&byte| byte == b'\n').any(names) {
        return Ok(here());
    }
    system_conf::parse_resolv_conf(text).map(|(config, _)| config)
}

/// Connections to name servers. By UDP a question is sent once: one that is sent again under the same id would give who
/// guesses at it more than one chance.
#[derive(Clone)]
pub(super) struct OneTry {
    patience: Duration,
    /// Its connections live as long as it does.
    runtime: TokioRuntimeProvider,
}

impl ConnectionProvider for OneTry {
    type Conn = DnsExchange<TokioRuntimeProvider>;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Self::Conn, NetError>> + Send + 'static>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        context: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        if !matches!(config.protocol, ProtocolConfig::Udp) {
            return self.runtime.new_connection(ip, config, context);
        }
        let udp = UdpClientStream::builder(SocketAddr::new(ip, config.port), self.runtime.clone())
            .with_timeout(Some(self.patience))
            .with_max_retries(0);
        Ok(Box::pin(async move { Ok(udp.exchange()) }))
    }

    fn runtime_provider(&self) -> &Self::RuntimeProvider {
        &self.runtime
    }
}
