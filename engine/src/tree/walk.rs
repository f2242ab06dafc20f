//! The walk: the whole state as records, while writes go on.
//!
//! Sessions, then ACLs, then znodes, shard by shard and slot by slot; a lock is held for a slice of some KiB.
//! What it yields is of no single moment: it contains every txn up to [`Walk::start`], none behind
//! [`Walk::end`], and some of those between. Replaying the log from the start over it gives the tree exactly,
//! because every txn in it is idempotent (see [`super::Applier::apply`]).
//!
//! A znode that is removed and made again while the walk is under way may appear twice, or appear without its
//! parent; both come right in replay.

use super::Tree;
use super::node::Node;
use crate::limits;
use proto::jute::Put;
use proto::state::SessionRecord;
use proto::{SessionId, Zxid};
use std::ops::Bound;

/// What the records of a part are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkKind {
    /// [`proto::state::SessionRecord`].
    Sessions,
    /// [`proto::state::AclRecord`].
    Acls,
    /// [`proto::state::NodeRecord`].
    Nodes,
    /// Nothing is left.
    Done,
}

/// One part of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkPart {
    /// What was appended.
    pub kind: WalkKind,
    /// Records that were appended; may be zero.
    pub count: u64,
}

/// A walk over the state of a tree.
#[derive(Debug)]
pub struct Walk {
    start: Zxid,
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// Behind this session.
    Sessions(Option<SessionId>),
    /// At this number of the table.
    Acls(usize),
    /// At this slot of this shard.
    Nodes {
        shard: usize,
        slot: u32,
    },
    Done {
        end: Zxid,
        digest: i64,
    },
}

impl Tree {
    /// Starts a walk.
    pub fn walk(&self) -> Walk {
        Walk { start: self.applied(), at: At::Sessions(None) }
    }
}

impl Walk {
    /// Every txn up to this zxid is contained.
    pub fn start(&self) -> Zxid {
        self.start
    }

    /// After `Done`: no txn behind this zxid is contained; with the digest of the tree there.
    pub fn end(&self) -> Option<(Zxid, i64)> {
        match self.at {
            At::Done { end, digest } => Some((end, digest)),
            At::Sessions(_) | At::Acls(_) | At::Nodes { .. } => None,
        }
    }

    /// Appends records of one kind, at least `max_bytes` of them unless the kind ends, and not much more.
    pub fn next(&mut self, tree: &Tree, max_bytes: usize, out: &mut Vec<u8>) -> WalkPart {
        let limit = out.len() + max_bytes;
        let mut count = 0;
        match self.at {
            At::Sessions(mut after) => {
                let sessions = tree.sessions.read();
                self.at = At::Acls(0);
                let rest = after.map_or(Bound::Unbounded, Bound::Excluded);
                for (&session, &timeout_ms) in sessions.range((rest, Bound::Unbounded)) {
                    if out.len() >= limit {
                        self.at = At::Sessions(after);
                        break;
                    }
                    SessionRecord { session, timeout_ms }.encode(out);
                    after = Some(session);
                    count += 1;
                }
                WalkPart { kind: WalkKind::Sessions, count }
            }
            At::Acls(from) => {
                let (rest, count) = tree.acls.export(from, max_bytes, out);
                self.at = rest.map_or(At::Nodes { shard: 0, slot: 0 }, At::Acls);
                WalkPart { kind: WalkKind::Acls, count }
            }
            At::Nodes { mut shard, mut slot } => {
                while shard < tree.shards.len() && out.len() < limit {
                    let (next, n) = slice(tree, shard, slot, limit, out);
                    count += n;
                    (shard, slot) = next.map_or((shard + 1, 0), |slot| (shard, slot));
                }
                self.at = if shard < tree.shards.len() {
                    At::Nodes { shard, slot }
                } else {
                    // Whatever was seen was published before its lock was given back.
                    let (end, digest) = tree.applied_digest();
                    At::Done { end, digest }
                };
                WalkPart { kind: WalkKind::Nodes, count }
            }
            At::Done { .. } => WalkPart { kind: WalkKind::Done, count },
        }
    }
}

impl Tree {
    /// Gives every znode, encoded as [`proto::state::NodeRecord`], to `take`, each after its parent: as Apache's servers want
    /// them. For a tree that nobody changes meanwhile; `take` runs under the lock of a shard.
    pub fn each_parent_first(&self, take: &mut dyn FnMut(&[u8])) {
        let mut record = Vec::new();
        self.each_below("/", &mut |node| {
            record.clear();
            put_node(node, &mut record);
            take(&record);
        });
    }
}

fn put_node(node: &Node, out: &mut Vec<u8>) {
    let path = node.path();
    out.put_buffer(Some(if path == b"/" { b"" } else { path }));
    out.put_buffer(node.data());
    out.put_i64(node.acl.wire());
    node.stat().encode(out);
}

/// Encodes znodes of one shard under one lock; returns the slot to go on at, if the shard has more.
fn slice(tree: &Tree, shard: usize, from: u32, limit: usize, out: &mut Vec<u8>) -> (Option<u32>, u64) {
    let shard = tree.shards[shard].read();
    let limit = limit.min(out.len() + limits::WALK_SLICE_BYTES);
    let mut count = 0;
    // Empty slots cost a little too.
    let last = shard.slots.end().min(from.saturating_add(limits::WALK_SLICE_SLOTS));
    for slot in from..last {
        if out.len() >= limit {
            return (Some(slot), count);
        }
        let Some(node) = shard.slots.get(slot) else { continue };
        put_node(node, out);
        count += 1;
    }
    ((last < shard.slots.end()).then_some(last), count)
}
