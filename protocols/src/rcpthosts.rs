//! `control/rcpthosts` and `morercpthosts.cdb` (qmail-smtpd): the domains that mail is accepted for.

use crate::cdb::{self, Cdb};
use crate::domains::Domains;

/// The domains that mail is accepted for. Without entries: none.
///
/// qmail without the file accepts mail for every domain; here a missing file is an empty list.
#[derive(Debug, Clone, Default)]
pub struct RcptHosts {
    entries: Domains,
    more: Option<Cdb<Vec<u8>>>,
}

impl RcptHosts {
    /// The lines of `rcpthosts`, and the database of `morercpthosts` if there is one.
    pub fn new(entries: Domains, more: Option<Cdb<Vec<u8>>>) -> Self {
        Self { entries, more }
    }

    /// Whether mail for the domain is accepted: an entry is the domain, or begins with a dot and is the end of it.
    /// What comes after the last `@` of the address is the domain; the caller accepts an address without one. The
    /// error is a damaged database.
    pub fn allows(&self, domain: &[u8]) -> Result<bool, cdb::Error> {
        let domain = domain.to_ascii_lowercase();
        let candidates = || (0..domain.len()).filter(|&n| n == 0 || domain[n] == b'.').map(|n| &domain[n..]);
        if candidates().any(|candidate| self.entries.contains(candidate)) {
            return Ok(true);
        }
        let Some(more) = &self.more else { return Ok(false) };
        for candidate in candidates() {
            if more.find(candidate)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdb::CdbMake;

    #[test]
    fn which_domains_are_allowed() {
        let mut more = CdbMake::new();
        more.add(b"more.example", b"").unwrap();
        more.add(b".deep.example", b"").unwrap();
        let more = Cdb::new(more.finish()).unwrap();
        let hosts = RcptHosts::new(["example.org", ".Example.NET"].into_iter().collect(), Some(more));
        for (domain, expected) in [
            ("example.org", true),
            ("EXAMPLE.org", true),
            ("sub.example.org", false),
            ("example.net", false),
            ("a.example.net", true),
            ("a.b.example.net", true),
            ("badexample.net", false),
            ("more.example", true),
            ("MORE.example", true),
            ("a.more.example", false),
            ("a.deep.example", true),
            ("deep.example", false),
            ("", false),
            ("org", false),
            (".", false),
        ] {
            assert_eq!(hosts.allows(domain.as_bytes()), Ok(expected), "{domain}");
        }
        assert_eq!(RcptHosts::default().allows(b"example.org"), Ok(false));
    }
}
