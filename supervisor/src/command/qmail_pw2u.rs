//! `qmail-pw2u`: makes a `users/assign` of a passwd file, as qmail's program of this name.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use mailtree_config::Host;
use mailtree_protocols::assign::passwd::{Files, Homes, Rules, assignments};
use mailtree_protocols::inject::getopt::{Getopt, Unknown};

use super::qmail_inject::words;
use crate::durable;
use crate::failure::Failure;

/// Reads standard input, prints the file; a wrong option is 100, everything else 111, as with qmail-pw2u.
pub(super) fn run(home: &Path, arguments: &[OsString]) -> ExitCode {
    let rules = match rules(&words(arguments)) {
        Ok(rules) => rules,
        Err(Unknown(text)) => {
            errln!("qmail-pw2u: {text}");
            return ExitCode::from(100);
        }
    };
    match pw2u(home, &rules) {
        Ok(text) => {
            crate::output::raw(&text);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            failure.report("qmail-pw2u");
            ExitCode::from(111)
        }
    }
}

fn rules(words: &[Vec<u8>]) -> Result<Rules, Unknown> {
    let mut rules = Rules::default();
    let mut getopt = Getopt::new(words, "/ohHuUc:C");
    while let Some(option) = getopt.next() {
        match option? {
            (b'/', _) => rules.slash = true,
            (b'o', _) => rules.homes = Homes::Own,
            (b'h', _) => rules.homes = Homes::Must,
            (b'H', _) => rules.homes = Homes::All,
            (b'u', _) => rules.upper = true,
            (b'U', _) => rules.upper = false,
            (b'c', delimiter) => rules.delimiter = delimiter.first().copied(),
            _ => rules.delimiter = None,
        }
    }
    Ok(rules)
}

fn pw2u(home: &Path, rules: &Rules) -> Result<Vec<u8>, Failure> {
    let users = Host::load(home)?.paths().users;
    let read = |name: &str| {
        durable::read(&users.join(name))
            .map_err(|cause| Failure::temporary(format!("unable to read controls: {cause}")))
    };
    let [include, exclude, mailnames, subusers, append] =
        ["include", "exclude", "mailnames", "subusers", "append"].map(read);
    let (include, exclude, mailnames, subusers, append) =
        (include?, exclude?, mailnames?, subusers?, append?);
    let files = Files {
        include: include.as_deref(),
        exclude: exclude.as_deref(),
        mailnames: mailnames.as_deref(),
        subusers: subusers.as_deref(),
        append: append.as_deref(),
    };
    let mut passwd = Vec::new();
    let input = io::stdin().lock().take(durable::SIZE_MAX).read_to_end(&mut passwd);
    input.map_err(|error| Failure::temporary(format!("unable to read input: {error}")))?;
    assignments(&passwd, rules, &files, owner).map_err(|error| Failure::temporary(error.to_string()))
}

/// Whose a directory is.
fn owner(home: &[u8]) -> Result<Option<u32>, ()> {
    match std::fs::metadata(OsStr::from_bytes(home)) {
        Ok(metadata) => Ok(Some(metadata.uid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(_) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_qmail_pw2us() {
        let read = |line: &str| {
            let words: Vec<Vec<u8>> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
            rules(&words)
        };
        let default = Rules::default;
        for (line, expected) in [
            ("", default()),
            ("-ou -U", default()),
            ("-hu", Rules { homes: Homes::Must, upper: true, ..default() }),
            ("-hH", Rules { homes: Homes::All, ..default() }),
            ("-/c+", Rules { slash: true, delimiter: Some(b'+'), ..default() }),
            ("-c = ignored", Rules { delimiter: Some(b'='), ..default() }),
            ("-C", Rules { delimiter: None, ..default() }),
            ("-C -c.", Rules { delimiter: Some(b'.'), ..default() }),
        ] {
            assert_eq!(read(line), Ok(expected), "{line}");
        }
        assert_eq!(read("-x"), Err(Unknown("illegal option -- x".to_owned())));
        assert_eq!(read("-c"), Err(Unknown("option requires an argument -- c".to_owned())));
    }
}
