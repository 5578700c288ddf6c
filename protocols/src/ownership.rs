//! Whose an envelope sender is: an authenticated user may send as whoever's mail comes to him.
//!
//! An address is a user's when it is his own, when it is his mailbox under another name (an alias domain), when it is his
//! name with an extension that is nobody else's, and when a `.qmail` file that controls it sends its mail to him, be it
//! through other such files. What a user wrote into his own `.qmail` gives nobody an address: only files of a domain, of the
//! user alias, or of an account do.

use std::collections::VecDeque;

use crate::address;
use crate::assign::Controlled;
use crate::dotqmail::{self, Instruction, UnknownUser};
use crate::vpasswd::Entry;

/// Addresses that are followed until an address is nobody's: a list of thousands does not keep a thread.
const FOLLOWED_MAX: usize = 64;

/// Hyphens in a local part that are looked at; an address with more is nobody's.
const HYPHENS_MAX: usize = 16;

/// A question could not be answered: a file or database that cannot be read, or a `.qmail` file that cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// The questions that files of the host answer. Each may block; what is not there is no error.
pub trait Facts {
    /// Who controls an address with a domain, in lower case: `locals`, `virtualdomains`, `users/assign`, the user alias.
    /// `None`: it is another host's.
    fn controlled(&self, address: &[u8]) -> Result<Option<Controlled>, Unavailable>;

    /// What a `.qmail` file of a home says; its name holds no slash and no NUL. `None`: there is none.
    fn instructions(&self, home: &[u8], file: &[u8]) -> Result<Option<Vec<Instruction>>, Unavailable>;

    /// The user of this name in the `vpasswd` of a home. `None`: no such user, or no `vpasswd` there.
    fn user(&self, home: &[u8], name: &[u8]) -> Result<Option<Entry>, Unavailable>;
}

/// Whether `login`, an address in lower case, may send as `sender`, as MAIL has it, without looking into any file: the
/// empty sender and his own address.
pub fn is_plainly_his(login: &[u8], sender: &[u8]) -> bool {
    sender.is_empty() || normal(sender) == login
}

/// The address as it is compared: the domain in A-labels, all in lower case, as vpopmail keeps it.
fn normal(address: &[u8]) -> Vec<u8> {
    address::in_a_labels(address.to_vec()).to_ascii_lowercase()
}

/// Whether `login`, an address in lower case, may send as `sender`.
pub fn is_his(login: &[u8], sender: &[u8], facts: &dyn Facts) -> Result<bool, Unavailable> {
    if is_plainly_his(login, sender) {
        return Ok(true);
    }
    // A user whom no file here knows has his own address alone.
    let Some(own) = facts.controlled(login)? else { return Ok(false) };
    let dir = facts.user(&own.home, &own.ext.to_ascii_lowercase())?.map(|entry| entry.dir);
    let user = User { login, own, dir };
    let mut seen = vec![normal(sender)];
    let mut follow: VecDeque<_> = seen.iter().cloned().collect();
    while let Some(address) = follow.pop_front() {
        match user.of(&address, facts)? {
            Whose::His => return Ok(true),
            Whose::Forwarded(to) => {
                let to: Vec<_> = to.iter().map(|to| normal(to)).collect();
                if to.iter().any(|to| to == login) {
                    return Ok(true);
                }
                for to in to {
                    if seen.len() < FOLLOWED_MAX && !seen.contains(&to) {
                        seen.push(to.clone());
                        follow.push_back(to);
                    }
                }
            }
        }
    }
    Ok(false)
}

/// Who has logged in.
struct User<'a> {
    login: &'a [u8],
    own: Controlled,
    /// His directory, if he is one of a virtual domain.
    dir: Option<Vec<u8>>,
}

enum Whose {
    His,
    /// Not his, unless one of these addresses is.
    Forwarded(Vec<Vec<u8>>),
}

impl User<'_> {
    /// Whose an address is, in the order of a delivery: the `.qmail` file of its name, the user of its name, the extension of
    /// a user's name, and what becomes of everybody else.
    fn of(&self, address: &[u8], facts: &dyn Facts) -> Result<Whose, Unavailable> {
        let nobody = Ok(Whose::Forwarded(Vec::new()));
        if address == self.login {
            return Ok(Whose::His);
        }
        if address::split(address).1.is_none_or(<[u8]>::is_empty) {
            return nobody;
        }
        let Some(Controlled { home, dash, ext, .. }) = facts.controlled(address)? else { return nobody };
        let ext = ext.to_ascii_lowercase();
        let same_home = home == self.own.home;
        // Without an extension of his own all of the home is his: an account of the system.
        let all_his = self.own.dash.is_empty() && self.own.ext.is_empty();
        if same_home && (all_his || dash == self.own.dash && ext == self.own.ext.to_ascii_lowercase()) {
            return Ok(Whose::His);
        }
        let hyphens: Vec<usize> = (0..ext.len()).filter(|&at| ext[at] == b'-').collect();
        if hyphens.len() > HYPHENS_MAX {
            return nobody;
        }
        let everybody = [b".qmail", &*dash, b"default"].concat();
        for candidate in dotqmail::candidates(&dash, &ext).iter().filter(|one| one.file != everybody) {
            if let Some(instructions) = facts.instructions(&home, &candidate.file)? {
                return Ok(self.told(instructions, address));
            }
        }
        if facts.user(&home, &ext)?.is_some() {
            return nobody;
        }
        let mut before = Vec::new();
        for name in hyphens.iter().map(|&at| &ext[..at]) {
            if facts.user(&home, name)?.is_some() {
                before.push(name);
            }
        }
        match before[..] {
            [] if dash.is_empty() => nobody,
            [] => Ok(facts
                .instructions(&home, &everybody)?
                .map_or(Whose::Forwarded(Vec::new()), |told| self.told(told, address))),
            // Of `a` and `a-b` neither has `a-b-c`.
            [one] if same_home && one == self.own.ext.to_ascii_lowercase() => Ok(Whose::His),
            _ => nobody,
        }
    }

    /// Where the instructions of a file lead, for an address.
    fn told(&self, instructions: Vec<Instruction>, address: &[u8]) -> Whose {
        let host = address::split(address).1.unwrap_or_default();
        let mut forwards = Vec::new();
        for instruction in instructions {
            match instruction {
                Instruction::Forward(to) => forwards.push(to),
                Instruction::Maildir(dir) | Instruction::Vdelivermail(UnknownUser::Directory(dir))
                    if self.is_his_directory(&dir) =>
                {
                    return Whose::His;
                }
                Instruction::Maildir(_)
                | Instruction::Mbox(_)
                | Instruction::Program(_)
                | Instruction::List => (),
                Instruction::Vdelivermail(unknown) => forwards.extend(unknown.forward(host)),
            }
        }
        Whose::Forwarded(forwards)
    }

    /// Whether this is the user's directory or the Maildir in it.
    fn is_his_directory(&self, dir: &[u8]) -> bool {
        let plain = |dir: &[u8]| dir.strip_suffix(b"/").unwrap_or(dir).to_vec();
        let dir = plain(dir);
        self.dir
            .as_ref()
            .map(|own| plain(own))
            .is_some_and(|own| dir == own || dir == [&own[..], b"/Maildir"].concat())
    }
}

#[cfg(test)]
mod tests;
