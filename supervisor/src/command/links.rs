//! `links`: makes links of the classic names to this program, which then acts as the program of that name.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::home::{BESIDE_LINKS, By, Home};
use crate::durable::{self, Owner};
use crate::failure::{Doing, Failure};
use crate::vpopmail::create_dirs;

/// The programs that this one takes the place of.
pub const NAMES: [&str; 33] = [
    "svc",
    "svstat",
    "svok",
    "qmail-queue",
    "qmail-inject",
    "sendmail",
    "mailq",
    "newaliases",
    "datemail",
    "mailsubj",
    "qmail-qmqpc",
    "qmail-qmqpd",
    "qmail-qread",
    "qmail-qstat",
    "forward",
    "bouncesaying",
    "condredirect",
    "except",
    "preline",
    "predate",
    "qreceipt",
    "qbiff",
    "maildirmake",
    "maildir2mbox",
    "mbox2maildir",
    "qmail-newmrh",
    "qmail-newu",
    "qmail-pw2u",
    "qmailctl",
    "tcprules",
    "tcprulescheck",
    "vadddomain",
    "vadduser",
];

/// Makes links of the classic names to this program.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for the links; made if it is not there
    dir: PathBuf,
}

/// Makes the links, and notes the home for them. What stands there under one of the names already is left alone and
/// named.
pub(super) fn run(home: &Home, args: &Args) -> ExitCode {
    let program = match std::env::current_exe().doing("find", Path::new("this program")) {
        Ok(program) => program,
        Err(failure) => return failure.report("mailtree links"),
    };
    match link(&program, &args.dir).and_then(|()| note(home, &args.dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("mailtree links"),
    }
}

fn link(program: &Path, dir: &Path) -> Result<(), Failure> {
    create_dirs(dir)?;
    let mut taken = Vec::new();
    for name in NAMES {
        let link = dir.join(name);
        match std::os::unix::fs::symlink(program, &link) {
            Ok(()) => outln!("{} -> {}", link.display(), program.display()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if std::fs::read_link(&link).ok().as_deref() != Some(program) {
                    taken.push(format!(
                        "{} exists and is not a link to {}",
                        link.display(),
                        program.display()
                    ));
                }
            }
            Err(error) => return Err(Failure::io("create", &link, &error)),
        }
    }
    if taken.is_empty() { Ok(()) } else { Err(Failure::permanent(taken.join("\n"))) }
}

/// Notes the home beside the links: called through one, the program is for it, wherever it is called from.
fn note(home: &Home, dir: &Path) -> Result<(), Failure> {
    let path = std::path::absolute(&home.path).doing("find", &home.path)?;
    if home.by == By::Default && !path.join(mailtree_config::host::FILE).exists() {
        errln!("mailtree links: warning: no home is noted: there is none in {}: {}", path.display(), home.by);
        return Ok(());
    }
    let file = dir.join(BESIDE_LINKS);
    // What is canonical stays right when a link on the way to it is turned.
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    let mut line = path.as_os_str().as_bytes().to_owned();
    line.push(b'\n');
    durable::replace(&file, &line, 0o644, Owner::own())?;
    outln!("{}: {}", file.display(), path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_made_once_and_nothing_is_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("new/bin");
        let program = Path::new("/usr/bin/mailtree");
        link(program, &dir).unwrap();
        for name in NAMES {
            assert_eq!(std::fs::read_link(dir.join(name)).unwrap(), program, "{name}");
        }
        link(program, &dir).unwrap();
        std::fs::remove_file(dir.join("svc")).unwrap();
        std::fs::write(dir.join("svc"), "daemontools").unwrap();
        let failure = link(program, &dir).unwrap_err();
        assert!(failure.is_permanent() && failure.to_string().contains("svc exists"), "{failure}");
        assert_eq!(std::fs::read_to_string(dir.join("svc")).unwrap(), "daemontools");
    }
}
