//! `links`: makes links of the classic names to this program, which then acts as the program of that name.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::failure::{Doing, Failure};
use crate::vpopmail::create_dirs;

/// The programs that this one takes the place of.
pub const NAMES: [&str; 11] = [
    "svc",
    "svstat",
    "svok",
    "qmail-qread",
    "qmail-qstat",
    "qmail-newmrh",
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

/// Makes the links. What stands there under one of the names already is left alone and named.
pub fn run(args: &Args) -> ExitCode {
    let program = match std::env::current_exe().doing("find", Path::new("this program")) {
        Ok(program) => program,
        Err(failure) => return failure.report("mailtree links"),
    };
    match link(&program, &args.dir) {
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
            Ok(()) => println!("{} -> {}", link.display(), program.display()),
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
