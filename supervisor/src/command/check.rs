//! `check`: every setting in force with its origin, and everything that is wrong with the home.

mod front;
mod permissions;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_config::host::{Paths, Service};
use mailtree_config::{Control, Host, Origin, Problem, Setting, regular};
use mailtree_protocols::assign::{self, Pattern};
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::queue::Dir;
use mailtree_protocols::tcprules;
use mailtree_protocols::vpasswd::{self, Entry};
use rustix::fs::Access;
use serde::Serialize;

use crate::durable;
use crate::elsewhere::{doubtful, find, in_time, outward, programs};
use crate::output;
use crate::rules;

/// Shows every setting in force with its origin; fails if one is bad.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object in place of lines
    #[arg(long)]
    json: bool,
    /// Only settings that are not the default
    #[arg(long)]
    changed: bool,
}

/// What was found in a home.
#[derive(Debug, Default)]
struct Findings {
    settings: Vec<Setting>,
    problems: Vec<Problem>,
    /// What works, and should not stay as it is.
    warnings: Vec<String>,
    /// What was tried, and works.
    tried: Vec<String>,
    /// What leads out of the home, which a rehearsal must know.
    outside: Vec<String>,
}

/// Settings on standard output, then warnings and problems on standard error, then one line that sums up. 0: all is well; 100: something is wrong; 111: nothing is
/// known to be wrong, but something could not be read.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    let mut found = examine(home);
    if args.changed {
        found.settings.retain(|setting| matches!(setting.origin, Origin::File(..)));
    }
    if args.json {
        print_json(home, &found);
    } else {
        print_lines(&found);
    }
    match found.problems.as_slice() {
        [] => ExitCode::SUCCESS,
        problems if problems.iter().all(|problem| problem.temporary) => ExitCode::from(111),
        _ => ExitCode::from(100),
    }
}

fn print_lines(found: &Findings) {
    for setting in &found.settings {
        outln!("{setting}");
    }
    for tried in &found.tried {
        outln!("{tried}");
    }
    for outside in &found.outside {
        outln!("outside: {outside}");
    }
    for warning in &found.warnings {
        errln!("mailtree check: warning: {warning}");
    }
    for problem in &found.problems {
        errln!("mailtree check: fatal: {problem}");
    }
    outln!("check: {}", found.verdict());
}

#[derive(Serialize)]
struct Document<'a> {
    home: String,
    settings: Vec<SettingRow<'a>>,
    problems: Vec<ProblemRow<'a>>,
    warnings: &'a [String],
    tried: &'a [String],
    outside: &'a [String],
}

#[derive(Serialize)]
struct SettingRow<'a> {
    name: &'a str,
    value: &'a str,
    /// `default`, `me` or `file`.
    origin: &'static str,
    file: Option<String>,
    line: Option<usize>,
}

#[derive(Serialize)]
struct ProblemRow<'a> {
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    field: Option<&'a str>,
    text: &'a str,
    temporary: bool,
}

fn print_json(home: &Path, found: &Findings) {
    let settings = found.settings.iter().map(|Setting { name, value, origin }| {
        let (origin, file, line) = match origin {
            Origin::Default => ("default", None, None),
            Origin::Me => ("me", None, None),
            Origin::File(path, line) => ("file", Some(path.display().to_string()), *line),
        };
        SettingRow { name, value, origin, file, line }
    });
    let problems = found.problems.iter().map(|problem| ProblemRow {
        file: problem.path.display().to_string(),
        line: problem.line,
        column: problem.column,
        field: problem.field.as_deref(),
        text: &problem.text,
        temporary: problem.temporary,
    });
    let document = Document {
        home: home.display().to_string(),
        settings: settings.collect(),
        problems: problems.collect(),
        warnings: &found.warnings,
        tried: &found.tried,
        outside: &found.outside,
    };
    output::json(&document);
}

fn examine(home: &Path) -> Findings {
    let mut found = Findings::default();
    // Whoever reads a path need not know where he was then.
    let home = &std::path::absolute(home).unwrap_or_else(|_| home.to_owned());
    let (host, paths) = match Host::load(home) {
        Ok(host) => {
            found.settings.extend(host.settings());
            let paths = host.paths();
            (Some(host), paths)
        }
        Err(error) => {
            // The control files of a home are where they are unless host.ron says otherwise, which is unknown now.
            found.problems.extend(error.problems);
            if !home.join("control").is_dir() {
                return found;
            }
            (None, Host::default().at(home).paths())
        }
    };
    let control = Control::new(&paths.control).examine();
    found.settings.extend(control.settings);
    found.problems.extend(control.problems);
    found.warnings.extend(control.warnings.iter().map(ToString::to_string));
    if let Some(host) = &host {
        found.rules(host);
        front::examine(host, &mut found);
        found.outside.extend(programs(host));
    }
    let read = [home.join("host.ron"), home.join("tcp.smtp.cdb"), paths.control.clone(), paths.users.clone()];
    // Below a domain its users' directories and their `.qmail` files.
    let read = [&read[..], &[paths.domains.clone(), paths.alias.clone()]].concat();
    for (path, text) in host.iter().flat_map(|host| permissions::unreadable(host, &read)) {
        found.problem(path, text);
    }
    found.queue(&paths);
    found.users(&paths);
    found.elsewhere(&paths);
    found.writable_or_made(&paths.run);
    found
}

impl Findings {
    /// All in one line.
    fn verdict(&self) -> String {
        let counted = |count: usize, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            more => Some(format!("{more} {what}s")),
        };
        let parts = [counted(self.problems.len(), "error"), counted(self.warnings.len(), "warning")];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "all is well".to_owned() } else { parts.join(", ") }
    }

    fn problem(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) {
        let path = path.into();
        self.problems.push(Problem {
            path,
            line: None,
            column: None,
            field: None,
            text: text.into(),
            temporary: false,
        });
    }

    /// A file that could not be read; a missing one is not temporary.
    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.problem(path, format!("unable to read: {error}"));
        if let Some(problem) = self.problems.last_mut() {
            problem.temporary = error.kind() != io::ErrorKind::NotFound;
        }
    }

    fn line(&mut self, path: &Path, line: usize, text: impl Into<String>) {
        self.problem(path, text);
        if let Some(problem) = self.problems.last_mut() {
            problem.line = Some(line);
        }
    }

    /// A whole file; `None`: it is not there, or is a problem already.
    fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        match durable::read(path) {
            Ok(bytes) => bytes,
            Err(failure) => {
                self.problem(path, failure.to_string());
                if let Some(problem) = self.problems.last_mut() {
                    problem.temporary = !failure.is_permanent();
                }
                None
            }
        }
    }

    fn writable(&mut self, dir: &Path) {
        match std::fs::metadata(dir) {
            Ok(metadata) if !metadata.is_dir() => self.problem(dir, "not a directory"),
            Ok(_) => {
                let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
                if let Err(error) = rustix::fs::access(dir, access) {
                    self.problem(dir, format!("unable to write: {}", io::Error::from(error)));
                }
            }
            Err(error) => self.unreadable(dir, &error),
        }
    }

    /// A directory that `up` makes when it is missing.
    fn writable_or_made(&mut self, dir: &Path) {
        if dir.symlink_metadata().is_ok() { self.writable(dir) } else { self.made_by_up(dir) }
    }

    fn made_by_up(&mut self, path: &Path) {
        self.warnings.push(format!("{}: missing; made when it is needed", path.display()));
    }

    /// The compiled rules of each service, and whether their source has changed since.
    fn rules(&mut self, host: &Host) {
        let mut seen: Vec<PathBuf> = Vec::new();
        self.warnings.extend(rules::not_in_force(host));
        for (_, service) in &host.services {
            let Service::Smtpd(smtpd) = service else { continue };
            let compiled = host.resolve(&smtpd.rules);
            // Several services may obey the same rules.
            if seen.contains(&compiled) {
                continue;
            }
            seen.push(compiled.clone());
            let Some(bytes) = self.read(&compiled) else {
                if !compiled.exists() {
                    self.problem(&compiled, "missing; made by mailtree qmailctl cdb");
                }
                continue;
            };
            if let Err(error) = Cdb::new(&bytes) {
                self.problem(&compiled, error.to_string());
                continue;
            }
            let source = compiled.with_extension("");
            let Some(text) = self.read(&source) else { continue };
            self.warnings.extend(rules::doubtful(host, &source, &text));
            match tcprules::parse(&text).and_then(|rules| tcprules::compile(&rules)) {
                Ok(fresh) if same_records(&fresh, &bytes) => {}
                Ok(_) => self.problem(
                    &compiled,
                    format!("older than {}; run mailtree qmailctl cdb", source.display()),
                ),
                Err(tcprules::Error::Line { line, text, allowed }) => {
                    self.line(
                        &source,
                        line,
                        format!("unable to parse this line: {text}; allowed: {allowed}"),
                    );
                }
                Err(error @ tcprules::Error::Cdb(_)) => self.problem(&source, error.to_string()),
            }
        }
    }

    fn queue(&mut self, paths: &Paths) {
        self.writable(&paths.queue);
        match mailtree_actors::queue::disk::layout(&paths.queue) {
            Ok(layout) => {
                for dir in Dir::ALL {
                    let directories = layout.directories(dir);
                    directories.iter().for_each(|below| self.writable_or_made(&paths.queue.join(below)));
                }
                self.writable_or_made(&paths.queue.join("pid"));
            }
            Err(error) => self.problem(&paths.queue, error.to_string()),
        }
        let lock = paths.queue.join("lock");
        self.writable(&lock);
        for name in ["sendmutex", "tcpto"] {
            let path = lock.join(name);
            match regular::open_as(File::options().read(true).write(true), &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.made_by_up(&path),
                Err(error) => self.unreadable(&path, &error),
                Ok(_) => (),
            }
        }
        let trigger = lock.join("trigger");
        match std::fs::metadata(&trigger) {
            Ok(metadata) if metadata.file_type().is_fifo() => {}
            Ok(_) => self.problem(&trigger, "not a FIFO"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.made_by_up(&trigger),
            Err(error) => self.unreadable(&trigger, &error),
        }
    }

    /// Paths of another home.
    fn elsewhere(&mut self, paths: &Paths) {
        match in_time(paths, doubtful) {
            Ok(said) => self.warnings.extend(said),
            Err(failure) => self.warnings.push(failure.to_string()),
        }
        // What cannot be read is named below.
        self.outside.extend(in_time(paths, outward).unwrap_or_default());
        match in_time(paths, find) {
            Ok(found) => {
                for one in found {
                    self.problem(&one.file, one.to_string());
                }
            }
            // What cannot be read is named where it is looked at.
            Err(failure) => self.warnings.push(failure.to_string()),
        }
    }

    /// `users/assign` with its database, and the users of every virtual domain.
    fn users(&mut self, paths: &Paths) {
        let source = paths.users.join("assign");
        let Some(text) = self.read(&source) else { return };
        let assignments = match assign::parse(&text) {
            Ok(assignments) => assignments,
            Err(error) => return self.line(&source, error.line, error.bad.to_string()),
        };
        let compiled = paths.users.join("cdb");
        match (self.read(&compiled), assign::compile(&assignments)) {
            (Some(bytes), Ok(fresh)) if same_records(&bytes, &fresh) => {}
            (Some(_), Ok(_)) => {
                self.problem(&compiled, format!("not made from {}; run qmail-newu", source.display()))
            }
            (None, _) if !compiled.exists() => self.problem(&compiled, "missing; made by qmail-newu"),
            (None, _) => {}
            (Some(_), Err(error)) => self.problem(&source, error.to_string()),
        }
        let mut seen: Vec<PathBuf> = Vec::new();
        for assignment in assignments {
            let Ok(dir) = std::str::from_utf8(&assignment.controlled.home).map(PathBuf::from) else {
                continue;
            };
            if !matches!(assignment.pattern, Pattern::Prefix(_))
                || !dir.join("vpasswd").exists()
                || seen.contains(&dir)
            {
                continue;
            }
            self.vpasswd(&dir);
            seen.push(dir);
        }
    }

    /// What becomes of a database that is missing or older than its `vpasswd`.
    const ANEW: &str = "made anew by the running host when it next looks for a user";

    fn vpasswd(&mut self, dir: &Path) {
        let (source, compiled) = (dir.join("vpasswd"), dir.join("vpasswd.cdb"));
        let Some(text) = self.read(&source) else { return };
        let entries = match vpasswd::parse(&text) {
            Ok(entries) => entries,
            Err(error) => return self.line(&source, error.line, error.bad.to_string()),
        };
        let Some(bytes) = self.read(&compiled) else {
            if !compiled.exists() {
                self.warnings.push(format!("{}: missing; {}", compiled.display(), Self::ANEW));
            }
            return self.maildirs(entries);
        };
        let users = match Cdb::new(&bytes) {
            Ok(users) => users,
            Err(error) => return self.problem(&compiled, error.to_string()),
        };
        let same =
            entries.iter().all(|entry| vpasswd::lookup(&users, &entry.name) == Ok(Some(entry.clone())));
        if !same || users.iter().count() != entries.len() {
            let changed = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
            if changed(&compiled) < changed(&source) {
                self.warnings.push(format!("{}: older than vpasswd; {}", compiled.display(), Self::ANEW));
            } else {
                let text = format!(
                    "not made from {}, and not older; remove it: then it is {}",
                    source.display(),
                    Self::ANEW
                );
                self.problem(&compiled, text);
            }
        }
        self.maildirs(entries);
    }

    fn maildirs(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let Ok(user) = std::str::from_utf8(&entry.dir).map(Path::new) else { continue };
            self.writable(&user.join("Maildir"));
        }
    }
}

/// Whether two databases hold the same records in the same order, whatever program laid them out.
fn same_records(a: &[u8], b: &[u8]) -> bool {
    match (Cdb::new(a), Cdb::new(b)) {
        (Ok(a), Ok(b)) => a.iter().all(|record| record.is_ok()) && a.iter().eq(b.iter()),
        (Ok(_) | Err(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use mailtree_protocols::simscan::simcontrol::Simcontrol;

    use super::*;
    use crate::command::init::{Options, initialise};

    /// The users of the first domain, and what is made from them.
    const DATABASE: [&str; 2] = ["domains/mail.example.org/vpasswd", "domains/mail.example.org/vpasswd.cdb"];

    /// A new home, after a change.
    fn after(change: impl FnOnce(&Path)) -> Findings {
        let home = tempfile::tempdir().unwrap();
        initialise(home.path(), &Options { me: Some("mail.example.org".to_owned()), ..Options::default() })
            .unwrap();
        change(home.path());
        examine(home.path())
    }

    fn texts(found: &Findings) -> Vec<String> {
        found.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_home_is_in_order() {
        let found = after(|_| {});
        assert_eq!(texts(&found), Vec::<String>::new());
        for (name, value, origin) in [
            ("services.smtpd.listen", "127.0.0.1:2525", "host.ron:"),
            ("services.smtpd.per_ip", "16", "default"),
            ("control/me", "mail.example.org", "control/me:1"),
            ("control/helohost", "mail.example.org", "default: me"),
            ("control/queuelifetime", "604800", "default"),
            ("control/virtualdomains", "mail.example.org:mail.example.org", "control/virtualdomains"),
            ("control/concurrencyincoming", "100", "control/concurrencyincoming:1"),
        ] {
            let setting = found
                .settings
                .iter()
                .find(|setting| setting.name == name)
                .unwrap_or_else(|| panic!("{name}"));
            assert_eq!(setting.value, value, "{name}");
            assert!(setting.origin.to_string().contains(origin), "{name}: {}", setting.origin);
        }
    }

    #[test]
    fn each_thing_that_is_wrong_is_found() {
        type Change = fn(&Path);
        let cases: [(Change, &str); 18] = [
            (|home| std::fs::write(home.join("host.ron"), "(grase: 1)").unwrap(), "host.ron:1:"),
            (|home| std::fs::remove_file(home.join("host.ron")).unwrap(), "host.ron: unable to read"),
            (|home| std::fs::remove_file(home.join("control/me")).unwrap(), "control/me: missing"),
            (
                |home| std::fs::write(home.join("control/databytes"), "lots\n").unwrap(),
                "control/databytes:1: `lots`",
            ),
            (
                |home| std::fs::write(home.join("control/virtualdomains"), "a:a\n\nb\n").unwrap(),
                "control/virtualdomains:3: no colon",
            ),
            (
                |home| std::fs::remove_dir(home.join("queue/mess/7")).unwrap(),
                "queue/mess: 22 subdirectories, but no 7; allowed: ",
            ),
            (
                |home| {
                    std::fs::remove_file(home.join("queue/lock/trigger")).unwrap();
                    std::fs::write(home.join("queue/lock/trigger"), "").unwrap();
                },
                "queue/lock/trigger: not a FIFO",
            ),
            (
                |home| std::fs::write(home.join("users/assign"), "x\n").unwrap(),
                "users/assign:1: allowed: `=local",
            ),
            (|home| std::fs::write(home.join("users/assign"), ".\n").unwrap(), "users/cdb: not made from"),
            (|home| std::fs::write(home.join("users/cdb"), "junk").unwrap(), "users/cdb: not made from"),
            (
                |home| {
                    let [source, compiled] = DATABASE.map(|name| home.join(name));
                    let made = std::fs::metadata(&compiled).unwrap().modified().unwrap();
                    std::fs::write(&source, "").unwrap();
                    std::fs::File::options().append(true).open(&source).unwrap().set_modified(made).unwrap();
                },
                "vpasswd, and not older; remove it: then it is made anew by the running host",
            ),
            (
                |home| std::fs::remove_dir_all(home.join("domains/mail.example.org/postmaster")).unwrap(),
                "postmaster/Maildir: unable to read",
            ),
            (|home| std::fs::write(home.join("tcp.smtp"), ":deny\n").unwrap(), "tcp.smtp.cdb: older than"),
            (|home| std::fs::remove_file(home.join("tcp.smtp.cdb")).unwrap(), "tcp.smtp.cdb: missing"),
            (
                |home| std::fs::remove_file(home.join("control/servercert.pem")).unwrap(),
                "servercert.pem: missing; without it services.submission, which has FORCETLS, takes no mail",
            ),
            (
                |home| std::fs::write(home.join("control/simcontrol"), ":clam=maybe\n").unwrap(),
                "control/simcontrol:1: `clam=maybe` is not allowed",
            ),
            (
                |home| {
                    let compiled = Simcontrol::parse(b":clam=yes\n").unwrap().compile().unwrap();
                    std::fs::write(home.join("control/simcontrol.cdb"), compiled).unwrap();
                    std::fs::write(home.join("control/simcontrol"), ":clam=no\n").unwrap();
                },
                "simcontrol.cdb: older than",
            ),
            (
                |home| {
                    let text = std::fs::read_to_string(home.join("host.ron")).unwrap();
                    let text = text.replace("\"SMTPAUTH\": \"!\"", "\"SMTPAUTH\": \"yes\"");
                    std::fs::write(home.join("host.ron"), text).unwrap();
                },
                "services.submission.environment: SMTPAUTH is `yes`; allowed:",
            ),
        ];
        for (change, expected) in cases {
            let found = after(change);
            assert!(
                texts(&found).iter().any(|text| text.contains(expected)),
                "{expected}: {:#?}",
                texts(&found)
            );
        }
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let found = after(|home| {
            std::fs::write(home.join("control/databytes"), "lots\n").unwrap();
            std::fs::write(home.join("control/timeoutremote"), "-1\n").unwrap();
            std::fs::write(home.join("host.ron"), "(").unwrap();
        });
        assert_eq!(found.problems.len(), 3, "{:#?}", texts(&found));
    }

    #[test]
    fn a_database_that_the_running_host_makes_is_no_fault() {
        let [source, compiled] = DATABASE;
        let found = after(|home| std::fs::remove_file(home.join(compiled)).unwrap());
        assert_eq!(texts(&found), Vec::<String>::new());
        assert!(
            found.warnings.iter().any(|text| text.contains("vpasswd.cdb: missing; made anew by")),
            "{found:?}"
        );
        let found = after(|home| {
            let made = std::fs::metadata(home.join(compiled)).unwrap().modified().unwrap();
            let file = std::fs::File::create(home.join(source)).unwrap();
            file.set_modified(made + std::time::Duration::from_secs(1)).unwrap();
        });
        assert_eq!(texts(&found), Vec::<String>::new());
        let says = "vpasswd.cdb: older than vpasswd; made anew by";
        assert!(found.warnings.iter().any(|text| text.contains(says)), "{found:?}");
    }

    #[test]
    fn what_up_makes_is_no_fault() {
        let found = after(|home| {
            std::fs::remove_dir_all(home.join("queue/bounce")).unwrap();
            std::fs::remove_dir_all(home.join("run")).unwrap();
            for name in ["sendmutex", "tcpto", "trigger"] {
                std::fs::remove_file(home.join("queue/lock").join(name)).unwrap();
            }
        });
        assert_eq!(texts(&found), Vec::<String>::new());
        for name in ["/bounce", "/run", "/sendmutex", "/tcpto", "/trigger"] {
            let says =
                |warning: &&String| warning.ends_with(&format!("{name}: missing; made when it is needed"));
            assert_eq!(found.warnings.iter().filter(says).count(), 1, "{name}: {:?}", found.warnings);
        }
    }
}
