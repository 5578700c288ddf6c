//! Asks a checkpassword program, vchkpw for one, whether a password is right (cr.yp.to/checkpwd/interface.html).

use std::io::{self, Write};
use std::time::Duration;

use command_fds::FdMapping;
use mailtree_protocols::auth::checkpassword::{Answer, answer};
use zeroize::Zeroizing;

use super::{Environment, Program};

/// Runs the program with the credentials on descriptor 3. Its arguments are part of `program`: vchkpw's is the program
/// to become, `/bin/true`.
pub async fn check(
    program: &Program,
    credentials: Zeroizing<Vec<u8>>,
    environment: &Environment,
    deadline: Duration,
) -> Answer {
    let descriptor = match pipe(credentials) {
        Ok(parent_fd) => FdMapping { parent_fd, child_fd: 3 },
        Err(error) => {
            tracing::warn!("warning: unable to start {}: {error}", program.path().display());
            return Answer::Temporary;
        }
    };
    match program.run(environment, vec![descriptor], deadline).await {
        // The shell that sets the limits could not execute it.
        Ok(status) if matches!(status.code(), Some(126 | 127)) => Answer::Temporary,
        Ok(status) => answer(status.code()),
        Err(failure) => {
            tracing::warn!("warning: {failure}");
            Answer::Temporary
        }
    }
}

/// The reading end of a pipe that holds the credentials, at most the 512 bytes of the interface, and then ends. Every
/// pipe has room for them, so nobody has to read while they are written.
fn pipe(credentials: Zeroizing<Vec<u8>>) -> io::Result<std::os::fd::OwnedFd> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(&credentials)?;
    Ok(reader.into())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    async fn said(script: &str) -> Answer {
        let program = Program::new("/bin/sh").arguments(["-c", script, "checkpassword", "/bin/true"]);
        let credentials = Zeroizing::new(b"joe@x.test\0se cret\0<1.2@x>\0".to_vec());
        let environment = [(OsString::from("TCPREMOTEIP"), OsString::from("192.0.2.1"))];
        check(&program, credentials, &environment, Duration::from_millis(1500)).await
    }

    #[tokio::test]
    async fn the_exit_code_is_the_verdict() {
        let compares = r#"test "$(tr '\0' '|' <&3)" = 'joe@x.test|se cret|<1.2@x>|' || exit 1
            test "$TCPREMOTEIP" = 192.0.2.1 || exit 111
            exec "$@""#;
        for (script, verdict) in [
            (compares, Answer::Accepted),
            (r#"test "$(cat <&3)" = 'joe@x.test|secret|' || exit 1"#, Answer::Rejected),
            ("exit 0", Answer::Accepted),
            ("exit 1", Answer::Rejected),
            ("exit 3", Answer::Rejected),
            ("exit 20", Answer::Rejected),
            ("exit 2", Answer::Temporary),
            ("exit 100", Answer::Temporary),
            ("exit 111", Answer::Temporary),
            ("kill -9 $$", Answer::Temporary),
            ("exec /nonexistent", Answer::Temporary),
            ("exec sleep 1000", Answer::Temporary),
        ] {
            assert_eq!(said(script).await, verdict, "{script}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_rejects_nobody() {
        for program in [
            Program::new("/nonexistent/vchkpw"),
            Program::new("no-such-vchkpw"),
            Program::new("/etc/passwd"),
            Program::new("/bin/true").directory("/nonexistent"),
            Program::new("/bin/true").arguments(["\0"]),
        ] {
            let credentials = Zeroizing::new(b"a\0b\0c\0".to_vec());
            let verdict = check(&program, credentials, &[], Duration::from_secs(5)).await;
            assert_eq!(verdict, Answer::Temporary, "{program:?}");
        }
    }
}
