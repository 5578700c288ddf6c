//! Certificates, made by the openssl program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::host::Ran;

/// A directory in which certificates are made.
pub struct Workshop(TempDir);

impl Default for Workshop {
    fn default() -> Self {
        Self::new()
    }
}

impl Workshop {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file's text.
    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn openssl(&self, args: &[&str]) {
        Ran::new(Command::new("openssl").args(args).current_dir(self.0.path())).expect(0);
    }

    /// A self-signed certificate and its key, in one text: `kind` is what follows `-newkey`, as `rsa:2048`, or `ec`.
    pub fn host(&self, name: &str, kind: &str) -> String {
        self.signed_by_itself(name, kind, &format!("/CN={name}"));
        self.text(&format!("{name}.crt")) + &self.text(&format!("{name}.key"))
    }

    /// An authority: its certificate.
    pub fn authority(&self, name: &str) -> String {
        self.signed_by_itself(name, "ec", &format!("/CN={name}"));
        self.text(&format!("{name}.crt"))
    }

    /// A self-signed certificate that is valid for so many days, and its key.
    pub fn pair(&self, name: &str, days: u32) -> (String, String) {
        self.valid(name, "ec", &format!("/CN={name}"), days);
        (self.text(&format!("{name}.crt")), self.text(&format!("{name}.key")))
    }

    fn signed_by_itself(&self, name: &str, kind: &str, subject: &str) {
        self.valid(name, kind, subject, 30);
    }

    fn valid(&self, name: &str, kind: &str, subject: &str, days: u32) {
        let (key, certificate, days) = (format!("{name}.key"), format!("{name}.crt"), days.to_string());
        let mut args = vec!["req", "-x509", "-nodes", "-days", &days, "-subj", subject, "-newkey", kind];
        if kind == "ec" {
            args.extend(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        }
        args.extend(["-keyout", &key, "-out", &certificate]);
        self.openssl(&args);
    }

    /// A client's certificate by an authority of this workshop, with an e-mail address in its alternative names;
    /// `NAME.crt` and `NAME.key`.
    pub fn client(&self, name: &str, authority: &str, email: &str) {
        let [key, request, certificate] = ["key", "csr", "crt"].map(|end| format!("{name}.{end}"));
        let subject = format!("/CN={name}");
        let mut args = vec!["req", "-new", "-nodes", "-subj", &subject, "-newkey", "ec"];
        args.extend(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", &key, "-out", &request]);
        self.openssl(&args);
        let extensions = format!("extendedKeyUsage=clientAuth\nsubjectAltName=email:{email}\n");
        fs::write(self.path("extensions"), extensions).unwrap();
        let (ca, ca_key) = (format!("{authority}.crt"), format!("{authority}.key"));
        let mut args = vec!["x509", "-req", "-days", "30", "-in", &request, "-out", &certificate];
        args.extend(["-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-extfile", "extensions"]);
        self.openssl(&args);
    }

    /// A certificate that expired yesterday, and its key, in one text.
    pub fn expired(&self, name: &str) -> String {
        self.signed_by_itself(name, "ec", &format!("/CN={name}"));
        let [key, old, new] = ["key", "crt", "old"].map(|end| format!("{name}.{end}"));
        self.openssl(&["x509", "-in", &old, "-signkey", &key, "-days", "-1", "-out", &new]);
        self.text(&new) + &self.text(&key)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.0.path()
    }
}
