//! `relocate`: rewrites the absolute paths in `users/assign`, `vpasswd` and `.qmail` files of a home that was moved or copied.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_config::Host;

use crate::failure::Failure;
use crate::vpopmail::Vpopmail;

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
    for path in [old, new] {
        if !path.is_absolute() {
            return Err(Failure::permanent(format!("{}; allowed: an absolute path", path.display())));
        }
    }
    let paths = Host::load(home)?.paths();
    let rewritten = Vpopmail::new(&paths).relocate(old, new, *dry_run)?;
    for (file, count) in &rewritten {
        println!("{}: {count} paths", file.display());
    }
    let files = rewritten.len();
    println!("{files} files {}", if *dry_run { "would be rewritten" } else { "rewritten" });
    Ok(())
}
