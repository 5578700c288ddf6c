//! The data of a mail transaction: to the queue, past simscan, or through the program that QMAILQUEUE names.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mailtree_protocols::received::{self, Invoker};
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::simscan::verdict::Verdict;
use mailtree_protocols::smtp::server::Accepted;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::{Instant, timeout};

use super::Talk;
use crate::clock::unix_now;
use crate::program::{Limits, Program, qmail_queue};
use crate::queue::Error as QueueError;
use crate::queue::{Held, Reception, Refused};
use crate::simscan;

/// Bytes copied at once.
const CHUNK: usize = 64 * 1024;

/// How long a message may take to become durable.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// The message being received.
pub(super) enum Mess {
    None,
    Open(Box<Reception>),
    /// It could not be stored; what comes of it is read and dropped.
    Lost(QueueError),
}

/// What QMAILQUEUE names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum QmailQueue {
    /// The queue of this host: unset, or a path that ends in `qmail-queue`.
    Own,
    /// The scanner of this host: a path that ends in `simscan`.
    Simscan,
    /// A program.
    Program(PathBuf),
}

impl QmailQueue {
    pub(super) fn of(value: Option<&[u8]>) -> Self {
        let Some(value) = value.filter(|value| !value.is_empty()) else { return Self::Own };
        let path = Path::new(OsStr::from_bytes(value));
        match path.file_name().and_then(OsStr::to_str) {
            Some("qmail-queue") => Self::Own,
            Some("simscan") => Self::Simscan,
            _ => Self::Program(path.to_owned()),
        }
    }
}

impl Talk {
    /// Gets ready for the message of the transaction.
    pub(super) async fn open(&mut self) -> Result<(), Refusal> {
        self.data_plugins().await?;
        let mut reception = self.reception().await?;
        let hidden = self.smtpd.hide_client && self.session.user().is_some();
        // Received-SPF names the client's address and its HELO.
        let spf = self.spf.as_ref().filter(|_| !hidden);
        let mut head = spf.and_then(|spf| spf.header.clone()).unwrap_or_default();
        let user = self.session.user().map(|user| String::from_utf8_lossy(user).into_owned());
        let client = received::Client {
            host: self.client.host(),
            helo: self.session.helo().unwrap_or_default(),
            info: user.as_deref().or(self.client.info()),
            ip: self.client.ip(),
            local: &self.controls.me,
            protocol: self.session.protocol(),
            cipher: self.secured.as_ref().map(|secured| secured.cipher),
        };
        let trace = if hidden { received::hidden } else { received::smtp };
        head.push_str(&trace(client, Timestamp::now()));
        let mut head = head.into_bytes();
        head.extend(self.spp_header());
        reception.write(&head).await.map_err(|error| refusal(&error))?;
        self.mess = Mess::Open(Box::new(reception));
        Ok(())
    }

    async fn reception(&self) -> Result<Reception, Refusal> {
        self.smtpd.queue.open(Invoker::Network).await.map_err(|refused| {
            let pid = self.connection.end.pid();
            tracing::warn!(pid, "qmail-smtpd: warning: message refused: {refused}");
            match refused {
                Refused::Busy | Refused::Full => Refusal::no_room(),
                Refused::Unanswered(_) => Refusal::qqt_failure(),
            }
        })
    }

    /// Hands the data that has come to the queue.
    pub(super) async fn store(&mut self) {
        if self.body.is_empty() {
            return;
        }
        if let Mess::Open(reception) = &mut self.mess
            && let Err(error) = reception.write(&self.body).await
        {
            self.mess = Mess::Lost(error);
        }
        self.body.clear();
        // A large message leaves no large buffer behind.
        self.body.shrink_to(super::CHUNK);
    }

    /// The message is whole.
    pub(super) async fn commit(&mut self) -> Result<Accepted, Refusal> {
        let reception = match std::mem::replace(&mut self.mess, Mess::None) {
            Mess::Open(reception) => reception,
            Mess::Lost(error) => return Err(refusal(&error)),
            Mess::None => return Err(Refusal::qq_crashed()),
        };
        match QmailQueue::of(self.client.variables.get("QMAILQUEUE")) {
            QmailQueue::Own => self.queue(*reception).await,
            QmailQueue::Simscan => self.simscan(*reception).await,
            QmailQueue::Program(path) => self.program(*reception, path).await,
        }
    }

    async fn queue(&self, reception: Reception) -> Result<Accepted, Refusal> {
        let Some(transaction) = self.session.transaction() else { return Err(Refusal::qq_crashed()) };
        let qp = reception.qp();
        let commit = reception.commit(transaction.reverse_path.clone(), transaction.forward_paths.clone());
        match timeout(COMMIT_TIMEOUT, commit).await {
            Ok(Ok(accepted)) => {
                let (msg, pid) = (accepted.id.0, self.connection.end.pid());
                tracing::debug!(
                    msg,
                    qp,
                    pid,
                    size = accepted.size,
                    "qmail-smtpd: pid {pid} queued msg {msg} qp {qp}"
                );
                Ok(Accepted { time: unix_now(), qp })
            }
            Ok(Err(error)) => Err(refusal(&error)),
            Err(_) => Err(Refusal::qq_timeout()),
        }
    }

    /// Has the message scanned; one that passes is queued with the scanner's trace field on top.
    async fn simscan(&self, mut reception: Reception) -> Result<Accepted, Refusal> {
        let Some(transaction) = self.session.transaction() else { return Err(Refusal::qq_crashed()) };
        let found = self.smtpd.control.simcontrol().map_err(|error| {
            tracing::error!("alert: unable to read controls: {error}");
            Refusal::qq_configuration()
        })?;
        for warning in self.smtpd.new_warnings(&found) {
            tracing::warn!("simscan: warning: {warning}");
        }
        let recipients = transaction.forward_paths.iter().map(Vec::as_slice);
        let options = found.evaluate(&transaction.reverse_path, recipients).options;
        let program = options.qmailqueue.clone();
        let settings = &self.smtpd.simscan;
        let begin = Instant::now();
        let Ok(permit) = timeout(settings.deadline, self.smtpd.scanning.acquire()).await else {
            tracing::warn!("simscan: warning: no scanner was free in time");
            return Err(Refusal::qq_temporarily_rejected());
        };
        let held = reception.hold().await.map_err(|error| refusal(&error))?;
        let settings = simscan::Settings {
            deadline: settings.deadline.saturating_sub(begin.elapsed()),
            ..settings.clone()
        };
        let message = simscan::Message {
            file: held.path.clone(),
            skip: held.head,
            size: held.size,
            sender: transaction.reverse_path.clone(),
            recipients: transaction.forward_paths.clone(),
            ip: Some(self.client.ip()),
            helo: self.session.helo().map(<[u8]>::to_vec),
            host: self.client.host().map(str::to_owned),
            user: self.session.user().map(<[u8]>::to_vec),
            qp: reception.qp(),
            relayclient: self.relays(),
            pid: self.connection.end.pid(),
            options,
            permit: Some(Arc::new(permit)),
        };
        let scan = simscan::scan(&settings, message).await;
        for line in scan.log {
            tracing::info!("{line}");
        }
        match scan.verdict {
            Verdict::Pass => {
                let mut passed = reception.copy();
                passed.write(&scan.header).await.map_err(|error| refusal(&error))?;
                copy(&held, &mut passed).await.map_err(|error| refusal(&error))?;
                match QmailQueue::of(program.as_deref().map(str::as_bytes)) {
                    QmailQueue::Program(path) => self.program(passed, path).await,
                    QmailQueue::Own | QmailQueue::Simscan => self.queue(passed).await,
                }
            }
            Verdict::Reject(_, text) => Err(Refusal::permanent(7, 1, text)),
            Verdict::TooLarge(_) => Err(Refusal::too_large_to_scan()),
            Verdict::Defer(text) => Err(Refusal::temporary(7, 1, text)),
            Verdict::Temporary(_) => Err(Refusal::qq_temporarily_rejected()),
            // The client hears what it wants to hear, and nobody gets the message.
            Verdict::Drop(_) => Ok(Accepted { time: unix_now(), qp: reception.qp() }),
        }
    }

    /// Hands the message to a program in place of the queue.
    async fn program(&self, mut reception: Reception, path: PathBuf) -> Result<Accepted, Refusal> {
        let Some(transaction) = self.session.transaction() else { return Err(Refusal::qq_crashed()) };
        let (permits, deadline) = &self.smtpd.programs;
        let Some(_permit) = permits.try_acquire() else {
            tracing::warn!("qmail-smtpd: warning: too many programs run");
            return Err(Refusal::qq_temporary());
        };
        let held = reception.hold().await.map_err(|error| refusal(&error))?;
        let message = read_only(&held).map_err(|error| refusal(&error.into()))?;
        let program = self.limited(Program::new(path));
        let (sender, recipients) = (&transaction.reverse_path, &transaction.forward_paths);
        qmail_queue::queue(&program, message, sender, recipients, &self.environment(), *deadline).await?;
        Ok(Accepted { time: unix_now(), qp: reception.qp() })
    }

    pub(super) fn limited(&self, program: Program) -> Program {
        program.limits(Limits::memory(self.smtpd.program_memory))
    }
}

/// The message without the queue's own line.
fn read_only(held: &Held) -> std::io::Result<File> {
    let mut file = File::open(&held.path)?;
    file.seek(SeekFrom::Start(held.head))?;
    Ok(file)
}

/// Copies the message without the queue's own line, which the new reception has too.
async fn copy(held: &Held, to: &mut Reception) -> Result<(), QueueError> {
    let mut file = tokio::fs::File::open(&held.path).await?;
    file.seek(SeekFrom::Start(held.head)).await?;
    let mut from = file.take(held.size);
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut left = held.size;
    while left > 0 {
        buffer.clear();
        let read = (&mut from).take(CHUNK as u64).read_to_end(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        left -= read as u64;
        to.write(&buffer).await?;
    }
    Ok(())
}

/// What a client is told when the queue could not store its message; the cause goes to the log.
fn refusal(error: &QueueError) -> Refusal {
    tracing::error!("alert: unable to queue a message: {error}");
    match error {
        error if error.is_full() => Refusal::no_room(),
        QueueError::Io(_) | QueueError::NoRoom => Refusal::qq_files(),
        QueueError::Sync(_) => Refusal::qq_write_error(),
        QueueError::Gone => Refusal::qq_crashed(),
    }
}
