//! Reads: one lock, one reply (client protocol, sections 4 to 9).
//!
//! Each read holds the lock of what it looks at until its reply stands in the connection's outbox. So an event
//! of a change stands before any reply that shows the change, and a watch registered here misses nothing that
//! comes after the zxid of the reply.

use super::node::Node;
use super::shard::Shard;
use super::{Asker, Outbox, Tree, canonical};
use crate::acl;
use crate::limits::{CHILD_WEIGHT, MULTI_READ_BYTES_MAX};
use crate::sync::RwLockReadGuard;
use crate::watch::Modes;
use proto::acl::perms;
use proto::client::{
    AddWatchMode, EventType, MultiReadOp, OpCode, ReadOp, SetWatches, WatcherType, put_event_frame,
    put_multi_end, put_multi_error, put_multi_header, put_reply_header,
};
use proto::jute::{Put, begin_frame, end_frame};
use proto::{Code, Xid};

/// One read on its way: whom to answer and how.
struct Asked<'a> {
    tree: &'a Tree,
    xid: Xid,
    who: &'a Asker<'a>,
    out: &'a dyn Outbox,
}

impl Tree {
    /// Answers a read: appends the whole reply frame to `out`, and the catch-up events of setWatches before it.
    /// The head of the reply bears the last zxid applied, which is that of the state shown or a later one.
    pub fn read(&self, op: &ReadOp<'_>, xid: Xid, who: &Asker<'_>, out: &dyn Outbox) {
        let asked = Asked { tree: self, xid, who, out };
        match op {
            ReadOp::Exists { path, watch } => asked.exists(path, *watch),
            ReadOp::GetData { path, watch } => {
                asked.node(path, perms::READ, watch.then_some(Modes::DATA), &mut |node, body| {
                    body.put_buffer(node.data());
                    self.stat_of(node).encode(body);
                });
            }
            ReadOp::GetChildren { path, watch } => {
                asked.node(path, perms::READ, watch.then_some(Modes::CHILD), &mut put_children);
            }
            ReadOp::GetChildren2 { path, watch } => {
                asked.node(path, perms::READ, watch.then_some(Modes::CHILD), &mut |node, body| {
                    put_children(node, body);
                    self.stat_of(node).encode(body);
                });
            }
            ReadOp::GetAcl { path } => {
                asked.node(path, perms::READ | perms::ADMIN, None, &mut |node, body| {
                    let plain = self.allows(node.acl, perms::ADMIN, who.identity);
                    self.acls.with(node.acl, |list| {
                        let shown = if plain { list.as_bytes().into() } else { acl::masked(list) };
                        body.extend_from_slice(&shown);
                    });
                    self.stat_of(node).encode(body);
                });
            }
            ReadOp::Ping => Asked { xid: Xid::PING, ..asked }.empty(),
            ReadOp::CheckWatches { path, kind } => asked.check_watches(path, *kind),
            ReadOp::RemoveWatches { path, kind } => asked.remove_watches(path, *kind),
            ReadOp::MultiRead(ops) => asked.multi(ops),
            ReadOp::BadMultiRead => {
                asked.reply(Code::MarshallingError.wire(), &mut |body| put_multi_end(body));
            }
            ReadOp::SetWatches(lists) => asked.set_watches(lists),
            ReadOp::GetEphemerals { prefix } => asked.ephemerals(prefix),
            ReadOp::GetAllChildrenNumber { path } => asked.descendants(path),
            ReadOp::AddWatch { path, mode } => asked.add_watch(path, *mode),
            ReadOp::WhoAmI => asked.reply(0, &mut |body| {
                body.put_count(who.identity.ids().len());
                for id in who.identity.ids() {
                    body.put_str(&id.scheme);
                    body.put_str(acl::user_name(id));
                }
            }),
        }
    }

    /// Registers a watch; the caller holds the shard of `path`.
    fn watch(&self, shard: &Shard, h: u64, path: &str, who: &Asker<'_>, modes: Modes) {
        let changed = shard.watches.lock().add(&self.hash, h, path, who.conn, modes);
        if changed.edge {
            self.watched.add(who.conn, h);
        }
        self.watched.count(changed.counted);
    }
}

impl Asked<'_> {
    fn reply(&self, err: i32, body: &mut dyn FnMut(&mut Vec<u8>)) {
        let zxid = self.tree.applied();
        self.out.append(&mut |out| {
            let at = begin_frame(out);
            put_reply_header(out, self.xid, zxid, err);
            body(out);
            end_frame(out, at);
        });
    }

    fn empty(&self) {
        self.reply(0, &mut |_| {});
    }

    fn fail(&self, code: Code) {
        self.reply(code.wire(), &mut |_| {});
    }

    fn hash(&self, path: &str) -> u64 {
        self.tree.hash.of(path.as_bytes())
    }

    /// Reads one znode: NoNode, then NoAuth, then the watch, then the body.
    ///
    /// The empty path reads the root, but it is not where the root's events are looked for: a watch on it would
    /// never fire, in Apache either, and none is kept.
    fn node(&self, path: &str, perm: i32, watch: Option<Modes>, body: &mut dyn FnMut(&Node, &mut Vec<u8>)) {
        let (alias, path) = (path.is_empty(), canonical(path));
        let h = self.hash(path);
        let shard = self.tree.shard(h).read();
        let Some(node) = shard.find(h, path.as_bytes()) else { return self.fail(Code::NoNode) };
        if !self.tree.allows(node.acl, perm, self.who.identity) {
            return self.fail(Code::NoAuth);
        }
        if let Some(modes) = watch
            && !alias
        {
            self.tree.watch(&shard, h, path, self.who, modes);
        }
        self.reply(0, &mut |out| body(node, out));
    }

    fn exists(&self, path: &str, watch: bool) {
        if path.contains('\0') {
            return self.fail(Code::BadArguments);
        }
        let (alias, path) = (path.is_empty(), canonical(path));
        let h = self.hash(path);
        let shard = self.tree.shard(h).read();
        let node = shard.find(h, path.as_bytes());
        if let Some(node) = node
            && !self.tree.allows(node.acl, perms::READ, self.who.identity)
        {
            return self.fail(Code::NoAuth);
        }
        // Unlike all other reads this one watches what is not there.
        if watch && !alias {
            self.tree.watch(&shard, h, path, self.who, Modes::DATA);
        }
        match node {
            Some(node) => self.reply(0, &mut |body| self.tree.stat_of(node).encode(body)),
            None => self.fail(Code::NoNode),
        }
    }

    /// All of it under all of its locks: a multi is seen whole or not at all.
    fn multi(&self, ops: &[MultiReadOp<'_>]) {
        let path = |op: &'_ MultiReadOp<'_>| -> u64 {
            let (MultiReadOp::GetChildren(path) | MultiReadOp::GetData(path)) = op;
            self.hash(canonical(path))
        };
        let hashes: Vec<u64> = ops.iter().map(path).collect();
        let mut numbers: Vec<usize> = hashes.iter().map(|&h| self.tree.shard_number(h)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let held: Vec<(usize, RwLockReadGuard<'_, Shard>)> =
            numbers.into_iter().map(|n| (n, self.tree.shards[n].read())).collect();
        let find = |h: u64, path: &str| {
            let n = self.tree.shard_number(h);
            let at = held.binary_search_by_key(&n, |(n, _)| *n).expect("its lock was taken");
            let node = held[at].1.find(h, canonical(path).as_bytes()).ok_or(Code::NoNode)?;
            let may = self.tree.allows(node.acl, perms::READ, self.who.identity);
            may.then_some(node).ok_or(Code::NoAuth)
        };
        // One small frame may name a large znode thousands of times: what it asks for is weighed first.
        let weight = |op: &MultiReadOp<'_>, h: u64| match op {
            MultiReadOp::GetData(path) => find(h, path).ok().and_then(|n| n.data()).map_or(0, <[u8]>::len),
            MultiReadOp::GetChildren(path) => find(h, path).map_or(0, |n| n.child_count() * CHILD_WEIGHT),
        };
        let bytes: usize = ops.iter().zip(&hashes).map(|(op, &h)| weight(op, h)).sum();
        if bytes > MULTI_READ_BYTES_MAX {
            return self.reply(Code::MarshallingError.wire(), &mut put_multi_end);
        }
        self.reply(0, &mut |body| {
            for (op, &h) in ops.iter().zip(&hashes) {
                let (MultiReadOp::GetChildren(path) | MultiReadOp::GetData(path)) = op;
                match (op, find(h, path)) {
                    (_, Err(code)) => put_multi_error(body, code.wire()),
                    (MultiReadOp::GetChildren(_), Ok(node)) => {
                        put_multi_header(body, OpCode::GetChildren.wire(), 0);
                        put_children(node, body);
                    }
                    (MultiReadOp::GetData(_), Ok(node)) => {
                        put_multi_header(body, OpCode::GetData.wire(), 0);
                        body.put_buffer(node.data());
                        self.tree.stat_of(node).encode(body);
                    }
                }
            }
            put_multi_end(body);
        });
    }

    fn ephemerals(&self, prefix: &str) {
        let all = matches!(prefix.trim_matches(|c| c <= ' '), "" | "/");
        // The applier keeps this lock until the zxid is published, as it keeps those of shards.
        let owned = self.tree.owned.lock();
        let mut paths = Vec::new();
        let mut count = 0;
        for path in owned.of(self.who.session).filter(|p| all || p.starts_with(prefix.as_bytes())) {
            paths.put_buffer(Some(path));
            count += 1;
        }
        self.reply(0, &mut |body| {
            body.put_count(count);
            body.extend_from_slice(&paths);
        });
    }

    /// Descendants of a znode. As in Apache the count may be of no single moment.
    fn descendants(&self, path: &str) {
        {
            let path = canonical(path);
            let h = self.hash(path);
            let shard = self.tree.shard(h).read();
            let Some(node) = shard.find(h, path.as_bytes()) else { return self.fail(Code::NoNode) };
            if !self.tree.allows(node.acl, perms::READ, self.who.identity) {
                return self.fail(Code::NoAuth);
            }
        }
        let total = self.tree.znode_count();
        let count = match path {
            // Apache counts the keys that start with "/": all, and the root by one of its two names.
            "" => total,
            "/" => total - 1,
            _ => {
                let mut count = 0;
                self.tree.each_below(path, &mut |_| count += 1);
                // The znode itself is not counted, if it is still there.
                u64::saturating_sub(count, 1)
            }
        };
        self.reply(0, &mut |body| body.put_count(count as usize));
    }

    fn add_watch(&self, path: &str, mode: AddWatchMode) {
        // The body of an ErrorResponse: clients wait for these four bytes.
        let done = |asked: &Self| asked.reply(0, &mut |body| body.put_i32(0));
        match mode {
            AddWatchMode::Persistent => {
                let h = self.hash(path);
                let shard = self.tree.shard(h).read();
                self.tree.watch(&shard, h, path, self.who, Modes::PERSISTENT);
                done(self);
            }
            AddWatchMode::PersistentRecursive => {
                let mut recursive = self.tree.recursive.write();
                if recursive.add(path, self.who.conn) {
                    self.tree.watched.count(1);
                }
                done(self);
            }
        }
    }

    fn check_watches(&self, path: &str, kind: WatcherType) {
        let (modes, recursive) = watched_by(kind);
        let h = self.hash(path);
        let found = self.tree.shard(h).read().watches.lock().modes(h, path, self.who.conn).meets(modes)
            || (recursive && self.tree.recursive.read().contains(path, self.who.conn));
        if found { self.empty() } else { self.fail(Code::NoWatcher) }
    }

    fn remove_watches(&self, path: &str, kind: WatcherType) {
        let (modes, recursive) = watched_by(kind);
        let tree = self.tree;
        let mut removed = false;
        // No event may follow the reply, so the reply is written before the locks are given back.
        let mut recursive = recursive.then(|| tree.recursive.write());
        if let Some(r) = &mut recursive
            && r.remove(path, self.who.conn)
        {
            tree.watched.count(-1);
            removed = true;
        }
        let h = self.hash(path);
        let shard = tree.shard(h).read();
        let taken = shard.watches.lock().remove(&tree.hash, h, path, self.who.conn, modes);
        if let Some(changed) = taken {
            if changed.edge {
                tree.watched.remove(self.who.conn, h);
            }
            tree.watched.count(changed.counted);
            removed = true;
        }
        if removed { self.empty() } else { self.fail(Code::NoWatcher) }
    }

    /// Registers what a client watched before it was disconnected, or tells it at once what it missed.
    fn set_watches(&self, lists: &SetWatches<'_>) {
        // What is to be told of a path, or else how to watch it on.
        type Missed = fn(Option<&Node>, i64) -> Option<EventType>;
        let data: Missed = |node, since| match node {
            None => Some(EventType::NodeDeleted),
            Some(n) => (n.stat().mzxid > since).then_some(EventType::NodeDataChanged),
        };
        let exist: Missed = |node, _| node.map(|_| EventType::NodeCreated);
        let child: Missed = |node, since| match node {
            None => Some(EventType::NodeDeleted),
            Some(n) => (n.stat().pzxid > since).then_some(EventType::NodeChildrenChanged),
        };
        for (paths, missed, modes) in [
            (&lists.data, data, Modes::DATA),
            (&lists.exist, exist, Modes::DATA),
            (&lists.child, child, Modes::CHILD),
        ] {
            for path in paths {
                let found = canonical(path);
                let h = self.hash(found);
                let shard = self.tree.shard(h).read();
                match missed(shard.find(h, found.as_bytes()), lists.relative_zxid) {
                    // Catch-up events bear no zxid: they stand for no single change.
                    Some(event) => self.out.append(&mut |out| put_event_frame(out, -1, event, path)),
                    None if path.is_empty() => {}
                    None => self.tree.watch(&shard, h, path, self.who, modes),
                }
            }
        }
        for path in &lists.persistent {
            let h = self.hash(path);
            let shard = self.tree.shard(h).read();
            self.tree.watch(&shard, h, path, self.who, Modes::PERSISTENT);
        }
        if !lists.persistent_recursive.is_empty() {
            let mut recursive = self.tree.recursive.write();
            for path in &lists.persistent_recursive {
                if recursive.add(path, self.who.conn) {
                    self.tree.watched.count(1);
                }
            }
        }
        self.empty();
    }
}

/// The modes at the path itself that a kind of watcher means, and whether it means recursive watches.
fn watched_by(kind: WatcherType) -> (Modes, bool) {
    match kind {
        WatcherType::Children => (Modes::CHILD, false),
        WatcherType::Data => (Modes::DATA, false),
        WatcherType::Persistent => (Modes::PERSISTENT, false),
        WatcherType::PersistentRecursive => (Modes::NONE, true),
        WatcherType::Any => (Modes::ALL, true),
    }
}

fn put_children(node: &Node, body: &mut Vec<u8>) {
    let Some(children) = &node.children else { return body.put_count(0) };
    body.reserve(4 + children.name_bytes() + 4 * children.len());
    body.put_count(children.len());
    for name in children.iter() {
        body.put_buffer(Some(name));
    }
}
