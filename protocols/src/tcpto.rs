//! The table of addresses that did not answer (qmail-remote's tcpto, `queue/lock/tcpto`).

use std::net::{IpAddr, Ipv4Addr};

/// Slots in the table.
pub const SLOTS: usize = 64;

/// One address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The address.
    pub ip: IpAddr,
    /// How often connecting to it timed out lately, at most 10.
    pub count: u8,
    /// When it last did, in Unix seconds.
    pub when: u64,
}

/// Addresses that timed out. An address that did so twice is left alone for an hour or two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tcpto(Vec<Slot>);

impl Tcpto {
    /// Reads `lock/tcpto`: 16 bytes a slot, IPv4 only; anything else in it is ignored.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let slots = bytes.chunks_exact(16).take(SLOTS).filter(|slot| slot[4] > 0);
        Self(
            slots
                .map(|slot| Slot {
                    ip: IpAddr::V4(Ipv4Addr::new(slot[0], slot[1], slot[2], slot[3])),
                    count: slot[4].min(10),
                    when: u64::from(u32::from_le_bytes([slot[8], slot[9], slot[10], slot[11]])),
                })
                .collect(),
        )
    }

    /// The 1024 bytes of `lock/tcpto`. IPv6 addresses have no place in it and live in memory only.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; SLOTS * 16];
        for (slot, place) in self.0.iter().zip(bytes.chunks_exact_mut(16)) {
            let IpAddr::V4(ip) = slot.ip else { continue };
            place[..4].copy_from_slice(&ip.octets());
            place[4] = slot.count;
            place[8..12].copy_from_slice(&u32::try_from(slot.when).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes
    }

    /// Whether connecting to `ip` is not worth a try at `now`. `spread` (0 to 31; qmail takes the process number) keeps
    /// several deliveries from trying again at the same second.
    #[must_use]
    pub fn is_down(&self, ip: IpAddr, now: u64, spread: u64) -> bool {
        let hold = (60 + (spread & 31)) * 64;
        self.0.iter().any(|slot| slot.ip == ip && slot.count >= 2 && now < slot.when.saturating_add(hold))
    }

    /// Connecting to `ip` timed out, or (`timed_out` false) worked.
    pub fn note(&mut self, ip: IpAddr, timed_out: bool, now: u64) {
        let at = self.0.iter().position(|slot| slot.ip == ip);
        match (at, timed_out) {
            (Some(at), false) => drop(self.0.remove(at)),
            (None, false) => (),
            (Some(at), true) => {
                let slot = &mut self.0[at];
                // Deliveries that failed side by side are one failure.
                if now >= slot.when.saturating_add(120) {
                    slot.count = (slot.count + 1).min(10);
                    slot.when = now;
                }
            }
            (None, true) => {
                if self.0.len() >= SLOTS
                    && let Some(oldest) = (0..self.0.len()).min_by_key(|at| self.0[*at].when)
                {
                    self.0.remove(oldest);
                }
                self.0.push(Slot { ip, count: 1, when: now });
            }
        }
    }

    /// What it holds.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn two_timeouts_rest_an_address_and_one_answer_frees_it() {
        let mut tcpto = Tcpto::default();
        tcpto.note(IP, true, 1000);
        assert!(!tcpto.is_down(IP, 1001, 0));
        tcpto.note(IP, true, 1100);
        assert!(!tcpto.is_down(IP, 1101, 0), "side by side counts once");
        tcpto.note(IP, true, 1200);
        assert!(tcpto.is_down(IP, 1200 + 60 * 64 - 1, 0));
        assert!(!tcpto.is_down(IP, 1200 + 60 * 64, 0));
        assert!(tcpto.is_down(IP, 1200 + 60 * 64, 31));
        let same = Tcpto::parse(&tcpto.to_bytes());
        assert_eq!((same, tcpto.to_bytes().len()), (tcpto.clone(), 1024));
        tcpto.note(IP, false, 1300);
        assert!(tcpto.slots().is_empty());
    }

    #[test]
    fn the_table_does_not_grow_and_forgets_the_oldest() {
        let mut tcpto = Tcpto::default();
        for n in 0..200_u8 {
            tcpto.note(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)), true, u64::from(n));
        }
        assert_eq!(tcpto.slots().len(), SLOTS);
        assert_eq!(tcpto.slots()[0].when, 136);
        assert_eq!(Tcpto::parse(b"short"), Tcpto::default());
    }
}
