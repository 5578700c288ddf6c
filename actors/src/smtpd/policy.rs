//! What the host decides of a connection before its first byte.

use std::sync::Arc;

use mailtree_config::control::Smtpd;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::Policy;

use crate::tcpserver::Connection;

/// The policy for `connection`: the control files, and for a client on this host RELAYCLIENT.
pub(super) fn policy(controls: &Arc<Smtpd>, connection: &Connection, recipients: usize) -> Policy {
    let relayclient = connection.peer.ip().to_canonical().is_loopback().then(Vec::new);
    let (rcpthosts, badmailfrom) = (Arc::clone(controls), Arc::clone(controls));
    Policy {
        greeting: controls.greeting.clone(),
        databytes: controls.databytes,
        recipients,
        relayclient,
        rcpthosts: Arc::new(move |domain| {
            rcpthosts.rcpthosts.allows(domain).map_err(|error| {
                tracing::error!("alert: unable to read controls: morercpthosts.cdb: {error}");
                Refusal::controls()
            })
        }),
        badmailfrom: Arc::new(move |sender| badmailfrom.badmailfrom.matches(sender)),
        localiphost: Some((connection.local.ip().to_canonical(), controls.localiphost.clone().into_bytes())),
    }
}
