//! The process group of one run: nothing of it outlives its owner.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::Child;
use tokio::signal::unix::{self, SignalKind};

use super::output::Output;

/// A child that leads its group.
///
/// The number of the group is ours as long as the child is not reaped, so the group is always killed before that: a
/// number in use by somebody else never gets a signal.
pub(super) struct Group {
    child: Child,
    leader: Pid,
    sigchld: unix::Signal,
}

impl Group {
    /// Starts the command. The descriptors it holds are closed on this side.
    pub(super) fn spawn(mut command: Command) -> io::Result<Self> {
        let sigchld = unix::signal(SignalKind::child())?;
        command.process_group(0);
        let mut command = tokio::process::Command::from(command);
        // Drop leaves the killed child to tokio, which reaps it.
        let child = command.kill_on_drop(true).spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let leader = leader.ok_or_else(|| io::Error::other("child without a process number"))?;
        Ok(Self { child, leader, sigchld })
    }

    /// The number of the child and of the group.
    pub(super) const fn leader(&self) -> Pid {
        self.leader
    }

    /// Logs the output until the child has ended: false if it has not within `limit`.
    pub(super) async fn ended(&mut self, output: &mut Output, limit: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.zombie() => true,
            () = tokio::time::sleep(limit) => false,
            never = output.read() => match never {},
        }
    }

    /// Waits until the child has ended and does not reap it.
    async fn zombie(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while let Ok(None) = waitid(WaitId::Pid(self.leader), options) {
            if self.sigchld.recv().await.is_none() {
                return;
            }
        }
    }

    /// Signals every process of the group, unless the child is reaped.
    pub(super) fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            // It can only fail when nobody is left.
            kill_process_group(self.leader, signal).ok();
        }
    }

    /// Kills what is left of the group, then reaps the child.
    pub(super) async fn end(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        tokio::time::timeout(limit, self.child.wait()).await?
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
