//! `qmail-newmrh`: compiles `control/morercpthosts`, as qmail's program of this name.

use std::path::Path;
use std::process::ExitCode;

use mailtree_config::Host;

use crate::failure::Failure;
use crate::vpopmail::Vpopmail;

/// Compiles it; the next RCPT sees the new database.
pub fn run(home: &Path) -> ExitCode {
    match newmrh(home) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("qmail-newmrh"),
    }
}

fn newmrh(home: &Path) -> Result<(), Failure> {
    Vpopmail::new(&Host::load(home)?.paths()).newmrh()
}

#[cfg(test)]
mod tests {
    use mailtree_protocols::cdb::Cdb;

    use super::*;
    use crate::command::init::{Options, initialise};

    #[test]
    fn keys_are_the_lines_in_lower_case() {
        let dir = tempfile::tempdir().unwrap();
        initialise(dir.path(), &Options { me: Some("mail.example".to_owned()), ..Options::default() })
            .unwrap();
        let failure = newmrh(dir.path()).unwrap_err();
        assert!(failure.to_string().ends_with("control/morercpthosts: file does not exist"), "{failure}");
        let file = dir.path().join("control/morercpthosts");
        std::fs::write(&file, "More.Example \t\n# no\n\n.deep.example\nlast.example").unwrap();
        newmrh(dir.path()).unwrap();
        let cdb = Cdb::new(std::fs::read(file.with_extension("cdb")).unwrap()).unwrap();
        let records: Vec<_> = cdb.iter().map(Result::unwrap).collect();
        let expected = [&b"more.example"[..], b".deep.example", b"last.example"].map(|key| (key, &b""[..]));
        assert_eq!(records, expected);
    }
}
