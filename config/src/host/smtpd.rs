//! A service of SMTP: what stands in the run script of a qmail-smtpd.

use std::net::SocketAddr;
use std::path::PathBuf;

use mailtree_protocols::auth::checkpassword::approver;
use mailtree_protocols::rblsmtpd::source::masked;
use serde::{Deserialize, Deserializer};

use super::joined_texts;
use crate::default;
use crate::network::Network;
use crate::unit;

/// SMTP in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smtpd {
    /// Addresses to listen on. Port 0 is a port the system chooses.
    #[serde(deserialize_with = "unit::listen")]
    pub listen: Vec<SocketAddr>,
    /// Connections at once, 1 to 65000 (tcpserver -c); `None`: `control/concurrencyincoming` says it.
    #[serde(deserialize_with = "unit::optional_ranged::<_, _, 1, 65000>")]
    pub concurrency: Option<usize>,
    /// Connections from one address at once, 1 to 65000.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 65000>")]
    pub per_ip: usize,
    /// Networks that `per_ip` does not bind.
    #[serde(deserialize_with = "unit::texts")]
    pub unlimited: Vec<Network>,
    /// Recipients of one transaction, 1 to 100000.
    #[serde(deserialize_with = "unit::ranged::<_, _, 1, 100_000>")]
    pub recipients: usize,
    /// Compiled tcprules; relative to the home (tcpserver -x).
    #[serde(deserialize_with = "unit::path")]
    pub rules: PathBuf,
    /// Whether the names of clients are looked up.
    pub reverse_dns: ReverseDns,
    /// Clients that say with the PROXY protocol for whom they connect.
    #[serde(deserialize_with = "unit::texts")]
    pub proxies: Vec<Network>,
    /// The arguments of rblsmtpd, without the program; none: no rblsmtpd.
    #[serde(deserialize_with = "unit::words")]
    pub rblsmtpd: Vec<String>,
    /// Environment of the service, as a run script exports it; the rules may set the same variables for a client.
    #[serde(deserialize_with = "environment")]
    pub environment: Vec<(String, String)>,
    /// Whether AUTH is offered without TLS too.
    pub auth_in_clear: bool,
    /// Whether the trace field of an authenticated client leaves out its address and names.
    pub hide_client: bool,
    /// Whom an authenticated client may name in MAIL.
    pub sender: SenderPolicy,
    /// A checkpassword program with its arguments; none: the users of the virtual domains.
    #[serde(deserialize_with = "checkpassword")]
    pub checkpassword: Vec<String>,
}

/// Whether the names of clients are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReverseDns {
    /// No (tcpserver -H).
    Off,
    /// Yes (tcpserver -h).
    On,
    /// Yes, and a name whose addresses do not hold the client's is no name (tcpserver -p).
    Paranoid,
}

impl ReverseDns {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Paranoid => "paranoid",
        }
    }
}

/// Whom an authenticated client may name in MAIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SenderPolicy {
    /// Anybody, as with qmail.
    Any,
    /// An address whose mail comes to him, or nobody (`<>`).
    Own,
}

impl SenderPolicy {
    /// The word for it, as in `host.ron`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Own => "own",
        }
    }
}

impl Default for Smtpd {
    fn default() -> Self {
        Self {
            listen: vec![default::SMTPD_LISTEN],
            concurrency: None,
            per_ip: default::PER_IP,
            unlimited: default::UNLIMITED.iter().filter_map(|text| text.parse().ok()).collect(),
            recipients: default::RECIPIENTS,
            rules: default::RULES.into(),
            reverse_dns: ReverseDns::Off,
            proxies: Vec::new(),
            rblsmtpd: Vec::new(),
            environment: Vec::new(),
            auth_in_clear: false,
            hide_client: false,
            sender: SenderPolicy::Any,
            checkpassword: Vec::new(),
        }
    }
}

impl Smtpd {
    /// Gives every field with its value as text.
    pub(super) fn settings(&self, add: &mut dyn FnMut(&str, String)) {
        add("listen", joined_texts(&self.listen));
        add(
            "concurrency",
            match self.concurrency {
                Some(number) => number.to_string(),
                None => "control/concurrencyincoming".to_owned(),
            },
        );
        add("per_ip", self.per_ip.to_string());
        add("unlimited", joined_texts(&self.unlimited));
        add("recipients", self.recipients.to_string());
        add("rules", self.rules.display().to_string());
        add("reverse_dns", self.reverse_dns.as_str().to_owned());
        add("proxies", joined_texts(&self.proxies));
        add("rblsmtpd", masked(&self.rblsmtpd.join(" ")));
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        add("environment", environment.collect::<Vec<_>>().join(", "));
        add("auth_in_clear", self.auth_in_clear.to_string());
        add("hide_client", self.hide_client.to_string());
        add("sender", self.sender.as_str().to_owned());
        add("checkpassword", self.checkpassword.join(" "));
    }
}

/// A program that says yes to everybody would make an open relay.
fn checkpassword<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let words = unit::words(input)?;
    match approver(&words) {
        None => Ok(words),
        Some(approver) => Err(serde::de::Error::custom(format!(
            "\"{}\" says yes to every password; allowed: a program that reads it from descriptor 3, such as \
             [\"/bin/checkpassword\", \"true\"], or [] for the users of the virtual domains",
            approver.escape_debug()
        ))),
    }
}

fn environment<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<(String, String)>, D::Error> {
    let environment = unit::ordered::<D, String>(input, |name| {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.as_bytes()[0].is_ascii_digit();
        if fits {
            Ok(())
        } else {
            Err(format!("\"{name}\" is not the name of a variable; allowed: 1 to 64 of A-Z a-z 0-9 _"))
        }
    })?;
    if let Some((name, _)) = environment.iter().find(|(_, value)| value.contains('\0') || value.len() > 4096)
    {
        return Err(serde::de::Error::custom(format!(
            "the value of {name} is not allowed; allowed: up to 4096 bytes without NUL"
        )));
    }
    Ok(environment)
}
