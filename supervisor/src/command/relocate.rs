//! `relocate`: rewrites the absolute paths in `users/assign`, `vpasswd` and `.qmail` files of a home that was moved or copied.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_config::Host;
use mailtree_config::host::Paths;

use crate::control::lock;
use crate::elsewhere::{self, real};
use crate::failure::Failure;
use crate::vpopmail::{Relocated, Vpopmail};

/// So many directories that were left as they are, are named.
const MOST: usize = 10;

/// Rewrite paths that begin with OLD in users/assign, vpasswd and .qmail files, after the home was moved or copied
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where it was, absolute
    old: PathBuf,
    /// Where it is, absolute
    new: PathBuf,
    /// Only say what would be rewritten
    #[arg(long)]
    dry_run: bool,
}

/// Does it, each file whole or not at all; a second run goes on where the first one was stopped.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    match relocate(home, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("mailtree relocate"),
    }
}

fn relocate(home: &Path, args: &Args) -> Result<(), Failure> {
    let Args { old, new, dry_run } = args;
    // With a slash at its end no path would begin so.
    let [old, new] = &[old, new].map(|path| path.components().collect::<PathBuf>());
    for (name, path) in [("OLD", old), ("NEW", new)] {
        if !path.is_absolute() || path.parent().is_none() {
            let path = path.display();
            return Err(Failure::permanent(format!("{name} {path}; allowed: an absolute path other than /")));
        }
    }
    let paths = Host::load(home)?.paths();
    if !is_of(&paths, new) {
        let (new, home) = (new.display(), paths.home.display());
        return Err(Failure::permanent(format!(
            "NEW {new}; allowed: where the home {home} is, or its qmail or vpopmail; --home names another home"
        )));
    }
    // Mail that is being delivered would go to both places.
    let lock = if *dry_run {
        None
    } else {
        Some(lock(home).map_err(|error| Failure::temporary(error.to_string()))?)
    };
    let Relocated { files, left } = Vpopmail::new(&paths).relocate(old, new, *dry_run)?;
    for (file, count) in &files {
        outln!("{}: {count} paths", file.display());
    }
    outln!("{} files {}", files.len(), if *dry_run { "would be rewritten" } else { "rewritten" });
    for left in left.iter().take(MOST) {
        errln!("mailtree relocate: warning: {left}");
    }
    if left.len() > MOST {
        errln!("mailtree relocate: warning: {} more", left.len() - MOST);
    }
    drop(lock);
    if !files.is_empty() {
        return Ok(());
    }
    let named = elsewhere::in_time(&paths, elsewhere::places)?.join(" ");
    let nothing = format!("no path begins with {}; the files name {named}", old.display());
    match elsewhere::in_time(&paths, elsewhere::find)?.first() {
        Some(one) => Err(Failure::permanent(format!("{nothing}; run {}", one.command()))),
        None => {
            errln!("mailtree relocate: {nothing}");
            Ok(())
        }
    }
}

/// Whether `new` is, or is in or around, one of the directories whose paths are rewritten.
fn is_of(paths: &Paths, new: &Path) -> bool {
    let Some(new) = real(new) else { return false };
    let own = [&paths.home, &paths.users, &paths.alias, &paths.domains];
    own.into_iter().filter_map(|path| real(path)).any(|own| own.starts_with(&new) || new.starts_with(&own))
}
