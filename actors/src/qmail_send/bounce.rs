//! Tells the sender of a message who did not get it.

use std::sync::Arc;

use jiff::Timestamp;
use mailtree_protocols::bounce::{Bounce, From};
use mailtree_protocols::queue::MessageId;
use mailtree_protocols::received::Invoker;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use crate::queue::Queue;

/// Bytes of the failed message that are read at once.
const CHUNK: usize = 64 * 1024;

/// Puts the bounce of message `id` into the queue. The number of that queueing; none for a triple bounce.
pub(super) async fn inject(
    queue: &Queue,
    from: &From,
    id: MessageId,
    sender: &[u8],
) -> Result<Option<u64>, String> {
    let disk = Arc::clone(queue.disk());
    let paragraphs = tokio::task::spawn_blocking(move || disk.bounce(id))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let bounce = Bounce::of(sender, from);
    let kind = match &bounce {
        Bounce::Single { .. } => "single",
        Bounce::Double { .. } => "double",
        Bounce::Triple => "triple",
    };
    let Some((reverse, to)) = bounce.envelope() else {
        metrics::counter!("mailtree_bounces_total", "kind" => kind).increment(1);
        return Ok(None);
    };
    let paragraphs = paragraphs.ok_or_else(|| format!("bounce/{id} is gone"))?;
    let mut reception = queue.open(Invoker::Bounce).await.map_err(|refused| refused.to_string())?;
    let head = bounce.head(from, Timestamp::now(), sender, &paragraphs);
    reception.write(&head).await.map_err(|error| error.to_string())?;
    let mut mess = File::open(queue.disk().mess(id)).await.map_err(|error| error.to_string())?;
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut last = b'\n';
    while mess.read_buf(&mut chunk).await.map_err(|error| error.to_string())? > 0 {
        reception.write(&chunk).await.map_err(|error| error.to_string())?;
        last = *chunk.last().unwrap_or(&last);
        chunk.clear();
    }
    if last != b'\n' {
        // SMTP could not carry the bounce.
        reception.write(b"\n").await.map_err(|error| error.to_string())?;
    }
    let commit = reception.commit(reverse.to_vec(), vec![to.to_vec()]);
    let accepted = commit.await.map_err(|error| error.to_string())?;
    metrics::counter!("mailtree_bounces_total", "kind" => kind).increment(1);
    Ok(Some(accepted.qp))
}
