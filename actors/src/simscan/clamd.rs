//! clamd: the whole message over `INSTREAM`, one connection a message.

pub use mailtree_protocols::simscan::clamd::Answer;
use mailtree_protocols::simscan::clamd::{MAX_ANSWER, parse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::address::{CHUNK, Chunks, Connection};
use super::{Address, Message, Trouble};

/// Asks about a message. Sets no deadline.
///
/// # Errors
/// [`Trouble`] whenever clamd does not say that it is clean or has a virus.
pub async fn ask(address: &Address, message: &Message) -> Result<Answer, Trouble> {
    let mut chunks = Chunks::open(message).await?;
    let mut stream = address.connect().await?;
    let sent = send(&mut *stream, &mut chunks).await;
    if let Err(trouble @ Trouble::Message(_)) = sent {
        return Err(trouble);
    }
    // clamd answers and closes in the middle of a message that is too long for it: its answer says more than the error.
    match answer(&mut *stream).await {
        // Clean is only what it has seen to the end.
        Ok(answer) if !answer.is_empty() => match parse(&answer)? {
            Answer::Clean => sent.map(|()| Answer::Clean),
            virus => Ok(virus),
        },
        Ok(_) => sent.and(Err(Trouble::Lost("closed without an answer".to_owned()))),
        Err(trouble) => Err(sent.err().unwrap_or(trouble)),
    }
}

async fn send(stream: &mut dyn Connection, chunks: &mut Chunks) -> Result<(), Trouble> {
    stream.write_all(b"zINSTREAM\0").await.map_err(Trouble::lost)?;
    // Each chunk behind its length, 4 bytes, big-endian; the end is a chunk of length 0.
    let mut chunk = vec![0; 4 + CHUNK];
    loop {
        let length = chunks.next(&mut chunk[4..]).await?;
        chunk[..4].copy_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
        stream.write_all(&chunk[..4 + length]).await.map_err(Trouble::lost)?;
        if length == 0 {
            return stream.flush().await.map_err(Trouble::lost);
        }
    }
}

/// Up to its NUL, or the end of the connection.
async fn answer(stream: &mut dyn Connection) -> Result<Vec<u8>, Trouble> {
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while answer.len() <= MAX_ANSWER {
        let read = stream.read(&mut buffer).await.map_err(Trouble::lost)?;
        answer.extend_from_slice(&buffer[..read]);
        if read == 0 || buffer[..read].contains(&0) {
            return Ok(answer);
        }
    }
    Err(Trouble::Long(MAX_ANSWER))
}
