//! Runs a plugin of qmail-spp: nothing on descriptor 0, its words on 1 (qmail-spp.sourceforge.net/doc).

use std::io;
use std::time::Duration;

use command_fds::FdMapping;
use mailtree_protocols::spp::output::MAX_OUTPUT;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::{Environment, Failure, Program};

/// Why what a plugin says does not count.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It has no exit status.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// No pipe for its words.
    #[error("no pipe: {0}")]
    Pipe(io::Error),
    /// Exit code 120, 126 or 127.
    #[error("can't execute")]
    NotExecuted,
    /// A signal ended it.
    #[error("crashed")]
    Crashed,
    /// It was ended: it said more than [`MAX_OUTPUT`].
    #[error("more than {MAX_OUTPUT} bytes of output")]
    Flood,
}

/// Runs the plugin and gives what it has said. Any other exit code is as good as 0, as in qmail-spp.
///
/// # Errors
/// [`Trouble`]. Everything it has started is dead then.
pub async fn ask(
    plugin: &Program,
    environment: &Environment,
    deadline: Duration,
) -> Result<Vec<u8>, Trouble> {
    let (reader, writer) = io::pipe().map_err(Trouble::Pipe)?;
    let mut reader = Receiver::from_owned_fd(reader.into()).map_err(Trouble::Pipe)?;
    let descriptors = vec![FdMapping { parent_fd: writer.into(), child_fd: 1 }];
    let mut said = Vec::new();
    let status = {
        let mut run = std::pin::pin!(plugin.run(environment, descriptors, deadline));
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                status = &mut run => break status?,
                read = reader.read_buf(&mut said), if open => open = read.is_ok_and(|read| read > 0),
            }
            // The run is dropped, and with it all that it has started.
            if said.len() > MAX_OUTPUT {
                return Err(Trouble::Flood);
            }
        }
    };
    // What is in the pipe now; whoever still holds the other end is not waited for.
    let mut rest = [0; 4096];
    while let Ok(read @ 1..) = rustix::io::read(&reader, &mut rest) {
        said.extend_from_slice(&rest[..read]);
        if said.len() > MAX_OUTPUT {
            return Err(Trouble::Flood);
        }
    }
    match status.code() {
        Some(120 | 126 | 127) => Err(Trouble::NotExecuted),
        Some(_) => Ok(said),
        None => Err(Trouble::Crashed),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::time::Instant;

    use super::*;

    async fn said(script: &str) -> Result<String, String> {
        let plugin = Program::new("/bin/sh").arguments(["-c", script]);
        let environment = [(OsString::from("SMTPHELOHOST"), OsString::from("client.test"))];
        let said = ask(&plugin, &environment, Duration::from_millis(1500)).await;
        said.map(|text| String::from_utf8(text).unwrap()).map_err(|trouble| trouble.to_string())
    }

    #[tokio::test]
    async fn the_words_of_a_plugin() {
        let begin = Instant::now();
        for (script, words) in [
            ("echo N", Ok("N\n")),
            ("printf 'HX: %s' $SMTPHELOHOST", Ok("HX: client.test")),
            ("echo log >&2; exit 1", Ok("")),
            ("read line && echo E550 stdin; echo N", Ok("N\n")),
            ("exec >&-; sleep 0.1", Ok("")),
            ("setsid sleep 3 & echo left", Ok("left\n")),
            ("exit 120", Err("can't execute")),
            ("exec /nonexistent/plugin", Err("can't execute")),
            ("echo A; kill -9 $$", Err("crashed")),
            ("exec yes", Err("more than 16384 bytes of output")),
            ("head -c 16385 /dev/zero", Err("more than 16384 bytes of output")),
            ("echo A; exec sleep 1000", Err("/bin/sh did not end within 1.5s")),
        ] {
            assert_eq!(said(script).await, words.map(str::to_owned).map_err(str::to_owned), "{script}");
        }
        assert!(begin.elapsed() < Duration::from_secs(6));
    }
}
