//! Tables whose size is fixed when they are made. Their keys are keyed hashes, so nobody chooses where they fall.

/// Times for any number of keys: a count-min sketch with conservative update (Estan and Varghese 2002). A key has a cell
/// in each of four rows and its time is the least of them, so keys that share cells can only make a time later.
pub(super) struct Sketch(Vec<u64>);

/// Bits of the number of cells in a row; four times these come from a key.
const ROW_BITS: u32 = 14;
const ROWS: u32 = 4;

impl Sketch {
    pub(super) fn new() -> Self {
        Self(vec![0; (ROWS as usize) << ROW_BITS])
    }

    fn cells(key: u64) -> impl Iterator<Item = usize> {
        (0..ROWS).map(move |row| {
            let cell = (key >> (row * ROW_BITS)) as usize & ((1 << ROW_BITS) - 1);
            (row as usize) << ROW_BITS | cell
        })
    }

    /// The time of this key; 0 if it has none.
    pub(super) fn until(&self, key: u64) -> u64 {
        Self::cells(key).filter_map(|cell| self.0.get(cell)).copied().min().unwrap_or(0)
    }

    /// Makes the time of this key at least `until`.
    pub(super) fn raise(&mut self, key: u64, until: u64) {
        for cell in Self::cells(key) {
            if let Some(time) = self.0.get_mut(cell) {
                *time = until.max(*time);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// Values that count until a time, a few for each place. Of a full place the value that ends first makes room, so what
/// belongs to one place never drives out what belongs to another.
pub(super) struct Recent(Vec<[Value; WAYS]>);

#[derive(Clone, Copy, Default)]
struct Value {
    hash: u64,
    until: u64,
}

const WAYS: usize = 8;
const PLACE_BITS: u32 = 14;

impl Recent {
    pub(super) fn new() -> Self {
        Self(vec![[Value::default(); WAYS]; 1 << PLACE_BITS])
    }

    fn place(place: u64) -> usize {
        place as usize & ((1 << PLACE_BITS) - 1)
    }

    pub(super) fn contains(&self, place: u64, hash: u64, now: u64) -> bool {
        let values = self.0.get(Self::place(place));
        values.is_some_and(|values| values.iter().any(|value| value.hash == hash && value.until > now))
    }

    pub(super) fn insert(&mut self, place: u64, hash: u64, until: u64) {
        let Some(values) = self.0.get_mut(Self::place(place)) else { return };
        let same = values.iter().position(|value| value.hash == hash);
        let first = || values.iter().enumerate().min_by_key(|(_, value)| value.until).map(|(at, _)| at);
        if let Some(value) = same.or_else(first).and_then(|at| values.get_mut(at)) {
            *value = Value { hash, until };
        }
    }

    /// What counts at `now`: a place that is the same as the one it was inserted with, the value, and its end.
    pub(super) fn values(&self, now: u64) -> impl Iterator<Item = (u64, u64, u64)> {
        let all = self.0.iter().enumerate();
        all.flat_map(move |(place, values)| {
            let counting = values.iter().filter(move |value| value.until > now);
            counting.map(move |value| (place as u64, value.hash, value.until))
        })
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
