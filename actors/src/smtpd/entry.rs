//! What happens between accepting a connection and the greeting: PROXY protocol, the client's name, its rule, TLS from the
//! first byte, rblsmtpd, the greeting delay.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mailtree_config::control;
use mailtree_config::host::ReverseDns;
use mailtree_protocols::rblsmtpd::conversation::{Next, Rejection, Session};
use mailtree_protocols::rblsmtpd::decision::{Decision, from_env};
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::tcprules::{self, Hit, Variables};
use mailtree_protocols::{proxy, tcpserver as line};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{Client, QUESTIONS};
use super::{Smtpd, count_replies};
use crate::cdb_files::about;
use crate::filter::rblsmtpd;
use crate::resolver::Resolver;
use crate::tcpserver::{Connection, Stream, count};
use crate::tls::{self, Context};

/// How long a proxy may take to say for whom it connects.
const PROXY: Duration = Duration::from_secs(10);

/// How long a client may take for its part of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// The longest greeting delay.
const DELAY_MAX: u64 = 300;

/// tcpserver's exit code for a denied client.
const DENIED: u8 = 100;

/// What is known of a connection that TLS secures.
pub(super) struct Secured {
    /// OpenSSL's name of the cipher suite.
    pub(super) cipher: &'static str,
    /// The client's certificate lets it relay (`control/tlsclients`).
    pub(super) relay: bool,
}

/// A client that has come to the greeting.
pub(super) struct Entered {
    pub(super) client: Client,
    pub(super) secured: Option<Secured>,
}

/// Why there is no session.
pub(super) enum Left {
    /// All was said; the session ends with this code.
    Exit(u8),
    /// The client is gone or broke its connection.
    Gone,
}

impl From<io::Error> for Left {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Leads a client to the greeting.
pub(super) async fn enter(
    smtpd: &Smtpd,
    controls: &control::Smtpd,
    connection: &mut Connection,
) -> Result<Entered, Left> {
    let proxied = if connection.is_proxied() { read_proxy(connection).await } else { Ok(()) };
    let (ip, pid) = (connection.peer.ip().to_canonical(), connection.end.pid());
    connection.end.log_pid(ip);
    proxied?;
    let host = host_of(ip, smtpd.reverse_dns, &smtpd.resolver).await;
    let hit = match smtpd.rule(ip, host.as_deref()) {
        Ok(hit) => hit,
        Err(error) => {
            tracing::warn!("{}", line::dropping(&error));
            return Err(refuse(connection, &Refusal::controls(), 111).await);
        }
    };
    let deny = hit.as_ref().is_some_and(|hit| hit.deny);
    let local_host = &controls.me;
    let client = client(smtpd, connection.peer, connection.local, local_host, host, hit);
    connection.end.log_verdict(&line::Ok {
        pid,
        local_host: Some(local_host.as_bytes()),
        local_ip: connection.local.ip(),
        local_port: connection.local.port(),
        remote_host: client.host().map(str::as_bytes),
        remote_ip: client.ip(),
        remote_info: client.info().map(str::as_bytes),
        remote_port: connection.peer.port(),
        deny,
    });
    if deny {
        count(&smtpd.service, "deny");
        return Err(Left::Exit(DENIED));
    }
    let secured = if client.is_set("SMTPS") { Some(handshake(smtpd, connection).await?) } else { None };
    if let Some(rejection) = rejected(smtpd, &client).await {
        count(&smtpd.service, "rblsmtpd");
        tracing::info!("{}", rejection.log(client.ip(), pid));
        return Err(converse(rejection, smtpd.rblsmtpd.timeout, &mut connection.stream).await?);
    }
    greeting_delay(&client, connection).await?;
    Ok(Entered { client, secured })
}

/// The environment of the service, then tcpserver's, then that of the rule.
pub(super) fn client(
    smtpd: &Smtpd,
    peer: SocketAddr,
    local: SocketAddr,
    local_host: &str,
    host: Option<String>,
    hit: Option<Hit>,
) -> Client {
    let mut variables = Variables::default();
    let mut set = |name: &str, value: String| variables.set(name.into(), value.into());
    for (name, value) in &smtpd.environment {
        set(name, value.clone());
    }
    set("PROTO", "TCP".to_owned());
    set("TCPLOCALIP", local.ip().to_canonical().to_string());
    set("TCPLOCALPORT", local.port().to_string());
    set("TCPLOCALHOST", local_host.to_owned());
    set("TCPREMOTEIP", peer.ip().to_canonical().to_string());
    set("TCPREMOTEPORT", peer.port().to_string());
    if let Some(host) = host {
        set("TCPREMOTEHOST", host);
    }
    for (name, value) in hit.into_iter().flat_map(|hit| hit.variables) {
        variables.set(name, value);
    }
    Client { peer, local, variables, resolver: smtpd.resolver.counted(QUESTIONS) }
}

impl Smtpd {
    /// The rule for a client; none: it may connect, and nothing is set for it.
    ///
    /// # Errors
    /// When there are none, or they cannot be read or are damaged and never were in order: nobody may connect then.
    pub fn rule(&self, ip: IpAddr, host: Option<&str>) -> Result<Option<Hit>, String> {
        let unreadable = |error: std::io::Error| format!("unable to read {error}");
        let rules = self.files.recent(&self.rules).map_err(unreadable)?;
        let rules = rules.ok_or_else(|| unreadable(about(&self.rules, &"no such file")))?;
        let client = tcprules::Client { info: None, ip, host: host.map(str::as_bytes) };
        tcprules::lookup(&rules, &client).map_err(|error| unreadable(about(&self.rules, &error)))
    }
}

/// The name of the client's address, as tcpserver is told to look for it.
pub(super) async fn host_of(ip: IpAddr, reverse_dns: ReverseDns, resolver: &Resolver) -> Option<String> {
    if reverse_dns == ReverseDns::Off {
        return None;
    }
    let name = resolver.names(ip).await.ok()?.into_iter().next()?;
    if name.is_empty() || name.len() > tcprules::HOST_MAX {
        return None;
    }
    if reverse_dns == ReverseDns::Paranoid {
        let addresses = resolver.addresses(&name).await.ok()?;
        addresses.iter().any(|address| address.to_canonical() == ip).then_some(name)
    } else {
        Some(name)
    }
}

/// Reads the PROXY header that comes before everything else. A proxy that speaks for itself (health checks) stays who it is.
async fn read_proxy(connection: &mut Connection) -> Result<(), Left> {
    let Stream::Plain(stream) = &mut connection.stream else { return Err(Left::Gone) };
    let end = Instant::now() + PROXY;
    let mut buffer = vec![0; proxy::MAX_HEADER];
    let mut seen = 0;
    let (header, length) = loop {
        // Nothing behind the header may be taken from the socket: TLS or the dialogue begins there.
        timeout_at(end, stream.readable()).await.map_err(|_| Left::Gone)??;
        let peeked = timeout_at(end, stream.peek(&mut buffer)).await.map_err(|_| Left::Gone)??;
        match proxy::parse(&buffer[..peeked]) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) if peeked > seen => seen = peeked,
            // Bytes that were seen before wake us again at once.
            Ok(None) if peeked == 0 => return Err(Left::Gone),
            Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => {
                tracing::warn!(
                    "{}",
                    line::dropping(&format!("{} sent no PROXY header: {error}", connection.peer))
                );
                return Err(Left::Exit(DENIED));
            }
        }
        if Instant::now() >= end {
            return Err(Left::Gone);
        }
    };
    stream.read_exact(&mut buffer[..length]).await?;
    if let Some((peer, local)) = header
        && !connection.proxied(peer, local)
    {
        return Err(refuse(connection, &Refusal::too_many_connections(), 1).await);
    }
    Ok(())
}

/// TLS before the first byte of SMTP.
async fn handshake(smtpd: &Smtpd, connection: &mut Connection) -> Result<Secured, Left> {
    let Some(context) = smtpd.tls.current() else {
        tracing::error!("alert: SMTPS without a certificate that can be used");
        return Err(Left::Exit(111));
    };
    secure(connection, context).await.map_err(|_| Left::Exit(1))
}

/// Secures a connection; what is known of it then. A failure closes it.
pub(super) async fn secure(connection: &mut Connection, context: Arc<Context>) -> Result<Secured, ()> {
    let Some(stream) = connection.stream.take_plain() else { return Err(()) };
    match tls::accept(stream, context, HANDSHAKE).await {
        Ok(accepted) => {
            let (ip, pid) = (connection.peer.ip().to_canonical(), connection.end.pid());
            let tls::Accepted { stream, protocol, cipher, relay, no_relay, client_email, .. } = accepted;
            let email = client_email.unwrap_or_default();
            tracing::debug!(
                pid,
                protocol,
                cipher,
                email,
                "qmail-smtpd: pid {pid} tls {protocol} {cipher} {email}"
            );
            if let Some(why) = no_relay {
                tracing::info!("qmail-smtpd: pid {pid} no valid cert for gatewaying from {ip}: {why}");
            }
            connection.stream = Stream::Tls(Box::new(stream));
            metrics::counter!("mailtree_smtpd_tls_handshakes_total", "result" => "ok").increment(1);
            Ok(Secured { cipher, relay })
        }
        Err(failure) => {
            let (ip, pid) = (connection.peer.ip().to_canonical(), connection.end.pid());
            tracing::info!("qmail-smtpd: pid {pid} tls from {ip} failed: {failure}");
            metrics::counter!("mailtree_smtpd_tls_handshakes_total", "result" => "failed").increment(1);
            Err(())
        }
    }
}

/// What rblsmtpd has against a client.
async fn rejected(smtpd: &Smtpd, client: &Client) -> Option<Rejection> {
    let decision = match from_env(client.variables.get("RBLSMTPD")) {
        // A variable counts only where there is an rblsmtpd to look at it, or where it names a text.
        Decision::Undecided => rblsmtpd::ask(&smtpd.rblsmtpd.options, client.ip(), &client.resolver).await,
        decided => decided,
    };
    match decision {
        Decision::Reject { permanent, text, .. } => Some(Rejection::new(permanent, &text)),
        Decision::Undecided | Decision::Accept { .. } => None,
    }
}

/// The limited conversation, for at most `seconds`.
async fn converse(rejection: Rejection, seconds: u64, stream: &mut Stream) -> io::Result<Left> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut out = Vec::new();
    if seconds == 0 {
        rejection.write(&mut out);
        timeout(PROXY, send(stream, &out)).await??;
        stream.shutdown().await?;
        return Ok(Left::Exit(0));
    }
    let mut session = Session::new(rejection);
    session.greeting(&mut out);
    let mut buffer = [0; 1024];
    let talked = timeout_at(end, async {
        send(stream, &out).await?;
        loop {
            let read = stream.read(&mut buffer).await?;
            let mut rest = &buffer[..read];
            if rest.is_empty() {
                return Ok(());
            }
            while !rest.is_empty() {
                out.clear();
                let (taken, next) = session.receive(rest, &mut out);
                rest = &rest[taken..];
                send(stream, &out).await?;
                if next == Next::Close {
                    return stream.shutdown().await;
                }
            }
        }
    });
    match talked.await {
        Ok(done) => done.map(|()| Left::Exit(0)),
        Err(_) => Ok(Left::Exit(1)),
    }
}

/// Sends all of it: TLS keeps what the socket does not take at once until it is flushed.
pub(super) async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Waits as SMTPD_GREETDELAY says, in seconds. A client that talks before it is greeted is no mail client.
async fn greeting_delay(client: &Client, connection: &mut Connection) -> Result<(), Left> {
    let seconds = client.number("SMTPD_GREETDELAY").unwrap_or(0).min(DELAY_MAX);
    let early = match &connection.stream {
        Stream::Plain(stream) => talks(stream, seconds, &mut connection.stopping).await?,
        Stream::Tls(_) | Stream::Closed => {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            false
        }
    };
    if early {
        let (ip, pid) = (client.ip(), connection.end.pid());
        tracing::info!("qmail-smtpd: pid {pid} early talker {ip}");
        return Err(refuse(connection, &Refusal::protocol_violation(), 1).await);
    }
    Ok(())
}

/// Whether the client says something within so many seconds.
async fn talks(
    stream: &TcpStream,
    seconds: u64,
    stopping: &mut tokio::sync::watch::Receiver<bool>,
) -> Result<bool, Left> {
    let mut byte = [0; 1];
    let over = async {
        // Not even the shortest timer: its tick is a millisecond.
        if seconds > 0 {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    };
    tokio::select! {
        biased;
        peeked = stream.peek(&mut byte) => match peeked? {
            0 => Err(Left::Gone),
            _ => Ok(true),
        },
        _ = stopping.wait_for(|stopping| *stopping) => Ok(false),
        () = over => Ok(false),
    }
}

/// Says one refusal and closes.
pub(super) async fn refuse(connection: &mut Connection, refusal: &Refusal, code: u8) -> Left {
    let mut out = Vec::new();
    refusal.write(false, &mut out);
    count_replies(&out);
    let said = async {
        send(&mut connection.stream, &out).await?;
        connection.stream.shutdown().await
    };
    match timeout(PROXY, said).await {
        Ok(Ok(())) => Left::Exit(code),
        Ok(Err(_)) | Err(_) => Left::Gone,
    }
}
