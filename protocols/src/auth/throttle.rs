//! Slows the guessing of passwords.
//!
//! Failures are counted for the account and for the network they come from: an IPv4 address, or an IPv6 /64, which is
//! what one line gets; of a /48, which has 65,536 of them, the sum is counted too. (A wider IPv4 network would make strangers
//! answer for each other.) One failure is forgotten each [`Limits::forget`]. Beyond a number that is free each further failure
//! doubles the wait. After the longest wait a network is refused until enough is forgotten; an account never is: its owner
//! gets in from a network that is nobody's yet, after that wait. Attempts under way count as failures until they are over.
//!
//! What keeps this fair: a network on the allow-list is never slowed; the same wrong password again, as from a device
//! that was not told the new one, counts once; and a network from which the account's password was right before is
//! held to its own failures only, so that others' guessing locks nobody out of where he usually is.
//!
//! What keeps this safe: all memory is taken at the start and never grows. Failures stand in a count-min sketch, which
//! drops nothing but with time: no number of other failures, accounts or networks makes a record smaller. A flood of
//! them makes other records larger instead, so it slows strangers and never helps a guesser. A success clears nothing
//! either: otherwise a guesser would clear his network's record with an account of his own, or the owner's mail reader
//! that of the account. Records of successes are replaced, the oldest first, only by those of the same few accounts,
//! which cost a right password each; a wrong password that is no longer known counts again. All places in the tables
//! depend on a random key, so none can be aimed at.

mod tables;

use std::collections::HashMap;
use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use tables::{Recent, Sketch};

/// How fast and how far; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// So many failures of an account are free.
    pub account_free: u32,
    /// So many failures of a network are free; many users may share one.
    pub network_free: u32,
    /// So many failures of a site are free: of an IPv6 /48, which has 65,536 networks.
    pub site_free: u32,
    /// The first wait; each further failure doubles it.
    pub first_wait: u64,
    /// The longest wait; after it attempts from a network are refused.
    pub longest_wait: u64,
    /// In this time one failure is forgotten. At least 1.
    pub forget: u64,
    /// So many failures are remembered of an account or a network: an attack is over after this number times `forget`.
    pub remembered: u32,
    /// So long a success speaks for the network it came from, and a wrong password is known as one that was counted.
    pub trust: u64,
}

impl Default for Limits {
    /// Waits of 1 to 30 seconds from the 4th failure of an account and the 11th of a network; one failure is forgotten
    /// in 5 minutes, so a guesser gets 288 guesses a day from one network; the heaviest attack is forgotten in 3 hours;
    /// trust lasts 30 days.
    fn default() -> Self {
        Self {
            account_free: 3,
            network_free: 10,
            site_free: 100,
            first_wait: 1_000,
            longest_wait: 30_000,
            forget: 5 * 60_000,
            remembered: 36,
            trust: 30 * 24 * 3_600_000,
        }
    }
}

/// Whether a password is verified now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// At once.
    Go,
    /// After so many milliseconds.
    Wait(u64),
    /// Not at all: the client is told to try again later, whatever its password.
    Refuse,
}

/// Who tries, whence and when.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// `user@domain`, whether it exists or not; case does not count.
    pub account: &'a [u8],
    /// Address of the client.
    pub client: IpAddr,
    /// The client's network is on the allow-list.
    pub allowed: bool,
    /// Milliseconds of a clock that does not go back.
    pub now: u64,
}

/// What is remembered of failures and successes. About 5 MiB, whatever happens.
pub struct Throttle {
    limits: Limits,
    key: [u8; 16],
    accounts: Sketch,
    networks: Sketch,
    /// Failures of trusted networks, by account and network: only who has had a right password raises these.
    pairs: Sketch,
    /// Networks of successes, by account.
    trusted: Recent,
    /// Wrong passwords that were counted, by account and network.
    counted: Recent,
    /// Attempts that are being waited for or verified, by account and by network: as many as there are sessions.
    under_way: HashMap<u64, u32>,
    /// A network is trusted that was not.
    changed: bool,
}

/// A network from which an account's password was right: as it is kept while the host is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted {
    /// The account, as a keyed hash.
    pub account: u64,
    /// The account from this network.
    pub pair: u64,
    /// Until when, on the clock of [`Attempt::now`].
    pub until: u64,
}

// The key reaches no log: it would undo the hashes.
impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Throttle").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Where an attempt is counted.
struct Keys {
    account: u64,
    network: u64,
    site: Option<u64>,
    /// The account from this network.
    pair: u64,
}

impl Throttle {
    /// Remembers nothing yet. `key` is random and never told.
    pub fn new(limits: Limits, key: [u8; 16]) -> Self {
        Self {
            limits,
            key,
            accounts: Sketch::new(),
            networks: Sketch::new(),
            pairs: Sketch::new(),
            trusted: Recent::new(),
            counted: Recent::new(),
            under_way: HashMap::new(),
            changed: false,
        }
    }

    /// The same, and what was trusted when [`Throttle::trusted`] told it to another with this key.
    pub fn restored(limits: Limits, key: [u8; 16], trusted: impl IntoIterator<Item = Trusted>) -> Self {
        let mut throttle = Self::new(limits, key);
        for Trusted { account, pair, until } in trusted {
            throttle.trusted.insert(account, pair, until);
        }
        throttle
    }

    /// What is trusted at `now`, and the key; `None` if nothing has changed since this was asked before.
    pub fn trusted(&mut self, now: u64) -> Option<([u8; 16], Vec<Trusted>)> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let kept = self.trusted.values(now).map(|(account, pair, until)| Trusted { account, pair, until });
        Some((self.key, kept.collect()))
    }

    /// Asked once for each proof, before it is verified. Unless it is refused it is under way, and [`Throttle::over`] must
    /// follow whatever becomes of it.
    pub fn before(&mut self, attempt: &Attempt<'_>) -> Verdict {
        let verdict = self.verdict(attempt, true);
        if !attempt.allowed && verdict != Verdict::Refuse {
            let Keys { account, network, .. } = self.keys(attempt);
            for key in [account, network] {
                *self.under_way.entry(key).or_default() += 1;
            }
        }
        verdict
    }

    /// After a wait: whether so much has failed meanwhile that it is refused now.
    pub fn is_refused(&self, attempt: &Attempt<'_>) -> bool {
        self.verdict(attempt, false) == Verdict::Refuse
    }

    /// An attempt is over, whatever became of it.
    pub fn over(&mut self, attempt: &Attempt<'_>) {
        if attempt.allowed {
            return;
        }
        let Keys { account, network, .. } = self.keys(attempt);
        for key in [account, network] {
            if let Some(count) = self.under_way.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.under_way.remove(&key);
                }
            }
        }
    }

    fn verdict(&self, attempt: &Attempt<'_>, with_others: bool) -> Verdict {
        if attempt.allowed {
            return Verdict::Go;
        }
        let Keys { account, network, site, pair } = self.keys(attempt);
        let under_way = |key| match with_others {
            true => self.under_way.get(&key).copied().unwrap_or(0).into(),
            false => 0,
        };
        let failed = |table: &Sketch, key| {
            let since = table.until(key).saturating_sub(attempt.now);
            since.div_ceil(self.forget())
        };
        let Limits { account_free, network_free, site_free, longest_wait, .. } = self.limits;
        if self.trusted.contains(account, pair, attempt.now) {
            return self.slowed(failed(&self.pairs, pair).saturating_sub(account_free.into()));
        }
        let of_account = failed(&self.accounts, account) + under_way(account);
        let of_account = match self.slowed(of_account.saturating_sub(account_free.into())) {
            Verdict::Refuse => Verdict::Wait(longest_wait),
            slowed => slowed,
        };
        // Many honest users behind one address come at the same time, too: that is held against none of them.
        let of_network = match failed(&self.networks, network) {
            0 => 0,
            failed => failed + under_way(network),
        };
        let of_site = site.map_or(0, |site| failed(&self.networks, site));
        let of_network = self.slowed(
            of_network.saturating_sub(network_free.into()).max(of_site.saturating_sub(site_free.into())),
        );
        of_account.max(of_network)
    }

    fn slowed(&self, failures: u64) -> Verdict {
        let (first, longest) = (self.limits.first_wait, self.limits.longest_wait);
        let doubled = |times: u64| first.saturating_mul(1 << times.min(32));
        match failures {
            0 => Verdict::Go,
            1 => Verdict::Wait(first.min(longest)),
            n if doubled(n - 2) < longest => Verdict::Wait(doubled(n - 1).min(longest)),
            _ => Verdict::Refuse,
        }
    }

    /// A proof was wrong, or there is no such user. `password` is kept as a short keyed hash only; nothing with
    /// CRAM-MD5, where it is not known.
    pub fn failed(&mut self, attempt: &Attempt<'_>, password: Option<&[u8]>) {
        if attempt.allowed {
            return;
        }
        let Keys { account, network, site, pair } = self.keys(attempt);
        if let Some(password) = password {
            let place = self.hash(b"counted", &[account, network]);
            let password = self.digest(b"password", &[&place.to_le_bytes(), password]);
            let known = self.counted.contains(place, password, attempt.now);
            self.counted.insert(place, password, attempt.now.saturating_add(self.limits.trust));
            if known {
                return;
            }
        }
        let forget = self.forget();
        let Limits { remembered, site_free, .. } = self.limits;
        let raise = |table: &mut Sketch, key, remembered: u32| {
            let most = attempt.now.saturating_add(forget.saturating_mul(remembered.into()));
            let until = table.until(key).max(attempt.now).saturating_add(forget);
            table.raise(key, until.min(most));
        };
        if self.trusted.contains(account, pair, attempt.now) {
            raise(&mut self.pairs, pair, remembered);
        }
        raise(&mut self.accounts, account, remembered);
        raise(&mut self.networks, network, remembered);
        if let Some(site) = site {
            raise(&mut self.networks, site, remembered.saturating_add(site_free));
        }
    }

    /// A proof was right.
    pub fn succeeded(&mut self, attempt: &Attempt<'_>) {
        let Keys { account, pair, .. } = self.keys(attempt);
        self.changed |= !self.trusted.contains(account, pair, attempt.now);
        self.trusted.insert(account, pair, attempt.now.saturating_add(self.limits.trust));
    }

    fn forget(&self) -> u64 {
        self.limits.forget.max(1)
    }

    fn keys(&self, attempt: &Attempt<'_>) -> Keys {
        let account = self.digest(b"account", &[&attempt.account.to_ascii_lowercase()]);
        let (network, site) = match attempt.client.to_canonical() {
            IpAddr::V4(address) => (self.digest(b"network", &[&address.octets()]), None),
            IpAddr::V6(address) => {
                let octets = address.octets();
                (self.digest(b"network", &[&octets[..8]]), Some(self.digest(b"site", &[&octets[..6]])))
            }
        };
        Keys { account, network, site, pair: self.hash(b"trusted", &[account, network]) }
    }

    fn hash(&self, purpose: &[u8], keys: &[u64]) -> u64 {
        let keys: Vec<u8> = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        self.digest(purpose, &[&keys])
    }

    /// HMAC-MD5 under the random key, cut to 8 bytes.
    fn digest(&self, purpose: &[u8], parts: &[&[u8]]) -> u64 {
        let Ok(mut mac) = Hmac::<Md5>::new_from_slice(&self.key) else { return 0 };
        for part in [purpose].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte))
    }
}

#[cfg(test)]
mod tests;
