//! qmail-lspawn: deliveries on this host.
//!
//! What has the rights of the host's own user and needs Maildirs alone is done here, in the pool of delivery threads, under the
//! share of its file system and a deadline. Everything else goes to a process that has the rights it needs ([`process`]).

mod deliver;
mod drop_rights;
pub(crate) mod fork;
mod packet;
pub mod process;
mod queue_rights;
mod settings;
mod spawner;
mod turns;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::delivery::Delivery;
use crate::pool::{Mounts, Pool};
use crate::qmail_local::QmailLocal;
use crate::queue::Queue;
use crate::spawn::{Kind, Spawn};
pub use fork::close_on_exec;
pub use queue_rights::QueueRights;
pub use settings::Settings;
pub use spawner::{NAME, Spawner};
use turns::Turns;

/// What local deliveries need to know.
#[derive(Clone)]
pub struct Arguments {
    /// The queue.
    pub queue: Queue,
    /// Threads for users' file systems.
    pub pool: Pool,
    /// Who has which mailbox.
    pub local: QmailLocal,
    /// What delivers with the rights of users.
    pub spawner: Spawner,
}

/// The actor.
pub type Lspawn = Spawn<Local>;

/// Deliveries on this host.
pub struct Local {
    arguments: Arguments,
    mounts: Mounts,
    turns: Turns,
}

impl Kind for Local {
    type Arguments = Arguments;

    fn start(arguments: Arguments) -> BoxFuture<'static, Self> {
        Box::pin(std::future::ready(Self { arguments, mounts: Mounts::default(), turns: Turns::default() }))
    }

    fn deliver(self: Arc<Self>, delivery: Delivery) -> BoxFuture<'static, ()> {
        Box::pin(deliver::deliver(self, delivery))
    }
}
