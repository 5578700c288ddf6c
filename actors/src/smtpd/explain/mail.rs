//! What a sender would meet at MAIL.

use mailtree_config::control;
use mailtree_protocols::chkuser;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::spf::{self, Behavior, Decision};

use super::super::client::Client;
use super::super::recipient::Chkuser;
use super::super::{Smtpd, sender as session};
use super::{Greeting, Line, line};
use crate::clock::unix_now;
use crate::filter;

impl Smtpd {
    /// What the lists, chkuser and SPF say at MAIL, in the order of a session; the reply if one refuses.
    pub(super) async fn explain_mail(
        &self,
        controls: &control::Smtpd,
        client: &Client,
        said: Greeting<'_>,
        lines: &mut Vec<Line>,
    ) -> Result<(), String> {
        let relays = client.is_set("RELAYCLIENT");
        if let Some(sender) = said.sender {
            lines.push(line("from", format!("<{}>", String::from_utf8_lossy(sender))));
        }
        let mut step = |what, refusal: Option<Refusal>, found: String| match refusal {
            None => {
                lines.push(line(what, found));
                Ok(())
            }
            Some(refusal) => {
                let reply = format!("{} {}", refusal.code(), refusal.text());
                lines.push(line(what, format!("{found}: {reply}")));
                Err(reply)
            }
        };
        if let Some(helo) = said.helo {
            let lists = [Some(&controls.badhelo), (!relays).then_some(&controls.badhelonorelay)];
            let shown = String::from_utf8_lossy(helo);
            if client.is_set("NOBADHELO") {
                step("helo", None, format!("{shown}: badhelo is not asked (NOBADHELO)"))?;
            } else {
                match lists.into_iter().flatten().find_map(|list| list.matches(helo)) {
                    None => step("helo", None, format!("{shown}: not on the list"))?,
                    Some(found) => {
                        let refusal = Refusal::helo_denied();
                        step("helo", Some(refusal), format!("{shown}: badhelo line {}", found.line))?;
                    }
                }
            }
        }
        let Some(sender) = said.sender else { return Ok(()) };
        if client.is_set("DISABLE_BADMAILFROM") {
            step("badmailfrom", None, "not asked (DISABLE_BADMAILFROM)".to_owned())?;
        } else {
            let lists = [Some(&controls.badmailfrom), (!relays).then_some(&controls.badmailfromnorelay)];
            match lists.into_iter().flatten().find_map(|list| list.matches(sender)) {
                None => step("badmailfrom", None, "not on the list".to_owned())?,
                Some(found) => {
                    let refusal = if found.stock { Refusal::badmailfrom() } else { Refusal::sender_denied() };
                    step("badmailfrom", Some(refusal), format!("line {}", found.line))?;
                }
            }
        }
        match Chkuser::new(client).settings(client, relays) {
            None => step("chkuserfrom", None, "off".to_owned())?,
            Some(settings) => {
                let mut mx = None;
                let event = loop {
                    match chkuser::sender::check(&settings, sender, false, mx) {
                        chkuser::Step::Done(event) => break event,
                        chkuser::Step::Mx(domain) => {
                            mx = Some(self.takes_mail(&domain, &self.resolver).await);
                        }
                    }
                };
                let (title, description) = event.words();
                step("chkuserfrom", event.refusal(), format!("{title}: {description}"))?;
            }
        }
        let behavior = session::behavior(client, controls.spfbehavior);
        if behavior == Behavior::Off {
            return step("spf", None, "not checked (behavior 0)".to_owned());
        }
        if relays {
            return step("spf", None, "not checked: the client may relay".to_owned());
        }
        // Of a client whose HELO is not known its name is the best guess.
        let helo = said.helo.unwrap_or_else(|| client.host().unwrap_or_default().as_bytes());
        let receiver = &controls.me;
        let asked = spf::Client { ip: client.ip(), helo, sender, receiver, now: unix_now() };
        let outcome = filter::spf::check(&asked, &controls.spf, &self.resolver).await;
        let refusal = match spf::decide(behavior, &outcome) {
            Decision::None | Decision::Annotate => None,
            Decision::RejectTemporary => Some(Refusal::spf_temporary()),
            Decision::Reject(text) => Some(Refusal::spf_failed(&text)),
        };
        step("spf", refusal, format!("{} (behavior {})", outcome.result, behavior as u8))
    }
}
