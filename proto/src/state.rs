//! The records of a snapshot: what the replicated state consists of, in Apache's layout (storage format,
//! section 4.2). Falconer's own snapshots frame the same records differently.

use crate::acl::AclBytes;
use crate::jute::{DecodeError, Put, Reader};
use crate::{SessionId, StatPersisted};
use alloc::borrow::Cow;
use alloc::vec::Vec;

/// The ACL number that means `world:anyone` with all permissions; it stands in no table.
pub const OPEN_ACL: i64 = -1;

/// A live session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// The session.
    pub session: SessionId,
    /// Its time-out in ms.
    pub timeout_ms: i32,
}

impl SessionRecord {
    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.session.0);
        out.put_i32(self.timeout_ms);
    }

    /// Reads the encoded form.
    pub fn decode(r: &mut Reader<'_>) -> Result<SessionRecord, DecodeError> {
        Ok(SessionRecord { session: SessionId(r.i64()?), timeout_ms: r.i32()? })
    }
}

/// One entry of the table of ACLs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AclRecord<'a> {
    /// The number that znodes refer to.
    pub id: i64,
    /// The list.
    pub acl: AclBytes<'a>,
}

impl<'a> AclRecord<'a> {
    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.id);
        out.extend_from_slice(self.acl.as_bytes());
    }

    /// Reads the encoded form.
    pub fn decode(r: &mut Reader<'a>) -> Result<AclRecord<'a>, DecodeError> {
        Ok(AclRecord { id: r.i64()?, acl: AclBytes::decode(r)? })
    }
}

/// A znode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord<'a> {
    /// Its path; the root's is empty, as in Apache's files.
    pub path: Cow<'a, str>,
    /// Its value.
    pub data: Option<&'a [u8]>,
    /// The number of its ACL, or [`OPEN_ACL`].
    pub acl: i64,
    /// Its metadata.
    pub stat: StatPersisted,
}

impl<'a> NodeRecord<'a> {
    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_str(&self.path);
        out.put_buffer(self.data);
        out.put_i64(self.acl);
        self.stat.encode(out);
    }

    /// Reads the encoded form.
    pub fn decode(r: &mut Reader<'a>) -> Result<NodeRecord<'a>, DecodeError> {
        Ok(NodeRecord {
            path: r.string()?.unwrap_or(Cow::Borrowed("")),
            data: r.buffer()?,
            acl: r.i64()?,
            stat: StatPersisted::decode(r)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl;

    #[test]
    fn records_survive_their_bytes_and_notice_every_cut() {
        let node = NodeRecord {
            path: "/a".into(),
            data: Some(b"v"),
            acl: 3,
            stat: StatPersisted { czxid: 1, pzxid: 2, ..Default::default() },
        };
        let mut out = Vec::new();
        node.encode(&mut out);
        assert_eq!(NodeRecord::decode(&mut Reader::new(&out)), Ok(node));
        for cut in 0..out.len() {
            assert!(NodeRecord::decode(&mut Reader::new(&out[..cut])).is_err());
        }
        let entry = AclRecord { id: 1, acl: acl::WORLD_READ };
        let mut out = Vec::new();
        entry.encode(&mut out);
        assert_eq!(AclRecord::decode(&mut Reader::new(&out)), Ok(entry));
        let s = SessionRecord { session: SessionId(5), timeout_ms: 10 };
        let mut out = Vec::new();
        s.encode(&mut out);
        assert_eq!(SessionRecord::decode(&mut Reader::new(&out)), Ok(s));
    }
}
