//! rspamd: the whole message over HTTP, one connection a message.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
pub use mailtree_protocols::simscan::rspamd::Answer;
use mailtree_protocols::simscan::rspamd::{Envelope, MAX_ANSWER, parse};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::address::{CHUNK, Chunks};
use super::{Address, Message, Trouble};

/// Longest head of an answer that is read, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Longest password, in bytes.
const MAX_PASSWORD: u64 = 1024;

/// Where rspamd is.
#[derive(Debug, Clone)]
pub struct Rspamd {
    /// Where a worker listens that scans.
    pub address: Address,
    /// The file with its password in its first line; a worker `controller` may want one.
    pub password: Option<PathBuf>,
}

impl Rspamd {
    /// Asks about a message. Sets no deadline.
    ///
    /// # Errors
    /// [`Trouble`] whenever rspamd does not say what is to become of it.
    pub async fn ask(&self, message: &Message) -> Result<Answer, Trouble> {
        let chunks = Chunks::open(message).await?;
        let password = self.password().await?;
        let whole = Arc::new(AtomicBool::new(message.size == 0));
        let request = request(message, password, body(chunks, Arc::clone(&whole)))?;
        let stream = TokioIo::new(self.address.connect().await?);
        let handshake = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(stream);
        let (mut sender, connection) = handshake.await.map_err(lost)?;
        let exchange = async move { read(sender.send_request(request).await.map_err(lost)?).await };
        let (mut exchange, connection) = (pin!(exchange), pin!(connection));
        let (status, answer) = tokio::select! {
            answer = &mut exchange => answer,
            // Whatever came is with the exchange now, and nothing else comes.
            _ = connection => exchange.await,
        }?;
        let answer = parse(status, &answer)?;
        // What it says of a message that it has not seen to the end is nothing.
        if whole.load(Ordering::Relaxed) {
            Ok(answer)
        } else {
            Err(Trouble::Lost("answered before the end of the message".to_owned()))
        }
    }

    /// The password, read anew.
    pub(super) async fn password(&self) -> Result<Option<HeaderValue>, Trouble> {
        match &self.password {
            Some(path) => password(path).await.map(Some),
            None => Ok(None),
        }
    }
}

type Body = std::pin::Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = Trouble> + Send>>;

/// The message; `whole` becomes true with its last piece.
fn body(chunks: Chunks, whole: Arc<AtomicBool>) -> Body {
    let pieces = futures_util::stream::try_unfold((chunks, whole), async |(mut chunks, whole)| {
        let mut chunk = vec![0; CHUNK];
        let length = chunks.next(&mut chunk).await?;
        if chunks.is_empty() {
            whole.store(true, Ordering::Relaxed);
        }
        chunk.truncate(length);
        Ok((length > 0).then(|| (Frame::data(Bytes::from(chunk)), (chunks, whole))))
    });
    Box::pin(StreamBody::new(pieces))
}

fn request(message: &Message, password: Option<HeaderValue>, body: Body) -> Result<Request<Body>, Trouble> {
    // Several recipients have no settings in common.
    let deliver_to = message.options.spamuser.as_deref().filter(|_| message.recipients.len() == 1);
    let envelope = Envelope {
        sender: &message.sender,
        recipients: &message.recipients,
        deliver_to,
        ip: message.ip,
        helo: message.helo.as_deref(),
        host: message.host.as_deref(),
        user: message.user.as_deref(),
        qp: message.qp,
    };
    let mut request = Request::post("/checkv2").header(HOST, "rspamd").header(CONTENT_LENGTH, message.size);
    for (name, value) in envelope.fields() {
        request = request.header(name, value);
    }
    if let Some(password) = password {
        request = request.header("Password", password);
    }
    request.body(body).map_err(|error| Trouble::Lost(error.to_string()))
}

async fn password(path: &Path) -> Result<HeaderValue, Trouble> {
    let trouble = |error: &dyn std::fmt::Display| Trouble::Password {
        path: path.display().to_string(),
        error: error.to_string(),
    };
    let file = File::open(path).await.map_err(|error| trouble(&error))?;
    let mut text = Vec::new();
    file.take(MAX_PASSWORD).read_to_end(&mut text).await.map_err(|error| trouble(&error))?;
    let line = text.split(|&b| b == b'\n').next().unwrap_or_default();
    // What is not allowed in it is not shown.
    let mut value = HeaderValue::from_bytes(line.trim_ascii_end())
        .map_err(|_| trouble(&"allowed: one line without control characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn read(response: Response<Incoming>) -> Result<(u16, Bytes), Trouble> {
    let status = response.status().as_u16();
    match Limited::new(response.into_body(), MAX_ANSWER).collect().await {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(Trouble::Long(MAX_ANSWER)),
        Err(error) => Err(Trouble::Lost(error.to_string())),
    }
}

/// The reason behind an error: that of the message itself, if it could not be read.
fn lost(error: hyper::Error) -> Trouble {
    let source = error.source();
    if let Some(trouble) = source.and_then(|source| source.downcast_ref::<Trouble>()) {
        return trouble.clone();
    }
    Trouble::Lost(source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}")))
}
