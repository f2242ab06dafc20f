//! The table of access control lists: a znode holds a number, each distinct list is held once.
//!
//! Numbers are what snapshots refer to. `world:anyone` with all permissions has a number of its own and stands
//! in no table. References are counted, one per znode, and an entry without any goes at once. Its number may
//! then be given to another list while a walk is under way; a znode that refers to it got that reference by a
//! txn after the start of the walk, and replay sets it again.

use super::hash::PathHash;
use crate::Identity;
use crate::acl;
use crate::sync::RwLock;
use hashbrown::HashTable;
use proto::acl::{AclBytes, OPEN, perms};
use proto::state::{AclRecord, OPEN_ACL};

/// The number of a list within this tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AclId(u32);

impl AclId {
    /// `world:anyone` with all permissions.
    pub(crate) const OPEN: AclId = AclId(0);
    /// A list that an import did not hold; lets nobody in until replay names the right one.
    pub(crate) const UNKNOWN: AclId = AclId(u32::MAX);

    fn entry(n: usize) -> AclId {
        let n = u32::try_from(n + 1).ok().filter(|&n| n < u32::MAX);
        AclId(n.expect("memory ends long before four billion lists"))
    }

    fn index(self) -> Option<usize> {
        (self != AclId::OPEN && self != AclId::UNKNOWN).then(|| self.0 as usize - 1)
    }

    /// As a snapshot refers to it.
    pub(crate) fn wire(self) -> i64 {
        if self == AclId::OPEN { OPEN_ACL } else { i64::from(self.0) }
    }
}

/// The list of a znode whose list is unknown: one entry without permissions.
pub(crate) const NOBODY: &[u8] =
    b"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05world\x00\x00\x00\x06anyone";

#[derive(Debug)]
pub(crate) struct AclTable {
    hash: PathHash,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Option<Entry>>,
    free: Vec<AclId>,
    by_bytes: HashTable<AclId>,
}

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    /// Znodes that refer to it.
    references: u64,
    /// `world:anyone` may read.
    world_reads: bool,
}

impl Inner {
    fn entry(&self, id: AclId) -> Option<&Entry> {
        self.entries.get(id.index()?)?.as_ref()
    }
}

impl AclTable {
    pub(crate) fn new(hash: PathHash) -> AclTable {
        AclTable { hash, inner: RwLock::default() }
    }

    /// The number of a list, with one reference more.
    pub(crate) fn intern(&self, list: AclBytes<'_>) -> AclId {
        if list == OPEN {
            return AclId::OPEN;
        }
        self.add(list, 1)
    }

    /// The number of a list that no znode refers to yet.
    pub(crate) fn announce(&self, list: AclBytes<'_>) -> AclId {
        if list == OPEN { AclId::OPEN } else { self.add(list, 0) }
    }

    fn add(&self, list: AclBytes<'_>, references: u64) -> AclId {
        let bytes = list.as_bytes();
        let h = self.hash.of(bytes);
        let inner = &mut *self.inner.write();
        let known = inner.by_bytes.find(h, |&id| holds(&inner.entries, id, bytes)).copied();
        if let Some(id) = known {
            let at = id.index().expect("only entries are indexed");
            inner.entries[at].as_mut().expect("indexed").references += references;
            return id;
        }
        let world_reads = list.entries().any(|e| {
            e.perms & perms::READ != 0
                && e.scheme.as_deref() == Some("world")
                && e.id.as_deref() == Some("anyone")
        });
        let entry = Some(Entry { bytes: bytes.into(), references, world_reads });
        let id = match inner.free.pop() {
            Some(id) => {
                inner.entries[id.index().expect("only entries are freed")] = entry;
                id
            }
            None => {
                inner.entries.push(entry);
                AclId::entry(inner.entries.len() - 1)
            }
        };
        let entries = &inner.entries;
        inner.by_bytes.insert_unique(h, id, |&id| {
            let entry = id.index().and_then(|at| entries[at].as_ref());
            self.hash.of(&entry.expect("indexed").bytes)
        });
        id
    }

    /// So many znodes more refer to a list whose number is known.
    pub(crate) fn refer(&self, id: AclId, znodes: u64) {
        let Some(at) = id.index() else { return };
        if let Some(Some(entry)) = self.inner.write().entries.get_mut(at) {
            entry.references += znodes;
        }
    }

    /// One znode less refers to the list.
    pub(crate) fn release(&self, id: AclId) {
        let Some(at) = id.index() else { return };
        let inner = &mut *self.inner.write();
        let Some(Some(entry)) = inner.entries.get_mut(at) else { return };
        entry.references = entry.references.saturating_sub(1);
        if entry.references == 0 {
            inner.drop_entry(&self.hash, id, at);
        }
    }

    /// Drops every list that no znode refers to, as after an import.
    pub(crate) fn purge(&self) {
        let inner = &mut *self.inner.write();
        for at in 0..inner.entries.len() {
            if inner.entries[at].as_ref().is_some_and(|e| e.references == 0) {
                inner.drop_entry(&self.hash, AclId::entry(at), at);
            }
        }
    }

    pub(crate) fn clear(&self) {
        *self.inner.write() = Inner::default();
    }

    /// Whether `perm` is granted to `who`.
    pub(crate) fn allows(&self, id: AclId, perm: i32, who: &Identity) -> bool {
        if id == AclId::OPEN || who.is_super() {
            return true;
        }
        let inner = self.inner.read();
        match inner.entry(id) {
            Some(e) => {
                (perm & perms::READ != 0 && e.world_reads) || acl::allows(acl::fixed(&e.bytes), perm, who)
            }
            None => false,
        }
    }

    /// Whether everybody may read.
    pub(crate) fn world_reads(&self, id: AclId) -> bool {
        id == AclId::OPEN || self.inner.read().entry(id).is_some_and(|e| e.world_reads)
    }

    /// Shows a list.
    pub(crate) fn with<R>(&self, id: AclId, look: impl FnOnce(AclBytes<'_>) -> R) -> R {
        if id == AclId::OPEN {
            return look(OPEN);
        }
        let inner = self.inner.read();
        look(acl::fixed(inner.entry(id).map_or(NOBODY, |e| &e.bytes)))
    }

    /// Appends entries from number `at` on until `out` holds `max_bytes` more; returns where to go on, if
    /// anywhere, and the number of entries.
    pub(crate) fn export(&self, mut at: usize, max_bytes: usize, out: &mut Vec<u8>) -> (Option<usize>, u64) {
        let inner = self.inner.read();
        let (limit, mut count) = (out.len() + max_bytes, 0);
        while at < inner.entries.len() && out.len() < limit {
            if let Some(e) = &inner.entries[at] {
                AclRecord { id: AclId::entry(at).wire(), acl: acl::fixed(&e.bytes) }.encode(out);
                count += 1;
            }
            at += 1;
        }
        ((at < inner.entries.len()).then_some(at), count)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.inner.read().by_bytes.len()
    }
}

impl Inner {
    fn drop_entry(&mut self, hash: &PathHash, id: AclId, at: usize) {
        let entry = self.entries[at].take().expect("the caller has seen it");
        if let Ok(found) = self.by_bytes.find_entry(hash.of(&entry.bytes), |&other| other == id) {
            found.remove();
        }
        self.free.push(id);
    }
}

fn holds(entries: &[Option<Entry>], id: AclId, bytes: &[u8]) -> bool {
    id.index().and_then(|at| entries[at].as_ref()).is_some_and(|e| *e.bytes == *bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::acl::{Id, WORLD_READ};

    fn list(perms: i32, scheme: &str, id: &str) -> Vec<u8> {
        let mut out = Vec::new();
        proto::acl::encode([(perms, &Id::new(scheme, id))].into_iter(), &mut out);
        out
    }

    #[test]
    fn equal_lists_share_a_number_until_the_last_reference_goes() {
        let table = AclTable::new(PathHash::new(1));
        assert_eq!(table.intern(OPEN), AclId::OPEN);
        let a = table.intern(WORLD_READ);
        assert_eq!(table.intern(WORLD_READ), a);
        let bytes = list(31, "digest", "u:h");
        let b = table.intern(acl::fixed(&bytes));
        assert_ne!(a, b);
        assert_eq!((a.wire(), b.wire(), AclId::OPEN.wire(), table.len()), (1, 2, -1, 2));
        table.release(a);
        table.with(a, |l| assert_eq!(l, WORLD_READ));
        table.release(a);
        assert_eq!(table.len(), 1);
        table.with(a, |l| assert_eq!(l.as_bytes(), NOBODY));
        let c = table.intern(acl::fixed(&list(1, "ip", "10.0.0.1")));
        assert_eq!(c, a, "the number is free again");
        let mut out = Vec::new();
        assert_eq!(table.export(0, 1000, &mut out), (None, 2));
        let unused = table.announce(acl::fixed(&list(2, "ip", "10.0.0.1")));
        table.refer(b, 1);
        table.purge();
        assert_eq!(table.len(), 2);
        table.with(unused, |l| assert_eq!(l.as_bytes(), NOBODY));
    }

    #[test]
    fn permissions() {
        let table = AclTable::new(PathHash::new(1));
        let user = Identity::new(vec![Id::new("digest", "u:h")]);
        let other = Identity::new(vec![]);
        let boss = Identity::new(vec![Id::new("super", "")]);
        let read = table.intern(WORLD_READ);
        let own = table.intern(acl::fixed(&list(31, "digest", "u:h")));
        for (id, perm, who, want) in [
            (AclId::OPEN, perms::ADMIN, &other, true),
            (read, perms::READ, &other, true),
            (read, perms::READ | perms::ADMIN, &other, true),
            (read, perms::WRITE, &other, false),
            (own, perms::WRITE, &user, true),
            (own, perms::READ, &other, false),
            (own, perms::READ, &boss, true),
            (AclId::UNKNOWN, perms::READ, &user, false),
            (AclId::UNKNOWN, perms::READ, &boss, true),
        ] {
            assert_eq!(table.allows(id, perm, who), want, "{id:?} {perm} {who:?}");
        }
        assert!(table.world_reads(read) && table.world_reads(AclId::OPEN) && !table.world_reads(own));
    }
}
