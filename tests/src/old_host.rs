//! A qmail host as notqmail, vpopmail and daemontools leave it: a tree of files with a prefix in front of its paths.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use mailtree_protocols::{assign, tcprules, vpasswd};
use tempfile::TempDir;

use crate::host::{Ran, binary};
use crate::maildir;

/// A user of a virtual domain.
#[derive(Debug, Clone)]
pub struct User {
    /// Its name.
    pub name: String,
    /// The password as crypt left it.
    pub password: &'static str,
    /// Its directory below the domain's: `bob`, or `0/bob` where vpopmail has hashed it.
    pub dir: String,
}

/// The old host.
pub struct OldHost(TempDir);

impl Default for OldHost {
    fn default() -> Self {
        Self::empty()
    }
}

impl OldHost {
    /// A machine with its accounts and its name, and nothing of qmail yet.
    pub fn empty() -> Self {
        let old = Self(tempfile::Builder::new().prefix("mailtree-old-").tempdir().unwrap());
        old.write("etc/passwd", "vpopmail:x:89:89::/home/vpopmail:/bin/sh\nqmaill:x:102:200::/:/bin/false\n");
        old.write("etc/hostname", "mail.test\n");
        old
    }

    /// Where its paths begin.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// Where a path of the old host, without its first slash, lies now.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// A file, and the directories it needs.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Control files.
    pub fn control(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            self.write(&format!("var/qmail/control/{name}"), text);
        }
    }

    /// A service with its log, linked into `/service`.
    pub fn service(&self, name: &str, run: &str) {
        let dir = format!("var/qmail/supervise/{name}");
        self.write(&format!("{dir}/run"), run);
        let log = format!("#!/bin/sh\nexec setuidgid qmaill multilog t n20 /var/log/qmail/{name}\n");
        self.write(&format!("{dir}/log/run"), log);
        fs::create_dir_all(self.path("service")).unwrap();
        symlink(format!("/{dir}"), self.path("service").join(name)).unwrap();
    }

    /// `~vpopmail/etc/tcp.smtp` and its database.
    pub fn rules(&self, text: &str) {
        let cdb = tcprules::compile(&tcprules::parse(text.as_bytes()).unwrap()).unwrap();
        self.write("home/vpopmail/etc/tcp.smtp", text);
        self.write("home/vpopmail/etc/tcp.smtp.cdb", cdb);
    }

    /// A virtual domain with its users, whose files name `/home/vpopmail`; unknown users are for `default`, the last word
    /// of vdelivermail.
    pub fn domain(&self, name: &str, users: &[User], default: &str) {
        let dir = format!("home/vpopmail/domains/{name}");
        for user in users {
            maildir::make(&self.path(&format!("{dir}/{}/Maildir", user.dir)));
        }
        let line = |user: &User| {
            let User { name, password, dir: own } = user;
            format!("{name}:{password}:1:0:{name}:/{dir}/{own}:NOQUOTA\n")
        };
        let mut lines: Vec<String> = users.iter().map(line).collect();
        lines.sort();
        let text = lines.concat();
        let cdb = vpasswd::compile(&vpasswd::parse(text.as_bytes()).unwrap()).unwrap();
        self.write(&format!("{dir}/vpasswd"), text);
        self.write(&format!("{dir}/vpasswd.cdb"), cdb);
        let default = format!("| /home/vpopmail/bin/vdelivermail '' {default}\n");
        self.write(&format!("{dir}/.qmail-default"), default);
    }

    /// `users/assign` and its database: virtual domains, each with the domain whose directory it has.
    pub fn assign(&self, domains: &[(&str, &str)]) {
        let line = |(name, real): &(&str, &str)| {
            let dir = format!("home/vpopmail/domains/{real}");
            let owner = fs::metadata(self.path(&dir)).unwrap();
            format!("+{name}-:{real}:{}:{}:/{dir}:-::\n", owner.uid(), owner.gid())
        };
        let text = format!("{}.\n", domains.iter().map(line).collect::<String>());
        let cdb = assign::compile(&assign::parse(text.as_bytes()).unwrap()).unwrap();
        self.write("var/qmail/users/assign", text);
        self.write("var/qmail/users/cdb", cdb);
    }

    /// `mailtree adopt` for a home.
    pub fn adopt(&self, home: &Path, more: &[&str]) -> Ran {
        let mut command = Command::new(binary());
        command.arg("adopt").arg("--home").arg(home).arg("--root").arg(self.root()).args(more);
        Ran::new(&mut command)
    }

    /// Every file with its size, its mode and its time of change.
    pub fn listing(&self) -> String {
        let mut find = Command::new("find");
        find.arg(self.root()).args(["-printf", "%P %s %m %C@\n"]);
        Ran::new(&mut find).expect(0).stdout
    }
}
