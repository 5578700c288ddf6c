//! What `check` looks at for SMTP: certificates, variables, rblsmtpd and its lists, simscan and its scanners.

use std::net::{IpAddr, Ipv4Addr};

use mailtree_actors::filter::{self, rblsmtpd};
use mailtree_actors::listen::unusable;
use mailtree_actors::tls;
use mailtree_config::host::{Service, Smtpd};
use mailtree_config::{Control, Host, Origin, Problem};
use mailtree_protocols::rblsmtpd::arguments::Arguments;
use mailtree_protocols::rblsmtpd::source::Source;
use mailtree_protocols::simscan::simcontrol::{self, Simcontrol};
use mailtree_protocols::spf::{Client, Options, SpfResult};
use mailtree_protocols::variable;

use super::{Findings, same_records};
use crate::boot::front;
use crate::offline;

/// Looks at all services of SMTP of a host.
pub(super) fn examine(host: &Host, found: &mut Findings) {
    certificates(host, found);
    simcontrol(host, found);
    let certificate = host.paths().control.join("servercert.pem");
    let mut lists: Vec<(String, Source)> = Vec::new();
    for (name, service) in &host.services {
        let Service::Smtpd(smtpd) = service else { continue };
        let needs = ["SMTPS", "FORCETLS"];
        let needs = needs.into_iter().find(|needs| smtpd.environment.iter().any(|(own, _)| own == needs));
        if let Some(needs) = needs.filter(|_| !certificate.exists()) {
            let text = format!("missing; without it services.{name}, which has {needs}, takes no mail");
            found.problem(&certificate, text);
        }
        for (variable, _) in &smtpd.environment {
            if let Some(meant) = variable::meant(variable, []) {
                let text =
                    format!("services.{name}.environment: {variable} is no variable of this host; {meant}?");
                found.warnings.push(text);
            }
        }
        for bad in variables(smtpd) {
            found.field(host, &format!("services.{name}.environment"), &bad);
        }
        if let Some(approver) = front::approver_behind(&smtpd.checkpassword) {
            let text = format!("leads to {approver}, which says yes to every password");
            found.field(host, &format!("services.{name}.checkpassword"), &text);
        }
        match Arguments::parse(&smtpd.rblsmtpd) {
            Ok(arguments) => {
                lists.extend(arguments.options.sources.into_iter().map(|source| (name.clone(), source)));
            }
            Err(error) => found.field(host, &format!("services.{name}.rblsmtpd"), &error.to_string()),
        }
    }
    if !lists.is_empty() {
        test(host, lists, found);
    }
    scanners(host, found);
    spf(host, found);
    for (name, service) in &host.services {
        // Another user may start the host: no more than a warning.
        let refused = service.listen().iter().filter_map(|address| unusable(*address));
        found.warnings.extend(refused.map(|why| format!("services.{name}.listen: {why}")));
    }
}

/// Pings the scanners that the rules of simscan name. One that does not answer is a warning: it may be down for now.
fn scanners(host: &Host, found: &mut Findings) {
    let given = |name: &str| {
        host.settings().iter().any(|setting| setting.name == name && setting.origin != Origin::Default)
    };
    if host.scanners.rspamd.is_some() && given("scanners.spamd") {
        found.warnings.push("scanners.spamd is not asked: scanners.rspamd is".to_owned());
    }
    let Ok(rules) = Control::new(&host.paths().control).simcontrol() else { return };
    let (clam, spam) = (rules.asks_clamd(), rules.asks_for_spam());
    if !(clam || spam) {
        return;
    }
    let settings = front::scanners(&host.scanners, host);
    let spam_scanner = match &host.scanners.rspamd {
        Some(address) => ("scanners.rspamd", address.to_string()),
        None => ("scanners.spamd", host.scanners.spamd.to_string()),
    };
    let asked = offline::run(host, async |_| {
        let mut answers = Vec::new();
        if clam {
            answers.push((("scanners.clamd", host.scanners.clamd.to_string()), settings.probe_clamd().await));
        }
        if spam {
            answers.push((spam_scanner, settings.probe_spam().await));
        }
        Ok(answers)
    });
    match asked {
        Ok(answers) => {
            for ((name, address), answer) in answers {
                match answer {
                    Ok(()) => found.tried.push(format!("{name}: {address} answers")),
                    Err(trouble) => found.warnings.push(format!("{name}: {trouble}")),
                }
            }
        }
        Err(failure) => found.warnings.push(format!("the scanners were not tried: {failure}")),
    }
}

/// The rules of simscan, and whether their source has changed since they were compiled.
fn simcontrol(host: &Host, found: &mut Findings) {
    let control = host.paths().control;
    if let Ok(rules) = Control::new(&control).simcontrol() {
        found.warnings.extend(rules.warnings().iter().map(|text| format!("control/simcontrol: {text}")));
    }
    let (source, compiled) = (control.join("simcontrol"), control.join("simcontrol.cdb"));
    if !compiled.exists() {
        return;
    }
    let Some(text) = found.read(&source) else {
        let text = format!("{}: there is no simcontrol it is made from", compiled.display());
        return found.warnings.push(text);
    };
    let Some(bytes) = found.read(&compiled) else { return };
    match Simcontrol::parse(&text).and_then(|rules| rules.compile()) {
        Ok(fresh) if same_records(&fresh, &bytes) => {}
        Ok(_) => {
            found.problem(&compiled, format!("older than {}; run mailtree qmailctl cdb", source.display()))
        }
        Err(simcontrol::Error::Line { line, text, allowed }) => {
            found.line(&source, line, format!("`{text}` is not allowed; allowed: {allowed}"));
        }
        Err(error @ simcontrol::Error::Cdb(_)) => found.problem(&source, error.to_string()),
    }
}

fn certificates(host: &Host, found: &mut Findings) {
    let now = jiff::Timestamp::now().as_second();
    let report = tls::check(&host.paths().control, now);
    for problem in report.problems {
        if problem.warning {
            found.warnings.push(problem.to_string());
        } else {
            found.problem(problem.path, problem.text);
        }
    }
    for certificate in report.certificates {
        let until = jiff::Timestamp::from_second(certificate.not_after)
            .map_or_else(|_| "the end of time".to_owned(), |until| until.strftime("%Y-%m-%d").to_string());
        let names = certificate.names.join(", ");
        found.tried.push(format!("{}: for {names}, valid until {until}", certificate.path.display()));
    }
}

/// What is wrong with the variables of a service.
fn variables(smtpd: &Smtpd) -> Vec<String> {
    let get = |name: &str| {
        let found = smtpd.environment.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_bytes().to_vec())
    };
    variable::bad_values(&get)
}

/// Asks every list whether it works (RFC 5782 5). One that does not is a warning: it may be the network's fault.
fn test(host: &Host, lists: Vec<(String, Source)>, found: &mut Findings) {
    let asked = offline::run(host, async |front| {
        let mut verdicts = Vec::new();
        for (service, source) in lists {
            let verdict = rblsmtpd::test(&source, &front.resolver).await;
            verdicts.push((
                format!("services.{service}.rblsmtpd: {} {verdict}", source.shown()),
                verdict.works(),
            ));
        }
        Ok(verdicts)
    });
    match asked {
        Ok(verdicts) => {
            for (text, works) in verdicts {
                if works { found.tried.push(text) } else { found.warnings.push(text) }
            }
        }
        Err(failure) => found.warnings.push(format!("the lists of rblsmtpd were not tried: {failure}")),
    }
}

/// Tries the domains that `spfrules` and `spfguess` have asked for each sender. Without a record of theirs every sender that does
/// not pass before becomes permerror (RFC 7208 5.2), which refuses nobody below behavior 6.
fn spf(host: &Host, found: &mut Findings) {
    // Files that cannot be read are named elsewhere.
    let Ok(controls) = Control::new(&host.paths().control).smtpd() else { return };
    let included: Vec<_> = controls.spf.included().collect();
    if included.is_empty() {
        return;
    }
    let tried = offline::run(host, async |front| {
        let mut tried = Vec::new();
        for (file, domain) in included {
            let sender = format!("postmaster@{domain}");
            // Whoever it is (RFC 5737): whether there is a record that can be followed is asked.
            let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
            let client = Client { ip, helo: b"", sender: sender.as_bytes(), receiver: &controls.me, now: 0 };
            let outcome = filter::spf::check(&client, &Options::default(), &front.resolver).await;
            let why = match outcome.result {
                SpfResult::None => Some("has no SPF record: senders become permerror".to_owned()),
                SpfResult::Permerror => Some(format!(
                    "has a bad SPF record: senders become permerror: {}",
                    outcome.problem.unwrap_or_default()
                )),
                SpfResult::Temperror => Some("does not answer now".to_owned()),
                _ => None,
            };
            tried.push((format!("control/{file}: {domain}"), why));
        }
        Ok(tried)
    });
    match tried {
        Ok(tried) => {
            for (what, why) in tried {
                match why {
                    Some(why) => found.warnings.push(format!("{what} {why}")),
                    None => found.tried.push(format!("{what} works")),
                }
            }
        }
        Err(failure) => found.warnings.push(format!("the domains of spfrules were not tried: {failure}")),
    }
}

impl Findings {
    /// A field of `host.ron` that is bad.
    fn field(&mut self, host: &Host, field: &str, text: &str) {
        let setting = host.settings().into_iter().find(|setting| setting.name == field);
        let line = match setting.map(|setting| setting.origin) {
            Some(Origin::File(_, line)) => line,
            _ => None,
        };
        self.problems.push(Problem {
            path: host.paths().host_ron,
            line,
            column: None,
            field: Some(field.to_owned()),
            text: text.to_owned(),
            temporary: false,
        });
    }
}
