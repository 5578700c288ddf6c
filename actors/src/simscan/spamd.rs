//! spamd: the whole message over SPAMC, one connection a message.

use mailtree_protocols::simscan::opinion::{Action, Opinion};
use mailtree_protocols::simscan::spamc::{Head, MAX_HEAD, fields, head_end, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::address::{CHUNK, Chunks, Connection};
use super::{Address, Message, Trouble};

/// Longest header in an answer: that of the message, which is below 250 000 bytes, and what SpamAssassin adds.
const MAX_HEADER: usize = 512 * 1024;

/// Asks about a message: what is said of it, and the fields for its header, lines ended by LF. Sets no deadline.
///
/// # Errors
/// [`Trouble`] whenever spamd gives no score.
pub async fn ask(address: &Address, message: &Message) -> Result<(Opinion, Vec<u8>), Trouble> {
    let mut chunks = Chunks::open(message).await?;
    let mut stream = address.connect().await?;
    // Several recipients have no preferences in common.
    let user = message.options.spamuser.as_deref().filter(|_| message.recipients.len() == 1);
    stream.write_all(request(message.size, user).as_bytes()).await.map_err(Trouble::lost)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match chunks.next(&mut chunk).await? {
            0 => break,
            length => stream.write_all(&chunk[..length]).await.map_err(Trouble::lost)?,
        }
    }
    stream.shutdown().await.map_err(Trouble::lost)?;

    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = head_end(&answer) {
            break end;
        }
        if answer.len() > MAX_HEAD {
            return Err(Trouble::Long(MAX_HEAD));
        }
        if read(&mut *stream, &mut answer).await? == 0 {
            // An error may come without an empty line.
            break answer.len();
        }
    };
    let Head { spam, score, length } = Head::parse(&answer[..end])?;
    let mut header = answer.split_off(end);
    if length.is_some_and(|length| length > MAX_HEADER) {
        return Err(Trouble::Long(MAX_HEADER));
    }
    while length.is_none_or(|length| header.len() < length) {
        if header.len() > MAX_HEADER {
            return Err(Trouble::Long(MAX_HEADER));
        }
        if read(&mut *stream, &mut header).await? == 0 {
            match length {
                Some(_) => return Err(Trouble::Lost("closed within an answer".to_owned())),
                None => break,
            }
        }
    }
    let action = if spam { Action::Reject } else { Action::Pass };
    Ok((Opinion { score, action, text: None }, fields(&header)))
}

async fn read(stream: &mut dyn Connection, into: &mut Vec<u8>) -> Result<usize, Trouble> {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.map_err(Trouble::lost)?;
    into.extend_from_slice(&buffer[..read]);
    Ok(read)
}
