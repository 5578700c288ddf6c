//! Whether a user of a virtual domain may pass (vpopmail's vchkpw), and the line of the log that says so, which
//! fail2ban reads.

use std::net::IpAddr;

use super::crypt::{self, Unsupported};
use super::{Credentials, Proof, cram};
use crate::vpasswd::{self, Entry, flag};

/// The longest domain, in bytes.
pub const DOMAIN_MAX: usize = 96;

/// The most bytes of a client's name in a log line.
const LOGGED_MAX: usize = vpasswd::NAME_MAX + 1 + DOMAIN_MAX;

/// The service a client talks to, as its local port tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `vchkpw-smtp`, `vchkpw-submission` …, or `vchkpw-PORT`.
    prefix: String,
    /// `smtp`, `pop`, `imap`.
    word: &'static str,
    /// The bit of [`Entry::flags`] that forbids it.
    forbidden: u32,
}

impl Service {
    /// The service of a local port; a port without a name is taken for SMTP.
    pub fn of_port(port: u16) -> Self {
        let (name, word, forbidden) = match port {
            25 => ("smtp", "smtp", flag::NO_SMTP),
            110 => ("pop3", "pop", flag::NO_POP),
            143 => ("imap", "imap", flag::NO_IMAP),
            465 => ("smtps", "smtp", flag::NO_SMTP),
            587 => ("submission", "smtp", flag::NO_SMTP),
            993 => ("imaps", "imap", flag::NO_IMAP),
            995 => ("pop3s", "pop", flag::NO_POP),
            _ => ("", "smtp", flag::NO_SMTP),
        };
        let prefix = if name.is_empty() { format!("vchkpw-{port}") } else { format!("vchkpw-{name}") };
        Self { prefix, word, forbidden }
    }
}

/// The user a client names, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// A name that [`vpasswd::is_name`] allows.
    pub user: Vec<u8>,
    /// 1 to [`DOMAIN_MAX`] letters, digits, hyphens and dots; neither begins nor ends with a dot, holds no two in a row.
    pub domain: Vec<u8>,
}

impl Login {
    /// Reads `user@domain`, `user%domain` or `user`, which is in `default_domain`. The error is
    /// [`Outcome::NullUser`], [`Outcome::InvalidName`], or [`Outcome::NoUser`] where a domain is missing.
    ///
    /// Both parts become names of directories, so what is not plainly a name is refused.
    pub fn parse(name: &[u8], default_domain: Option<&[u8]>) -> Result<Self, Outcome> {
        if name.is_empty() {
            return Err(Outcome::NullUser);
        }
        let (user, domain) = match name.iter().position(|b| b"@%".contains(b)) {
            Some(at) => (&name[..at], &name[at + 1..]),
            None => (name, default_domain.ok_or(Outcome::NoUser)?),
        };
        if !vpasswd::is_name(user) || !is_domain(domain) {
            return Err(Outcome::InvalidName);
        }
        Ok(Self { user: user.to_ascii_lowercase(), domain: domain.to_ascii_lowercase() })
    }

    /// `user@domain`.
    pub fn address(&self) -> Vec<u8> {
        [self.user.as_slice(), b"@", &self.domain].concat()
    }
}

fn is_domain(domain: &[u8]) -> bool {
    domain.len() <= DOMAIN_MAX
        && domain.split(|&b| b == b'.').all(|label| {
            !label.is_empty()
                && !label.starts_with(b"-")
                && label.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

/// What came of an attempt. Only [`Outcome::Success`] lets anybody in; the client learns no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The proof is right.
    Success,
    /// It is not.
    WrongPassword,
    /// There is no such user.
    NoUser,
    /// The proof is right, but a flag of the user forbids the service.
    Denied,
    /// The password is empty.
    NullPassword,
    /// The name is empty.
    NullUser,
    /// The name cannot be that of a user.
    InvalidName,
}

/// Decides by the user's entry, or its absence. This computes a password hash, up to about a second: not for a thread
/// that serves others. Without a user [`crypt::DUMMY`] is verified, so that the time does not tell.
pub fn decide(
    entry: Option<&Entry>,
    credentials: &Credentials,
    service: &Service,
) -> Result<Outcome, Unsupported> {
    let right = match (&credentials.proof, entry) {
        (Proof::Password(password), _) if password.is_empty() => return Ok(Outcome::NullPassword),
        (Proof::Password(password), Some(entry)) => crypt::verify(&entry.password, password)?,
        (Proof::Password(password), None) => {
            crypt::verify(crypt::DUMMY, password)?;
            false
        }
        (Proof::Cram { challenge, digest }, _) => {
            let clear = entry.and_then(|entry| entry.clear.as_deref()).unwrap_or_default();
            cram::verify(clear, challenge, digest)
        }
    };
    Ok(match entry {
        None => Outcome::NoUser,
        Some(_) if !right => Outcome::WrongPassword,
        Some(entry) if entry.flags & service.forbidden != 0 => Outcome::Denied,
        Some(_) => Outcome::Success,
    })
}

impl Outcome {
    /// The line of the log, without time and `vpopmail[PID]: `. `name` is the address of the [`Login`], or what the
    /// client sent if that is none.
    pub fn log(self, service: &Service, name: &[u8], proof: &Proof, client: IpAddr) -> String {
        let (name, client) = (logged(name), client.to_canonical());
        let text = match self {
            Self::Success => format!("({}) login success", proof.word()),
            Self::WrongPassword => "password fail".to_owned(),
            Self::NoUser => "vpopmail user not found".to_owned(),
            Self::Denied => format!("{} access denied", service.word),
            Self::NullPassword => "null password given".to_owned(),
            Self::NullUser => return format!("{}: null user name given", service.prefix),
            Self::InvalidName => "invalid user/domain characters".to_owned(),
        };
        format!("{}: {text} {name}:{client}", service.prefix)
    }
}

/// A name as it may stand in a line that ends with `NAME:ADDRESS`: a client must not write what reads as another line or
/// another address. Names of users hold none of the bytes replaced.
fn logged(name: &[u8]) -> String {
    let shown = |&b: &u8| match b {
        b'%' | b':' => '?',
        b'!'..=b'~' => char::from(b),
        _ => '?',
    };
    name.iter().take(LOGGED_MAX).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn password(password: &str) -> Credentials {
        let proof = Proof::Password(Zeroizing::new(password.as_bytes().to_vec()));
        Credentials { user: b"joe@example.org".to_vec(), proof }
    }

    /// HMAC-MD5 under the key `secret`.
    fn cram() -> Credentials {
        let digest = cram::digest(b"6adfaf93d175ef0dfda61d4d0e47eec9").unwrap();
        let proof = Proof::Cram { challenge: b"<1.2@mx.example>".to_vec(), digest };
        Credentials { user: b"joe@example.org".to_vec(), proof }
    }

    #[test]
    fn names() {
        let long = format!("joe@{}", "x".repeat(DOMAIN_MAX + 1));
        for (name, default, expected) in [
            ("Joe@Example.ORG", None, Ok("joe@example.org")),
            ("joe%example.org", None, Ok("joe@example.org")),
            ("joe", Some("example.org"), Ok("joe@example.org")),
            ("joe@example.org", Some("example.net"), Ok("joe@example.org")),
            ("joe+x=y", Some("d"), Ok("joe+x=y@d")),
            ("joe", None, Err(Outcome::NoUser)),
            ("", Some("example.org"), Err(Outcome::NullUser)),
            ("joe", Some(""), Err(Outcome::InvalidName)),
            ("@example.org", None, Err(Outcome::InvalidName)),
            ("joe@", Some("example.org"), Err(Outcome::InvalidName)),
            ("joe@a@b", None, Err(Outcome::InvalidName)),
            ("joe%a@b", None, Err(Outcome::InvalidName)),
            ("joe@a%b", None, Err(Outcome::InvalidName)),
            ("../joe@a", None, Err(Outcome::InvalidName)),
            ("..@a", None, Err(Outcome::InvalidName)),
            ("joe@../a", None, Err(Outcome::InvalidName)),
            ("joe@..", None, Err(Outcome::InvalidName)),
            ("joe@.a", None, Err(Outcome::InvalidName)),
            ("joe@a.", None, Err(Outcome::InvalidName)),
            ("joe@a..b", None, Err(Outcome::InvalidName)),
            ("joe@-a", None, Err(Outcome::InvalidName)),
            ("joe@a\0b", None, Err(Outcome::InvalidName)),
            ("jo\ne@a", None, Err(Outcome::InvalidName)),
            ("jo e@a", None, Err(Outcome::InvalidName)),
            ("jo\u{e9}@a", None, Err(Outcome::InvalidName)),
            (&long, None, Err(Outcome::InvalidName)),
        ] {
            let login = Login::parse(name.as_bytes(), default.map(str::as_bytes));
            let shown = login.map(|login| String::from_utf8(login.address()).unwrap());
            assert_eq!(shown, expected.map(str::to_owned), "{name:?}");
        }
    }

    #[test]
    fn outcomes() {
        const HASH: &str = "$1$saltsalt$9xy1btjgzLYfb7hivXtC//";
        let entry = |line: &str| Some(Entry::parse(line.replace("HASH", HASH).as_bytes()).unwrap());
        let damaged = Err(Unsupported::Damaged("$6$"));
        for (entry, credentials, port, expected) in [
            (entry("joe:HASH:1:0::/d:q"), password("secret"), 25, Ok(Outcome::Success)),
            (entry("joe:HASH:1:0::/d:q"), password("Secret"), 25, Ok(Outcome::WrongPassword)),
            (entry("joe:HASH:1:0::/d:q"), password(""), 25, Ok(Outcome::NullPassword)),
            (None, password("secret"), 25, Ok(Outcome::NoUser)),
            (None, cram(), 25, Ok(Outcome::NoUser)),
            // 0x800: no SMTP AUTH.
            (entry("joe:HASH:1:2048::/d:q"), password("secret"), 25, Ok(Outcome::Denied)),
            (entry("joe:HASH:1:2048::/d:q"), password("secret"), 465, Ok(Outcome::Denied)),
            (entry("joe:HASH:1:2048::/d:q"), password("secret"), 587, Ok(Outcome::Denied)),
            (entry("joe:HASH:1:2048::/d:q"), password("secret"), 2525, Ok(Outcome::Denied)),
            (entry("joe:HASH:1:2048::/d:q"), password("secret"), 110, Ok(Outcome::Success)),
            (entry("joe:HASH:1:2048::/d:q"), password("wrong"), 25, Ok(Outcome::WrongPassword)),
            // 0x02: no POP, which does not concern SMTP.
            (entry("joe:HASH:1:2::/d:q"), password("secret"), 25, Ok(Outcome::Success)),
            (entry("joe:HASH:1:2::/d:q"), password("secret"), 995, Ok(Outcome::Denied)),
            (entry("joe::1:0::/d:q"), password("secret"), 25, Ok(Outcome::WrongPassword)),
            (entry("joe:*:1:0::/d:q:secret"), password("secret"), 25, Ok(Outcome::WrongPassword)),
            (entry("joe:$6$x:1:0::/d:q"), password("secret"), 25, damaged),
            (entry("joe:HASH:1:0::/d:q:secret"), cram(), 25, Ok(Outcome::Success)),
            (entry("joe:HASH:1:2048::/d:q:secret"), cram(), 25, Ok(Outcome::Denied)),
            (entry("joe:HASH:1:0::/d:q:other"), cram(), 25, Ok(Outcome::WrongPassword)),
            (entry("joe:HASH:1:0::/d:q"), cram(), 25, Ok(Outcome::WrongPassword)),
            (entry("joe:HASH:1:0::/d:q:"), cram(), 25, Ok(Outcome::WrongPassword)),
        ] {
            let service = Service::of_port(port);
            assert_eq!(decide(entry.as_ref(), &credentials, &service), expected, "{entry:?} {port}");
        }
    }

    #[test]
    fn log_lines() {
        let (plain, cram) = (password("secret").proof, cram().proof);
        for (outcome, port, name, proof, line) in [
            (Outcome::Success, 25, "joe@d", &plain, "vchkpw-smtp: (PLAIN) login success joe@d:192.0.2.1"),
            (Outcome::Success, 465, "joe@d", &cram, "vchkpw-smtps: (CRAM-MD5) login success joe@d:192.0.2.1"),
            (
                Outcome::WrongPassword,
                587,
                "joe@d",
                &plain,
                "vchkpw-submission: password fail joe@d:192.0.2.1",
            ),
            (Outcome::NoUser, 2525, "joe@d", &plain, "vchkpw-2525: vpopmail user not found joe@d:192.0.2.1"),
            (Outcome::Denied, 25, "joe@d", &plain, "vchkpw-smtp: smtp access denied joe@d:192.0.2.1"),
            (Outcome::Denied, 110, "joe@d", &plain, "vchkpw-pop3: pop access denied joe@d:192.0.2.1"),
            (Outcome::Denied, 993, "joe@d", &plain, "vchkpw-imaps: imap access denied joe@d:192.0.2.1"),
            (Outcome::NullPassword, 25, "joe", &plain, "vchkpw-smtp: null password given joe:192.0.2.1"),
            (Outcome::NullUser, 25, "", &plain, "vchkpw-smtp: null user name given"),
            (
                Outcome::InvalidName,
                25,
                "a%s\n\u{e9} x:10.0.0.1\x7f",
                &plain,
                "vchkpw-smtp: invalid user/domain characters a?s????x?10.0.0.1?:192.0.2.1",
            ),
        ] {
            let service = Service::of_port(port);
            for client in ["192.0.2.1", "::ffff:192.0.2.1"] {
                let client = client.parse().unwrap();
                assert_eq!(outcome.log(&service, name.as_bytes(), proof, client), line);
            }
        }
        let client = "2001:db8::1".parse().unwrap();
        let line = Outcome::InvalidName.log(&Service::of_port(25), &[b'x'; 9000], &plain, client);
        assert!(line.len() < 256 && line.ends_with("x:2001:db8::1"), "{line}");
    }
}
