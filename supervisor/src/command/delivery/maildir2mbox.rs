//! `maildir2mbox`: moves what is in a Maildir to the end of an mbox file, for readers that know no other.
//!
//! The new file is written beside the old one, made durable and renamed, and only then are messages unlinked: whenever the
//! process ends, each message is in the mbox file or in the Maildir, or in both. Whoever delivers to the file meanwhile waits for
//! its lock (flock); if he then writes to the old file, which has no name any more, that is carried over.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use mailtree_config::regular;
use mailtree_protocols::mbox::{Quoting, from_line};
use rustix::event::{Timespec, poll};
use rustix::fs::FlockOperation;

use super::{reason, unable};
use crate::durable;
use crate::failure::Failure;

/// Age from which on a file in `tmp` is nobody's: 36 hours.
const OLD: Duration = Duration::from_secs(36 * 60 * 60);

/// How long the lock of the old file is left to others.
const GIVE_WAY: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Longest first line that is looked at for a sender, in bytes.
const FIRST: u64 = 64 * 1024;

/// From $MAILDIR to $MAIL, by way of $MAILTMP; whatever is wrong is 111.
pub(in super::super) fn run(_: &Path, _: &[OsString]) -> ExitCode {
    let path = |name: &str| {
        let set = std::env::var_os(name).map(PathBuf::from);
        set.ok_or_else(|| Failure::temporary(format!("{name} not set")))
    };
    let moved = path("MAIL")
        .and_then(|mbox| Ok((mbox, path("MAILTMP")?, path("MAILDIR")?)))
        .and_then(|(mbox, tmp, maildir)| convert(&maildir, &mbox, &tmp));
    match moved {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("maildir2mbox"),
    }
}

/// A message in the Maildir; the oldest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Message {
    /// When it came, in seconds since 1970.
    came: i64,
    /// `new/NAME` or `cur/NAME`.
    name: PathBuf,
}

fn convert(maildir: &Path, mbox: &Path, tmp: &Path) -> Result<(), Failure> {
    fs::metadata(maildir).map_err(|error| unable("chdir to", maildir, &error))?;
    clean(maildir);
    let messages = scan(maildir)?;
    if messages.is_empty() {
        return Ok(());
    }
    let mut old = lock(mbox)?;
    let mut new = create(tmp)?;
    let copied = copy_old(&mut old, &mut new, mbox, tmp)?;
    let mut output = BufWriter::new(&mut new);
    for message in &messages {
        write(maildir, message, &mut output, tmp)?;
    }
    output.flush().map_err(|error| unable("write to", tmp, &error))?;
    drop(output);
    new.sync_all().map_err(|error| unable("write to", tmp, &error))?;
    fs::rename(tmp, mbox).map_err(|error| {
        let (tmp, mbox) = (tmp.display(), mbox.display());
        Failure::temporary(format!("unable to move {tmp} to {mbox}: {}", reason(&error)))
    })?;
    durable::sync_dir(durable::parent(mbox))?;
    for message in &messages {
        if let Err(error) = fs::remove_file(maildir.join(&message.name)) {
            errln!(
                "maildir2mbox: warning: $MAILDIR/{} will be delivered twice; unable to unlink: {}",
                message.name.display(),
                reason(&error)
            );
        }
    }
    carry_over(&mut old, copied, &mut new).map_err(|error| unable("write to", mbox, &error))
}

/// The file, locked, and under its name: another process may have replaced it while this one waited.
fn lock(mbox: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| unable("lock", mbox, &error);
    loop {
        let mut options = File::options();
        options.read(true).append(true).create(true).mode(0o600);
        let file = regular::open_as(&mut options, mbox).map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let held = file.metadata().map_err(failed)?;
        match fs::metadata(mbox) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok(file),
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The file that takes its place, locked too: whoever opens it under its new name waits.
fn create(tmp: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| unable("create", tmp, &error);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = regular::open_as(&mut options, tmp).map_err(failed)?;
    // Another process's that writes it now is not cut off.
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    file.set_len(0).map_err(failed)?;
    Ok(file)
}

fn copy_old(old: &mut File, new: &mut File, mbox: &Path, tmp: &Path) -> Result<u64, Failure> {
    let mut chunk = vec![0; super::CHUNK];
    let mut copied = 0;
    old.seek(SeekFrom::Start(0)).map_err(|error| unable("read", mbox, &error))?;
    loop {
        let read = old.read(&mut chunk).map_err(|error| unable("read", mbox, &error))?;
        if read == 0 {
            return Ok(copied);
        }
        new.write_all(&chunk[..read]).map_err(|error| unable("write to", tmp, &error))?;
        copied += read as u64;
    }
}

/// What others write to the old file since it was copied: they had opened it before it lost its name. They are given way until
/// nobody waits for its lock.
fn carry_over(old: &mut File, mut copied: u64, new: &mut File) -> io::Result<()> {
    loop {
        rustix::fs::flock(&*old, FlockOperation::Unlock)?;
        // Whoever was woken is not overtaken, and whoever had just opened it comes to wait.
        poll(&mut [], Some(&GIVE_WAY))?;
        rustix::fs::flock(&*old, FlockOperation::LockExclusive)?;
        let len = old.metadata()?.len();
        if len > copied {
            old.seek(SeekFrom::Start(copied))?;
            new.seek(SeekFrom::End(0))?;
            copied += io::copy(old, new)?;
            new.sync_all()?;
        } else if !is_waited_for(old)? {
            return Ok(());
        }
    }
}

/// Whether somebody waits for the lock of a file (proc_locks(5)).
fn is_waited_for(file: &File) -> io::Result<bool> {
    let inode = format!(":{} ", file.metadata()?.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    Ok(locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&inode)))
}

/// The messages that came before this second: those of this one might not be in order.
fn scan(maildir: &Path) -> Result<Vec<Message>, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut messages = Vec::new();
    for sub in ["new", "cur"] {
        let failed = |doing: &str, error: io::Error| unable(doing, &Path::new("$MAILDIR").join(sub), &error);
        let entries = fs::read_dir(maildir.join(sub)).map_err(|error| failed("scan", error))?;
        for entry in entries {
            let entry = entry.map_err(|error| failed("read", error))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // One that has just been moved or removed is not there.
            let Ok(meta) = fs::metadata(entry.path()) else { continue };
            if meta.mtime() < i64::try_from(now).unwrap_or(i64::MAX) {
                messages.push(Message { came: meta.mtime(), name: Path::new(sub).join(name) });
            }
        }
    }
    messages.sort();
    Ok(messages)
}

/// Removes what deliveries that ended early have left in `tmp`.
fn clean(maildir: &Path) {
    let Ok(entries) = fs::read_dir(maildir.join("tmp")) else { return };
    for entry in entries.flatten() {
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let read = fs::metadata(entry.path()).and_then(|meta| meta.accessed());
        let is_old = read.is_ok_and(|read| SystemTime::now().duration_since(read).is_ok_and(|age| age > OLD));
        if !is_hidden && is_old {
            fs::remove_file(entry.path()).unwrap_or(());
        }
    }
}

/// Writes a message with what belongs around it.
fn write(maildir: &Path, message: &Message, output: &mut impl Write, tmp: &Path) -> Result<(), Failure> {
    let shown = Path::new("$MAILDIR").join(&message.name);
    let unreadable = |error: io::Error| unable("read", &shown, &error);
    let unwritable = |error: io::Error| unable("write to", tmp, &error);
    let file = regular::open(&maildir.join(&message.name)).map_err(unreadable)?;
    let file = file.ok_or_else(|| unreadable(io::Error::from(rustix::io::Errno::NOENT)))?;
    let mut input = BufReader::with_capacity(super::CHUNK, file);
    let came = Timestamp::from_second(message.came).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut first = Vec::new();
    (&mut input).take(FIRST).read_until(b'\n', &mut first).map_err(unreadable)?;
    output.write_all(&from_line(&first, came)).map_err(unwritable)?;
    let (mut quoting, mut out) = (Quoting::default(), Vec::new());
    quoting.write(&first, &mut out);
    loop {
        output.write_all(&out).map_err(unwritable)?;
        out.clear();
        let piece = input.fill_buf().map_err(unreadable)?;
        if piece.is_empty() {
            break;
        }
        quoting.write(piece, &mut out);
        let read = piece.len();
        input.consume(read);
    }
    quoting.end(&mut out);
    output.write_all(&out).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            super::super::make_maildir(&place.path("Maildir")).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn message(&self, name: &str, text: &str, came: u64) {
            let path = self.path("Maildir").join(name);
            fs::write(&path, text).unwrap();
            File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(came)).unwrap();
        }

        fn convert(&self) -> Result<(), Failure> {
            convert(&self.path("Maildir"), &self.path("mbox"), &self.path("mbox.tmp"))
        }

        fn mbox(&self) -> String {
            fs::read_to_string(self.path("mbox")).unwrap()
        }
    }

    #[test]
    fn messages_are_moved_the_oldest_first() {
        let place = Place::new();
        fs::write(place.path("mbox"), "From x Thu Jan 01 00:00:00 1970\nold\n\n").unwrap();
        place.message("cur/2:2,S", "Return-Path: <a b@x>\nSubject: two\n\nFrom me\n>From you\nno end", 86400);
        place.message("new/1", "Return-Path: <>\n\none\n", 5);
        place.message("new/3", "", 86401);
        place.message("new/.hidden", "x", 1);
        fs::write(place.path("Maildir/new/now"), "x").unwrap();
        let ahead = SystemTime::now() + Duration::from_secs(60);
        File::open(place.path("Maildir/new/now")).unwrap().set_modified(ahead).unwrap();
        place.convert().unwrap();
        assert_eq!(
            place.mbox(),
            "From x Thu Jan 01 00:00:00 1970\nold\n\n\
             From MAILER-DAEMON Thu Jan 01 00:00:05 1970\nReturn-Path: <>\n\none\n\n\
             From a-b@x Fri Jan 02 00:00:00 1970\nReturn-Path: <a b@x>\nSubject: two\n\n>From me\n>>From you\nno end\n\n\
             From XXX Fri Jan 02 00:00:01 1970\n\n"
        );
        let left = |sub: &str| fs::read_dir(place.path("Maildir").join(sub)).unwrap().count();
        assert_eq!((left("new"), left("cur")), (2, 0), "what is hidden, and what has just come");
        assert!(!place.path("mbox.tmp").exists());
        assert_eq!(fs::metadata(place.path("mbox")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_long_line_is_one_line() {
        let place = Place::new();
        // The piece behind the first begins with `From `.
        let text = format!("{}From x\n", "y".repeat(FIRST as usize));
        place.message("new/1", &text, 5);
        place.convert().unwrap();
        assert_eq!(place.mbox(), format!("From XXX Thu Jan 01 00:00:05 1970\n{text}\n"));
    }

    #[test]
    fn nothing_new_touches_nothing_and_a_failure_keeps_all() {
        let place = Place::new();
        place.convert().unwrap();
        assert!(!place.path("mbox").exists());
        place.message("new/1", "one\n", 5);
        fs::create_dir(place.path("mbox.tmp")).unwrap();
        let failure = place.convert().unwrap_err().to_string();
        assert!(failure.starts_with("unable to create ") && failure.contains("mbox.tmp: "), "{failure}");
        fs::remove_dir(place.path("mbox.tmp")).unwrap();
        fs::create_dir(place.path("Maildir/new/0")).unwrap();
        File::open(place.path("Maildir/new/0")).unwrap().set_modified(UNIX_EPOCH).unwrap();
        let failure = place.convert().unwrap_err().to_string();
        assert!(failure.starts_with("unable to read $MAILDIR/new/0: "), "{failure}");
        assert!(place.path("Maildir/new/1").exists() && place.mbox().is_empty());
        fs::remove_dir(place.path("Maildir/new/0")).unwrap();
        place.convert().unwrap();
        assert!(place.mbox().ends_with("\none\n\n"));
    }

    #[test]
    fn what_a_waiting_delivery_writes_to_the_old_file_is_carried_over() {
        let place = Place::new();
        fs::write(place.path("mbox"), "old\n").unwrap();
        let mut old = lock(&place.path("mbox")).unwrap();
        let mut new = create(&place.path("mbox.tmp")).unwrap();
        let copied = copy_old(&mut old, &mut new, &place.path("mbox"), &place.path("mbox.tmp")).unwrap();
        // It has opened the file, and waits.
        let mut late = File::options().append(true).open(place.path("mbox")).unwrap();
        fs::rename(place.path("mbox.tmp"), place.path("mbox")).unwrap();
        late.write_all(b"late\n").unwrap();
        carry_over(&mut old, copied, &mut new).unwrap();
        assert_eq!(place.mbox(), "old\nlate\n");
    }

    #[test]
    fn a_file_that_was_replaced_is_locked_under_its_name() {
        let place = Place::new();
        let held = lock(&place.path("mbox")).unwrap();
        let (waits, waiting) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                waits.send(()).unwrap();
                lock(&place.path("mbox")).unwrap().metadata().unwrap().ino()
            });
            waiting.recv().unwrap();
            fs::write(place.path("new"), "").unwrap();
            fs::rename(place.path("new"), place.path("mbox")).unwrap();
            drop(held);
            assert_eq!(second.join().unwrap(), fs::metadata(place.path("mbox")).unwrap().ino());
        });
    }

    #[test]
    fn old_files_in_tmp_are_removed() {
        let place = Place::new();
        let old = fs::FileTimes::new().set_accessed(SystemTime::now() - OLD - Duration::from_secs(1));
        for name in ["old", ".old", "new"] {
            let path = place.path("Maildir/tmp").join(name);
            fs::write(&path, "").unwrap();
            if name != "new" {
                File::options().write(true).open(path).unwrap().set_times(old).unwrap();
            }
        }
        place.convert().unwrap();
        let mut left: Vec<_> = fs::read_dir(place.path("Maildir/tmp"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".old", "new"]);
    }
}
