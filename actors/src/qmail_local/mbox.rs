//! A message at the end of an mbox file (mbox.5), under the locks that mail readers take: flock, as qmail's, and fcntl's.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use mailtree_config::regular;
use mailtree_protocols::mbox::Quoting;
use mailtree_protocols::report::Report;
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

use super::unreadable_mess;
use crate::queue::Body;

/// How long somebody may hold the lock.
const LOCKED: Duration = Duration::from_secs(30);

/// How often it is looked whether the lock is free.
const LOOK: Duration = Duration::from_millis(50);

/// Appends the message, durably. `heads` go before it: the `From ` line, Return-Path and Delivered-To. `rest` waits that long
/// and says whether anybody still waits for the delivery.
pub(super) fn append(
    path: &Path,
    heads: &[&[u8]],
    body: &Body,
    mut rest: impl FnMut(Duration) -> bool,
) -> Result<(), Report> {
    let shown = path.display();
    let opening = |error: io::Error| Report::deferral(format!("Unable to open {shown}: {error}. (#4.2.1)\n"));
    let open = || {
        let mut options = OpenOptions::new();
        regular::open_as(options.append(true).create(true).mode(0o600), path).map_err(opening)
    };
    let mut file = open()?;
    let begun = Instant::now();
    let locked = loop {
        match lock(&file) {
            // A reader that rewrites the file puts another in its place, under the lock of the old one.
            Ok(true) if !is_there(&file, path) => file = open()?,
            Ok(locked) => break locked,
            Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => (),
            Err(error) => return Err(opening(error.into())),
        }
        if begun.elapsed() >= LOCKED || !rest(LOOK) {
            return Err(Report::deferral("File has been locked for 30 seconds straight. (#4.3.0)\n"));
        }
    };
    let end = file.seek(SeekFrom::End(0)).map_err(opening)?;
    write(&mut file, heads, body).map_err(|failure| {
        // Nobody else writes behind it meanwhile, if everybody locks.
        if locked && let Err(error) = file.set_len(end) {
            tracing::warn!("warning: unable to truncate {shown}: {error}");
        }
        match failure {
            Failure::Reading(error) => unreadable_mess(error),
            Failure::Writing(error) => {
                Report::deferral(format!("Unable to write {shown}: {error}. (#4.3.0)\n"))
            }
        }
    })
}

/// Whether the open file is the one of this name.
fn is_there(file: &File, path: &Path) -> bool {
    let same = |there: std::fs::Metadata, open: std::fs::Metadata| {
        (there.dev(), there.ino()) == (open.dev(), open.ino())
    };
    std::fs::metadata(path).and_then(|there| Ok(same(there, file.metadata()?))).unwrap_or(false)
}

/// Both locks, or neither; false where the file system knows none.
fn lock(file: &File) -> Result<bool, Errno> {
    let unknown =
        |error: &Errno| matches!(*error, Errno::NOLCK | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP);
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(error) if unknown(&error) => return Ok(false),
        locked => locked?,
    }
    match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(error) if unknown(&error) => Ok(true),
        Err(error) => {
            flock(file, FlockOperation::Unlock)?;
            Err(error)
        }
        Ok(()) => Ok(true),
    }
}

enum Failure {
    Reading(io::Error),
    Writing(io::Error),
}

fn write(file: &mut File, heads: &[&[u8]], body: &Body) -> Result<(), Failure> {
    let mut out = heads.concat();
    let mut quoting = Quoting::default();
    let (mut at, mut chunk) = (0, Vec::new());
    loop {
        body.read_at(at, &mut chunk).map_err(Failure::Reading)?;
        if chunk.is_empty() {
            break;
        }
        at += chunk.len() as u64;
        quoting.write(&chunk, &mut out);
        file.write_all(&out).map_err(Failure::Writing)?;
        out.clear();
    }
    quoting.end(&mut out);
    file.write_all(&out).map_err(Failure::Writing)?;
    file.sync_all().map_err(Failure::Writing)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn text(report: Result<(), Report>) -> String {
        report.err().map(|report| report.text).unwrap_or_default()
    }

    #[test]
    fn messages_follow_one_another() {
        let dir = tempfile::tempdir().unwrap();
        let (mess, mbox) = (dir.path().join("mess"), dir.path().join("Mailbox"));
        fs::write(&mess, "Subject: x\n\nFrom here\n>From there\nno end").unwrap();
        let body = Body::open(&mess).unwrap();
        for _ in 0..2 {
            append(&mbox, &[b"From a@b Thu\n", b"Return-Path: <a@b>\n"], &body, |_| true).unwrap();
        }
        let one = "From a@b Thu\nReturn-Path: <a@b>\nSubject: x\n\n>From here\n>>From there\nno end\n\n";
        assert_eq!(fs::read_to_string(&mbox).unwrap(), one.repeat(2));
    }

    #[test]
    fn a_reader_who_has_locked_it_is_waited_for_and_then_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (mess, mbox) = (dir.path().join("mess"), dir.path().join("Mailbox"));
        fs::write(&mess, "x\n").unwrap();
        fs::write(&mbox, "").unwrap();
        let body = Body::open(&mess).unwrap();
        let reader = File::open(&mbox).unwrap();
        flock(&reader, FlockOperation::LockExclusive).unwrap();
        let mut looks = 0;
        let report = append(&mbox, &[], &body, |_| {
            looks += 1;
            looks < 3
        });
        assert_eq!(text(report), "File has been locked for 30 seconds straight. (#4.3.0)\n");
        let mut reader = Some(reader);
        append(&mbox, &[], &body, |_| reader.take().is_some()).unwrap();
        assert_eq!(fs::read_to_string(&mbox).unwrap(), "x\n\n");
    }

    #[test]
    fn a_reader_who_puts_another_file_in_its_place_gets_it_there() {
        let dir = tempfile::tempdir().unwrap();
        let (mess, mbox) = (dir.path().join("mess"), dir.path().join("Mailbox"));
        fs::write(&mess, "x\n").unwrap();
        fs::write(&mbox, "old\n").unwrap();
        let body = Body::open(&mess).unwrap();
        let reader = File::open(&mbox).unwrap();
        flock(&reader, FlockOperation::LockExclusive).unwrap();
        let mut reader = Some(reader);
        append(&mbox, &[], &body, |_| {
            if reader.is_some() {
                fs::write(dir.path().join("new"), "kept\n").unwrap();
                fs::rename(dir.path().join("new"), &mbox).unwrap();
            }
            drop(reader.take());
            true
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&mbox).unwrap(), "kept\nx\n\n");
    }

    #[test]
    fn what_is_no_file_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mess = dir.path().join("mess");
        fs::write(&mess, "x\n").unwrap();
        let body = Body::open(&mess).unwrap();
        for place in ["/dev/null", "/nonexistent/mbox"] {
            let report = append(Path::new(place), &[], &body, |_| true).unwrap_err();
            assert!(report.text.starts_with(&format!("Unable to open {place}: ")), "{report:?}");
        }
    }
}
