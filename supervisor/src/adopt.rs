//! The take-over of a qmail host: what is there, what becomes of it here, and the `host.ron` for it.
//!
//! The old host is read and nothing else: no program of it is run, no file opened for writing, no lock taken.

mod control;
mod network;
mod next;
mod old;
mod queue;
mod ron;
mod rules;
mod services;
mod smtp;
mod table;
mod toaster;
mod users;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mailtree_config::Host;
use mailtree_protocols::visible::visible;
use serde::Serialize;

use crate::failure::Failure;
pub(crate) use old::Old;
pub(crate) use ron::OFFSET_MAX;
pub(crate) use table::print;

/// What can be chosen for the new home.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Directories of services; empty: the usual ones.
    pub(crate) services: Vec<PathBuf>,
    /// Addresses to listen on in place of the old host's; empty: those.
    pub(crate) listen: Vec<IpAddr>,
    /// Added to every port.
    pub(crate) port_offset: u16,
}

/// What was found, and what becomes of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) taken: Vec<Taken>,
    pub(crate) ignored: Vec<Left>,
    pub(crate) not_yet: Vec<Left>,
    pub(crate) next: Vec<String>,
    pub(crate) host_ron: String,
    /// Whether the home needs rules of its own, since a service has none.
    #[serde(skip)]
    pub(crate) own_rules: bool,
}

/// What works here as it did there.
#[derive(Debug, Serialize)]
pub(crate) struct Taken {
    what: String,
    from: String,
    r#as: String,
}

/// What does not, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Left {
    what: String,
    from: String,
    why: String,
}

impl Report {
    fn taken(&mut self, what: impl Into<String>, from: impl Into<String>, r#as: impl Into<String>) {
        self.taken.push(Taken { what: what.into(), from: from.into(), r#as: r#as.into() });
    }

    fn ignored(&mut self, what: impl Into<String>, from: impl Into<String>, why: impl Into<String>) {
        self.ignored.push(Left { what: what.into(), from: from.into(), why: why.into() });
    }

    fn not_yet(&mut self, what: impl Into<String>, from: impl Into<String>, why: impl Into<String>) {
        self.not_yet.push(Left { what: what.into(), from: from.into(), why: why.into() });
    }

    fn next(&mut self, step: impl Into<String>) {
        let step = step.into();
        if !self.next.contains(&step) {
            self.next.push(step);
        }
    }
}

/// Reads the old host and decides. `home` is where the new one will be.
///
/// # Errors
/// When there is no qmail, or the `host.ron` for it could not be used.
pub(crate) fn examine(old: &Old, home: &Path, options: &Options) -> Result<Report, Failure> {
    if let Some((path, there)) = old.outside() {
        let (path, there) = (path.display(), there.display());
        return Err(Failure::permanent(format!(
            "{path}: leads to {there}, which is not in the copy: this host would work on the original; allowed: a directory \
             of the copy, or a link to one"
        )));
    }
    let me = old.control().join("me");
    if old.read(&me)?.is_none() {
        return Err(Failure::permanent(format!(
            "{}: missing; allowed: a qmail's directory; --qmail-home and --root name another",
            me.display()
        )));
    }
    let mut report = Report::default();
    let services = services::find(old, &options.services, &mut report);
    let mut found = smtp::Found::default();
    for service in &services {
        smtp::decide(old, service, options, &mut found, &mut report);
    }
    rules::examine(old, &found.rules, &mut report);
    control::examine(old, &services, &mut report);
    users::examine(old, &mut report);
    queue::examine(old, &mut report);
    toaster::examine(old, &mut report);
    report.host_ron = ron::host_ron(old, &found, options)?;
    let host = Host::parse(home, &report.host_ron)
        .map_err(|error| Failure::permanent(format!("the host.ron for this host cannot be used: {error}")))?;
    next::steps(old, home, &host, &services, &found, options, &mut report);
    Ok(report)
}

/// A text of a file as it may be shown: control characters as escapes, and not too much of it.
fn shown(text: &str) -> String {
    /// More of a value nobody reads in a table.
    const MOST: usize = 160;
    let cut = text.char_indices().nth(MOST).map_or(text.len(), |(at, _)| at);
    let more = if cut < text.len() { "..." } else { "" };
    escaped(&text[..cut]) + more
}

/// A text without characters that steer a terminal or hide others.
fn escaped(text: &str) -> String {
    visible(text).into_owned()
}
