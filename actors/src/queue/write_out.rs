//! Writing messages out: what is still in the journal after some seconds goes into qmail's files.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mailtree_protocols::journal::Record;

use super::crash::{Point, reached};
use super::live::{Backing, Leaving, Stage};
use super::{Error, Queue};
use mailtree_protocols::queue::MessageId;

/// Messages that may live in the journal.
pub(super) const PLACES: usize = 8192;

/// A message that has not ended after this is written out.
const AGE: Duration = Duration::from_secs(5);

/// Messages written out side by side: the disk threads gather them.
const SIDE_BY_SIDE: usize = 256;

impl Queue {
    /// Writes out what has been in the journal long enough, and the oldest while there are too many; whether all could be.
    pub(super) async fn write_out_old(&self) -> bool {
        let age = if self.0.journal_on.load(Ordering::Acquire) { AGE } else { Duration::ZERO };
        self.write_out(age, PLACES / 4 * 3).await
    }

    /// Writes out everything that is only in memory and the journal: for those who look at files.
    pub async fn write_out_all(&self) {
        let queue = self.clone();
        // Copies that are not durable yet would keep their messages here.
        drop(tokio::task::spawn_blocking(move || queue.checkpoint()).await);
        self.write_out(Duration::ZERO, 0).await;
    }

    async fn write_out(&self, age: Duration, keep: usize) -> bool {
        let leaving = self.0.live.leaving(age, keep);
        if leaving.is_empty() {
            return true;
        }
        let (count, started) = (leaving.len(), Instant::now());
        let writing = leaving.into_iter().map(|id| self.write_out_one(id));
        let failed: Vec<Error> = futures_util::stream::iter(writing)
            .buffer_unordered(SIDE_BY_SIDE)
            .filter_map(|result| std::future::ready(result.err()))
            .collect()
            .await;
        if let Some(error) = failed.first() {
            tracing::warn!("warning: unable to write out {} of {count} messages: {error}", failed.len());
        }
        metrics::histogram!("mailtree_queue_write_out_seconds").record(started.elapsed());
        metrics::counter!("mailtree_queue_written_out_messages_total")
            .increment((count - failed.len()) as u64);
        failed.is_empty()
    }

    /// Writes one message out. Goes on when nobody waits any more.
    pub(super) async fn write_out_one(&self, id: MessageId) -> Result<(), Error> {
        let Some(leaving) = self.0.live.leave(id) else { return Ok(()) };
        let writing = Writing { queue: self.clone(), id };
        tokio::spawn(writing.finish(leaving)).await.unwrap_or(Err(Error::Gone))
    }
}

/// A message being written out; dropped early, it stays where it was.
struct Writing {
    queue: Queue,
    id: MessageId,
}

impl Writing {
    async fn finish(self, Leaving { place, backing }: Leaving) -> Result<(), Error> {
        let shared = &self.queue.0;
        self.queue.threads()?.run(place).await?;
        if let Backing::Journal { serial, spare, .. } = backing {
            // Durable before anybody settles or removes in the files: otherwise a replay would bring it back.
            self.queue.note(Record::Written { serial }).await?;
            reached(Point::WrittenOut);
            shared.spares.forget(spare);
        }
        match shared.live.left(self.id) {
            Some(entry) if !entry.routed => shared.trigger.pull_todo(),
            Some(entry) if entry.stage == Stage::Fresh => shared.trigger.pull(),
            _ => (),
        }
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.queue.0.live.stayed(self.id);
        self.queue.0.written.notify_waiters();
    }
}
