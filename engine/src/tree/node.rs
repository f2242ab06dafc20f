//! A znode, and the slots that znodes live in.

use super::acls::AclId;
use super::names::NameSet;
use crate::digest;
use proto::StatPersisted;

/// Set in `Node::path_len` when the value is null rather than empty.
const NULL: u32 = 1 << 31;

/// A znode: about a hundred bytes, one allocation for path and value, one more for the names of its children
/// once it has some.
#[derive(Debug)]
pub(crate) struct Node {
    /// The path, then the value.
    body: Box<[u8]>,
    path_len: u32,
    /// The CRC of path and value, the part of the digest that a change of metadata leaves alone.
    prefix_crc: u32,
    /// What this znode contributes to the digest of the tree now.
    digest: u32,
    pub(crate) acl: AclId,
    /// Changed through [`Node::restat`], so that the digest follows.
    stat: StatPersisted,
    pub(crate) children: Option<Box<NameSet>>,
}

impl Node {
    pub(crate) fn new(
        path: &[u8],
        data: Option<&[u8]>,
        acl: AclId,
        stat: StatPersisted,
        digests: bool,
    ) -> Node {
        let mut node =
            Node { body: Box::default(), path_len: 0, prefix_crc: 0, digest: 0, acl, stat, children: None };
        node.set_body(path, data, digests);
        node.restat(digests, |_| {});
        node
    }

    /// Leaves the digest as it was counted, for [`Node::restat`] to tell the difference.
    fn set_body(&mut self, path: &[u8], data: Option<&[u8]>, digests: bool) {
        let len = u32::try_from(path.len()).expect("a path comes in a frame far below 2 GiB");
        self.path_len = if data.is_none() { len | NULL } else { len };
        let data = data.unwrap_or_default();
        let mut body = Vec::with_capacity(path.len() + data.len());
        body.extend_from_slice(path);
        body.extend_from_slice(data);
        self.body = body.into_boxed_slice();
        if digests {
            self.prefix_crc = digest::prefix(&self.body, path.len());
        }
    }

    fn path_len(&self) -> usize {
        (self.path_len & !NULL) as usize
    }

    pub(crate) fn path(&self) -> &[u8] {
        &self.body[..self.path_len()]
    }

    /// The value; null reads as empty.
    pub(crate) fn value(&self) -> &[u8] {
        &self.body[self.path_len()..]
    }

    /// The value, null kept apart.
    pub(crate) fn data(&self) -> Option<&[u8]> {
        (self.path_len & NULL == 0).then(|| self.value())
    }

    pub(crate) fn stat(&self) -> &StatPersisted {
        &self.stat
    }

    pub(crate) fn digest(&self) -> u32 {
        self.digest
    }

    pub(crate) fn child_count(&self) -> usize {
        self.children.as_ref().map_or(0, |c| c.len())
    }

    /// Path and value in bytes, as `zk_approximate_data_size` counts them.
    pub(crate) fn size(&self) -> usize {
        self.body.len()
    }

    /// Replaces the value. The digest is brought up to date by the [`Node::restat`] that must follow.
    pub(crate) fn set_data(&mut self, data: Option<&[u8]>, digests: bool) {
        let at = self.path_len();
        if let Some(new) = data
            && self.body.len() == at + new.len()
        {
            self.body[at..].copy_from_slice(new);
            self.path_len &= !NULL;
            if digests {
                self.prefix_crc = digest::prefix(&self.body, at);
            }
            return;
        }
        let old = std::mem::take(&mut self.body);
        self.set_body(&old[..at], data, digests);
    }

    /// Changes the metadata and returns by how much the digest of the tree changes.
    pub(crate) fn restat(&mut self, digests: bool, change: impl FnOnce(&mut StatPersisted)) -> i64 {
        change(&mut self.stat);
        if !digests {
            return 0;
        }
        let before = self.digest;
        self.digest = digest::of_prefix(self.path(), self.prefix_crc, &self.stat);
        i64::from(self.digest).wrapping_sub(i64::from(before))
    }
}

/// Slots per chunk: a shard grows by a few KiB at a time and no znode ever moves.
const CHUNK: usize = 64;

/// The znodes of a shard. A slot keeps its number while its znode lives; free slots are used again.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    chunks: Vec<Vec<Option<Node>>>,
    free: Vec<u32>,
    /// Slots ever used.
    end: u32,
}

impl Slots {
    /// The slot behind the last one that was ever used.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Node> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.get(slot % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Node> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)?.as_mut()
    }

    pub(crate) fn add(&mut self, node: Node) -> u32 {
        if let Some(slot) = self.free.pop() {
            let at = slot as usize;
            self.chunks[at / CHUNK][at % CHUNK] = Some(node);
            return slot;
        }
        let slot = self.end;
        if (slot as usize).is_multiple_of(CHUNK) {
            // The first chunk of a shard grows as it must, for trees that stay small; the others come whole.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        self.chunks.last_mut().expect("a chunk was just pushed or is not full").push(Some(node));
        self.end = slot.checked_add(1).expect("memory ends long before four billion znodes of one shard");
        slot
    }

    pub(crate) fn take(&mut self, slot: u32) -> Option<Node> {
        let at = slot as usize;
        let node = self.chunks.get_mut(at / CHUNK)?.get_mut(at % CHUNK)?.take()?;
        self.free.push(slot);
        Some(node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.chunks.iter().flatten().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::node_digest;

    #[test]
    fn a_znode_is_small() {
        assert!(size_of::<Option<Node>>() <= 104, "{}", size_of::<Option<Node>>());
    }

    #[test]
    fn values_null_and_empty_and_the_digest() {
        let mut n = Node::new(b"/a", None, AclId::OPEN, StatPersisted::default(), true);
        assert_eq!((n.path(), n.data(), n.value()), (&b"/a"[..], None, &b""[..]));
        let mut sum = i64::from(n.digest());
        for data in [Some(&b""[..]), Some(b"xyz"), Some(b"uvw"), Some(b"longer"), None, None] {
            n.set_data(data, true);
            assert_eq!(i64::from(n.digest()), sum, "not counted before restat");
            sum += n.restat(true, |s| s.version += 1);
            assert_eq!(i64::from(n.digest()), sum);
            assert_eq!(n.data(), data);
            assert_eq!(n.digest(), node_digest("/a", data, n.stat()));
        }
    }

    #[test]
    fn slots_are_stable_and_used_again() {
        let mut slots = Slots::default();
        let node = |i: u32| {
            Node::new(format!("/{i}").as_bytes(), None, AclId::OPEN, StatPersisted::default(), false)
        };
        for i in 0..200 {
            assert_eq!(slots.add(node(i)), i);
        }
        assert_eq!(slots.take(70).unwrap().path(), b"/70");
        assert!(slots.take(70).is_none() && slots.get(70).is_none() && slots.get(999).is_none());
        assert_eq!(slots.get(71).unwrap().path(), b"/71");
        assert_eq!(slots.add(node(500)), 70);
        assert_eq!(slots.iter().count(), 200);
        assert_eq!(slots.end(), 200);
    }
}
