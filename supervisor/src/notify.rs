//! What a service manager hears of the host (sd_notify(3)): systemd, or whatever else gives it `NOTIFY_SOCKET`.
//!
//! A thread of its own talks to the manager, so that one that does not listen holds up nobody. The variables stay in the
//! environment of this process: programs get another one (`mailtree_actors::program`).

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use mailtree_actors::wire::Unanswered;
use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use crate::status::{Phase, Row};
use crate::svscan::Tree;

/// How often the line of status is looked at when there is no watchdog.
const LOOK: Duration = Duration::from_secs(10);

/// How long one question waits for the first starts of all services; it is asked again.
const READY: Duration = Duration::from_secs(60);

/// Messages that may wait for a manager that does not listen; what finds no place is dropped, and comes again.
const WAITING: usize = 16;

/// The manager, if there is one; without one nothing is said.
#[derive(Default)]
pub struct Manager {
    messages: Option<SyncSender<Message>>,
    /// Time between two signs of life, if the manager wants any.
    watchdog: Option<Duration>,
}

enum Message {
    Ready,
    Alive,
    Stopping,
    Status(String),
}

impl Manager {
    /// The one that the environment names.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn from_env() -> io::Result<Self> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self::default());
        }
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::Builder::new().name("notify".to_owned()).spawn(move || pass(&receiver))?;
        // Twice as often as it must be: sd_watchdog_enabled(3).
        let watchdog = sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)));
        Ok(Self { messages: Some(sender), watchdog })
    }

    /// Says when the tree is up, how it is, and that it is alive, until this future is dropped.
    pub async fn follow(&self, tree: &Tree) -> Infallible {
        if self.messages.is_none() {
            return std::future::pending().await;
        }
        let ((), never) = tokio::join!(self.await_ready(tree), self.look_after(tree));
        never
    }

    /// The host has been told to stop.
    pub fn stopping(&self) {
        self.tell(Message::Stopping);
    }

    /// Says that the host is alive until `last` is done: work with a deadline of its own, after the tree has ended.
    pub async fn outlast<T>(&self, last: impl Future<Output = T>) -> T {
        tokio::select! {
            done = last => done,
            never = self.beat() => match never {},
        }
    }

    async fn await_ready(&self, tree: &Tree) {
        let mut answer = tree.ready(READY).await;
        // A journal to replay, or a large queue on a cold disk: each start has a deadline of its own.
        while answer == Err(Unanswered::Late) {
            answer = tree.ready(READY).await;
        }
        if answer.is_ok() {
            self.tell(Message::Ready);
        }
    }

    /// No answer from svscan, no sign of life.
    async fn look_after(&self, tree: &Tree) -> Infallible {
        let mut said = String::new();
        let mut looks = every(self.watchdog.unwrap_or(LOOK));
        loop {
            looks.tick().await;
            let Ok(rows) = tree.rows().await else { continue };
            self.alive();
            let status = status(&rows);
            if status != said {
                self.tell(Message::Status(status.clone()));
                said = status;
            }
        }
    }

    async fn beat(&self) -> Infallible {
        let mut beats = every(self.watchdog.unwrap_or(LOOK));
        loop {
            beats.tick().await;
            self.alive();
        }
    }

    fn alive(&self) {
        if self.watchdog.is_some() {
            self.tell(Message::Alive);
        }
    }

    fn tell(&self, message: Message) {
        // A manager that does not listen learns nothing, and acts on that.
        let told = self.messages.as_ref().map(|messages| messages.try_send(message));
        if let Some(Err(error)) = told {
            tracing::warn!("notify: warning: the service manager does not listen: {error}");
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The thread: ends with the [`Manager`].
fn pass(messages: &Receiver<Message>) {
    let mut heard = true;
    for message in messages {
        let state = match &message {
            Message::Ready => NotifyState::Ready,
            Message::Alive => NotifyState::Watchdog,
            Message::Stopping => NotifyState::Stopping,
            Message::Status(text) => NotifyState::Status(text),
        };
        let sent = sd_notify::notify(&[state]);
        // Once, not at every sign of life.
        if let (Err(error), true) = (&sent, heard) {
            tracing::warn!("notify: warning: unable to tell the service manager: {error}");
        }
        heard = sent.is_ok();
    }
}

/// One line for `systemctl status`.
fn status(rows: &[Row]) -> String {
    let wanted = rows.iter().filter(|row| row.normally_up || row.state == Phase::Up);
    let (up, not_up): (Vec<_>, Vec<_>) = wanted.partition(|row| row.state == Phase::Up);
    let mut line = format!("{} of {} services up", up.len(), up.len() + not_up.len());
    for (nth, row) in not_up.iter().enumerate() {
        line.push_str(if nth == 0 { "; not: " } else { ", " });
        line.push_str(&row.service);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailtree_protocols::policy::{self, Limits};

    #[test]
    fn a_line_of_status() {
        let board = |down| crate::status::Board::new(policy::Service::new(Limits::default(), down));
        let row = |service: &str, state, down| Row { state, ..board(down).row(service, Duration::ZERO) };
        for (rows, expected) in [
            (vec![row("log", Phase::Up, false), row("send", Phase::Up, true)], "2 of 2 services up"),
            (
                vec![
                    row("log", Phase::Up, false),
                    row("queue", Phase::Failed, false),
                    row("send", Phase::Starting, false),
                    row("smtps", Phase::Down, true),
                ],
                "1 of 3 services up; not: queue, send",
            ),
            (vec![], "0 of 0 services up"),
        ] {
            assert_eq!(status(&rows), expected);
        }
    }

    /// A manager that wants a sign of life every 2 ms, and what it is told.
    fn manager() -> (Manager, Receiver<Message>) {
        let (sender, receiver) = sync_channel(WAITING);
        (Manager { messages: Some(sender), watchdog: Some(Duration::from_millis(1)) }, receiver)
    }

    #[tokio::test]
    async fn without_an_answer_from_svscan_there_is_no_sign_of_life() {
        let (manager, told) = manager();
        let nobody = Tree::default();
        let followed = tokio::time::timeout(Duration::from_millis(50), manager.follow(&nobody)).await;
        assert!(followed.is_err());
        assert!(told.try_recv().is_err());
        // Nor is the host ready; what is left to do at the end counts as life.
        let work = tokio::time::sleep(Duration::from_millis(20));
        manager.outlast(work).await;
        assert!(matches!(told.try_recv(), Ok(Message::Alive)));
    }
}
