//! What is wrong with the files TLS is made of.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;

use mailtree_config::Control;

use super::files::{self, CLIENTCRL, SERVERCERT, SERVERCERTS, SERVERKEY, TLSCLIENTS};
use super::identity::{Certificate, Identity};
use super::{ciphers, client, own_names, own_of, read_ciphers};

/// One thing that is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the directory.
    pub path: PathBuf,
    /// What is wrong.
    pub text: String,
    /// TLS works all the same.
    pub warning: bool,
    /// When what has expired did so, or what is not valid yet will, in seconds since 1970.
    pub expires: Option<i64>,
}

impl Problem {
    pub(super) fn error(path: &Path, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), text: text.into(), warning: false, expires: None }
    }

    pub(super) fn warning(path: &Path, text: impl Into<String>) -> Self {
        Self { warning: true, ..Self::error(path, text) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.text)
    }
}

/// What [`check`] finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is wrong; none is well.
    pub problems: Vec<Problem>,
    /// The certificates that can be used, that of `servercert.pem` first.
    pub certificates: Vec<Certificate>,
}

/// Reads every file of TLS in `control` as the server does, and tells what is wrong with it at `now`, in seconds since
/// 1970. Without a `servercert.pem` there is no TLS, which is no problem.
#[must_use]
pub fn check(control: &Path, now: i64) -> Report {
    let mut report = Report::default();
    let servercert = control.join(SERVERCERT);
    let (entries, unreadable) = match files::entries(control) {
        Ok(entries) => (entries, None),
        Err(problem) => (Vec::new(), Some(problem)),
    };
    let names = own_names(&Control::new(control));
    // Whoever asks for a name that has its own certificate does not get this one.
    let named = |name: &str| entries.iter().find(|entry| entry.host.as_deref() == Some(name));
    let names = if names.iter().any(|name| own_of(name, named).is_some()) { Vec::new() } else { names };
    let offered = report.identity(&servercert, &names, now);
    report.problems.extend(unreadable);
    for entry in &entries {
        match &entry.host {
            Some(host) if report.identity(&entry.file, std::slice::from_ref(host), now) => (),
            Some(_) => report.warn(&entry.file, "no such file"),
            None => report.warn(&entry.file, "its directory is named like no host: it is ignored"),
        }
    }
    for name in [SERVERKEY, SERVERCERTS] {
        let path = control.join(name);
        if !offered && path.exists() {
            report.warn(&path, "of no use without servercert.pem");
        }
    }

    match client::verifier(control, Arc::new(default_provider()), now) {
        Ok((verifier, told)) => {
            report.problems.extend(told);
            for name in [CLIENTCRL, TLSCLIENTS].into_iter().filter(|_| verifier.is_none()) {
                let path = control.join(name);
                if path.exists() {
                    report.warn(&path, "of no use without clientca.pem");
                }
            }
        }
        Err(problem) => report.problems.push(problem),
    }
    report.problems.extend(client::tlsclients(control).err());
    match read_ciphers(control) {
        Ok((_, told)) => report.problems.extend(told),
        Err(problem) => report.problems.push(problem),
    }
    report
}

impl Report {
    fn warn(&mut self, path: &Path, text: &str) {
        self.problems.push(Problem::warning(path, text));
    }

    /// Whether there is such a file, which should be for one of `hosts`.
    fn identity(&mut self, path: &Path, hosts: &[String], now: i64) -> bool {
        let Identity { certificate, key_file, .. } = match Identity::read(path, &default_provider()) {
            Ok(None) => return false,
            Ok(Some(identity)) => identity,
            Err(problem) => {
                self.problems.push(problem);
                return true;
            }
        };
        self.problems.extend(certificate.validity(now));
        if fs::metadata(&key_file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0) {
            self.warn(&key_file, "everybody may read this private key");
        }
        self.problems.extend(certificate.misnamed(hosts));
        self.certificates.push(certificate);
        true
    }
}

/// What is to be told about a cipher list.
pub(super) fn unknown(path: &Path, ciphers: &ciphers::Ciphers) -> Option<Problem> {
    /// Words that are named.
    const SHOWN: usize = 10;
    let words = &ciphers.unknown;
    let shown: Vec<_> = words.iter().take(SHOWN).map(|word| word.escape_debug().to_string()).collect();
    let more = match words.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!("no such cipher suites here: {}{more}", shown.join(" "));
    (!words.is_empty()).then(|| Problem::warning(path, text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;
    use crate::tls::testing::Authority;

    const NOW: i64 = 1_700_000_000;

    fn write(control: &Path, name: &str, contents: &str, mode: u32) {
        let path = control.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = fs::OpenOptions::new().write(true).create(true).mode(mode).open(path).unwrap();
        std::io::Write::write_all(&mut file, contents.as_bytes()).unwrap();
    }

    /// The problems, one a line: `?` warns, `!` is an error.
    fn problems(control: &Path) -> Vec<String> {
        let line = |problem: Problem| {
            let sign = if problem.warning { '?' } else { '!' };
            let path = problem.path.strip_prefix(control).unwrap().display();
            format!("{sign} {path}: {}", problem.text)
        };
        check(control, NOW).problems.into_iter().map(line).collect()
    }

    #[test]
    fn no_files_are_no_problem() {
        let control = tempfile::tempdir().unwrap();
        assert_eq!(check(control.path(), NOW), Report::default());
    }

    #[test]
    fn good_files_are_summed_up() {
        let control = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let between = |names: &[&str], to| authority.identity_between(names, 2020, to);
        write(control.path(), "servercert.pem", &between(&["mail.example.org", "example.org"], 2030), 0o640);
        write(
            control.path(),
            "servercerts/a.example.net/servercert.pem",
            &between(&["*.example.net"], 2031),
            0o600,
        );
        write(control.path(), "clientca.pem", &authority.pem(), 0o644);
        write(control.path(), "clientcrl.pem", &authority.revoking(&[7], 2030), 0o644);
        write(control.path(), "tlsclients", "relay@example.org\n", 0o644);
        write(control.path(), "tlsserverciphers", "HIGH:!aNULL\n", 0o644);
        let report = check(control.path(), NOW);
        assert_eq!(report.problems, []);
        let certificates: Vec<_> =
            report.certificates.iter().map(|found| (found.names.join(" "), found.not_after)).collect();
        let expected = [("mail.example.org example.org", 1_893_456_000), ("*.example.net", 1_924_992_000)];
        assert_eq!(certificates, expected.map(|(names, end)| (names.to_owned(), end)));
    }

    #[test]
    fn each_bad_file_is_named() {
        let control = tempfile::tempdir().unwrap();
        let (authority, other) = (Authority::new(), Authority::new());
        let in_time = authority.identity_between(&["mail.example.org"], 2020, 2030);
        let foreign = other.identity_between(&["mail.example.org"], 2020, 2030);
        let (certificate, key) = (in_time.split_once("-----BEGIN PRIVATE").unwrap(), foreign);
        let mismatch = format!("{}{}", certificate.0, &key[key.find("-----BEGIN PRIVATE").unwrap()..]);
        let table = [
            ("servercert.pem", authority.identity_between(&["mail.example.org"], 2020, 2021)),
            (
                "servercerts/early.example/servercert.pem",
                authority.identity_between(&["early.example"], 2029, 2030),
            ),
            ("servercerts/keyless.example/servercert.pem", certificate.0.to_owned()),
            ("servercerts/mismatch.example/servercert.pem", mismatch),
            ("servercerts/named.example/servercert.pem", in_time.clone()),
            ("servercerts/not a host/servercert.pem", in_time),
            ("servercerts/void.example/readme", String::new()),
            ("clientca.pem", authority.pem()),
            ("clientcrl.pem", authority.revoking(&[7], 2021)),
            ("tlsserverciphers", "RC4-SHA:ECDHE-RSA-AES128-GCM-SHA256".to_owned()),
        ];
        for (name, contents) in &table {
            write(control.path(), name, contents, 0o600);
        }
        let expected = [
            "! servercert.pem: the certificate expired at 2021-01-01T00:00:00Z",
            "! servercerts/early.example/servercert.pem: the certificate is not valid before 2029-01-01T00:00:00Z",
            "! servercerts/keyless.example/servercert.pem: a certificate without a private key",
            "! servercerts/mismatch.example/servercert.pem: the private key does not belong to the first certificate",
            "? servercerts/named.example/servercert.pem: \
             the certificate is not for named.example, but for: mail.example.org",
            "? servercerts/not a host/servercert.pem: its directory is named like no host: it is ignored",
            "? servercerts/void.example/servercert.pem: no such file",
            "! clientcrl.pem: a revocation list expired at 2021-01-01T00:00:00Z: no certificate it covers verifies",
            "? tlsserverciphers: no such cipher suites here: RC4-SHA",
        ];
        assert_eq!(problems(control.path()), expected);
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let table: [(&[(&str, &str)], &str); 8] = [
            (&[("servercert.pem/directory", "")], "! servercert.pem: unable to read: not a regular file"),
            (
                &[("servercerts/a.example/servercert.pem", "")],
                "? servercerts: of no use without servercert.pem",
            ),
            (&[("serverkey.pem", "")], "? serverkey.pem: of no use without servercert.pem"),
            (&[("clientca.pem", "nothing")], "! clientca.pem: no certificate of an authority"),
            (&[("clientcrl.pem", "")], "? clientcrl.pem: of no use without clientca.pem"),
            (&[("tlsclients", "")], "? tlsclients: of no use without clientca.pem"),
            (&[("tlsserverciphers", "RC4-SHA")], "! tlsserverciphers: names no cipher suite there is"),
            (&[("servercerts", "")], "! servercerts: unable to read: Not a directory (os error 20)"),
        ];
        for (files, expected) in table {
            let control = tempfile::tempdir().unwrap();
            for (name, contents) in files {
                write(control.path(), name, contents, 0o600);
            }
            let found = problems(control.path());
            assert!(found.iter().any(|line| line == expected), "{found:?}");
        }
    }

    /// NOW is 2023-11-14.
    #[test]
    fn the_last_fortnight_and_a_name_of_nobody_here_are_told() {
        let control = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let last = authority.identity_until(&["other.example"], (2023, 11, 20));
        write(control.path(), "servercert.pem", &last, 0o600);
        let expires = "? servercert.pem: the certificate expires at 2023-11-20T00:00:00Z";
        // Without a name of its own the host cannot say who it is.
        assert_eq!(problems(control.path()), [expires]);
        write(control.path(), "me", "mail.example.org\n", 0o644);
        write(control.path(), "helohost", "Out.example.org\n", 0o644);
        let misnamed = "? servercert.pem: the certificate is not for mail.example.org or out.example.org, \
                        but for: other.example";
        assert_eq!(problems(control.path()), [expires, misnamed]);
        let named = "servercerts/mail.example.org/servercert.pem";
        write(control.path(), named, &authority.identity_between(&["mail.example.org"], 2020, 2030), 0o600);
        assert_eq!(problems(control.path()), [expires]);
        fs::remove_dir_all(control.path().join("servercerts")).unwrap();
        for names in ["*.example.org", "OUT.example.org"] {
            let pem = authority.identity_until(&[names], (2024, 1, 1));
            fs::write(control.path().join("servercert.pem"), pem).unwrap();
            assert_eq!(problems(control.path()), [] as [&str; 0], "{names}");
        }
    }

    #[test]
    fn a_key_for_everybody_is_told() {
        let control = tempfile::tempdir().unwrap();
        let pem = Authority::new().identity_between(&["a.example"], 2020, 2030);
        write(control.path(), "servercert.pem", &pem, 0o644);
        assert_eq!(problems(control.path()), ["? servercert.pem: everybody may read this private key"]);
        // In two files it is the key's rights that count.
        let key = &pem[pem.find("-----BEGIN PRIVATE").unwrap()..];
        write(control.path(), "serverkey.pem", key, 0o644);
        assert_eq!(problems(control.path()), ["? serverkey.pem: everybody may read this private key"]);
        fs::set_permissions(control.path().join("serverkey.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(problems(control.path()), [] as [&str; 0]);
    }
}
