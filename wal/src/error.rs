//! What can go wrong, with what an operator needs to act on it.

use proto::Zxid;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A failure of the log.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The system refused. After a failed write or sync of the log the log is poisoned.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Where in it, bytes.
        offset: Option<u64>,
        /// Why.
        source: io::Error,
    },
    /// Something that was durable, and may have been acknowledged, is damaged. This server must not vote with what is left.
    Corrupt(Box<Damage>),
    /// A segment that the superblock or a later segment names is not there.
    SegmentMissing {
        /// The log's directory.
        dir: PathBuf,
        /// The number of the missing segment.
        number: u64,
        /// Who names it.
        named_by: String,
    },
    /// The superblock says that a log was begun here, yet the directory has none.
    LogMissing {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Written by a newer Falconer.
    Version {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The directory belongs to another server or ensemble.
    Foreign {
        /// The file that says so.
        path: PathBuf,
        /// Which identity differs.
        what: &'static str,
        /// The one that was expected.
        wanted: String,
        /// The one on disk.
        found: String,
    },
    /// Both copies of the superblock are unreadable.
    SuperblockDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A record does not follow the one before it: consecutive within an epoch, counter 1 at the start of an epoch.
    Gap {
        /// The last zxid of the log.
        after: Zxid,
        /// The one that came.
        found: Zxid,
    },
    /// A record that cannot be logged: too long, too short, or its bytes carry another zxid.
    BadRecord {
        /// The zxid it was announced with.
        zxid: Zxid,
        /// Its length, bytes.
        len: usize,
        /// The longest that fits a segment.
        max: usize,
    },
    /// The disk has no room for a segment. Nothing was lost; records that were appended stay waiting.
    NoSpace {
        /// The log's directory.
        dir: PathBuf,
        /// Bytes wanted.
        wanted: u64,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier durable write failed: this process writes no more (fsync is never asked twice).
    Poisoned {
        /// The first failure.
        first: Arc<str>,
    },
    /// A position before the start of the log, or behind its end.
    OutOfRange {
        /// The position asked for.
        wanted: Zxid,
        /// The log holds records after this.
        start: Zxid,
        /// Up to this.
        end: Zxid,
    },
    /// A running server recycled the segment while it was being read without its knowledge.
    Recycled {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds the log.
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// An epoch may not go back.
    EpochWentBack {
        /// Which epoch.
        what: &'static str,
        /// The present value.
        now: u32,
        /// The one that was given.
        given: u32,
    },
}

/// Where and what is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Its segment number; 0 in files of Apache.
    pub segment: u64,
    /// The offset in it, bytes.
    pub offset: u64,
    /// The last zxid before the damage.
    pub after: Zxid,
    /// What is wrong.
    pub what: Fault,
    /// The value that was expected there.
    pub wanted: u64,
    /// The value that stands there.
    pub found: u64,
}

/// Kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// No batch header where one must be.
    Magic,
    /// The batch names another segment, offset or sequence: a block of another place or time.
    Place,
    /// The checksum does not fit the bytes.
    Checksum,
    /// The batch does not continue the one before it.
    Chain,
    /// A length leads out of the segment, the batch or the bound.
    Length,
    /// Records of the batch do not agree with its header.
    Records,
    /// Zxids do not follow each other.
    Continuity,
    /// The segment's header does not fit its predecessor.
    Header,
    /// The segment's header is unreadable though batches follow it.
    HeaderLost,
    /// A file of Apache does not begin with its magic.
    ApacheMagic,
    /// The device could not read it.
    Unreadable,
}

impl Fault {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Fault::Magic => "no batch header",
            Fault::Place => "a batch of another place",
            Fault::Checksum => "checksum mismatch",
            Fault::Chain => "a batch that does not continue its predecessor",
            Fault::Length => "a length out of bounds",
            Fault::Records => "records that disagree with their batch",
            Fault::Continuity => "zxids that do not follow each other",
            Fault::Header => "a segment header that does not fit its predecessor",
            Fault::HeaderLost => "an unreadable segment header before readable batches",
            Fault::ApacheMagic => "no Apache log header",
            Fault::Unreadable => "unreadable sector",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at offset {} of {} after zxid {} (wanted {:#x}, found {:#x})",
            self.what.words(),
            self.offset,
            self.path.display(),
            self.after,
            self.wanted,
            self.found
        )
    }
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path, offset: Option<u64>, source: io::Error) -> Error {
        Error::Io { doing, path: path.into(), offset, source }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Error::Io { .. } | Error::Poisoned { .. } => {
                "check the disk and its kernel messages, then start again: what was acknowledged is read back from it"
            }
            Error::Corrupt(_) | Error::SegmentMissing { .. } | Error::SuperblockDamaged { .. } => {
                "in an ensemble: move this data directory aside and let the server synchronise anew from its peers; \
                 alone: restore a backup, or look at what is left with `falconer log dump`"
            }
            Error::LogMissing { .. } => {
                "is dataLogDir mounted? if the log is really gone, treat it as corrupt"
            }
            Error::Version { .. } => "start the version that wrote it, or a newer one",
            Error::Foreign { .. } => {
                "check dataDir, dataLogDir and myid: this directory belongs to somebody else"
            }
            Error::Gap { .. }
            | Error::BadRecord { .. }
            | Error::OutOfRange { .. }
            | Error::EpochWentBack { .. } => "a mistake of the sender or of this server: report it",
            Error::NoSpace { .. } => "free space on the log's disk; writes go on by themselves",
            Error::Recycled { .. } => "the server no longer needed it: read again from the start",
            Error::Locked { .. } => {
                "another server runs on this directory: stop it, or give this one its own"
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, path, offset: Some(offset), .. } => {
                write!(f, "cannot {doing} {} at offset {offset}", path.display())?
            }
            Error::Io { doing, path, offset: None, .. } => write!(f, "cannot {doing} {}", path.display())?,
            Error::Corrupt(damage) => write!(f, "the log is corrupt: {damage}")?,
            Error::SegmentMissing { dir, number, named_by } => {
                write!(f, "segment {number} is missing in {}, named by {named_by}", dir.display())?
            }
            Error::LogMissing { dir } => write!(f, "no log in {} though one was begun", dir.display())?,
            Error::Version { path, found, known } => {
                write!(f, "{} has format version {found}, known are versions up to {known}", path.display())?
            }
            Error::Foreign { path, what, wanted, found } => {
                write!(f, "{} has {what} {found}, wanted {wanted}", path.display())?
            }
            Error::SuperblockDamaged { path } => write!(f, "both copies in {} are damaged", path.display())?,
            Error::Gap { after, found } => write!(f, "record {found} does not follow {after}")?,
            Error::BadRecord { zxid, len, max } => {
                write!(f, "record {zxid} of {len} bytes cannot be logged (32..={max}, its own zxid inside)")?
            }
            Error::NoSpace { dir, wanted, .. } => {
                write!(f, "no room for a log segment of {wanted} bytes in {}", dir.display())?
            }
            Error::Poisoned { first } => write!(f, "the log is closed for good since: {first}")?,
            Error::OutOfRange { wanted, start, end } => {
                write!(f, "zxid {wanted} is outside of the log, which covers {start} to {end}")?
            }
            Error::Recycled { path } => {
                write!(f, "{} was recycled by a running server while it was read", path.display())?
            }
            Error::Locked { dir } => write!(f, "the log in {} is in use by another process", dir.display())?,
            Error::EpochWentBack { what, now, given } => write!(f, "{what} epoch {given} is below {now}")?,
        }
        write!(f, "; {}", self.remedy())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } | Error::NoSpace { source, .. } => Some(source),
            _ => None,
        }
    }
}
