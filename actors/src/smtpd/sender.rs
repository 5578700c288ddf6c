//! MAIL: who may send. In this order: plugins, whose address it is, the lists of bad names and senders, chkuser, SPF.

use std::net::IpAddr;

use mailtree_protocols::badlist::BadList;
use mailtree_protocols::badlist::log::{self, List};
use mailtree_protocols::chkuser::event::Event;
use mailtree_protocols::chkuser::{self, Mx, Step};
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::Sender;
use mailtree_protocols::spf::{self, Behavior, Decision, SpfResult};

use super::client::Client;
use super::{Smtpd, Talk};
use crate::clock::unix_now;
use crate::filter;
use crate::resolver::{Failure, Resolver};

/// What SPF said of the sender of the transaction.
pub(super) struct Spf {
    pub(super) result: SpfResult,
    /// The header field with its newline.
    pub(super) header: Option<String>,
}

impl Talk {
    /// Whether the client may send to any domain.
    pub(super) fn relays(&self) -> bool {
        self.client.is_set("RELAYCLIENT")
            || self.session.user().is_some() && self.user_relays
            || self.secured.as_ref().is_some_and(|secured| secured.relay)
    }

    /// Looks at the sender of the transaction.
    pub(super) async fn sender(&mut self) -> Sender {
        self.spf = None;
        match self.mail_plugins().await {
            Ok(true) => {}
            Ok(false) => return Sender::Accepted,
            Err(refusal) => return Sender::Refused(refusal),
        }
        let Some(transaction) = self.session.transaction() else { return Sender::Accepted };
        let (sender, smtputf8) = (transaction.reverse_path.clone(), transaction.smtputf8);
        if let Some(refusal) = self.not_owned(&sender).await {
            return Sender::Refused(refusal);
        }
        if let Some(refusal) = self.bad_sender(&sender) {
            return Sender::RefusedAtRcpt(refusal);
        }
        if let Some(refusal) = self.chkuser_sender(&sender, smtputf8).await {
            return Sender::Refused(refusal);
        }
        match self.check_spf(&sender).await {
            Some(refusal) => Sender::RefusedAtRcpt(refusal),
            None => Sender::Accepted,
        }
    }

    fn bad_sender(&self, sender: &[u8]) -> Option<Refusal> {
        let (controls, client) = (&self.controls, &self.client);
        let no_relay = !self.relays();
        if !client.is_set("NOBADHELO") {
            let helo = self.session.helo().unwrap_or_default();
            let lists = [Some(&controls.badhelo), no_relay.then_some(&controls.badhelonorelay)];
            if on_a_list(lists, List::BadHelo, helo, client).is_some() {
                return Some(Refusal::helo_denied());
            }
        }
        if !client.is_set("DISABLE_BADMAILFROM") {
            let lists = [Some(&controls.badmailfrom), no_relay.then_some(&controls.badmailfromnorelay)];
            if let Some(stock) = on_a_list(lists, List::BadMailFrom, sender, client) {
                return Some(if stock { Refusal::badmailfrom() } else { Refusal::sender_denied() });
            }
        }
        None
    }

    async fn chkuser_sender(&mut self, sender: &[u8], smtputf8: bool) -> Option<Refusal> {
        let settings = self.chkuser.settings(&self.client, self.relays())?;
        let mut mx = None;
        let event = loop {
            match chkuser::sender::check(&settings, sender, smtputf8, mx) {
                Step::Done(event) => break event,
                Step::Mx(domain) => {
                    mx = Some(self.smtpd.takes_mail(&domain, &self.client.resolver).await);
                }
            }
        };
        self.conclude(&settings, event, b"").await
    }

    /// `control/spfbehavior`; clients that may relay are not checked.
    async fn check_spf(&mut self, sender: &[u8]) -> Option<Refusal> {
        let behavior = behavior(&self.client, self.controls.spfbehavior);
        if behavior == Behavior::Off || self.relays() {
            return None;
        }
        let helo = self.session.helo().unwrap_or_default();
        let receiver = &self.controls.me;
        let client = spf::Client { ip: self.client.ip(), helo, sender, receiver, now: unix_now() };
        let outcome = filter::spf::check(&client, &self.controls.spf, &self.client.resolver).await;
        let header = spf::received_spf(&client, &outcome);
        let (result, ip, pid) = (outcome.result, client.ip, self.connection.end.pid());
        let decision = spf::decide(behavior, &outcome);
        self.spf = Some(Spf { result, header: Some(header) });
        let refusal = match decision {
            Decision::None | Decision::Annotate => return None,
            Decision::RejectTemporary => Refusal::spf_temporary(),
            Decision::Reject(text) => Refusal::spf_failed(&text),
        };
        tracing::info!("qmail-smtpd: pid {pid} spf {result} {ip}: {}", refusal.text());
        Some(refusal)
    }

    /// Logs a chkuser event, waits as long as it asks for, and gives the refusal if it is one.
    pub(super) async fn conclude(
        &mut self,
        settings: &chkuser::settings::Settings,
        event: Event,
        recipient: &[u8],
    ) -> Option<Refusal> {
        let outcome = self.chkuser.session.conclude(settings, event);
        let sender = self.session.transaction().map_or(&b""[..], |transaction| &transaction.reverse_path);
        let subject = chkuser::log::Subject {
            sender,
            rcpt: recipient,
            remoteinfo: self.session.user().or(self.client.info().map(str::as_bytes)).unwrap_or_default(),
            identify: &settings.identify,
            helo: self.session.helo().unwrap_or_default(),
            host: self.client.host().map(str::as_bytes),
            ip: self.client.ip(),
        };
        for event in outcome.events {
            tracing::info!("{}", chkuser::log::line(self.chkuser.layout, event, &subject));
        }
        if !outcome.delay.is_zero() {
            tokio::time::sleep(outcome.delay).await;
        }
        outcome.refusal
    }
}

/// SPFBEHAVIOR, or else `control/spfbehavior`.
pub(super) fn behavior(client: &Client, control: Behavior) -> Behavior {
    let Some(value) = client.text("SPFBEHAVIOR") else { return control };
    value.parse().unwrap_or_else(|error: spf::BehaviorError| {
        tracing::warn!("qmail-smtpd: warning: SPFBEHAVIOR for {}: {error}", client.ip());
        control
    })
}

/// Whether something is on one of the lists, which is logged; true: as stock qmail has it.
pub(super) fn on_a_list<const N: usize>(
    lists: [Option<&BadList>; N],
    kind: List,
    subject: &[u8],
    client: &Client,
) -> Option<bool> {
    let found = lists.into_iter().flatten().find_map(|list| list.matches(subject))?;
    let ip: IpAddr = client.ip();
    let line = if client.is_set("LOGREGEX") {
        log::refused_by(kind, subject, found.line)
    } else {
        log::refused(kind, subject, ip)
    };
    tracing::info!("{line}");
    Some(found.stock)
}

impl Smtpd {
    /// Whether mail can be sent to a domain: this host takes it, or it has a mail exchanger or an address (RFC 5321 5.1). What is
    /// delivered here needs no DNS to say so: without it our own users could not send.
    pub(super) async fn takes_mail(&self, domain: &[u8], resolver: &Resolver) -> Mx {
        if self
            .control
            .domestic()
            .is_ok_and(|own| own.virtualdomains.has_users(domain) || own.locals.contains(domain))
        {
            return Mx::Found;
        }
        let Ok(domain) = std::str::from_utf8(domain) else { return Mx::NotFound };
        match resolver.mx(domain).await {
            // RFC 7505: a null MX.
            Ok(found) if found.len() == 1 && found[0].host.is_empty() => return Mx::NotFound,
            Ok(found) if !found.is_empty() => return Mx::Found,
            Ok(_) => (),
            Err(Failure::NoName) => return Mx::NotFound,
            Err(Failure::Temporary(_)) => return Mx::Temporary,
        }
        match resolver.addresses(domain).await {
            Ok(found) if !found.is_empty() => Mx::Found,
            Ok(_) | Err(Failure::NoName) => Mx::NotFound,
            Err(Failure::Temporary(_)) => Mx::Temporary,
        }
    }
}
