//! What the tree is told of a service: its name, how to start it, how long it may take to start and to stop.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mailtree_actors::service::{StartError, Started};
use ractor::ActorCell;

/// Starts a service linked to the `supervise` it is given. A closure, because an actor's arguments are consumed:
/// each start makes them anew.
pub type Start = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<Started, StartError>> + Send + Sync>;

/// What is wrong with the files that a service reads; `svstat` shows it.
pub type Troubles = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// One service of the tree.
#[derive(Clone)]
pub struct ServiceSpec {
    /// Name for `svc`, `svstat`, log and metrics.
    pub name: String,
    /// Starts it.
    pub start: Start,
    /// Time between a polite stop and the kill.
    pub grace: Duration,
    /// A start that takes longer has failed.
    pub start_timeout: Duration,
    /// daemontools' `down` file: it waits for `svc -u`.
    pub normally_down: bool,
    /// What is wrong with what it reads. Asked for at each look: answers from memory.
    pub troubles: Troubles,
}

impl ServiceSpec {
    /// No trouble ever.
    pub fn untroubled() -> Troubles {
        Arc::new(Vec::new)
    }
}

/// Services a host may have without naming them in `host.ron`, or names by custom: what is known of a host that is
/// down or whose configuration cannot be read.
pub const STANDARD: [&str; 15] = [
    "log",
    "metrics",
    "resolver",
    "limiter",
    "queue",
    "inject",
    "scanner",
    "users",
    "send",
    "smtpd",
    "submission",
    "smtps",
    "pop3d",
    "pop3ds",
    "control",
];

/// Whether the host of `home` has a service of this name when it runs, as far as can be told.
pub fn is_known(home: &std::path::Path, name: &str) -> bool {
    STANDARD.contains(&name)
        || mailtree_config::host::Host::load(home)
            .is_ok_and(|host| host.services.iter().any(|(service, _)| service == name))
}
