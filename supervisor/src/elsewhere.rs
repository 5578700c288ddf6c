//! Files that name absolute directories: those of another home, when this one was moved or copied from it.
//!
//! `users/assign` and `vpasswd` say where mail goes, and so do `.qmail` files. In a copy they still name the original, and a
//! rehearsal on it would deliver there.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailtree_config::host::Paths;
use mailtree_protocols::{assign, vpasswd};

use crate::durable;
use crate::failure::Failure;

/// How long users' file systems may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many are named: one is enough to refuse.
const MOST: usize = 10;

/// So many directories outside are remembered, and so many `.qmail` files looked at.
const MANY: usize = 10_000;

/// A directory that a file names, outside of the home, and what lies in its place inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// The file that names it.
    pub(crate) file: PathBuf,
    /// What it names.
    pub(crate) named: PathBuf,
    /// The same directory of this home.
    pub(crate) here: PathBuf,
    home: PathBuf,
}

impl Elsewhere {
    /// What the rewriting of the paths would be called with: what is different at the beginning of the two.
    pub(crate) fn prefixes(&self) -> (PathBuf, PathBuf) {
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
             mailtree --home {} relocate {} {}",
            self.named.display(),
            self.here.display(),
            self.home.display(),
            old.display(),
            new.display()
        )
    }
}

/// What `look` finds, if it does so within [`PATIENCE`]: users' directories may lie on file systems that hang.
pub(crate) fn in_time<T: Send + 'static>(
    paths: &Paths,
    look: fn(&Paths) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (found, finding) = std::sync::mpsc::sync_channel(1);
    let paths = paths.clone();
    let looking = std::thread::Builder::new().name("elsewhere".into());
    // Whoever asked may have given up.
    let looking = looking.spawn(move || drop(found.send(look(&paths))));
    looking.map_err(|error| Failure::temporary(format!("unable to start a thread: {error}")))?;
    finding.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(Failure::temporary(
            "a file system of users does not answer: not looked for directories of another home",
        ))
    })
}

/// Directories in `users/assign` and `vpasswd` for which this home has its own, and those that lie beside such a one: with
/// them no mail is delivered. None in a home that is where its files say.
///
/// # Errors
/// When a file cannot be read or is damaged.
pub(crate) fn find(paths: &Paths) -> Result<Vec<Elsewhere>, Failure> {
    let (mut found, outside) = assigned(paths)?;
    if let Some((old, new)) = found.first().map(Elsewhere::prefixes) {
        let beside = outside.into_iter().filter_map(|(file, named)| {
            let here = new.join(named.strip_prefix(&old).ok()?);
            Some(Elsewhere { file, named, here, home: paths.home.clone() })
        });
        found.extend(beside.take(MOST));
    }
    found.truncate(MOST);
    Ok(found)
}

/// What may be right, but in a rehearsal should be known: virtual domains outside of the home, and `.qmail` files that name
/// directories for which this home has its own.
///
/// # Errors
/// As [`find`].
pub(crate) fn doubtful(paths: &Paths) -> Result<Vec<String>, Failure> {
    let (_, outside) = assigned(paths)?;
    let virtual_domains = outside.into_iter().filter(|(_, named)| behind("domains", named).is_some());
    let mut said: Vec<String> = virtual_domains
        .map(|(file, named)| {
            let (file, domains) = (file.display(), paths.domains.display());
            format!("{file}: mail goes to {}, outside of {domains}", named.display())
        })
        .collect();
    let Some(domains) = real(&paths.domains) else { return Ok(said) };
    let source = paths.users.join("assign");
    let own = homes(paths)?.into_iter().map(|home| own(&source, &home, paths));
    let inside = own.filter(|home| real(home).is_some_and(|home| home.starts_with(&domains)));
    let mut left = MANY;
    for dir in inside.chain([paths.alias.clone()]) {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        let instructions =
            entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(b".qmail"));
        for entry in instructions {
            left = left.saturating_sub(1);
            if left == 0 || said.len() >= MOST {
                return Ok(said);
            }
            if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            // One that cannot be read is its owner's affair.
            let Ok(Some(text)) = durable::read(&entry.path()) else { continue };
            said.extend(
                named_in(&text)
                    .filter_map(|named| elsewhere(&entry.path(), &named, paths))
                    .map(|one| format!("{}: {one}", one.file.display())),
            );
        }
    }
    Ok(said)
}

/// A file, and a directory that it names.
type Named = (PathBuf, PathBuf);

/// What `users/assign` and `vpasswd` name outside of the home: with a directory of this home in its place, and without.
fn assigned(paths: &Paths) -> Result<(Vec<Elsewhere>, Vec<Named>), Failure> {
    let (mut found, mut outside) = (Vec::new(), Vec::new());
    let source = paths.users.join("assign");
    for home in homes(paths)? {
        // Of the original, nothing but its name is of interest.
        let own = own(&source, &home, paths);
        let users = own.join("vpasswd");
        let listed = durable::read(&users).ok().flatten().and_then(|text| vpasswd::parse(&text).ok());
        let listed = listed.into_iter().flatten().map(|user| (users.clone(), path(&user.dir)));
        for (file, named) in std::iter::once((source.clone(), home)).chain(listed) {
            match elsewhere(&file, &named, paths) {
                Some(one) => found.push(one),
                None if !is_inside(&named, paths) => outside.push((file, named)),
                None => (),
            }
            if found.len() >= MOST || outside.len() >= MANY {
                return Ok((found, outside));
            }
        }
    }
    Ok((found, outside))
}

/// The directories in `users/assign`, each once.
fn homes(paths: &Paths) -> Result<Vec<PathBuf>, Failure> {
    let source = paths.users.join("assign");
    let Some(text) = durable::read(&source)? else { return Ok(Vec::new()) };
    let assignments =
        assign::parse(&text).map_err(|error| Failure::permanent(format!("{}: {error}", source.display())))?;
    let mut seen = std::collections::HashSet::new();
    let homes = assignments.into_iter().map(|assignment| path(&assignment.controlled.home));
    Ok(homes.filter(|home| seen.insert(home.clone())).collect())
}

/// The absolute paths in a `.qmail` file: Maildirs and mboxes, and words of programs.
fn named_in(text: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = text.split(|byte| *byte == b'\n');
    let words = lines.flat_map(|line| match line.first() {
        Some(b'/') => vec![line.trim_ascii_end()],
        Some(b'|') => {
            line[1..].split(|byte| byte.is_ascii_whitespace() || b"'\";|&<>()".contains(byte)).collect()
        }
        _ => Vec::new(),
    });
    words.filter(|word| word.starts_with(b"/")).map(path)
}

/// Whether `named` lies outside of the home, where something of the same name lies.
fn elsewhere(file: &Path, named: &Path, paths: &Paths) -> Option<Elsewhere> {
    if is_inside(named, paths) {
        return None;
    }
    let roots = [("domains", &paths.domains), ("alias", &paths.alias)];
    let here = roots.into_iter().find_map(|(name, root)| {
        let here = behind(name, named)?.fold(root.clone(), |path, part| path.join(part));
        // A directory of this home may be a link to another disk.
        (here != *root && here != named && here.exists()).then_some(here)
    })?;
    Some(Elsewhere { file: file.to_owned(), named: named.to_owned(), here, home: paths.home.clone() })
}

/// The directory of this home in the place of `home`.
fn own(source: &Path, home: &Path, paths: &Paths) -> PathBuf {
    elsewhere(source, home, paths).map_or_else(|| home.to_owned(), |one| one.here)
}

/// Whether it lies in one of the home's own trees, whatever links lead there.
fn is_inside(named: &Path, paths: &Paths) -> bool {
    let there = real(named).unwrap_or_else(|| named.to_owned());
    let roots = [&paths.domains, &paths.alias];
    roots.into_iter().any(|root| real(root).is_some_and(|root| there.starts_with(root)))
}

/// What stands behind the last directory called `name`.
fn behind<'a>(name: &str, path: &'a Path) -> Option<impl Iterator<Item = &'a OsStr>> {
    let parts: Vec<&OsStr> = path.iter().collect();
    let at = parts.iter().rposition(|part| *part == name)?;
    Some(parts.into_iter().skip(at + 1))
}

/// Where it really is, if it is there.
pub(crate) fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
