//! The plugins of one section, one after the other.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use mailtree_protocols::reply::Refusal;
use mailtree_protocols::spp::output::{self, Verdict};
use mailtree_protocols::spp::{Plugin, Section};

use super::{Parting, Passed};
use crate::program::{Program, spp as program};
use crate::smtpd::Talk;

/// The program that is a plugin.
fn program_of(plugin: &Plugin, directory: &Path) -> Program {
    let program = match plugin {
        Plugin::Program(path) => Program::new(directory.join(OsStr::from_bytes(path))),
        Plugin::Shell(command) => {
            Program::new("/bin/sh").arguments([OsStr::new("-c"), OsStr::from_bytes(command)])
        }
    };
    program.directory(directory)
}

impl Talk {
    /// Asks the plugins of a section. An error is the answer to the command; [`Spp::parting`] says if it is the last one.
    pub(super) async fn run_plugins(
        &mut self,
        section: Section,
        mut address: Vec<u8>,
    ) -> Result<Passed, Refusal> {
        let Some(spp) = &mut self.spp else { return Ok(Passed { address, checked: true }) };
        let (plugins, directory) = (Arc::clone(&spp.plugins), spp.directory.clone());
        if !spp.kept.begin(section)? {
            return Ok(Passed { address, checked: true });
        }
        for plugin in plugins.of(section) {
            let verdict = match self.run_plugin(section, plugin, &directory, &mut address).await {
                Ok(verdict) => verdict,
                Err(cause) => {
                    let (pid, plugin) = (self.connection.end.pid(), plugin.shown());
                    tracing::warn!("qmail-smtpd: warning: pid {pid} spp {section} {plugin}: {cause}");
                    count(section, "failed");
                    return Err(Refusal::spp_failure());
                }
            };
            let (refusal, parting) = match verdict {
                Verdict::None => {
                    count(section, "ok");
                    continue;
                }
                Verdict::Accept | Verdict::Next | Verdict::Unchecked => {
                    count(section, "ok");
                    return Ok(Passed { address, checked: verdict != Verdict::Unchecked });
                }
                Verdict::Error(refusal) => (refusal, None),
                Verdict::Reject(refusal) => (refusal, Some(Parting::Answered)),
                Verdict::Drop => (Refusal::spp_failure(), Some(Parting::Silent)),
            };
            count(section, "refused");
            let (pid, plugin, ip) = (self.connection.end.pid(), plugin.shown(), self.client.ip());
            match &parting {
                Some(Parting::Silent) => {
                    tracing::info!("qmail-smtpd: pid {pid} spp {section} {plugin} drops {ip}");
                }
                _ => {
                    let (code, text) = (refusal.code(), refusal.text().escape_debug());
                    tracing::info!(
                        "qmail-smtpd: pid {pid} spp {section} {plugin} refuses {ip}: {code} {text}"
                    );
                }
            }
            if let Some(spp) = &mut self.spp {
                spp.parting = parting;
            }
            return Err(refusal);
        }
        Ok(Passed { address, checked: true })
    }

    /// One plugin: its verdict, or why it has none.
    async fn run_plugin(
        &mut self,
        section: Section,
        plugin: &Plugin,
        directory: &Path,
        address: &mut Vec<u8>,
    ) -> Result<Verdict, String> {
        let mut environment = self.environment();
        // The plugin before may have changed it.
        let name = match section {
            Section::Mail => Some("SMTPMAILFROM"),
            Section::Rcpt => Some("SMTPRCPTTO"),
            _ => None,
        };
        environment.extend(name.map(|name| (name.into(), OsString::from_vec(address.clone()))));
        let said = {
            let (permits, deadline) = &self.smtpd.programs;
            let Some(_permit) = permits.try_acquire() else { return Err("too many programs run".to_owned()) };
            let program = self.limited(program_of(plugin, directory));
            program::ask(&program, &environment, *deadline).await.map_err(|trouble| trouble.to_string())?
        };
        let output = output::parse(&said, section).map_err(|malformed| malformed.to_string())?;
        let Some(spp) = &mut self.spp else { return Ok(Verdict::None) };
        let applied = spp.kept.apply(section, output, &mut self.client.variables, address);
        self.chkuser.on |= self.client.variables.iter().any(|(name, _)| name.starts_with(b"CHKUSER_"));
        applied.map_err(|excess| excess.to_string())
    }
}

fn count(section: Section, result: &'static str) {
    metrics::counter!("mailtree_spp_plugin_runs_total", "section" => section.name(), "result" => result)
        .increment(1);
}
