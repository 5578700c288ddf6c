//! Who this host is: a certificate, its chain and its private key, in one PEM file or the key in one beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{PemObject, SectionKind};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Problem;
use super::files::{self, SERVERKEY};

/// A certificate that ends earlier than this, in seconds, is warned of: 14 days.
const SOON: i64 = 14 * 86_400;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The file it is in.
    pub path: PathBuf,
    /// The DNS names it is for; its common names when it has none.
    pub names: Vec<String>,
    /// It is not valid before this time, in seconds since 1970.
    pub not_before: i64,
    /// It is not valid after this time, in seconds since 1970.
    pub not_after: i64,
}

/// A certificate with its private key.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) certificate: Certificate,
    /// The file that holds the key.
    pub(super) key_file: PathBuf,
}

impl Identity {
    /// The identity in a file, as OpenSSL reads it: the first certificate is the host's, the others are its chain, the
    /// first private key (PKCS#8, PKCS#1 or SEC1) is its key, wherever it stands. A `serverkey.pem` beside the file has the key
    /// instead. `None` when there is no such file.
    pub(super) fn read(path: &Path, provider: &CryptoProvider) -> Result<Option<Self>, Problem> {
        let Some(pem) = files::read(path)? else { return Ok(None) };
        let bad = |text: String| Problem::error(path, text);
        let (chain, own) = sections(&pem).map_err(bad)?;
        let Some(leaf) = chain.first() else { return Err(bad("no certificate".into())) };
        let certificate = describe(path, leaf).map_err(bad)?;
        let beside = path.with_file_name(SERVERKEY);
        let (key, key_file) = match files::read(&beside)? {
            None => (own.ok_or_else(|| bad("a certificate without a private key".into()))?, path.to_owned()),
            Some(pem) => {
                let (_, key) = sections(&pem).map_err(|text| Problem::error(&beside, text))?;
                (key.ok_or_else(|| Problem::error(&beside, "no private key"))?, beside)
            }
        };
        let key = provider.key_provider.load_private_key(key);
        let key = key.map_err(|error| Problem::error(&key_file, format!("unusable private key: {error}")))?;
        // Compared here and not by `CertifiedKey::from_der`, which looks into the certificate as a client would: what a client
        // thinks of version 1, or of an extension nobody knows, is the client's affair.
        if key.public_key().is_some_and(|own| own.as_ref() != public_key(leaf)) {
            let which = if key_file == path { String::new() } else { format!(" in {}", key_file.display()) };
            return Err(bad(format!("the private key{which} does not belong to the first certificate")));
        }
        Ok(Some(Self { key: Arc::new(CertifiedKey::new(chain, key)), certificate, key_file }))
    }
}

impl Certificate {
    /// The problem with its validity at `now`, in seconds since 1970: a warning in its last 14 days, an error before it begins
    /// and after it has ended.
    pub(super) fn validity(&self, now: i64) -> Option<Problem> {
        let problem = if now > self.not_after {
            Problem::error(&self.path, format!("the certificate expired at {}", time(self.not_after)))
        } else if now < self.not_before {
            Problem::error(
                &self.path,
                format!("the certificate is not valid before {}", time(self.not_before)),
            )
        } else if now >= self.not_after.saturating_sub(SOON) {
            Problem::warning(&self.path, format!("the certificate expires at {}", time(self.not_after)))
        } else {
            return None;
        };
        Some(Problem { expires: Some(self.not_after), ..problem })
    }

    /// The problem that it is for none of `hosts`, in lower case.
    pub(super) fn misnamed(&self, hosts: &[String]) -> Option<Problem> {
        if hosts.is_empty() || hosts.iter().any(|host| self.covers(host)) {
            return None;
        }
        let names = if self.names.is_empty() { "nobody".to_owned() } else { self.names.join(", ") };
        let text = format!("the certificate is not for {}, but for: {names}", hosts.join(" or "));
        Some(Problem::warning(&self.path, text))
    }

    /// Whether it is for `host`, in lower case; `*.example.org` in it is for every `label.example.org` (RFC 6125 6.4.3).
    pub(super) fn covers(&self, host: &str) -> bool {
        let above = host.split_once('.').map(|(_, above)| above);
        self.names.iter().any(|name| {
            let name = name.to_ascii_lowercase();
            name == host || name.strip_prefix("*.").is_some_and(|parent| Some(parent) == above)
        })
    }
}

/// A time as RFC 3339 has it.
pub(super) fn time(unix: i64) -> String {
    jiff::Timestamp::from_second(unix).map_or_else(|_| unix.to_string(), |time| time.to_string())
}

type Sections = (Vec<CertificateDer<'static>>, Option<PrivateKeyDer<'static>>);

fn sections(pem: &[u8]) -> Result<Sections, String> {
    let encrypted = |line: &[u8]| {
        line.starts_with(b"-----BEGIN ENCRYPTED ") || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    };
    let pem = plain(pem);
    if pem.split(|&byte| byte == b'\n').any(encrypted) {
        return Err("the private key is encrypted; nobody is here to type its passphrase".into());
    }
    let (mut chain, mut key) = (Vec::new(), None);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&pem) {
        let (kind, mut der) = section.map_err(|error| format!("no PEM: {error}"))?;
        match kind {
            SectionKind::Certificate => {
                // Behind a trusted certificate stands what OpenSSL alone is to know of it.
                if let Ok((beyond, _)) = X509Certificate::from_der(&der) {
                    der.truncate(der.len() - beyond.len());
                }
                chain.push(CertificateDer::from(der));
            }
            kind => key = key.or_else(|| PrivateKeyDer::from_pem(kind, der)),
        }
    }
    Ok((chain, key))
}

/// PEM without what only OpenSSL reads (PEM_read_bio, PEM_X509_TRUSTED): a byte order mark before a line, blanks behind it,
/// older labels of a certificate.
fn plain(pem: &[u8]) -> Vec<u8> {
    const LABELS: [(&[u8], &[u8]); 4] = [
        (b"-----BEGIN TRUSTED CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----"),
        (b"-----END TRUSTED CERTIFICATE-----", b"-----END CERTIFICATE-----"),
        (b"-----BEGIN X509 CERTIFICATE-----", b"-----BEGIN CERTIFICATE-----"),
        (b"-----END X509 CERTIFICATE-----", b"-----END CERTIFICATE-----"),
    ];
    let mut plain = Vec::with_capacity(pem.len());
    for line in pem.split(|&byte| byte == b'\n') {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii_end();
        let known = LABELS.iter().find(|(label, _)| *label == line);
        plain.extend_from_slice(known.map_or(line, |(_, label)| label));
        plain.push(b'\n');
    }
    plain
}

/// The public key in a certificate, as `SubjectPublicKeyInfo`; empty if it is none.
fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> &'a [u8] {
    X509Certificate::from_der(certificate)
        .map_or(&[], |(_, certificate)| certificate.tbs_certificate.subject_pki.raw)
}

fn describe(path: &Path, leaf: &CertificateDer<'_>) -> Result<Certificate, String> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| format!("no certificate: {error}"))?;
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let mut names: Vec<_> = alternatives
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        let common = leaf.subject().iter_common_name();
        names = common.filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    }
    let validity = leaf.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Ok(Certificate { path: path.to_owned(), names, not_before, not_after })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
    use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;

    use super::*;
    use crate::tls::testing::Authority;

    fn read(pem: &str) -> Result<Option<Identity>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("servercert.pem");
        fs::write(&path, pem).unwrap();
        Identity::read(&path, &default_provider()).map_err(|problem| {
            assert_eq!(problem.path, path);
            assert!(!problem.warning);
            problem.text
        })
    }

    /// The key inside a PKCS#8 wrapper, in its older form.
    fn unwrapped(key: &KeyPair, label: &str) -> String {
        let pkcs8 = key.serialize_der();
        let (_, wrapper) = x509_parser::der_parser::parse_der(&pkcs8).unwrap();
        let inner = wrapper.as_sequence().unwrap()[2].as_slice().unwrap();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(inner))
    }

    #[test]
    fn a_key_is_read_in_every_form_and_place() {
        let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let params = CertificateParams::new(["mail.example.org".to_owned()]).unwrap();
        let for_ec = params.self_signed(&ec).unwrap().pem();
        let for_rsa = params.self_signed(&rsa).unwrap().pem();
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let table = [
            format!("{for_ec}{}", ec.serialize_pem()),
            format!("{}{for_ec}", ec.serialize_pem()),
            format!("{for_ec}{for_rsa}{}", ec.serialize_pem()),
            format!("Bag Attributes\n{}{for_rsa}", rsa.serialize_pem()).replace('\n', "\r\n"),
            format!("{}{for_rsa}", unwrapped(&rsa, "RSA PRIVATE KEY")),
            format!("{parameters}{}{for_ec}", unwrapped(&ec, "EC PRIVATE KEY")),
        ];
        for (number, pem) in table.iter().enumerate() {
            let identity = read(pem).unwrap_or_else(|error| panic!("{number}: {error}")).unwrap();
            assert_eq!(identity.certificate.names, ["mail.example.org"]);
        }
    }

    #[test]
    fn what_openssl_reads_is_read() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["mail.example.org".to_owned()]).unwrap();
        let plain = params.self_signed(&key).unwrap();
        let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions.push(unknown);
        let odd = params.self_signed(&key).unwrap().pem();
        let labelled = |label: &str, der: &[u8]| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
        };
        // What `-trustout` adds: a sequence of purposes.
        let trusted = [plain.der(), &[0x30, 0x02, 0x30, 0x00][..]].concat();
        let own = key.serialize_pem();
        let table = [
            format!("\u{feff}{}{own}", plain.pem()),
            format!("{own}\u{feff}{}", plain.pem()),
            format!("{}{own}", labelled("TRUSTED CERTIFICATE", &trusted)),
            format!("{}{own}", labelled("X509 CERTIFICATE", plain.der())),
            format!("{odd}{own}"),
            format!("{}{own}", plain.pem()).replace('\n', " \r\n"),
        ];
        for (number, pem) in table.iter().enumerate() {
            let identity = read(pem).unwrap_or_else(|error| panic!("{number}: {error}")).unwrap();
            assert_eq!(identity.certificate.names, ["mail.example.org"], "{number}");
            assert_eq!(
                identity.key.cert[0].as_ref().len(),
                if number == 4 { identity.key.cert[0].len() } else { plain.der().len() }
            );
        }
    }

    #[test]
    fn a_bad_file_is_told_from_another() {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let other = KeyPair::generate().unwrap().serialize_pem();
        let key = key.serialize_pem();
        let junk = "-----BEGIN CERTIFICATE-----\nanVuaw==\n-----END CERTIFICATE-----\n";
        let table = [
            (String::new(), "no certificate"),
            (key.clone(), "no certificate"),
            (certificate.clone(), "a certificate without a private key"),
            (format!("{certificate}{other}"), "the private key does not belong to the first certificate"),
            (format!("{junk}{key}"), "no certificate: "),
            (
                format!("{certificate}{}", key.replace(" PRIVATE", " ENCRYPTED PRIVATE")),
                "the private key is encr",
            ),
            (certificate.replace("-----END", "-----"), "no PEM: "),
        ];
        for (pem, expected) in table {
            let error = read(&pem).err().unwrap();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_key_beside_it_takes_the_place_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&one).unwrap().pem();
        let (path, beside) = (directory.path().join("servercert.pem"), directory.path().join(SERVERKEY));
        let with_key = format!("{certificate}{}", one.serialize_pem());
        let mismatch =
            format!("the private key in {} does not belong to the first certificate", beside.display());
        let junk = "-----BEGIN PRIVATE KEY-----\nanVuaw==\n-----END PRIVATE KEY-----\n";
        for (pem, key, expected) in [
            (&certificate, one.serialize_pem(), Ok(&beside)),
            (&with_key, one.serialize_pem(), Ok(&beside)),
            (&certificate, two.serialize_pem(), Err((&path, mismatch.as_str()))),
            (&with_key, two.serialize_pem(), Err((&path, &mismatch))),
            (&with_key, certificate.clone(), Err((&beside, "no private key"))),
            (&certificate, junk.to_owned(), Err((&beside, "unusable private key: "))),
        ] {
            fs::write(&path, pem).unwrap();
            fs::write(&beside, key).unwrap();
            match (Identity::read(&path, &default_provider()), expected) {
                (Ok(Some(found)), Ok(file)) => assert_eq!(&found.key_file, file),
                (Err(problem), Err((file, text))) => {
                    assert_eq!(&problem.path, file);
                    assert!(problem.text.starts_with(text), "{problem}");
                }
                (found, expected) => panic!("{found:?} in place of {expected:?}"),
            }
        }
    }

    #[test]
    fn validity_has_two_ends() {
        let authority = Authority::new();
        let identity = read(&authority.identity_between(&["a.example"], 2020, 2021)).unwrap().unwrap();
        let certificate = identity.certificate;
        let problem = |now| certificate.validity(now).map(|problem| problem.text);
        assert_eq!(problem(1_590_000_000), None);
        let fortnight = 1_609_459_200 - 14 * 86_400;
        assert_eq!(problem(fortnight - 1), None);
        for last in [fortnight, 1_609_459_200] {
            assert_eq!(problem(last).as_deref(), Some("the certificate expires at 2021-01-01T00:00:00Z"));
            assert!(certificate.validity(last).unwrap().warning);
        }
        assert_eq!(
            problem(1_577_836_799).as_deref(),
            Some("the certificate is not valid before 2020-01-01T00:00:00Z")
        );
        assert_eq!(
            problem(1_609_459_201).as_deref(),
            Some("the certificate expired at 2021-01-01T00:00:00Z")
        );
        assert_eq!(certificate.validity(1_700_000_000).unwrap().expires, Some(1_609_459_200));
    }

    #[test]
    fn a_name_covers_itself_or_one_label() {
        let names = ["Mail.Example.org", "*.example.net"].map(str::to_owned).into();
        let certificate = Certificate { path: PathBuf::new(), names, not_before: 0, not_after: 0 };
        let table = [
            ("mail.example.org", true),
            ("example.org", false),
            ("a.example.net", true),
            ("*.example.net", true),
            ("a.b.example.net", false),
            ("example.net", false),
            ("*.example.org", false),
        ];
        for (host, expected) in table {
            assert_eq!(certificate.covers(host), expected, "{host}");
        }
    }
}
