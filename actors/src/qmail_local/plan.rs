//! What to do for a local address, as `.qmail` files and vpasswd say. Reads files, changes nothing.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mailtree_config::changes::{QUIET, is_younger};
use mailtree_config::regular;
use mailtree_protocols::address;
use mailtree_protocols::dotqmail::{self, Candidate, Instruction, UnknownUser};
use mailtree_protocols::maildirsize::Quota;
use mailtree_protocols::qmail_local::{MAX_REPORT, one_line, sender::newsender};
use mailtree_protocols::report::Report;
use mailtree_protocols::vpasswd::flag;

use super::who::{Home, unable_to_switch};
use super::{QmailLocal, unreadable_mess};
use crate::maildir::quota;
use crate::queue::Body;

/// Longest header that is searched for a loop, in bytes.
const MAX_HEADER: u64 = 1024 * 1024;

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The address in Delivered-To.
    pub(crate) delivered_to: Vec<u8>,
    /// The reverse-path of what goes on to other addresses.
    pub(crate) newsender: Vec<u8>,
    /// What `default` in the name of the `.qmail` file stands for.
    pub(crate) default: Option<Vec<u8>>,
    /// The lines.
    pub(crate) steps: Vec<Step>,
}

/// A line of a `.qmail` file, or what vdelivermail makes of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A Maildir that gets the message.
    Maildir(Target),
    /// An mbox that gets it.
    Mbox(PathBuf),
    /// A command for the shell, in this directory.
    Program(Vec<u8>, PathBuf),
    /// An address that gets it, with all others in one message.
    Forward(Vec<u8>),
    /// vdelivermail was asked: in counts a program, and what follows counts nothing until [`Step::Vdelivered`].
    Vdelivermail,
    /// The end of what it does.
    Vdelivered,
}

/// A Maildir that gets the message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) dir: PathBuf,
    /// It is that of a user of vpasswd, in this domain's directory: what is missing of it below that is made. Not so what a
    /// `.qmail` file names or means, which may be half a line, or an empty file that is about to be written: nobody would read
    /// what is delivered there.
    pub(crate) within: Option<PathBuf>,
    /// vdelivermail keeps its quota; qmail-local knows none.
    pub(crate) quota: Option<Kept>,
}

/// Whose quota it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The domain's directory, with its texts for users.
    pub(crate) domain: PathBuf,
    /// What vpasswd says; none: what the Maildir's own `maildirsize` says.
    pub(crate) quota: Option<Quota>,
}

/// What has been done, as the report counts it: files, addresses, programs. What vdelivermail does is one program.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Did {
    files: usize,
    forwards: usize,
    programs: usize,
    within: bool,
}

impl Did {
    /// This step, too.
    pub(crate) fn count(&mut self, step: &Step) {
        match step {
            Step::Vdelivermail => (self.programs, self.within) = (self.programs + 1, true),
            Step::Vdelivered => self.within = false,
            _ if self.within => (),
            Step::Maildir(_) | Step::Mbox(_) => self.files += 1,
            Step::Forward(_) => self.forwards += 1,
            Step::Program(..) => self.programs += 1,
        }
    }
}

impl std::fmt::Display for Did {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "did {}+{}+{}", self.files, self.forwards, self.programs)
    }
}

impl Plan {
    /// Whether it takes more than Maildirs and addresses: locks that somebody may hold, programs that may run for ever.
    pub(crate) fn needs_process(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Mbox(_) | Step::Program(..)))
    }
}

impl QmailLocal {
    /// The plan for `recipient`, whose home this is, or the report that ends the delivery at once.
    pub(crate) fn plan(
        &self,
        recipient: &[u8],
        sender: &[u8],
        home: &Home,
        body: &Body,
    ) -> Result<Plan, Report> {
        let (local, host) = address::split(recipient);
        let host = host.unwrap_or_default();
        check_home(&home.dir)?;
        let (candidate, instructions) = self.dotqmail(home)?;
        // For a virtual user Delivered-To is the address the sender wrote.
        let delivered_to = match instructions.iter().any(|one| matches!(one, Instruction::Vdelivermail(_))) {
            true => one_line(&[&home.ext.to_ascii_lowercase(), &b"@"[..], host].concat()),
            false => one_line(recipient),
        };
        if is_looping(body, &delivered_to).map_err(unreadable_mess)? {
            return Err(Report::failure(
                "This message is looping: it already has my Delivered-To line. (#5.4.6)\n",
            ));
        }
        let there = |suffix: &[u8]| exists(home, suffix);
        let newsender = newsender(sender, (local, host), || there(b"-owner"), || there(b"-owner-default"))?;
        let default = candidate.and_then(|candidate| candidate.default);
        let mut plan = Plan { delivered_to, newsender, default, steps: Vec::new() };
        for instruction in instructions {
            match instruction {
                Instruction::Vdelivermail(unknown) => {
                    plan.steps.push(Step::Vdelivermail);
                    self.vdelivermail(home, host, unknown, &mut plan.steps)?;
                    plan.steps.push(Step::Vdelivered);
                }
                other => plan.steps.extend(step(&home.dir, other)?),
            }
        }
        Ok(plan)
    }

    /// The instructions of the first `.qmail` file that exists for the address, and which one that is.
    fn dotqmail(&self, home: &Home) -> Result<(Option<Candidate>, Vec<Instruction>), Report> {
        for candidate in dotqmail::candidates(&home.dash, &home.ext) {
            if let Some(lines) = read_dotqmail(&home.dir.join(OsStr::from_bytes(&candidate.file)))? {
                let lines = lines.map_or_else(|| self.default_delivery(), Ok)?;
                return Ok((Some(candidate), lines));
            }
        }
        if home.dash.is_empty() {
            return Ok((None, self.default_delivery()?));
        }
        Err(no_mailbox())
    }

    fn default_delivery(&self) -> Result<Vec<Instruction>, Report> {
        dotqmail::parse(self.defaultdelivery.as_bytes())
            .map_err(|error| Report::deferral(format!("{error}\n")))
    }

    /// vpopmail's delivery: the domain's users, then what the domain does with everybody else.
    fn vdelivermail(
        &self,
        home: &Home,
        host: &[u8],
        unknown: UnknownUser,
        steps: &mut Vec<Step>,
    ) -> Result<(), Report> {
        let user = home.ext.to_ascii_lowercase();
        let trouble = |error: &dyn std::fmt::Display| {
            tracing::error!("alert: unable to look up {} in vpasswd.cdb: {error}", user.escape_ascii());
            Report::deferral("Trouble reading vpasswd.cdb in vdelivermail. (#4.3.0)\n")
        };
        let found = self.vpopmail.user_in(&home.dir, &user).map_err(|error| trouble(&error))?;
        let Some(entry) = found else {
            match unknown {
                UnknownUser::Bounce => {
                    let text = said(&home.dir, &self.domains, ".no-user.msg");
                    return Err(text.map_or_else(no_mailbox, Report::failure));
                }
                UnknownUser::Delete => (),
                UnknownUser::Forward(_) | UnknownUser::User(_) => {
                    steps.extend(unknown.forward(host).map(Step::Forward));
                }
                UnknownUser::Directory(dir) => {
                    let dir = home.dir.join(path(&dir));
                    let is_maildir = dir.join("new").is_dir();
                    let maildir = if is_maildir { dir.clone() } else { dir.join("Maildir") };
                    let quota = Some(Kept { domain: home.dir.clone(), quota: None });
                    let target = Target { dir: maildir, within: None, quota };
                    user_dotqmail(&home.dir, &dir, target, steps)?;
                }
            }
            return Ok(());
        };
        if entry.flags & flag::BOUNCE != 0 {
            let address = String::from_utf8_lossy(&[&user, &b"@"[..], host].concat()).into_owned();
            return Err(Report::failure(format!(
                "vdelivermail: account is locked email bounced {address}\n"
            )));
        }
        let dir = path(&entry.dir);
        let quota = Quota::parse(&entry.quota).ok_or_else(|| {
            let (user, quota) = (user.escape_ascii(), entry.quota.escape_ascii());
            Report::deferral(format!(
                "the quota of {user} is `{quota}`; allowed: NOQUOTA, 1000S, 1000S,10C\n"
            ))
        })?;
        let maildir = Target {
            dir: dir.join("Maildir"),
            within: Some(home.dir.clone()),
            quota: Some(Kept { domain: home.dir.clone(), quota: Some(quota) }),
        };
        user_dotqmail(&home.dir, &dir, maildir, steps)
    }
}

/// What the `.qmail` file in a virtual user's directory says, or his Maildir. A file of comments alone delivers nothing.
fn user_dotqmail(domain: &Path, dir: &Path, maildir: Target, steps: &mut Vec<Step>) -> Result<(), Report> {
    let Some(Some(lines)) = read_dotqmail(&dir.join(".qmail"))? else {
        steps.push(Step::Maildir(maildir));
        return Ok(());
    };
    for line in lines {
        match line {
            Instruction::Mbox(file) => {
                let file = String::from_utf8_lossy(&file).into_owned();
                return Err(Report::deferral(format!("can't handle mbox delivery for {file}\n")));
            }
            Instruction::Maildir(named) => {
                let dir = dir.join(path(&named));
                // The user's own has his own quota, however it is called.
                let own = dir.components().eq(maildir.dir.components());
                let quota = if own { maildir.quota.as_ref().and_then(|kept| kept.quota) } else { None };
                let quota = Some(Kept { domain: domain.to_owned(), quota });
                steps.push(Step::Maildir(Target { dir, within: None, quota }));
            }
            other => steps.extend(step(dir, other)?),
        }
    }
    Ok(())
}

/// What the administrator says to whoever wrote, cut as a report is.
pub(super) fn said(domain: &Path, domains: &Path, name: &str) -> Option<String> {
    let text = quota::text(domain, domains, name).unwrap_or_else(|error| {
        tracing::warn!("warning: unable to read {name} of {}: {error}", domain.display());
        None
    })?;
    Some(String::from_utf8_lossy(&text[..text.len().min(MAX_REPORT)]).into_owned())
}

fn check_home(home: &Path) -> Result<(), Report> {
    let meta = fs::metadata(home).map_err(|error| unable_to_switch(home, &error))?;
    let mode = meta.permissions().mode();
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

/// Whether the `.qmail` file of the whole address exists with this behind its name.
fn exists(home: &Home, suffix: &[u8]) -> Result<bool, Report> {
    let Some(candidate) = dotqmail::candidates(&home.dash, &home.ext).into_iter().next() else {
        return Ok(false);
    };
    let path = home.dir.join(OsStr::from_bytes(&[&candidate.file, suffix].concat()));
    match fs::metadata(&path) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory => {
                Ok(false)
            }
            _ => Err(unreadable(&path, &error)),
        },
    }
}

fn no_mailbox() -> Report {
    Report::failure("Sorry, no mailbox here by that name. (#5.1.1)\n")
}

fn unreadable(path: &Path, error: &io::Error) -> Report {
    Report::deferral(format!("Unable to read {}: {error}. (#4.3.0)\n", path.display()))
}

/// The lines of a `.qmail` file: `None` if there is no such file, `Some(None)` if it is empty.
#[allow(clippy::option_option)]
fn read_dotqmail(path: &Path) -> Result<Option<Option<Vec<Instruction>>>, Report> {
    let trouble = |error: io::Error| unreadable(path, &error);
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
    let instructions = dotqmail::parse(&text)
        .and_then(|lines| dotqmail::check_list(&lines, mode & 0o100 != 0).map(|()| lines))
        .map_err(|error| Report::deferral(format!("{error}\n")))?;
    Ok(Some(Some(instructions)))
}

fn step(home: &Path, instruction: Instruction) -> Result<Option<Step>, Report> {
    Ok(Some(match instruction {
        Instruction::Maildir(dir) => {
            Step::Maildir(Target { dir: home.join(path(&dir)), within: None, quota: None })
        }
        Instruction::Forward(to) => Step::Forward(to),
        Instruction::Mbox(file) => Step::Mbox(home.join(path(&file))),
        Instruction::Program(command) => Step::Program(command, home.to_owned()),
        Instruction::List => return Ok(None),
        Instruction::Vdelivermail(_) => {
            return Err(Report::deferral("Uh-oh: a user's .qmail file calls vdelivermail. (#4.3.5)\n"));
        }
    }))
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

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
