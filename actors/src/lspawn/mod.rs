//! qmail-lspawn: deliveries on this host.
//!
//! What touches a user's files runs in the pool of delivery threads, under the share of their file system and a deadline.

mod deliver;
mod plan;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::delivery::Delivery;
use crate::pool::{Mounts, Pool};
use crate::queue::Queue;
use crate::spawn::{Kind, Spawn};
use crate::vpopmail::Vpopmail;

/// What local deliveries need to know.
#[derive(Clone)]
pub struct Arguments {
    /// The queue.
    pub queue: Queue,
    /// Threads for users' file systems.
    pub pool: Pool,
    /// The domains' users.
    pub vpopmail: Vpopmail,
    /// Home of user alias.
    pub alias: PathBuf,
    /// What an empty `.qmail` file means, relative to the home directory.
    pub defaultdelivery: String,
    /// Name of this host, for file names.
    pub me: String,
}

/// The actor.
pub type Lspawn = Spawn<Local>;

/// Deliveries on this host.
pub struct Local {
    arguments: Arguments,
    mounts: Mounts,
}

impl Kind for Local {
    type Arguments = Arguments;

    fn start(arguments: Arguments) -> BoxFuture<'static, Self> {
        Box::pin(std::future::ready(Self { arguments, mounts: Mounts::default() }))
    }

    fn deliver(self: Arc<Self>, delivery: Delivery) -> BoxFuture<'static, ()> {
        Box::pin(deliver::deliver(self, delivery))
    }
}
