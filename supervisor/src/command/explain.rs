//! `explain`: which rule, which variables, which filters and what verdict a client or a recipient would get, and why.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use mailtree_actors::smtpd::{Line, Smtpd};
use mailtree_config::Host;
use mailtree_config::host::Service;

use crate::failure::Failure;
use crate::offline;

/// Tells what a client or a recipient would meet, and why.
#[derive(Debug, Subcommand)]
pub enum Args {
    /// A client by its address
    Ip {
        /// Its address
        address: IpAddr,
        #[command(flatten)]
        which: Which,
    },
    /// A recipient
    Rcpt {
        /// Its address
        address: String,
        /// The client that names it
        #[arg(long, value_name = "ADDRESS", default_value = "192.0.2.1")]
        ip: IpAddr,
        #[command(flatten)]
        which: Which,
    },
}

/// Which service is asked, and how the answer looks.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// One service of SMTP; default: the first
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// One JSON object in place of lines
    #[arg(long)]
    json: bool,
}

/// Prints the answer.
pub fn run(home: &Path, args: &Args) -> ExitCode {
    let (Args::Ip { which, .. } | Args::Rcpt { which, .. }) = args;
    match explain(home, args, which) {
        Ok(lines) if which.json => {
            let rows: Vec<_> = lines
                .iter()
                .map(|line| serde_json::json!({ "what": line.what, "found": line.found }))
                .collect();
            println!("{}", serde_json::Value::Array(rows));
            ExitCode::SUCCESS
        }
        Ok(lines) => {
            for Line { what, found } in lines {
                println!("{what:<11} {found}");
            }
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("mailtree explain"),
    }
}

fn explain(home: &Path, args: &Args, which: &Which) -> Result<Vec<Line>, Failure> {
    let host = Host::load(home)?;
    let mut services = host.services.iter().filter_map(|(name, service)| match service {
        Service::Smtpd(smtpd) => Some((name, smtpd)),
        Service::Metrics(_) => None,
    });
    let wanted = |name: &String| which.service.as_ref().is_none_or(|wanted| wanted == name);
    let (name, smtpd) = services.find(|(name, _)| wanted(name)).ok_or_else(|| {
        let wanted = which.service.as_deref().unwrap_or("");
        Failure::permanent(format!("--service {wanted}: host.ron has no such service of SMTP"))
    })?;
    let local = smtpd.listen.first().copied();
    let local = local.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 25));
    offline::run(&host, async |front| {
        let session: Smtpd =
            front.session(name, smtpd, &host).map_err(|error| Failure::permanent(error.to_string()))?;
        let lines = match args {
            Args::Ip { address, .. } => session.explain_ip(*address, local).await,
            Args::Rcpt { address, ip, .. } => session.explain_recipient(address.as_bytes(), *ip, local).await,
        };
        lines.map_err(Failure::temporary)
    })
}
