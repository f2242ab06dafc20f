//! The two forms of a znode's metadata.

use crate::jute::{DecodeError, Put, Reader};
use alloc::vec::Vec;

/// What a znode stores. Sixty bytes on the wire, in snapshots and in the digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatPersisted {
    /// zxid of the creation.
    pub czxid: i64,
    /// zxid of the last change of the data.
    pub mzxid: i64,
    /// Wall-clock ms of the creation.
    pub ctime: i64,
    /// Wall-clock ms of the last change of the data.
    pub mtime: i64,
    /// Changes of the data; wraps.
    pub version: i32,
    /// Children ever created (raw: clients see `2 * raw - children`).
    pub cversion: i32,
    /// Changes of the ACL; wraps.
    pub aversion: i32,
    /// The owner as stored: 0, a session, or the markers of containers and TTL znodes (see [`Owner`]).
    pub ephemeral_owner: i64,
    /// zxid of the last creation or deletion of a child; starts as czxid.
    pub pzxid: i64,
}

impl StatPersisted {
    /// Bytes of the encoded form.
    pub const LEN: usize = 60;

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.czxid);
        out.put_i64(self.mzxid);
        out.put_i64(self.ctime);
        out.put_i64(self.mtime);
        out.put_i32(self.version);
        out.put_i32(self.cversion);
        out.put_i32(self.aversion);
        out.put_i64(self.ephemeral_owner);
        out.put_i64(self.pzxid);
    }

    /// Reads the encoded form.
    pub fn decode(r: &mut Reader<'_>) -> Result<StatPersisted, DecodeError> {
        Ok(StatPersisted {
            czxid: r.i64()?,
            mzxid: r.i64()?,
            ctime: r.i64()?,
            mtime: r.i64()?,
            version: r.i32()?,
            cversion: r.i32()?,
            aversion: r.i32()?,
            ephemeral_owner: r.i64()?,
            pzxid: r.i64()?,
        })
    }

    /// What a client sees. `extended_types`: TTL znodes are recognised (see [`Owner::of`]).
    pub fn client_view(&self, data_length: usize, children: usize, extended_types: bool) -> Stat {
        let children = children as i32;
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            cversion: self.cversion.wrapping_mul(2).wrapping_sub(children),
            aversion: self.aversion,
            ephemeral_owner: match Owner::of(self.ephemeral_owner, extended_types) {
                Owner::Session(id) => id,
                Owner::Persistent | Owner::Container | Owner::Ttl(_) => 0,
            },
            data_length: data_length as i32,
            num_children: children,
            pzxid: self.pzxid,
        }
    }
}

/// A znode's metadata as clients see it. Sixty-eight bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    /// zxid of the creation.
    pub czxid: i64,
    /// zxid of the last change of the data.
    pub mzxid: i64,
    /// Wall-clock ms of the creation.
    pub ctime: i64,
    /// Wall-clock ms of the last change of the data.
    pub mtime: i64,
    /// Changes of the data.
    pub version: i32,
    /// Creations plus deletions of children.
    pub cversion: i32,
    /// Changes of the ACL.
    pub aversion: i32,
    /// The owning session, 0 for everything but ephemerals.
    pub ephemeral_owner: i64,
    /// Bytes of data; 0 for null.
    pub data_length: i32,
    /// Children now.
    pub num_children: i32,
    /// zxid of the last creation or deletion of a child.
    pub pzxid: i64,
}

impl Stat {
    /// Bytes of the encoded form.
    pub const LEN: usize = 68;

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64(self.czxid);
        out.put_i64(self.mzxid);
        out.put_i64(self.ctime);
        out.put_i64(self.mtime);
        out.put_i32(self.version);
        out.put_i32(self.cversion);
        out.put_i32(self.aversion);
        out.put_i64(self.ephemeral_owner);
        out.put_i32(self.data_length);
        out.put_i32(self.num_children);
        out.put_i64(self.pzxid);
    }

    /// Reads the encoded form.
    pub fn decode(r: &mut Reader<'_>) -> Result<Stat, DecodeError> {
        Ok(Stat {
            czxid: r.i64()?,
            mzxid: r.i64()?,
            ctime: r.i64()?,
            mtime: r.i64()?,
            version: r.i32()?,
            cversion: r.i32()?,
            aversion: r.i32()?,
            ephemeral_owner: r.i64()?,
            data_length: r.i32()?,
            num_children: r.i32()?,
            pzxid: r.i64()?,
        })
    }
}

/// What the stored owner of a znode means (semantics, section 5.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// An ordinary znode.
    Persistent,
    /// An ephemeral of this session.
    Session(i64),
    /// A container: removed once it is empty and has had a child.
    Container,
    /// A TTL znode: removed this many milliseconds after its last change when it has no children.
    Ttl(i64),
}

impl Owner {
    /// The stored owner of every container.
    pub const CONTAINER: i64 = i64::MIN;
    /// The top byte that marks the owner of a TTL znode.
    const TTL_MARK: i64 = 0xff_i64 << 56;
    /// The largest time to live in milliseconds: 40 bits.
    pub const TTL_MAX_MS: i64 = 0xff_ffff_ffff;

    /// Reads a stored owner. TTL marks mean TTL only while extended types are enabled; otherwise they are
    /// large session ids.
    pub const fn of(stored: i64, extended_types: bool) -> Owner {
        if stored == 0 {
            Owner::Persistent
        } else if stored == Owner::CONTAINER {
            Owner::Container
        } else if extended_types && (stored >> 56) as u8 == 0xff && (stored >> 40) & 0xffff == 0 {
            Owner::Ttl(stored & Owner::TTL_MAX_MS)
        } else {
            Owner::Session(stored)
        }
    }

    /// The stored form. A TTL is cut to its 40 bits; callers have checked `1..=TTL_MAX_MS`.
    pub const fn stored(self) -> i64 {
        match self {
            Owner::Persistent => 0,
            Owner::Session(id) => id,
            Owner::Container => Owner::CONTAINER,
            Owner::Ttl(ms) => Owner::TTL_MARK | (ms & Owner::TTL_MAX_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_survive_their_stored_form() {
        for o in [
            Owner::Persistent,
            Owner::Container,
            Owner::Session(0x1000_0000_0000_0001),
            Owner::Ttl(1),
            Owner::Ttl(Owner::TTL_MAX_MS),
        ] {
            assert_eq!(Owner::of(o.stored(), true), o);
        }
        let ttl = Owner::Ttl(5).stored();
        assert_eq!(Owner::of(ttl, false), Owner::Session(ttl));
        // ZOOKEEPER-2901: ids of servers above 127 are negative, yet sessions.
        for server in 1..=254_i64 {
            let id = (server << 56) | 0x0123_4567_89ab;
            assert_eq!(Owner::of(id, true), Owner::Session(id), "server {server}");
        }
    }

    #[test]
    fn clients_see_creations_plus_deletions_and_no_markers() {
        let s = StatPersisted { cversion: 5, ephemeral_owner: Owner::CONTAINER, ..Default::default() };
        let seen = s.client_view(3, 2, true);
        assert_eq!((seen.cversion, seen.ephemeral_owner, seen.data_length, seen.num_children), (8, 0, 3, 2));
    }

    #[test]
    fn encoded_lengths_are_the_documented_ones() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        StatPersisted::default().encode(&mut a);
        Stat::default().encode(&mut b);
        assert_eq!((a.len(), b.len()), (StatPersisted::LEN, Stat::LEN));
        assert_eq!(Stat::decode(&mut Reader::new(&b)), Ok(Stat::default()));
    }
}
