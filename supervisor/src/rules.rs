//! The rules of tcpserver as the administrator thinks of them: which of several files are in force, and what is odd in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mailtree_config::Host;
use mailtree_config::host::Service;
use mailtree_protocols::tcprules;

use crate::failure::Failure;

/// The sources of the rules of all services: the database's path without `.cdb`.
///
/// # Errors
/// If a path ends otherwise.
pub(crate) fn sources(host: &Host) -> Result<BTreeSet<PathBuf>, Failure> {
    databases(host)
        .map(|(_, cdb)| match cdb.extension() {
            Some(extension) if extension == "cdb" => Ok(cdb.with_extension("")),
            _ => Err(Failure::permanent(format!(
                "rules: {}; allowed: a path with .cdb at its end",
                cdb.display()
            ))),
        })
        .collect()
}

/// Service and database.
fn databases(host: &Host) -> impl Iterator<Item = (&str, PathBuf)> {
    host.services.iter().filter_map(|(name, service)| match service {
        Service::Smtpd(smtpd) => Some((name.as_str(), host.resolve(&smtpd.rules))),
        Service::Metrics(_) => None,
    })
}

/// Files of rules in the usual places that no service obeys: whoever edits one changes nothing.
pub(crate) fn not_in_force(host: &Host) -> Vec<String> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let in_force: Vec<(&str, PathBuf)> =
        databases(host).map(|(name, cdb)| (name, cdb.with_extension(""))).collect();
    let Some((service, obeyed)) = in_force.first() else { return Vec::new() };
    let paths = host.paths();
    let usual = [
        paths.home.join("tcp.smtp"),
        paths.domains.with_file_name("etc").join("tcp.smtp"),
        paths.control.join("tcp.smtp"),
        PathBuf::from("/etc/tcp.smtp"),
        PathBuf::from("/etc/tcprules.d/tcp.smtp"),
        PathBuf::from("/etc/qmail/tcp.smtp"),
    ];
    let mut seen: Vec<PathBuf> = in_force.iter().map(|(_, path)| real(path)).collect();
    let mut said = Vec::new();
    for path in usual {
        let found = real(&path);
        if !path.is_file() || seen.contains(&found) {
            continue;
        }
        seen.push(found);
        let path = path.display();
        said.push(format!("{path}: not in force; services.{service}.rules is {}.cdb", obeyed.display()));
    }
    said
}

/// What may be meant otherwise in a source of rules, with file and line.
pub(crate) fn doubtful(host: &Host, source: &Path, text: &[u8]) -> Vec<String> {
    // Variables that switch chkuser have names of the administrator's own choice.
    let custom: Vec<String> = host
        .services
        .iter()
        .filter_map(|(_, service)| match service {
            Service::Smtpd(smtpd) => Some(&smtpd.environment),
            Service::Metrics(_) => None,
        })
        .flatten()
        .filter(|(name, _)| name.ends_with("_VARIABLE"))
        .map(|(_, value)| value.clone())
        .collect();
    let found = tcprules::doubtful(text, &custom);
    found.into_iter().map(|(line, text)| format!("{}:{line}: {text}", source.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::init::{Options, initialise};

    #[test]
    fn rules_elsewhere_and_odd_variables_are_named() {
        let dir = tempfile::tempdir().unwrap();
        initialise(dir.path(), &Options { me: Some("mail.example".to_owned()), ..Options::default() })
            .unwrap();
        let host = Host::load(dir.path()).unwrap();
        let of_home = |said: Vec<String>| -> Vec<String> {
            said.into_iter().filter(|said| said.contains(dir.path().to_str().unwrap())).collect()
        };
        let here = |said: Vec<String>| -> Vec<String> {
            of_home(said).into_iter().filter(|said| !said.starts_with("/etc/")).collect()
        };
        assert!(here(not_in_force(&host)).is_empty());
        let other = dir.path().join("control/tcp.smtp");
        std::fs::write(&other, ":allow\n").unwrap();
        let said = here(not_in_force(&host));
        let expected = format!(
            "{}: not in force; services.smtpd.rules is {}",
            other.display(),
            dir.path().join("tcp.smtp.cdb").display()
        );
        assert_eq!(said, [expected]);
        std::fs::remove_file(&other).unwrap();
        std::os::unix::fs::symlink(dir.path().join("tcp.smtp"), &other).unwrap();
        assert!(here(not_in_force(&host)).is_empty(), "a link to what is in force");

        let text = b"# fine\n18.23.0:deny\n18.23.0.300:deny\n  18.23.0.32:deny\n18.23.0.32 deny\n1.2.3.4.:deny\n\
            18.23.0.32:deny\n18.23.0.:deny\n18.23.0.1-9:deny\n=.example.org:deny\n2001:db8::/32:deny\nbob@1.2.3.4:allow\n:allow\n";
        let said = doubtful(&host, Path::new("/r"), text);
        let expected = [
            "/r:2: 18.23.0 matches nobody; 18.23.0. with a dot at its end matches a network",
            "/r:3: 18.23.0.300 matches nobody; allowed in place of `300`: 0 to 255",
            "/r:4: `  18.23.0.32` matches nobody: there is white space in it",
            "/r:5: no colon: this line is skipped, as a comment is",
            "/r:6: 1.2.3.4. matches nobody; allowed: four numbers, or up to three and a dot",
        ];
        assert_eq!(said, expected);
        let text = b"127.:allow,RELAYCLIENT=\"\"\n1.2.3.4:allow,RBLSMPTD=\"\",SPFBEHAVIOR=\"x\"\n:allow,DATABYTES=\"20MB\"\n";
        let said = doubtful(&host, Path::new("/r/tcp.smtp"), text);
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(said[0], "/r/tcp.smtp:2: RBLSMPTD is no variable of this host; RBLSMTPD?");
        assert!(said[1].starts_with("/r/tcp.smtp:2: ") && said[1].contains("SPFBEHAVIOR"), "{said:?}");
        assert!(said[2].starts_with("/r/tcp.smtp:3: DATABYTES=\"20MB\""), "{said:?}");
    }
}
