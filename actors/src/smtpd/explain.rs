//! What a client or a recipient would meet, and why: the same questions that a session asks, told in words.

mod mail;

use std::net::{IpAddr, SocketAddr};

use mailtree_config::control;
use mailtree_config::host::{ReverseDns, SenderPolicy};
use mailtree_protocols::chkuser::settings::Start;
use mailtree_protocols::rblsmtpd::decision::{Decision, from_env};
use mailtree_protocols::rblsmtpd::source::Source;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::Policy;
use mailtree_protocols::spf::Behavior;
use mailtree_protocols::spp::Section;
use mailtree_protocols::variable::{self, Fate};

use super::Smtpd;
use super::client::Client;
use super::message::QmailQueue;
use super::recipient::{Asked, Chkuser};
use super::{entry, policy, sender, spp};
use crate::filter::rblsmtpd;

/// One line: what was looked at, and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// A word or two: `rule`, `rblsmtpd`, `verdict`…
    pub what: &'static str,
    /// What was found, and where.
    pub found: String,
    /// Name and value of a variable.
    pub variable: Option<(String, String)>,
}

/// What a client says before it names a recipient, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Greeting<'a> {
    /// In HELO or EHLO.
    pub helo: Option<&'a [u8]>,
    /// In MAIL.
    pub sender: Option<&'a [u8]>,
}

fn line(what: &'static str, found: impl Into<String>) -> Line {
    Line { what, found: found.into(), variable: None }
}

impl Smtpd {
    /// What a client at `ip` meets at this service, as the files and DNS are now. `local` is where it would connect.
    ///
    /// # Errors
    /// When control files or rules cannot be read: every client is told 421 then.
    pub async fn explain_ip(
        &self,
        ip: IpAddr,
        local: SocketAddr,
        said: Greeting<'_>,
    ) -> Result<Vec<Line>, String> {
        let controls = self.control.smtpd().map_err(|error| error.to_string())?;
        let (client, mut lines, deny) = self.known(&controls, ip, local).await?;
        if deny {
            lines.push(line("verdict", "the connection is closed at once, without a greeting"));
            return Ok(lines);
        }
        let (found, rejected) = self.explain_rblsmtpd(&client).await;
        lines.push(line("rblsmtpd", found));
        if let Some(rejected) = rejected {
            lines.push(line("verdict", format!("every recipient is answered {rejected}")));
            return Ok(lines);
        }
        let policy = policy::policy(self, &controls, &client, client.is_set("SMTPS"), 0);
        lines.extend(explain_filters(&controls, &client, &policy));
        if policy.auth.is_some() {
            lines.push(line(
                "sender",
                match self.sender {
                    SenderPolicy::Any => "any, after AUTH (sender: any)",
                    SenderPolicy::Own => "after AUTH an address of the user's own, or none (sender: own)",
                },
            ));
        }
        lines.extend(self.explain_plugins(&controls, &client).await?);
        if said.sender.is_some() {
            // What SPF says of the sender takes the place of what it would be asked for.
            lines.retain(|line| line.what != "spf");
        }
        if let Err(reply) = self.explain_mail(&controls, &client, said, &mut lines).await {
            lines.push(line("verdict", format!("mail from this sender is answered {reply}")));
            return Ok(lines);
        }
        let ours = "may send to the recipients that rcpthosts and chkuser allow";
        let no_tls = if policy.secured {
            self.tls.current().is_none()
        } else {
            policy.tls_required && !policy.starttls
        };
        let verdict = match (policy.auth, client.is_set("RELAYCLIENT")) {
            _ if no_tls => "may send nothing: TLS is a must, and there is no certificate".to_owned(),
            (Some(auth), _) if auth.required => {
                "may send nothing before AUTH, and to any recipient after it".to_owned()
            }
            (_, true) => "may send to any recipient".to_owned(),
            (Some(_), false) => format!("{ours}, and to any after AUTH"),
            (None, false) => ours.to_owned(),
        };
        lines.push(line("verdict", verdict));
        Ok(lines)
    }

    /// The plugins of each section that would run, and where they are not there.
    async fn explain_plugins(&self, controls: &control::Smtpd, client: &Client) -> Result<Vec<Line>, String> {
        let directory = self.qmail_home();
        let plugins = spp::plugins(controls, client, &directory).await?;
        let of = |section| {
            let shown: Vec<_> = plugins.of(section).map(|plugin| spp::shown(plugin, &directory)).collect();
            (!shown.is_empty()).then(|| line("plugins", format!("{section}: {}", shown.join("; "))))
        };
        Ok(Section::ALL.into_iter().filter_map(of).collect())
    }

    /// What a recipient meets that a client at `ip` names, after what it said before.
    ///
    /// # Errors
    /// When control files or rules cannot be read.
    pub async fn explain_recipient(
        &self,
        recipient: &[u8],
        ip: IpAddr,
        local: SocketAddr,
        said: Greeting<'_>,
    ) -> Result<Vec<Line>, String> {
        let controls = self.control.smtpd().map_err(|error| error.to_string())?;
        let (client, mut lines, deny) = self.known(&controls, ip, local).await?;
        if deny {
            lines.push(line("verdict", "the client does not come so far"));
            return Ok(lines);
        }
        if let (found, Some(rejected)) = self.explain_rblsmtpd(&client).await {
            lines.push(line("rblsmtpd", found));
            lines.push(line("verdict", rejected));
            return Ok(lines);
        }
        if let Err(reply) = self.explain_mail(&controls, &client, said, &mut lines).await {
            lines.push(line("verdict", reply));
            return Ok(lines);
        }
        let relays = client.is_set("RELAYCLIENT");
        let asked = Asked { smtpd: self, controls: &controls, client: &client, relays };
        let verdict = self.explain_steps(&asked, recipient, &mut lines).await;
        lines.push(line(
            "verdict",
            match verdict {
                Ok(()) => "250 ok".to_owned(),
                Err(refusal) => format!("{} {}", refusal.code(), refusal.text()),
            },
        ));
        Ok(lines)
    }

    /// The client with its rule and its environment, and whether the rule denies it.
    async fn known(
        &self,
        controls: &control::Smtpd,
        ip: IpAddr,
        local: SocketAddr,
    ) -> Result<(Client, Vec<Line>, bool), String> {
        let host = entry::host_of(ip, self.reverse_dns, &self.resolver).await;
        let mut lines = vec![line("service", self.service.clone()), line("client", ip.to_string())];
        lines.push(line(
            "name",
            match (&host, self.reverse_dns) {
                (_, ReverseDns::Off) => "not looked up (reverse_dns: off)".to_owned(),
                (Some(host), _) => host.clone(),
                (None, _) => "none".to_owned(),
            },
        ));
        let hit = self.rule(ip, host.as_deref())?;
        let rules = self.rules.display();
        let deny = hit.as_ref().is_some_and(|hit| hit.deny);
        lines.push(line(
            "rule",
            match &hit {
                None => format!("none in {rules}: allow"),
                Some(hit) => {
                    let verb = if hit.deny { "deny" } else { "allow" };
                    let key = String::from_utf8_lossy(&hit.key);
                    let key = if key.is_empty() { "the empty address, which is everybody's" } else { &*key };
                    format!("{key}: {verb}  ({rules})")
                }
            },
        ));
        let of_rule: Vec<Vec<u8>> =
            hit.iter().flat_map(|hit| hit.variables.iter().map(|(name, _)| name.clone())).collect();
        let client = entry::client(self, SocketAddr::new(ip, 0), local, &controls.me, host, hit);
        for (name, value) in client.variables.iter() {
            let (shown, text) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            let from = if of_rule.iter().any(|own| own == name) {
                "the rule"
            } else if self.environment.iter().any(|(own, _)| own.as_bytes() == name) {
                "host.ron"
            } else {
                continue;
            };
            let variable = Some((shown.to_string(), text.to_string()));
            let mark = match variable::fate(&shown) {
                Fate::NotYet(why) => format!("; not obeyed here: {why}"),
                Fate::Stranger => match variable::meant(&shown, []) {
                    Some(meant) => format!("; no variable of this host: {meant}?"),
                    None => String::new(),
                },
                Fate::Obeyed | Fate::OfTheScript => String::new(),
            };
            let found = format!("{shown}=\"{}\"  ({from}{mark})", text.escape_debug());
            lines.push(Line { what: "variable", found, variable });
        }
        Ok((client, lines, deny))
    }

    /// What rblsmtpd has to say, and the answer to every recipient if it rejects the client.
    async fn explain_rblsmtpd(&self, client: &Client) -> (String, Option<String>) {
        let told = |decision: Decision, why: String| match decision {
            Decision::Reject { permanent, text, .. } => {
                let reply =
                    format!("{} {}", if permanent { 553 } else { 451 }, String::from_utf8_lossy(&text));
                (format!("{why}: {reply}"), Some(reply))
            }
            Decision::Accept { .. } => (format!("{why}: accepted, no list is asked"), None),
            Decision::Undecided => (why, None),
        };
        let sources = &self.rblsmtpd.options.sources;
        match from_env(client.variables.get("RBLSMTPD")) {
            Decision::Undecided if sources.is_empty() => ("no lists".to_owned(), None),
            Decision::Undecided => {
                let decision = rblsmtpd::ask(&self.rblsmtpd.options, client.ip(), &self.resolver).await;
                let bases = sources.iter().map(Source::shown).collect::<Vec<_>>().join(", ");
                let why = match &decision {
                    Decision::Reject { source: Some(n), .. } => format!("listed in {}", sources[*n].shown()),
                    Decision::Accept { source: Some(n) } => format!("listed in {}", sources[*n].shown()),
                    _ => format!("not listed in {bases}"),
                };
                told(decision, why)
            }
            decided => told(decided, "RBLSMTPD is set".to_owned()),
        }
    }

    async fn explain_steps(
        &self,
        asked: &Asked<'_>,
        recipient: &[u8],
        lines: &mut Vec<Line>,
    ) -> Result<(), Refusal> {
        let mut step = |what, result: Result<(), Refusal>, fine: &str| {
            let found = match &result {
                Ok(()) => fine.to_owned(),
                Err(refusal) => format!("refuses: {} {}", refusal.code(), refusal.text()),
            };
            lines.push(line(what, found));
            result
        };
        step("badrcptto", asked.no_bad_recipient(recipient), "not on the list")?;
        let chkuser = Chkuser::new(asked.client);
        let listed = asked.is_valid(recipient, chkuser.on);
        let known = *listed.as_ref().unwrap_or(&false);
        let fine = match (&asked.controls.validrcptto, known) {
            (None, _) => "there is no list",
            (Some(_), true) => "on the list",
            (Some(_), false) => "not on the list; chkuser is to say, or the client may relay",
        };
        step("validrcptto", listed.map(drop), fine)?;
        match chkuser.settings(asked.client, asked.relays) {
            Some(settings) if !known => {
                let event = asked.looked_up(&settings, recipient, false).await;
                let (title, description) = event.words();
                let found = format!("{title}: {description}");
                step("chkuser", event.refusal().map_or(Ok(()), Err), &found)?;
            }
            _ if asked.relays => step("rcpthosts", Ok(()), "not asked: the client may relay")?,
            _ => step("rcpthosts", asked.in_rcpthosts(recipient), "has the domain")?,
        }
        Ok(())
    }
}

/// What is decided of a client before its first byte.
fn explain_filters(controls: &control::Smtpd, client: &Client, policy: &Policy) -> Vec<Line> {
    let tls = match (policy.secured, policy.starttls, policy.tls_required) {
        (true, ..) => "from the first byte (SMTPS)",
        (false, true, true) => "STARTTLS is offered, and a must (FORCETLS)",
        (false, true, false) => "STARTTLS is offered",
        (false, false, true) => "a must (FORCETLS), and not offered: no mail is taken",
        (false, false, false) => "not offered",
    };
    let auth = match &policy.auth {
        None => "not offered (SMTPAUTH is not set)".to_owned(),
        Some(auth) => format!(
            "{}{}{}",
            auth.capability().unwrap_or("AUTH without a mechanism"),
            if auth.required { ", a must" } else { "" },
            if policy.auth_in_clear { ", in the clear too" } else { ", after TLS only" }
        ),
    };
    let relay = match client.variables.get("RELAYCLIENT") {
        Some(b"") => "RELAYCLIENT is set: any recipient".to_owned(),
        Some(suffix) => {
            format!("RELAYCLIENT is set: any recipient, with `{}` behind it", String::from_utf8_lossy(suffix))
        }
        None => "only to rcpthosts".to_owned(),
    };
    let chkuser = match Chkuser::new(client).settings(client, client.is_set("RELAYCLIENT")) {
        None => "off (no CHKUSER_ variable)".to_owned(),
        Some(_) if client.is_set("RELAYCLIENT") => "off: the client may relay".to_owned(),
        Some(settings) => match settings.start {
            Start::Never => "recipients are not looked up (CHKUSER_START)",
            Start::Domain => "recipients of domains that bounce are looked up (CHKUSER_START)",
            Start::Always => "recipients are looked up (CHKUSER_START)",
        }
        .to_owned(),
    };
    let behavior = sender::behavior(client, controls.spfbehavior);
    let spf = match behavior {
        Behavior::Off => "not checked (behavior 0)".to_owned(),
        _ if client.is_set("RELAYCLIENT") => "not checked: the client may relay".to_owned(),
        behavior => format!("behavior {}", behavior as u8),
    };
    let size = match policy.databytes {
        0 => "no limit".to_owned(),
        bytes if bytes != policy::databytes(controls, client) => {
            format!("{bytes} bytes: simscan looks at every message and at no larger one")
        }
        bytes => format!("{bytes} bytes"),
    };
    let queue = match QmailQueue::of(client.variables.get("QMAILQUEUE")) {
        QmailQueue::Own => "the queue".to_owned(),
        QmailQueue::Simscan => "simscan, then the queue".to_owned(),
        QmailQueue::Program(path) if path.exists() || path.components().count() == 1 => {
            format!("the program {}", path.display())
        }
        QmailQueue::Program(path) => {
            format!("the program {}, which is not there: 451 to every message", path.display())
        }
    };
    [("tls", tls.to_owned()), ("auth", auth), ("relay", relay), ("chkuser", chkuser), ("spf", spf)]
        .into_iter()
        .chain([("size", size), ("data", queue)])
        .map(|(what, found)| line(what, found))
        .collect()
}
