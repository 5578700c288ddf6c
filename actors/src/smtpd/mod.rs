//! qmail-smtpd: one SMTP session. Bytes come and go here; the dialogue is `protocols::smtp::server`.
//!
//! Owns: the socket, a buffer, the message being received. Asks: queue. Dies when: the client goes, is silent too long, or
//! the service stops. A session that dies leaves nothing behind that anybody relies on.

mod policy;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mailtree_config::control::Control;
use mailtree_protocols::queue::DEATH;
use mailtree_protocols::received::{self, Invoker};
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::{Accepted, Next, Session};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::unix_now;
use crate::queue::sync::Error as DiskError;
use crate::queue::{Queue, Reception, Refused};
use crate::tcpserver::Connection;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// How long a message may take to become durable.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(300);

/// What every session of a service needs.
#[derive(Clone)]
pub struct Smtpd {
    /// The control files.
    pub control: Arc<Control>,
    /// Where messages go.
    pub queue: Queue,
    /// Recipients a transaction may have.
    pub recipients: usize,
}

impl Smtpd {
    /// Starts a session as a child of `tcpserver`.
    ///
    /// # Errors
    /// When the actor does not start.
    pub async fn start(self, connection: Connection, tcpserver: ActorCell) -> Result<(), SpawnErr> {
        Actor::spawn_linked(None, SmtpdSession, (self, connection), tcpserver).await.map(drop)
    }
}

/// The actor of a session.
pub struct SmtpdSession;

/// Its state.
pub struct State {
    smtpd: Smtpd,
    connection: Connection,
    session: Session,
    local: String,
    timeout: Duration,
    died: Instant,
    input: Vec<u8>,
    read: usize,
    out: Vec<u8>,
    body: Vec<u8>,
    mess: Mess,
}

/// The message being received.
enum Mess {
    None,
    Open(Box<Reception>),
    /// It could not be stored; what comes of it is read and dropped.
    Lost(DiskError),
}

/// One turn: what has come is answered, or more is awaited.
pub struct Turn;

/// Whether the dialogue goes on.
enum Dialogue {
    GoesOn,
    Ends,
}

impl Actor for SmtpdSession {
    type Msg = Turn;
    type State = Option<State>;
    type Arguments = (Smtpd, Connection);

    async fn pre_start(
        &self,
        myself: ActorRef<Turn>,
        (smtpd, connection): Self::Arguments,
    ) -> Result<Option<State>, ActorProcessingErr> {
        let mut state = match smtpd.control.smtpd() {
            Ok(controls) => {
                let policy = policy::policy(&controls, &connection, smtpd.recipients);
                State {
                    session: Session::new(policy),
                    local: controls.me.clone(),
                    timeout: controls.timeoutsmtpd,
                    died: Instant::now() + Duration::from_secs(DEATH),
                    input: Vec::with_capacity(CHUNK),
                    read: 0,
                    out: Vec::new(),
                    body: Vec::new(),
                    mess: Mess::None,
                    smtpd,
                    connection,
                }
            }
            Err(error) => {
                tracing::error!("alert: unable to read controls: {error}");
                let mut refusal = Vec::new();
                Refusal::controls().write(false, &mut refusal);
                count_replies(&refusal);
                let mut connection = connection;
                drop(connection.stream.try_write(&refusal));
                connection.end.exit(1);
                myself.stop(None);
                return Ok(None);
            }
        };
        state.session.greeting(&mut state.out);
        myself.cast(Turn)?;
        Ok(Some(state))
    }

    async fn handle(
        &self,
        myself: ActorRef<Turn>,
        _: Turn,
        state: &mut Option<State>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(session) = state else { return Ok(()) };
        match session.turn().await {
            Ok(Dialogue::GoesOn) => myself.cast(Turn)?,
            Ok(Dialogue::Ends) => {
                session.connection.end.exit(0);
                myself.stop(None);
            }
            // The client is gone; nobody is there to be told.
            Err(_) => {
                session.connection.end.exit(1);
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Turn>,
        state: &mut Option<State>,
    ) -> Result<(), ActorProcessingErr> {
        // The permits and the socket must not wait in the parent's mailbox.
        drop(state.take());
        Ok(())
    }
}

impl State {
    async fn turn(&mut self) -> io::Result<Dialogue> {
        self.send().await?;
        // A refusal may have closed the session: that shows without more input.
        let closed = matches!(self.session.receive(&[], &mut self.out, &mut self.body), (_, Next::Close));
        if !closed && self.read == self.input.len() && !self.listen().await? {
            return Ok(Dialogue::Ends);
        }
        let (read, next) = self.session.receive(&self.input[self.read..], &mut self.out, &mut self.body);
        self.read += read;
        self.store().await;
        match next {
            Next::Read => (),
            Next::Open => {
                let opened = self.open().await;
                self.session.opened(opened, &mut self.out);
            }
            Next::Commit => {
                let queued = self.commit().await;
                self.session.queued(queued, &mut self.out);
            }
            Next::Discard => self.mess = Mess::None,
            Next::Close => {
                self.mess = Mess::None;
                self.send().await?;
                self.connection.stream.shutdown().await?;
                return Ok(Dialogue::Ends);
            }
        }
        Ok(Dialogue::GoesOn)
    }

    /// Reads more, unless the client is silent too long, leaves, or the service stops; then says so. False: it ends.
    async fn listen(&mut self) -> io::Result<bool> {
        self.input.clear();
        self.read = 0;
        let deadline = (Instant::now() + self.timeout).min(self.died);
        let mut part = (&mut self.connection.stream).take(CHUNK as u64);
        let stopped = tokio::select! {
            biased;
            _ = self.connection.stopping.wait_for(|stopping| *stopping) => true,
            read = timeout_at(deadline, part.read_buf(&mut self.input)) => match read {
                Ok(read) => return Ok(read? > 0),
                Err(_) => false,
            },
        };
        if stopped {
            self.session.shutdown(&mut self.out);
        } else {
            self.session.timeout(&mut self.out);
        }
        self.send().await?;
        self.connection.stream.shutdown().await?;
        Ok(false)
    }

    async fn send(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        count_replies(&self.out);
        // A client that does not read is as silent as one that does not write.
        match timeout(self.timeout, self.connection.stream.write_all(&self.out)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        self.out.clear();
        Ok(())
    }

    async fn open(&mut self) -> Result<(), Refusal> {
        let mut reception = self.smtpd.queue.open(Invoker::Network).await.map_err(|refused| {
            tracing::warn!(
                pid = self.connection.end.pid(),
                "qmail-smtpd: warning: message refused: {refused}"
            );
            match refused {
                Refused::Busy | Refused::Full => Refusal::no_room(),
                Refused::Unanswered(_) => Refusal::qqt_failure(),
            }
        })?;
        let line = received::smtp(
            received::Client {
                host: None,
                helo: self.session.helo().unwrap_or_default(),
                ip: self.connection.peer.ip().to_canonical(),
                local: &self.local,
                protocol: self.session.protocol(),
            },
            Timestamp::now(),
        );
        reception.write(line.as_bytes()).await.map_err(|error| refusal(&error))?;
        self.mess = Mess::Open(Box::new(reception));
        Ok(())
    }

    /// Hands the data that has come to the queue.
    async fn store(&mut self) {
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
        self.body.shrink_to(CHUNK);
    }

    async fn commit(&mut self) -> Result<Accepted, Refusal> {
        let reception = match std::mem::replace(&mut self.mess, Mess::None) {
            Mess::Open(reception) => reception,
            Mess::Lost(error) => return Err(refusal(&error)),
            Mess::None => return Err(Refusal::qq_crashed()),
        };
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
}

/// What a client is told when the queue could not store its message; the cause goes to the log.
fn refusal(error: &DiskError) -> Refusal {
    tracing::error!("alert: unable to queue a message: {error}");
    match error {
        error if error.is_full() => Refusal::no_room(),
        DiskError::Io(_) => Refusal::qq_files(),
        DiskError::Sync(_) => Refusal::qq_write_error(),
        DiskError::Gone => Refusal::qq_crashed(),
    }
}

/// Counts replies by the first digit of their last lines.
fn count_replies(out: &[u8]) {
    for line in out.split(|byte| *byte == b'\n') {
        if line.get(3) != Some(&b' ') {
            continue;
        }
        let class = match line[0] {
            b'2' => "2",
            b'3' => "3",
            b'4' => "4",
            _ => "5",
        };
        metrics::counter!("mailtree_smtpd_replies_total", "class" => class).increment(1);
    }
}
