//! Files that name absolute directories: those of another home, when this one was moved or copied from it.
//!
//! `users/assign` and `vpasswd` say where mail goes. In a copy they still name the original, and a rehearsal on it would
//! deliver there.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mailtree_config::host::Paths;
use mailtree_protocols::{assign, vpasswd};

use crate::durable;
use crate::failure::Failure;

/// So many are looked for: one is enough to refuse.
const MOST: usize = 10;

/// A directory that a file names, outside of the home, and what lies in its place inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// The file that names it.
    pub(crate) file: PathBuf,
    /// What it names.
    pub(crate) named: PathBuf,
    /// The same directory of this home.
    pub(crate) here: PathBuf,
}

impl Elsewhere {
    /// What the rewriting of the paths would be called with: what is different at the beginning of the two.
    fn prefixes(&self) -> (PathBuf, PathBuf) {
        let (mut old, mut new) = (self.named.as_path(), self.here.as_path());
        while let (Some(a), Some(b)) = (old.file_name(), new.file_name())
            && a == b
            && let (Some(above), Some(beside)) = (old.parent(), new.parent())
        {
            (old, new) = (above, beside);
        }
        (old.to_owned(), new.to_owned())
    }
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = self.prefixes();
        write!(
            f,
            "names {}, but this home has {}: it was moved or copied; mail would go to the other place; run \
             mailtree relocate {} {}",
            self.named.display(),
            self.here.display(),
            old.display(),
            new.display()
        )
    }
}

/// The first directories of this kind; none in a home that is where its files say.
///
/// # Errors
/// When a file cannot be read or is damaged.
pub(crate) fn find(paths: &Paths) -> Result<Vec<Elsewhere>, Failure> {
    let mut found = Vec::new();
    let Some(domains) = real(&paths.domains) else { return Ok(found) };
    let source = paths.users.join("assign");
    let Some(text) = durable::read(&source)? else { return Ok(found) };
    let assignments =
        assign::parse(&text).map_err(|error| Failure::permanent(format!("{}: {error}", source.display())))?;
    let mut seen: Vec<PathBuf> = Vec::new();
    for assignment in assignments {
        let home = path(&assignment.controlled.home);
        if seen.contains(&home) {
            continue;
        }
        seen.push(home.clone());
        found.extend(elsewhere(&source, &home, &domains));
        let users = home.join("vpasswd");
        for user in durable::read(&users)
            .ok()
            .flatten()
            .and_then(|text| vpasswd::parse(&text).ok())
            .into_iter()
            .flatten()
        {
            found.extend(elsewhere(&users, &path(&user.dir), &domains));
            if found.len() >= MOST {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Whether `named` lies outside of `domains`, where a directory of the same name lies.
fn elsewhere(file: &Path, named: &Path, domains: &Path) -> Option<Elsewhere> {
    let there = real(named).unwrap_or_else(|| named.to_owned());
    if there.starts_with(domains) {
        return None;
    }
    // What stands behind the last directory called `domains`.
    let parts: Vec<&OsStr> = named.iter().collect();
    let at = parts.iter().rposition(|part| *part == "domains")?;
    let here = parts[at + 1..].iter().fold(domains.to_owned(), |path, part| path.join(part));
    // A directory of this home may be a link to another disk.
    (here != domains && here != named && here.is_dir()).then(|| Elsewhere {
        file: file.to_owned(),
        named: named.to_owned(),
        here,
    })
}

fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
