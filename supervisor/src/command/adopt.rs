//! `adopt`: reads a qmail host and writes a `host.ron` for it; nothing of the old host is changed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mailtree_config::host::FILE;
use mailtree_protocols::tcprules;

use crate::adopt::{self, Old, Report};
use crate::durable::{self, Owner};
use crate::failure::{Doing, Failure};
use crate::output;
use crate::vpopmail::create_dirs;

/// Who may connect where the old host had no rules: everybody; and nobody may relay.
const RULES: &str = "# Compiled to tcp.smtp.cdb. ADDRESS:allow or deny, then ,VARIABLE=\"value\"\n:allow\n";

/// Reads a qmail host and writes a host.ron for it; changes nothing of the old host
#[derive(Debug, clap::Args)]
pub struct Args {
    /// qmail's directory on the old host
    #[arg(long, value_name = "DIR", default_value = "/var/qmail")]
    qmail_home: PathBuf,
    /// vpopmail's directory on the old host
    #[arg(long, value_name = "DIR", default_value = "/home/vpopmail")]
    vpopmail_home: PathBuf,
    /// Directory of services; may be given several times; default: /service, /etc/service, /var/service and supervise of qmail
    #[arg(long, value_name = "DIR")]
    service: Vec<PathBuf>,
    /// Where the old host's paths begin: a copy of it
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Address to listen on in place of the old ones; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<IpAddr>,
    /// Added to every port: a rehearsal beside the old host
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=i64::from(adopt::OFFSET_MAX)))]
    port_offset: u16,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write in place of a host.ron that is there
    #[arg(long)]
    force: bool,
    /// One JSON object in place of the table
    #[arg(long)]
    json: bool,
}

/// Reads, prints and writes.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    match adopt(home, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("adopt"),
    }
}

fn adopt(home: &Path, args: &Args) -> Result<(), Failure> {
    let home = std::path::absolute(home).doing("find", home)?;
    let file = home.join(FILE);
    // Before anything is read: the answer would be the same.
    if file.symlink_metadata().is_ok() && !args.force && !args.dry_run {
        return Err(Failure::permanent(format!(
            "{}: there already, and nothing was written; allowed: another --home, or --force to write in its place",
            file.display()
        )));
    }
    let old = Old::new(&args.root, &args.qmail_home, &args.vpopmail_home)?;
    let options = adopt::Options {
        services: args.service.clone(),
        listen: args.listen.clone(),
        port_offset: args.port_offset,
    };
    let report = adopt::examine(&old, &home, &options)?;
    if !args.dry_run {
        write(&home, &report)?;
    }
    if args.json {
        output::json(&report);
    } else {
        let mut text = Vec::new();
        adopt::print(&report, &mut text).doing("show", &file)?;
        out!("{}", String::from_utf8_lossy(&text));
    }
    if !args.json {
        let done = if args.dry_run { "would be written" } else { "written" };
        errln!("\n{} {done}", file.display());
    }
    Ok(())
}

/// The home with its `host.ron`, which comes last.
fn write(home: &Path, report: &Report) -> Result<(), Failure> {
    create_dirs(home)?;
    let owner = Owner::own();
    let rules = home.join("tcp.smtp");
    if report.own_rules && !rules.exists() {
        let cdb = tcprules::parse(RULES.as_bytes()).and_then(|rules| tcprules::compile(&rules));
        let cdb = cdb.map_err(|error| Failure::permanent(error.to_string()))?;
        durable::replace(&home.join("tcp.smtp.cdb"), &cdb, 0o644, owner)?;
        durable::create(&rules, RULES.as_bytes(), 0o644, owner)?;
    }
    durable::replace(&home.join(FILE), report.host_ron.as_bytes(), 0o644, owner)
}
