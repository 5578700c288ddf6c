//! qmail-rspawn: transactions with other hosts, and the table of hosts that do not answer.

mod deliver;
mod exchangers;
mod ipme;
mod shape;

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use mailtree_config::control::Control as Controls;
use mailtree_config::regular;
use mailtree_protocols::tcpto::Tcpto;

use crate::clock::unix_now;
use crate::delivery::Delivery;
use crate::queue::Queue;
use crate::resolver::Resolver;
use crate::spawn::{Kind, Spawn};

/// Larger than any table, in bytes.
const TCPTO_SIZE: u64 = 64 * 1024;

/// What remote deliveries need to know.
#[derive(Clone)]
pub struct Arguments {
    /// The queue.
    pub queue: Queue,
    /// The control files, read for each delivery.
    pub controls: Arc<Controls>,
    /// DNS.
    pub resolver: Resolver,
    /// `queue/lock/tcpto`.
    pub tcpto: PathBuf,
    /// The port of mail exchangers: 25 but for tests and odd networks.
    pub port: u16,
    /// The address that connections come from.
    pub outgoing_ip: Option<IpAddr>,
}

/// The actor.
pub type Rspawn = Spawn<Remote>;

/// Deliveries to other hosts.
pub struct Remote {
    arguments: Arguments,
    tcpto: Mutex<Tcpto>,
}

impl Kind for Remote {
    type Arguments = Arguments;

    fn start(arguments: Arguments) -> BoxFuture<'static, Self> {
        Box::pin(async {
            let path = arguments.tcpto.clone();
            let reading = tokio::task::spawn_blocking(move || {
                let mut bytes = Vec::new();
                // Whatever is there in place of the table is not waited for.
                if let Some(file) = regular::open(&path)? {
                    file.take(TCPTO_SIZE).read_to_end(&mut bytes)?;
                }
                Ok::<_, io::Error>(bytes)
            });
            // A table that cannot be read is an empty one: it only saves time.
            let tcpto = match reading.await.map_err(io::Error::other).flatten() {
                Ok(bytes) => Tcpto::parse(&bytes),
                Err(error) => {
                    tracing::error!("alert: {}: {error}: skipped", arguments.tcpto.display());
                    Tcpto::default()
                }
            };
            Self { arguments, tcpto: Mutex::new(tcpto) }
        })
    }

    fn deliver(self: Arc<Self>, delivery: Delivery) -> BoxFuture<'static, ()> {
        Box::pin(deliver::deliver(self, delivery))
    }
}

impl Remote {
    fn is_down(&self, ip: IpAddr, spread: u64) -> bool {
        self.tcpto.lock().unwrap_or_else(PoisonError::into_inner).is_down(ip, unix_now(), spread)
    }

    /// Connecting to `ip` timed out, or worked; the file follows when that is news.
    async fn note(&self, ip: IpAddr, timed_out: bool) {
        let bytes = {
            let mut tcpto = self.tcpto.lock().unwrap_or_else(PoisonError::into_inner);
            let before = tcpto.clone();
            tcpto.note(ip, timed_out, unix_now());
            (*tcpto != before).then(|| tcpto.to_bytes())
        };
        if let Some(bytes) = bytes
            && let Err(error) = self.write_tcpto(bytes).await
        {
            tracing::warn!("warning: unable to write {}: {error}", self.arguments.tcpto.display());
        }
    }

    async fn write_tcpto(&self, bytes: Vec<u8>) -> io::Result<()> {
        let path = self.arguments.tcpto.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            regular::open_as(&mut options, &path)?.write_all(&bytes)
        });
        writing.await.map_err(io::Error::other)?
    }
}
