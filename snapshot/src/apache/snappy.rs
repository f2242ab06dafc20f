//! The stream of snappy-java's `SnappyOutputStream`, which is not the standard framing of snappy.
//!
//! ```text
//!   0  8  82 53 4e 41 50 50 59 00   magic
//!   8  4  version                    i32, >= 1
//!  12  4  compatible                 i32, oldest version that can read it
//!  16  { i32 n, > 0;  n bytes: one raw snappy block } *
//! ```
//!
//! Streams may be concatenated: where a length should stand, the magic may begin again. There is no checksum
//! and no end mark; the seals of the snapshot inside say whether it is whole.

use crate::limits::SNAPPY_BLOCK_MAX;
use std::io::{self, Read};

/// First bytes of a stream.
pub const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];

const HEADER_LEN: usize = 16;
/// What this reader knows.
const VERSION: i32 = 1;

/// Decompresses a stream. Errors of the format are `InvalidData` or `UnexpectedEof`.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    started: bool,
    compressed: Vec<u8>,
    /// The present block and how much of it was handed out.
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> Reader<R> {
    /// Reads the stream in `inner`.
    pub fn new(inner: R) -> Reader<R> {
        Reader { inner, started: false, compressed: Vec::new(), block: Vec::new(), at: 0 }
    }

    /// Loads the next block; `false` at the end of the stream.
    fn next_block(&mut self) -> io::Result<bool> {
        if !self.started {
            let mut header = [0; HEADER_LEN];
            self.inner.read_exact(&mut header)?;
            check_header(&header)?;
            self.started = true;
        }
        let len = loop {
            let Some(len) = self.length()? else { return Ok(false) };
            if len != MAGIC[..4] {
                break i32::from_be_bytes(len);
            }
            let mut header = [0; HEADER_LEN];
            header[..4].copy_from_slice(&len);
            self.inner.read_exact(&mut header[4..])?;
            check_header(&header)?;
        };
        let len = usize::try_from(len).ok().filter(|n| (1..=SNAPPY_BLOCK_MAX).contains(n));
        let len = len.ok_or_else(|| invalid("length of a snappy block"))?;
        // The bytes are taken as they come, so a wild length costs nothing.
        self.compressed.clear();
        let found = (&mut self.inner).take(len as u64).read_to_end(&mut self.compressed)?;
        if found != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let raw = snap::raw::decompress_len(&self.compressed)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        // Snappy makes at most 64 bytes of a three-byte copy: what claims more is no block.
        if raw > SNAPPY_BLOCK_MAX || raw > len.saturating_mul(32) {
            return Err(invalid("uncompressed length of a snappy block"));
        }
        self.block.resize(raw, 0);
        self.at = 0;
        let written = snap::raw::Decoder::new()
            .decompress(&self.compressed, &mut self.block)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        self.block.truncate(written);
        Ok(true)
    }

    /// Four bytes, or none at the end.
    fn length(&mut self) -> io::Result<Option<[u8; 4]>> {
        let mut len = [0; 4];
        let mut have = 0;
        while have < 4 {
            match self.inner.read(&mut len[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Some(len))
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if buf.is_empty() || !self.next_block()? {
                return Ok(0);
            }
        }
        let n = buf.len().min(self.block.len() - self.at);
        buf[..n].copy_from_slice(&self.block[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn check_header(header: &[u8; HEADER_LEN]) -> io::Result<()> {
    if header[..8] != MAGIC {
        return Err(invalid("magic of a snappy stream"));
    }
    let compatible = i32::from_be_bytes([header[12], header[13], header[14], header[15]]);
    let version = i32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    if version < 1 || compatible > VERSION {
        return Err(invalid("version of a snappy stream"));
    }
    Ok(())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A stream as snappy-java writes it, in blocks of `block` bytes.
    pub(crate) fn stream(bytes: &[u8], block: usize) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
        for piece in bytes.chunks(block) {
            let compressed = snap::raw::Encoder::new().compress_vec(piece).unwrap();
            out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
            out.extend_from_slice(&compressed);
        }
        out
    }

    fn back(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Reader::new(bytes).read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn blocks_and_concatenated_streams_come_back() {
        let text: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_be_bytes()).collect();
        for block in [1, 1000, 32 * 1024, 1 << 20] {
            let text = &text[..text.len().min(block * 500)];
            assert_eq!(back(&stream(text, block)).unwrap(), text, "blocks of {block}");
        }
        let mut two = stream(b"one ", 10);
        two.extend(stream(b"two", 10));
        assert_eq!(back(&two).unwrap(), b"one two");
        assert_eq!(back(&stream(b"", 10)).unwrap(), b"");
    }

    #[test]
    fn a_block_of_literals_is_what_the_format_says() {
        // Block: varint length 3, literal tag (3-1)<<2, the bytes.
        let bytes =
            [&MAGIC[..], &[0, 0, 0, 1, 0, 0, 0, 1], &[0, 0, 0, 5, 3, 2 << 2, b'a', b'b', b'c']].concat();
        assert_eq!(back(&bytes).unwrap(), b"abc");
    }

    #[test]
    fn cuts_and_wild_lengths_are_errors_and_take_no_memory() {
        let whole = stream(b"some text that is long enough", 7);
        let ends: Vec<usize> = (0..=29)
            .step_by(7)
            .map(|n| stream(&b"some text that is long enough"[..n.min(29)], 7).len())
            .collect();
        for cut in 0..whole.len() {
            // At the end of a block the stream may end: it has no end mark.
            assert_eq!(back(&whole[..cut]).is_ok(), ends.contains(&cut), "cut at {cut}");
        }
        for len in [-1i32, 0, i32::MAX, i32::MIN] {
            let bytes = [&MAGIC[..], &[0, 0, 0, 1, 0, 0, 0, 1], &len.to_be_bytes(), b"x"].concat();
            assert!(back(&bytes).is_err(), "length {len}");
        }
        // A block of five bytes that claims 16 MiB.
        let bytes = [&MAGIC[..], &[0, 0, 0, 1, 0, 0, 0, 1], &[0, 0, 0, 5, 0x80, 0x80, 0x80, 8, 0]].concat();
        assert!(back(&bytes).is_err());
        // A stream for readers of a later version.
        let mut newer = whole.clone();
        newer[15] = 2;
        assert!(back(&newer).is_err());
    }
}
