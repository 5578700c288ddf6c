//! `vadddomain`: adds a virtual domain and its postmaster, as vpopmail's program of this name.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_config::Host;

use crate::failure::Failure;
use crate::password;
use crate::vpopmail::{NewDomain, NewUser, Unknown, Vpopmail, domain_name};

use super::vadduser::{Password, bad, tell_random};

/// Adds a virtual domain and its postmaster.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Quota of the postmaster, for example 10000000S,1000C
    #[arg(short = 'q', default_value = "NOQUOTA")]
    quota: String,
    /// Mail for unknown users bounces (this is the default)
    #[arg(short = 'b', conflicts_with = "forward")]
    bounce: bool,
    /// Mail for unknown users goes to this address, or this user of the domain
    #[arg(short = 'e', value_name = "ADDRESS")]
    forward: Option<String>,
    /// Directory that gets domains/DOMAIN
    #[arg(short = 'd', value_name = "DIR")]
    dir: Option<PathBuf>,
    /// User id of the domain's files; default: the owner of domains/
    #[arg(short = 'i')]
    uid: Option<u32>,
    /// Group id of the domain's files
    #[arg(short = 'g')]
    gid: Option<u32>,
    #[command(flatten)]
    password: Password,
    /// The domain
    domain: String,
    /// Password of the postmaster; without it and without -r it is asked for on a terminal, or the first line of standard input
    #[arg(value_name = "PASSWORD")]
    given: Option<String>,
}

/// Adds the domain; `reread` tells a running qmail-send, and says nothing if none runs.
pub fn run(home: &Path, args: &Args, reread: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    match add(home, args, reread) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(random)) => tell_random(&random, "the domain was added"),
        Err(failure) => bad(&failure),
    }
}

fn add(
    home: &Path,
    args: &Args,
    reread: impl FnOnce() -> Result<(), Failure>,
) -> Result<Option<String>, Failure> {
    let paths = Host::load(home)?.paths();
    let domain = domain_name(&args.domain)?;
    let unknown = match args.forward.as_deref() {
        None => Unknown::Bounce,
        Some(address) => Unknown::Forward(forward(address, &domain)?),
    };
    let vpopmail = Vpopmail::new(&paths);
    vpopmail.may_add_domain(&domain)?;
    let (password, random) = args.password.choose(args.given.as_deref())?;
    let new =
        NewDomain { name: domain.clone(), dir: args.dir.clone(), uid: args.uid, gid: args.gid, unknown };
    let postmaster = NewUser {
        name: "postmaster".to_owned(),
        domain,
        password: password::hash(&password)?,
        gecos: "Postmaster".to_owned(),
        quota: args.quota.clone(),
    };
    postmaster.check()?;
    // The postmaster is there before mail for the domain is accepted (RFC 5321 4.5.1).
    vpopmail.add_domain(&new, || {
        vpopmail.add_user(&postmaster)?;
        reread()
    })?;
    Ok(random)
}

/// An address for `.qmail-default`, whose line a shell reads.
fn forward(address: &str, domain: &str) -> Result<String, Failure> {
    let address = if address.contains('@') { address.to_owned() } else { format!("{address}@{domain}") };
    let fits = address.bytes().all(|b| b.is_ascii_alphanumeric() || b"@._+-=".contains(&b));
    let mut parts = address.rsplitn(2, '@');
    let host = parts.next().unwrap_or_default();
    if !fits || parts.next().is_none_or(str::is_empty) || domain_name(host).is_err() {
        return Err(Failure::permanent("invalid email character"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches};

    use super::*;
    use crate::command::init::{Options, initialise};

    fn parse(arguments: &[&str]) -> Args {
        let command = Args::augment_args(Command::new("vadddomain"));
        command.clone().debug_assert();
        let words = ["vadddomain"].iter().chain(arguments);
        Args::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
    }

    #[test]
    fn the_postmaster_is_there_before_mail_is_accepted() {
        let home = tempfile::tempdir().unwrap();
        initialise(home.path(), &Options { me: Some("m.example".to_owned()), ..Options::default() }).unwrap();
        let read = |file: &str| std::fs::read_to_string(home.path().join(file)).unwrap();
        let mut told = false;
        let random = add(home.path(), &parse(&["-e", "boss", "V.example", "secret"]), || {
            told = true;
            assert!(read("domains/v.example/vpasswd").starts_with("postmaster:$6$"));
            assert!(!read("control/rcpthosts").contains("v.example"));
            Ok(())
        });
        assert_eq!((random.unwrap(), told), (None, true));
        assert!(read("control/rcpthosts").contains("v.example"));
        assert!(read("domains/v.example/.qmail-default").ends_with("'' boss@v.example\n"));
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_refused() {
        let home = tempfile::tempdir().unwrap();
        initialise(home.path(), &Options { me: Some("m.example".to_owned()), ..Options::default() }).unwrap();
        for address in ["a; rm -rf /", "$(x)", "a b", "@v.example", "a@", "a@b@", "`x`@v.example", "a\nb"] {
            let failure =
                add(home.path(), &parse(&["-e", address, "v.example", "secret"]), || Ok(())).unwrap_err();
            assert!(failure.is_permanent(), "{address}");
        }
        for (arguments, expected) in [
            (&["v.example", ""][..], "this password is not allowed"),
            (&["v/example", "secret"], "Invalid domain name"),
            (&["m.example", "secret"], "Domain already exists"),
            (&["-q", "a:b", "v.example", "secret"], "quota `a:b` is not allowed"),
        ] {
            let failure = add(home.path(), &parse(arguments), || Ok(())).unwrap_err();
            assert!(failure.to_string().starts_with(expected), "{failure}");
        }
        assert!(!home.path().join("domains/v.example").exists());
    }
}
