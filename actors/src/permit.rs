//! Permits: counted rights. Whoever holds one may hold what it counts; dropping it gives the right back.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use metrics::Gauge;
use std::sync::{Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded number of permits of one kind, with gauges that show them.
#[derive(Clone)]
pub struct Permits {
    semaphore: Arc<Semaphore>,
    in_use: Gauge,
}

/// The right to one, or several, of what is counted.
pub struct Permit {
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Permits {
    /// `limit` permits, shown as `mailtree_permits_limit{permit=kind}` and `mailtree_permits_in_use{permit=kind}`.
    #[must_use]
    pub fn new(kind: &str, limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        metrics::gauge!("mailtree_permits_limit", "permit" => kind.to_owned()).set(limit as f64);
        let in_use = metrics::gauge!("mailtree_permits_in_use", "permit" => kind.to_owned());
        // Permits of an earlier incarnation may still be counted here.
        in_use.increment(0.0);
        Self { semaphore: Arc::new(Semaphore::new(limit)), in_use }
    }

    /// Waits for a permit. Only where nobody waits for the waiter: an acceptor, a session's own turn.
    pub async fn acquire(&self) -> Permit {
        self.acquire_many(1).await
    }

    /// Waits for `count` permits at once, at most as many as there are.
    pub async fn acquire_many(&self, count: u32) -> Permit {
        loop {
            if let Ok(permit) = Arc::clone(&self.semaphore).acquire_many_owned(count).await {
                return self.counted(permit, count);
            }
        }
    }

    /// Waits for a permit that is not in use before something happens: an acceptor's, that waits for a client.
    pub async fn reserve(&self) -> Reserved {
        loop {
            if let Ok(permit) = Arc::clone(&self.semaphore).acquire_owned().await {
                return Reserved { permit, permits: self.clone() };
            }
        }
    }

    /// A permit if one is free now.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Permit> {
        self.try_acquire_many(1)
    }

    /// `count` permits if they are free now.
    #[must_use]
    pub fn try_acquire_many(&self, count: u32) -> Option<Permit> {
        let permit = Arc::clone(&self.semaphore).try_acquire_many_owned(count).ok()?;
        Some(self.counted(permit, count))
    }

    fn counted(&self, permit: OwnedSemaphorePermit, count: u32) -> Permit {
        self.in_use.increment(f64::from(count));
        Permit { _permit: permit, _counted: Counted { gauge: self.in_use.clone(), count: f64::from(count) } }
    }
}

/// A permit nobody uses yet.
pub struct Reserved {
    permit: OwnedSemaphorePermit,
    permits: Permits,
}

impl Reserved {
    /// From now on it is in use.
    #[must_use]
    pub fn begin(self) -> Permit {
        self.permits.counted(self.permit, 1)
    }
}

struct Counted {
    gauge: Gauge,
    count: f64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.decrement(self.count);
    }
}

/// Connections by client address: an IPv4 address, or an IPv6 /64.
#[derive(Clone, Default)]
pub struct PerAddress(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// The right to one connection from an address.
pub struct AddressPermit {
    table: PerAddress,
    address: IpAddr,
}

impl PerAddress {
    /// A permit for a connection from `ip`, unless `limit` of them are in use.
    #[must_use]
    pub fn try_acquire(&self, ip: IpAddr, limit: u32) -> Option<AddressPermit> {
        let address = counted_as(ip);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = table.entry(address).or_default();
        if *used >= limit {
            // Never an entry without a permit: the limit may be 0.
            if *used == 0 {
                table.remove(&address);
            }
            return None;
        }
        *used += 1;
        Some(AddressPermit { table: self.clone(), address })
    }

    /// Addresses with connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut table = self.table.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = table.get_mut(&self.address) {
            *used -= 1;
            if *used == 0 {
                table.remove(&self.address);
            }
        }
    }
}

/// One client can use a whole IPv6 /64; an IPv4 address in IPv6 clothes is itself.
fn counted_as(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_limit_and_gives_back() {
        let table = PerAddress::default();
        let ip = "192.0.2.1".parse().unwrap();
        let first = table.try_acquire(ip, 2).unwrap();
        let _second = table.try_acquire("::ffff:192.0.2.1".parse().unwrap(), 2).unwrap();
        assert!(table.try_acquire(ip, 2).is_none());
        drop(first);
        assert!(table.try_acquire(ip, 2).is_some());
        assert!(table.try_acquire("192.0.2.2".parse().unwrap(), 0).is_none());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_client() {
        let table = PerAddress::default();
        let _held = table.try_acquire("2001:db8::1".parse().unwrap(), 1).unwrap();
        assert!(table.try_acquire("2001:db8::ffff".parse().unwrap(), 1).is_none());
        assert!(table.try_acquire("2001:db8:0:1::1".parse().unwrap(), 1).is_some());
    }
}
