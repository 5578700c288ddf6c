//! What to do for a local address, as users/assign, `.qmail` files and vpasswd say. Reads files, changes nothing.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mailtree_config::changes::{QUIET, is_younger};
use mailtree_config::regular;
use mailtree_protocols::address;
use mailtree_protocols::dotqmail::{self, Instruction, UnknownUser};
use mailtree_protocols::report::Report;
use mailtree_protocols::vpasswd::flag;
use nix::unistd::User;

use super::Local;
use crate::queue::Body;

/// Longest account name (qmail-getpw: GETPW_USERLEN).
const MAX_ACCOUNT: usize = 32;

/// Longest header that is searched for a loop, in bytes.
const MAX_HEADER: u64 = 1024 * 1024;

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The address in Delivered-To.
    pub(super) delivered_to: Vec<u8>,
    /// Maildirs that get the message.
    pub(super) maildirs: Vec<Target>,
    /// Addresses that get it, all in one message.
    pub(super) forwards: Vec<Vec<u8>>,
    /// Counts of what `.qmail` asked for: files, forwards, programs.
    pub(super) did: (usize, usize, usize),
}

/// A Maildir that gets the message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) dir: PathBuf,
    /// It is that of a user of vpasswd: what is missing of it is made. Not so what a `.qmail` file names or means, which may be
    /// half a line, or an empty file that is about to be written: nobody would read what is delivered there.
    pub(super) own: bool,
}

/// Whose delivery it is.
pub(super) struct Home {
    pub(super) dir: PathBuf,
    dash: Vec<u8>,
    ext: Vec<u8>,
}

impl Local {
    /// The plan for `recipient`, whose home this is, or the report that ends the delivery at once.
    pub(super) fn plan(&self, recipient: &[u8], home: Home, body: &Body) -> Result<Plan, Report> {
        let host = address::split(recipient).1.unwrap_or_default();
        check_home(&home.dir)?;
        let mut plan = Plan { delivered_to: one_line(recipient), ..Plan::default() };
        let instructions = dotqmail(self, &home)?;
        // For a virtual user Delivered-To is the address the sender wrote.
        if instructions.iter().any(|one| matches!(one, Instruction::Vdelivermail(_))) {
            plan.delivered_to = one_line(&[&home.ext.to_ascii_lowercase(), &b"@"[..], host].concat());
        }
        if is_looping(body, &plan.delivered_to).map_err(unreadable_mess)? {
            return Err(Report::failure(
                "This message is looping: it already has my Delivered-To line. (#5.4.6)\n",
            ));
        }
        for instruction in instructions {
            match instruction {
                Instruction::Vdelivermail(unknown) => {
                    plan.did.2 += 1;
                    vdelivermail(self, &home, host, unknown, &mut plan)?;
                }
                other => obey(&home.dir, other, &mut plan)?,
            }
        }
        Ok(plan)
    }

    /// The home that `users/cdb` gives an address.
    pub(super) fn assigned(&self, recipient: &[u8]) -> Result<Option<Home>, Report> {
        let trouble = |error: io::Error| {
            tracing::error!("alert: {error}");
            Report::deferral("Trouble reading users/cdb in qmail-lspawn.\n")
        };
        let local = address::split(recipient).0;
        let found = self.arguments.vpopmail.assigned(local).map_err(trouble)?;
        Ok(found.map(|found| Home { dir: path(&found.home), dash: found.dash, ext: found.ext }))
    }

    /// The home of an address that has none in `users/cdb`. May wait for the system's accounts.
    pub(super) fn unassigned(&self, recipient: &[u8]) -> Result<Home, Report> {
        let local = address::split(recipient).0;
        if names_system_user(local)? {
            return Err(Report::deferral("This host does not deliver to system users yet. (#4.3.5)\n"));
        }
        Ok(Home { dir: self.arguments.alias.clone(), dash: b"-".to_vec(), ext: local.to_vec() })
    }
}

/// Whether qmail-getpw would find an account for the address: `user` or `user-ext`, not root, whose home is its own.
fn names_system_user(local: &[u8]) -> Result<bool, Report> {
    for name in account_names(local) {
        let user = User::from_name(&name).map_err(|error| {
            tracing::error!("alert: unable to look up account {name}: {error}");
            Report::deferral("Unable to run qmail-getpw. (#4.3.0)\n")
        })?;
        let owns_home =
            |user: &User| fs::metadata(&user.dir).is_ok_and(|home| home.uid() == user.uid.as_raw());
        if user.is_some_and(|user| !user.uid.is_root() && owns_home(&user)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The account names an address may begin with, longest first.
fn account_names(local: &[u8]) -> Vec<String> {
    let whole = std::str::from_utf8(local).unwrap_or_default().to_ascii_lowercase();
    let ends = whole.match_indices('-').map(|(at, _)| at).chain([whole.len()]);
    let names: Vec<String> = ends.map(|end| whole[..end].to_owned()).collect();
    names.into_iter().rev().filter(|name| !name.is_empty() && name.len() <= MAX_ACCOUNT).collect()
}

fn check_home(home: &Path) -> Result<(), Report> {
    let mode = match fs::metadata(home) {
        Ok(meta) => meta.permissions().mode(),
        Err(error) => {
            return Err(Report::deferral(format!(
                "Unable to switch to {}: {error}. (#4.3.0)\n",
                home.display()
            )));
        }
    };
    if mode & 0o002 != 0 {
        return Err(Report::deferral("Uh-oh: home directory is writable. (#4.7.0)\n"));
    }
    if mode & 0o1000 != 0 {
        return Err(Report::deferral(
            "Home directory is sticky: user is editing his .qmail file. (#4.2.1)\n",
        ));
    }
    Ok(())
}

/// The instructions of the first `.qmail` file that exists for the address.
fn dotqmail(state: &Local, home: &Home) -> Result<Vec<Instruction>, Report> {
    for candidate in dotqmail::candidates(&home.dash, &home.ext) {
        if let Some(instructions) = read_dotqmail(&home.dir.join(OsStr::from_bytes(&candidate.file)))? {
            return Ok(instructions.unwrap_or_else(|| default_delivery(state)));
        }
    }
    if home.dash.is_empty() {
        return Ok(default_delivery(state));
    }
    Err(no_mailbox())
}

fn default_delivery(state: &Local) -> Vec<Instruction> {
    vec![Instruction::Maildir(state.arguments.defaultdelivery.clone().into_bytes())]
}

fn no_mailbox() -> Report {
    Report::failure("Sorry, no mailbox here by that name. (#5.1.1)\n")
}

/// The lines of a `.qmail` file: `None` if there is no such file, `Some(None)` if it is empty.
#[allow(clippy::option_option)]
fn read_dotqmail(path: &Path) -> Result<Option<Option<Vec<Instruction>>>, Report> {
    let trouble = |error: io::Error| {
        Report::deferral(format!("Unable to read {}: {error}. (#4.3.0)\n", path.display()))
    };
    let (file, meta) = match regular::open_with_metadata(path) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return Ok(None),
        Err(error) => return Err(trouble(error)),
    };
    let mode = meta.permissions().mode();
    if mode & 0o002 != 0 {
        return Err(Report::deferral("Uh-oh: .qmail file is writable. (#4.7.0)\n"));
    }
    if meta.len() > dotqmail::MAX_SIZE {
        return Err(Report::deferral(format!(
            "Uh-oh: .qmail file is larger than {} bytes. (#4.7.0)\n",
            dotqmail::MAX_SIZE
        )));
    }
    let mut text = Vec::new();
    file.take(dotqmail::MAX_SIZE).read_to_end(&mut text).map_err(trouble)?;
    if !text.ends_with(b"\n") && is_younger(&meta, QUIET) {
        return Err(Report::deferral("Uh-oh: .qmail file is being written. (#4.2.1)\n"));
    }
    if text.is_empty() {
        return Ok(Some(None));
    }
    let instructions = dotqmail::parse(&text).map_err(|error| Report::deferral(format!("{error}\n")))?;
    let to_files = |one: &Instruction| matches!(one, Instruction::Maildir(_) | Instruction::Mbox(_));
    if mode & 0o100 != 0 && instructions.iter().any(to_files) {
        return Err(Report::deferral("Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)\n"));
    }
    Ok(Some(Some(instructions)))
}

fn obey(home: &Path, instruction: Instruction, plan: &mut Plan) -> Result<(), Report> {
    match instruction {
        Instruction::Maildir(dir) => {
            plan.did.0 += 1;
            plan.maildirs.push(Target { dir: home.join(path(&dir)), own: false });
        }
        Instruction::Forward(to) => {
            plan.did.1 += 1;
            plan.forwards.push(to);
        }
        Instruction::Mbox(_) => {
            return Err(Report::deferral("This host does not deliver to mbox files yet. (#4.3.5)\n"));
        }
        Instruction::Program(_) => {
            return Err(Report::deferral(
                "This host does not run programs from .qmail files yet. (#4.3.5)\n",
            ));
        }
        Instruction::Vdelivermail(_) => {
            return Err(Report::deferral("Uh-oh: a user's .qmail file calls vdelivermail. (#4.3.5)\n"));
        }
    }
    Ok(())
}

/// vpopmail's delivery: the domain's users, then what the domain does with everybody else.
fn vdelivermail(
    state: &Local,
    home: &Home,
    host: &[u8],
    unknown: UnknownUser,
    plan: &mut Plan,
) -> Result<(), Report> {
    let user = home.ext.to_ascii_lowercase();
    let trouble = |error: &dyn std::fmt::Display| {
        tracing::error!("alert: unable to look up {} in vpasswd.cdb: {error}", user.escape_ascii());
        Report::deferral("Trouble reading vpasswd.cdb in vdelivermail. (#4.3.0)\n")
    };
    let found = state.arguments.vpopmail.user_in(&home.dir, &user).map_err(|error| trouble(&error))?;
    let Some(entry) = found else {
        match unknown {
            UnknownUser::Bounce => return Err(no_mailbox()),
            UnknownUser::Delete => (),
            UnknownUser::Forward(_) | UnknownUser::User(_) => plan.forwards.extend(unknown.forward(host)),
            UnknownUser::Directory(dir) => {
                let dir = home.dir.join(path(&dir));
                let is_maildir = dir.join("new").is_dir();
                let dir = if is_maildir { dir } else { dir.join("Maildir") };
                plan.maildirs.push(Target { dir, own: false });
            }
        }
        return Ok(());
    };
    if entry.flags & flag::BOUNCE != 0 {
        let address = String::from_utf8_lossy(&[&user, &b"@"[..], host].concat()).into_owned();
        return Err(Report::failure(format!("vdelivermail: account is locked email bounced {address}\n")));
    }
    let dir = path(&entry.dir);
    match read_dotqmail(&dir.join(".qmail"))? {
        Some(Some(lines)) if !lines.is_empty() => {
            let before = plan.did;
            for line in lines {
                obey(&dir, line, plan)?;
            }
            // In the log all of this is vdelivermail, one program.
            plan.did = before;
        }
        _ => plan.maildirs.push(Target { dir: dir.join("Maildir"), own: true }),
    }
    Ok(())
}

/// Whether the message's header says that it was delivered to this address before.
fn is_looping(body: &Body, delivered_to: &[u8]) -> io::Result<bool> {
    let (mut at, mut chunk, mut line) = (0, Vec::new(), Vec::new());
    while at < MAX_HEADER {
        body.read_at(at, &mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        at += chunk.len() as u64;
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            let Some(text) = line.strip_suffix(b"\n") else { break };
            if text.is_empty() {
                return Ok(false);
            }
            if is_delivered_to(text, delivered_to) {
                return Ok(true);
            }
            line.clear();
        }
    }
    Ok(is_delivered_to(&line, delivered_to))
}

fn is_delivered_to(line: &[u8], address: &[u8]) -> bool {
    line.split_at_checked(13).is_some_and(|(name, value)| {
        name.eq_ignore_ascii_case(b"Delivered-To:") && value.trim_ascii() == address
    })
}

pub(super) fn unreadable_mess(error: io::Error) -> Report {
    tracing::error!("alert: unable to read a message: {error}");
    Report::deferral("Unable to read message. (#4.3.0)\n")
}

/// An address on a header line.
pub(super) fn one_line(address: &[u8]) -> Vec<u8> {
    address.iter().map(|byte| if byte.is_ascii_control() { b'_' } else { *byte }).collect()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_belong_to_each_account_it_begins_with() {
        assert_eq!(account_names(b"Bob-list-owner"), ["bob-list-owner", "bob-list", "bob"]);
        assert_eq!(account_names(b"-x"), ["-x"]);
        assert!(account_names(b"").is_empty());
        assert!(account_names(&[b'a'; 33]).is_empty());
        assert_eq!(names_system_user(b"root"), Ok(false), "mail for root is the alias user's");
    }
}
