//! Whether a scanner answers at all, for the administrator.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Address, Rspamd, Settings, SpamScanner, Trouble, in_time};

/// For all of a probe.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest answer to a ping, in bytes.
const MAX_PONG: usize = 4096;

impl Settings {
    /// Pings clamd.
    ///
    /// # Errors
    /// [`Trouble`] when it does not answer.
    pub async fn probe_clamd(&self) -> Result<(), Trouble> {
        in_time(DEADLINE, ping(&self.clamd, b"zPING\0")).await
    }

    /// Pings who is asked for spam.
    ///
    /// # Errors
    /// [`Trouble`] when it does not answer, or the file of its password cannot be read.
    pub async fn probe_spam(&self) -> Result<(), Trouble> {
        match &self.spam {
            SpamScanner::Spamd(address) => in_time(DEADLINE, ping(address, b"PING SPAMC/1.2\r\n\r\n")).await,
            SpamScanner::Rspamd(rspamd) => in_time(DEADLINE, ping_rspamd(rspamd)).await,
        }
    }
}

async fn ping_rspamd(rspamd: &Rspamd) -> Result<(), Trouble> {
    rspamd.password().await?;
    ping(&rspamd.address, b"GET /ping HTTP/1.0\r\n\r\n").await
}

async fn ping(address: &Address, request: &[u8]) -> Result<(), Trouble> {
    let mut stream = address.connect().await?;
    stream.write_all(request).await.map_err(Trouble::lost)?;
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).to_ascii_lowercase().contains("pong") {
        if answer.len() > MAX_PONG {
            return Err(Trouble::Long(MAX_PONG));
        }
        if stream.read_buf(&mut answer).await.map_err(Trouble::lost)? == 0 {
            return Err(Trouble::Lost("closed without an answer".to_owned()));
        }
    }
    Ok(())
}
