//! Reading of control files as qmail reads them (control.c), with errors where qmail is silent.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::changes::{Changes, EMPTY, QUIET, is_younger};
use crate::error::Problem;
use crate::regular;
use crate::setting::{Origin, Setting};

/// A longer control file is refused: 16 MiB.
const SIZE_MAX: u64 = 16 << 20;

/// A longer database is refused: 256 MiB, since it is held in memory.
const CDB_MAX: u64 = 256 << 20;

/// A list with more entries is shown as their number.
const SHOWN_MAX: usize = 20;

/// A file that was changed less than this before it was read may change again within the same tick of its clock.
const UNSETTLED: Duration = Duration::from_secs(2);

/// A writer who has it open and has not written for so long is no longer waited for.
const OPEN: Duration = Duration::from_secs(30);

/// Without these mail bounces, or others' mail is taken: one that is removed is waited for as one that is emptied.
const VITAL: [&str; 3] = ["locals", "virtualdomains", "rcpthosts"];

/// What tells two versions of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file as it was when it was read.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    path: PathBuf,
    /// `None`: there was no such file.
    stamp: Option<Stamp>,
    settled: bool,
}

impl Seen {
    /// Whether the file is certainly still the same.
    pub(crate) fn is_current(&self) -> bool {
        let now = match std::fs::metadata(&self.path) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => return false,
        };
        self.settled && self.stamp == now
    }

    /// Whether the file has changed, and whoever changes it may not have finished. Somebody has it open and wrote into it within
    /// [`OPEN`]. Or it was written into within the last [`QUIET`], in its place, or so that it ends in the middle of a line. Or
    /// it was emptied, or has gone, and what comes in its place may take a while: [`EMPTY`], [`QUIET`].
    pub(crate) fn is_being_written(&self, changes: &Changes) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if !metadata.is_file() => false,
            Ok(metadata) => {
                let now = Stamp::of(&metadata);
                if self.stamp == Some(now) {
                    return false;
                }
                if changes.unfinished(&self.path).is_some_and(|since| since < OPEN) {
                    return true;
                }
                let in_place =
                    self.stamp.is_some_and(|was| (was.device, was.inode) == (now.device, now.inode));
                let quiet = if in_place && now.size == 0 { EMPTY } else { QUIET };
                is_younger(&metadata, quiet) && (in_place || self.is_cut_short(now.size))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = self.path.parent().and_then(|dir| std::fs::metadata(dir).ok());
                let is_vital =
                    self.path.file_name().is_some_and(|name| VITAL.iter().any(|vital| name == *vital));
                let quiet = if is_vital { EMPTY } else { QUIET };
                self.stamp.is_some() && dir.is_some_and(|dir| is_younger(&dir, quiet))
            }
            Err(_) => false,
        }
    }

    fn is_cut_short(&self, size: u64) -> bool {
        let Some(last) = size.checked_sub(1) else { return true };
        if self.path.extension().is_some_and(|extension| extension == "cdb") {
            return false;
        }
        let mut byte = [0];
        let read = regular::open(&self.path).map(|file| file.map(|file| file.read_exact_at(&mut byte, last)));
        !matches!(read, Ok(Some(Ok(())))) || byte != *b"\n"
    }
}

/// A line that is not obeyed, and what is wrong with it.
pub(crate) type Refused = (Vec<u8>, Problem);

/// What a missing file means.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Missing<'a> {
    /// The value of `me`.
    Me,
    /// This value.
    Value(&'a str),
}

/// What a text may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A host or domain name, or one half of an address.
    Name,
    /// Words.
    Words,
}

/// A reading of some control files: what was read, what is wrong, what is in force.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    dir: &'a Path,
    me: Option<String>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) problems: Vec<Problem>,
    /// What is wrong and concerns no more than itself.
    pub(crate) warnings: Vec<Problem>,
    pub(crate) settings: Vec<Setting>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(dir: &'a Path) -> Self {
        Self {
            dir,
            me: None,
            seen: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// `me`, which every host must have. Empty after a problem.
    pub(crate) fn me(&mut self) -> String {
        if let Some(me) = &self.me {
            return me.clone();
        }
        let me = match self.line("me") {
            Some(line) => self.as_text("me", &line, Kind::Name),
            None => {
                // An unreadable or bad file has its problem already.
                if self.seen.last().is_some_and(|seen| seen.stamp.is_none()) {
                    let text = "missing; allowed: one line with the full name of this host";
                    self.problems.push(Problem::file(self.path("me"), text));
                }
                String::new()
            }
        };
        self.set("me", me.clone(), Origin::File(self.path("me"), Some(1)));
        self.me = Some(me.clone());
        me
    }

    /// A file of one line of text.
    pub(crate) fn text(&mut self, name: &str, missing: Missing<'_>, kind: Kind) -> String {
        let (value, origin) = match (self.line(name), missing) {
            (Some(line), _) => (self.as_text(name, &line, kind), Origin::File(self.path(name), Some(1))),
            (None, Missing::Me) => (self.me(), Origin::Me),
            (None, Missing::Value(value)) => (value.to_owned(), Origin::Default),
        };
        self.set(name, value.clone(), origin);
        value
    }

    /// A file of one whole number.
    pub(crate) fn whole(&mut self, name: &str, default: u64, min: u64, max: u64) -> u64 {
        let (value, origin) = match self.line(name) {
            None => (default, Origin::Default),
            Some(line) => {
                let shown = String::from_utf8_lossy(&line).into_owned();
                // No sign: `parse` alone would take `+5`.
                let digits = Some(&shown).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                let number =
                    digits.and_then(|text| text.parse().ok()).filter(|number| (min..=max).contains(number));
                if number.is_none() {
                    let text =
                        format!("`{shown}` is not allowed; allowed: a whole number from {min} to {max}");
                    self.problems.push(Problem::line(self.path(name), 1, text));
                }
                number.map_or((default, Origin::Default), |number| {
                    (number, Origin::File(self.path(name), Some(1)))
                })
            }
        };
        self.set(name, value.to_string(), origin);
        value
    }

    /// A number of at most `max`, which must fit into a `usize`.
    pub(crate) fn count(&mut self, name: &str, default: usize, min: usize, max: usize) -> usize {
        let value = self.whole(name, default as u64, min as u64, max as u64);
        usize::try_from(value).unwrap_or(default)
    }

    /// A file with a list: lines with their numbers, without empty ones and comments. `None`: no such file.
    fn list(&mut self, name: &str) -> Option<Vec<(usize, Vec<u8>)>> {
        let bytes = self.bytes(name, SIZE_MAX)?;
        let mut lines = Vec::new();
        for (line, number) in bytes.split(|&b| b == b'\n').zip(1..) {
            let line = trimmed(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            match line.iter().find(|b| b.is_ascii_control() && **b != b'\t') {
                Some(b) => self.problems.push(Problem::line(
                    self.path(name),
                    number,
                    format!("the byte 0x{b:02x} is not allowed; allowed: text without control characters"),
                )),
                None => lines.push((number, line.to_vec())),
            }
        }
        Some(lines)
    }

    /// The entries of a list as a setting in force.
    fn set_list<'l>(&mut self, name: &str, entries: impl IntoIterator<Item = &'l Vec<u8>>) {
        let shown: Vec<_> = entries.into_iter().map(|entry| String::from_utf8_lossy(entry)).collect();
        let value =
            if shown.len() > SHOWN_MAX { format!("{} entries", shown.len()) } else { shown.join(", ") };
        self.set(name, value, Origin::File(self.path(name), None));
    }

    /// A list whose entries are only looked up. `None`: no such file.
    pub(crate) fn entries<T: FromIterator<Vec<u8>>>(&mut self, name: &str) -> Option<T> {
        let entries: Vec<Vec<u8>> = self.list(name)?.into_iter().map(|(_, line)| line).collect();
        self.set_list(name, &entries);
        Some(entries.into_iter().collect())
    }

    /// A list whose entries are only looked up, empty without the file.
    pub(crate) fn entries_or_none<T: FromIterator<Vec<u8>>>(&mut self, name: &str) -> T {
        self.entries(name).unwrap_or_else(|| {
            self.set(name, String::new(), Origin::Default);
            T::from_iter([])
        })
    }

    /// A list whose lines have a form of their own; only lines that `add` takes are shown as in force. Empty without
    /// the file.
    pub(crate) fn lines<E: ToString>(&mut self, name: &str, add: impl FnMut(&[u8]) -> Result<(), E>) {
        let Some(lines) = self.list(name) else {
            self.set(name, String::new(), Origin::Default);
            return;
        };
        let (good, refused) = self.sorted(name, lines, add);
        self.set_list(name, &good);
        self.problems.extend(refused.into_iter().map(|(_, problem)| problem));
    }

    /// The same, where a line that `add` does not take concerns nobody but those it names: these lines, and what is wrong with
    /// each, which is a warning.
    pub(crate) fn lines_apart<E: ToString>(
        &mut self,
        name: &str,
        add: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Vec<Refused> {
        let Some(lines) = self.list(name) else {
            self.set(name, String::new(), Origin::Default);
            return Vec::new();
        };
        let (good, refused) = self.sorted(name, lines, add);
        self.set_list(name, &good);
        self.warnings.extend(refused.iter().map(|(_, problem)| problem.clone()));
        refused
    }

    /// The lines that `add` takes, and the others with what is wrong with them.
    fn sorted<E: ToString>(
        &self,
        name: &str,
        lines: Vec<(usize, Vec<u8>)>,
        mut add: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> (Vec<Vec<u8>>, Vec<Refused>) {
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        for (number, line) in lines {
            match add(&line) {
                Ok(()) => good.push(line),
                Err(error) => refused.push((line, Problem::line(self.path(name), number, error.to_string()))),
            }
        }
        (good, refused)
    }

    /// Something about a file that should not stay so.
    pub(crate) fn warn_file(&mut self, name: &str, text: String) {
        self.warnings.push(Problem::file(self.path(name), text));
    }

    /// Whether this reading has looked at the file.
    pub(crate) fn has_read(&self, path: &Path) -> bool {
        self.seen.iter().any(|seen| seen.path == path)
    }

    /// A database. `None`: no such file.
    pub(crate) fn cdb(&mut self, name: &str) -> Option<Vec<u8>> {
        self.bytes(name, CDB_MAX)
    }

    /// A whole text file. `None`: no such file.
    pub(crate) fn whole_text(&mut self, name: &str) -> Option<Vec<u8>> {
        self.bytes(name, SIZE_MAX)
    }

    /// A line that is refused.
    pub(crate) fn refuse_line(&mut self, name: &str, line: usize, error: impl ToString) {
        self.problems.push(Problem::line(self.path(name), line, error.to_string()));
    }

    /// A file that is refused.
    pub(crate) fn refuse_file(&mut self, name: &str, error: impl ToString) {
        self.problems.push(Problem::file(self.path(name), error.to_string()));
    }

    /// A setting in force; each name once.
    pub(crate) fn set(&mut self, name: &str, value: String, origin: Origin) {
        let name = format!("control/{name}");
        if self.settings.iter().all(|setting| setting.name != name) {
            self.settings.push(Setting { name, value, origin });
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// First line of a file without trailing spaces. `None`: no such file, or a problem was noted.
    fn line(&mut self, name: &str) -> Option<Vec<u8>> {
        let bytes = self.bytes(name, SIZE_MAX)?;
        let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
        Some(trimmed(line).to_vec())
    }

    fn as_text(&mut self, name: &str, line: &[u8], kind: Kind) -> String {
        let (max, allowed) = match kind {
            Kind::Name => (253, "one line, a name of 1 to 253 visible ASCII characters"),
            Kind::Words => (400, "one line, 1 to 400 bytes of UTF-8 without control characters"),
        };
        let text = std::str::from_utf8(line).ok().filter(|text| match kind {
            Kind::Name => text.bytes().all(|b| b.is_ascii_graphic()),
            Kind::Words => !text.chars().any(char::is_control),
        });
        match text.filter(|text| (1..=max).contains(&text.len())) {
            Some(text) => text.to_owned(),
            None => {
                let shown = String::from_utf8_lossy(&line[..line.len().min(100)]).escape_debug().to_string();
                let text = format!("`{shown}` is not allowed; allowed: {allowed}");
                self.problems.push(Problem::line(self.path(name), 1, text));
                String::new()
            }
        }
    }

    /// A whole file. `None`: no such file, or a problem was noted.
    fn bytes(&mut self, name: &str, max: u64) -> Option<Vec<u8>> {
        let path = self.path(name);
        match open(&path, max) {
            Ok(None) => {
                self.seen.push(Seen { path, stamp: None, settled: true });
                None
            }
            Ok(Some((seen, bytes))) => {
                self.seen.push(seen);
                if bytes.len() as u64 > max {
                    let text = format!("the file is too long; allowed: {max} bytes");
                    self.problems.push(Problem::file(path, text));
                    return None;
                }
                if max == SIZE_MAX
                    && let Some(problem) = foreign(&path, &bytes)
                {
                    self.problems.push(problem);
                    return None;
                }
                // A NUL would end a C string in the programs this file is shared with.
                if max == SIZE_MAX && bytes.contains(&0) {
                    let line = 1 + bytes.split(|&b| b == 0).next().map_or(0, newlines);
                    self.problems.push(Problem::line(path, line, "a NUL byte is not allowed"));
                    return None;
                }
                Some(bytes)
            }
            Err(error) => {
                self.problems.push(Problem::unreadable(&path, &error));
                None
            }
        }
    }
}

/// What an editor of another system leaves in a text: marks of byte order, line ends of DOS. qmail takes them for part of a name,
/// which then never matches.
fn foreign(path: &Path, bytes: &[u8]) -> Option<Problem> {
    const ALLOWED: &str = "allowed: plain text (UTF-8 or ASCII) whose lines end in LF alone";
    let marks: [(&[u8], &str); 3] = [
        (b"\xef\xbb\xbf", "begins with a byte order mark (ef bb bf)"),
        (b"\xff\xfe", "is UTF-16 (ff fe)"),
        (b"\xfe\xff", "is UTF-16 (fe ff)"),
    ];
    if let Some((_, what)) = marks.iter().find(|(mark, _)| bytes.starts_with(mark)) {
        return Some(Problem::line(path, 1, format!("the file {what}; {ALLOWED}")));
    }
    let at = bytes.windows(2).position(|two| two == b"\r\n")?;
    Some(Problem::line(path, 1 + newlines(&bytes[..at]), format!("the line ends in CR LF; {ALLOWED}")))
}

fn open(path: &Path, max: u64) -> io::Result<Option<(Seen, Vec<u8>)>> {
    let Some((file, metadata)) = regular::open_with_metadata(path)? else { return Ok(None) };
    let age = SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default();
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    let seen = Seen { path: path.to_owned(), stamp: Some(Stamp::of(&metadata)), settled: age > UNSETTLED };
    Ok(Some((seen, bytes)))
}

fn trimmed(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|b| !b" \t".contains(b)).map_or(0, |last| last + 1);
    &line[..end]
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == b'\n').count()
}
