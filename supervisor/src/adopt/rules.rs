//! The rules of tcpserver: which file is in force, where its source is, what it sets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::tcprules;
use mailtree_protocols::variable::{self, Fate};

use super::{Old, Report, shown};

/// Where sources of rules lie, beside those next to their database.
const USUAL: [&str; 3] = ["/etc/tcp.smtp", "/etc/tcprules.d/tcp.smtp", "/etc/qmail/tcp.smtp"];

/// The script that has `tcprules` in its `cdb`.
const QMAILCTL: [&str; 6] = [
    "/usr/bin/qmailctl",
    "/usr/local/bin/qmailctl",
    "/usr/sbin/qmailctl",
    "/etc/init.d/qmail",
    "/etc/init.d/qmailctl",
    "/etc/rc.d/init.d/qmail",
];

/// Rows for the databases in force, and for files that look like rules and are not.
pub(super) fn examine(old: &Old, in_force: &[PathBuf], report: &mut Report) {
    let compiled_by = qmailctl(old);
    let mut sources = Vec::new();
    for cdb in in_force {
        database(old, cdb, report);
        sources.extend(source(old, cdb, &compiled_by, report));
    }
    for path in candidates(old) {
        let path = old.follow(&path);
        let cdb = path.with_extension("smtp.cdb");
        if path.exists() && !sources.contains(&path) && !in_force.is_empty() {
            let why = match in_force.contains(&cdb) {
                true => "another source is compiled into the database beside it",
                false => "no run script names its database",
            };
            report.ignored("rules", path.display().to_string(), why);
            sources.push(path);
        }
    }
}

fn candidates(old: &Old) -> Vec<PathBuf> {
    let usual = USUAL.iter().map(|path| old.at(path));
    usual.chain([old.vpopmail.join("etc/tcp.smtp"), old.control().join("tcp.smtp")]).collect()
}

/// What a database holds.
fn database(old: &Old, path: &Path, report: &mut Report) {
    let from = path.display().to_string();
    let Some(bytes) = old.look(path) else {
        report.not_yet("rules", from.clone(), "missing: nobody is let in");
        return report.next(format!("make {}: tcprules, or mailtree qmailctl cdb", shown(&from)));
    };
    let records = Cdb::new(&bytes).and_then(|cdb| {
        cdb.iter()
            .map(|record| record.map(|(key, data)| (key.to_vec(), data.to_vec())))
            .collect::<Result<Vec<_>, _>>()
    });
    let records = match records {
        Ok(records) => records,
        Err(error) => return report.not_yet("rules", from, format!("damaged: {error}")),
    };
    let denied = records.iter().filter(|(_, data)| data.starts_with(b"D")).count();
    report.taken("rules", from.clone(), format!("{} rules, {denied} of them deny", records.len()));
    // Variable and value, for how many rules.
    let mut variables: BTreeMap<(String, String), usize> = BTreeMap::new();
    let items = records.iter().flat_map(|(_, data)| data.split(|b| *b == 0));
    for item in items.filter_map(|item| item.strip_prefix(b"+")) {
        let item = String::from_utf8_lossy(item);
        let (name, value) = item.split_once('=').unwrap_or((&item, ""));
        // One row for a variable, but for each program.
        let value = if name == "QMAILQUEUE" { value } else { "" };
        *variables.entry((name.to_owned(), value.to_owned())).or_default() += 1;
    }
    for ((name, value), count) in variables {
        let what = format!("{} in {count} rules", shown(&name));
        match variable::fate(&name) {
            Fate::Obeyed if name == "QMAILQUEUE" => queue_program(old, &value, &what, &from, report),
            Fate::Obeyed => report.taken(what, from.clone(), "obeyed"),
            Fate::NotYet(why) => report.not_yet(what, from.clone(), why),
            Fate::Stranger | Fate::OfTheScript => {
                report.ignored(
                    what,
                    from.clone(),
                    "not known here; programs of QMAILQUEUE and checkpassword get it",
                );
            }
        }
    }
}

/// What QMAILQUEUE names.
fn queue_program(old: &Old, value: &str, what: &str, from: &str, report: &mut Report) {
    let name = value.rsplit('/').next().unwrap_or_default();
    let what = format!("{what}: {}", shown(value));
    match name {
        "" | "qmail-queue" => report.taken(what, from, "the queue of this host"),
        "simscan" => report.taken(what, from, "built in; control/simcontrol says what is scanned"),
        _ if old.at(value).exists() => {
            report.taken(what, from, "run as a program; it hands the message to the old qmail-queue");
        }
        _ => report.not_yet(what, from, "there is no such program: 451 to whoever it is for"),
    }
}

/// The text from which a database is compiled: `qmailctl cdb` compiles the file of its name without `.cdb`.
fn source(old: &Old, cdb: &Path, compiled_by: &[(PathBuf, PathBuf)], report: &mut Report) -> Option<PathBuf> {
    let bytes = old.look(cdb)?;
    let is_source = |path: &Path| {
        let text = old.look(path).and_then(|text| tcprules::parse(&text).ok());
        let fresh = text.and_then(|rules| tcprules::compile(&rules).ok());
        fresh.is_some_and(|fresh| same(&fresh, &bytes))
    };
    let beside = cdb.with_extension("");
    let from = cdb.display().to_string();
    if beside.exists() {
        if is_source(&beside) {
            report.taken(
                "source of the rules",
                beside.display().to_string(),
                "compiled by mailtree qmailctl cdb",
            );
        } else {
            let text = format!("differs from {}", beside.display());
            report.not_yet("rules", from, text);
            report.next(format!(
                "mailtree qmailctl cdb, or put {} right: it is not what is in force",
                beside.display()
            ));
        }
        return Some(beside);
    }
    let told = compiled_by.iter().filter(|(own, _)| own == cdb).map(|(_, source)| source.clone());
    let source = told.chain(candidates(old)).map(|path| old.follow(&path)).find(|path| is_source(path));
    match &source {
        Some(path) => {
            report.taken("source of the rules", path.display().to_string(), "the same rules");
            report.next(format!(
                "ln -s {} {}   # where mailtree qmailctl cdb looks for it",
                path.display(),
                beside.display()
            ));
        }
        None => report.not_yet(
            "source of the rules",
            from,
            "not found: mailtree qmailctl cdb has nothing to compile",
        ),
    }
    source
}

/// Whether two databases hold the same, whatever program laid them out.
fn same(a: &[u8], b: &[u8]) -> bool {
    match (Cdb::new(a), Cdb::new(b)) {
        (Ok(a), Ok(b)) => a.iter().eq(b.iter()),
        _ => false,
    }
}

/// Database and source of each line `tcprules CDB TMP < SOURCE` of the scripts that have one.
fn qmailctl(old: &Old) -> Vec<(PathBuf, PathBuf)> {
    let scripts = QMAILCTL.iter().map(|path| old.at(path)).chain([old.qmail.join("bin/qmailctl")]);
    let mut found = Vec::new();
    for script in scripts {
        let text = old.look(&script).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines().take(10_000) {
            let Some((command, source)) = line.split_once('<') else { continue };
            let mut words = command.split_whitespace().skip_while(|word| !word.ends_with("tcprules")).skip(1);
            let (cdb, source) = (words.next(), source.split_whitespace().next());
            if let (Some(cdb), Some(source)) = (cdb, source)
                && cdb.starts_with('/')
                && source.starts_with('/')
            {
                found.push((old.follow(&old.at(cdb)), old.follow(&old.at(source))));
            }
        }
    }
    found
}
