//! Certificates and clients for tests.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use tokio::io::DuplexStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::{Accepted, Context, Failure, accept};

/// A certificate authority.
pub(super) struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Authority");
        Self { params, key: KeyPair::generate().unwrap() }
    }

    pub(super) fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    /// A certificate for these DNS names with its key, valid until 4096.
    pub(super) fn identity(&self, names: &[&str]) -> String {
        self.identity_between(names, 1975, 4096)
    }

    /// The same, valid between the first of January of two years.
    pub(super) fn identity_between(&self, names: &[&str], from: i32, to: i32) -> String {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        self.sign(&params)
    }

    /// The same, valid from 2020 until a day: year, month, day.
    pub(super) fn identity_until(&self, names: &[&str], (year, month, day): (i32, u8, u8)) -> String {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, month, day);
        self.sign(&params)
    }

    /// A client's certificate with its key: e-mail addresses in its alternative names and in its subject.
    pub(super) fn client(&self, serial: u64, alternatives: &[&str], subject: Option<&str>) -> String {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let emails = alternatives.iter().map(|email| SanType::Rfc822Name((*email).try_into().unwrap()));
        params.subject_alt_names.extend(emails);
        if let Some(email) = subject {
            let oid = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
            params.distinguished_name.push(oid, email);
        }
        self.sign(&params)
    }

    /// A revocation list, valid until the first of January of `to`.
    pub(super) fn revoking(&self, serials: &[u64], to: i32) -> String {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(to, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    fn sign(&self, params: &CertificateParams) -> String {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer()).unwrap();
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }
}

/// A client that trusts an authority.
pub(super) struct Client<'a> {
    pub(super) trusts: &'a Authority,
    /// The host it asks for.
    pub(super) host: &'a str,
    /// Its certificate and key.
    pub(super) identity: Option<&'a str>,
    pub(super) versions: &'a [&'static SupportedProtocolVersion],
}

pub(super) const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

impl Client<'_> {
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.trusts.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match self.identity {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }

    /// Shakes hands with `context`: what the server got, and whether the client trusts what it got.
    pub(super) async fn meets(
        &self,
        context: Arc<Context>,
    ) -> (Result<Accepted<DuplexStream>, Failure>, bool) {
        meet(self.config(), self.host, context).await
    }
}

/// Shakes hands, and has the client read a byte: the tickets of TLS 1.3 come before it.
pub(super) async fn meet(
    config: Arc<ClientConfig>,
    host: &str,
    context: Arc<Context>,
) -> (Result<Accepted<DuplexStream>, Failure>, bool) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(16 * 1024);
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let client = async {
        let mut stream = TlsConnector::from(config).connect(host, near).await?;
        stream.read_u8().await
    };
    let server = async {
        let mut accepted = accept(far, context, Duration::from_secs(10)).await?;
        accepted.stream.write_all(b"!").await.map_err(|error| Failure::Lost(error.to_string()))?;
        Ok(accepted)
    };
    let (client, server) = tokio::join!(client, server);
    (server, client.is_ok())
}
