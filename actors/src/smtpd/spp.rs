//! qmail-spp: runs the plugins of `control/smtpplugins` about what the client has said, one after the other.
//!
//! A plugin that cannot be run, hangs, floods or says what is no command costs its client a 451, and a line of the log.

mod run;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mailtree_config::control;
use mailtree_config::regular;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::{Next, Session};
use mailtree_protocols::spp::kept::Kept;
use mailtree_protocols::spp::{Plugin, Plugins, Section, Told};
use mailtree_protocols::tcprules::Variables;

use super::client::Client;
use super::{Smtpd, Talk, policy};

/// Bytes that a file named by SPPCONFFILE may have.
const FILE_MAX: u64 = 1 << 20;

/// The plugins of one session, and what they have said.
pub(super) struct Spp {
    plugins: Arc<Plugins>,
    /// qmail's directory: where plugins run.
    directory: PathBuf,
    kept: Kept,
    /// What holds again after STARTTLS: nothing that was said in clear counts (RFC 3207 4.2).
    before: (Kept, Variables),
    /// Recipients named in this transaction.
    named: usize,
    /// The one being looked at, and whether it is for this host or the client may relay.
    recipient: Option<(Vec<u8>, bool)>,
    parting: Option<Parting>,
}

/// How a plugin wants the connection to end.
pub(super) enum Parting {
    /// With the answer.
    Answered,
    /// With nothing.
    Silent,
}

/// What plugins have made of a command.
struct Passed {
    /// The address that was said, or the one in its place.
    address: Vec<u8>,
    /// Whether the host looks at it too.
    checked: bool,
}

impl Spp {
    /// The answer to a command stands in `out` from `at` on: puts the plugins' lines before it. How the connection is to
    /// end, if it is.
    pub(super) fn concluded(&mut self, next: Next, at: usize, out: &mut Vec<u8>) -> Option<Parting> {
        // The first line of an answer to EHLO is the host's, the others are extensions; a 221 is the last word.
        if !matches!(next, Next::Helo | Next::Quit) {
            self.kept.print(at, out);
        }
        self.parting.take()
    }
}

/// The plugins for a client: none with NOSPP, those of the file that SPPCONFFILE names, or those of `smtpplugins`.
///
/// # Errors
/// The file cannot be read: nobody gets in past its plugins.
pub(super) async fn plugins(
    controls: &control::Smtpd,
    client: &Client,
    directory: &Path,
) -> Result<Arc<Plugins>, String> {
    if client.is_set("NOSPP") {
        return Ok(Arc::default());
    }
    let Some(name) = client.variables.get("SPPCONFFILE").filter(|name| !name.is_empty()) else {
        return Ok(Arc::clone(&controls.smtpplugins));
    };
    let path = directory.join(OsStr::from_bytes(name));
    let file = path.clone();
    let reading = tokio::task::spawn_blocking(move || regular::read(&file, FILE_MAX));
    let text = match reading.await.map_err(std::io::Error::other).flatten() {
        Ok(Some(text)) if text.len() as u64 <= FILE_MAX => text,
        Ok(Some(_)) => return Err(format!("{}: longer than {FILE_MAX} bytes", path.display())),
        Ok(None) => return Err(format!("{}: there is no such file", path.display())),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let plugins = Plugins::parse(&text);
    plugins.map(Arc::new).map_err(|(line, error)| format!("{}:{line}: {error}", path.display()))
}

impl Smtpd {
    /// qmail's directory, which plugins run in.
    pub(super) fn qmail_home(&self) -> PathBuf {
        let control =
            std::path::absolute(self.control.dir()).unwrap_or_else(|_| self.control.dir().to_owned());
        control.parent().unwrap_or(Path::new("/")).to_owned()
    }
}

/// A plugin, for `explain`.
pub(super) fn shown(plugin: &Plugin, directory: &Path) -> String {
    match plugin {
        Plugin::Program(path) if !directory.join(OsStr::from_bytes(path)).is_file() => {
            format!("{}, which is not there: 451", plugin.shown())
        }
        _ => plugin.shown(),
    }
}

impl Talk {
    /// Asks the plugins of [`Section::Connection`], if there are any plugins. False: the connection is to be closed, and
    /// nothing more is said.
    pub(super) async fn begin_spp(&mut self) -> bool {
        let wanted = !self.controls.smtpplugins.is_empty() || self.client.is_set("SPPCONFFILE");
        if !wanted {
            return true;
        }
        let directory = self.smtpd.qmail_home();
        let plugins = match plugins(&self.controls, &self.client, &directory).await {
            Ok(plugins) => plugins,
            Err(error) => {
                tracing::error!("alert: unable to read controls: {error}");
                self.out.clear();
                self.session.turn_away(&Refusal::controls(), &mut self.out);
                return true;
            }
        };
        if plugins.is_empty() {
            return true;
        }
        let spp = Spp {
            plugins,
            directory,
            kept: Kept::default(),
            before: (Kept::default(), Variables::default()),
            named: 0,
            recipient: None,
            parting: None,
        };
        let asked = spp.plugins.of(Section::Connection).next().is_some();
        self.spp = Some(Box::new(spp));
        if !asked {
            self.begin_again();
            return true;
        }
        let answer = self.run_plugins(Section::Connection, Vec::new()).await;
        self.begun(answer.map(drop))
    }

    /// What the plugins have set is in force from the greeting on.
    fn begun(&mut self, answer: Result<(), Refusal>) -> bool {
        let pid = self.connection.end.pid();
        let policy = policy::policy(&self.smtpd, &self.controls, &self.client, self.secured.is_some(), pid);
        self.session = Session::new(policy);
        self.out.clear();
        match &answer {
            Ok(()) => self.session.greeting(&mut self.out),
            Err(refusal) if refusal == &Refusal::spp_failure() => {
                self.session.turn_away(&Refusal::spp_failure_at_connection(), &mut self.out);
            }
            Err(refusal) => self.session.turn_away(refusal, &mut self.out),
        }
        let Some(spp) = &mut self.spp else { return true };
        spp.kept.print(0, &mut self.out);
        let parting = spp.parting.take();
        self.begin_again();
        !matches!(parting, Some(Parting::Silent))
    }

    /// What holds now is what STARTTLS goes back to.
    fn begin_again(&mut self) {
        if let Some(spp) = &mut self.spp {
            spp.before = (spp.kept.clone(), self.client.variables.clone());
        }
    }

    /// The connection is secured: what was said before is forgotten.
    pub(super) fn forget_spp(&mut self) {
        if let Some(spp) = &mut self.spp {
            (spp.kept, self.client.variables) = spp.before.clone();
        }
    }

    /// HELO or EHLO was said.
    pub(super) async fn helo(&mut self) -> Result<(), Refusal> {
        let Some(spp) = &self.spp else { return Ok(()) };
        let before = spp.kept.clone();
        let answer = self.run_plugins(Section::Helo, Vec::new()).await;
        if let (Err(_), Some(spp)) = (&answer, &mut self.spp) {
            // The name before stays, and what was said of it.
            spp.kept = before;
        }
        answer.map(drop)
    }

    /// The client has shown who it is.
    pub(super) async fn auth_plugins(&mut self) -> Result<(), Refusal> {
        if self.spp.is_none() {
            return Ok(());
        }
        self.run_plugins(Section::Auth, Vec::new()).await.map(drop)
    }

    /// MAIL was said. Whether the host looks at the sender too.
    pub(super) async fn mail_plugins(&mut self) -> Result<bool, Refusal> {
        let (Some(spp), Some(transaction)) = (&mut self.spp, self.session.transaction()) else {
            return Ok(true);
        };
        (spp.named, spp.recipient) = (0, None);
        let said = transaction.reverse_path.clone();
        let Passed { address, checked } = self.run_plugins(Section::Mail, said).await?;
        self.session.change_reverse_path(address);
        Ok(checked)
    }

    /// RCPT was said: the recipient as plugins have it, and whether the host looks at it too.
    pub(super) async fn rcpt_plugins(&mut self, recipient: Vec<u8>) -> Result<(Vec<u8>, bool), Refusal> {
        if self.spp.is_none() {
            return Ok((recipient, true));
        }
        let ours = self.asked().in_rcpthosts(&recipient).is_ok();
        if let Some(spp) = &mut self.spp {
            spp.named += 1;
            spp.recipient = Some((recipient.clone(), ours));
        }
        let Passed { address, checked } = self.run_plugins(Section::Rcpt, recipient).await?;
        Ok((address, checked))
    }

    /// DATA was said.
    pub(super) async fn data_plugins(&mut self) -> Result<(), Refusal> {
        if self.spp.is_none() {
            return Ok(());
        }
        self.run_plugins(Section::Data, Vec::new()).await.map(drop)
    }

    /// QUIT was said: plugins may hear of it; the answer is 221 whatever they say.
    pub(super) async fn quit(&mut self) {
        if self.spp.is_some() {
            self.run_plugins(Section::Quit, Vec::new()).await.ok();
        }
        if let Some(spp) = &mut self.spp {
            spp.parting = None;
        }
    }

    /// The header fields of plugins.
    pub(super) fn spp_header(&self) -> Vec<u8> {
        self.spp.as_ref().map(|spp| spp.kept.header()).unwrap_or_default()
    }

    /// What programs learn of the session where there are plugins.
    pub(super) fn add_spp(&self, environment: &mut Vec<(OsString, OsString)>) {
        let Some(spp) = &self.spp else { return };
        let user = self.session.credentials().map(|credentials| credentials.user.as_slice());
        let transaction = self.session.transaction();
        let told = Told {
            helo: self.session.name().or(self.session.helo()),
            sender: transaction.map(|transaction| transaction.reverse_path.as_slice()),
            recipient: spp.recipient.as_ref().map(|(path, ours)| (path.as_slice(), *ours)),
            accepted: transaction.map_or(0, |transaction| transaction.forward_paths.len()),
            named: spp.named,
            user: user.or(self.session.user()).map(|user| (user, self.session.mechanism())),
        };
        let variables = told.variables().into_iter();
        environment.extend(variables.map(|(name, value)| (name.into(), OsString::from_vec(value))));
    }
}
