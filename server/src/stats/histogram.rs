//! A histogram of whole numbers that one thread fills with plain stores and any thread reads.
//!
//! ```text
//!  0 1 2 ... 15 | 16 17 18 19 20 21 22 23 | 24 26 28 ... | 28 ...      eight buckets for each doubling
//! ```
//! A value is found again to within an eighth. The bounds of the doublings are exact, so sums of buckets below a
//! power of two are too: Prometheus gets its `le` from them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets in a doubling, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;

/// Values at or above 2^MAX_BITS count in the last bucket: as nanoseconds 73 minutes.
const MAX_BITS: u32 = 42;

/// Buckets of a histogram.
const BUCKETS: usize = (MAX_BITS - SUB_BITS) as usize * SUB + SUB;

/// Low bits of an extreme that hold the value; the generation stands above them.
const VALUE_BITS: u32 = 48;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;

/// How a shard is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// By one thread, with plain loads and stores.
    One,
    /// By all the threads that have no shard of their own.
    Many,
}

/// Adds without a locked instruction where one thread writes.
pub fn add(cell: &AtomicU64, n: u64, writer: Writer) {
    match writer {
        Writer::One => cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed),
        Writer::Many => {
            cell.fetch_add(n, Relaxed);
        }
    }
}

/// The buckets, sum and extremes of one kind of value in one shard.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    /// The largest value, with the generation that it belongs to above it.
    max: AtomicU64,
    /// The smallest, as its complement, so that both are maxima.
    min: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
            min: AtomicU64::new(0),
        }
    }
}

/// Some values together.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How many.
    pub n: u64,
    /// Their sum.
    pub sum: u64,
    /// The smallest; `u64::MAX` of none.
    pub min: u64,
    /// The largest.
    pub max: u64,
}

impl Default for Run {
    fn default() -> Run {
        Run { n: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

impl Run {
    /// One value more.
    pub fn add(&mut self, value: u64) {
        self.n += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }
}

fn index(value: u64) -> usize {
    if value < 2 * SUB as u64 {
        return value as usize;
    }
    if value >> MAX_BITS != 0 {
        return BUCKETS - 1;
    }
    let top = 63 - value.leading_zeros();
    let sub = (value >> (top - SUB_BITS)) as usize & (SUB - 1);
    (top - SUB_BITS + 1) as usize * SUB + sub
}

/// The smallest value of a bucket.
fn lower(index: usize) -> u64 {
    if index < 2 * SUB {
        return index as u64;
    }
    let (octave, sub) = (index / SUB, index % SUB);
    ((SUB + sub) as u64) << (octave - 1)
}

/// A value in the middle of a bucket.
fn middle(index: usize) -> u64 {
    let (low, next) = (lower(index), lower(index + 1));
    low + (next - low - 1) / 2
}

impl Histogram {
    /// Counts `n` times `value`, in the given generation.
    pub fn record(&self, value: u64, n: u64, generation: u64, writer: Writer) {
        self.put(
            index(value),
            &Run { n, sum: value.wrapping_mul(n), min: value, max: value },
            generation,
            writer,
        );
    }

    /// Counts values that are alike, and cost no more than one: all of them in the bucket of their mean.
    pub fn record_run(&self, run: &Run, generation: u64, writer: Writer) {
        self.put(index(run.sum / run.n.max(1)), run, generation, writer);
    }

    fn put(&self, bucket: usize, run: &Run, generation: u64, writer: Writer) {
        if run.n == 0 {
            return;
        }
        add(&self.buckets[bucket], run.n, writer);
        add(&self.sum, run.sum, writer);
        for (cell, key) in
            [(&self.max, run.max.min(VALUE_MASK)), (&self.min, VALUE_MASK - run.min.min(VALUE_MASK))]
        {
            let key = (generation << VALUE_BITS) | key;
            if key > cell.load(Relaxed) {
                match writer {
                    Writer::One => cell.store(key, Relaxed),
                    Writer::Many => {
                        cell.fetch_max(key, Relaxed);
                    }
                }
            }
        }
    }

    /// Forgets everything; by the thread that writes.
    pub fn clear(&self) {
        let all = [&self.sum, &self.max, &self.min];
        all.into_iter().chain(&self.buckets).for_each(|cell| cell.store(0, Relaxed));
    }

    /// Adds what was counted to `into`; extremes only of `generation`.
    pub fn collect(&self, into: &mut Counted, generation: u64) {
        if into.buckets.is_empty() {
            into.buckets = vec![0; BUCKETS];
        }
        for (to, from) in into.buckets.iter_mut().zip(&self.buckets) {
            *to = to.wrapping_add(from.load(Relaxed));
        }
        into.sum = into.sum.wrapping_add(self.sum.load(Relaxed));
        let of_now = |cell: &AtomicU64| {
            let key = cell.load(Relaxed);
            (key != 0 && key >> VALUE_BITS == generation).then_some(key & VALUE_MASK)
        };
        into.max = into.max.max(of_now(&self.max).unwrap_or(0));
        into.min = into.min.min(of_now(&self.min).map_or(u64::MAX, |m| VALUE_MASK - m));
    }
}

/// What histograms have counted, summed over shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    buckets: Vec<u64>,
    /// The sum of the values.
    pub sum: u64,
    max: u64,
    min: u64,
}

impl Default for Counted {
    fn default() -> Counted {
        Counted { buckets: Vec::new(), sum: 0, max: 0, min: u64::MAX }
    }
}

impl Counted {
    /// Takes away what was counted before a reset.
    pub fn since(&mut self, before: &Counted) {
        for (now, before) in self.buckets.iter_mut().zip(&before.buckets) {
            *now = now.wrapping_sub(*before);
        }
        self.sum = self.sum.wrapping_sub(before.sum);
    }

    /// Adds another one.
    pub fn merge(&mut self, other: &Counted) {
        if self.buckets.is_empty() {
            *self = other.clone();
            return;
        }
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
        self.min = self.min.min(other.min);
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean; 0 when nothing was counted.
    pub fn mean(&self) -> f64 {
        match self.count() {
            0 => 0.0,
            n => self.sum as f64 / n as f64,
        }
    }

    /// The largest value; 0 when nothing was counted.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The smallest value; 0 when nothing was counted.
    pub fn min(&self) -> u64 {
        if self.min == u64::MAX { 0 } else { self.min }
    }

    /// The value below which the share `q` (0 to 1) of all lies, to within an eighth, and never beyond the extremes;
    /// 0 when nothing was counted.
    pub fn quantile(&self, q: f64) -> u64 {
        let count = self.count();
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if *n > 0 && seen >= rank {
                let max = if self.max == 0 { u64::MAX } else { self.max };
                return middle(i).clamp(self.min(), max.max(self.min()));
            }
        }
        0
    }

    /// How many values are below 2^`bits`, exactly.
    pub fn below_power(&self, bits: u32) -> u64 {
        let end = if bits >= MAX_BITS { BUCKETS } else { index(1 << bits) };
        self.buckets.iter().take(end).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_falls_between_the_bounds_of_its_bucket() {
        let mut last = 0;
        for value in (0..5000).chain((12..45).flat_map(|b| [(1_u64 << b) - 1, 1 << b, (1 << b) + 1, 3 << b]))
        {
            let i = index(value);
            assert!(i >= last || value < 5000 || i == last, "{value}");
            last = if value < 5000 { i } else { 0 };
            if i + 1 < BUCKETS {
                assert!(lower(i) <= value && value < lower(i + 1), "{value} in {i}");
                assert!(lower(i + 1) - lower(i) <= (value / 8).max(1), "{value}: a bucket is an eighth wide");
            }
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_right_to_an_eighth_and_sums_exactly() {
        let h = Histogram::default();
        for v in 1..=1000 {
            h.record(v * 1000, 1, 1, Writer::One);
        }
        h.record(500_000, 1000, 1, Writer::Many);
        let mut c = Counted::default();
        h.collect(&mut c, 1);
        assert_eq!((c.count(), c.sum, c.min(), c.max()), (2000, 500_500_000 + 500_000_000, 1000, 1_000_000));
        for (q, wanted) in [(0.5, 500_000_f64), (0.99, 980_000.0), (0.001, 2000.0), (1.0, 1_000_000.0)] {
            let got = c.quantile(q) as f64;
            assert!((got - wanted).abs() <= wanted / 8.0, "{q}: {got} {wanted}");
        }
        assert_eq!(c.below_power(17), 131, "131072 is above the first 131 values");
        assert_eq!(Counted::default().quantile(0.5), 0);
    }

    #[test]
    fn extremes_belong_to_their_generation() {
        let h = Histogram::default();
        h.record(1, 1, 1, Writer::One);
        h.record(900, 1, 1, Writer::One);
        let mut before = Counted::default();
        h.collect(&mut before, 1);
        h.record(30, 1, 2, Writer::One);
        let mut now = Counted::default();
        h.collect(&mut now, 2);
        now.since(&before);
        assert_eq!((now.min(), now.max(), now.count(), now.sum), (30, 30, 1, 30));
    }
}
