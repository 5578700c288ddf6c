//! Tells the sender of a message who did not get it.

use jiff::Timestamp;
use mailtree_protocols::bounce::{Bounce, From};
use mailtree_protocols::queue::MessageId;
use mailtree_protocols::received::Invoker;

use crate::queue::{Alongside, Queue};

/// Puts the bounce of message `id` into the queue. The number of that queueing; none for a triple bounce.
pub(super) async fn inject(
    queue: &Queue,
    from: &From,
    id: MessageId,
    sender: &[u8],
) -> Result<Option<u64>, String> {
    let looking = queue.clone();
    let looking = tokio::task::spawn_blocking(move || Ok((looking.bounce(id)?, looking.body(id)?)));
    let looked: std::io::Result<_> = looking.await.map_err(|error| error.to_string())?;
    let (paragraphs, body) = looked.map_err(|error| error.to_string())?;
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
    let (mut at, mut chunk) = (0, Vec::new());
    let mut last = b'\n';
    loop {
        chunk = body.next_chunk(at, chunk).await.map_err(|error| error.to_string())?;
        let Some(byte) = chunk.last() else { break };
        last = *byte;
        at += chunk.len() as u64;
        reception.write(&chunk).await.map_err(|error| error.to_string())?;
    }
    if last != b'\n' {
        // SMTP could not carry the bounce.
        reception.write(b"\n").await.map_err(|error| error.to_string())?;
    }
    let parent = Some(Alongside::Bounce(id));
    let commit = reception.commit_with(reverse.to_vec(), vec![to.to_vec()], parent);
    let accepted = commit.await.map_err(|error| error.to_string())?;
    queue.bounced(id, accepted.qp);
    metrics::counter!("mailtree_bounces_total", "kind" => kind).increment(1);
    Ok(Some(accepted.qp))
}
