//! What the dialogue of a client is to be, from the control files and its environment.

use mailtree_config::control;
use mailtree_protocols::auth::smtpauth::SmtpAuth;
use mailtree_protocols::smtp::server::Policy;

use super::Smtpd;
use super::client::Client;
use super::message::QmailQueue;
use crate::clock::unix_now;

/// The policy for `client`, whose session has the number `pid`.
pub(super) fn policy(
    smtpd: &Smtpd,
    controls: &control::Smtpd,
    client: &Client,
    secured: bool,
    pid: u64,
) -> Policy {
    Policy {
        greeting: controls.greeting.clone(),
        databytes: size_limit(smtpd, controls, client),
        recipients: smtpd.recipients,
        brtlimit: brtlimit(controls, client),
        localiphost: Some((client.local.ip().to_canonical(), controls.localiphost.clone().into_bytes())),
        starttls: !secured && !client.is_set("DISABLETLS") && smtpd.tls.current().is_some(),
        secured,
        tls_required: client.is_set("FORCETLS"),
        auth: auth(client),
        auth_in_clear: smtpd.auth_in_clear,
        unique: format!("{pid}.{}@{}", unix_now(), controls.me),
    }
}

/// `databytes` or DATABYTES, or less where simscan must look at every message and cannot look at a larger one. Rules that
/// cannot be read are found bad by the message.
fn size_limit(smtpd: &Smtpd, controls: &control::Smtpd, client: &Client) -> u64 {
    let databytes = databytes(controls, client);
    let scanned = QmailQueue::of(client.variables.get("QMAILQUEUE")) == QmailQueue::Simscan;
    if !scanned || smtpd.simscan.fail_open {
        return databytes;
    }
    smtpd
        .control
        .simcontrol()
        .map_or(databytes, |rules| rules.size_limit(databytes, smtpd.simscan.mime_limit))
}

/// `databytes` or DATABYTES; 0: no limit.
pub(super) fn databytes(controls: &control::Smtpd, client: &Client) -> u64 {
    client.number("DATABYTES").unwrap_or(controls.databytes)
}

fn brtlimit(controls: &control::Smtpd, client: &Client) -> u32 {
    let limit = client.number("BRTLIMIT").unwrap_or(controls.brtlimit);
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// SMTPAUTH; unset, or not one of its forms: no AUTH.
fn auth(client: &Client) -> Option<SmtpAuth> {
    let value = client.variables.get("SMTPAUTH")?;
    match SmtpAuth::parse(value) {
        Ok(auth) => auth.capability().is_some().then_some(auth),
        Err(error) => {
            tracing::error!("alert: {error}");
            // Whoever asked for authentication must not get a service without.
            Some(SmtpAuth { required: true, ..SmtpAuth::OFF })
        }
    }
}
