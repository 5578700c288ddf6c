//! Opening files in places where others may put something else. Whatever is no regular file is neither waited for, as a FIFO
//! would be, nor read without an end, as a device would be: it is an error.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a file for reading. `None`: there is none.
///
/// # Errors
/// When it cannot be opened, or is no regular file.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    Ok(open_with_metadata(path)?.map(|(file, _)| file))
}

/// The same, with what was found out about it.
///
/// # Errors
/// As [`open`].
pub fn open_with_metadata(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    let mut options = OpenOptions::new();
    options.read(true);
    // A time of access would be written for each read of a file whose next attempt, its time of change, lies ahead.
    let file = match opened(&mut options, OFlags::NOATIME, path) {
        // Only a file's owner may ask for that.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            opened(&mut options, OFlags::empty(), path)
        }
        opened => opened,
    };
    match file {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file as `options` say.
///
/// # Errors
/// When it cannot be opened, or is no regular file.
pub fn open_as(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    opened(options, OFlags::empty(), path).map(|(file, _)| file)
}

/// The same, and a symbolic link is not followed.
///
/// # Errors
/// As [`open_as`], and when it is a symbolic link.
pub fn open_itself(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    opened(options, OFlags::NOFOLLOW, path).map(|(file, _)| file)
}

/// The bytes of a file, at most one more than `max`, which says that there are too many. `None`: there is no file.
///
/// # Errors
/// When it cannot be read, or is no regular file.
pub fn read(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn opened(options: &mut OpenOptions, flags: OFlags, path: &Path) -> io::Result<(File, Metadata)> {
    let no_file = || io::Error::other("not a regular file");
    let flags = (OFlags::NONBLOCK | flags).bits().cast_signed();
    let file = match options.custom_flags(flags).open(path) {
        Ok(file) => file,
        // To be written: a FIFO that nobody reads, a device without a driver; a directory.
        Err(error) => {
            let no_reader = error.raw_os_error() == Some(Errno::NXIO.raw_os_error());
            let directory = error.kind() == io::ErrorKind::IsADirectory;
            return Err(if no_reader || directory { no_file() } else { error });
        }
    };
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(no_file()) }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "12345").unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        mkfifoat(CWD, path("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        assert_eq!(read(&path("file"), 5).unwrap().unwrap(), b"12345");
        assert_eq!(read(&path("link"), 2).unwrap().unwrap(), b"123");
        assert!(read(&path("missing"), 5).unwrap().is_none());
        let mut ways = [OpenOptions::new(), OpenOptions::new(), OpenOptions::new(), OpenOptions::new()];
        ways[0].read(true);
        ways[1].write(true);
        ways[2].append(true);
        ways[3].read(true).write(true);
        for name in ["directory", "fifo", "device"] {
            for options in &mut ways {
                let error = open_as(options, &path(name)).unwrap_err().to_string();
                assert_eq!(error, "not a regular file", "{name}");
            }
            assert!(open(&path(name)).is_err());
        }
        for options in &mut ways {
            open_as(options, &path("file")).unwrap();
            assert!(open_itself(options, &path("link")).is_err());
        }
    }
}
