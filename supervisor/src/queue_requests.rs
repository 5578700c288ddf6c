//! What `mailtree queue` asks of the running host.

use std::sync::Arc;
use std::time::Duration;

use mailtree_actors::qmail_send::{Message, Status};
use mailtree_actors::queue::Queue as Messages;
use mailtree_actors::wire::{Unanswered, Wire};
use mailtree_protocols::queue::MessageId;
use serde::{Deserialize, Serialize};

use crate::control::Queue;

/// qmail-send answers at once; this only bounds a fault.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request about the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum QueueRequest {
    /// Take a message out, without a bounce.
    Remove {
        /// Its number.
        id: u64,
    },
    /// Try a message, or all, now.
    Retry {
        /// Its number; all if none.
        id: Option<u64>,
    },
    /// What qmail-send is doing.
    Status {},
    /// Write all messages into files, for those who look at files.
    Flush {},
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueReply {
    /// So many messages were concerned.
    Count(usize),
    /// To [`QueueRequest::Status`].
    Status(serde_json::Value),
    /// qmail-send is down or does not answer.
    Error(String),
}

/// Answers with the help of the qmail-send behind `send`.
pub(crate) fn answer_with(send: Wire<Message>, messages: Messages) -> Queue {
    Arc::new(move |request| {
        let (send, messages) = (send.clone(), messages.clone());
        Box::pin(async move {
            let reply = match serde_json::from_value(request) {
                Ok(request) => ask(&send, &messages, request)
                    .await
                    .unwrap_or_else(|why| QueueReply::Error(why.to_string())),
                Err(error) => QueueReply::Error(error.to_string()),
            };
            serde_json::to_value(reply).unwrap_or_default()
        })
    })
}

async fn ask(
    send: &Wire<Message>,
    messages: &Messages,
    request: QueueRequest,
) -> Result<QueueReply, Unanswered> {
    Ok(match request {
        QueueRequest::Remove { id } => {
            match send.call(|reply| Message::Remove { id: MessageId(id), reply }, PATIENCE).await? {
                Ok(found) => QueueReply::Count(usize::from(found)),
                Err(cause) => QueueReply::Error(format!("unable to remove message {id}: {cause}")),
            }
        }
        QueueRequest::Retry { id } => {
            let id = id.map(MessageId);
            QueueReply::Count(send.call(|reply| Message::Retry { id, reply }, PATIENCE).await?)
        }
        QueueRequest::Status {} => {
            let status: Status = send.call(Message::Status, PATIENCE).await?;
            QueueReply::Status(serde_json::to_value(status).unwrap_or_default())
        }
        QueueRequest::Flush {} => {
            // Whatever is not written out in time is told as it was.
            drop(tokio::time::timeout(PATIENCE, messages.write_out_all()).await);
            match messages.only_in_journal() {
                Some(0) => QueueReply::Count(0),
                Some(left) => {
                    QueueReply::Error(format!("{left} messages could not be written out of the journal"))
                }
                None => QueueReply::Error("the service queue has not started".to_owned()),
            }
        }
    })
}
