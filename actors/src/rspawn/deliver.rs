//! qmail-remote: one transaction with another host. The dialogue is `protocols::smtp::client`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mailtree_config::control::Remote as Controls;
use mailtree_protocols::address;
use mailtree_protocols::report::Report;
use mailtree_protocols::smtp::client::{Client, DataError, Mail, Outcome, Want};
use mailtree_protocols::smtp::stuff::DotStuffer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::Remote;
use super::exchangers::addresses;
use super::shape::{Shape, shape};
use crate::delivery::Delivery;
use crate::queue::{Body, CHUNK};

/// The longest a transaction may take, however busy it looks.
const TRANSACTION: Duration = Duration::from_secs(6 * 3600);

/// Delivers to all recipients in one transaction, and reports.
pub(super) async fn deliver(remote: Arc<Remote>, delivery: Delivery) {
    let count = delivery.recipients.len();
    let reports = match attempt(&remote, &delivery).await {
        Ok(outcome) => (0..count).map_while(|recipient| outcome.report(recipient)).collect(),
        Err(report) => vec![report; count],
    };
    delivery.report.send(reports);
}

async fn attempt(state: &Remote, delivery: &Delivery) -> Result<Outcome, Report> {
    let controls = state.arguments.controls.remote().map_err(|error| {
        tracing::error!("alert: unable to read controls: {error}");
        Report::deferral("Unable to read control files. (#4.3.0)\n")
    })?;
    let domain = delivery.recipients.first().and_then(|recipient| address::split(&recipient.address).1);
    let domain =
        domain.ok_or_else(|| Report::failure("Sorry, address must include host name. (#5.1.3)\n"))?;
    let (ips, port) = addresses(&state.arguments.resolver, domain, &delivery.route).await?;
    let port = port.unwrap_or(state.arguments.port);
    let (queue, id) = (state.arguments.queue.clone(), delivery.id);
    let looking = tokio::task::spawn_blocking(move || {
        let body = queue.body(id)?;
        shape(&body).map(|shape| (body, shape))
    });
    let (body, shape) = looking.await.map_err(io::Error::other).flatten().map_err(unreadable)?;
    let mut last = Report::deferral("Sorry, I wasn't able to establish an SMTP connection. (#4.4.1)\n");
    for ip in ips {
        if state.is_down(ip, delivery.serial) {
            continue;
        }
        let Some(stream) = connect(state, &controls, SocketAddr::new(ip, port)).await else { continue };
        let outcome = transaction(delivery, &controls, ip, stream, (&body, shape)).await?;
        if outcome.greeted || outcome.message.class != mailtree_protocols::report::Class::Deferral {
            return Ok(outcome);
        }
        // It is there but does not want to talk now: another exchanger may.
        last = outcome.message;
    }
    Err(last)
}

fn unreadable(error: io::Error) -> Report {
    tracing::error!("alert: unable to read a message: {error}");
    Report::deferral("Unable to read message. (#4.3.0)\n")
}

async fn connect(state: &Remote, controls: &Controls, peer: SocketAddr) -> Option<TcpStream> {
    let connecting = async {
        let socket = if peer.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(ip) = state.arguments.outgoing_ip.filter(|ip| ip.is_ipv4() == peer.is_ipv4()) {
            socket.bind(SocketAddr::new(ip, 0))?;
        }
        socket.connect(peer).await
    };
    let (stream, timed_out) = match timeout(controls.timeoutconnect, connecting).await {
        Ok(Ok(stream)) => (Some(stream), false),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "qmail-remote: unable to connect");
            (None, error.kind() == io::ErrorKind::TimedOut)
        }
        Err(_) => (None, true),
    };
    // A refused connection says nothing about the next one.
    if stream.is_some() || timed_out {
        state.note(peer.ip(), timed_out).await;
    }
    stream
}

async fn transaction(
    delivery: &Delivery,
    controls: &Controls,
    ip: IpAddr,
    mut stream: TcpStream,
    (body, shape): (&Body, Shape),
) -> Result<Outcome, Report> {
    let mut client = Client::new(Mail {
        helo: controls.helohost.clone(),
        ip: ip.to_string(),
        reverse_path: delivery.sender.clone(),
        forward_paths: delivery.recipients.iter().map(|recipient| recipient.address.clone()).collect(),
        eight_bit: shape.eight_bit,
        size: shape.size,
    });
    let limit = controls.timeoutremote;
    let talking = talk(body, &mut client, &mut stream, limit);
    let talked = timeout(TRANSACTION, talking).await.map_err(io::Error::from).flatten();
    if talked.is_err() {
        client.connection_died();
    }
    client.outcome().ok_or_else(|| Report::deferral("qmail-remote crashed.\n"))
}

/// Carries the dialogue to its end; an error is the connection's.
async fn talk(body: &Body, client: &mut Client, stream: &mut TcpStream, limit: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut out, mut input) = (Vec::new(), Vec::with_capacity(4096));
    // A peer that trickles its replies must not hold a delivery longer than one that is silent.
    let mut waiting = None;
    loop {
        out.clear();
        let want = client.poll(&mut out);
        send(stream, &out, limit).await?;
        match want {
            Want::Read(wait) => {
                let deadline = match waiting {
                    Some((same, deadline)) if same == wait => deadline,
                    _ => Instant::now() + limit,
                };
                waiting = Some((wait, deadline));
                if input.is_empty() {
                    let mut part = stream.take(4096);
                    if timeout_at(deadline, part.read_buf(&mut input)).await?? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                let read = client.step(&input);
                input.drain(..read);
            }
            Want::SendData => {
                let sent = send_mess(body, stream, limit).await?;
                client.data_sent(sent);
            }
            // The outcome is settled; how the peer takes the goodbye is its own matter.
            Want::Done => return Ok(()),
        }
    }
}

async fn send(stream: &mut TcpStream, bytes: &[u8], limit: Duration) -> io::Result<()> {
    if bytes.is_empty() { Ok(()) } else { timeout(limit, stream.write_all(bytes)).await? }
}

/// Streams the message. The inner error is the message's, the outer one the connection's.
async fn send_mess(
    body: &Body,
    stream: &mut TcpStream,
    limit: Duration,
) -> io::Result<Result<(), DataError>> {
    let mut stuffer = DotStuffer::new();
    let (mut at, mut chunk, mut out) = (0, Vec::new(), Vec::with_capacity(CHUNK + CHUNK / 16));
    loop {
        chunk = match body.next_chunk(at, chunk).await {
            Ok(chunk) if chunk.is_empty() => break,
            Ok(chunk) => chunk,
            Err(_) => return Ok(Err(DataError::Unreadable)),
        };
        at += chunk.len() as u64;
        stuffer.push(&chunk, &mut out);
        send(stream, &out, limit).await?;
        out.clear();
    }
    let finished = stuffer.finish(&mut out);
    send(stream, &out, limit).await?;
    Ok(finished.map_err(|_| DataError::PartialLine))
}
