//! `mbox2maildir`: copies the messages of an mbox file into a Maildir. The file stays as it is.
//!
//! The name of a copy follows from the file and the message's place in it, so that a conversion that ended early, or one of a file
//! that has grown, goes on where the last one was.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use mailtree_config::regular;
use mailtree_protocols::inject::fields::header_len;
use mailtree_protocols::maildir::host_in_name;
use mailtree_protocols::mbox::{maildir_flags, parse_from_line, unquoted};
use rustix::fs::FlockOperation;

use super::{make_maildir, unable, usage};
use crate::durable;
use crate::failure::Failure;
use crate::output::Progress;

/// Longest piece of a line that is held, in bytes.
const PIECE: u64 = 64 * 1024;

/// Bytes of a header in which marks of mail readers are looked for.
const MAX_HEADER: usize = 1024 * 1024;

/// `mbox2maildir mbox maildir`.
pub(in super::super) fn run(_: &Path, arguments: &[OsString]) -> ExitCode {
    let [mbox, maildir] = arguments else { return usage("mbox2maildir: usage: mbox2maildir mbox maildir") };
    match convert(Path::new(mbox), Path::new(maildir)) {
        Ok(Converted { copied, there: 0 }) => outln!("{copied} messages"),
        Ok(Converted { copied, there }) => outln!("{copied} messages; {there} were there already"),
        Err(failure) => return failure.report("mbox2maildir"),
    }
    ExitCode::SUCCESS
}

/// How many messages there were.
#[derive(Debug, PartialEq, Eq, Default)]
struct Converted {
    copied: u64,
    there: u64,
}

fn convert(mbox: &Path, maildir: &Path) -> Result<Converted, Failure> {
    let unreadable = |error: io::Error| unable("read", mbox, &error);
    let file = regular::open(mbox).map_err(unreadable)?;
    let file = file.ok_or_else(|| unreadable(rustix::io::Errno::NOENT.into()))?;
    // A delivery to it is waited for, and waits.
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| unable("lock", mbox, &error.into()))?;
    let meta = file.metadata().map_err(unreadable)?;
    if !maildir.exists() {
        make_maildir(maildir)?;
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut target = Target {
        maildir,
        file: format!("V{:x}I{:x}", meta.dev(), meta.ino()),
        host: host_in_name(&host),
        there: HashSet::new(),
        converted: Converted::default(),
    };
    target.find()?;
    let mut progress = Progress::new(meta.len());
    let mut input = BufReader::with_capacity(super::CHUNK, file);
    let (mut at, mut piece) = (0, Vec::new());
    // Where a line begins, and whether a blank one is before it: it may be the end of a message.
    let (mut begins, mut blank) = (true, true);
    let mut copy: Option<Copy> = None;
    loop {
        piece.clear();
        (&mut input).take(PIECE).read_until(b'\n', &mut piece).map_err(unreadable)?;
        if piece.is_empty() {
            break;
        }
        let from = if begins && blank { parse_from_line(&piece) } else { None };
        match (from, &mut copy) {
            (Some(from), _) => {
                if let Some(copy) = copy.take() {
                    target.keep(copy)?;
                    progress.at(at, target.converted.copied);
                }
                copy = Some(target.begin(at, from.sender, from.came)?);
            }
            (None, Some(copy)) => {
                if blank && begins {
                    copy.put(b"\n")?;
                }
                let is_blank = begins && piece == b"\n";
                if !is_blank {
                    copy.put(if begins { unquoted(&piece) } else { &piece })?;
                }
            }
            (None, None) if piece.trim_ascii().is_empty() => (),
            (None, None) => {
                return Err(Failure::permanent(format!(
                    "{}: it does not begin with `From `",
                    mbox.display()
                )));
            }
        }
        blank = begins && piece == b"\n";
        at += piece.len() as u64;
        begins = piece.ends_with(b"\n");
    }
    if let Some(copy) = copy.take() {
        target.keep(copy)?;
    }
    progress.end();
    // One for all of them: nothing of the mbox file goes.
    let dir = File::open(maildir).map_err(|error| unable("open", maildir, &error))?;
    rustix::fs::syncfs(&dir).map_err(|error| unable("sync", maildir, &error.into()))?;
    durable::sync_dir(durable::parent(maildir))?;
    Ok(target.converted)
}

/// The Maildir.
struct Target<'a> {
    maildir: &'a Path,
    /// What tells the mbox file from others.
    file: String,
    host: String,
    /// Names without flags that copies of it have.
    there: HashSet<Vec<u8>>,
    converted: Converted,
}

/// A message that is being copied.
struct Copy {
    came: Option<Timestamp>,
    base: String,
    tmp: PathBuf,
    output: BufWriter<File>,
    size: u64,
    header: Vec<u8>,
    /// Nothing was put into it yet.
    is_empty: bool,
    /// The Return-Path that it gets if it has none.
    path: Option<Vec<u8>>,
}

impl Target<'_> {
    /// Finds the copies of earlier conversions.
    fn find(&mut self) -> Result<(), Failure> {
        for sub in ["new", "cur"] {
            let dir = self.maildir.join(sub);
            let entries = fs::read_dir(&dir).map_err(|error| unable("scan", &dir, &error))?;
            for entry in entries {
                let name = entry.map_err(|error| unable("read", &dir, &error))?.file_name();
                let base = name.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
                if memchr::memmem::find(base, self.file.as_bytes()).is_some() {
                    self.there.insert(base.to_vec());
                }
            }
        }
        Ok(())
    }

    fn begin(&self, at: u64, sender: Option<&[u8]>, came: Option<Timestamp>) -> Result<Copy, Failure> {
        let seconds = came.map_or(0, Timestamp::as_second);
        let base = format!("{seconds}.{}O{at}.{}", self.file, self.host);
        let tmp = self.maildir.join("tmp").join(&base);
        let mut options = File::options();
        // What is left of an earlier conversion is nobody's: the mbox file is locked.
        let file = regular::open_itself(options.write(true).create(true).truncate(true).mode(0o600), &tmp);
        let file = file.map_err(|error| unable("create", &tmp, &error))?;
        let path = sender.map(|sender| [b"Return-Path: <", sender, b">\n"].concat());
        let output = BufWriter::with_capacity(super::CHUNK, file);
        Ok(Copy { came, base, tmp, output, size: 0, header: Vec::new(), is_empty: true, path })
    }

    /// Gives a copy its name, unless it is there.
    fn keep(&mut self, mut copy: Copy) -> Result<(), Failure> {
        copy.finish()?;
        let base = format!("{},S={}", copy.base, copy.size);
        if self.there.contains(base.as_bytes()) {
            self.converted.there += 1;
            return fs::remove_file(&copy.tmp).map_err(|error| unable("unlink", &copy.tmp, &error));
        }
        copy.header.truncate(header_len(&copy.header));
        let place = match maildir_flags(&copy.header) {
            Some(flags) => self.maildir.join("cur").join(format!("{base}:2,{flags}")),
            None => self.maildir.join("new").join(&base),
        };
        fs::rename(&copy.tmp, &place).map_err(|error| unable("move a message to", &place, &error))?;
        self.converted.copied += 1;
        Ok(())
    }
}

impl Copy {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.is_empty {
            self.is_empty = false;
            if let Some(path) = self.path.take().filter(|_| !bytes.starts_with(b"Return-Path:")) {
                self.write(&path)?;
            }
        }
        let room = MAX_HEADER - self.header.len();
        self.header.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.size += bytes.len() as u64;
        self.output.write_all(bytes).map_err(|error| unable("write to", &self.tmp, &error))
    }

    /// All of it is in the file, which is as old as the message.
    fn finish(&mut self) -> Result<(), Failure> {
        let seconds = self.came.and_then(|came| u64::try_from(came.as_second()).ok());
        let came = seconds.map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let done = self.output.flush().and_then(|()| self.output.get_ref().set_modified(came));
        done.map_err(|error| unable("write to", &self.tmp, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBOX: &str = "From a@x Sat Nov 28 14:05:21 2026\n\
        Subject: one\n\nbody\n\n>From me\nFrom here no message\n>>From\n\n\n\
        From MAILER-DAEMON Sat Nov 28 14:05:22 2026\n\
        Return-Path: <>\nStatus: RO\n\ntwo\n\n\
        From XXX nonsense\n\
        \n\
        three, without an end";

    struct Place(tempfile::TempDir);

    impl Place {
        fn new(mbox: &str) -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::write(place.0.path().join("mbox"), mbox).unwrap();
            place
        }

        fn convert(&self) -> Result<(u64, u64), Failure> {
            let converted = convert(&self.0.path().join("mbox"), &self.0.path().join("Maildir"))?;
            Ok((converted.copied, converted.there))
        }

        /// Names behind the host's, and texts.
        fn messages(&self) -> Vec<(String, String)> {
            let mut found = Vec::new();
            for sub in ["new", "cur", "tmp"] {
                for entry in fs::read_dir(self.0.path().join("Maildir").join(sub)).unwrap() {
                    let path = entry.unwrap().path();
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    let (head, tail) =
                        (name.split('.').next().unwrap(), name.rsplit_once(",S=").map_or("", |at| at.1));
                    found.push((format!("{sub}/{head} {tail}"), fs::read_to_string(&path).unwrap()));
                }
            }
            found.sort();
            found
        }
    }

    #[test]
    fn messages_are_what_they_were() {
        let place = Place::new(MBOX);
        assert_eq!(place.convert().unwrap(), (3, 0));
        let one = "Return-Path: <a@x>\nSubject: one\n\nbody\n\nFrom me\nFrom here no message\n>>From\n\n";
        let two = "Return-Path: <>\nStatus: RO\n\ntwo\n";
        let three = "\nthree, without an end";
        let named = |place: &str, text: &str, flags: &str| {
            (format!("{place} {}{flags}", text.len()), text.to_owned())
        };
        assert_eq!(
            place.messages(),
            [
                named("cur/1795874722", two, ":2,S"),
                named("new/0", three, ""),
                named("new/1795874721", one, ""),
            ]
        );
        let new = fs::read_dir(place.0.path().join("Maildir/new")).unwrap();
        let times = new.map(|entry| entry.unwrap().metadata().unwrap().mtime());
        assert!(times.into_iter().any(|time| time == 1_795_874_721));
    }

    #[test]
    fn a_conversion_goes_on_where_it_ended() {
        let place = Place::new(MBOX);
        place.convert().unwrap();
        let messages = place.messages();
        // One was read meanwhile, one is gone, one was half written, and the file has grown.
        let new = place.0.path().join("Maildir/new");
        let mut names: Vec<_> = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        fs::rename(
            new.join(&names[0]),
            place.0.path().join("Maildir/cur").join(format!("{}:2,S", names[0].to_str().unwrap())),
        )
        .unwrap();
        let half = names[1].to_str().unwrap().split(',').next().unwrap().to_owned();
        fs::rename(new.join(&names[1]), place.0.path().join("Maildir/tmp").join(half)).unwrap();
        let mut mbox = File::options().append(true).open(place.0.path().join("mbox")).unwrap();
        mbox.write_all(b"\n\nFrom b@x Sat Nov 28 14:05:23 2026\nfour\n\n").unwrap();
        // The last one had no end; now it has one, and is another.
        assert_eq!(place.convert().unwrap(), (3, 1));
        assert_eq!(place.convert().unwrap(), (0, 4));
        assert!(place.messages().iter().all(|(name, _)| !name.starts_with("tmp/")), "{messages:?}");
        assert_eq!(place.messages().len(), 5);
    }

    #[test]
    fn what_is_no_mbox_is_refused() {
        for (text, expected) in [("Subject: x\n", None), ("", Some((0, 0))), ("\n\n", Some((0, 0)))] {
            let place = Place::new(text);
            match place.convert() {
                Ok(converted) => assert_eq!(Some(converted), expected, "{text:?}"),
                Err(failure) => {
                    assert_eq!(expected, None, "{text:?}");
                    assert!(
                        failure.is_permanent()
                            && failure.to_string().ends_with("does not begin with `From `")
                    );
                }
            }
        }
        let failure = convert(Path::new("/nonexistent"), Path::new("/nonexistent")).unwrap_err();
        assert_eq!(failure.to_string(), "unable to read /nonexistent: file does not exist");
    }
}
