//! SMTP AUTH (RFC 4954): the exchange, the proof, who may pass, and how guessing is slowed.

pub mod checkpassword;
pub mod cram;
pub mod crypt;
pub mod exchange;
pub mod smtpauth;
pub mod throttle;
pub mod vchkpw;

use std::fmt;

use zeroize::Zeroizing;

/// Who a client says it is, and its proof.
#[derive(Clone)]
pub struct Credentials {
    /// The authentication identity as it was sent: 1 to [`exchange::NAME_MAX`] bytes without control bytes.
    pub user: Vec<u8>,
    /// What shall prove it.
    pub proof: Proof,
}

/// What a client sends to prove who it is.
#[derive(Clone)]
pub enum Proof {
    /// PLAIN and LOGIN: the password, 1 to [`exchange::LINE_MAX`] bytes without NUL.
    Password(Zeroizing<Vec<u8>>),
    /// CRAM-MD5 (RFC 2195).
    Cram {
        /// The challenge, before base64: `<unique.time@host>`.
        challenge: Vec<u8>,
        /// HMAC-MD5 of the challenge, the password being the key.
        digest: [u8; 16],
    },
}

impl Proof {
    /// The word vchkpw writes: `PLAIN` for every mechanism that sends the password, or `CRAM-MD5`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Password(_) => "PLAIN",
            Self::Cram { .. } => "CRAM-MD5",
        }
    }
}

// Proofs reach no log.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &String::from_utf8_lossy(&self.user))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
