//! A shard: the znodes whose paths hash into it, and the watches of such paths.

use super::node::{Node, Slots};
use crate::sync::Mutex;
use crate::watch::ShardWatches;
use hashbrown::HashTable;

/// The content of one shard. On its own cache lines, so that neighbours' locks don't disturb each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Shard {
    index: HashTable<Place>,
    pub(crate) slots: Slots,
    /// Readers register watches while they hold the shard for reading; the applier, which holds it for writing,
    /// reaches in without locking.
    pub(crate) watches: Mutex<ShardWatches>,
}

/// Where a znode lies, with enough of its hash to move the entry without looking at the znode: growing the index
/// of a thousand entries takes microseconds, whatever the caches hold.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    slot: u32,
}

impl Place {
    /// The low half of the hash chooses the place; the shard was chosen by the high half.
    fn new(h: u64, slot: u32) -> Place {
        Place { hash: h as u32, slot }
    }

    /// The hash within the index: its low and its top bits both depend on all that is kept.
    fn spread(self) -> u64 {
        u64::from(self.hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Shard {
    pub(crate) fn slot_of(&self, h: u64, path: &[u8]) -> Option<u32> {
        let wanted = Place::new(h, 0);
        let holds =
            |at: &Place| at.hash == wanted.hash && self.slots.get(at.slot).is_some_and(|n| n.path() == path);
        self.index.find(wanted.spread(), holds).map(|at| at.slot)
    }

    pub(crate) fn find(&self, h: u64, path: &[u8]) -> Option<&Node> {
        self.slots.get(self.slot_of(h, path)?)
    }

    pub(crate) fn find_mut(&mut self, h: u64, path: &[u8]) -> Option<&mut Node> {
        let slot = self.slot_of(h, path)?;
        self.slots.get_mut(slot)
    }

    /// Adds a znode whose path is not there.
    pub(crate) fn add(&mut self, h: u64, node: Node) {
        let place = Place::new(h, self.slots.add(node));
        self.index.insert_unique(place.spread(), place, |p| p.spread());
    }

    pub(crate) fn remove(&mut self, h: u64, path: &[u8]) -> Option<Node> {
        let place = Place::new(h, self.slot_of(h, path)?);
        if let Ok(found) = self.index.find_entry(place.spread(), |p| p.slot == place.slot) {
            found.remove();
        }
        self.slots.take(place.slot)
    }

    /// Drops every znode; the watches stay, they belong to connections.
    pub(crate) fn clear(&mut self) {
        self.index = HashTable::new();
        self.slots = Slots::default();
    }
}
