//! The hash of paths and names: two reads and two multiplications for sixteen bytes, keyed.
//!
//! The key comes from the configuration, so that nobody can prepare paths that fall into one shard or one
//! bucket. No order that an output shows depends on it.

/// Multipliers with about as many ones as zeros, after wyhash.
const K: [u64; 3] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3];

/// A keyed hash function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathHash {
    keys: [u64; 3],
}

impl PathHash {
    pub(crate) fn new(seed: u64) -> PathHash {
        let a = fold(seed ^ K[0], K[1]);
        let b = fold(a ^ K[1], K[2]);
        PathHash { keys: [a, b, fold(b ^ K[2], K[0])] }
    }

    /// The hash of `bytes`; every bit depends on every byte.
    pub(crate) fn of(&self, bytes: &[u8]) -> u64 {
        let [k0, k1, k2] = self.keys;
        let mut h = k0;
        let mut rest = bytes;
        while rest.len() > 16 {
            h = fold(word(rest, 0) ^ k1, word(rest, 8) ^ h);
            rest = &rest[16..];
        }
        // The end of a longer input is read once more as a whole: no byte is left out and none is padded.
        let end = if bytes.len() > 16 { &bytes[bytes.len() - 16..] } else { bytes };
        let (a, b) = match end.len() {
            8.. => (word(end, 0), word(end, end.len() - 8)),
            4.. => (half(end, 0), half(end, end.len() - 4)),
            0 => (0, 0),
            n => (u64::from(end[0]) << 16 | u64::from(end[n / 2]) << 8 | u64::from(end[n - 1]), 0),
        };
        fold(k2 ^ bytes.len() as u64, fold(a ^ k1, b ^ h))
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let w: [u8; 8] = bytes[at..at + 8].try_into().expect("a slice of eight bytes");
    u64::from_le_bytes(w)
}

fn half(bytes: &[u8], at: usize) -> u64 {
    let w: [u8; 4] = bytes[at..at + 4].try_into().expect("a slice of four bytes");
    u64::from(u32::from_le_bytes(w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_byte_and_every_length_counts() {
        let hash = PathHash::new(1);
        let mut seen = BTreeSet::new();
        for len in 0..80 {
            let bytes = vec![b'x'; len];
            assert!(seen.insert(hash.of(&bytes)), "length {len}");
            for i in 0..len {
                let mut other = bytes.clone();
                other[i] = b'y';
                assert!(seen.insert(hash.of(&other)), "length {len}, byte {i}");
            }
        }
        assert_ne!(PathHash::new(1).of(b"/a"), PathHash::new(2).of(b"/a"));
    }

    #[test]
    fn numbered_names_spread_evenly() {
        let hash = PathHash::new(7);
        for shift in [0, 32, 57] {
            let mut counts = [0_u32; 64];
            for i in 0..64_000 {
                let h = hash.of(format!("/queue/item-{i:010}").as_bytes());
                counts[(h >> shift) as usize % 64] += 1;
            }
            let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*low > 800 && *high < 1200, "bits from {shift}: {low} to {high} instead of 1000");
        }
    }
}
