//! qmail-local: one delivery on this host.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mailtree_protocols::received::Invoker;
use mailtree_protocols::report::Report;
use mailtree_protocols::{address, maildir};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::State;
use super::plan::{Plan, one_line, plan, unreadable_mess};
use crate::qmail_send::Delivery;
use crate::queue::sync::Error;

/// Bytes of a message that are read at once.
const CHUNK: usize = 64 * 1024;

/// The worker.
pub(super) struct Local;

/// Its only message: begin.
pub(super) struct Begin;

impl Actor for Local {
    type Msg = Begin;
    type State = Option<(State, Delivery)>;
    type Arguments = (State, Delivery);

    async fn pre_start(
        &self,
        myself: ActorRef<Begin>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.cast(Begin)?;
        Ok(Some(arguments))
    }

    async fn handle(
        &self,
        myself: ActorRef<Begin>,
        _: Begin,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some((state, delivery)) = state.take() {
            let mut reports = Vec::with_capacity(delivery.recipients.len());
            for recipient in &delivery.recipients {
                reports.push(deliver(&state, &delivery, recipient).await.unwrap_or_else(|report| report));
            }
            delivery.report.send(reports);
        }
        myself.stop(None);
        Ok(())
    }
}

async fn deliver(state: &State, delivery: &Delivery, recipient: &[u8]) -> Result<Report, Report> {
    let disk = Arc::clone(state.arguments.queue.disk());
    let mess = disk.mess(delivery.id);
    let (made, size) = {
        let (state, recipient, mess) = (state.clone(), recipient.to_vec(), mess.clone());
        let planning = tokio::task::spawn_blocking(move || {
            let size = std::fs::metadata(&mess).map_err(unreadable_mess)?.size();
            plan(&state, &recipient, &mess).map(|plan| (plan, size))
        });
        planning.await.map_err(|_| Report::deferral("qmail-local crashed.\n"))??
    };
    let delivered_to = made.delivered_to.clone();
    let head = [
        b"Return-Path: <",
        &*one_line(&address::quoted(&delivery.sender).unwrap_or_else(|| delivery.sender.clone())),
        b">\nDelivered-To: ",
        &*delivered_to,
        b"\n",
    ]
    .concat();
    for (n, dir) in made.maildirs.iter().enumerate() {
        let name = name(state, delivery.serial, n, size + head.len() as u64);
        state
            .arguments
            .queue
            .deliver(delivery.id, dir.clone(), name, head.clone(), Arc::clone(&delivery.report))
            .await
            .map_err(|error| maildir_trouble(dir, &error))?;
    }
    let mut did = format!("did {}+{}+{}\n", made.did.0, made.did.1, made.did.2);
    if !made.forwards.is_empty() {
        let qp = forward(state, delivery, &made, &mess).await?;
        did.push_str(&format!("qp {qp}\n"));
    }
    Ok(Report::success(did))
}

fn name(state: &State, serial: u64, n: usize, size: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Serial and n together are unique in this process.
    let delivery = serial.wrapping_mul(1000).wrapping_add(n as u64);
    maildir::name(now.as_secs(), now.subsec_micros(), std::process::id(), delivery, &state.arguments.me, size)
}

fn maildir_trouble(dir: &Path, error: &Error) -> Report {
    tracing::warn!("warning: unable to deliver to {}: {error}", dir.display());
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            Report::deferral("Unable to chdir to maildir. (#4.2.1)\n")
        }
        _ => Report::deferral("Temporary error on maildir delivery. (#4.3.0)\n"),
    }
}

/// Puts the message back into the queue for other addresses; the number of that queueing.
async fn forward(state: &State, delivery: &Delivery, made: &Plan, mess: &Path) -> Result<u64, Report> {
    let trouble = |cause: String| {
        tracing::warn!(msg = delivery.id.0, "warning: unable to forward: {cause}");
        Report::deferral("Unable to forward message: qq trouble. (#4.3.0)\n")
    };
    let queue = &state.arguments.queue;
    let mut reception = queue.open(Invoker::Alias).await.map_err(|refused| trouble(refused.to_string()))?;
    let line = [b"Delivered-To: ", &*made.delivered_to, b"\n"].concat();
    reception.write(&line).await.map_err(|error| trouble(error.to_string()))?;
    let mut file = File::open(mess).await.map_err(unreadable_mess)?;
    let mut chunk = Vec::with_capacity(CHUNK);
    while file.read_buf(&mut chunk).await.map_err(unreadable_mess)? > 0 {
        reception.write(&chunk).await.map_err(|error| trouble(error.to_string()))?;
        chunk.clear();
    }
    let commit = reception.commit(delivery.sender.clone(), made.forwards.clone());
    Ok(commit.await.map_err(|error| trouble(error.to_string()))?.qp)
}
