//! `lastauth` in a user's directory: from where the user has logged in; its time of change says when. vpopmail reads it
//! (`vuserinfo`, `vdeloldusers`) and writes it the same way, unless it was built with `--disable-auth-logging`.

use std::fs::{self, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::Duration;

use mailtree_config::regular;

/// A file that says the same is not written again within this time.
const FRESH: Duration = Duration::from_secs(60);

/// As vpopmail's umask has it.
const MODE: u32 = 0o600;

/// Notes a login from `ip` in the user's directory `dir`. The file that is there keeps its owner and mode; a new one gets those
/// of the directory and vpopmail's. Whoever reads it finds the old file or the new one. Blocks.
///
/// # Errors
/// When it cannot be written. There may be no login noted then.
pub(super) fn note(dir: &Path, ip: IpAddr) -> io::Result<()> {
    let path = dir.join("lastauth");
    let text = ip.to_canonical().to_string();
    // The directory is the user's: a link in it would lend a file of another its owner and mode.
    let old = match regular::open_itself(OpenOptions::new().read(true), &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened?),
    };
    let (owner, mode) = match old {
        Some(file) => {
            let old = file.metadata()?;
            let mut said = String::new();
            if is_fresh(&old) && file.take(64).read_to_string(&mut said).is_ok() && said == text {
                return Ok(());
            }
            ((old.uid(), old.gid()), old.mode() & 0o666)
        }
        None => {
            let dir = fs::metadata(dir)?;
            ((dir.uid(), dir.gid()), MODE)
        }
    };
    let new = dir.join(".lastauth.new");
    // The rest of a host that was killed.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new) {
        // Another login of the user is being noted.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        opened => opened?,
    };
    let mut write = || {
        file.write_all(text.as_bytes())?;
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != owner {
            fchown(&file, Some(owner.0), Some(owner.1))?;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        fs::rename(&new, &path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}

fn is_fresh(metadata: &Metadata) -> bool {
    metadata.modified().ok().and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age < FRESH)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_login_is_noted_as_vpopmail_does_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lastauth");
        let read = || fs::read_to_string(&path).unwrap();
        let inode = || fs::metadata(&path).unwrap().ino();
        note(dir.path(), "::ffff:192.0.2.7".parse().unwrap()).unwrap();
        assert_eq!(read(), "192.0.2.7");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // The same within a minute costs nothing; another address does, and so does the same one later.
        let first = inode();
        note(dir.path(), "192.0.2.7".parse().unwrap()).unwrap();
        assert_eq!(inode(), first);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        note(dir.path(), "2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!((read().as_str(), fs::metadata(&path).unwrap().mode() & 0o777), ("2001:db8::1", 0o640));
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        note(dir.path(), "2001:db8::1".parse().unwrap()).unwrap();
        assert!(is_fresh(&fs::metadata(&path).unwrap()));
        // What a killed host left is replaced; what is no file is not.
        fs::write(dir.path().join(".lastauth.new"), "half").unwrap();
        note(dir.path(), "192.0.2.8".parse().unwrap()).unwrap();
        assert_eq!(read(), "192.0.2.8");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(note(dir.path(), "192.0.2.9".parse().unwrap()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_user_lends_nobody_elses_mode_or_owner() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let path = dir.path().join("lastauth");
        fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o4755)).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &path).unwrap();
        assert!(note(dir.path(), "192.0.2.9".parse().unwrap()).is_err());
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o4755)).unwrap();
        note(dir.path(), "192.0.2.9".parse().unwrap()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
    }
}
