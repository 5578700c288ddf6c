//! Which addresses are well formed to chkuser: fewer than RFC 5321 allows.

/// Shortest domain in bytes: `k.st`.
const MIN_DOMAIN: usize = 4;

/// What a local part may hold besides letters and digits: what chkuser's settings allow by default in one version or
/// another, among them `#`, `+` and `=` for SRS.
const LOCAL: &[u8] = br"#+_-.=$%?*^~&/\'";

/// Whether an address of this local part and domain is well formed. With SMTPUTF8 (RFC 6531) what is beyond ASCII is
/// allowed in both where it is UTF-8.
///
/// The domain has a dot, four bytes at least, letters, digits, `-` and `.`, with neither of the two at an end and no dot
/// beside another or a `-`; one that begins with `xn--` has no further `--`.
pub fn is_well_formed(local: &[u8], domain: &[u8], smtputf8: bool) -> bool {
    let is_text = |part: &[u8], more: &[u8]| {
        let beyond = smtputf8 && std::str::from_utf8(part).is_ok();
        part.iter().all(|b| b.is_ascii_alphanumeric() || more.contains(b) || !b.is_ascii() && beyond)
    };
    !local.is_empty()
        && is_text(local, LOCAL)
        && domain.len() >= MIN_DOMAIN
        && is_text(domain, b"-.")
        && domain.contains(&b'.')
        && domain.split(|&b| b == b'.').all(is_label)
        && !domain.strip_prefix(b"xn--").is_some_and(|rest| rest.windows(2).any(|pair| pair == b"--"))
}

fn is_label(label: &[u8]) -> bool {
    !label.is_empty() && !label.starts_with(b"-") && !label.ends_with(b"-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_are_well_formed() {
        for (address, plain, utf8) in [
            ("joe@example.org", true, true),
            ("JOE.X-y_1@Sub.Example.Org", true, true),
            ("srs0+abc=ty=x.example=joe@k.st", true, true),
            (r"a#$%?*^~&/\'@k.st", true, true),
            ("a b@example.org", false, false),
            ("a\"b@example.org", false, false),
            ("a|b@example.org", false, false),
            ("a<b@example.org", false, false),
            ("a\nb@example.org", false, false),
            ("@example.org", false, false),
            ("joe@", false, false),
            ("joe@localhost", false, false),
            ("joe@k.s", false, false),
            ("joe@[192.0.2.1]", false, false),
            ("joe@-a.example", false, false),
            ("joe@a-.example", false, false),
            ("joe@a.-b.example", false, false),
            ("joe@a.example-", false, false),
            ("joe@.example", false, false),
            ("joe@example.", false, false),
            ("joe@a..example", false, false),
            ("joe@y--s.example", true, true),
            ("joe@xn--a.example", true, true),
            ("joe@xn--a--b.example", false, false),
            ("joe@ex_ample.org", false, false),
            ("jos\u{e9}@example.org", false, true),
            ("joe@ex\u{e9}mple.org", false, true),
        ] {
            let (local, domain) = address.rsplit_once('@').unwrap();
            for (smtputf8, expected) in [(false, plain), (true, utf8)] {
                let found = is_well_formed(local.as_bytes(), domain.as_bytes(), smtputf8);
                assert_eq!(found, expected, "{address} {smtputf8}");
            }
        }
        assert!(!is_well_formed(b"jos\xe9", b"example.org", true));
    }
}
