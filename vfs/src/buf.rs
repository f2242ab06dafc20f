//! Memory that direct I/O accepts.

use crate::BLOCK;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes whose address and length are multiples of [`BLOCK`]; zero at first. It never moves while it lives: only
/// [`AlignedBuf::grow`] gives it another address.
pub struct AlignedBuf {
    /// A block longer than needed, so that an aligned stretch lies in it: no unsafe allocation needed.
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` bytes of zeros, rounded up to whole blocks.
    pub fn zeroed(len: usize) -> AlignedBuf {
        let len = crate::block_up(len);
        let memory = vec![0u8; len + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        assert!(start <= BLOCK, "a byte pointer can always be aligned within one block");
        AlignedBuf { memory, start, len }
    }

    /// At least `len` bytes, the present content kept, the rest zero.
    pub fn grow(&mut self, len: usize) {
        if len > self.len {
            let mut bigger = AlignedBuf::zeroed(len);
            bigger[..self.len].copy_from_slice(self);
            *self = bigger;
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_length_are_whole_blocks_also_after_growth() {
        for len in [0, 1, 4096, 4097, 1 << 20] {
            let mut b = AlignedBuf::zeroed(len);
            assert_eq!((b.as_ptr() as usize % BLOCK, b.len() % BLOCK), (0, 0));
            assert!(b.len() >= len);
            b.fill(7);
            let old = b.len();
            b.grow(old + 1);
            assert_eq!((b.as_ptr() as usize % BLOCK, b.len()), (0, old + BLOCK));
            assert!(b[..old].iter().all(|&x| x == 7) && b[old..].iter().all(|&x| x == 0));
        }
    }
}
