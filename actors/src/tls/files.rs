//! The files of control/ that TLS is made of: their names, their stamps, and bounded reading.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mailtree_config::regular;

use super::Problem;

pub(super) const SERVERCERT: &str = "servercert.pem";
/// The private key, if it is not in `servercert.pem`.
pub(super) const SERVERKEY: &str = "serverkey.pem";
pub(super) const SERVERCERTS: &str = "servercerts";
pub(super) const CLIENTCA: &str = "clientca.pem";
pub(super) const CLIENTCRL: &str = "clientcrl.pem";
pub(super) const TLSCLIENTS: &str = "tlsclients";
pub(super) const TLSSERVERCIPHERS: &str = "tlsserverciphers";

/// Longest file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Most entries of `servercerts`.
const MAX_ENTRIES: usize = 1000;

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    /// A right given or taken changes this one only.
    changed: (i64, i64),
    size: u64,
    inode: u64,
}

/// An entry of `servercerts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its `servercert.pem`, which need not exist.
    pub(super) file: PathBuf,
    /// The host it is for, in lower case: a name, or `*.` and a name; `None` when it is no such thing.
    pub(super) host: Option<String>,
}

/// The contents of a file of at most 1 MiB; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    let unreadable = |error: io::Error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
        _ => Err(Problem::error(path, format!("unable to read: {error}"))),
    };
    match regular::read(path, MAX_FILE) {
        Ok(Some(contents)) if contents.len() as u64 > MAX_FILE => {
            Err(Problem::error(path, "longer than 1 MiB"))
        }
        Ok(contents) => Ok(contents),
        Err(error) => unreadable(error),
    }
}

/// The lines of a control file, without comments, empty lines and white space at their ends (qmail-control).
pub(super) fn lines(contents: &[u8]) -> impl Iterator<Item = &[u8]> {
    contents
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii_end)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

/// The entries of `servercerts`, sorted; hidden ones are none. More than 1000 are an error.
pub(super) fn entries(control: &Path) -> Result<Vec<Entry>, Problem> {
    let directory = control.join(SERVERCERTS);
    let unreadable = |error: io::Error| Problem::error(&directory, format!("unable to read: {error}"));
    let listing = match fs::read_dir(&directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut entries = Vec::new();
    for (count, entry) in listing.enumerate() {
        if count >= MAX_ENTRIES {
            return Err(Problem::error(&directory, format!("more than {MAX_ENTRIES} entries")));
        }
        let name = entry.map_err(unreadable)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            entries.push(Entry { file: directory.join(&name).join(SERVERCERT), host: host(&name) });
        }
    }
    entries.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(entries)
}

fn host(name: &OsStr) -> Option<String> {
    let host = name.to_str()?.to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    let labels = host.strip_prefix("*.").unwrap_or(&host);
    (host.len() <= 253 && labels.split('.').all(label)).then_some(host)
}

/// The stamps of every file TLS is made of; two that are equal mean that nothing has changed.
pub(super) fn stamps(control: &Path) -> Vec<(PathBuf, Option<Stamp>)> {
    let single = [SERVERCERT, SERVERKEY, SERVERCERTS, CLIENTCA, CLIENTCRL, TLSCLIENTS, TLSSERVERCIPHERS];
    let single = single.map(|name| control.join(name));
    let named = entries(control).unwrap_or_default();
    let named = named.into_iter().flat_map(|entry| [entry.file.with_file_name(SERVERKEY), entry.file]);
    let stamped = |path: PathBuf| {
        let stamp = stamp(&path);
        (path, stamp)
    };
    single.into_iter().chain(named).map(stamped).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        size: metadata.size(),
        inode: metadata.ino(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_names_a_host_or_a_wildcard_of_one_label() {
        let table = [
            ("mail.example.org", Some("mail.example.org")),
            ("Mail.Example.ORG", Some("mail.example.org")),
            ("*.example.org", Some("*.example.org")),
            ("localhost", Some("localhost")),
            ("*", None),
            ("*.", None),
            ("a.*.example.org", None),
            ("*.*.example.org", None),
            ("example..org", None),
            ("example.org.", None),
            ("old certificates", None),
        ];
        for (name, expected) in table {
            assert_eq!(host(OsStr::new(name)).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn reading_is_bounded_and_never_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(read(&path), Ok(None));
        fs::write(&path, vec![b'a'; 1024 * 1024]).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().len(), 1024 * 1024);
        fs::write(&path, vec![b'a'; 1024 * 1024 + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err().text, "longer than 1 MiB");
        assert_eq!(read(directory.path()).unwrap_err().text, "unable to read: not a regular file");
        // What lies under a file is as little there as what lies nowhere.
        assert_eq!(read(&path.join("servercert.pem")), Ok(None));
    }

    #[test]
    fn more_than_a_thousand_entries_are_an_error() {
        let control = tempfile::tempdir().unwrap();
        assert_eq!(entries(control.path()), Ok(Vec::new()));
        let directory = control.path().join(SERVERCERTS);
        fs::create_dir_all(directory.join(".hidden")).unwrap();
        for number in 0..999 {
            fs::create_dir(directory.join(format!("host{number}"))).unwrap();
        }
        assert_eq!(entries(control.path()).unwrap().len(), 999);
        fs::create_dir(directory.join("one-more")).unwrap();
        assert_eq!(entries(control.path()).unwrap_err().text, "more than 1000 entries");
    }

    #[test]
    fn lines_are_those_of_a_control_file() {
        let found: Vec<_> = lines(b"# comment\na@example.org \t\r\n\n\nb@example.org").collect();
        assert_eq!(found, [b"a@example.org".as_slice(), b"b@example.org"]);
    }

    #[test]
    fn a_stamp_changes_with_the_file() {
        let control = tempfile::tempdir().unwrap();
        let at_first = stamps(control.path());
        assert_eq!(stamps(control.path()), at_first);
        fs::write(control.path().join(TLSCLIENTS), "a").unwrap();
        let written = stamps(control.path());
        assert_ne!(written, at_first);
        let other = control.path().join("other");
        fs::write(&other, "b").unwrap();
        fs::rename(other, control.path().join(TLSCLIENTS)).unwrap();
        let renamed = stamps(control.path());
        assert_ne!(renamed, written);
        let named = control.path().join(SERVERCERTS).join("example.org");
        fs::create_dir_all(&named).unwrap();
        let mut before = stamps(control.path());
        assert_ne!(before, renamed);
        for file in [named.join(SERVERCERT), named.join(SERVERKEY), control.path().join(SERVERKEY)] {
            fs::write(&file, "a").unwrap();
            let now = stamps(control.path());
            assert_ne!(now, before, "{}", file.display());
            before = now;
        }
    }
}
