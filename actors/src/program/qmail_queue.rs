//! Queues a message through a qmail-queue program: what `QMAILQUEUE` names, simscan for one (qmail-queue.8, qmail.c).

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::time::Duration;

use command_fds::FdMapping;
use mailtree_protocols::qmail_queue::{MAX_CUSTOM, envelope, outcome};
use mailtree_protocols::reply::Refusal;

use super::{Environment, Failure, Program, memory};

/// Gives the program the message on descriptor 0, the envelope on 1, and 4 and 6 for a text of its own. `message` is
/// positioned where the message begins; it should be open for reading only, and the program moves the position of
/// every copy of it.
///
/// The exit code alone decides. A program that has read nothing and says 0 has taken the message.
///
/// # Errors
/// The refusal to send. It is logged why, where the program itself cannot have said it.
pub async fn queue(
    program: &Program,
    message: File,
    sender: &[u8],
    recipients: &[Vec<u8>],
    environment: &Environment,
    deadline: Duration,
) -> Result<(), Refusal> {
    let envelope = envelope(sender, recipients)?;
    let failed = |error: io::Error| {
        tracing::warn!("warning: unable to start {}: {error}", program.path().display());
        Refusal::qqt_failure()
    };
    let envelope = memory(&envelope).map_err(failed)?;
    let (six, writer_six) = text_pipe().map_err(failed)?;
    let (four, writer_four) = text_pipe().map_err(failed)?;
    let descriptors = vec![
        FdMapping { parent_fd: message.into(), child_fd: 0 },
        FdMapping { parent_fd: envelope.into(), child_fd: 1 },
        FdMapping { parent_fd: writer_four, child_fd: 4 },
        FdMapping { parent_fd: writer_six, child_fd: 6 },
    ];
    let status = program.run(environment, descriptors, deadline).await.map_err(|failure| {
        tracing::warn!("warning: {failure}");
        match failure {
            Failure::Start { .. } => Refusal::qqt_failure(),
            Failure::Deadline { .. } => Refusal::qq_timeout(),
            Failure::Wait { .. } => Refusal::qq_waitpid(),
        }
    })?;
    let exit = match status.code() {
        // It was not executed: qmail's code for that is 120.
        Some(126 | 127) => Some(120),
        Some(code) => u8::try_from(code).ok(),
        None => None,
    };
    outcome(exit, [&text(six), &text(four)])
}

/// A pipe for a custom text. It is read when the program has ended: what it wrote is in the pipe then, and whoever
/// still holds the other end is not waited for.
fn text_pipe() -> io::Result<(PipeReader, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((reader, writer.into()))
}

/// What is in the pipe now, as far as it may count.
fn text(pipe: PipeReader) -> Vec<u8> {
    let mut text = Vec::new();
    // An empty pipe that somebody holds open says so by an error, with all that came before it in `text`.
    drop(pipe.take(MAX_CUSTOM as u64).read_to_end(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::{Seek, SeekFrom};
    use std::time::Instant;

    use super::*;

    async fn run(script: &str, message: File, to: &[Vec<u8>], environment: &Environment) -> String {
        let program = Program::new("/bin/sh").arguments(["-c", script]);
        match queue(&program, message, b"a@x", to, environment, Duration::from_secs(5)).await {
            Ok(()) => "ok".to_owned(),
            Err(refusal) => format!("{} {}", refusal.code(), refusal.text()),
        }
    }

    #[tokio::test]
    async fn the_program_decides() {
        for (script, said) in [
            ("exit 0", "ok"),
            ("exit 31", "554 mail server permanently rejected message (#5.3.0)"),
            ("exit 71", "451 mail server temporarily rejected message (#4.3.0)"),
            ("exit 111", "451 qq temporary problem (#4.3.0)"),
            ("kill -9 $$", "451 qq crashed (#4.3.0)"),
            ("exec /nonexistent/qmail-queue", "451 unable to exec qq (#4.3.0)"),
            ("printf 'Dspam (#5.7.1)' >&6; exit 82", "554 spam (#5.7.1)"),
            ("echo 'Zgreylisted' >&4; exit 82", "451 greylisted"),
            ("echo 'Zsix' >&6; echo Dfour >&4; exit 82", "451 six"),
            ("exit 82", "451 qq temporary problem (#4.3.0)"),
            ("echo Dspam >&4; exit 0", "ok"),
            ("exec 0<&- 1>&- 4>&- 6>&-; exit 53", "451 qq write error or disk full (#4.3.0)"),
            ("sleep 1000 & echo Dleft >&4; exit 82", "554 left"),
            ("setsid sleep 6 & echo Descaped >&6; exit 82", "554 escaped"),
        ] {
            let begin = Instant::now();
            let message = memory(&vec![b'x'; 1 << 20]).unwrap();
            assert_eq!(run(script, message, &[b"b@y".to_vec()], &[]).await, said, "{script}");
            assert!(begin.elapsed() < Duration::from_secs(4), "{script}");
        }
        let message = memory(b"").unwrap();
        let missing = Program::new("/nonexistent/qmail-queue");
        let refused = queue(&missing, message, b"", &[], &[], Duration::from_secs(5)).await;
        assert_eq!(refused, Err(Refusal::qq_exec()));
    }

    #[tokio::test]
    async fn the_program_reads_message_and_envelope_to_their_ends() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut message = memory(&[&b"skip"[..], &vec![b'x'; 300_000], b"\n"].concat()).unwrap();
        message.seek(SeekFrom::Start(4)).unwrap();
        let to = vec![vec![b'r'; 1000]; 300];
        let environment = [(OsString::from("OUT"), out.clone().into_os_string())];
        let said = run("cat >\"$OUT\" && cat <&1 >>\"$OUT\"", message, &to, &environment).await;
        assert_eq!(said, "ok");
        let expected = [&vec![b'x'; 300_000][..], b"\n", &envelope(b"a@x", &to).unwrap()].concat();
        assert!(std::fs::read(out).unwrap() == expected);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_a_timeout() {
        let program = Program::new("/bin/sleep").arguments(["1000"]);
        let refused = queue(&program, memory(b"").unwrap(), b"", &[], &[], Duration::from_millis(100)).await;
        assert_eq!(refused, Err(Refusal::qq_timeout()));
    }

    #[tokio::test]
    async fn an_address_too_long_runs_nothing() {
        let said = run("exit 0", memory(b"").unwrap(), &[vec![b'a'; 1004]], &[]).await;
        assert_eq!(said, "554 envelope address too long for qq (#5.1.3)");
    }
}
