//! `qmail-newu`: compiles `users/assign`, as qmail's program of this name.

use std::path::Path;
use std::process::ExitCode;

use mailtree_config::Host;

use crate::failure::Failure;
use crate::vpopmail::Vpopmail;

/// Compiles it; the running host obeys it at once. 111 as qmail-newu, whatever is wrong.
pub fn run(home: &Path) -> ExitCode {
    match newu(home) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report("qmail-newu");
            ExitCode::from(111)
        }
    }
}

fn newu(home: &Path) -> Result<(), Failure> {
    Vpopmail::new(&Host::load(home)?.paths()).newu()
}

#[cfg(test)]
mod tests {
    use mailtree_protocols::assign;
    use mailtree_protocols::cdb::Cdb;

    use super::*;
    use crate::command::init::{Options, initialise};

    #[test]
    fn what_is_edited_is_compiled_and_a_bad_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        initialise(dir.path(), &Options { me: Some("mail.example".to_owned()), ..Options::default() })
            .unwrap();
        let (source, compiled) = (dir.path().join("users/assign"), dir.path().join("users/cdb"));
        let text = std::fs::read_to_string(&source).unwrap();
        let edited = format!("=joe:joe:507:100:/home/joe:::\n{text}");
        std::fs::write(&source, &edited).unwrap();
        newu(dir.path()).unwrap();
        let read = || std::fs::read(&compiled).unwrap();
        let found = assign::lookup(&Cdb::new(read()).unwrap(), b"joe").unwrap().unwrap();
        assert_eq!((found.uid, found.home.as_slice()), (507, &b"/home/joe"[..]));
        assert_eq!(std::fs::read_to_string(&source).unwrap(), edited, "it is only read");

        let before = read();
        for (bad, text) in [
            (
                "=joe:joe:507:100:/home/joe:::\n",
                "bad format in users/assign: line 2: the last line must be a dot",
            ),
            ("joe:507\n.\n", "bad format in users/assign: line 1: "),
        ] {
            std::fs::write(&source, bad).unwrap();
            let failure = newu(dir.path()).unwrap_err().to_string();
            assert!(failure.starts_with(text), "{failure}");
        }
        std::fs::remove_file(&source).unwrap();
        let failure = newu(dir.path()).unwrap_err().to_string();
        assert_eq!(failure, "unable to open users/assign: file does not exist");
        assert_eq!(read(), before);
    }
}
