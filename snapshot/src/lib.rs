//! The state on disk: streams `proto::state` records to and from snapshot files.
//!
//! A server that starts loads the newest valid snapshot and replays the log over it; a server that runs
//! writes one now and then so that the log can be forgotten. This crate holds the files between the two: what
//! a snapshot looks like, how it is written so that a crash leaves the one before it usable, how it is read
//! by many threads at once, which of several is to be trusted, and when the next one is due.
//!
//! Three nouns. A *part* is what a walk over the state yields and an import takes: some records of one
//! [`Kind`], encoded one after the other ([`proto::state`]). A *chunk* is what the file holds: one or more
//! parts, compressed and checksummed together. A *catalogue* is the directory: snapshots newest first, with
//! what is known of each.
//!
//! ```text
//!   parts ── Writer::part ──► chunks ── Writer::finish ──► footer, sync, rename, sync dir ──► Entry
//!                               │ pace: the caller's hook after each chunk, to slow down or to stop
//!   Catalogue::open ── quick check (header, footer, length) ──► entries newest first, skipped with a reason
//!        │ verify_newest, reject, retention, truncated, retire_before
//!   Snapshot::open ── load(workers, sink) ──► sessions, ACLs, then znodes from all workers at once
//!   Policy::logged ── due ──► when to write the next
//!   apache::{read, Export, plan_import}: the same parts from and to Apache's version-2 files
//! ```
//!
//! A snapshot is *fuzzy*: it was written while writes went on. All up to its `start` zxid is inside, some of
//! what lies between `start` and `end` is, nothing after `end`. It is the state of no moment until the log
//! from `start` to `end`, without a hole, has been replayed over it.
//!
//! Not here: the tree (the engine exports and imports the same records), the log (the caller says how far it
//! reaches), threads but for the loader's workers, clocks and chance (arguments of [`policy`]), rate limits
//! (the caller's hook decides).
//!
//! ```
//! use proto::{ServerId, WallMs, Zxid};
//! use snapshot::{Header, Kind, Snapshot, Writer};
//! use std::{ops::ControlFlow, sync::Arc};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir: Arc<dyn vfs::Dir> = vfs::mem::Disk::new().dir("data");
//! let header = Header { cluster: [1; 16], server: ServerId(1), start: Zxid::from_u64(9), written: WallMs(0) };
//! let mut records = Vec::new();
//! proto::state::SessionRecord { session: proto::SessionId(5), timeout_ms: 6000 }.encode(&mut records);
//! let mut writer = Writer::create(dir.clone(), header, Box::new(|_bytes| ControlFlow::Continue(())))?;
//! writer.part(Kind::Sessions, 1, &records)?;
//! let entry = writer.finish(Zxid::from_u64(12), None, WallMs(0))?;
//! assert_eq!(entry.name(), "snapshot.9");
//!
//! let snapshot = Snapshot::open(&*dir, entry.name(), Some([1; 16]))?;
//! snapshot.load(2, &|kind, count, bytes| {
//!     assert_eq!((kind, count, bytes), (Kind::Sessions, 1, &records[..]));
//!     Ok::<(), std::convert::Infallible>(())
//! })?;
//! # Ok(()) }
//! ```

pub mod apache;
mod catalogue;
mod error;
pub mod format;
pub mod limits;
mod load;
pub mod policy;
mod records;
mod write;

pub use catalogue::{Catalogue, Entry, MANIFEST_NAME, Retention, Skipped};
pub use error::{Damage, Error, LoadError};
pub use format::{Counts, Footer, Header};
pub use load::Snapshot;
pub use policy::Policy;
pub use write::{Pace, Writer};

use proto::Zxid;
use std::fmt;

/// What the records of a part are. In this order they are written and delivered: a znode is never seen
/// before the table that its ACL number points into.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// [`proto::state::SessionRecord`].
    Sessions,
    /// [`proto::state::AclRecord`].
    Acls,
    /// [`proto::state::NodeRecord`].
    Nodes,
}

impl Kind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Kind::Sessions => 1,
            Kind::Acls => 2,
            Kind::Nodes => 3,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Kind> {
        match code {
            1 => Some(Kind::Sessions),
            2 => Some(Kind::Acls),
            3 => Some(Kind::Nodes),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Sessions => "sessions",
            Kind::Acls => "ACLs",
            Kind::Nodes => "znodes",
        })
    }
}

/// The digest of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// The formula; Apache's present one is 2. Never 0.
    pub version: u32,
    /// The sum.
    pub value: i64,
}

/// The name of the snapshot that starts at `start`: `snapshot.` and the zxid in hexadecimal, as Apache names
/// its own.
pub fn name_of(start: Zxid) -> String {
    format!("{NAME_PREFIX}{:x}", start.as_u64())
}

/// The zxid in a name that [`name_of`] makes, and only in such a name.
pub fn start_of(name: &str) -> Option<Zxid> {
    let hex = name.strip_prefix(NAME_PREFIX)?;
    let start = Zxid::from_u64(u64::from_str_radix(hex, 16).ok()?);
    (name_of(start) == name).then_some(start)
}

const NAME_PREFIX: &str = "snapshot.";
pub(crate) const TEMP_SUFFIX: &str = ".tmp";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_zxid_and_nothing_else_is_a_name() {
        let z = Zxid::from_u64(0x1_0000_00ff);
        assert_eq!(name_of(z), "snapshot.1000000ff");
        assert_eq!(start_of("snapshot.1000000ff"), Some(z));
        for other in [
            "snapshot.",
            "snapshot.0f",
            "snapshot.1F",
            "snapshot.+1",
            "snapshot.1.tmp",
            "snapshot.g",
            "log.1",
        ] {
            assert_eq!(start_of(other), None, "{other}");
        }
        assert_eq!(start_of("snapshot.11111111111111111"), None);
    }
}
