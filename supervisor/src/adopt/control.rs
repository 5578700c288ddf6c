//! The control files: which are obeyed, as the host itself reads them, and what becomes of the others.

use std::path::{Path, PathBuf};

use mailtree_actors::tls;
use mailtree_config::control::Examined;
use mailtree_config::{Control, Origin, Setting};
use mailtree_protocols::smtproutes;

use super::services::{Role, Service};
use super::{Old, Report, shown};

/// Files of TLS that are read.
const TLS: [&str; 7] = [
    "servercert.pem",
    "serverkey.pem",
    "servercerts",
    "clientca.pem",
    "clientcrl.pem",
    "tlsclients",
    "tlsserverciphers",
];

/// By the beginning of the name.
const NOT_YET: [(&str, &str); 33] = [
    ("taps", "taps: no copies are sent"),
    ("filterargs", "filterargs: nothing signs or changes outgoing mail (DKIM)"),
    ("qfilters", "qfilters: no filter is run"),
    ("domainkeys", "DKIM: nothing is signed"),
    ("dkimkeys", "DKIM: nothing is signed"),
    ("dkimdomains", "DKIM: nothing is signed"),
    ("defaultdelivery", "delivery to system users"),
    ("helodnscheck", "names in HELO are not looked up"),
    ("rcptcheck", "chkuser and validrcptto look at recipients"),
    ("overlimit", "users are not counted"),
    ("relaylimits", "users are not counted"),
    ("notlshosts", "TLS to other hosts is not spoken yet"),
    ("tlshosts", "TLS to other hosts is not spoken yet"),
    ("tlsdestinations", "TLS to other hosts is not spoken yet"),
    ("tlsclientciphers", "TLS to other hosts is not spoken yet"),
    ("clientcert.pem", "TLS to other hosts is not spoken yet"),
    ("suppl", "qmail-channels: the remote channel carries all"),
    ("concurrencysuppl", "qmail-channels: the remote channel carries all"),
    ("outgoingip", "use remote: (outgoing_ip: …) in host.ron"),
    ("moreipme", "own addresses are those of the machine"),
    ("notipme", "own addresses are those of the machine"),
    ("srs_", "SRS: senders of forwarded mail stay as they are"),
    ("dnsbl", "qmail-dnsbl: put the lists into rblsmtpd in host.ron"),
    ("surbl", "surblfilter: the links in messages are not looked up"),
    ("badmimetypes", "use attach in control/simcontrol"),
    ("badloadertypes", "use attach in control/simcontrol"),
    ("greylist", "greylisting"),
    ("jgreylist", "greylisting"),
    ("rejectnullsenders", "mail without a sender is accepted"),
    ("rejectrelaytest", "relaying is refused by rcpthosts"),
    ("bouncemaxbytes", "a bounce has the whole message"),
    ("authsenders", "a smarthost with a password"),
    ("userctrl", "control files of users"),
];

const IGNORED: [(&str, &str); 16] = [
    ("defaultdomain", "qmail-inject's, which goes on reading it"),
    ("defaulthost", "qmail-inject's, which goes on reading it"),
    ("plusdomain", "qmail-inject's, which goes on reading it"),
    ("idhost", "qmail-inject's, which goes on reading it"),
    ("qmqpservers", "qmail-qmqpc's, which goes on reading it"),
    ("locals.lock", "a lock"),
    ("dh", "parameters of key exchange: modern TLS needs none"),
    ("rsa", "a temporary key: modern TLS needs none"),
    ("softlimit", "read by a run script"),
    ("logcount", "read by a run script"),
    ("logsize", "read by a run script"),
    ("blacklists", "read by a run script"),
    ("pop3", "POP3's, whose service goes on"),
    ("imap", "IMAP's, whose service goes on"),
    ("simversions", "simscan's list of versions: clamd and spamd are asked"),
    ("spamdyke", "spamdyke's"),
];

/// A row for each file.
pub(super) fn examine(old: &Old, services: &[Service], report: &mut Report) {
    let dir = old.control();
    let Examined { settings, problems, warnings } = Control::new(&dir).examine();
    let bad: Vec<PathBuf> = problems.iter().chain(&warnings).map(|problem| problem.path.clone()).collect();
    for (problem, starts) in
        problems.iter().map(|problem| (problem, false)).chain(warnings.iter().map(|warning| (warning, true)))
    {
        // What it quotes may be the password of a smarthost.
        let routes = problem.path.file_name().is_some_and(|name| name == "smtproutes");
        let relays = routes && problem.text == smtproutes::Error::Authentication.to_string();
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        let (place, name) = (format!("{}{line}", problem.path.display()), file_name(&problem.path));
        let why = if routes && !relays { "not allowed; mailtree check says why" } else { &problem.text };
        report.not_yet(
            format!("control/{name}{line}"),
            dir.display().to_string(),
            format!("refused: {}", shown(why)),
        );
        let until = if relays {
            "until mailtree can log in at a relay, mail that it concerns waits, or goes by a relay that asks for no password"
        } else if starts {
            "mail that it concerns waits until then"
        } else {
            "without it the host does not start"
        };
        let verb = if relays { "know" } else { "mend" };
        report.next(format!("{verb} {}: {until}", shown(&place)));
    }
    let certificates = tls::check(&dir, jiff::Timestamp::now().as_second());
    for name in old.names(&dir) {
        let path = dir.join(&name);
        if bad.contains(&path) {
            continue;
        }
        let from = dir.display().to_string();
        let what = format!("control/{}", shown(&name));
        let compiled = dir.join(format!("{name}.cdb")).exists();
        if let Some(value) = value(&settings, &path) {
            report.taken(what, from, value);
        } else if name.ends_with(".lock") || name.ends_with('~') || name.starts_with('.') {
            report.ignored(what, from, "a lock, or a copy of an editor");
        } else if TLS.contains(&name.as_str()) {
            report.taken(what, from, "TLS of smtpd");
        } else if compiled && of_a_database(&settings, &name) {
            report.taken(what, from, format!("the source of {name}.cdb"));
        } else if let Some((_, why)) = NOT_YET.iter().find(|(own, _)| name.starts_with(own)) {
            report.not_yet(what, from, *why);
        } else if let Some((_, why)) = IGNORED.iter().find(|(own, _)| name.starts_with(own)) {
            report.ignored(what, from, *why);
        } else if let Some(service) = services.iter().find(|service| service.files.contains(&path)) {
            let name = shown(&service.name);
            match service.role {
                Role::Smtp | Role::Send => report.taken(what, from, format!("read for {name}: see its rows")),
                Role::Pop3 | Role::Qmail | Role::Other => {
                    report.ignored(what, from, format!("read by {name}, which goes on"));
                }
            }
        } else {
            report.ignored(what, from, "no file that mailtree reads");
        }
    }
    for certificate in certificates.certificates {
        let names = certificate.names.join(", ");
        let until = jiff::Timestamp::from_second(certificate.not_after)
            .map_or_else(|_| String::new(), |until| until.strftime(", valid until %Y-%m-%d").to_string());
        let from = certificate.path.display().to_string();
        report.taken("certificate", from, shown(&format!("for {names}{until}")));
    }
    for problem in certificates.problems.into_iter().filter(|problem| !problem.warning) {
        report.not_yet("certificate", problem.path.display().to_string(), shown(&problem.text));
        report.next(format!("mend {}: {}", problem.path.display(), shown(&problem.text)));
    }
}

/// The value of a file that is read, as `check` shows it.
fn value(settings: &[Setting], file: &Path) -> Option<String> {
    let of_file = |setting: &&Setting| matches!(&setting.origin, Origin::File(path, _) if path == file);
    let setting = settings.iter().find(of_file)?;
    let name = file_name(file);
    // What it holds may be the password of a smarthost.
    if name == "smtproutes" {
        return Some(format!(
            "{} routes",
            setting.value.split(", ").filter(|route| !route.is_empty()).count()
        ));
    }
    Some(if setting.value.is_empty() { "empty".to_owned() } else { shown(&setting.value) })
}

/// Whether the compiled form of this file is what is read.
fn of_a_database(settings: &[Setting], name: &str) -> bool {
    settings.iter().any(|setting| setting.name == format!("control/{name}.cdb"))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| shown(&name.to_string_lossy())).unwrap_or_default()
}
