//! One delivery on this host.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::lspawn::Request;
use mailtree_protocols::qmail_local::{dtline, rpline};
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::received::Invoker;
use mailtree_protocols::report::Report;
use rustix::process::geteuid;

use super::Local;
use super::spawner::Delivered;
use crate::delivery::Delivery;
use crate::pool::{Key, Refused};
use crate::qmail_local::{self, Did, Home, Letter, Plan, Step, unreadable_mess};
use crate::queue::{Alongside, Body};

/// How long a user's file system may take for one delivery; then the slot is given up.
const DEADLINE: Duration = Duration::from_secs(60);

/// Devices that are none: who looks up accounts, and the queue's own files.
const ACCOUNTS: u64 = u64::MAX;

/// What a delivery thread has come to.
enum Done {
    /// Everything, but what goes on to other addresses.
    Delivered(Delivered, Body),
    /// It takes a process, with this home's rights.
    NeedsProcess(Body),
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
    let key = Key { device: local.mounts.device(&home.dir), person: hash(&recipient.address) };
    // Who has named no uid has the rights of his directory's owner.
    let person = hash(&(home.uid, &home.dir));
    let work = {
        let (local, job, recipient) = (Arc::clone(local), Arc::clone(job), Arc::clone(&recipient));
        move || on_thread(&local, &job, &recipient, home)
    };
    let done = local.arguments.pool.run(key, DEADLINE, work).await.map_err(|refused| silent(&refused))??;
    let (delivered, body) = match done {
        Done::Delivered(delivered, body) => (delivered, body),
        Done::NeedsProcess(body) => {
            let _turn = local.turns.take(person).await.ok_or_else(|| {
                Report::deferral("Earlier deliveries to this mailbox have not ended. (#4.3.2)\n")
            })?;
            (in_process(local, job, &recipient, &body).await?, body)
        }
    };
    let Delivered { delivered_to, sender, forwards, mut text } = delivered;
    if !forwards.is_empty() {
        let qp = forward(local, job, &recipient, (sender, forwards), &delivered_to, &body).await?;
        text.push_str(&format!("qp {qp}\n"));
    }
    Ok(Report::success(text))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Who the recipient is, as `users/cdb` says; without an entry there, the accounts of the system are asked, which may take
/// a directory server.
async fn home(local: &Arc<Local>, recipient: &Recipient) -> Result<Home, Report> {
    if let Some(home) = local.arguments.local.assigned(&recipient.address)? {
        return Ok(home);
    }
    let (asked, address) = (Arc::clone(local), recipient.address.clone());
    let key = Key { device: ACCOUNTS, person: 0 };
    let asking = local.arguments.pool.run(key, DEADLINE, move || asked.arguments.local.unassigned(&address));
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

/// Whether this process has the rights that the delivery is to have. A host that has never been root does with what is its
/// own whatever users/assign says of it.
fn is_own(home: &Home) -> bool {
    let own = geteuid();
    let owns = |dir: &Path| fs::metadata(dir).is_ok_and(|meta| meta.uid() == own.as_raw());
    home.uid == own.as_raw() || (!own.is_root() && owns(&home.dir))
}

/// What may wait for the user's file system.
fn on_thread(local: &Local, job: &Job, recipient: &Recipient, home: Home) -> Result<Done, Report> {
    let queue = &local.arguments.queue;
    let body = queue.body(job.id).map_err(unreadable_mess)?;
    let home = home.with_rights()?;
    if !is_own(&home) {
        return Ok(Done::NeedsProcess(body));
    }
    let plan = local.arguments.local.plan(&recipient.address, &job.sender, &home, &body)?;
    if plan.needs_process() {
        return Ok(Done::NeedsProcess(body));
    }
    let Plan { delivered_to, newsender: sender, steps, .. } = plan;
    let head = [rpline(&job.sender), dtline(&delivered_to)].concat();
    let (message, record) = ((job.id, job.birth), (job.channel, recipient.offset));
    let doubted = job.again && queue.doubts(message, record);
    let letter = Letter {
        id: job.id,
        birth: job.birth,
        record: recipient.offset,
        again: job.again,
        doubted,
        head: &head,
        body: &body,
    };
    let (mut copies, mut counted) = (Vec::new(), Vec::new());
    let (mut forwards, mut did) = (Vec::new(), Did::default());
    for step in steps {
        did.count(&step);
        match step {
            Step::Maildir(target) => {
                let (copy, sum) = local.arguments.local.put_into_maildir(&letter, &target, copies.len())?;
                copies.push(copy);
                counted.push(sum);
            }
            Step::Forward(to) => forwards.push(to),
            Step::Mbox(_) | Step::Program(..) | Step::Vdelivermail | Step::Vdelivered => (),
        }
    }
    // With a forward still to come the recipient is not done.
    let noted = !copies.is_empty() && forwards.is_empty() && queue.delivered(message, record, &copies);
    if !noted {
        qmail_local::sync(&copies, &counted, job.again)?;
    }
    Ok(Done::Delivered(Delivered { delivered_to, sender, forwards, text: did.to_string() }, body))
}

/// Has it delivered by whoever can have the rights.
async fn in_process(
    local: &Local,
    job: &Job,
    recipient: &Recipient,
    body: &Body,
) -> Result<Delivered, Report> {
    let (message, record) = ((job.id, job.birth), (job.channel, recipient.offset));
    let request = Request {
        id: job.id,
        birth: job.birth,
        record: recipient.offset,
        again: job.again,
        doubted: job.again && local.arguments.queue.doubts(message, record),
        sender: job.sender.clone(),
        recipient: recipient.address.clone(),
    };
    let body = body.clone();
    let opened = tokio::task::spawn_blocking(move || body.to_file()).await;
    let file = opened.map_err(std::io::Error::other).and_then(|opened| opened).map_err(unreadable_mess)?;
    local.arguments.spawner.deliver(&request, file).await
}

/// Puts the message back into the queue for other addresses; the number of that queueing.
async fn forward(
    local: &Local,
    job: &Job,
    recipient: &Recipient,
    (sender, forwards): (Vec<u8>, Vec<Vec<u8>>),
    delivered_to: &[u8],
    body: &Body,
) -> Result<u64, Report> {
    let trouble = |cause: String| {
        tracing::warn!(msg = job.id.0, "warning: unable to forward: {cause}");
        Report::deferral("Unable to forward message: qq trouble. (#4.3.0)\n")
    };
    let queue = &local.arguments.queue;
    let mut reception = queue.open(Invoker::Alias).await.map_err(|refused| trouble(refused.to_string()))?;
    reception.write(&dtline(delivered_to)).await.map_err(|error| trouble(error.to_string()))?;
    let (mut at, mut chunk) = (0, Vec::new());
    loop {
        chunk = body.next_chunk(at, chunk).await.map_err(unreadable_mess)?;
        if chunk.is_empty() {
            break;
        }
        at += chunk.len() as u64;
        reception.write(&chunk).await.map_err(|error| trouble(error.to_string()))?;
    }
    let parent = Alongside::Forward(job.id, job.channel, recipient.offset);
    let commit = reception.commit_with(sender, forwards, Some(parent));
    Ok(commit.await.map_err(|error| trouble(error.to_string()))?.qp)
}
