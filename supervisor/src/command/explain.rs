//! `explain`: which rule, which variables, which filters and what verdict a client or a recipient would get, and why.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use mailtree_actors::smtpd::{Greeting, Line, Smtpd};
use mailtree_config::Host;
use mailtree_config::host::Service;
use mailtree_protocols::visible::visible;
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::offline;
use crate::output;

/// Tells what a client or a recipient would meet, and why.
#[derive(Debug, Subcommand)]
pub enum Args {
    /// A client by its address
    Ip {
        /// Its address
        address: IpAddr,
        #[command(flatten)]
        said: Said,
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
        said: Said,
        #[command(flatten)]
        which: Which,
    },
}

/// What the client says first.
#[derive(Debug, Clone, clap::Args)]
pub struct Said {
    /// In MAIL: badmailfrom, chkuser and SPF are asked about it
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// In HELO or EHLO: badhelo is asked about it, and SPF for a sender without a domain; default: its name in DNS
    #[arg(long, value_name = "NAME")]
    helo: Option<String>,
}

impl Said {
    fn said(&self) -> Greeting<'_> {
        Greeting { helo: self.helo.as_deref().map(str::as_bytes), sender: self.from.as_deref().map(bare) }
    }
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
            output::json(&object(lines));
            ExitCode::SUCCESS
        }
        Ok(lines) => {
            for Line { what, found, .. } in lines {
                outln!("{what:<11} {}", visible(&found));
            }
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("mailtree explain"),
    }
}

/// What was looked at is the key; all variables are in one object.
fn object(lines: Vec<Line>) -> Map<String, Value> {
    let mut object = Map::new();
    let mut variables = Map::new();
    for Line { what, found, variable } in lines {
        match variable {
            Some((name, value)) => variables.insert(name, value.into()),
            None => object.insert(what.to_owned(), found.into()),
        };
    }
    object.insert("variables".to_owned(), variables.into());
    object
}

/// An address as in MAIL, with or without the angle brackets.
fn bare(address: &str) -> &[u8] {
    address.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(address).as_bytes()
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
            Args::Ip { address, said, .. } => session.explain_ip(*address, local, said.said()).await,
            Args::Rcpt { address, ip, said, .. } => {
                session.explain_recipient(address.as_bytes(), *ip, local, said.said()).await
            }
        };
        lines.map_err(Failure::temporary)
    })
}
