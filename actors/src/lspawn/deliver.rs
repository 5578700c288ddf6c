//! qmail-local: one delivery on this host.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::received::Invoker;
use mailtree_protocols::report::Report;
use mailtree_protocols::{address, maildir as names};

use super::Local;
use super::plan::{Home, Plan, Target, one_line, unreadable_mess};
use crate::delivery::Delivery;
use crate::maildir::{self, Copy};
use crate::pool::{Key, Refused};
use crate::queue::{Alongside, Body};

/// How long a user's file system may take for one delivery; then the slot is given up.
const DEADLINE: Duration = Duration::from_secs(60);

/// Devices that are none: who looks up accounts, and the queue's own files.
const ACCOUNTS: u64 = u64::MAX;

/// What a delivery thread has come to.
struct Done {
    plan: Plan,
    body: Body,
}

/// What a thread needs to know of a delivery: not where to report. A thread that hangs must not keep the port, and with it a
/// new qmail-send, waiting.
struct Job {
    id: MessageId,
    birth: u64,
    sender: Vec<u8>,
    channel: Channel,
    again: bool,
}

/// Delivers to each recipient, and reports.
pub(super) async fn deliver(local: Arc<Local>, delivery: Delivery) {
    let Delivery { id, birth, sender, recipients, channel, again, report, .. } = delivery;
    let job = Arc::new(Job { id, birth, sender, channel, again });
    let mut reports = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        reports.push(one(&local, &job, Arc::new(recipient)).await.unwrap_or_else(|report| report));
    }
    report.send(reports);
}

async fn one(local: &Arc<Local>, job: &Arc<Job>, recipient: Arc<Recipient>) -> Result<Report, Report> {
    let home = home(local, &recipient).await?;
    let mut hasher = DefaultHasher::new();
    recipient.address.hash(&mut hasher);
    let key = Key { device: local.mounts.device(&home.dir), person: hasher.finish() };
    let work = {
        let (local, job, recipient) = (Arc::clone(local), Arc::clone(job), Arc::clone(&recipient));
        move || on_thread(&local, &job, &recipient, home)
    };
    let done = local.arguments.pool.run(key, DEADLINE, work).await.map_err(|refused| silent(&refused))??;
    let did = done.plan.did;
    let mut text = format!("did {}+{}+{}\n", did.0, did.1, did.2);
    if !done.plan.forwards.is_empty() {
        let qp = forward(local, job, &recipient, &done).await?;
        text.push_str(&format!("qp {qp}\n"));
    }
    Ok(Report::success(text))
}

/// Who the recipient is, as `users/cdb` says; without an entry there, the accounts of the system are asked, which may take
/// a directory server.
async fn home(local: &Arc<Local>, recipient: &Recipient) -> Result<Home, Report> {
    if let Some(home) = local.assigned(&recipient.address)? {
        return Ok(home);
    }
    let (asked, address) = (Arc::clone(local), recipient.address.clone());
    let key = Key { device: ACCOUNTS, person: 0 };
    let asking = local.arguments.pool.run(key, DEADLINE, move || asked.unassigned(&address));
    asking.await.map_err(|_| Report::deferral("Unable to run qmail-getpw. (#4.3.0)\n"))?
}

fn silent(refused: &Refused) -> Report {
    match refused {
        Refused::Stalled => Report::deferral("The file system of this mailbox does not answer. (#4.2.1)\n"),
        Refused::Overdue => {
            Report::deferral("The file system of this mailbox has not answered in time. (#4.2.1)\n")
        }
    }
}

/// What may wait for the user's file system.
fn on_thread(local: &Local, job: &Job, recipient: &Recipient, home: Home) -> Result<Done, Report> {
    let queue = &local.arguments.queue;
    let body = queue.body(job.id).map_err(unreadable_mess)?;
    let plan = local.plan(&recipient.address, home, &body)?;
    let head = [
        b"Return-Path: <",
        &*one_line(&address::quoted(&job.sender).unwrap_or_else(|| job.sender.clone())),
        b">\nDelivered-To: ",
        &*plan.delivered_to,
        b"\n",
    ]
    .concat();
    let size = body.size() + head.len() as u64;
    let mut copies = Vec::with_capacity(plan.maildirs.len());
    let (message, record) = ((job.id, job.birth), (job.channel, recipient.offset));
    let (again, doubted) = (job.again, job.again && queue.doubts(message, record));
    for (n, Target { dir, own }) in plan.maildirs.iter().enumerate() {
        let name = names::name(job.birth, job.id, recipient.offset, n, &local.arguments.me, size);
        let copy =
            Copy { maildir: dir, makes: *own, name: name.as_ref(), head: &head, body: &body, again, doubted };
        copies.push(maildir::deliver(&copy).map_err(|error| trouble(dir, &error))?);
    }
    // With a forward still to come the recipient is not done.
    let noted = !copies.is_empty() && plan.forwards.is_empty() && queue.delivered(message, record, &copies);
    if !noted {
        maildir::sync(&copies, job.again).map_err(|error| trouble(Path::new("a Maildir"), &error))?;
    }
    Ok(Done { plan, body })
}

fn trouble(dir: &Path, error: &io::Error) -> Report {
    tracing::warn!("warning: unable to deliver to {}: {error}", dir.display());
    match error.kind() {
        io::ErrorKind::NotFound => Report::deferral("Unable to chdir to maildir. (#4.2.1)\n"),
        _ => Report::deferral("Temporary error on maildir job. (#4.3.0)\n"),
    }
}

/// Puts the message back into the queue for other addresses; the number of that queueing.
async fn forward(local: &Local, job: &Job, recipient: &Recipient, done: &Done) -> Result<u64, Report> {
    let trouble = |cause: String| {
        tracing::warn!(msg = job.id.0, "warning: unable to forward: {cause}");
        Report::deferral("Unable to forward message: qq trouble. (#4.3.0)\n")
    };
    let queue = &local.arguments.queue;
    let mut reception = queue.open(Invoker::Alias).await.map_err(|refused| trouble(refused.to_string()))?;
    let line = [b"Delivered-To: ", &*done.plan.delivered_to, b"\n"].concat();
    reception.write(&line).await.map_err(|error| trouble(error.to_string()))?;
    let (mut at, mut chunk) = (0, Vec::new());
    loop {
        chunk = done.body.next_chunk(at, chunk).await.map_err(unreadable_mess)?;
        if chunk.is_empty() {
            break;
        }
        at += chunk.len() as u64;
        reception.write(&chunk).await.map_err(|error| trouble(error.to_string()))?;
    }
    let parent = Alongside::Forward(job.id, job.channel, recipient.offset);
    let commit = reception.commit_with(job.sender.clone(), done.plan.forwards.clone(), Some(parent));
    Ok(commit.await.map_err(|error| trouble(error.to_string()))?.qp)
}
