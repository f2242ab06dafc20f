//! Chance out of a seed: SplitMix64, which is small, fast and the same everywhere.

/// A stream of numbers. Each purpose draws from a stream of its own, so that switching one fault off does not shift
/// the choices of all others.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream number `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Rng {
        let mut rng = Rng(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        rng.next();
        rng.next();
        rng
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "a stream of chance is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A number in `from..to`.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from))
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `all`, which is not empty.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// A time around `ns`: mostly near it, now and then several times as long.
    pub fn around(&mut self, ns: u64) -> u64 {
        let base = ns / 2 + self.below(ns.max(1));
        if self.one_in(32) { base * self.range(2, 8) } else { base }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn streams_of_a_seed_repeat_and_differ() {
        let draw = |seed, stream| -> Vec<u64> {
            let mut rng = Rng::new(seed, stream);
            (0..8).map(|_| rng.next()).collect()
        };
        assert_eq!(draw(1, 1), draw(1, 1));
        assert_ne!(draw(1, 1), draw(1, 2));
        assert_ne!(draw(1, 1), draw(2, 1));
        let mut rng = Rng::new(3, 0);
        assert!((0..1000).all(|_| (5..9).contains(&rng.range(5, 9))));
    }
}
