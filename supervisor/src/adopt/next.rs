//! What to do next, in its order.

use std::path::Path;

use mailtree_config::Host;

use super::services::{Role, Service};
use super::smtp::Found;
use super::{Old, Options, Report, queue, shown};
use crate::elsewhere::{find, in_time};

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
    let paths = host.paths();
    // A copy names the directories of its original.
    if let Ok(named) = in_time(&paths, find) {
        for one in named {
            let (old, new) = one.prefixes();
            let (home, old, new) = (home.display(), old.display(), new.display());
            report.next(format!(
                "mailtree --home {home} relocate {old} {new}   # a copy must not deliver to its original"
            ));
        }
    }
    let home = home.display();
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
    let taken: Vec<String> = services
        .iter()
        .filter(|service| match service.role {
            Role::Send => true,
            Role::Smtp => found.services.iter().any(|own| own.from == service.run.display().to_string()),
            Role::Pop3 | Role::Qmail | Role::Other => false,
        })
        .map(|service| shown(&service.dir.display().to_string()))
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

/// How the logs go on where they are.
fn logs(services: &[Service], report: &mut Report) {
    let mut dirs: Vec<String> = Vec::new();
    for service in services.iter().filter(|service| matches!(service.role, Role::Smtp | Role::Send)) {
        let from = service.dir.join("log/run").display().to_string();
        for dir in &service.logs {
            let what = format!("log of {} in {}", shown(&service.name), shown(dir));
            let why = "the log goes to standard output; README has the multilog lines that keep these files";
            report.ignored(what, from.clone(), why);
            dirs.push(shown(dir));
        }
    }
    if !dirs.is_empty() {
        report.next(format!("keep the logs in {}: README has the multilog lines", dirs.join(" ")));
    }
}
