//! `control/validrcptto` and `morevalidrcptto.cdb` (validrcptto patch): the recipients that exist.
//!
//! An entry, or key of the database, is in lower case: `user@dom.tld` is this recipient, `@dom.tld` every one of the
//! domain; `-` in front says that there is no such one. An entry for the recipient comes before one for its domain, and a
//! positive one before a negative one; the list and the database are one.

use crate::cdb::{self, Cdb};
use crate::domains::Domains;

/// The recipients that exist. A host with neither file has none of these and checks nothing.
#[derive(Debug, Clone)]
pub struct ValidRcptTo {
    entries: Domains,
    more: Option<Cdb<Vec<u8>>>,
}

/// What the list says of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// It exists.
    Valid,
    /// An entry with `-` says that it does not.
    Denied,
    /// No entry. The patch by itself refuses it as it does the denied; toasters ask chkuser next.
    Unlisted,
}

impl ValidRcptTo {
    /// The lines of `validrcptto`, and the database of `morevalidrcptto` if there is one.
    pub fn new(entries: Domains, more: Option<Cdb<Vec<u8>>>) -> Self {
        Self { entries, more }
    }

    /// What is said of a recipient; case is ignored. The error is a damaged database.
    pub fn listing(&self, recipient: &[u8]) -> Result<Listing, cdb::Error> {
        let recipient = recipient.to_ascii_lowercase();
        let domain = memchr::memrchr(b'@', &recipient).map(|at| &recipient[at..]);
        // An address without `@` has no negative entry either.
        for key in [domain.is_some().then_some(recipient.as_slice()), domain].into_iter().flatten() {
            if self.has(key)? {
                return Ok(Listing::Valid);
            }
            if self.has(&[b"-", key].concat())? {
                return Ok(Listing::Denied);
            }
        }
        let listed = domain.is_none() && self.has(&recipient)?;
        Ok(if listed { Listing::Valid } else { Listing::Unlisted })
    }

    fn has(&self, key: &[u8]) -> Result<bool, cdb::Error> {
        if self.entries.contains(key) {
            return Ok(true);
        }
        self.more.as_ref().map_or(Ok(false), |more| Ok(more.find(key)?.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdb::CdbMake;

    #[test]
    fn which_recipients_exist() {
        let mut more = CdbMake::new();
        for key in
            ["max@more.example", "@all.example", "-spam@all.example", "-@none.example", "both@x.example"]
        {
            more.add(key.as_bytes(), b"").unwrap();
        }
        let more = Cdb::new(more.finish()).unwrap();
        let entries = ["Joe@example.org", "@wide.example", "-@all.example", "-both@x.example", "root"];
        let list = ValidRcptTo::new(entries.into_iter().collect(), Some(more));
        for (recipient, expected) in [
            ("joe@example.org", Listing::Valid),
            ("JOE@Example.Org", Listing::Valid),
            ("jim@example.org", Listing::Unlisted),
            ("any@wide.example", Listing::Valid),
            ("any@sub.wide.example", Listing::Unlisted),
            ("Max@more.example", Listing::Valid),
            ("any@all.example", Listing::Valid),
            ("spam@ALL.example", Listing::Denied),
            ("any@none.example", Listing::Denied),
            ("both@x.example", Listing::Valid),
            ("root", Listing::Valid),
            ("toor", Listing::Unlisted),
            ("a@b@wide.example", Listing::Valid),
            ("", Listing::Unlisted),
        ] {
            assert_eq!(list.listing(recipient.as_bytes()), Ok(expected), "{recipient}");
        }
    }

    #[test]
    fn a_damaged_database_is_an_error() {
        let mut more = CdbMake::new();
        more.add(b"joe@example.org", b"").unwrap();
        let mut bytes = more.finish();
        bytes[2048..2052].copy_from_slice(&[255; 4]);
        let list = ValidRcptTo::new(Domains::default(), Some(Cdb::new(bytes).unwrap()));
        assert!(list.listing(b"joe@example.org").is_err());
    }
}
