//! Client certificates: who may relay because of one (`clientca.pem`, `clientcrl.pem`, `tlsclients`).
//!
//! As in the TLS patch of netqmail a client certificate never decides about the handshake: none, or one that does not
//! verify, is as good as any for encryption, and is remembered as one that does not let its owner relay. netqmail asks
//! for it in a second handshake, at the first recipient that needs it; TLS 1.3 has none, so it is asked for at once,
//! whenever there is a `clientca.pem`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::Problem;
use super::files::{self, CLIENTCA, CLIENTCRL, TLSCLIENTS};
use super::identity::time;

/// Names of authorities that are sent to the client, in bytes; when there are more, none is, and it may send any
/// certificate (RFC 8446, section 4.3.2).
const MAX_HINTS: usize = 16 * 1024;

/// Addresses of one certificate that are looked at.
const MAX_EMAILS: usize = 20;

/// Verifies a client's certificate after the handshake.
pub(super) type Verifier = Arc<dyn ClientCertVerifier>;

/// Reads `clientca.pem` and `clientcrl.pem`; `None` when there is no authority. With a `clientcrl.pem` every
/// certificate of a chain must be covered by a list in it that has not expired, as OpenSSL's CRL_CHECK_ALL has it.
/// The second part of the answer is what else is worth telling.
pub(super) fn verifier(
    control: &Path,
    provider: Arc<CryptoProvider>,
    now: i64,
) -> Result<(Option<Verifier>, Vec<Problem>), Problem> {
    let (authorities, crl) = (control.join(CLIENTCA), control.join(CLIENTCRL));
    let Some(pem) = files::read(&authorities)? else { return Ok((None, Vec::new())) };
    let mut told = Vec::new();
    let mut roots = RootCertStore::empty();
    let (_, refused) = roots.add_parsable_certificates(certificates(&authorities, &pem)?);
    if roots.is_empty() {
        return Err(Problem::error(&authorities, "no certificate of an authority"));
    }
    if refused > 0 {
        told.push(Problem::warning(&authorities, format!("{refused} certificates cannot be used")));
    }
    let lists = match files::read(&crl)? {
        Some(pem) => revocation_lists(&crl, &pem, now, &mut told)?,
        None => Vec::new(),
    };
    let hints: usize = roots.subjects().iter().map(|name| name.as_ref().len()).sum();
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(lists)
        .enforce_revocation_expiration()
        .allow_unauthenticated();
    if hints > MAX_HINTS {
        builder = builder.clear_root_hint_subjects();
    }
    let verifier = builder.build().map_err(|error| Problem::error(&crl, error.to_string()))?;
    Ok((Some(verifier), told))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Result<_, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.map_err(|error| Problem::error(path, format!("no PEM: {error}")))
}

fn revocation_lists(
    path: &Path,
    pem: &[u8],
    now: i64,
    told: &mut Vec<Problem>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| Problem::error(path, format!("no PEM: {error}")))?;
    if found.is_empty() {
        return Err(Problem::error(path, "no revocation list"));
    }
    for list in &found {
        let Ok((_, list)) = CertificateRevocationList::from_der(list) else { continue };
        if let Some(next) = list.next_update().map(|next| next.timestamp()).filter(|&next| next < now) {
            let text =
                format!("a revocation list expired at {}: no certificate it covers verifies", time(next));
            told.push(Problem { expires: Some(next), ..Problem::error(path, text) });
        }
    }
    Ok(found)
}

/// Reads `tlsclients`: the e-mail addresses of certificates that may relay, one a line, in lower case.
pub(super) fn tlsclients(control: &Path) -> Result<HashSet<String>, Problem> {
    let contents = files::read(&control.join(TLSCLIENTS))?.unwrap_or_default();
    Ok(files::lines(&contents).map(|line| String::from_utf8_lossy(line).to_ascii_lowercase()).collect())
}

/// The e-mail addresses of a certificate: rfc822Name of its alternative names, then emailAddress of its subject. An
/// address with anything but plain printable characters is none: it is written into a Received line.
pub(super) fn emails(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let alternatives = alternatives.filter_map(|name| match name {
        GeneralName::RFC822Name(address) => Some(*address),
        _ => None,
    });
    let subject = certificate.subject().iter_email().filter_map(|address| address.as_str().ok());
    alternatives.chain(subject).filter(|address| plain(address)).take(MAX_EMAILS).map(str::to_owned).collect()
}

fn plain(address: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"()<>[]\\\",;:".contains(&byte);
    address.len() <= 254 && address.contains('@') && address.bytes().all(plain)
}

/// Asks for a certificate and lets every one through, once the client has proved that it has the private key.
/// [`super::accept`] has the certificate verified afterwards.
#[derive(Debug)]
pub(super) struct Ask(pub(super) Verifier);

impl ClientCertVerifier for Ask {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if unusable(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if unusable(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// A certificate that cannot even be read (one of X.509 version 1, say) has no key to check a signature with, and never
/// verifies either: nobody can gain by presenting it.
fn unusable(certificate: &CertificateDer<'_>) -> bool {
    ParsedCertificate::try_from(certificate).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_could_break_a_header_is_none() {
        let table = [
            ("relay@example.org", true),
            ("a+b=c@example.org", true),
            ("relay", false),
            ("re lay@example.org", false),
            ("relay@example.org)\r\nX: (", false),
            ("relay@example.org\0", false),
            ("r\u{e9}lay@example.org", false),
        ];
        for (address, expected) in table {
            assert_eq!(plain(address), expected, "{address:?}");
        }
        assert!(!plain(&format!("{}@example.org", "a".repeat(250))));
    }
}
