//! Jute, the encoding of every ZooKeeper record: big endian, no tags, no padding.
//!
//! Reading borrows from the frame and checks each length once, here; writing appends to a byte vector.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Why bytes are not the record that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field: `wanted` more bytes at `offset`, `found` are left.
    Truncated {
        /// Where the field starts.
        offset: usize,
        /// Bytes the field needs.
        wanted: usize,
        /// Bytes that are left.
        found: usize,
    },
    /// A length or count is negative where it may not be, or above the bound.
    Length {
        /// Where the length stands.
        offset: usize,
        /// The length found.
        found: i32,
        /// The largest length allowed here.
        max: usize,
    },
    /// A field holds a value that the protocol does not know.
    Value {
        /// Where the field stands.
        offset: usize,
        /// The value found.
        found: i64,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DecodeError::Truncated { offset, wanted, found } => {
                write!(f, "record ends at byte {offset}: {wanted} more bytes wanted, {found} left")
            }
            DecodeError::Length { offset, found, max } => {
                write!(f, "length {found} at byte {offset} is outside 0..={max}")
            }
            DecodeError::Value { offset, found } => write!(f, "unknown value {found} at byte {offset}"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// A cursor over one record. Every length is checked against the bytes that are there before anything is
/// allocated, and against `max_len` (jute.maxbuffer plus its extra size on the client port).
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    max_len: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` with buffers and strings bounded only by the bytes themselves.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0, max_len: i32::MAX as usize }
    }

    /// Reads `bytes` with each buffer or string at most `max_len` bytes long.
    pub fn with_max_len(bytes: &'a [u8], max_len: usize) -> Reader<'a> {
        Reader { bytes, at: 0, max_len }
    }

    /// Bytes consumed so far.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Bytes not yet consumed.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The bytes not yet consumed.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The bytes between `start`, an earlier [`Reader::offset`], and here.
    pub fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// The next `n` bytes as they are.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..n)) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => Err(DecodeError::Truncated { offset: self.at, wanted: n, found: self.remaining() }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// A boolean: any byte but zero is true.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.u8()? != 0)
    }

    /// A 32-bit number.
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// A 64-bit number.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// A buffer; `None` is the null buffer, which is not the empty one.
    pub fn buffer(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let offset = self.at;
        match self.i32()? {
            -1 => Ok(None),
            n if n < 0 || n as usize > self.max_len => {
                Err(DecodeError::Length { offset, found: n, max: self.max_len })
            }
            n => self.take(n as usize).map(Some),
        }
    }

    /// A string; `None` is null. See [`text`]; paths refuse U+FFFD later.
    pub fn string(&mut self) -> Result<Option<Cow<'a, str>>, DecodeError> {
        Ok(self.buffer()?.map(text))
    }

    /// The count of a vector; `None` is the null vector. Other negative counts read as empty, as upstream.
    pub fn count(&mut self) -> Result<Option<usize>, DecodeError> {
        match self.i32()? {
            -1 => Ok(None),
            n => Ok(Some(n.max(0) as usize)),
        }
    }

    /// A vector of strings; a null string inside reads as empty. Allocates only as elements arrive.
    pub fn strings(&mut self) -> Result<Option<Vec<Cow<'a, str>>>, DecodeError> {
        let Some(n) = self.count()? else { return Ok(None) };
        // Each string takes at least its four length bytes, so the bytes that are there bound the allocation.
        let mut out = Vec::with_capacity(n.min(self.remaining() / 4));
        for _ in 0..n {
            out.push(self.string()?.unwrap_or(Cow::Borrowed("")));
        }
        Ok(Some(out))
    }
}

/// Appends jute fields to a byte vector.
pub trait Put {
    /// One byte, 0 or 1.
    fn put_bool(&mut self, v: bool);
    /// A 32-bit number.
    fn put_i32(&mut self, v: i32);
    /// A 64-bit number.
    fn put_i64(&mut self, v: i64);
    /// A buffer, or null.
    fn put_buffer(&mut self, v: Option<&[u8]>);
    /// A string.
    fn put_str(&mut self, v: &str);
    /// The count of a vector whose elements follow.
    fn put_count(&mut self, n: usize);
}

impl Put for Vec<u8> {
    fn put_bool(&mut self, v: bool) {
        self.push(u8::from(v));
    }

    fn put_i32(&mut self, v: i32) {
        self.extend_from_slice(&v.to_be_bytes());
    }

    fn put_i64(&mut self, v: i64) {
        self.extend_from_slice(&v.to_be_bytes());
    }

    fn put_buffer(&mut self, v: Option<&[u8]>) {
        match v {
            None => self.put_i32(-1),
            Some(v) => {
                self.put_count(v.len());
                self.extend_from_slice(v);
            }
        }
    }

    fn put_str(&mut self, v: &str) {
        self.put_buffer(Some(v.as_bytes()));
    }

    fn put_count(&mut self, n: usize) {
        let n =
            i32::try_from(n).expect("a record is far smaller than 2 GiB: its parts came in bounded frames");
        self.put_i32(n);
    }
}

/// Reserves the four length bytes of a frame; [`end_frame`] fills them in. Returns where the frame starts.
pub fn begin_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    start
}

/// Completes the frame that [`begin_frame`] started at `start`.
pub fn end_frame(out: &mut [u8], start: usize) {
    let len = i32::try_from(out.len() - start - 4).expect("a reply is far smaller than 2 GiB");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Text that may be malformed: what is not UTF-8 becomes U+FFFD, as many as Java's decoder makes of it. They are those of
/// [`String::from_utf8_lossy`] but for a surrogate, which is one there, whole or cut short at its last byte.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    let mut malformed = match core::str::from_utf8(bytes) {
        Ok(text) => return Cow::Borrowed(text),
        Err(e) => e,
    };
    let (mut rest, mut out) = (bytes, String::new());
    loop {
        let (good, bad) = rest.split_at(malformed.valid_up_to());
        out.push_str(core::str::from_utf8(good).expect("valid up to there"));
        out.push('\u{fffd}');
        let len = match bad {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, ..] => 3,
            [0xed, 0xa0..=0xbf, ..] => 2,
            _ => malformed.error_len().unwrap_or(bad.len()),
        };
        rest = &bad[len..];
        malformed = match core::str::from_utf8(rest) {
            Ok(text) => {
                out.push_str(text);
                return Cow::Owned(out);
            }
            Err(e) => e,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn null_and_empty_are_different() {
        let mut out = Vec::new();
        out.put_buffer(None);
        out.put_buffer(Some(b""));
        let mut r = Reader::new(&out);
        assert_eq!(r.buffer(), Ok(None));
        assert_eq!(r.buffer(), Ok(Some(&b""[..])));
        assert_eq!(r.remaining(), 0);
    }

    /// As `new String(bytes, UTF_8)` of Java 17 has them.
    #[test]
    fn malformed_text_is_read_as_java_reads_it() {
        for (bytes, read) in [
            (&b"plain \xc3\xa4 \xf0\x9f\x98\x80"[..], "plain ä 😀"),
            (b"\xed\xa0\xbd\xed\xb8\x80", "��"),
            (b"a\xed\xa0\x80b", "a�b"),
            (b"\xed\xa0", "�"),
            (b"\xed\xa0A", "�A"),
            (b"\xed", "�"),
            (b"\xedA", "�A"),
            (b"\xed\xbf\xbfA", "�A"),
            (b"\xc0\x80", "��"),
            (b"\xe2\x82", "�"),
            (b"\xe2\x82A", "�A"),
            (b"\xf0\x9f\x98", "�"),
            (b"\xf0\x9f\x98A", "�A"),
            (b"\xf8\x88\x80\x80\x80", "�����"),
            (b"\xf4\x90\x80\x80", "����"),
            (b"\xe0\x80\x80", "���"),
            (b"\xe0\x80A", "��A"),
            (b"\xff\xfe", "��"),
            (b"\xe2AB", "�AB"),
            (b"\xf0\x90A", "�A"),
        ] {
            assert_eq!(text(bytes), read, "{bytes:02x?}");
        }
    }

    #[test]
    fn absurd_lengths_are_refused_without_allocating() {
        let bytes = 0x7fff_ffff_i32.to_be_bytes();
        assert!(matches!(Reader::new(&bytes).buffer(), Err(DecodeError::Truncated { .. })));
        assert!(matches!(Reader::with_max_len(&bytes, 10).buffer(), Err(DecodeError::Length { .. })));
        assert!(matches!(Reader::new(&bytes).strings(), Err(DecodeError::Truncated { .. })));
        assert!(matches!(Reader::new(&(-2_i32).to_be_bytes()).buffer(), Err(DecodeError::Length { .. })));
    }

    #[test]
    fn negative_counts_other_than_null_read_as_empty() {
        assert_eq!(Reader::new(&(-1_i32).to_be_bytes()).strings(), Ok(None));
        assert_eq!(Reader::new(&(-2_i32).to_be_bytes()).strings(), Ok(Some(vec![])));
    }

    #[test]
    fn a_frame_is_its_length_and_its_bytes() {
        let mut out = vec![9];
        let at = begin_frame(&mut out);
        out.put_i32(5);
        end_frame(&mut out, at);
        assert_eq!(out, [9, 0, 0, 0, 4, 0, 0, 0, 5]);
    }
}
