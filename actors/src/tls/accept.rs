//! The handshake of the server's side.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{self, CertificateError, ProtocolVersion, ServerConnection};
use tokio_rustls::server::TlsStream;

use super::{Context, ciphers, client};

/// Longest text about a certificate, in characters.
const MAX_CAUSE: usize = 200;

/// A connection after the handshake.
pub struct Accepted<S> {
    /// The encrypted stream.
    pub stream: TlsStream<S>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// OpenSSL's name of the cipher suite, for the Received line.
    pub cipher: &'static str,
    /// The host the client asked for, in lower case.
    pub sni: Option<String>,
    /// The client presented a certificate that one of `clientca.pem` vouches for and `clientcrl.pem` does not revoke.
    pub verified: bool,
    /// An address of the verified certificate: the one in `tlsclients`, else its first. Plain printable ASCII.
    pub client_email: Option<String>,
    /// The verified certificate has an address that is in `tlsclients`: its owner may relay.
    pub relay: bool,
    /// Why a presented certificate does not let its owner relay, in netqmail's words, for its `no valid cert for
    /// gatewaying`; `None` when none was presented, or it does.
    pub no_relay: Option<String>,
}

/// Why there is no encrypted connection. The connection is of no use afterwards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The handshake took longer than it may.
    #[error("no handshake in time")]
    Deadline,
    /// The client went away.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The two have nothing in common, or one of them does not keep to the protocol.
    #[error("{0}")]
    Handshake(String),
}

/// Does the server's side of the handshake, within `deadline`. Whatever of `stream` was read before must be dropped by
/// the caller first: it came in clear text (RFC 3207, section 4.2). ALPN is not spoken. Early data (0-RTT) and
/// renegotiation do not exist.
///
/// # Errors
/// [`Failure`]; the client has been sent an alert if it could be.
pub async fn accept<S>(stream: S, context: Arc<Context>, deadline: Duration) -> Result<Accepted<S>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(Arc::clone(&context.config)).accept(stream);
    let stream = match tokio::time::timeout(deadline, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
            return Err(Failure::Handshake(error.to_string()));
        }
        Ok(Err(error)) => return Err(Failure::Lost(error.to_string())),
        Err(_) => return Err(Failure::Deadline),
    };
    let connection = stream.get_ref().1;
    let protocol = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = connection.negotiated_cipher_suite().map_or("unknown", |suite| ciphers::name(suite.suite()));
    let sni = connection.server_name().map(str::to_ascii_lowercase);
    let client = verify(connection, &context);
    let (verified, client_email, relay, no_relay) = match client {
        Client::None => (false, None, false, None),
        Client::Unverified(why) => (false, None, false, Some(why)),
        Client::Verified { email, listed: true } => (true, email, true, None),
        Client::Verified { email, listed: false } => {
            let why = match email {
                Some(_) => "email address not in my list of tlsclients",
                None => "contains no email address",
            };
            (true, email, false, Some(why.to_owned()))
        }
    };
    Ok(Accepted { stream, protocol, cipher, sni, verified, client_email, relay, no_relay })
}

enum Client {
    None,
    Unverified(String),
    Verified { email: Option<String>, listed: bool },
}

/// Verifies the client's certificate, also that of a resumed session: it may have expired or been revoked since.
fn verify(connection: &ServerConnection, context: &Context) -> Client {
    let (Some(verifier), Some([leaf, chain @ ..])) = (&context.clients, connection.peer_certificates())
    else {
        return Client::None;
    };
    if let Err(error) = verifier.verify_client_cert(leaf, chain, UnixTime::now()) {
        let why = match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(cause)) => cause.to_string(),
            rustls::Error::InvalidCertificate(cause) => cause.to_string(),
            other => other.to_string(),
        };
        // A cause may list what the certificate says, as long as the client likes.
        return Client::Unverified(why.chars().filter(|c| !c.is_control()).take(MAX_CAUSE).collect());
    }
    let mut emails = client::emails(leaf);
    let listed = emails.iter().position(|email| context.tlsclients.contains(&email.to_ascii_lowercase()));
    let email = match listed {
        Some(index) => Some(emails.swap_remove(index)),
        None => emails.into_iter().next(),
    };
    Client::Verified { email, listed: listed.is_some() }
}
