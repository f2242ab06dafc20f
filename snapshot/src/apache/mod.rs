//! Apache's version-2 snapshots: read on first start and by `import`, written by `export`. The parts are the
//! same as Falconer's own, so the engine takes and gives them the same way.
//!
//! ```text
//! file, uncompressed; big endian; sections behind the body are optional and positional
//!   "ZKSN"  i32 version 2  i64 dbid -1                                              not interpreted but for the magic
//!   i32 n   n * { i64 session, i32 timeout_ms }
//!   i32 n   n * { i64 acl, vector<ACL> }
//!   { string path, buffer data, i64 acl, StatPersisted(60) } *                      root first, as ""; parent before child
//!   string "/"                                                                      ends the znodes
//!   seal 1: i64 adler32 of all before, string "/"
//!   [ i64 zxid, i32 digest version, i64 digest (a string below version 2) | seal 2 ]
//!   [ i64 last processed zxid                                             | seal 3 ]
//! ```
//!
//! The running sum covers everything before it, earlier seals included. The zxid in the *name* is what
//! counts: all up to it is inside, later changes may be; the last-processed section is told but not used.
//! Compression is told by the extension: none, `.gz`, or `.snappy` (the framing of snappy-java, see
//! [`snappy`]).
//!
//! Apache accepts an end of file inside an optional section. Here a section is whole or the file is damaged:
//! the quick check that Apache makes first ([`precheck`]) would refuse such a file anyway.

mod epochs;
mod export;
mod import;
mod read;
pub mod snappy;
mod stream;

pub use epochs::{EpochError, EpochFiles, Epochs, read_epoch_files, read_myid, write_epochs};
pub use export::{Export, Ordered, Sections};
pub use import::{
    Candidate, ImportError, ImportPlan, LogFile, Start, list_logs, list_snapshots, plan_import,
};
pub use read::{Summary, precheck, read, read_body, read_stream, verify};

use crate::Digest;
use proto::Zxid;

/// First bytes of an Apache snapshot.
pub const MAGIC: &[u8; 4] = b"ZKSN";

/// How a file is compressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip of the whole stream.
    Gzip,
    /// snappy-java's stream.
    Snappy,
}

impl Compression {
    fn extension(self) -> &'static str {
        match self {
            Compression::Plain => "",
            Compression::Gzip => ".gz",
            Compression::Snappy => ".snappy",
        }
    }
}

/// The digest section: the digest of the tree after `zxid`. Comparable only if the load ends, or the replay
/// passes, just there; zxid 0 means that none had been computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeDigest {
    /// When it was right.
    pub zxid: Zxid,
    /// The sum; `None` for the formulas before version 2, whose sum is a string.
    pub digest: Option<Digest>,
}

/// The zxid in a name of the form `<prefix>.<hex>[...]` as Apache parses it: the text between the first and
/// the second dot, a signed 64-bit hexadecimal number; negative ones are none.
fn zxid_in_name(name: &str, prefix: &str) -> Option<Zxid> {
    let mut parts = name.split('.');
    if parts.next() != Some(prefix) {
        return None;
    }
    let zxid = i64::from_str_radix(parts.next()?, 16).ok().filter(|&zxid| zxid >= 0)?;
    Some(Zxid::from_wire(zxid))
}

/// Zxid and compression of a snapshot's name; `None` for names that are not a finished snapshot's.
pub fn parse_name(name: &str) -> Option<(Zxid, Compression)> {
    let zxid = zxid_in_name(name, "snapshot")?;
    let mut rest = name.split('.').skip(2);
    let compression = match (rest.next(), rest.next()) {
        (None, _) => Compression::Plain,
        (Some("gz"), None) => Compression::Gzip,
        (Some("snappy"), None) => Compression::Snappy,
        // ".tmp" among them: Apache would take it for a plain one, but nobody has said that it is whole.
        _ => return None,
    };
    Some((zxid, compression))
}

/// The name of a snapshot at `zxid`.
pub fn name_of(zxid: Zxid, compression: Compression) -> String {
    format!("{}{}", crate::name_of(zxid), compression.extension())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_as_apache_does() {
        let z = |v| Zxid::from_u64(v);
        assert_eq!(parse_name("snapshot.1cc.gz"), Some((z(0x1cc), Compression::Gzip)));
        assert_eq!(parse_name("snapshot.0"), Some((z(0), Compression::Plain)));
        assert_eq!(parse_name("snapshot.00AB.snappy"), Some((z(0xab), Compression::Snappy)));
        for other in [
            "snapshot",
            "snapshot.",
            "snapshot.x",
            "snapshot.8000000000000000",
            "snapshot.-5",
            "snapshot.5.tmp",
            "log.5",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
        assert_eq!(name_of(z(0x1cc), Compression::Gzip), "snapshot.1cc.gz");
    }
}
