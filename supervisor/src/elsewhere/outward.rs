//! What leads out of a home: right for a host that is where it belongs, and to be known before a copy is released.

use std::path::{Path, PathBuf};

use mailtree_config::host::{Paths, Service};
use mailtree_config::{Control, Host};
use mailtree_protocols::dotqmail::{self, Instruction, UnknownUser};
use mailtree_protocols::spp::Section;

use super::{MANY, at_most, bases, behind, database, elsewhere, homes, instructions, own, path, real, users};
use crate::durable;
use crate::failure::Failure;

/// Directories of the host that may be links, users' directories, Maildirs and `.qmail` files whose mail leaves the home.
/// Virtual domains outside, and what names another home, [`doubtful`](super::doubtful) and [`find`](super::find) say.
///
/// # Errors
/// When `users/assign` cannot be read or is damaged.
pub(crate) fn outward(paths: &Paths) -> Result<Vec<String>, Failure> {
    let home = Home { bases: bases(paths) };
    let mut said: Vec<String> = [&paths.control, &paths.queue, &paths.users, &paths.alias, &paths.domains]
        .into_iter()
        .filter_map(|dir| home.leads_out(dir))
        .collect();
    // They are only read, but not as they are in a copy.
    for entry in std::fs::read_dir(&paths.control).into_iter().flatten().flatten().take(MANY) {
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            said.extend(home.leads_out(&entry.path()));
        }
    }
    let mut left = MANY;
    for (source, domain) in homes(paths)? {
        let domain = own(&source, &domain, paths);
        if !home.has(&domain) {
            continue;
        }
        for (file, named) in users(&domain) {
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
            let dir = own(&file, &named, paths);
            let maildir = dir.join("Maildir");
            if !home.has(&dir) {
                let another = behind("domains", &named).is_some();
                said.extend(
                    (!another).then(|| format!("{}: mail goes to {}", file.display(), dir.display())),
                );
            } else if maildir.exists() {
                said.extend(home.leads_out(&maildir));
            }
        }
    }
    for file in instructions(paths)? {
        said.extend(home.leads_out(&file));
        let Ok(Some(text)) = durable::read(&file) else { continue };
        let dir = file.parent().unwrap_or(&file);
        let goes = |instruction| match instruction {
            Instruction::Maildir(place)
            | Instruction::Mbox(place)
            | Instruction::Vdelivermail(UnknownUser::Directory(place)) => Some(dir.join(path(&place))),
            _ => None,
        };
        let places = dotqmail::parse(&text).unwrap_or_default().into_iter().filter_map(goes);
        let out = places.filter(|place| !home.has(place) && elsewhere(&file, place, paths).is_none());
        said.extend(out.map(|place| format!("{}: mail goes to {}", file.display(), place.display())));
    }
    Ok(at_most(said, "more places outside of the home"))
}

/// Programs that sessions run: what they do with mail is theirs, and they may know no other host than the original.
pub(crate) fn programs(host: &Host) -> Vec<String> {
    let home = Home { bases: bases(&host.paths()) };
    let mut said = Vec::new();
    let queue = |value: &str| match value.rsplit('/').next() {
        Some("" | "simscan" | "qmail-queue") | None => None,
        Some(_) => Some(format!("QMAILQUEUE runs {value}, which may hand mail to another queue")),
    };
    let mut seen = Vec::new();
    for (name, service) in &host.services {
        let Service::Smtpd(smtpd) = service else { continue };
        let environment = smtpd.environment.iter().filter(|(name, _)| name == "QMAILQUEUE");
        let environment = environment.filter_map(|(_, value)| queue(value));
        said.extend(environment.map(|text| format!("services.{name}.environment: {text}")));
        if let Some(program) = smtpd.checkpassword.first().filter(|program| !home.has(Path::new(program))) {
            said.push(format!("services.{name}.checkpassword: runs {program}"));
        }
        let rules = host.resolve(&smtpd.rules);
        if seen.contains(&rules) {
            continue;
        }
        if rules.exists() && !home.has(&rules) {
            said.push(format!("services.{name}.rules: {} lies outside of the home", rules.display()));
        }
        let mut programs: Vec<String> = Vec::new();
        for (_, data) in database(&rules).iter().flatten().flatten().take(MANY) {
            let variables =
                data.split(|byte| *byte == 0).filter_map(|item| item.strip_prefix(b"+QMAILQUEUE="));
            programs.extend(variables.filter_map(|value| queue(&String::from_utf8_lossy(value))));
        }
        programs.sort();
        programs.dedup();
        said.extend(programs.into_iter().map(|text| format!("{}: {text}", rules.display())));
        seen.push(rules);
    }
    let control = host.paths().control;
    if let Ok(smtpd) = Control::new(&control).smtpd() {
        let plugins =
            Section::ALL.into_iter().map(|section| smtpd.smtpplugins.of(section).count()).sum::<usize>();
        if plugins > 0 {
            said.push(format!("{}: {plugins} plugins are run", control.join("smtpplugins").display()));
        }
    }
    at_most(said, "more programs")
}

/// Where the home's own directories really are.
struct Home {
    bases: Vec<PathBuf>,
}

impl Home {
    /// Whether it lies in the home, whatever links lead there.
    fn has(&self, path: &Path) -> bool {
        let there = real(path).unwrap_or_else(|| path.to_owned());
        self.bases.iter().any(|base| there.starts_with(base))
    }

    /// What is said of a path of the home that leads out of it.
    fn leads_out(&self, path: &Path) -> Option<String> {
        let there = real(path).filter(|there| !self.bases.iter().any(|base| there.starts_with(base)))?;
        Some(format!("{}: leads to {}, outside of the home", path.display(), there.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use mailtree_protocols::tcprules;

    use super::*;
    use crate::command::init::{Options, initialise};

    #[test]
    fn what_leads_out_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        let home = top.join("home");
        let options = Options { me: Some("mail.example.org".to_owned()), ..Options::default() };
        initialise(&home, &options).unwrap();
        let host = Host::load(&home).unwrap();
        assert_eq!(outward(&host.paths()).unwrap(), Vec::<String>::new());
        assert_eq!(programs(&host), Vec::<String>::new());

        let live = top.join("live");
        for name in ["Maildir", "alias"] {
            std::fs::create_dir_all(live.join(name)).unwrap();
        }
        for name in ["link", "cert"] {
            std::fs::write(live.join(name), "&x@y\n").unwrap();
        }
        let user = home.join("domains/mail.example.org/postmaster");
        std::fs::remove_dir_all(user.join("Maildir")).unwrap();
        symlink(live.join("Maildir"), user.join("Maildir")).unwrap();
        std::fs::write(user.join(".qmail"), format!("{}/Maildir/\n./Maildir/\n/\n", live.display())).unwrap();
        symlink(live.join("link"), user.join(".qmail-link")).unwrap();
        symlink(live.join("cert"), home.join("control/clientca.pem")).unwrap();
        std::fs::remove_dir_all(home.join("alias")).unwrap();
        symlink(live.join("alias"), home.join("alias")).unwrap();
        let said = outward(&host.paths()).unwrap().join("\n");
        for (file, text) in [
            ("/alias", ": leads to "),
            ("/control/clientca.pem", ": leads to "),
            ("/postmaster/Maildir", ": leads to "),
            ("/postmaster/.qmail-link", ": leads to "),
            ("/postmaster/.qmail", ": mail goes to "),
        ] {
            let line = said.lines().find(|line| line.contains(&format!("{file}{text}")));
            assert!(line.is_some_and(|line| line.contains("/live/")), "{file}: {said}");
        }

        let rules = ":allow,QMAILQUEUE=\"/opt/scan\"\n1.:allow,QMAILQUEUE=\"/var/qmail/bin/simscan\"\n";
        let rules = tcprules::compile(&tcprules::parse(rules.as_bytes()).unwrap()).unwrap();
        std::fs::write(home.join("tcp.smtp.cdb"), rules).unwrap();
        std::fs::write(home.join("control/smtpplugins"), "[rcpt]\nplugins/x\n").unwrap();
        let said = programs(&host).join("\n");
        assert_eq!(said.matches("QMAILQUEUE runs /opt/scan, which may").count(), 1, "{said}");
        assert!(said.contains("smtpplugins: 1 plugins are run") && said.lines().count() == 2, "{said}");
    }
}
