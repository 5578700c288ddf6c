//! `queue`: what is in the queue, and what is done about it. Reading works with the host up or down.

use std::collections::HashSet;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use mailtree_actors::queue::disk::{Disk, Survey, Surveyed, each};
use mailtree_actors::queue::has_journal;
use mailtree_config::regular;
use mailtree_config::{Control, Host};
use mailtree_protocols::address;
use mailtree_protocols::envelope::Recipient;
use mailtree_protocols::queue::{Channel, MessageId};
use mailtree_protocols::smtproutes::Route;
use mailtree_protocols::visible::visible;
use serde::{Serialize, Serializer};

use crate::control::{Reply, Request, ask};
use crate::failure::Failure;
use crate::output;
use crate::queue_requests::{QueueReply, QueueRequest};

/// Bytes of a message that are read at once.
const PIECE: u64 = 64 * 1024;

/// The queue: list, show, remove, retry
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Every message: number, age, size, sender, recipients that are left
    List {
        /// One JSON array
        #[arg(long)]
        json: bool,
    },
    /// One message: its envelope, then the message itself
    Show {
        /// Its number
        id: u64,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Takes messages out of the queue; nobody is told
    Remove {
        /// Their numbers
        #[arg(required = true)]
        ids: Vec<u64>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Tries messages now, whatever their schedule says
    Retry {
        /// Their numbers; none: all
        ids: Vec<u64>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// A message in the queue; times in Unix seconds, in JSON as in RFC 3339.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    pub(super) id: u64,
    pub(super) state: &'static str,
    #[serde(serialize_with = "rfc3339")]
    pub(super) birth: u64,
    pub(super) bytes: u64,
    pub(super) sender: String,
    pub(super) bouncing: bool,
    pub(super) recipients: Vec<ListedRecipient>,
}

/// One of its recipients.
#[derive(Debug, Serialize)]
pub(super) struct ListedRecipient {
    pub(super) channel: &'static str,
    pub(super) address: String,
    pub(super) done: bool,
    /// The next attempt.
    #[serde(serialize_with = "rfc3339")]
    pub(super) next: u64,
    /// Why it has no route: the line of `control/smtproutes` that cannot be obeyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<String>,
}

/// Does it.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    let result = match args {
        Args::List { json } => list(home, *json),
        Args::Show { id, json } => show(home, MessageId(*id), *json),
        Args::Remove { ids, json } => change(home, ids, *json, |id| QueueRequest::Remove { id }),
        Args::Retry { ids, json } if ids.is_empty() => {
            count(home, QueueRequest::Retry { id: None }).and_then(|count| told(*json, count, &[]))
        }
        Args::Retry { ids, json } => change(home, ids, *json, |id| QueueRequest::Retry { id: Some(id) }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("mailtree queue"),
    }
}

/// The queue's files. A host that runs writes into them first what it holds in its journal.
pub(super) fn open(home: &Path) -> Result<Disk, Failure> {
    let queue = Host::load(home)?.paths().queue;
    if let Err(cause) = count(home, QueueRequest::Flush {})
        && has_journal(&queue).unwrap_or(true)
    {
        errln!(
            "warning: {cause}; {}/journal is not empty: what is in there is not shown; it is delivered when the host is up",
            queue.display()
        );
    }
    Disk::open(&queue)
        .map_err(|error| Failure::temporary(format!("unable to open the queue {}: {error}", queue.display())))
}

/// The preprocessed messages, oldest first; `trouble` hears of those that cannot be read.
pub(super) fn preprocessed(
    disk: &Disk,
    mut trouble: impl FnMut(MessageId, io::Error),
) -> io::Result<Vec<Listed>> {
    let Survey { messages: found, failed } = disk.survey(&HashSet::new())?;
    let mut messages = Vec::with_capacity(found.len());
    let read = each(found, |found| (found.id, listed(disk, found)));
    for (id, error) in
        failed.into_iter().chain(read.into_iter().filter_map(|(id, listed)| {
            listed.map(|listed| messages.push(listed)).err().map(|error| (id, error))
        }))
    {
        // It has been delivered meanwhile.
        if error.kind() != io::ErrorKind::NotFound {
            trouble(id, error);
        }
    }
    messages.sort_by_key(|message| (message.birth, message.id));
    Ok(messages)
}

fn read(disk: &Disk, id: MessageId) -> io::Result<Option<Listed>> {
    disk.look(id)?.map(|found| listed(disk, found)).transpose()
}

fn listed(disk: &Disk, found: Surveyed) -> io::Result<Listed> {
    let mut recipients = Vec::new();
    for (channel, next) in [(Channel::Local, found.local), (Channel::Remote, found.remote)] {
        let Some(next) = next else { continue };
        let of_channel =
            disk.recipients(found.id, channel)?.into_iter().map(|Recipient { done, address, .. }| {
                let address = String::from_utf8_lossy(&address).into_owned();
                ListedRecipient { channel: channel.name(), address, done, next, held: None }
            });
        recipients.extend(of_channel);
    }
    Ok(Listed {
        id: found.id.0,
        state: "preprocessed",
        birth: found.birth / 1_000_000,
        bytes: disk.size(found.id)?,
        sender: String::from_utf8_lossy(&found.sender).into_owned(),
        bouncing: found.bouncing,
        recipients,
    })
}

/// A message that qmail-send has not seen yet.
fn todo(disk: &Disk, id: MessageId) -> io::Result<Listed> {
    let (envelope, birth, bytes) = disk.envelope(id)?;
    let birth = birth / 1_000_000;
    let recipients = envelope.recipients.iter().map(|address| ListedRecipient {
        channel: "todo",
        address: String::from_utf8_lossy(address).into_owned(),
        done: false,
        next: birth,
        held: None,
    });
    Ok(Listed {
        id: id.0,
        state: "todo",
        birth,
        bytes,
        sender: String::from_utf8_lossy(&envelope.sender).into_owned(),
        bouncing: false,
        recipients: recipients.collect(),
    })
}

fn list(home: &Path, json: bool) -> Result<(), Failure> {
    let disk = open(home)?;
    let failed = |error| Failure::temporary(format!("unable to read the queue: {error}"));
    let mut messages =
        preprocessed(&disk, |id, error| errln!("warning: trouble with #{id}: {error}")).map_err(failed)?;
    for id in disk.todo().map_err(failed)? {
        match todo(&disk, id) {
            Ok(message) => messages.push(message),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => errln!("warning: trouble with #{id}: {error}"),
        }
    }
    name_the_held(home, messages.iter_mut());
    if json {
        output::json(&messages);
        return Ok(());
    }
    for message in &messages {
        out!("{}", line(message));
        for recipient in message.recipients.iter().filter(|recipient| !recipient.done) {
            outln!("{}", recipient.line(&format!("next {}", time(recipient.next))));
        }
    }
    outln!("{} messages", messages.len());
    Ok(())
}

impl ListedRecipient {
    fn line(&self, state: &str) -> String {
        let held =
            self.held.as_ref().map(|held| format!("  no route: {}", visible(held))).unwrap_or_default();
        format!("    {:6} {}  {state}{held}", self.channel, visible(&self.address))
    }
}

/// Says of which recipients the routes cannot be obeyed.
fn name_the_held<'l>(home: &Path, messages: impl IntoIterator<Item = &'l mut Listed>) {
    // What is wrong beyond that is check's to say.
    let Ok(host) = Host::load(home) else { return };
    let Ok(remote) = Control::new(host.paths().control).remote() else { return };
    for message in messages {
        for recipient in message.recipients.iter_mut().filter(|one| one.channel == Channel::Remote.name()) {
            let domain = address::split(recipient.address.as_bytes()).1.unwrap_or_default();
            if let Route::Unknown { cause } = remote.smtproutes.lookup(domain) {
                recipient.held = Some(cause.clone());
            }
        }
    }
}

fn line(message: &Listed) -> String {
    let state = if message.bouncing { "bouncing" } else { message.state };
    let Listed { id, bytes, birth, sender, .. } = message;
    format!("{id}  {}  {bytes} bytes  from <{}>  {state}\n", time(*birth), visible(sender))
}

fn show(home: &Path, id: MessageId, json: bool) -> Result<(), Failure> {
    let disk = open(home)?;
    let missing = || Failure::permanent(format!("no message {id} in the queue"));
    let mut found = match read(&disk, id) {
        Ok(Some(found)) => found,
        _ => todo(&disk, id).map_err(|_| missing())?,
    };
    name_the_held(home, [&mut found]);
    let path = disk.mess(id);
    let mess = regular::open(&path).and_then(|mess| mess.ok_or_else(|| io::ErrorKind::NotFound.into()));
    let mut mess = mess.map_err(|error| Failure::io("open", &path, &error))?;
    let mut bytes = Vec::new();
    let failed = |error| Failure::io("read", &path, &error);
    if json {
        mess.read_to_end(&mut bytes).map_err(failed)?;
        let mut object = serde_json::to_value(&found).unwrap_or_default();
        object["message"] = String::from_utf8_lossy(&bytes).into();
        output::json(&object);
        return Ok(());
    }
    out!("{}", line(&found));
    for recipient in &found.recipients {
        let state = if recipient.done { "done".to_owned() } else { format!("next {}", time(recipient.next)) };
        outln!("{}", recipient.line(&state));
    }
    outln!("");
    // A file gets the message as it is, a terminal what does not steer it.
    if io::stdout().is_terminal() {
        mess.read_to_end(&mut bytes).map_err(failed)?;
        out!("{}", String::from_utf8_lossy(&bytes).replace("\r\n", "\n"));
        return Ok(());
    }
    loop {
        bytes.clear();
        let read = mess.by_ref().take(PIECE).read_to_end(&mut bytes).map_err(failed)?;
        if read == 0 || !output::raw(&bytes) {
            return Ok(());
        }
    }
}

fn change(
    home: &Path,
    ids: &[u64],
    json: bool,
    request: impl Fn(u64) -> QueueRequest,
) -> Result<(), Failure> {
    let (mut concerned, mut missing) = (0, Vec::new());
    for id in ids {
        match count(home, request(*id))? {
            0 => missing.push(*id),
            more => concerned += more,
        }
    }
    told(json, concerned, &missing)
}

fn told(json: bool, count: usize, missing: &[u64]) -> Result<(), Failure> {
    if json {
        output::json(&serde_json::json!({ "messages": count, "missing": missing }));
    } else if count > 0 || missing.is_empty() {
        outln!("{count} messages");
    }
    match missing {
        [] => Ok(()),
        missing => {
            let ids: Vec<String> = missing.iter().map(u64::to_string).collect();
            Err(Failure::permanent(format!("not among the preprocessed messages: {}", ids.join(" "))))
        }
    }
}

/// Asks the running host.
fn count(home: &Path, request: QueueRequest) -> Result<usize, Failure> {
    let request = serde_json::to_value(request).unwrap_or_default();
    let reply = ask(home, &Request::Queue(request)).map_err(|error| Failure::temporary(error.to_string()))?;
    match reply {
        Reply::Queue(value) => match serde_json::from_value(value) {
            Ok(QueueReply::Count(count)) => Ok(count),
            Ok(QueueReply::Error(cause)) => Err(Failure::temporary(cause)),
            Ok(QueueReply::Status(_)) | Err(_) => Err(Failure::temporary("the host answered something else")),
        },
        Reply::Error(cause) => Err(Failure::temporary(cause)),
        other => Err(Failure::temporary(format!("the host answered {other:?}"))),
    }
}

pub(super) fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

// serde's `serialize_with` hands in a reference.
fn rfc3339<S: Serializer>(seconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time(*seconds))
}
