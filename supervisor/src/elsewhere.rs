//! Files that name absolute directories: those of another home, when this one was moved or copied from it.
//!
//! `users/assign` and `vpasswd` say where mail goes, and so do `.qmail` files. In a copy they still name the original, and a
//! rehearsal on it would deliver there.

mod outward;

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailtree_config::host::Paths;
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::{assign, vpasswd};

pub(crate) use outward::{outward, programs};

use crate::durable;
use crate::failure::Failure;

/// How long users' file systems may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many are named: one is enough to refuse.
const MOST: usize = 10;

/// So many directories outside are remembered, and so many directories and `.qmail` files looked at.
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
    /// The directory of this home in which `domains` or `alias` lies.
    root: PathBuf,
    home: PathBuf,
}

impl Elsewhere {
    /// What the rewriting of the paths is called with: what is different at the beginning of the two, and no more of it than
    /// the directory in which `domains` lies. Never `/`, with which every path begins.
    pub(crate) fn prefixes(&self) -> (PathBuf, PathBuf) {
        let (mut old, mut new) = (self.named.as_path(), self.here.as_path());
        while new != self.root
            && let (Some(a), Some(b)) = (old.file_name(), new.file_name())
            && a == b
            && let (Some(above), Some(beside)) = (old.parent(), new.parent())
            && above.parent().is_some()
        {
            (old, new) = (above, beside);
        }
        (old.to_owned(), new.to_owned())
    }

    /// The command that rewrites the paths.
    pub(crate) fn command(&self) -> String {
        let (old, new) = self.prefixes();
        format!("mailtree --home {} relocate {} {}", word(&self.home), word(&old), word(&new))
    }
}

/// A path as a word of a shell.
pub(crate) fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain =
        |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c) || (!c.is_ascii() && !c.is_control());
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "names {}, but this home has {}: it was moved or copied; mail would go to the other place; run {}",
            self.named.display(),
            self.here.display(),
            self.command()
        )
    }
}

/// What `look` finds, if it does so within [`PATIENCE`]: users' directories may lie on file systems that hang.
pub(crate) fn in_time<T: Send + 'static>(
    paths: &Paths,
    look: fn(&Paths) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (found, finding) = std::sync::mpsc::sync_channel(1);
    // What is said is a command, which has to be right wherever it is typed.
    let paths = absolute(paths);
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
            Some(Elsewhere { file, named, here, root: new.clone(), home: paths.home.clone() })
        });
        found.extend(beside.take(MOST));
    }
    // One for each file, and then more.
    let mut seen = std::collections::HashSet::new();
    found.sort_by_cached_key(|one| !seen.insert(one.file.clone()));
    found.truncate(MOST);
    Ok(found)
}

/// What may be right, but in a rehearsal should be known: virtual domains outside of the home, and `.qmail` files that name
/// directories for which this home has its own. Each file once; of many the number.
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
    for file in instructions(paths)? {
        // One that cannot be read is its owner's affair.
        let Ok(Some(text)) = durable::read(&file) else { continue };
        let one = named_in(&text).find_map(|named| elsewhere(&file, &named, paths));
        said.extend(one.map(|one| format!("{}: {one}", one.file.display())));
    }
    Ok(at_most(said, "more such files"))
}

/// The first [`MOST`], and how many there are beside them.
fn at_most(mut said: Vec<String>, what: &str) -> Vec<String> {
    let more = said.len().saturating_sub(MOST);
    if more > 0 {
        said.truncate(MOST);
        said.push(format!("{more} {what}"));
    }
    said
}

/// The `.qmail` files of the domains inside of the home, of their users, and of the user alias; not more than [`MANY`].
fn instructions(paths: &Paths) -> Result<Vec<PathBuf>, Failure> {
    let source = paths.users.join("assign");
    let bases = bases(paths);
    let inside = |dir: &Path| real(dir).is_some_and(|dir| bases.iter().any(|base| dir.starts_with(base)));
    let mut files = Vec::new();
    let mut left = MANY;
    let mut look = |dir: &Path| {
        left = left.saturating_sub(1);
        if left == 0 || !inside(dir) {
            return;
        }
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            // Where a link leads, mail goes.
            let wanted = entry.file_name().as_bytes().starts_with(b".qmail")
                && entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_symlink());
            if wanted && left > 0 {
                left -= 1;
                files.push(entry.path());
            }
        }
    };
    look(&paths.alias);
    for home in homes(paths)?.into_iter().map(|(_, home)| own(&source, &home, paths)) {
        if !inside(&home) {
            continue;
        }
        look(&home);
        for (_, dir) in users(&home) {
            let dir = own(&source, &dir, paths);
            if dir != home {
                look(&dir);
            }
        }
    }
    Ok(files)
}

/// A file, and a directory that it names.
type Named = (PathBuf, PathBuf);

/// What a database holds that is asked beside its source; none if it is not there, or is named elsewhere as damaged.
fn database(path: &Path) -> Option<Cdb<Vec<u8>>> {
    durable::read(path).ok().flatten().and_then(|bytes| Cdb::new(bytes).ok())
}

/// The users' directories in `vpasswd`, and those that its database alone names.
fn users(domain: &Path) -> Vec<Named> {
    let (source, compiled) = (domain.join("vpasswd"), domain.join("vpasswd.cdb"));
    let listed = durable::read(&source).ok().flatten().and_then(|text| vpasswd::parse(&text).ok());
    let mut seen = std::collections::HashSet::new();
    let mut users: Vec<Named> = Vec::new();
    for user in listed.into_iter().flatten() {
        if seen.insert(user.dir.clone()) {
            users.push((source.clone(), path(&user.dir)));
        }
    }
    for (name, data) in database(&compiled).iter().flatten().flatten() {
        if let Ok(user) = vpasswd::Entry::from_record(name, data)
            && seen.insert(user.dir.clone())
        {
            users.push((compiled.clone(), path(&user.dir)));
        }
    }
    users
}

/// What `users/assign` and `vpasswd` name outside of the home: with a directory of this home in its place, and without.
fn assigned(paths: &Paths) -> Result<(Vec<Elsewhere>, Vec<Named>), Failure> {
    let (mut found, mut outside) = (Vec::new(), Vec::new());
    for (source, home) in homes(paths)? {
        // Of the original, nothing but its name is of interest.
        let own = own(&source, &home, paths);
        for (file, named) in std::iter::once((source, home)).chain(users(&own)) {
            match elsewhere(&file, &named, paths) {
                Some(one) => found.push(one),
                None if !is_inside(&named, paths) => outside.push((file, named)),
                None => (),
            }
            if found.len() >= MANY || outside.len() >= MANY {
                return Ok((found, outside));
            }
        }
    }
    Ok((found, outside))
}

/// The directories in `users/assign`, each once, and those that its database alone names.
fn homes(paths: &Paths) -> Result<Vec<Named>, Failure> {
    let (source, compiled) = (paths.users.join("assign"), paths.users.join("cdb"));
    let text = durable::read(&source)?.unwrap_or_default();
    let assignments = if text.is_empty() {
        Vec::new()
    } else {
        assign::parse(&text).map_err(|error| Failure::permanent(format!("{}: {error}", source.display())))?
    };
    let mut seen = std::collections::HashSet::new();
    let mut homes: Vec<Named> = Vec::new();
    for assignment in assignments {
        if seen.insert(assignment.controlled.home.clone()) {
            homes.push((source.clone(), path(&assignment.controlled.home)));
        }
    }
    // Mail goes where the database says. A damaged one is named where it is looked at.
    for entry in database(&compiled).iter().flat_map(assign::entries) {
        if seen.insert(entry.home.clone()) {
            homes.push((compiled.clone(), path(&entry.home)));
        }
    }
    Ok(homes)
}

/// The places that the files name: of virtual domains where their `domains` lies, of users their directories.
///
/// # Errors
/// As [`find`].
pub(crate) fn places(paths: &Paths) -> Result<Vec<String>, Failure> {
    let place = |(_, home): Named| {
        let above = home.ancestors().find(|above| above.file_name().is_some_and(|name| name == "domains"));
        above.and_then(Path::parent).filter(|above| above.parent().is_some()).unwrap_or(&home).to_owned()
    };
    let mut places: Vec<String> = homes(paths)?.into_iter().map(|home| word(&place(home))).collect();
    places.sort();
    places.dedup();
    Ok(at_most(places, "more"))
}

/// Where the home's own directories really are: whatever else a path leads to lies outside.
pub(crate) fn bases(paths: &Paths) -> Vec<PathBuf> {
    let above = [&paths.control, &paths.alias, &paths.domains].into_iter().filter_map(|path| path.parent());
    std::iter::once(paths.home.as_path()).chain(above).filter_map(real).collect()
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
    let (here, root) = roots.into_iter().find_map(|(name, root)| {
        let here = behind(name, named)?.fold(root.clone(), |path, part| path.join(part));
        // A directory of this home may be a link to another disk.
        (here != *root && here != named && here.exists()).then_some((here, root.parent().unwrap_or(root)))
    })?;
    let (file, named, root) = (file.to_owned(), named.to_owned(), root.to_owned());
    Some(Elsewhere { file, named, here, root, home: paths.home.clone() })
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

/// The paths from the root on.
fn absolute(paths: &Paths) -> Paths {
    let mut paths = paths.clone();
    let Paths { home, host_ron, control, queue, users, alias, domains, run, journal_id, trusted } =
        &mut paths;
    for path in [home, host_ron, control, queue, users, alias, domains, run, journal_id, trusted] {
        // Without a working directory there is nothing better than what it is.
        *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
    }
    paths
}

/// Where it really is, if it is there.
pub(crate) fn real(path: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(path).ok()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_begins_no_path_with_the_root() {
        for (named, here, root, expected) in [
            ("/o/domains/d", "/n/domains/d", "/n", "relocate /o /n"),
            ("/home/v/domains/d", "/c/home/v/domains/d", "/c/home/v", "relocate /home/v /c/home/v"),
            ("/domains/d", "/n/domains/d", "/n", "relocate /domains /n/domains"),
            ("/v/domains/d/bob", "/my copy/v/domains/d/bob", "/my copy/v", "relocate /v '/my copy/v'"),
            ("/o/alias/x", "/it's/alias/x", "/it's", "relocate /o '/it'\\''s'"),
        ] {
            let [named, here, root] = [named, here, root].map(PathBuf::from);
            let one = Elsewhere { file: PathBuf::new(), named, here, root, home: PathBuf::from("/h") };
            assert_eq!(one.command(), format!("mailtree --home /h {expected}"));
        }
    }
}
