//! Answers that are kept until they expire, bounded in bytes as dnscache's are (CACHESIZE).

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::{RData, RecordType};
use moka::Expiry;

/// No answer is kept longer than this, whatever it says of itself.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The same for names and records that do not exist (RFC 2308 5).
const LONGEST_NONE: Duration = Duration::from_secs(3 * 3600);

/// What an entry costs beside what is in it, in bytes.
const ENTRY: usize = 256;

/// What is asked: a name in lower case, and the type of its records.
pub(super) type Key = (String, RecordType);

/// What is known of it.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// Its records, at most as many as are looked at; none where the name exists without.
    Records(Arc<[RData]>),
    /// There is no such name.
    NoName,
}

/// The cache. A clone is the same one.
#[derive(Clone)]
pub(super) struct Cache(moka::sync::Cache<Key, Kept>);

#[derive(Debug, Clone)]
struct Kept {
    known: Known,
    until: Instant,
}

struct UntilThen;

impl Expiry<Key, Kept> for UntilThen {
    fn expire_after_create(&self, _: &Key, kept: &Kept, now: Instant) -> Option<Duration> {
        Some(kept.until.saturating_duration_since(now))
    }
}

impl Cache {
    /// One of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let weight = |(name, _): &Key, kept: &Kept| {
            let records: usize = match &kept.known {
                Known::Records(records) => records.iter().map(weight).sum(),
                Known::NoName => 0,
            };
            u32::try_from(ENTRY + name.len() + records).unwrap_or(u32::MAX)
        };
        Self(moka::sync::Cache::builder().max_capacity(bytes).weigher(weight).expire_after(UntilThen).build())
    }

    pub(super) fn get(&self, key: &Key) -> Option<Known> {
        self.0.get(key).map(|kept| kept.known)
    }

    /// Keeps what is known for `lifetime`.
    pub(super) fn keep(&self, key: Key, known: Known, lifetime: Duration) {
        let longest = match &known {
            Known::Records(records) if !records.is_empty() => LONGEST,
            _ => LONGEST_NONE,
        };
        if lifetime.is_zero() {
            return;
        }
        self.0.insert(key, Kept { known, until: Instant::now() + lifetime.min(longest) });
        // Otherwise done after some hundred insertions, and that many may be large.
        self.0.run_pending_tasks();
        metrics::gauge!("mailtree_resolver_cache_bytes").set(self.0.weighted_size() as f64);
    }

    pub(super) fn clear(&self) {
        self.0.invalidate_all();
        self.0.run_pending_tasks();
        metrics::gauge!("mailtree_resolver_cache_bytes").set(0.0);
    }
}

/// What a record takes in memory, at least about.
fn weight(data: &RData) -> usize {
    let more = match data {
        RData::TXT(txt) => txt.txt_data.iter().map(|text| text.len() + 16).sum(),
        RData::MX(mx) => mx.exchange.len(),
        RData::PTR(name) => name.len(),
        _ => 0,
    };
    size_of::<RData>() + more
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::TXT;

    use super::*;

    fn text(bytes: usize) -> Known {
        let strings = vec!["x".repeat(200); bytes / 200];
        Known::Records([RData::TXT(TXT::new(strings))].into())
    }

    #[test]
    fn however_much_is_kept_it_is_bounded_in_bytes() {
        let cache = Cache::new(1_000_000);
        for n in 0..2_000 {
            cache.keep((format!("top{n}.example"), RecordType::TXT), text(60_000), LONGEST);
            assert!(cache.0.weighted_size() <= 1_100_000);
        }
        assert!(cache.0.entry_count() >= 10);
        cache.clear();
        assert_eq!((cache.0.weighted_size(), cache.0.entry_count()), (0, 0));
    }

    #[test]
    fn what_is_known_for_no_time_is_not_kept() {
        let cache = Cache::new(1_000_000);
        let key = ("a.example".to_owned(), RecordType::A);
        cache.keep(key.clone(), Known::NoName, Duration::ZERO);
        assert!(cache.get(&key).is_none());
        cache.keep(key.clone(), Known::NoName, Duration::from_secs(9));
        assert!(matches!(cache.get(&key), Some(Known::NoName)));
    }
}
