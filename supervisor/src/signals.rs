//! Signals to the host: TERM and INT stop it in order and, the second time, at once; HUP and ALRM are `svc -h` to all
//! services and `svc -a send`.

use std::io;

use ractor::concurrency::JoinHandle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::notify::Manager;
use crate::svscan::Tree;

/// The signals the host hears, from the moment this exists.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    alrm: Signal,
}

/// How the tree ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// In order, as it was told: exit code 0.
    Stopped,
    /// At once, by a second TERM or INT: exit code 111.
    Killed,
    /// By itself: exit code 111.
    Lost,
}

impl Ending {
    /// The host's exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Killed | Self::Lost => 111,
        }
    }
}

/// What a signal makes of the host's life.
enum Heard {
    Stop,
    Hup,
    Alarm,
    Ended,
}

impl Signals {
    /// From now on these signals do not end the process.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            alrm: signal(SignalKind::alarm())?,
        })
    }

    /// Passes signals on until the tree has ended. `alarm` is the service ALRM is for; `manager` hears of a stop.
    pub async fn pass_on(
        mut self,
        tree: &Tree,
        alarm: &str,
        mut ended: JoinHandle<()>,
        manager: &Manager,
    ) -> Ending {
        let mut ending = Ending::Lost;
        loop {
            let heard = tokio::select! {
                biased;
                _ = &mut ended => Heard::Ended,
                _ = self.term.recv() => Heard::Stop,
                _ = self.int.recv() => Heard::Stop,
                _ = self.hup.recv() => Heard::Hup,
                _ = self.alrm.recv() => Heard::Alarm,
            };
            let told = match heard {
                Heard::Ended => return ending,
                Heard::Hup => tree.hup(),
                Heard::Alarm => tree.alarm(alarm),
                Heard::Stop if ending == Ending::Lost => {
                    ending = Ending::Stopped;
                    manager.stopping();
                    tree.stop()
                }
                Heard::Stop => {
                    ending = Ending::Killed;
                    tree.kill()
                }
            };
            if !told {
                tracing::warn!("svscan: a signal came after its end");
            }
        }
    }
}
