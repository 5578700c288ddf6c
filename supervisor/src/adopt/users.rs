//! Whom mail is for: domains, users, aliases.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mailtree_protocols::assign::{self, Pattern};
use mailtree_protocols::dotqmail::{self, Instruction};
use mailtree_protocols::vpasswd;

use super::{Old, Report, shown};
use crate::elsewhere::word;

/// So many `.qmail` files and directories are looked at.
const MANY: usize = 10_000;

/// Rows for all of them.
pub(super) fn examine(old: &Old, report: &mut Report) {
    let source = old.qmail.join("users/assign");
    let from = source.display().to_string();
    let domains = match old.look(&source).map(|text| assign::parse(&text)) {
        None => {
            report.ignored("users/assign", from, "there is none: no virtual domain of vpopmail");
            Vec::new()
        }
        Some(Err(error)) => {
            report.next(format!("mend {}: {error}", source.display()));
            report.not_yet("users/assign", from, shown(&error.to_string()));
            Vec::new()
        }
        Some(Ok(assignments)) => {
            let (domains, users): (Vec<_>, Vec<_>) = assignments
                .into_iter()
                .partition(|one| matches!(&one.pattern, Pattern::Prefix(name) if name.ends_with(b"-")));
            if !users.is_empty() {
                let what = format!("{} users of the system", users.len());
                report.not_yet(what, from.clone(), "delivery to system users; it stays in the queue");
            }
            if !old.qmail.join("users/cdb").exists() && !domains.is_empty() {
                let what = "users/cdb is missing";
                report.next(if old.is_live() {
                    format!("{}   # {what}", word(&old.qmail.join("bin/qmail-newu")))
                } else {
                    format!("{what} in the copy: relocate makes it, too")
                });
            }
            report.taken("users/assign", from, format!("{} virtual domains", domains.len()));
            domains.into_iter().map(|one| path(old, &one.controlled.home)).collect()
        }
    };
    people(old, domains, report);
    locals(old, report);
    aliases(old, report);
}

/// Whether users are not in files: vpopmail asks a database for them.
pub(super) fn elsewhere(old: &Old) -> bool {
    let etc = old.vpopmail.join("etc");
    let database = ["vpopmail.mysql", "vpopmail.pgsql"].iter().any(|name| etc.join(name).exists());
    database
        && old
            .names(&old.vpopmail.join("domains"))
            .iter()
            .all(|domain| !old.vpopmail.join("domains").join(domain).join("vpasswd").exists())
}

fn path(old: &Old, bytes: &[u8]) -> PathBuf {
    old.at(Path::new(std::ffi::OsStr::from_bytes(bytes)))
}

/// The users of the domains, and what their domains do with mail.
fn people(old: &Old, mut domains: Vec<PathBuf>, report: &mut Report) {
    domains.sort();
    domains.dedup();
    let (mut users, mut quotas, mut without, mut left) = (0, 0, 0, MANY);
    let mut found = Instructions::default();
    for dir in &domains {
        let listed = old.look(&dir.join("vpasswd"));
        match listed.as_deref().map(vpasswd::parse) {
            Some(Ok(entries)) => {
                users += entries.len();
                quotas += entries.iter().filter(|entry| entry.quota != b"NOQUOTA").count();
                without += usize::from(!dir.join("vpasswd.cdb").exists());
            }
            Some(Err(error)) => {
                report.next(format!("mend {}: {error}", dir.join("vpasswd").display()));
                report.not_yet(
                    "vpasswd",
                    dir.join("vpasswd").display().to_string(),
                    shown(&error.to_string()),
                );
            }
            None => {
                let why = "no vpasswd: its users are elsewhere (a database of vpopmail), and get no mail yet";
                report.not_yet("domain", dir.display().to_string(), why);
            }
        }
        found.look(old, dir, &mut left);
    }
    let from = old.vpopmail.join("domains").display().to_string();
    report.taken("users", from.clone(), format!("{users} in {} directories", domains.len()));
    if without > 0 {
        let why = "missing: the running host makes it from vpasswd when it next looks for a user";
        report.ignored(format!("vpasswd.cdb of {without} domains"), from.clone(), why);
    }
    if quotas > 0 {
        report.not_yet(format!("quotas of {quotas} users"), from.clone(), "Maildirs are not measured");
    }
    found.rows("domains", &from, report);
}

/// Domains whose mail is for users of the system: without `locals` that of the host itself.
fn locals(old: &Old, report: &mut Report) {
    let path = old.control().join("locals");
    let text = old.look(&path).or_else(|| old.look(&old.control().join("me"))).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: Vec<&str> = names.filter(|name| *name != "localhost").collect();
    if !names.is_empty() {
        let why = "aliases get their mail; that of system users stays in the queue with a text that says so";
        let what = format!("local domains {}", shown(&names.join(", ")));
        report.not_yet(what, path.display().to_string(), why);
    }
}

fn aliases(old: &Old, report: &mut Report) {
    let dir = old.qmail.join("alias");
    let mut found = Instructions::default();
    found.look(old, &dir, &mut { MANY });
    let from = dir.display().to_string();
    report.taken("aliases", from.clone(), format!("{} .qmail files", found.files));
    found.rows("aliases", &from, report);
}

/// What `.qmail` files ask for.
#[derive(Debug, Default)]
struct Instructions {
    files: usize,
    programs: usize,
    mboxes: usize,
    lists: usize,
}

impl Instructions {
    fn look(&mut self, old: &Old, dir: &Path, left: &mut usize) {
        for name in old.names(dir).into_iter().filter(|name| name.starts_with(".qmail")) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return;
            }
            let Some(text) = old.look(&dir.join(&name)) else { continue };
            let instructions = dotqmail::parse(&text).unwrap_or_default();
            self.files += 1;
            self.lists += usize::from(name.ends_with("-owner"));
            let has = |wanted: fn(&Instruction) -> bool| usize::from(instructions.iter().any(wanted));
            self.programs += has(|one| matches!(one, Instruction::Program(_)));
            self.mboxes += has(|one| matches!(one, Instruction::Mbox(_)));
        }
    }

    fn rows(&self, whose: &str, from: &str, report: &mut Report) {
        for (count, what, why) in [
            (self.programs, "programs", "programs in .qmail files; the message stays in the queue"),
            (self.mboxes, "mbox files", "mbox files in .qmail files; the message stays in the queue"),
            (self.lists, "-owner files", "lists: the sender of a forwarded message stays as it is"),
        ] {
            if count > 0 {
                report.not_yet(format!("{count} {what} of {whose}"), from, why);
            }
        }
    }
}
