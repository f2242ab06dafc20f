//! A byte stream with a running Adler-32, out of which records are cut.

use crate::error::{Damage, Error};
use crate::limits::CHUNK_RAW_MAX;
use std::io::{self, Read};
use std::sync::Arc;
use vfs::File;

/// Bytes asked of the source at once.
const READ_LEN: usize = 256 * 1024;

/// Bytes ahead of the reader, whole records at a time.
pub(crate) struct Stream<R> {
    source: R,
    path: String,
    buf: Vec<u8>,
    /// `summed <= at <= filled <= buf.len()`: summed, consumed, read.
    summed: usize,
    at: usize,
    filled: usize,
    /// Offset in the stream of `buf[0]`.
    base: u64,
    adler: simd_adler32::Adler32,
}

impl<R: Read> Stream<R> {
    pub(crate) fn new(source: R, path: &str) -> Stream<R> {
        Stream {
            source,
            path: path.to_owned(),
            buf: vec![0; READ_LEN],
            summed: 0,
            at: 0,
            filled: 0,
            base: 0,
            adler: simd_adler32::Adler32::new(),
        }
    }

    /// Where the next byte stands in the stream.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// The next `n` bytes, not yet consumed. Memory is taken as the bytes arrive.
    pub(crate) fn peek(&mut self, n: usize) -> Result<&[u8], Error> {
        if n > CHUNK_RAW_MAX {
            let damage =
                Damage::Field { name: "bytes of a record", wanted: CHUNK_RAW_MAX as u64, found: n as u64 };
            return Err(self.damaged(damage));
        }
        while self.filled - self.at < n {
            if self.fill()? == 0 {
                let found = (self.filled - self.at) as u64;
                return Err(self.damaged(Damage::Truncated { wanted: n as u64, found }));
            }
        }
        Ok(&self.buf[self.at..self.at + n])
    }

    /// The 32-bit number `ahead` bytes from here.
    pub(crate) fn peek_i32(&mut self, ahead: usize) -> Result<i32, Error> {
        let bytes = &self.peek(ahead + 4)?[ahead..];
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Consumes `n` bytes that were peeked.
    pub(crate) fn consume(&mut self, n: usize) {
        assert!(n <= self.filled - self.at, "only peeked bytes are consumed");
        self.at += n;
    }

    /// A 32-bit number.
    pub(crate) fn i32(&mut self) -> Result<i32, Error> {
        let v = self.peek_i32(0)?;
        self.consume(4);
        Ok(v)
    }

    /// The running sum over everything consumed.
    pub(crate) fn sum(&mut self) -> u32 {
        self.adler.write(&self.buf[self.summed..self.at]);
        self.summed = self.at;
        self.adler.finish()
    }

    /// Everything that is left, at most `max` bytes, and the running sum before it.
    pub(crate) fn rest(mut self, max: usize) -> Result<(Vec<u8>, simd_adler32::Adler32), Error> {
        self.sum();
        while self.filled - self.at <= max {
            if self.fill()? == 0 {
                return Ok((self.buf[self.at..self.filled].to_vec(), self.adler));
            }
        }
        let found = (self.filled - self.at) as u64;
        Err(self.damaged(Damage::Field { name: "bytes behind the first seal", wanted: max as u64, found }))
    }

    /// What was read from the source and not consumed.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.buf[self.at..self.filled]
    }

    pub(crate) fn damaged(&self, damage: Damage) -> Error {
        Error::damaged(&self.path, self.offset(), damage)
    }

    /// Reads some more; 0 at the end.
    fn fill(&mut self) -> Result<usize, Error> {
        if self.at > 0 {
            self.sum();
            self.buf.copy_within(self.at..self.filled, 0);
            self.base += self.at as u64;
            self.filled -= self.at;
            (self.summed, self.at) = (0, 0);
        }
        if self.filled == self.buf.len() {
            // Doubles: never more than twice what arrived.
            self.buf.resize(self.filled * 2, 0);
        }
        loop {
            match self.source.read(&mut self.buf[self.filled..]) {
                Ok(n) => {
                    self.filled += n;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.source_failed(e)),
            }
        }
    }

    /// A decompressor's complaint is damage; the disk's own is the disk's.
    fn source_failed(&self, e: io::Error) -> Error {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match e.kind() {
            InvalidData | InvalidInput | UnexpectedEof if e.raw_os_error().is_none() => {
                self.damaged(Damage::Compression(e))
            }
            _ => Error::io(&self.path, "read", e),
        }
    }
}

/// A file from its start on.
pub(crate) struct FileSource {
    file: Arc<dyn File>,
    at: u64,
}

impl FileSource {
    pub(crate) fn new(file: Arc<dyn File>) -> FileSource {
        FileSource { file, at: 0 }
    }
}

impl Read for FileSource {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
