//! A shard: the znodes whose paths hash into it, and the watches of such paths.

use super::hash::PathHash;
use super::node::{Node, Slots};
use crate::sync::Mutex;
use crate::watch::ShardWatches;
use hashbrown::HashTable;

/// The content of one shard. On its own cache lines, so that neighbours' locks don't disturb each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Shard {
    index: HashTable<u32>,
    pub(crate) slots: Slots,
    /// Readers register watches while they hold the shard for reading; the applier, which holds it for writing,
    /// reaches in without locking.
    pub(crate) watches: Mutex<ShardWatches>,
}

impl Shard {
    pub(crate) fn slot_of(&self, h: u64, path: &[u8]) -> Option<u32> {
        let holds = |&slot: &u32| self.slots.get(slot).is_some_and(|n| n.path() == path);
        self.index.find(h, holds).copied()
    }

    pub(crate) fn find(&self, h: u64, path: &[u8]) -> Option<&Node> {
        self.slots.get(self.slot_of(h, path)?)
    }

    pub(crate) fn find_mut(&mut self, h: u64, path: &[u8]) -> Option<&mut Node> {
        let slot = self.slot_of(h, path)?;
        self.slots.get_mut(slot)
    }

    /// Adds a znode whose path is not there.
    pub(crate) fn add(&mut self, hash: &PathHash, h: u64, node: Node) {
        let slot = self.slots.add(node);
        let slots = &self.slots;
        self.index.insert_unique(h, slot, |&slot| {
            let node = slots.get(slot).expect("the index holds slots in use");
            hash.of(node.path())
        });
    }

    pub(crate) fn remove(&mut self, h: u64, path: &[u8]) -> Option<Node> {
        let slot = self.slot_of(h, path)?;
        if let Ok(found) = self.index.find_entry(h, |&s| s == slot) {
            found.remove();
        }
        self.slots.take(slot)
    }

    /// Drops every znode; the watches stay, they belong to connections.
    pub(crate) fn clear(&mut self) {
        self.index = HashTable::new();
        self.slots = Slots::default();
    }
}
