//! The services of the old host: its directories with run scripts.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use mailtree_protocols::runscript::{self, Kind, Question, RunScript, Stunnel};

use super::{Old, Report, shown};

/// More services than svscan starts.
const MOST: usize = 1000;

/// Where services are, if nobody says it.
const USUAL: [&str; 3] = ["/service", "/etc/service", "/var/service"];

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// qmail-smtpd, behind tcpserver, sslserver or stunnel.
    Smtp,
    /// qmail-send.
    Send,
    /// qmail-pop3d.
    Pop3,
    /// Something else of qmail.
    Qmail,
    /// None of qmail.
    Other,
}

/// A directory with a run script.
#[derive(Debug)]
pub(super) struct Service {
    /// Its name, without `qmail-` in front.
    pub(super) name: String,
    /// As it is found first: what `svc` is told.
    pub(super) dir: PathBuf,
    /// Its run script.
    pub(super) run: PathBuf,
    pub(super) script: RunScript,
    pub(super) role: Role,
    /// The configuration of the stunnel that it runs.
    pub(super) stunnel: Option<Stunnel>,
    /// The directories of its multilog.
    pub(super) logs: Vec<String>,
    /// The files that say more than the script does: what it asks for with `cat`, the configuration of its stunnel.
    pub(super) files: Vec<PathBuf>,
}

/// All of them, each once, however many links lead to it.
pub(super) fn find(old: &Old, dirs: &[PathBuf], report: &mut Report) -> Vec<Service> {
    let usual = USUAL.iter().map(|dir| old.at(dir)).chain([old.qmail.join("supervise")]);
    let chosen = dirs.iter().map(|dir| old.at(dir));
    let dirs: Vec<PathBuf> = if dirs.is_empty() { usual.collect() } else { chosen.collect() };
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut services: Vec<Service> = Vec::new();
    for dir in &dirs {
        for name in old.names(dir).into_iter().filter(|name| !name.starts_with('.')) {
            let found = dir.join(&name);
            let place = old.follow(&found);
            let run = place.join("run");
            let place = std::fs::canonicalize(&place).unwrap_or(place);
            if seen.contains(&place) || seen.len() == MOST {
                continue;
            }
            seen.push(place);
            services.extend(read(old, &name, found, run, report));
        }
    }
    if services.iter().all(|service| service.role != Role::Smtp) {
        let looked: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        report.not_yet(
            "SMTP",
            looked.join(" "),
            "no run script with qmail-smtpd: host.ron gets no such service; --service names another directory",
        );
    }
    services
}

fn read(old: &Old, name: &str, dir: PathBuf, run: PathBuf, report: &mut Report) -> Option<Service> {
    let from = run.display().to_string();
    let text = match old.read(&run) {
        Ok(text) => text?,
        Err(failure) => {
            report.not_yet(shown(name), from, failure.to_string());
            return None;
        }
    };
    let files = RefCell::new(Vec::new());
    let answer = |question: &Question| {
        if let Question::Cat(file) | Question::FirstLine(file) = question {
            files.borrow_mut().push(old.at(file));
        }
        old.answer(question)
    };
    let mut script = match runscript::parse(&text, &answer) {
        Ok(script) => script,
        Err(error) => {
            report.not_yet(shown(name), from, shown(&error.to_string()));
            return None;
        }
    };
    follow_rc(old, &answer, &mut script);
    for sourced in &script.sourced {
        report.ignored(
            format!("{} reads {}", shown(name), shown(&sourced.text)),
            from.clone(),
            "what that file sets is not looked at",
        );
    }
    let (configuration, stunnel) = stunnel(old, &script).unzip();
    let stunnel: Option<Stunnel> = stunnel;
    if let Some(stunnel) = &stunnel {
        script.follow(stunnel.chain());
    }
    let files = files.into_inner().into_iter().chain(configuration).collect();
    let role = role(&script);
    let logs = logs(old, &run.with_file_name("log").join("run"));
    let name = name.strip_prefix("qmail-").unwrap_or(name).to_owned();
    Some(Service { name, dir, run, script, role, stunnel, logs, files })
}

/// `exec /var/qmail/rc`: the script that it is.
fn follow_rc(old: &Old, answer: &dyn Fn(&Question) -> Option<String>, script: &mut RunScript) {
    let Some(last) = script.chain.last() else { return };
    let Some(path) = last.path.known().filter(|path| path.ends_with("/rc")) else { return };
    let Some(text) = old.look(&old.at(path)) else { return };
    if let Ok(rc) = runscript::parse(&text, answer) {
        script.follow(rc.chain);
    }
}

fn stunnel(old: &Old, script: &RunScript) -> Option<(PathBuf, Stunnel)> {
    let arguments = script.chain.iter().find_map(|program| match &program.kind {
        Kind::Stunnel(arguments) => Some(arguments),
        _ => None,
    })?;
    let path = arguments.iter().filter_map(|word| word.known()).find(|word| word.starts_with('/'))?;
    let path = old.at(path);
    let stunnel = Stunnel::parse(&old.look(&path)?);
    Some((path, stunnel))
}

fn role(script: &RunScript) -> Role {
    let kinds = || script.chain.iter().map(|program| &program.kind);
    let behind = |name: &str| script.chain.iter().any(|program| program.path.base() == name);
    if kinds().any(|kind| matches!(kind, Kind::QmailSmtpd { .. })) {
        Role::Smtp
    } else if kinds().any(|kind| matches!(kind, Kind::QmailPopup(_))) || behind("qmail-pop3d") {
        Role::Pop3
    } else if kinds().any(|kind| matches!(kind, Kind::QmailStart(_))) {
        Role::Send
    } else if script.chain.iter().any(|program| program.path.base().starts_with("qmail-")) {
        Role::Qmail
    } else {
        Role::Other
    }
}

/// Where the log of a service goes.
fn logs(old: &Old, run: &Path) -> Vec<String> {
    let script = old.look(run).and_then(|text| runscript::parse(&text, &|asked| old.answer(asked)).ok());
    let chain = script.map(|script| script.chain).unwrap_or_default();
    let words = chain.into_iter().find_map(|program| match program.kind {
        Kind::Multilog(words) => Some(words),
        _ => None,
    });
    let dirs = words.unwrap_or_default().into_iter().filter(|word| word.text.starts_with(['/', '.']));
    dirs.map(|word| word.text).collect()
}
