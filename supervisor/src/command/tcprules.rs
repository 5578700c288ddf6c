//! `tcprules`: compiles rules for tcpserver, as ucspi-tcp's program of this name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_protocols::tcprules;

use crate::durable;
use crate::failure::{Doing, Failure};

/// `tcprules rules.cdb rules.tmp < rules`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database, then the file it is written to first, on the same file system
    arguments: Vec<PathBuf>,
}

/// Compiles standard input. Whatever goes wrong, the old database stays.
pub fn run(args: &Args) -> ExitCode {
    let [cdb, tmp, ..] = &args.arguments[..] else {
        errln!("tcprules: usage: tcprules rules.cdb rules.tmp");
        return ExitCode::from(100);
    };
    match read(io::stdin().lock()).and_then(|text| compile(&text)).and_then(|rules| write(cdb, tmp, &rules)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("tcprules"),
    }
}

/// The bytes of the database for a file of rules.
pub(super) fn compile(text: &[u8]) -> Result<Vec<u8>, Failure> {
    let rules = tcprules::parse(text).and_then(|rules| tcprules::compile(&rules));
    rules.map_err(|error| Failure::permanent(error.to_string()))
}

fn read(input: impl Read) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let failed = |error| Failure::temporary(format!("unable to read input: {error}"));
    input.take(durable::SIZE_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > durable::SIZE_MAX {
        return Err(Failure::permanent(format!("input: longer than {} bytes", durable::SIZE_MAX)));
    }
    Ok(text)
}

fn write(cdb: &Path, tmp: &Path, rules: &[u8]) -> Result<(), Failure> {
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o644).open(tmp).doing("create", tmp)?;
    file.write_all(rules).and_then(|()| file.sync_all()).doing("write to", tmp)?;
    let moving =
        |error| Failure::temporary(format!("unable to move {} to {}: {error}", tmp.display(), cdb.display()));
    std::fs::rename(tmp, cdb).map_err(moving)?;
    durable::sync_dir(durable::parent(cdb))
}

#[cfg(test)]
mod tests {
    use mailtree_protocols::cdb::Cdb;

    use super::*;

    #[test]
    fn a_bad_line_is_named_in_the_words_of_tcprules() {
        let failure = compile(b":allow\n1.2.3.4:perhaps\n").unwrap_err();
        assert!(failure.is_permanent());
        let said = failure.to_string();
        assert!(said.starts_with("unable to parse this line: 1.2.3.4:perhaps\nline 2; allowed: "), "{said}");
    }

    #[test]
    fn the_database_takes_the_place_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let [cdb, tmp] = ["rules.cdb", "rules.tmp"].map(|name| dir.path().join(name));
        std::fs::write(&tmp, "x".repeat(5000)).unwrap();
        for text in ["10.:deny\n", ":allow\n"] {
            write(&cdb, &tmp, &compile(text.as_bytes()).unwrap()).unwrap();
            let found = Cdb::new(std::fs::read(&cdb).unwrap()).unwrap();
            assert_eq!(found.iter().count(), 1);
            assert!(!tmp.exists());
        }
        let before = std::fs::read(&cdb).unwrap();
        let nowhere = dir.path().join("missing/tmp");
        let failure = write(&cdb, &nowhere, b"").unwrap_err();
        assert!(!failure.is_permanent() && failure.to_string().starts_with("unable to create "), "{failure}");
        assert_eq!(std::fs::read(&cdb).unwrap(), before);
    }
}
