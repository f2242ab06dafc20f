//! What can be wrong with a snapshot, told so that an operator can act on it: path, offset, wanted, found.

use proto::jute::DecodeError;
use std::fmt;
use std::io;

/// Why a snapshot could not be written, listed, verified or read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The disk refused. `action` is what was being done.
    Io {
        /// The file or directory.
        path: String,
        /// The operation, as a verb.
        action: &'static str,
        /// What the disk said.
        source: io::Error,
    },
    /// The bytes are not what this format has at this place.
    Damaged {
        /// The file.
        path: String,
        /// Byte offset in the file; in the uncompressed stream for a compressed Apache snapshot.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// The file is of a newer format than this program knows. Not damage: an older Falconer met a newer file.
    Newer {
        /// The file.
        path: String,
        /// Its format version.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },
    /// The file was written for another ensemble.
    Foreign {
        /// The file.
        path: String,
        /// The cluster id of this data directory.
        wanted: [u8; 16],
        /// The cluster id in the file.
        found: [u8; 16],
    },
    /// The caller asked for the writing or loading to stop.
    Stopped {
        /// The file.
        path: String,
    },
    /// A part is larger than a chunk may be: no snapshot can hold it.
    PartTooLarge {
        /// The file.
        path: String,
        /// Bytes of the part.
        found: usize,
        /// Bytes a part may have.
        max: usize,
    },
    /// Parts came out of order: sessions, then ACLs, then znodes.
    Order {
        /// The file.
        path: String,
        /// The kind that came.
        found: crate::Kind,
        /// The kind that had come before.
        after: crate::Kind,
    },
}

/// One way in which bytes are not a snapshot.
#[derive(Debug)]
#[non_exhaustive]
pub enum Damage {
    /// The bytes end early.
    Truncated {
        /// Bytes wanted from here.
        wanted: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// A checksum does not match.
    Checksum {
        /// What it covers.
        of: &'static str,
        /// The sum that stands in the file.
        wanted: u32,
        /// The sum of the bytes.
        found: u32,
    },
    /// A field holds another value than it must.
    Field {
        /// The field.
        name: &'static str,
        /// The only value, or the largest, that it may have here.
        wanted: u64,
        /// The value in the file.
        found: u64,
    },
    /// A compressed payload does not decompress.
    Compression(io::Error),
    /// A record does not decode.
    Record(DecodeError),
    /// A rule of the format is broken that has no number to show.
    Rule(&'static str),
}

impl Error {
    pub(crate) fn damaged(path: &str, offset: u64, damage: Damage) -> Error {
        Error::Damaged { path: path.to_owned(), offset, damage }
    }

    pub(crate) fn io(path: &str, action: &'static str, source: io::Error) -> Error {
        Error::Io { path: path.to_owned(), action, source }
    }

    /// Whether the file itself is at fault (so that an older snapshot may serve), rather than the disk or the
    /// caller.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged { .. } => true,
            Error::Io { .. }
            | Error::Newer { .. }
            | Error::Foreign { .. }
            | Error::Stopped { .. }
            | Error::PartTooLarge { .. }
            | Error::Order { .. } => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, action, .. } => write!(f, "cannot {action} {path}"),
            Error::Damaged { path, offset, damage } => {
                write!(f, "snapshot {path} is damaged at byte {offset}: {damage}")
            }
            Error::Newer { path, found, known } => {
                write!(f, "snapshot {path} has format version {found}; this program knows up to {known}")
            }
            Error::Foreign { path, wanted, found } => write!(
                f,
                "snapshot {path} belongs to cluster {:032x}, this directory to {:032x}",
                u128::from_be_bytes(*found),
                u128::from_be_bytes(*wanted)
            ),
            Error::Stopped { path } => write!(f, "work on snapshot {path} was stopped"),
            Error::PartTooLarge { path, found, max } => {
                write!(f, "a part of {found} bytes does not fit a chunk of snapshot {path} (at most {max})")
            }
            Error::Order { path, found, after } => {
                write!(f, "{found} came after {after} while writing snapshot {path}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Damaged { damage: Damage::Compression(e), .. } => Some(e),
            Error::Damaged { damage: Damage::Record(e), .. } => Some(e),
            _ => None,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Truncated { wanted, found } => {
                write!(f, "the file ends: {wanted} bytes wanted, {found} found")
            }
            Damage::Checksum { of, wanted, found } => {
                write!(f, "checksum of {of}: {wanted:#010x} wanted, {found:#010x} found")
            }
            Damage::Field { name, wanted, found } => {
                write!(f, "{name}: {wanted:#x} wanted, {found:#x} found")
            }
            Damage::Compression(_) => f.write_str("the payload does not decompress"),
            Damage::Record(e) => write!(f, "a record does not decode: {e}"),
            Damage::Rule(rule) => f.write_str(rule),
        }
    }
}

/// Why a load ended early: the snapshot's fault or the sink's.
#[derive(Debug)]
pub enum LoadError<E> {
    /// The snapshot could not be read.
    Snapshot(Error),
    /// The sink refused a part.
    Sink(E),
}

impl<E> From<Error> for LoadError<E> {
    fn from(e: Error) -> LoadError<E> {
        LoadError::Snapshot(e)
    }
}

impl<E: fmt::Display> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Snapshot(e) => e.fmt(f),
            LoadError::Sink(e) => write!(f, "the state refused a part: {e}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for LoadError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Snapshot(e) => e.source(),
            LoadError::Sink(e) => Some(e),
        }
    }
}
