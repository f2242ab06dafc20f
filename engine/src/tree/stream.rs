//! A walk as one stream of bytes: how a tree goes from one server to another while it changes.
//!
//! ```text
//!   part:  kind u8 (0 sessions, 1 ACLs, 2 znodes) | records i32 | bytes i32 | the records
//!   end:   3 | zxid i64 | whether the digest is known u8 | digest i64
//! ```
//! Parts come in the order of their kinds, of each as many as there are; a server that writes or reads one has no more than one
//! part in memory. What the parts hold is of no single moment: whoever reads them applies the records behind the beginning
//! of the walk, and has the tree once it is at the zxid of the end (see [`super::walk`]).

use super::walk::{Walk, WalkKind};
use super::{ImportError, Importer, Settled, Tree};
use crate::limits;
use proto::Zxid;
use proto::jute::Put;
use std::fmt;
use std::io::{self, Read};

const END: u8 = 3;

/// Kind, records, bytes.
const HEAD: usize = 1 + 4 + 4;

/// Why a stream can't be taken in.
#[derive(Debug)]
#[non_exhaustive]
pub enum StreamError {
    /// It ends early, or can't be read.
    Io(io::Error),
    /// What stands in it is no stream of parts.
    Malformed(&'static str),
    /// A part does not hold what it says.
    Part(ImportError),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Io(_) => f.write_str("the tree does not come to its end"),
            StreamError::Malformed(what) => write!(f, "no tree: {what}"),
            StreamError::Part(_) => f.write_str("a part of the tree is not what it says"),
        }
    }
}

impl std::error::Error for StreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StreamError::Io(e) => Some(e),
            StreamError::Malformed(_) => None,
            StreamError::Part(e) => Some(e),
        }
    }
}

impl From<io::Error> for StreamError {
    fn from(e: io::Error) -> StreamError {
        StreamError::Io(e)
    }
}

impl Walk {
    /// Appends the next part of the stream, of `max_bytes` and not much more; false: it was the end.
    pub fn next_part(&mut self, tree: &Tree, max_bytes: usize, out: &mut Vec<u8>) -> bool {
        let at = out.len();
        out.resize(at + HEAD, 0);
        let part = self.next(tree, max_bytes, out);
        if let Some((end, digest)) = self.end().filter(|_| part.kind == WalkKind::Done) {
            out.truncate(at);
            out.push(END);
            out.put_i64(end.to_wire());
            out.put_bool(tree.config().digest_enabled);
            out.put_i64(digest);
            return false;
        }
        if part.count == 0 {
            out.truncate(at);
            return true;
        }
        let number = |n: u64| i32::try_from(n).expect("a part is of some MiB at most").to_be_bytes();
        let bytes = number((out.len() - at - HEAD) as u64);
        out[at] = part.kind as u8;
        out[at + 1..at + 5].copy_from_slice(&number(part.count));
        out[at + 5..at + HEAD].copy_from_slice(&bytes);
        true
    }
}

impl Importer<'_> {
    /// Takes in a stream whose walk began at `start`, up to its end and nothing behind that. No part may be longer
    /// than [`limits::STREAM_PART_BYTES_MAX`].
    ///
    /// # Errors
    /// [`StreamError`]. The tree is then in no usable state.
    pub fn read(&self, source: &mut dyn Read, start: Zxid) -> Result<Settled, StreamError> {
        let (mut before, mut part) = (0, Vec::new());
        loop {
            let kind = u8::from_be_bytes(take(source)?);
            if kind == END {
                let zxid = Zxid::from_wire(i64::from_be_bytes(take(source)?));
                let known = u8::from_be_bytes(take(source)?);
                let digest = i64::from_be_bytes(take(source)?);
                if zxid < start || known > 1 {
                    return Err(StreamError::Malformed("it ends before it begins"));
                }
                return Ok(Settled { zxid, digest: (known == 1).then_some(digest) });
            }
            let count = i32::from_be_bytes(take(source)?);
            let bytes = i32::from_be_bytes(take(source)?);
            let (Ok(count), Ok(bytes)) = (u64::try_from(count), usize::try_from(bytes)) else {
                return Err(StreamError::Malformed("a number is negative"));
            };
            if bytes > limits::STREAM_PART_BYTES_MAX {
                return Err(StreamError::Malformed("a part is too long"));
            }
            if kind < before {
                return Err(StreamError::Malformed("the parts are in no order"));
            }
            before = kind;
            part.clear();
            // Memory grows with what comes, not with what is promised.
            if source.take(bytes as u64).read_to_end(&mut part)? < bytes {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            match kind {
                0 => self.sessions(&part, count),
                1 => self.acls(&part, count),
                2 => self.nodes(&part, count),
                _ => return Err(StreamError::Malformed("an unknown kind of part")),
            }
            .map_err(StreamError::Part)?;
        }
    }
}

fn take<const N: usize>(source: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}
