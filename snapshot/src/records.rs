//! Looking into the records of a chunk, where nobody else will: verification without an engine.

use crate::Kind;
use crate::error::Damage;
use proto::jute::{DecodeError, Reader};
use proto::state::{AclRecord, NodeRecord, SessionRecord};

/// Checks that `bytes` are exactly `count` records of `kind`.
pub(crate) fn check(kind: Kind, count: u32, bytes: &[u8]) -> Result<(), Damage> {
    let mut r = Reader::new(bytes);
    for _ in 0..count {
        one(kind, &mut r).map_err(Damage::Record)?;
    }
    match r.remaining() {
        0 => Ok(()),
        left => Err(Damage::Field { name: "bytes behind the last record", wanted: 0, found: left as u64 }),
    }
}

fn one(kind: Kind, r: &mut Reader<'_>) -> Result<(), DecodeError> {
    match kind {
        Kind::Sessions => SessionRecord::decode(r).map(drop),
        Kind::Acls => AclRecord::decode(r).map(drop),
        Kind::Nodes => NodeRecord::decode(r).map(drop),
    }
}
