//! What to do next, in its order.

use std::path::Path;

use mailtree_config::Host;

use super::services::{Role, Service};
use super::smtp::Found;
use super::{Old, Options, Report, queue, shown};
use crate::elsewhere::{find, in_time, word};

/// Adds the steps to what must be mended, which comes first.
pub(super) fn steps(
    old: &Old,
    home: &Path,
    host: &Host,
    services: &[Service],
    found: &Found,
    options: &Options,
    report: &mut Report,
) {
    relocate(old, home, host, report);
    let home = word(home);
    report.next(format!("mailtree --home {home} check"));
    logs(services, report);
    if !old.is_live() || options.port_offset != 0 {
        if old.is_live() {
            report.next("stop here: a rehearsal is for a copy; this home has the live queue and Maildirs");
        }
        report.next(format!(
            "mailtree --home {home} up --hold   # accepts, delivers nothing until svc -c send"
        ));
        return;
    }
    // Its multilog holds the lock of the directory in which the log goes on.
    let with_log = |service: &Service| {
        let dir = shown(&word(&service.dir));
        let log = (!service.logs.is_empty()).then(|| shown(&word(&service.dir.join("log"))));
        std::iter::once(dir).chain(log).collect::<Vec<_>>()
    };
    let taken: Vec<String> = services
        .iter()
        .filter(|service| match service.role {
            Role::Send => true,
            Role::Smtp => found.services.iter().any(|own| own.from == service.run.display().to_string()),
            Role::Pop3 | Role::Qmail | Role::Other => false,
        })
        .flat_map(with_log)
        .collect();
    if queue::is_locked(old) {
        report.next("qmail-send runs: the next step comes before up, which refuses to start beside it");
    }
    if !taken.is_empty() {
        let downs: Vec<String> = taken.iter().map(|dir| format!("{dir}/down")).collect();
        report.next(format!("touch {} && svc -d {}", downs.join(" "), taken.join(" ")));
    }
    report.next(format!("mailtree --home {home} up   # or from a run script; see README"));
    if !taken.is_empty() {
        let downs: Vec<String> = taken.iter().map(|dir| format!("{dir}/down")).collect();
        report.next(format!(
            "the way back: stop mailtree, rm {}, svc -u {}",
            downs.join(" "),
            taken.join(" ")
        ));
    }
}

/// A copy names the directories of its original.
fn relocate(old: &Old, home: &Path, host: &Host, report: &mut Report) {
    // What cannot be read is named where it is looked at.
    for one in in_time(&host.paths(), find).unwrap_or_default() {
        let known = [&old.vpopmail, &old.qmail].into_iter().map(|here| (old.original(here), here.clone()));
        let named =
            known.filter(|(there, here)| there != here).find(|(there, _)| one.named.starts_with(there));
        let (there, here) = named.unwrap_or_else(|| one.prefixes());
        let (home, there, here) = (word(home), word(&there), word(&here));
        report.next(format!(
            "mailtree --home {home} relocate {there} {here}   # a copy must not deliver to its original"
        ));
    }
}

/// How the logs go on where they are.
fn logs(services: &[Service], report: &mut Report) {
    let mut dirs: Vec<String> = Vec::new();
    for service in services.iter().filter(|service| matches!(service.role, Role::Smtp | Role::Send)) {
        let from = service.dir.join("log/run").display().to_string();
        for dir in &service.logs {
            let what = format!("log of {} in {}", shown(&service.name), shown(dir));
            let why = "one log for all services, on standard output: README has the multilog lines for it; what concerns \
                       clients is in smtpd, logins by submission and smtps are in files of their own, too";
            report.ignored(what, from.clone(), why);
            dirs.push(shown(dir));
        }
    }
    if !dirs.is_empty() {
        report.next(format!(
            "keep the logs in {}: README has the multilog lines, which start when the old multilog has stopped",
            dirs.join(" ")
        ));
    }
}
