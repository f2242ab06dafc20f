//! Mutations that are the same on every run.

/// Makes inputs near given ones; a seed is all that a failure needs.
pub struct Mutator(u64);

const NUMBERS: [i32; 10] = [0, 1, -1, -2, 4, 12, 1 << 16, 1 << 26, i32::MAX, i32::MIN];

impl Mutator {
    /// The same seed gives the same inputs.
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// One of `inputs`, changed in one to five places.
    pub fn next_input(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..1 + self.below(5) {
            self.change(&mut bytes, inputs);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        if bytes.is_empty() {
            return bytes.push(self.next() as u8);
        }
        // Lengths, counts and types stand near the start more often than not.
        let range = if self.below(2) == 0 { bytes.len().min(200) } else { bytes.len() };
        let at = self.below(range);
        match self.below(8) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.next() as u8,
            2 | 3 => {
                let n = NUMBERS[self.below(NUMBERS.len())];
                let n = if self.below(4) == 0 { n.to_le_bytes() } else { n.to_be_bytes() };
                let end = bytes.len().min(at + 4);
                bytes[at..end].copy_from_slice(&n[..end - at]);
            }
            4 => bytes.truncate(at),
            5 => {
                let n = self.below(16);
                let fill = self.next() as u8;
                bytes.splice(at..at, std::iter::repeat_n(fill, n));
            }
            6 => {
                let end = (at + self.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }

    /// xorshift64*.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
