//! qmail-smtpd: one SMTP session. Bytes come and go here; the dialogue is `protocols::smtp::server`.
//!
//! Owns: the socket, a buffer, the message being received. Asks: resolver, users, scanners, queue. Dies when: the client
//! goes, is silent too long, or the service stops. A session that dies leaves nothing behind that anybody relies on.
//!
//! [`entry`] leads a client to the greeting, [`sender`], [`ownership`] and [`recipient`] look at the envelope, [`message`] takes the data,
//! [`authenticate`] checks who the client is, and [`spp`] runs the administrator's plugins about each of these.

mod authenticate;
mod client;
mod entry;
mod explain;
mod message;
mod ownership;
mod policy;
mod recipient;
mod sender;
mod spp;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mailtree_config::control::{self, Control};
use mailtree_config::host::{ReverseDns, SenderPolicy};
use mailtree_protocols::badlist;
use mailtree_protocols::queue::DEATH;
use mailtree_protocols::rblsmtpd::arguments::Arguments as Rblsmtpd;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::simscan::simcontrol::Simcontrol;
use mailtree_protocols::smtp::server::{Next, Session};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::cdb_files::CdbFiles;
use crate::permit::Permits;
use crate::program::Program;
use crate::queue::Queue;
use crate::resolver::Resolver;
use crate::simscan;
use crate::tcpserver::Connection;
use crate::tls::Tls;
use crate::users::Users;
use client::Client;
use entry::{Entered, Left, Secured};
pub use explain::{Greeting, Line};
use message::Mess;
pub use recipient::Found;
use sender::Spf;
use spp::{Parting, Spp};

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// What every session of a service needs.
pub struct Smtpd {
    /// Name of the service.
    pub service: String,
    /// The control files.
    pub control: Arc<Control>,
    /// Where messages go.
    pub queue: Queue,
    /// DNS.
    pub resolver: Resolver,
    /// Certificates.
    pub tls: Tls,
    /// Who may say that he is who, and which mailboxes there are.
    pub users: Users,
    /// Recipients a transaction may have.
    pub recipients: usize,
    /// Compiled tcprules.
    pub rules: PathBuf,
    /// Databases kept in memory.
    pub files: CdbFiles,
    /// Whether the names of clients are looked up.
    pub reverse_dns: ReverseDns,
    /// Which lists are asked.
    pub rblsmtpd: Rblsmtpd,
    /// Environment of the service.
    pub environment: Vec<(String, String)>,
    /// Whether AUTH is offered without TLS too.
    pub auth_in_clear: bool,
    /// Whether the trace field of an authenticated client leaves out its address and names.
    pub hide_client: bool,
    /// Whom an authenticated client may name in MAIL.
    pub sender: SenderPolicy,
    /// The checkpassword program; none: [`Self::users`].
    pub checkpassword: Option<Program>,
    /// How messages are scanned.
    pub simscan: simscan::Settings,
    /// The warnings about the rules of simscan that were told last.
    pub simcontrol: Mutex<Vec<String>>,
    /// Recipients that were found a moment ago.
    pub found: Found,
    /// Messages scanned at once.
    pub scanning: Permits,
    /// Programs run at once, and for how long each.
    pub programs: (Permits, Duration),
    /// Address space of a program in bytes; 0: no limit of ours.
    pub program_memory: u64,
}

impl Smtpd {
    /// Starts a session as a child of `tcpserver`.
    ///
    /// # Errors
    /// When the actor does not start.
    pub async fn start(
        self: Arc<Self>,
        connection: Connection,
        tcpserver: ActorCell,
    ) -> Result<(), SpawnErr> {
        Actor::spawn_linked(None, SmtpdSession, (self, connection), tcpserver).await.map(drop)
    }

    /// What is wrong with these rules, unless it was told before: files that are read again have the same warnings.
    fn new_warnings(&self, rules: &Simcontrol) -> Vec<String> {
        let mut told = self.simcontrol.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == rules.warnings() {
            return Vec::new();
        }
        rules.warnings().clone_into(&mut told);
        told.clone()
    }
}

/// The actor of a session.
pub struct SmtpdSession;

/// Its state: none when the session has begun.
pub type State = Option<(Arc<Smtpd>, Box<Connection>)>;

/// A dialogue.
pub struct Talk {
    smtpd: Arc<Smtpd>,
    controls: Arc<control::Smtpd>,
    connection: Connection,
    client: Client,
    secured: Option<Secured>,
    session: Session,
    chkuser: recipient::Chkuser,
    spf: Option<Spf>,
    /// qmail-spp; none: there is no plugin to run.
    spp: Option<Box<Spp>>,
    /// Whether the user that the client has shown to be may relay.
    user_relays: bool,
    timeout: Duration,
    died: Instant,
    input: Vec<u8>,
    read: usize,
    out: Vec<u8>,
    body: Vec<u8>,
    mess: Mess,
}

/// Its only message: begin.
pub struct Begin;

/// Whether the dialogue goes on.
enum Dialogue {
    GoesOn,
    Ends,
}

impl Actor for SmtpdSession {
    type Msg = Begin;
    type State = State;
    type Arguments = (Arc<Smtpd>, Connection);

    async fn pre_start(
        &self,
        myself: ActorRef<Begin>,
        (smtpd, connection): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        myself.cast(Begin)?;
        Ok(Some((smtpd, Box::new(connection))))
    }

    async fn handle(
        &self,
        myself: ActorRef<Begin>,
        _: Begin,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some((smtpd, connection)) = state.take() {
            // In a box: what the actor itself is moves with every message.
            Box::pin(session(smtpd, connection)).await;
        }
        myself.stop(None);
        Ok(())
    }
}

/// A session from its beginning to its end.
async fn session(smtpd: Arc<Smtpd>, connection: Box<Connection>) {
    let Some(mut talk) = enter(smtpd, connection).await else { return };
    let code = loop {
        match talk.turn().await {
            Ok(Dialogue::GoesOn) => (),
            Ok(Dialogue::Ends) => break 0,
            // The client is gone; nobody is there to be told.
            Err(_) => break 1,
        }
    };
    talk.connection.end.exit(code);
}

/// Leads a client to the greeting; nothing if it does not come so far.
async fn enter(smtpd: Arc<Smtpd>, mut connection: Box<Connection>) -> Option<Box<Talk>> {
    let controls = match smtpd.control.smtpd() {
        Ok(controls) => controls,
        Err(error) => {
            tracing::error!("alert: unable to read controls: {error}");
            entry::refuse(&mut connection, &Refusal::controls(), 1).await;
            connection.end.exit(1);
            return None;
        }
    };
    match entry::enter(&smtpd, &controls, &mut connection).await {
        Ok(entered) => {
            let mut talk = Box::new(Talk::new(smtpd, controls, *connection, entered));
            if talk.begin_spp().await {
                return Some(talk);
            }
            talk.connection.end.exit(0);
            None
        }
        Err(left) => {
            connection.end.exit(match left {
                Left::Exit(code) => code,
                Left::Gone => 1,
            });
            None
        }
    }
}

impl Talk {
    fn new(
        smtpd: Arc<Smtpd>,
        controls: Arc<control::Smtpd>,
        connection: Connection,
        Entered { client, secured }: Entered,
    ) -> Self {
        let policy = policy::policy(&smtpd, &controls, &client, secured.is_some(), connection.end.pid());
        let session = Session::new(policy);
        let mut out = Vec::new();
        session.greeting(&mut out);
        Self {
            timeout: controls.timeoutsmtpd,
            died: Instant::now() + Duration::from_secs(DEATH),
            chkuser: recipient::Chkuser::new(&client),
            session,
            out,
            smtpd,
            controls,
            connection,
            client,
            secured,
            spf: None,
            spp: None,
            user_relays: true,
            input: Vec::with_capacity(CHUNK),
            read: 0,
            body: Vec::new(),
            mess: Mess::None,
        }
    }

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
        let answered = self.out.len();
        match next {
            Next::Read => (),
            Next::Starttls => return self.starttls().await,
            Next::Helo => {
                let answer = self.helo().await;
                self.session.greeted(answer, &mut self.out);
            }
            Next::Quit => {
                self.quit().await;
                self.session.left(&mut self.out);
            }
            Next::Authenticate => {
                let answer = self.authenticate().await;
                self.session.authenticated(answer, &mut self.out);
            }
            Next::Sender => {
                let answer = self.sender().await;
                self.session.sender(answer, &mut self.out);
            }
            Next::Recipient => {
                let answer = self.recipient().await;
                self.session.recipient(answer, &mut self.out);
            }
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
                if self.session.over_brtlimit() {
                    tracing::info!("{}", badlist::log::hanging_up(self.client.ip()));
                }
                self.mess = Mess::None;
                self.send().await?;
                self.connection.stream.shutdown().await?;
                return Ok(Dialogue::Ends);
            }
        }
        match self.spp.as_mut().and_then(|spp| spp.concluded(next, answered, &mut self.out)) {
            None => Ok(Dialogue::GoesOn),
            Some(parting) => self.part(parting, answered).await,
        }
    }

    /// A plugin wants the connection closed.
    async fn part(&mut self, parting: Parting, answered: usize) -> io::Result<Dialogue> {
        self.mess = Mess::None;
        match parting {
            // The answer is sent as any other, and the session closes then.
            Parting::Answered => {
                self.session.hang_up();
                return Ok(Dialogue::GoesOn);
            }
            Parting::Silent => self.out.truncate(answered),
        }
        self.send().await?;
        self.connection.stream.shutdown().await?;
        Ok(Dialogue::Ends)
    }

    async fn starttls(&mut self) -> io::Result<Dialogue> {
        self.send().await?;
        // What came before the handshake may be anybody's (RFC 3207 6).
        self.input.clear();
        self.read = 0;
        let Some(config) = self.smtpd.tls.current() else { return Ok(Dialogue::Ends) };
        let Ok(secured) = entry::secure(&mut self.connection, config).await else {
            return Ok(Dialogue::Ends);
        };
        self.secured = Some(secured);
        self.session.secured();
        self.forget_spp();
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
            // Whoever always has something to say does not outlive the limit either.
            () = std::future::ready(()), if Instant::now() >= self.died => false,
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
        match timeout(self.timeout, entry::send(&mut self.connection.stream, &self.out)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        self.out.clear();
        Ok(())
    }
}

/// Counts replies by the first digit of their last lines.
fn count_replies(out: &[u8]) {
    static REPLIES: OnceLock<[metrics::Counter; 4]> = OnceLock::new();
    let replies = REPLIES.get_or_init(|| {
        ["2", "3", "4", "5"].map(|class| metrics::counter!("mailtree_smtpd_replies_total", "class" => class))
    });
    for line in out.split(|byte| *byte == b'\n') {
        if line.get(3) != Some(&b' ') {
            continue;
        }
        let class = usize::from(line[0].clamp(b'2', b'5') - b'2');
        replies[class].increment(1);
    }
}
