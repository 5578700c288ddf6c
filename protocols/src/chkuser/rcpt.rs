//! Whether a recipient exists (realrcpt of chkuser.c).

use memchr::memmem;

use super::event::Event;
use super::settings::{Settings, Start};
use super::{Mx, Step, format};
use crate::vpasswd::{self, Entry, flag};
use crate::{address, dotqmail};

/// So many bytes of `.qmail-default` are searched.
pub const QMAIL_DEFAULT: usize = 1023;

/// What they hold in a domain that refuses unknown users.
const BOUNCE: &[u8] = b"bounce-no-mailbox";

/// Longest file name.
const MAX_NAME: usize = 255;

/// A virtual domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name: of the domain that an alias domain stands for.
    pub name: Vec<u8>,
    /// Its directory.
    pub dir: Vec<u8>,
}

/// A question could not be answered: a file or database that cannot be read. The recipient is refused for now; the reason
/// is for the log of the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// The questions that files and databases of the host answer. They are asked one after the other and only as far as
/// needed; each may block. Names are in lower case; what is not there is no error.
pub trait Facts {
    /// Whether mail for the domain is taken: `rcpthosts` and `morercpthosts`.
    fn in_rcpthosts(&self, domain: &[u8]) -> Result<bool, Unavailable>;

    /// The virtual domain of this name: `users/assign`. `None`: it is no virtual one.
    fn assigned(&self, domain: &[u8]) -> Result<Option<Domain>, Unavailable>;

    /// The first [`QMAIL_DEFAULT`] bytes of the domain's `.qmail-default`; empty without the file.
    fn qmail_default(&self, domain: &Domain) -> Result<Vec<u8>, Unavailable>;

    /// Whether the domain has this alias in its database of aliases (valias).
    fn valias(&self, domain: &Domain, user: &[u8]) -> Result<bool, Unavailable>;

    /// Whether the domain's directory has this file; its name begins with `.qmail-` and holds no slash and no NUL.
    fn dotqmail(&self, domain: &Domain, file: &[u8]) -> Result<bool, Unavailable>;

    /// The user in the domain's `vpasswd`.
    fn vpasswd(&self, domain: &Domain, user: &[u8]) -> Result<Option<Entry>, Unavailable>;

    /// How much of its quota, which is not `NOQUOTA`, the user's Maildir uses, in percent.
    fn usage(&self, entry: &Entry) -> Result<u32, Unavailable>;

    /// Whether the domain's directory has `LIST/editor`, which a mailing list of ezmlm has. LIST holds no slash and no
    /// NUL and does not begin with a dot.
    fn ezmlm(&self, domain: &Domain, list: &[u8]) -> Result<bool, Unavailable>;
}

/// Checks the forward-path of RCPT, without RELAYCLIENT appended; `mx` is the answer to an earlier [`Step::Mx`]. After an
/// error [`Event::NoAuthResource`] is to be concluded.
///
/// The order: chkuser off → a domain there → well formed → in rcpthosts, or else MX and then RELAYCLIENT → a virtual domain
/// → one that bounces (with [`Start::Domain`]) → alias in the database → `.qmail-USER` → `.qmail-…-default` → user → list.
pub fn check(
    settings: &Settings,
    recipient: &[u8],
    smtputf8: bool,
    mx: Option<Mx>,
    facts: &dyn Facts,
) -> Result<Step, Unavailable> {
    let lower = recipient.to_ascii_lowercase();
    let (user, domain) = address::split(&lower);
    let elsewhere = if settings.relayclient { Event::Relaying } else { Event::NotRelaying };
    if settings.start == Start::Never {
        // As rcpthosts has it, an address without a domain is local.
        let allowed = domain.map_or(Ok(true), |domain| facts.in_rcpthosts(domain))?;
        return Ok(Step::Done(if allowed { Event::AnyRecipient } else { elsewhere }));
    }
    let Some(domain) = domain.filter(|domain| !domain.is_empty()) else {
        return Ok(Step::Done(Event::NoDomain));
    };
    if settings.rcpt_format && !format::is_well_formed(user, domain, smtputf8) {
        return Ok(Step::Done(Event::RcptFormat));
    }
    if !facts.in_rcpthosts(domain)? {
        let event = match mx {
            _ if !settings.rcpt_mx => elsewhere,
            None => return Ok(Step::Mx(domain.to_vec())),
            Some(Mx::Found) => elsewhere,
            Some(Mx::NotFound) => Event::RcptMx,
            Some(Mx::Temporary) => Event::RcptMxTemporary,
        };
        return Ok(Step::Done(event));
    }
    let Some(domain) = facts.assigned(domain)? else {
        return Ok(Step::Done(Event::FoundRecipient));
    };
    if settings.start == Start::Domain && !bounces(&facts.qmail_default(&domain)?) {
        return Ok(Step::Done(Event::AnyRecipientOfDomain));
    }
    local(settings, user, &domain, facts).map(Step::Done)
}

fn bounces(qmail_default: &[u8]) -> bool {
    let searched = &qmail_default[..qmail_default.len().min(QMAIL_DEFAULT)];
    memmem::find(searched, BOUNCE).is_some()
}

/// What the virtual domain has for this user.
fn local(settings: &Settings, user: &[u8], domain: &Domain, facts: &dyn Facts) -> Result<Event, Unavailable> {
    if facts.valias(domain, user)? {
        return Ok(Event::FoundRecipient);
    }
    // The candidates of qmail-local but for the last, `.qmail-default`, which is there for everybody.
    let candidates = dotqmail::candidates(b"-", user);
    let files = candidates.iter().map(|candidate| candidate.file.as_slice());
    for file in files.filter(|file| file.len() <= MAX_NAME && *file != b".qmail-default") {
        if facts.dotqmail(domain, file)? {
            return Ok(Event::FoundRecipient);
        }
    }
    if let Some(entry) = facts.vpasswd(domain, user)? {
        if entry.flags & flag::BOUNCE != 0 {
            return Ok(Event::NoRecipient);
        }
        let limited = settings.mbxquota > 0 && !entry.quota.eq_ignore_ascii_case(b"NOQUOTA");
        let full = limited && facts.usage(&entry)? >= settings.mbxquota;
        return Ok(if full { Event::OverQuota } else { Event::FoundRecipient });
    }
    // `list-subscribe` and the like belong to `list`; from the right, as names may hold dashes.
    for dash in (0..user.len()).rev().filter(|&at| user[at] == b'-') {
        let list = &user[..dash];
        if vpasswd::is_name(list) && facts.ezmlm(domain, list)? {
            return Ok(Event::FoundRecipient);
        }
    }
    Ok(Event::NoRecipient)
}

#[cfg(test)]
mod tests;
