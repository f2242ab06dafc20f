//! The znodes that prepared, not yet applied txns will have changed: what the tree will look like, where it will
//! look different (Apache: `outstandingChanges`).

use crate::limits::PREP_PATH_KEPT_MAX;
use crate::tree::hash::PathHash;
use hashbrown::HashTable;
use proto::{StatPersisted, Zxid};
use std::collections::VecDeque;
use std::sync::Arc;

/// A znode as the next request will see it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub stat: StatPersisted,
    /// Children, an `i32` on the wire.
    pub children: u32,
    pub data_len: u32,
    pub acl: Acl,
    /// Its contribution to the digest of the tree.
    pub digest: u32,
}

/// The list of a znode: nearly always the open one.
#[derive(Clone, Debug)]
pub(super) enum Acl {
    Open,
    Listed(Arc<[u8]>),
}

/// The latest in-flight state of each path, and which zxid put it there.
#[derive(Debug)]
pub(super) struct Outstanding {
    hash: PathHash,
    /// Stable slots; a freed one keeps its path's allocation for the next.
    entries: Vec<Entry>,
    free: Vec<u32>,
    index: HashTable<u32>,
    /// Each (zxid, slot) once, in zxid order. A slot is freed when the entry of its last change is popped.
    order: VecDeque<(Zxid, u32)>,
    /// How to undo the multi that is being prepared, newest last. `None` outside of a multi.
    undo: Option<Vec<Undo>>,
}

#[derive(Debug)]
struct Entry {
    path: String,
    hash: u64,
    zxid: Zxid,
    /// `None`: deleted.
    node: Option<Node>,
}

#[derive(Debug)]
struct Undo {
    slot: u32,
    /// `None`: the path was not in flight.
    before: Option<(Zxid, Option<Node>)>,
}

impl Outstanding {
    /// Nothing in flight. `seed` differs from process to process, so that nobody can prepare paths that collide.
    pub fn new(seed: u64) -> Outstanding {
        Outstanding {
            hash: PathHash::new(seed),
            entries: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            order: VecDeque::new(),
            undo: None,
        }
    }

    /// What is in flight for `path`: nothing (ask the tree), a deletion, or a znode.
    pub fn get(&self, path: &str) -> Option<Option<&Node>> {
        let slot = self.slot(self.hash.of(path.as_bytes()), path)?;
        Some(self.entries[slot as usize].node.as_ref())
    }

    /// Notes that `zxid` leaves `path` as `node`, `None` for deleted.
    pub fn set(&mut self, path: &str, zxid: Zxid, node: Option<Node>) {
        let hash = self.hash.of(path.as_bytes());
        if let Some(slot) = self.slot(hash, path) {
            let entry = &mut self.entries[slot as usize];
            let before = (entry.zxid, std::mem::replace(&mut entry.node, node));
            entry.zxid = zxid;
            if before.0 != zxid {
                self.order.push_back((zxid, slot));
            }
            if let Some(undo) = &mut self.undo {
                undo.push(Undo { slot, before: Some(before) });
            }
            return;
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                let entry = &mut self.entries[slot as usize];
                entry.path.push_str(path);
                (entry.hash, entry.zxid, entry.node) = (hash, zxid, node);
                slot
            }
            None => {
                let slot = u32::try_from(self.entries.len()).expect("each in-flight change takes 100 bytes");
                self.entries.push(Entry { path: path.into(), hash, zxid, node });
                slot
            }
        };
        let entries = &self.entries;
        self.index.insert_unique(hash, slot, |&s| entries[s as usize].hash);
        self.order.push_back((zxid, slot));
        if let Some(undo) = &mut self.undo {
            undo.push(Undo { slot, before: None });
        }
    }

    /// Forgets what `upto` and its predecessors changed last: the tree has it.
    pub fn applied(&mut self, upto: Zxid) {
        while let Some(&(zxid, slot)) = self.order.front().filter(|&&(zxid, _)| zxid <= upto) {
            self.order.pop_front();
            if self.entries[slot as usize].zxid == zxid {
                self.forget(slot);
            }
        }
    }

    /// From now on changes can be undone.
    pub fn begin(&mut self) {
        debug_assert!(self.undo.is_none());
        self.undo = Some(Vec::new());
    }

    /// The changes since [`Outstanding::begin`] stand.
    pub fn keep(&mut self) {
        self.undo = None;
    }

    /// Undoes the changes since [`Outstanding::begin`], all of them by `zxid`.
    pub fn roll_back(&mut self, zxid: Zxid) {
        for Undo { slot, before } in self.undo.take().into_iter().flatten().rev() {
            match before {
                Some((zxid, node)) => {
                    let entry = &mut self.entries[slot as usize];
                    (entry.zxid, entry.node) = (zxid, node);
                }
                None => self.forget(slot),
            }
        }
        while self.order.back().is_some_and(|&(at, _)| at == zxid) {
            self.order.pop_back();
        }
    }

    /// Every path in flight that will exist, with its znode, in no particular order.
    pub fn present(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.entries.iter().filter_map(|e| Some((e.path.as_str(), e.node.as_ref()?)))
    }

    /// Paths in flight.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    fn slot(&self, hash: u64, path: &str) -> Option<u32> {
        self.index.find(hash, |&s| self.entries[s as usize].path == path).copied()
    }

    fn forget(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        entry.node = None;
        if let Ok(found) = self.index.find_entry(entry.hash, |&s| s == slot) {
            found.remove();
        }
        if entry.path.capacity() > PREP_PATH_KEPT_MAX {
            entry.path = String::new();
        } else {
            entry.path.clear();
        }
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn z(n: u64) -> Zxid {
        Zxid::from_u64(n)
    }

    fn node(version: i32) -> Option<Node> {
        let stat = StatPersisted { version, ..Default::default() };
        Some(Node { stat, children: 0, data_len: 0, acl: Acl::Open, digest: 0 })
    }

    /// The version of a path in flight; −1 for deleted.
    fn version(o: &Outstanding, path: &str) -> Option<i32> {
        o.get(path).map(|n| n.map_or(-1, |n| n.stat.version))
    }

    #[test]
    fn the_latest_change_is_seen_until_it_is_applied() {
        let mut o = Outstanding::new(7);
        o.set("/a", z(1), node(1));
        o.set("/a", z(2), node(2));
        o.set("/b", z(2), None);
        o.applied(z(1));
        assert_eq!((version(&o, "/a"), version(&o, "/b")), (Some(2), Some(-1)));
        o.applied(z(2));
        assert_eq!((version(&o, "/a"), version(&o, "/b"), o.len()), (None, None, 0));
        // A slot that is used again starts afresh.
        o.set("/c", z(3), node(3));
        assert_eq!((version(&o, "/c"), version(&o, "/a"), version(&o, "/b")), (Some(3), None, None));
        assert_eq!(o.present().count(), 1);
    }

    #[test]
    fn a_rolled_back_multi_leaves_no_trace() {
        let mut o = Outstanding::new(7);
        o.set("/a", z(1), node(1));
        o.begin();
        o.set("/a", z(2), node(5));
        o.set("/new", z(2), node(6));
        o.set("/new", z(2), None);
        o.set("/a", z(2), None);
        o.roll_back(z(2));
        assert_eq!((version(&o, "/a"), version(&o, "/new"), o.len()), (Some(1), None, 1));
        o.begin();
        o.set("/a", z(3), node(7));
        o.set("/a", z(3), node(8));
        o.keep();
        o.applied(z(1));
        assert_eq!(version(&o, "/a"), Some(8));
        o.applied(z(3));
        assert_eq!(o.len(), 0);
        assert!(o.order.is_empty());
    }

    #[test]
    fn long_paths_are_not_kept() {
        let mut o = Outstanding::new(7);
        let long = "/x".repeat(PREP_PATH_KEPT_MAX);
        o.set(&long, z(1), None);
        o.applied(z(1));
        assert_eq!(o.entries[0].path.capacity(), 0);
    }
}
