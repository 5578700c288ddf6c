//! The text of `host.ron` for an old host.

use std::fmt::Display;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::{Uid, User};

use super::smtp::Found;
use super::{Old, Options, shown};
use crate::failure::Failure;

/// Port of the metrics before the offset is added.
const METRICS: u16 = 11600;

/// The greatest offset at which every port is still one.
pub(crate) const OFFSET_MAX: u16 = u16::MAX - METRICS;

/// A text in quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// A list of texts.
pub(super) fn list<T: Display>(texts: &[T]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(&text.to_string())).collect();
    format!("[{}]", texts.join(", "))
}

/// Every value with the place it comes from.
pub(super) fn host_ron(old: &Old, found: &Found, options: &Options) -> Result<String, Failure> {
    let metrics = METRICS.checked_add(options.port_offset).ok_or_else(|| {
        Failure::permanent(format!("--port-offset {}: allowed: 0 to {OFFSET_MAX}", options.port_offset))
    })?;
    let mut services = String::new();
    for service in &found.services {
        // Writing to a string cannot fail.
        writeln!(services, "        // {}", shown(&service.from)).unwrap_or_default();
        writeln!(services, "        {}: smtpd(", quoted(&service.name)).unwrap_or_default();
        for field in &service.fields {
            writeln!(services, "            {},  // {}", field.ron, shown(&field.from)).unwrap_or_default();
        }
        services.push_str("        ),\n");
    }
    Ok(format!(
        "// Made by mailtree adopt from the files of a qmail host. Every field that is not here has its default:\n\
         // `mailtree check` shows all of them, and where each comes from.\n\
         (\n    \
             // Where control/ queue/ users/ alias/ are, and domains/.\n    \
             qmail_home: {qmail},\n    \
             vpopmail_home: {vpopmail},\n\n{users}    \
             services: {{\n{services}        \
                 // Prometheus; the old host had none.\n        \
                 \"metrics\": metrics(listen: \"127.0.0.1:{metrics}\"),\n    \
             }},\n)\n",
        qmail = quoted(&old.qmail.to_string_lossy()),
        vpopmail = quoted(&old.vpopmail.to_string_lossy()),
        users = users(old),
    ))
}

/// Who is to run the host when root starts it: whom the virtual domains belong to, whose passwords and Maildirs it works with;
/// without any, qmail-send's user. Nothing where the files are a copy, which may belong to anybody.
fn users(old: &Old) -> String {
    if !old.is_live() {
        return String::new();
    }
    for place in [old.vpopmail.join("domains"), old.qmail.join("queue/info")] {
        let owner = std::fs::metadata(&place).map(|meta| meta.uid()).ok().filter(|uid| *uid != 0);
        let Some(uid) = owner else { continue };
        let account = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = account.map_or_else(|| uid.to_string(), |account| account.name);
        let (name, place) = (quoted(&name), shown(&place.to_string_lossy()));
        return format!(
            "    // Whose rights the host has when root has started it: {place} belongs to him.\n    \
             users: (host: {name}),\n\n"
        );
    }
    String::new()
}
