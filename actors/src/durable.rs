//! Files that are whole or not there: written beside their place, made durable, renamed.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use tempfile::NamedTempFile;

/// Who owns a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Numeric user.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

impl Owner {
    /// Of a file or directory.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { uid: metadata.uid(), gid: metadata.gid() })
    }

    /// Of what this process creates.
    pub fn own() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// Makes him the owner of what is at `path`, if he is not.
    pub fn give(self, path: &Path) -> io::Result<()> {
        if self == Self::of(path)? {
            return Ok(());
        }
        match std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)) {
            // Whoever is not root gives nothing away: what he makes anew is his.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied
                    && !rustix::process::geteuid().is_root() =>
            {
                Ok(())
            }
            given => given,
        }
    }
}

/// Writes a file, in place of an old one if there is one. Old mode and owner stay; a new file gets those given. `finish` is
/// the last to touch it before it has its name.
pub fn replace_with(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Owner,
    finish: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let (mode, owner) = match std::fs::metadata(path) {
        Ok(old) => (old.mode() & 0o7777, Owner { uid: old.uid(), gid: old.gid() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (mode, owner),
        Err(error) => return Err(error),
    };
    let file = written(path, bytes, mode, owner)?;
    finish(file.as_file())?;
    file.persist(path).map_err(|error| error.error)?;
    sync_dir(parent(path))
}

/// The same, with nothing else to be done to it.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
    replace_with(path, bytes, mode, owner, |_| Ok(()))
}

/// Writes a file that must not be there yet.
pub fn create(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
    let file = written(path, bytes, mode, owner)?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    sync_dir(parent(path))
}

fn written(path: &Path, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(parent(path))?;
    file.write_all(bytes)?;
    owner.give(file.path())?;
    // After chown, which clears some bits.
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes the entries of a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory of a file.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}
