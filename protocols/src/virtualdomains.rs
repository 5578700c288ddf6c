//! `control/virtualdomains` (qmail-send): domains whose mail is delivered locally under a prepended name.

use std::collections::HashMap;

/// A line that is no `KEY:PREPEND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no colon; allowed: `user@domain:prepend`, `domain:prepend`, `.domain:prepend`, `:prepend`")]
pub struct NoColon;

/// The map of `virtualdomains`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VirtualDomains {
    entries: HashMap<Vec<u8>, Vec<u8>>,
}

impl VirtualDomains {
    /// Adds a line. Of several with one key the last one counts, as in qmail.
    pub fn add(&mut self, line: &[u8]) -> Result<(), NoColon> {
        let colon = memchr::memchr(b':', line).ok_or(NoColon)?;
        self.entries.insert(line[..colon].to_ascii_lowercase(), line[colon + 1..].to_vec());
        Ok(())
    }

    /// What is prepended to the address, which has an `@` at `at`; `None` if it is not virtual. The keys in their
    /// order: the address, its domain, every end of the domain from a dot on, and the empty key. The first that is an
    /// entry decides: if its value is empty the address is not virtual.
    pub fn prepend(&self, address: &[u8], at: usize) -> Option<&[u8]> {
        let ends = (at + 1..address.len()).filter(|&n| n == at + 1 || address[n] == b'.');
        self.first(std::iter::once(0).chain(ends).chain([address.len()]).map(|n| &address[n..]))
    }

    /// Whether the domain is one of vpopmail's, which prepends to every address the domain itself: `DOMAIN:DOMAIN`. Without
    /// this any `+user-` of users/assign, which a user's own home has, would be taken for a domain.
    pub fn has_users(&self, domain: &[u8]) -> bool {
        let domain = domain.to_ascii_lowercase();
        self.entries.get(&domain).is_some_and(|prepend| prepend.eq_ignore_ascii_case(&domain))
    }

    /// The address without what was prepended to it, as bounces name it (qmail-send, stripvdomprepend).
    pub fn strip<'a>(&self, address: &'a [u8]) -> &'a [u8] {
        let Some(at) = memchr::memrchr(b'@', address) else { return address };
        let domain = &address[at + 1..];
        let ends = (0..domain.len()).filter(|&n| n == 0 || domain[n] == b'.');
        let prepend = self.first(ends.chain([domain.len()]).map(|n| &domain[n..]));
        prepend
            .and_then(|prepend| address.strip_prefix(prepend))
            .and_then(|rest| rest.strip_prefix(b"-"))
            .unwrap_or(address)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn first<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>) -> Option<&[u8]> {
        keys.find_map(|key| self.entries.get(key.to_ascii_lowercase().as_slice()))
            .map(Vec::as_slice)
            .filter(|prepend| !prepend.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(lines: &[&str]) -> VirtualDomains {
        let mut domains = VirtualDomains::default();
        lines.iter().for_each(|line| domains.add(line.as_bytes()).unwrap());
        domains
    }

    #[test]
    fn only_a_domain_that_prepends_itself_has_users() {
        let mut domains = VirtualDomains::default();
        for line in [
            "A.example:a.example",
            "b.example:joe",
            "joe@c.example:c.example",
            ".d.example:d.example",
            "e.example:",
        ] {
            domains.add(line.as_bytes()).unwrap();
        }
        assert!(domains.has_users(b"a.EXAMPLE"));
        for other in ["b.example", "joe", "c.example", "d.example", "x.d.example", "e.example", ""] {
            assert!(!domains.has_users(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_order_of_the_keys() {
        let all =
            domains(&["joe@one.example:joe", "one.example:one", ".example:any", "plain.example:", ":rest"]);
        for (address, expected) in [
            ("joe@one.example", Some("joe")),
            ("JOE@ONE.example", Some("joe")),
            ("jane@one.example", Some("one")),
            ("joe@two.example", Some("any")),
            ("joe@a.b.example", Some("any")),
            ("joe@plain.example", None),
            ("joe@elsewhere", Some("rest")),
            ("a.example@elsewhere", Some("rest")),
        ] {
            let at = address.rfind('@').unwrap();
            assert_eq!(all.prepend(address.as_bytes(), at), expected.map(str::as_bytes), "{address}");
        }
        let some = domains(&["one.example:one"]);
        assert_eq!(some.prepend(b"joe@sub.one.example", 3), None);
        assert_eq!(some.prepend(b"joe@", 3), None);
        assert_eq!(domains(&["a:first", "A:last"]).prepend(b"x@a", 1), Some(&b"last"[..]));
    }

    #[test]
    fn stripping() {
        let all = domains(&["one.example:one", ".example:any-sub", "plain.example:"]);
        for (address, expected) in [
            ("one-joe@one.example", "joe@one.example"),
            ("one-joe@ONE.example", "joe@ONE.example"),
            ("joe@one.example", "joe@one.example"),
            ("onejoe@one.example", "onejoe@one.example"),
            ("any-sub-joe@x.example", "joe@x.example"),
            ("any-joe@plain.example", "any-joe@plain.example"),
            ("one-joe", "one-joe"),
            ("one-joe@", "one-joe@"),
        ] {
            assert_eq!(all.strip(address.as_bytes()), expected.as_bytes(), "{address}");
        }
    }

    #[test]
    fn a_line_needs_a_colon() {
        assert_eq!(VirtualDomains::default().add(b"example.org"), Err(NoColon));
    }
}
