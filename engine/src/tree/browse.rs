//! Looking at znodes for people: a page of children, a znode with a bounded part of its value.
//!
//! What may be seen is what `getChildren`, `getData` and `getAcl` would show to the same identity.

use super::{Tree, canonical};
use crate::acl::{self, Identity};
use proto::acl::{AclBytes, perms};
use proto::{Code, Stat};
use std::collections::BinaryHeap;

/// A part of the children of a znode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChildPage {
    /// Names in order, all behind the one that was asked for.
    pub names: Vec<Box<str>>,
    /// Whether there are more behind them.
    pub more: bool,
    /// Children in all.
    pub total: usize,
}

/// A znode as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodePage {
    /// As clients get it.
    pub stat: Stat,
    /// The encoded list; hashes are hidden from whoever may not administrate. `None`: it may not be read.
    pub acl: Option<Vec<u8>>,
    /// The beginning of the value. `None`: it may not be read.
    pub data: Option<Vec<u8>>,
}

impl Tree {
    /// At most `limit` children of `path` that stand behind `after` and begin with `prefix`. Looks at every name, under
    /// the lock of a shard as `getChildren` does, and copies few.
    ///
    /// # Errors
    /// `NoNode`, `NoAuth`.
    pub fn child_page(
        &self,
        path: &str,
        who: &Identity,
        after: &str,
        prefix: &str,
        limit: usize,
    ) -> Result<ChildPage, Code> {
        let path = canonical(path);
        let h = self.hash.of(path.as_bytes());
        let shard = self.shard(h).read();
        let node = shard.find(h, path.as_bytes()).ok_or(Code::NoNode)?;
        if !self.allows(node.acl, perms::READ, who) {
            return Err(Code::NoAuth);
        }
        // The smallest ones: the largest of them stands on top and goes first.
        let mut smallest: BinaryHeap<&[u8]> = BinaryHeap::with_capacity(limit + 1);
        let mut more = false;
        for name in node.children.iter().flat_map(|c| c.iter()) {
            if name <= after.as_bytes() && !after.is_empty() || !name.starts_with(prefix.as_bytes()) {
                continue;
            }
            smallest.push(name);
            if smallest.len() > limit {
                smallest.pop();
                more = true;
            }
        }
        let names =
            smallest.into_sorted_vec().into_iter().map(|n| String::from_utf8_lossy(n).into()).collect();
        Ok(ChildPage { names, more, total: node.child_count() })
    }

    /// A znode, with at most `max_bytes` of its value.
    ///
    /// # Errors
    /// `NoNode`.
    pub fn node_page(&self, path: &str, who: &Identity, max_bytes: usize) -> Result<NodePage, Code> {
        let path = canonical(path);
        let h = self.hash.of(path.as_bytes());
        let shard = self.shard(h).read();
        let node = shard.find(h, path.as_bytes()).ok_or(Code::NoNode)?;
        let plain = self.allows(node.acl, perms::ADMIN, who);
        let readable = self.allows(node.acl, perms::READ, who);
        let acl = (plain || readable).then(|| {
            self.acls.with(node.acl, |list: AclBytes<'_>| {
                if plain { list.as_bytes().to_vec() } else { acl::masked(list).into_owned() }
            })
        });
        let value = node.value();
        let data = readable.then(|| value[..value.len().min(max_bytes)].to_vec());
        Ok(NodePage { stat: self.stat_of(node), acl, data })
    }
}
