//! Access control lists, kept as the bytes that travel.
//!
//! A list is checked and interned far more often than it is looked into, so the encoded vector itself is the
//! value: equal lists are equal bytes.

use crate::jute::{DecodeError, Put, Reader};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

/// The permission bits (semantics, section 6). Other bits are stored as they are and never match.
pub mod perms {
    /// Read data, children, ACL, existence.
    pub const READ: i32 = 1;
    /// Set data.
    pub const WRITE: i32 = 2;
    /// Create children.
    pub const CREATE: i32 = 4;
    /// Delete children.
    pub const DELETE: i32 = 8;
    /// Set the ACL.
    pub const ADMIN: i32 = 16;
    /// All five.
    pub const ALL: i32 = 31;
}

/// An identity: a scheme and a name within it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    /// `world`, `ip`, `digest`, `super`, ...
    pub scheme: String,
    /// The name within the scheme.
    pub id: String,
}

impl Id {
    /// An identity from its two parts.
    pub fn new(scheme: &str, id: &str) -> Id {
        Id { scheme: scheme.into(), id: id.into() }
    }
}

/// One entry as it is read. Null names are kept apart: they make the list invalid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AclEntry<'a> {
    /// Permission bits.
    pub perms: i32,
    /// The scheme, `None` for null.
    pub scheme: Option<Cow<'a, str>>,
    /// The name, `None` for null.
    pub id: Option<Cow<'a, str>>,
}

/// An encoded `vector<ACL>`, known to be well formed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AclBytes<'a>(&'a [u8]);

/// `world:anyone` with all permissions, the list of nearly every znode.
pub const OPEN: AclBytes<'static> =
    AclBytes(b"\x00\x00\x00\x01\x00\x00\x00\x1f\x00\x00\x00\x05world\x00\x00\x00\x06anyone");

/// `world:anyone` with read permission, the list of `/zookeeper/config`.
pub const WORLD_READ: AclBytes<'static> =
    AclBytes(b"\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x05world\x00\x00\x00\x06anyone");

impl<'a> AclBytes<'a> {
    /// Reads one vector.
    pub fn decode(r: &mut Reader<'a>) -> Result<AclBytes<'a>, DecodeError> {
        let start = r.offset();
        if r.rest().starts_with(OPEN.0) {
            return Ok(AclBytes(r.take(OPEN.0.len())?));
        }
        for _ in 0..r.count()?.unwrap_or(0) {
            r.i32()?;
            r.buffer()?;
            r.buffer()?;
        }
        Ok(AclBytes(r.since(start)))
    }

    /// The encoded vector.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether the vector is null, which no request may send but a record may hold.
    pub fn is_null(&self) -> bool {
        self.0.starts_with(&(-1_i32).to_be_bytes())
    }

    /// The entries in their order.
    pub fn entries(&self) -> impl Iterator<Item = AclEntry<'a>> {
        let mut r = Reader::new(self.0);
        let n = r.count().ok().flatten().unwrap_or(0);
        (0..n).map_while(move |_| {
            Some(AclEntry { perms: r.i32().ok()?, scheme: r.string().ok()?, id: r.string().ok()? })
        })
    }
}

/// Appends an encoded vector of entries.
pub fn encode<'e>(entries: impl ExactSizeIterator<Item = (i32, &'e Id)>, out: &mut Vec<u8>) {
    out.put_count(entries.len());
    for (perms, id) in entries {
        out.put_i32(perms);
        out.put_str(&id.scheme);
        out.put_str(&id.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn the_open_list_is_what_a_client_sends() {
        let mut out = Vec::new();
        encode([(perms::ALL, &Id::new("world", "anyone"))].into_iter(), &mut out);
        assert_eq!(out, OPEN.as_bytes());
        let mut out = Vec::new();
        encode([(perms::READ, &Id::new("world", "anyone"))].into_iter(), &mut out);
        assert_eq!(out, WORLD_READ.as_bytes());
    }

    #[test]
    fn entries_come_back_in_order_and_nulls_stay_null() {
        let mut out = vec![];
        out.put_count(2);
        out.put_i32(1);
        out.put_str("ip");
        out.put_buffer(None);
        out.put_i32(2);
        out.put_str("digest");
        out.put_str("u:h");
        let mut r = Reader::new(&out);
        let acl = AclBytes::decode(&mut r).unwrap();
        assert_eq!(r.remaining(), 0);
        let e: Vec<_> = acl.entries().collect();
        assert_eq!((e[0].perms, e[0].id.clone()), (1, None));
        assert_eq!(e[1].id.as_deref(), Some("u:h"));
        let null = (-1_i32).to_be_bytes();
        assert!(AclBytes::decode(&mut Reader::new(&null)).unwrap().is_null());
    }
}
