//! RCPT: who may be sent to. In this order: maxrcpt, plugins, the lists of bad recipients, validrcptto, then chkuser or, without it,
//! rcpthosts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mailtree_config::changes::REST;
use mailtree_config::control;
use mailtree_protocols::address;
use mailtree_protocols::badlist::log::{self, List};
use mailtree_protocols::chkuser::event::Event;
use mailtree_protocols::chkuser::log::Layout;
use mailtree_protocols::chkuser::rcpt::{self, Domain, Facts, Unavailable};
use mailtree_protocols::chkuser::session::Session;
use mailtree_protocols::chkuser::settings::Settings;
use mailtree_protocols::chkuser::{Mx, Step};
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::validrcptto::Listing;
use mailtree_protocols::vpasswd::Entry;

use super::client::Client;
use super::sender::on_a_list;
use super::{Smtpd, Talk};
use crate::vpopmail::Vpopmail;

/// The variable that switches chkuser off in the toasters: their own clients are not checked. It is the client's own; who
/// may relay because of AUTH or a certificate is checked.
const SWITCH: &str = "RELAYCLIENT";

/// chkuser in one session.
pub(super) struct Chkuser {
    /// One of its variables is set: without any it is as if it were not there.
    pub(super) on: bool,
    pub(super) session: Session,
    pub(super) layout: Layout,
}

impl Chkuser {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            on: client.variables.iter().any(|(name, _)| name.starts_with(b"CHKUSER_")),
            session: Session::new(),
            layout: match client.text("CHKUSER_LOGLAYOUT") {
                Some("named") => Layout::Named,
                _ => Layout::Classic,
            },
        }
    }

    /// What its variables say now; none if it is off. A bad one switches it on for good: nobody gets through because of a
    /// slip of the pen.
    pub(super) fn settings(&self, client: &Client, relays: bool) -> Option<Settings> {
        if !self.on {
            return None;
        }
        let read = |strict: bool| {
            Settings::read(
                &|name| match name {
                    "RELAYCLIENT" if relays => Some(Vec::new()),
                    "CHKUSER_START" if strict => Some(b"ALWAYS".to_vec()),
                    "CHKUSER_MUSTAUTH" => client.variables.get(name).map(<[u8]>::to_vec),
                    name if strict && name.starts_with("CHKUSER_") => None,
                    name => client.variables.get(name).map(<[u8]>::to_vec),
                },
                client.is_set(SWITCH).then_some(SWITCH),
            )
        };
        read(false)
            .or_else(|error| {
                tracing::error!("alert: chkuser: {error}");
                read(true)
            })
            .ok()
    }
}

impl Talk {
    /// Looks at a recipient: as the queue is to have it, or why not.
    pub(super) async fn recipient(&mut self) -> Result<Vec<u8>, Refusal> {
        let Some(recipient) = self.session.forward_path().map(<[u8]>::to_vec) else {
            return Err(Refusal::mail_first());
        };
        let recipient = address::in_a_labels(recipient);
        let count = self.session.transaction().map_or(0, |transaction| transaction.forward_paths.len());
        self.asked().fits(count)?;
        let (recipient, checked) = self.rcpt_plugins(recipient).await?;
        if checked {
            self.check_recipient(&recipient).await?;
        }
        // The value of RELAYCLIENT is appended to every recipient.
        Ok([recipient.as_slice(), self.client.variables.get("RELAYCLIENT").unwrap_or_default()].concat())
    }

    async fn check_recipient(&mut self, recipient: &[u8]) -> Result<(), Refusal> {
        let asked = self.asked();
        asked.no_bad_recipient(recipient)?;
        let known = asked.is_valid(recipient, self.chkuser.on)?;
        match self.chkuser.settings(&self.client, asked.relays) {
            Some(settings) if !known => self.chkuser_recipient(&settings, recipient).await,
            _ => self.asked().in_rcpthosts(recipient),
        }
    }

    pub(super) fn asked(&self) -> Asked<'_> {
        Asked { smtpd: &self.smtpd, controls: &self.controls, client: &self.client, relays: self.relays() }
    }

    async fn chkuser_recipient(&mut self, settings: &Settings, recipient: &[u8]) -> Result<(), Refusal> {
        let event = match self.chkuser.session.admit(settings) {
            Some(event) => event,
            None => {
                let smtputf8 = self.session.transaction().is_some_and(|transaction| transaction.smtputf8);
                self.asked().existing(settings, recipient, smtputf8).await
            }
        };
        match self.conclude(settings, event, recipient).await {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }
}

/// What the files say of a recipient of this client.
pub(super) struct Asked<'a> {
    pub(super) smtpd: &'a Smtpd,
    pub(super) controls: &'a Arc<control::Smtpd>,
    pub(super) client: &'a Client,
    /// The client may send to any domain.
    pub(super) relays: bool,
}

impl Asked<'_> {
    /// `control/maxrcpt`: whether one more recipient may come after `count`.
    pub(super) fn fits(&self, count: usize) -> Result<(), Refusal> {
        match self.controls.maxrcpt {
            Some(most) if count >= most && !self.client.is_set("DISABLE_MAXRCPT") => Err(Refusal::maxrcpt()),
            _ => Ok(()),
        }
    }

    pub(super) fn no_bad_recipient(&self, recipient: &[u8]) -> Result<(), Refusal> {
        let Self { controls, client, relays, .. } = self;
        let lists = [Some(&controls.badrcptto), (!relays).then_some(&controls.badrcpttonorelay)];
        match on_a_list(lists, List::BadRcptTo, recipient, client) {
            Some(_) => Err(Refusal::recipient_denied()),
            None => Ok(()),
        }
    }

    pub(super) fn in_rcpthosts(&self, recipient: &[u8]) -> Result<(), Refusal> {
        // An address without a domain is local.
        let (_, Some(domain)) = address::split(recipient) else { return Ok(()) };
        if self.relays {
            return Ok(());
        }
        match self.controls.rcpthosts.allows(&domain.to_ascii_lowercase()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::rcpthosts()),
            Err(error) => {
                tracing::error!("alert: unable to read controls: morercpthosts.cdb: {error}");
                Err(Refusal::controls())
            }
        }
    }

    /// Whether validrcptto has the recipient. One that it has not is refused, unless chkuser is to say; clients that may
    /// relay send to whom they like.
    pub(super) fn is_valid(&self, recipient: &[u8], chkuser: bool) -> Result<bool, Refusal> {
        // Must be taken without a domain as well (RFC 5321 4.5.1).
        if recipient.eq_ignore_ascii_case(b"postmaster") {
            return Ok(true);
        }
        let Some(list) = self.controls.validrcptto.as_ref().filter(|_| !self.relays) else {
            return Ok(false);
        };
        let listing = list.listing(recipient).map_err(|error| {
            tracing::error!("alert: unable to read controls: morevalidrcptto.cdb: {error}");
            Refusal::controls()
        })?;
        match listing {
            Listing::Valid => Ok(true),
            Listing::Unlisted if chkuser => Ok(false),
            Listing::Unlisted | Listing::Denied => {
                tracing::info!("{}", log::dropped(recipient, self.client.ip()));
                Err(Refusal::validrcptto())
            }
        }
    }

    /// What chkuser says of a recipient.
    pub(super) async fn existing(&self, settings: &Settings, recipient: &[u8], smtputf8: bool) -> Event {
        if let Some(event) = self.smtpd.found.get(settings, recipient, smtputf8) {
            return event;
        }
        let event = self.looked_up(settings, recipient, smtputf8).await;
        if matches!(event, Event::FoundRecipient | Event::AnyRecipientOfDomain | Event::AnyRecipient) {
            self.smtpd.found.add(settings, recipient, smtputf8, event);
        }
        event
    }

    /// The same, as the files are now.
    pub(super) async fn looked_up(&self, settings: &Settings, recipient: &[u8], smtputf8: bool) -> Event {
        let mut mx: Option<Mx> = None;
        loop {
            let controls = Arc::clone(self.controls);
            let (settings, asked) = (settings.clone(), recipient.to_vec());
            let question = move |vpopmail: &Vpopmail| {
                let facts = Files { controls, vpopmail: vpopmail.clone() };
                rcpt::check(&settings, &asked, smtputf8, mx, &facts)
            };
            let trouble: String = match self.smtpd.users.ask(recipient, question).await {
                Ok(Ok(Step::Done(event))) => return event,
                Ok(Ok(Step::Mx(domain))) => {
                    mx = Some(self.smtpd.takes_mail(&domain, &self.client.resolver).await);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::error!("alert: unable to check a recipient: {trouble}");
            return Event::NoAuthResource;
        }
    }
}

/// Recipients that chkuser has found a moment ago: looking again takes another thread, and a burst goes to the same ones.
#[derive(Debug, Default)]
pub struct Found(Mutex<HashMap<Vec<u8>, Answer>>);

/// What was found, for these settings, with or without SMTPUTF8, and when.
#[derive(Debug)]
struct Answer {
    settings: Settings,
    smtputf8: bool,
    event: Event,
    at: Instant,
}

impl Found {
    /// As many are kept; beyond that all are forgotten.
    const MOST: usize = 4096;

    fn get(&self, settings: &Settings, recipient: &[u8], smtputf8: bool) -> Option<Event> {
        let found = self.lock();
        let answer = found.get(recipient).filter(|answer| {
            answer.at.elapsed() < REST && answer.settings == *settings && answer.smtputf8 == smtputf8
        })?;
        Some(answer.event)
    }

    fn add(&self, settings: &Settings, recipient: &[u8], smtputf8: bool, event: Event) {
        let mut found = self.lock();
        if found.len() >= Self::MOST {
            found.clear();
        }
        let answer = Answer { settings: settings.clone(), smtputf8, event, at: Instant::now() };
        found.insert(recipient.to_vec(), answer);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files that chkuser's questions are answered from.
pub(super) struct Files {
    pub(super) controls: Arc<control::Smtpd>,
    pub(super) vpopmail: Vpopmail,
}

fn unavailable(error: impl std::fmt::Display) -> Unavailable {
    Unavailable(error.to_string())
}

impl Facts for Files {
    fn in_rcpthosts(&self, domain: &[u8]) -> Result<bool, Unavailable> {
        self.controls.rcpthosts.allows(domain).map_err(unavailable)
    }

    fn assigned(&self, domain: &[u8]) -> Result<Option<Domain>, Unavailable> {
        self.vpopmail.domain(domain).map_err(unavailable)
    }

    fn qmail_default(&self, domain: &Domain) -> Result<Vec<u8>, Unavailable> {
        self.vpopmail.qmail_default(domain).map_err(unavailable)
    }

    /// File aliases alone are kept here; those are `.qmail` files.
    fn valias(&self, _: &Domain, _: &[u8]) -> Result<bool, Unavailable> {
        Ok(false)
    }

    fn dotqmail(&self, domain: &Domain, file: &[u8]) -> Result<bool, Unavailable> {
        self.vpopmail.has_file(domain, file).map_err(unavailable)
    }

    fn vpasswd(&self, domain: &Domain, user: &[u8]) -> Result<Option<Entry>, Unavailable> {
        self.vpopmail.user(domain, user).map_err(unavailable)
    }

    fn usage(&self, entry: &Entry) -> Result<u32, Unavailable> {
        self.vpopmail.usage(entry).map_err(unavailable)
    }

    fn ezmlm(&self, domain: &Domain, list: &[u8]) -> Result<bool, Unavailable> {
        self.vpopmail.has_file(domain, &[list, b"/editor"].concat()).map_err(unavailable)
    }
}
