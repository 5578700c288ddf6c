//! `vadduser`: adds a user to a virtual domain, as vpopmail's program of this name.

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use mailtree_config::Host;
use mailtree_protocols::vpasswd::PASSWORD_MAX;

use crate::failure::Failure;
use crate::output;
use crate::password::{self, SHORTEST};
use crate::vpopmail::{NewUser, Vpopmail};

/// Adds a user to a virtual domain.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Quota, for example 10000000S,1000C
    #[arg(short = 'q', default_value = "NOQUOTA")]
    quota: String,
    /// Comment
    #[arg(short = 'c', default_value = "")]
    gecos: String,
    /// Password already hashed as crypt(3) does, in place of a password
    #[arg(short = 'e', value_name = "HASH", conflicts_with_all = ["random", "given"])]
    encrypted: Option<String>,
    /// No password: nobody can log in
    #[arg(short = 'n', conflicts_with_all = ["random", "given", "encrypted"])]
    none: bool,
    #[command(flatten)]
    password: Password,
    /// The user, as user@domain
    #[arg(value_hint = clap::ValueHint::EmailAddress)]
    address: String,
    /// The password; without it and without -r it is asked for on a terminal, or the first line of standard input
    #[arg(value_name = "PASSWORD")]
    given: Option<String>,
}

/// Where the password of a new user comes from.
#[derive(Debug, clap::Args)]
pub struct Password {
    /// A password chosen by chance, of this many characters; it is printed
    #[arg(id = "random", short = 'r', value_name = "LENGTH", num_args = 0..=1, require_equals = true, default_missing_value = "16")]
    random: Option<usize>,
}

impl Password {
    /// The password, and once more if it was chosen by chance and has to be printed.
    pub(super) fn choose(&self, given: Option<&str>) -> Result<(String, Option<String>), Failure> {
        if let Some(length) = self.random {
            if !(8..=PASSWORD_MAX).contains(&length) {
                return Err(Failure::permanent(format!(
                    "-r{length} is not allowed; allowed: 8 to {PASSWORD_MAX}"
                )));
            }
            let password = password::random(length);
            return Ok((password.clone(), Some(password)));
        }
        let password = match given {
            Some(password) => password.to_owned(),
            None => typed()?,
        };
        password::check(&password)?;
        if password::is_short(&password) {
            errln!("warning: a password of fewer than {SHORTEST} characters is soon guessed");
        }
        Ok((password, None))
    }
}

/// Asked for twice on a terminal, without being shown; otherwise the first line of standard input.
fn typed() -> Result<String, Failure> {
    let input = io::stdin();
    if input.is_terminal() {
        let failed = |error| Failure::temporary(format!("unable to ask for the password: {error}"));
        let password = rpassword::prompt_password("Please enter password: ").map_err(failed)?;
        if password::is_short(&password) {
            return Err(Failure::permanent(format!(
                "this password is soon guessed; allowed: {SHORTEST} characters or more"
            )));
        }
        let again = rpassword::prompt_password("enter password again: ").map_err(failed)?;
        if password != again {
            return Err(Failure::permanent("the passwords are not the same"));
        }
        return Ok(password);
    }
    let mut line = String::new();
    let limit = PASSWORD_MAX as u64 + 2;
    input.lock().take(limit).read_line(&mut line).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Failure::permanent("standard input: not UTF-8"),
        _ => Failure::temporary(format!("unable to read standard input: {error}")),
    })?;
    match line.trim_end_matches(['\n', '\r']) {
        "" => Err(Failure::permanent("no password: none was given, and standard input has none")),
        password => Ok(password.to_owned()),
    }
}

/// Arguments as vpopmail's getopt reads `-r[length]`, the length as a part of the word, or, what people type, as the next one.
pub fn classic(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut arguments = arguments.into_iter().peekable();
    let mut read = Vec::new();
    while let Some(argument) = arguments.next() {
        let length = match argument.to_str().and_then(|text| text.strip_prefix("-r")) {
            // What getopt would take for the domain or the user, which no number is.
            Some("") => arguments.next_if(|next| next.to_str().is_some_and(|text| is_number(&text))),
            Some(length) => Some(length).filter(is_number).map(OsString::from),
            None => None,
        };
        read.push(match length {
            Some(length) => format!("-r={}", length.display()).into(),
            None => argument,
        });
    }
    read
}

/// Adds the user.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    match add(home, args) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(random)) => tell_random(&random, "the user was added"),
        Err(failure) => bad(&failure),
    }
}

/// Prints a password that was chosen by chance. It is kept nowhere: that it could not be written is a failure, whoever
/// reads.
pub(super) fn tell_random(random: &str, done: &str) -> ExitCode {
    outln!("Random password: {random}");
    match output::flush() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => bad(&Failure::temporary(format!(
            "{done}, but the password could not be written to standard output and nobody knows it: {error}"
        ))),
    }
}

/// `Error: TEXT` on standard error.
pub(super) fn bad(failure: &Failure) -> ExitCode {
    errln!("Error: {failure}");
    failure.exit_code()
}

fn add(home: &Path, args: &Args) -> Result<Option<String>, Failure> {
    let paths = Host::load(home)?.paths();
    let (name, domain) = args
        .address
        .rsplit_once('@')
        .ok_or_else(|| Failure::permanent("the user is not allowed; allowed: user@domain"))?;
    let vpopmail = Vpopmail::new(&paths);
    vpopmail.may_add_user(name, domain)?;
    let (password, random) = match (&args.encrypted, args.none) {
        (Some(hash), _) => (encrypted(hash)?, None),
        // No password has this hash.
        (None, true) => ("*".to_owned(), None),
        (None, false) => {
            let (password, random) = args.password.choose(args.given.as_deref())?;
            (password::hash(&password)?, random)
        }
    };
    let new = NewUser {
        name: name.to_owned(),
        domain: domain.to_owned(),
        password,
        gecos: args.gecos.clone(),
        quota: args.quota.clone(),
    };
    vpopmail.add_user(&new)?;
    Ok(random)
}

fn encrypted(hash: &str) -> Result<String, Failure> {
    let fits = (13..=256).contains(&hash.len()) && hash.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if !fits {
        return Err(Failure::permanent(
            "-e: not a hash; allowed: 13 to 256 visible characters without colons",
        ));
    }
    Ok(hash.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches};
    use mailtree_protocols::cdb::Cdb;
    use mailtree_protocols::vpasswd;
    use sha_crypt::{PasswordHash, PasswordVerifier, ShaCrypt};

    use super::*;
    use crate::command::init::{Options, initialise};

    fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        let command = Args::augment_args(Command::new("vadduser"));
        command.clone().debug_assert();
        let words = ["vadduser"].iter().chain(arguments).map(OsString::from);
        Args::from_arg_matches(&command.try_get_matches_from(classic(words))?)
    }

    #[test]
    fn a_length_is_part_of_the_option_or_the_word_behind_it() {
        let read = |text: &str| -> Vec<String> {
            let words = classic(text.split(' ').map(OsString::from));
            words.into_iter().map(|word| word.into_string().unwrap()).collect()
        };
        for (typed, expected) in [
            ("vadddomain -r40 m.example", "vadddomain -r=40 m.example"),
            ("vadddomain -r 40 m.example", "vadddomain -r=40 m.example"),
            ("vadddomain -r m.example", "vadddomain -r m.example"),
            ("vadddomain -r 4x.example", "vadddomain -r 4x.example"),
            ("vadduser a@m.example -r 40", "vadduser a@m.example -r=40"),
            ("vadddomain m.example -r", "vadddomain m.example -r"),
            ("vadddomain -rx 40", "vadddomain -rx 40"),
        ] {
            assert_eq!(read(typed).join(" "), expected);
        }
    }

    #[test]
    fn passwords_given_chosen_hashed_and_none() {
        let home = tempfile::tempdir().unwrap();
        initialise(home.path(), &Options { me: Some("m.example".to_owned()), ..Options::default() }).unwrap();
        let hash = password::hash("old").unwrap();
        for (name, arguments, expected) in [
            ("a", &["-q", "1000S", "-c", "An A", "a@m.example", "secret"][..], Some("secret")),
            ("b", &["-r", "b@m.example"], None),
            ("c", &["-r12", "c@m.example"], None),
            ("d", &["-e", &hash, "d@m.example"], Some("old")),
            ("e", &["-n", "e@m.example"], None),
        ] {
            let random = add(home.path(), &parse(arguments).unwrap()).unwrap();
            let bytes = std::fs::read(home.path().join("domains/m.example/vpasswd.cdb")).unwrap();
            let entry = vpasswd::lookup(&Cdb::new(bytes).unwrap(), name.as_bytes()).unwrap().unwrap();
            let stored = std::str::from_utf8(&entry.password).unwrap();
            match expected.map(str::to_owned).or(random.clone()) {
                Some(password) => ShaCrypt::default()
                    .verify_password(password.as_bytes(), &PasswordHash::new(stored).unwrap())
                    .unwrap(),
                None => assert_eq!((stored, name), ("*", "e")),
            }
            let length = random.map(|random| random.len());
            assert_eq!(
                length,
                match name {
                    "b" => Some(password::LENGTH),
                    "c" => Some(12),
                    _ => None,
                }
            );
            if name == "a" {
                assert_eq!((entry.quota.as_slice(), entry.gecos.as_slice()), (&b"1000S"[..], &b"An A"[..]));
            }
        }
    }

    #[test]
    fn arguments_that_are_refused() {
        for arguments in [&[][..], &["-r", "-n", "a@b"], &["-e", "x", "a@b", "pw"], &["a@b", "pw", "more"]] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
        let home = tempfile::tempdir().unwrap();
        initialise(home.path(), &Options { me: Some("m.example".to_owned()), ..Options::default() }).unwrap();
        for arguments in
            [&["a", "pw"][..], &["-r3", "a@m.example"], &["-e", "a:b", "a@m.example"], &["a@m.example", ""]]
        {
            assert!(
                add(home.path(), &parse(arguments).unwrap()).unwrap_err().is_permanent(),
                "{arguments:?}"
            );
        }
        assert!(!home.path().join("domains/m.example/a").exists());
    }
}
