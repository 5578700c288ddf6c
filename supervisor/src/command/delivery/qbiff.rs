//! `qbiff`: tells a user of new mail on the terminals where he has allowed it (`biff y`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitCode;

use mailtree_config::regular;
use mailtree_protocols::inject::fields::{header_len, subject};
use mailtree_protocols::utmp;
use rustix::fs::OFlags;

use super::copy_input;

/// Bytes of a message that are looked at.
const MAX_LOOKED_AT: usize = 64 * 1024;

/// Characters of the message that are shown.
const SHOWN: usize = 78;

/// Bytes of the file of who is logged in.
const MAX_UTMP: u64 = 16 * 1024 * 1024;

/// Never fails: mail is more than that somebody knows of it.
pub(in super::super) fn run(_: &Path, _: &[OsString]) -> ExitCode {
    let mut message = Vec::new();
    let read = copy_input(|bytes| {
        let room = MAX_LOOKED_AT - message.len();
        message.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    });
    if read.is_ok()
        && let (Ok(user), Ok(sender), Ok(local)) =
            (super::variable("USER"), super::variable("SENDER"), super::variable("LOCAL"))
    {
        tell(Path::new("/var/run/utmp"), Path::new("/dev"), &user, &said(&sender, &local, &message));
    }
    ExitCode::SUCCESS
}

/// What is said about a message.
fn said(sender: &[u8], local: &[u8], message: &[u8]) -> Vec<u8> {
    let only = |text: &[u8], other: u8| -> Vec<u8> {
        text.iter().map(|byte| if (32..=126).contains(byte) { *byte } else { other }).collect()
    };
    let tofrom = only(&[b"*** TO <", local, b"> FROM <", sender, b">"].concat(), b'_');
    let (header, body) = message.split_at(header_len(message));
    let mut text = [b"    ", subject(header).unwrap_or_default(), body].concat();
    text.truncate(SHOWN);
    [b"\r\n\x07", &*tofrom, b"\r\n", &*only(&text, b'/'), b"\r\n"].concat()
}

/// Writes it to the user's terminals beneath `dev`, if they are this process's user's, and he wants it. A terminal that takes
/// nothing now is not waited for.
fn tell(file: &Path, dev: &Path, user: &[u8], text: &[u8]) {
    let Ok(Some(utmp)) = regular::read(file, MAX_UTMP) else { return };
    let own = rustix::process::getuid().as_raw();
    for line in utmp::terminals(&utmp, user) {
        let flags = (OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let path = dev.join(OsStr::from_bytes(line));
        let Ok(mut terminal) = File::options().append(true).custom_flags(flags).open(path) else { continue };
        let wants = terminal.metadata().is_ok_and(|meta| meta.mode() & 0o100 != 0 && meta.uid() == own);
        if wants {
            terminal.write_all(text).unwrap_or(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_said() {
        let text = |message: &str| String::from_utf8(said(b"a\n@x", b"joe", message.as_bytes())).unwrap();
        assert_eq!(
            text("X: y\nSubject: hello\n\nbody\x1b[1m\n"),
            "\r\n\x07*** TO <joe> FROM <a_@x>\r\n     hello//body/[1m/\r\n"
        );
        assert_eq!(text(""), "\r\n\x07*** TO <joe> FROM <a_@x>\r\n    \r\n");
        assert_eq!(text(&format!("\n{}", "b".repeat(200))).lines().last().unwrap().len(), 78);
    }

    #[test]
    fn only_terminals_that_want_it_are_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pts")).unwrap();
        let mut entries = Vec::new();
        for (line, mode) in [("pts/1", 0o700), ("pts/2", 0o600), ("tty1", 0o755)] {
            fs::write(dir.path().join(line), "").unwrap();
            fs::set_permissions(dir.path().join(line), Permissions::from_mode(mode)).unwrap();
            let mut entry = vec![0; utmp::ENTRY];
            entry[..2].copy_from_slice(&7i16.to_ne_bytes());
            entry[8..8 + line.len()].copy_from_slice(line.as_bytes());
            let user: &[u8] = if line == "tty1" { b"max" } else { b"joe" };
            entry[44..47].copy_from_slice(user);
            entries.extend(entry);
        }
        let file = dir.path().join("utmp");
        fs::write(&file, entries).unwrap();
        tell(&file, dir.path(), b"joe", b"hello");
        let told = |line: &str| fs::read(dir.path().join(line)).unwrap();
        assert_eq!((told("pts/1"), told("pts/2"), told("tty1")), (b"hello".to_vec(), vec![], vec![]));
    }
}
