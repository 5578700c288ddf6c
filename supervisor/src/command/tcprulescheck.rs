//! `tcprulescheck`: tells which rule tcpserver would follow, as ucspi-tcp's program of this name.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::tcprules::{Client, lookup, tcprulescheck};

use crate::durable;
use crate::failure::Failure;

/// `tcprulescheck rules.cdb`, with TCPREMOTEIP, TCPREMOTEHOST and TCPREMOTEINFO in the environment
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database
    arguments: Vec<PathBuf>,
}

/// Tells it. 111: the database cannot be read; 100: TCPREMOTEIP is no address.
pub fn run(args: &Args) -> ExitCode {
    let Some(path) = args.arguments.first() else {
        errln!("tcprulescheck: usage: tcprulescheck rules.cdb");
        return ExitCode::from(100);
    };
    match check(path, |name| std::env::var_os(name)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("tcprulescheck"),
    }
}

fn check(path: &Path, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
    let ip = match env("TCPREMOTEIP") {
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(ip) => ip.to_str().and_then(|ip| ip.parse().ok()).ok_or_else(|| {
            Failure::permanent(format!("TCPREMOTEIP is {ip:?}; allowed: an IPv4 or IPv6 address"))
        })?,
    };
    let (info, host) = (env("TCPREMOTEINFO"), env("TCPREMOTEHOST"));
    let bytes = |text: &Option<OsString>| text.as_ref().map(|text| text.as_bytes().to_owned());
    let (info, host) = (bytes(&info), bytes(&host));
    let unable = |cause: &str| format!("unable to read {}: {cause}", path.display());
    let rules = durable::read(path)?.ok_or_else(|| Failure::temporary(unable("file does not exist")))?;
    let client = Client { info: info.as_deref(), ip, host: host.as_deref() };
    let rules = Cdb::new(rules).map_err(|error| Failure::temporary(unable(&error.to_string())))?;
    let hit = lookup(&rules, &client).map_err(|error| Failure::temporary(unable(&error.to_string())))?;
    out!("{}", String::from_utf8_lossy(&tcprulescheck(hit.as_ref())));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.cdb");
        let fails = |ip: Option<&str>| {
            let failure =
                check(&path, |name| ip.filter(|_| name == "TCPREMOTEIP").map(OsString::from)).unwrap_err();
            (failure.to_string().replace(&path.display().to_string(), "PATH"), failure.is_permanent())
        };
        assert_eq!(fails(None), ("unable to read PATH: file does not exist".to_owned(), false));
        std::fs::write(&path, "short").unwrap();
        let (said, permanent) = fails(None);
        assert!(
            said.starts_with("unable to read PATH: a cdb has at least 2048 bytes") && !permanent,
            "{said}"
        );
        let expected = "TCPREMOTEIP is \"1.2.3\"; allowed: an IPv4 or IPv6 address".to_owned();
        assert_eq!(fails(Some("1.2.3")), (expected, true));
    }
}
