//! The parts of a host that answer questions, without the host: for commands that ask what it would do.

use std::sync::Arc;

use mailtree_actors::pool::Pool;
use mailtree_actors::queue::disk::Disk;
use mailtree_actors::queue::{Queue, Trigger};
use mailtree_actors::resolver::{Arguments, Dns};
use mailtree_config::Host;
use ractor::Actor;

use crate::boot::front::Front;
use crate::failure::{Doing, Failure};

/// Runs `ask` with what the sessions of `host` would have, DNS included. Nothing is accepted, written or delivered.
pub(crate) fn run<T>(host: &Host, ask: impl AsyncFnOnce(&Front) -> Result<T, Failure>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::temporary(format!("unable to start the runtime: {error}")))?;
    let answer = runtime.block_on(async {
        let queue = host.paths().queue;
        let disk = Disk::open(&queue).doing("open", &queue)?;
        let pool = Pool::new("delivery");
        let trigger = Trigger::new(Arc::new(|| ()));
        let messages = Queue::new(Arc::new(disk), trigger, pool.clone(), host.paths().journal_id);
        let front = Front::new(host, messages);
        let mailtree_config::host::Resolver { servers, cache, .. } = host.resolver.clone();
        let arguments = Arguments { resolver: front.resolver.clone(), servers, cache };
        let (dns, running) = Actor::spawn(None, Dns, arguments)
            .await
            .map_err(|error| Failure::temporary(format!("unable to start the resolver: {error}")))?;
        let answer = ask(&front).await;
        dns.stop(None);
        running.abort();
        answer
    });
    runtime.shutdown_background();
    answer
}
