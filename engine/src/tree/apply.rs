//! The one way in which the tree changes.
//!
//! [`Applier::apply`] decides nothing: a record bears its results. It is total, so that whatever was logged can be
//! replayed, and idempotent, so that it may be replayed over a walk that already shows some of it. The rules for
//! effects that are there already are Apache's (storage format, section 5), with one addition: a walk of ours
//! meets a child before its parent's change where Apache's never does, so every kind of create raises the
//! parent's counters and hangs the child below it, and a delete removes a znode whose parent is missing.
//!
//! ```text
//! record ── decode ── which shards? ── lock them, ascending ── change, events ── publish ── unlock ── reply
//! ```

use super::acls::AclId;
use super::node::Node;
use super::owned::Owned;
use super::quota::{self, Numbers};
use super::shard::Shard;
use super::{Audience, CONFIG, Mark, Mismatch, Tree, built_in, canonical, text};
use crate::limits;
use crate::sync::{MutexGuard, Ordering, RwLockReadGuard, RwLockWriteGuard};
use crate::watch::{RecursiveWatches, Trigger};
use proto::acl::{AclBytes, WORLD_READ, perms};
use proto::client::{EventType, MultiResult, WriteReply, put_event_frame};
use proto::jute::DecodeError;
use proto::txn::{CreateTxnKind, DIGEST_VERSION, Record, Txn, TxnDigest, TxnHeader};
use proto::{Code, ConnId, Owner, SessionId, Stat, StatPersisted, WallMs, Xid, Zxid, path};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The one writer of a [`Tree`].
#[derive(Debug)]
pub struct Applier {
    tree: Arc<Tree>,
    /// The digest of the tree now.
    pub(super) digest: i64,
    /// Until here the tree is no state of any moment, and no digest is compared.
    pub(super) fuzzy: Option<Settled>,
    scratch: Scratch,
}

/// Where an imported state stops being fuzzy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Digests are compared from this zxid on.
    pub zxid: Zxid,
    /// The digest of the tree there, where it is known.
    pub digest: Option<i64>,
}

/// Why a record can't be applied. What a record says is never a reason.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ApplyError {
    /// The bytes are no record.
    Undecodable {
        /// Its zxid, where there is a whole header.
        zxid: Option<Zxid>,
        /// What is wrong.
        source: DecodeError,
    },
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Undecodable { zxid: Some(zxid), .. } => write!(f, "the txn {zxid} can't be decoded"),
            ApplyError::Undecodable { zxid: None, .. } => f.write_str("a txn without a whole header"),
        }
    }
}

impl std::error::Error for ApplyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ApplyError::Undecodable { source, .. } => Some(source),
        }
    }
}

/// Vectors that are used again by each txn.
#[derive(Debug, Default)]
struct Scratch {
    touched: Vec<usize>,
    heard: Vec<ConnId>,
    gone: Vec<ConnId>,
    frame: Vec<u8>,
}

/// What a txn came to, before it is told to the client.
enum Outcome<'r> {
    Reply(WriteReply<'r>),
    Multi(Vec<MultiResult>),
}

impl Applier {
    pub(super) fn new(tree: Arc<Tree>) -> Applier {
        Applier { tree, digest: 0, fuzzy: None, scratch: Scratch::default() }
    }

    /// The tree that it writes.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Applies one record: live, in replay, or over a fuzzy state.
    ///
    /// `reply` is called once, after the locks are given back, with what the client that asked is to be told.
    /// A digest in the record that is not the tree's is counted ([`Tree::digest_mismatches`]).
    ///
    /// # Errors
    /// Only when the bytes are no record. Nothing has changed then.
    pub fn apply(
        &mut self,
        record: &[u8],
        audience: &dyn Audience,
        reply: &mut dyn FnMut(&TxnHeader, &WriteReply<'_>),
    ) -> Result<(), ApplyError> {
        let record = Record::decode(record)
            .map_err(|source| ApplyError::Undecodable { zxid: TxnHeader::peek_zxid(record), source })?;
        let header = record.header;
        let Applier { tree, digest, fuzzy, scratch } = self;
        scratch.touched.clear();
        touch(tree, &header, &record.txn, &mut scratch.touched);
        let mut scope = Scope::open(tree, audience, header, scratch);
        let outcome = scope.run(&record.txn);
        let recount = scope.publish(digest, fuzzy, &record);
        for prefix in recount {
            tree.recount(&prefix);
        }
        match &outcome {
            Outcome::Reply(r) => reply(&header, r),
            Outcome::Multi(results) => {
                let moved = MultiResult::Error(Code::SessionMoved.wire());
                if results.contains(&moved) {
                    reply(&header, &WriteReply::Error(Code::SessionMoved));
                } else {
                    reply(&header, &WriteReply::Multi(results));
                }
            }
        }
        Ok(())
    }

    /// Whether the tree is of one moment: none was imported, or everything that its walk can have seen is applied.
    pub fn is_settled(&self) -> bool {
        self.fuzzy.is_none()
    }

    /// From this zxid on the tree is of one moment.
    pub fn settles_at(&self) -> Zxid {
        self.fuzzy.map_or_else(|| self.tree.applied(), |s| s.zxid)
    }

    /// Raises the last applied zxid without a txn: a new leader's epoch begins at counter 0.
    pub fn advance(&mut self, to: Zxid) {
        let mut mark = self.tree.mark.lock();
        if to > mark.zxid {
            mark.zxid = to;
            self.tree.applied.store(to.as_u64(), Ordering::Release);
        }
    }

    /// Sets `/zookeeper/config` to the configuration of this server. No txn: it is outside the digest, and each
    /// server sets its own.
    pub fn set_config(&mut self, text: &[u8], version: i64, time: WallMs, audience: &dyn Audience) {
        let tree = Arc::clone(&self.tree);
        let header = TxnHeader {
            session: SessionId::NONE,
            cxid: Xid(0),
            zxid: Zxid::from_wire(version),
            time,
            kind: proto::txn::kind::RECONFIG,
        };
        let touched = &mut self.scratch.touched;
        touched.clear();
        touch_path(&tree, CONFIG, touched);
        touch_path(&tree, "/zookeeper", touched);
        touch_quota(&tree, CONFIG, touched);
        let mut scope = Scope::open(&tree, audience, header, &mut self.scratch);
        if scope.set_data(CONFIG, Some(text), -1).is_err() {
            scope.add_built_in(
                CONFIG,
                WORLD_READ,
                StatPersisted { version: -1, aversion: -1, ..Default::default() },
            );
            // It exists now, unless the tree lacks /zookeeper, and then nobody can ask for it.
            let _ = scope.set_data(CONFIG, Some(text), -1);
        }
        self.digest = scope.close(self.digest);
    }

    /// Puts the built-in znodes into an empty tree.
    pub(super) fn plant(&mut self) {
        let tree = Arc::clone(&self.tree);
        let header = TxnHeader {
            session: SessionId::NONE,
            cxid: Xid(0),
            zxid: Zxid::ZERO,
            time: WallMs(0),
            kind: proto::txn::kind::CREATE,
        };
        self.scratch.touched = (0..tree.shards.len()).collect();
        let mut scope = Scope::open(&tree, &Nobody, header, &mut self.scratch);
        for (path, acl, stat) in built_in() {
            scope.add_built_in(path, acl, stat);
        }
        self.digest = scope.close(self.digest);
        self.tree.mark.lock().digest = self.digest;
    }
}

/// An audience without ears.
pub(super) struct Nobody;

impl Audience for Nobody {
    fn deliver(&self, _: ConnId, _: &[u8]) {}

    fn identity(&self, _: ConnId) -> Option<Arc<crate::Identity>> {
        None
    }
}

/// Adds the numbers of the shards that a txn may change.
fn touch(tree: &Tree, header: &TxnHeader, txn: &Txn<'_>, touched: &mut Vec<usize>) {
    match txn {
        Txn::Create { path, .. } | Txn::Delete { path, .. } => touch_pair(tree, path, touched),
        Txn::SetData { path, .. } => {
            touch_path(tree, canonical(path), touched);
            touch_quota(tree, path, touched);
        }
        Txn::SetAcl { path, .. } => touch_path(tree, canonical(path), touched),
        Txn::CloseSession { paths } => {
            for path in paths.iter().flatten() {
                touch_pair(tree, path, touched);
            }
            for path in tree.ephemerals_of(header.session) {
                touch_pair(tree, &path, touched);
            }
        }
        Txn::Multi(txns) => {
            if !failed(txns) {
                txns.iter().for_each(|t| touch(tree, header, t, touched));
            }
        }
        Txn::Check { .. } | Txn::CreateSession { .. } | Txn::Error { .. } => {}
    }
}

fn touch_path(tree: &Tree, path: &str, touched: &mut Vec<usize>) {
    touched.push(tree.shard_number(tree.hash.of(path.as_bytes())));
}

/// A znode that comes or goes, its parent, and who counts it.
fn touch_pair(tree: &Tree, path: &str, touched: &mut Vec<usize>) {
    touch_path(tree, path, touched);
    if let Some(parent) = path::parent(path) {
        touch_path(tree, parent, touched);
    }
    if path.starts_with(quota::QUOTA) {
        // A quota may begin or end in this txn, and its counts may be in any shard. Rare enough to take all.
        touched.extend(0..tree.shards.len());
    }
    touch_quota(tree, path, touched);
}

fn touch_quota(tree: &Tree, path: &str, touched: &mut Vec<usize>) {
    if tree.has_quotas.load(Ordering::Relaxed) == 0 {
        return;
    }
    if let Some(prefix) = tree.quotas.read().covering(path) {
        touch_path(tree, &quota::stats_path(prefix), touched);
    }
}

pub(super) fn failed(txns: &[Txn<'_>]) -> bool {
    txns.iter().any(|t| matches!(t, Txn::Error { .. }))
}

/// Shards that a txn holds for writing.
enum Held<'t> {
    /// A create with its parent and its quota, and less.
    Few([Option<(usize, RwLockWriteGuard<'t, Shard>)>; 4]),
    /// In ascending order.
    Many(Vec<(usize, RwLockWriteGuard<'t, Shard>)>),
}

impl<'t> Held<'t> {
    fn take(tree: &'t Tree, touched: &mut Vec<usize>) -> Held<'t> {
        touched.sort_unstable();
        touched.dedup();
        let lock = |&n: &usize| (n, tree.shards[n].write());
        if touched.len() <= 4 {
            let mut few = [None, None, None, None];
            for (place, n) in few.iter_mut().zip(touched.iter()) {
                *place = Some(lock(n));
            }
            Held::Few(few)
        } else {
            Held::Many(touched.iter().map(lock).collect())
        }
    }

    fn get(&mut self, n: usize) -> &mut Shard {
        let found = match self {
            Held::Few(few) => few.iter_mut().flatten().find(|(at, _)| *at == n).map(|(_, g)| g),
            Held::Many(all) => match all.binary_search_by_key(&n, |(at, _)| *at) {
                Ok(i) => Some(&mut all[i].1),
                Err(_) => None,
            },
        };
        found.expect("touch() names every shard that run() changes")
    }
}

/// A txn while its locks are held.
struct Scope<'t, 's> {
    tree: &'t Tree,
    /// Held throughout, so that a recursive watch is there for a whole txn or not at all.
    recursive: RwLockReadGuard<'t, RecursiveWatches>,
    held: Held<'t>,
    /// Taken when it is needed, and then held to the end.
    owned: Option<MutexGuard<'t, Owned>>,
    audience: &'s dyn Audience,
    header: TxnHeader,
    heard: &'s mut Vec<ConnId>,
    gone: &'s mut Vec<ConnId>,
    frame: &'s mut Vec<u8>,
    digest: i64,
    znodes: i64,
    data_bytes: i64,
    /// Quotas whose counts begin now.
    recount: Vec<String>,
}

impl<'t, 's> Scope<'t, 's> {
    fn open(tree: &'t Tree, audience: &'s dyn Audience, header: TxnHeader, scratch: &'s mut Scratch) -> Self {
        Scope {
            tree,
            recursive: tree.recursive.read(),
            held: Held::take(tree, &mut scratch.touched),
            owned: None,
            audience,
            header,
            heard: &mut scratch.heard,
            gone: &mut scratch.gone,
            frame: &mut scratch.frame,
            digest: 0,
            znodes: 0,
            data_bytes: 0,
            recount: Vec::new(),
        }
    }

    /// Makes the txn visible: zxid and digest, then the locks. Returns the quotas to be counted.
    fn publish(self, digest: &mut i64, fuzzy: &mut Option<Settled>, record: &Record<'_>) -> Vec<String> {
        let tree = self.tree;
        *digest = digest.wrapping_add(self.digest);
        let digest = *digest;
        let zxid = record.header.zxid;
        let digests = tree.config.digest_enabled;
        let wanted = differs(fuzzy, zxid, tree.applied(), digest, record.digest).filter(|_| digests);
        self.count();
        let mut mark = tree.mark.lock();
        mark.pass(zxid, digest, digests && fuzzy.is_none());
        if let Some(wanted) = wanted {
            mark.mismatch = Some(Mismatch { zxid, wanted, found: digest });
            tree.digest_mismatches.fetch_add(1, Ordering::Relaxed);
        }
        tree.applied.store(mark.zxid.as_u64(), Ordering::Release);
        drop(mark);
        self.recount
    }

    /// Ends a change that is no txn. Returns the digest of the tree.
    fn close(self, digest: i64) -> i64 {
        self.count();
        digest.wrapping_add(self.digest)
    }

    /// Counts what came and went: nothing, for most values that are set.
    fn count(&self) {
        for (all, change) in [(&self.tree.znodes, self.znodes), (&self.tree.data_bytes, self.data_bytes)] {
            if change != 0 {
                all.fetch_add(change as u64, Ordering::Relaxed);
            }
        }
    }

    fn run<'r>(&mut self, txn: &'r Txn<'_>) -> Outcome<'r> {
        if let Txn::Multi(txns) = txn {
            return Outcome::Multi(if failed(txns) { failures(txns) } else { self.run_all(txns) });
        }
        Outcome::Reply(match txn {
            Txn::Create { kind, path, .. } => match self.create(txn) {
                Ok(_) if *kind == CreateTxnKind::Create => WriteReply::Path(path),
                Ok(stat) => WriteReply::PathStat(path, stat),
                Err(code) => WriteReply::Error(code),
            },
            Txn::Delete { path, .. } => match self.delete(path) {
                Ok(()) => WriteReply::Empty,
                Err(code) => WriteReply::Error(code),
            },
            Txn::SetData { path, data, version, reconfig } => match self.set_data(path, *data, *version) {
                Ok(stat) if *reconfig => WriteReply::Config(data.unwrap_or_default(), stat),
                Ok(stat) => WriteReply::Stat(stat),
                Err(code) => WriteReply::Error(code),
            },
            Txn::SetAcl { path, acl, aversion } => match self.set_acl(path, *acl, *aversion) {
                Ok(stat) => WriteReply::Stat(stat),
                Err(code) => WriteReply::Error(code),
            },
            Txn::CreateSession { timeout_ms } => {
                self.tree.sessions.write().insert(self.header.session, *timeout_ms);
                WriteReply::Empty
            }
            Txn::CloseSession { paths } => {
                if proto::mutant::is(proto::mutant::Mutant::EphemeralsStay) {
                    self.tree.sessions.write().remove(&self.header.session);
                } else {
                    self.close_session(paths.as_deref().unwrap_or_default());
                }
                WriteReply::Empty
            }
            // An Apache leader may have failed for a reason that no client of ours should hear of.
            Txn::Error { code } => {
                WriteReply::Error(Code::from_wire(*code).unwrap_or(Code::MarshallingError))
            }
            Txn::Check { .. } => WriteReply::Empty,
            Txn::Multi(_) => unreachable!("taken above"),
        })
    }

    fn run_all(&mut self, txns: &[Txn<'_>]) -> Vec<MultiResult> {
        let owned = |path: &Cow<'_, str>| Cow::Owned(path.clone().into_owned());
        txns.iter()
            .map(|txn| {
                let done = match txn {
                    Txn::Create { kind, path, .. } => self.create(txn).map(|stat| match kind {
                        CreateTxnKind::Create => MultiResult::Create(owned(path)),
                        _ => MultiResult::Create2(owned(path), stat),
                    }),
                    Txn::Delete { path, .. } => self.delete(path).map(|()| MultiResult::Delete),
                    Txn::SetData { path, data, version, .. } => {
                        self.set_data(path, *data, *version).map(MultiResult::SetData)
                    }
                    Txn::Check { .. } => Ok(MultiResult::Check),
                    // No multi holds these; should one, it changes nothing.
                    Txn::SetAcl { .. }
                    | Txn::CreateSession { .. }
                    | Txn::CloseSession { .. }
                    | Txn::Multi(_) => Err(Code::MarshallingError),
                    Txn::Error { .. } => unreachable!("a failed multi is not run"),
                };
                done.unwrap_or_else(|code| MultiResult::Error(code.wire()))
            })
            .collect()
    }

    fn create(&mut self, txn: &Txn<'_>) -> Result<Stat, Code> {
        let Txn::Create { kind, path, data, acl, ephemeral, parent_cversion } = txn else {
            unreachable!("called for creates")
        };
        let owner = owner_in(*kind, *ephemeral, &self.header);
        let tree = self.tree;
        let zxid = self.header.zxid.to_wire();
        let parent = path::parent(path).ok_or(Code::NoNode)?;
        let name = path::name(path).as_bytes();
        let (h, parent_h) = (self.hash(path), self.hash(parent));

        let there = self.shard(h).slot_of(h, path.as_bytes());
        let above = self.shard(parent_h).find_mut(parent_h, parent.as_bytes()).ok_or(Code::NoNode)?;
        let parent_acl = above.acl;
        self.digest += hang(tree, above, name, there.is_none(), *parent_cversion, zxid);

        let acl = tree.acls.intern(*acl);
        let shard = self.held.get(tree.shard_number(h));
        if let Some(there) = there.and_then(|slot| shard.slots.get_mut(slot)) {
            give_acl(tree, there, acl);
            return Err(Code::NodeExists);
        }
        let node = new_node(tree, &self.header, path, *data, acl, owner);
        let seen = tree.stat_of(&node);
        let owner = tree.owner_of(&node);
        self.digest += i64::from(node.digest());
        self.znodes += 1;
        self.data_bytes += node.size() as i64;
        shard.add(h, node);
        if owner != Owner::Persistent {
            self.owned().add(&tree.hash, owner, path.as_bytes());
        }

        if let Some(subject) = quota::subject(parent) {
            match path::name(path) {
                quota::LIMITS => {
                    tree.quotas.write().add(subject);
                    tree.has_quotas.store(1, Ordering::Relaxed);
                }
                quota::STATS => self.recount.push(subject.to_owned()),
                _ => {}
            }
        }
        self.account(path, data.map_or(0, <[u8]>::len) as i64, 1);
        self.tell(h, path, Trigger::Data, EventType::NodeCreated, acl);
        self.tell(parent_h, parent, Trigger::Child, EventType::NodeChildrenChanged, parent_acl);
        Ok(seen)
    }

    fn delete(&mut self, path: &str) -> Result<(), Code> {
        let tree = self.tree;
        let zxid = self.header.zxid.to_wire();
        let parent = path::parent(path).ok_or(Code::NoNode)?;
        let name = path::name(path).as_bytes();
        let (h, parent_h) = (self.hash(path), self.hash(parent));

        let mut parent_acl = None;
        if let Some(above) = self.shard(parent_h).find_mut(parent_h, parent.as_bytes()) {
            parent_acl = Some(above.acl);
            self.digest += unhang(tree, above, name, zxid);
        }
        let node = self.shard(h).remove(h, path.as_bytes()).ok_or(Code::NoNode)?;
        self.digest -= i64::from(node.digest());
        self.znodes -= 1;
        self.data_bytes -= node.size() as i64;
        let owner = tree.owner_of(&node);
        if owner != Owner::Persistent {
            self.owned().remove(&tree.hash, owner, path.as_bytes());
        }
        if let Some(subject) = quota::subject(parent)
            && path::name(path) == quota::LIMITS
        {
            let mut quotas = tree.quotas.write();
            quotas.remove(subject);
            tree.has_quotas.store(u64::from(!quotas.is_empty()), Ordering::Relaxed);
        }
        self.account(path, -(node.value().len() as i64), -1);
        self.tell(h, path, Trigger::Deleted, EventType::NodeDeleted, node.acl);
        tree.acls.release(node.acl);
        let parent_acl = parent_acl.ok_or(Code::NoNode)?;
        self.tell(parent_h, parent, Trigger::Child, EventType::NodeChildrenChanged, parent_acl);
        Ok(())
    }

    fn set_data(&mut self, path: &str, data: Option<&[u8]>, version: i32) -> Result<Stat, Code> {
        let tree = self.tree;
        let path = canonical(path);
        let h = self.hash(path);
        let node = self.held.get(tree.shard_number(h)).find_mut(h, path.as_bytes()).ok_or(Code::NoNode)?;
        let (grown, digest) = change_data(tree, node, &self.header, data, version);
        self.digest += digest;
        self.data_bytes += grown;
        let (acl, stat) = (node.acl, tree.stat_of(node));
        self.account(path, grown, 0);
        self.tell(h, path, Trigger::Data, EventType::NodeDataChanged, acl);
        Ok(stat)
    }

    fn set_acl(&mut self, path: &str, acl: AclBytes<'_>, aversion: i32) -> Result<Stat, Code> {
        let tree = self.tree;
        let path = canonical(path);
        let h = self.hash(path);
        let node = self.held.get(tree.shard_number(h)).find_mut(h, path.as_bytes()).ok_or(Code::NoNode)?;
        self.digest += change_acl(tree, node, acl, aversion);
        Ok(tree.stat_of(node))
    }

    /// Deletes what the txn lists, then whatever else the session owns here.
    fn close_session(&mut self, listed: &[Cow<'_, str>]) {
        let session = self.header.session;
        let mut left = self.owned().take(session);
        for path in listed {
            left.remove(&self.tree.hash, path.as_bytes());
            // Missing ones are no news: their parents have heard of this zxid now.
            let _ = self.delete(path);
        }
        for path in left.iter() {
            let _ = self.delete(&text(path));
        }
        self.tree.sessions.write().remove(&session);
    }

    /// Puts in a built-in znode, below its parent where it has one; not if it is there.
    fn add_built_in(&mut self, path: &str, acl: AclBytes<'_>, stat: StatPersisted) {
        let (tree, digests) = (self.tree, self.tree.config.digest_enabled);
        let h = self.hash(path);
        if self.shard(h).find(h, path.as_bytes()).is_some() {
            return;
        }
        if let Some(parent) = path::parent(path) {
            let parent_h = self.hash(parent);
            let Some(above) = self.shard(parent_h).find_mut(parent_h, parent.as_bytes()) else { return };
            above.children.get_or_insert_default().insert(&tree.hash, path::name(path).as_bytes());
        }
        let node = Node::new(path.as_bytes(), Some(b""), tree.acls.intern(acl), stat, digests);
        self.digest += i64::from(node.digest());
        self.znodes += 1;
        self.data_bytes += node.size() as i64;
        self.shard(h).add(h, node);
    }

    /// Brings the counts of the quota that covers `path` up to date: data without version, time, watch, digest.
    fn account(&mut self, path: &str, bytes: i64, count: i64) {
        if self.tree.has_quotas.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(stats) = self.tree.quotas.read().covering(path).map(quota::stats_path) else { return };
        let h = self.hash(&stats);
        let Some(node) = self.held.get(self.tree.shard_number(h)).find_mut(h, stats.as_bytes()) else {
            return;
        };
        let mut numbers = Numbers::parse(node.value());
        numbers.set(Numbers::COUNT, numbers.get(Numbers::COUNT).wrapping_add(count));
        numbers.set(Numbers::BYTES, numbers.get(Numbers::BYTES).wrapping_add(bytes));
        let before = node.size();
        node.set_data(Some(numbers.text().as_bytes()), self.tree.config.digest_enabled);
        self.data_bytes += node.size() as i64 - before as i64;
    }

    /// Appends an event to the outboxes of those who watch `path`, may read it, and have not heard yet.
    fn tell(&mut self, h: u64, path: &str, trigger: Trigger, event: EventType, acl: AclId) {
        let tree = self.tree;
        self.heard.clear();
        let watches = self.held.get(tree.shard_number(h)).watches.get_mut();
        if !watches.is_empty() {
            self.gone.clear();
            let counted = watches.fire(&tree.hash, h, path, trigger, self.heard, self.gone);
            for &conn in self.gone.iter() {
                tree.watched.remove(conn, h);
            }
            if counted > 0 {
                tree.watched.count(-(counted as i64));
            }
        }
        if trigger != Trigger::Child && !self.recursive.is_empty() {
            self.recursive.above(path, self.heard);
            self.heard.sort_unstable();
            self.heard.dedup();
        }
        if self.heard.is_empty() {
            return;
        }
        self.frame.clear();
        put_event_frame(self.frame, self.header.zxid.to_wire(), event, path);
        let everybody = tree.config.skip_acl || tree.acls.world_reads(acl);
        for &conn in self.heard.iter() {
            let may = everybody
                || self.audience.identity(conn).is_some_and(|who| tree.acls.allows(acl, perms::READ, &who));
            if may {
                self.audience.deliver(conn, self.frame);
            }
        }
    }

    fn hash(&self, path: &str) -> u64 {
        self.tree.hash.of(path.as_bytes())
    }

    fn shard(&mut self, h: u64) -> &mut Shard {
        self.held.get(self.tree.shard_number(h))
    }

    fn owned(&mut self) -> &mut Owned {
        self.owned.get_or_insert_with(|| self.tree.owned.lock())
    }
}

/// Whom a created znode waits for, as its metadata says it.
pub(super) fn owner_in(kind: CreateTxnKind, ephemeral: bool, header: &TxnHeader) -> i64 {
    match kind {
        CreateTxnKind::Create | CreateTxnKind::Create2 if ephemeral => header.session.0,
        CreateTxnKind::Create | CreateTxnKind::Create2 => 0,
        CreateTxnKind::Container => Owner::CONTAINER,
        CreateTxnKind::Ttl(ms) => Owner::Ttl(ms).stored(),
    }
}

/// The parent's part of a create: the name and the counters. Returns by how much the digest of the tree changes; so
/// do the other parts. `absent`: there is no znode of that path.
pub(super) fn hang(
    tree: &Tree,
    above: &mut Node,
    name: &[u8],
    absent: bool,
    parent_cversion: i32,
    zxid: i64,
) -> i64 {
    let children = above.children.get_or_insert_default();
    if absent {
        // Each name below a parent has its znode, so a path without znode has no name there either. The
        // other way round it may be missing: a fuzzy walk can meet the child of a deleted parent.
        children.add(&tree.hash, name);
    } else {
        children.insert(&tree.hash, name);
    }
    let cversion = match parent_cversion {
        -1 => above.stat().cversion.wrapping_add(1),
        _ if proto::mutant::is(proto::mutant::Mutant::CversionCounted) => {
            above.stat().cversion.wrapping_add(1)
        }
        given => given,
    };
    if cversion <= above.stat().cversion {
        return 0;
    }
    above.restat(tree.config.digest_enabled, |s| (s.cversion, s.pzxid) = (cversion, zxid))
}

/// The parent's part of a delete.
pub(super) fn unhang(tree: &Tree, above: &mut Node, name: &[u8], zxid: i64) -> i64 {
    if let Some(children) = &mut above.children {
        children.remove(&tree.hash, name);
        if children.is_empty() {
            above.children = None;
        }
    }
    if zxid <= above.stat().pzxid && !proto::mutant::is(proto::mutant::Mutant::PzxidGoesBack) {
        return 0;
    }
    above.restat(tree.config.digest_enabled, |s| s.pzxid = zxid)
}

/// A znode as a create makes it.
pub(super) fn new_node(
    tree: &Tree,
    header: &TxnHeader,
    path: &str,
    data: Option<&[u8]>,
    acl: AclId,
    owner: i64,
) -> Node {
    let zxid = header.zxid.to_wire();
    let stat = StatPersisted {
        czxid: zxid,
        mzxid: zxid,
        pzxid: zxid,
        ctime: header.time.0,
        mtime: header.time.0,
        ephemeral_owner: owner,
        ..StatPersisted::default()
    };
    Node::new(path.as_bytes(), data, acl, stat, tree.config.digest_enabled)
}

/// Sets a value. Returns by how much it is longer, and the change of the digest.
pub(super) fn change_data(
    tree: &Tree,
    node: &mut Node,
    header: &TxnHeader,
    data: Option<&[u8]>,
    version: i32,
) -> (i64, i64) {
    let digests = tree.config.digest_enabled;
    let grown = data.map_or(0, <[u8]>::len) as i64 - node.value().len() as i64;
    node.set_data(data, digests);
    let (zxid, time) = (header.zxid.to_wire(), header.time.0);
    (grown, node.restat(digests, |s| (s.mtime, s.mzxid, s.version) = (time, zxid, version)))
}

/// Gives a znode another list, to which it is the new reference.
pub(super) fn give_acl(tree: &Tree, node: &mut Node, acl: AclId) {
    // The new list came first: should it be the old one, its entry stays.
    tree.acls.release(std::mem::replace(&mut node.acl, acl));
}

/// Sets an ACL.
pub(super) fn change_acl(tree: &Tree, node: &mut Node, acl: AclBytes<'_>, aversion: i32) -> i64 {
    give_acl(tree, node, tree.acls.intern(acl));
    node.restat(tree.config.digest_enabled, |s| s.aversion = aversion)
}

/// The digest that was written down for the tree behind `zxid`, if it is another one than the tree's, `now`. `applied`:
/// the last zxid before. While the tree is fuzzy nothing is compared.
pub(super) fn differs(
    fuzzy: &mut Option<Settled>,
    zxid: Zxid,
    applied: Zxid,
    now: i64,
    wanted: Option<TxnDigest>,
) -> Option<i64> {
    let wanted = match *fuzzy {
        Some(settled) if zxid < settled.zxid => None,
        Some(settled) => {
            *fuzzy = None;
            settled.digest.filter(|_| zxid == settled.zxid)
        }
        // What is replayed behind the tree's back says nothing about the tree as it is now.
        None if zxid < applied => None,
        None => wanted.filter(|d| d.version == DIGEST_VERSION).map(|d| d.tree),
    };
    wanted.filter(|&d| d != now)
}

impl Mark {
    /// Behind `zxid` the tree has this digest. `keep`: some are kept, for who asks.
    pub(super) fn pass(&mut self, zxid: Zxid, digest: i64, keep: bool) {
        let is_new = zxid > self.zxid;
        self.zxid = self.zxid.max(zxid);
        self.digest = digest;
        if keep && is_new && zxid.as_u64().is_multiple_of(limits::DIGEST_LOG_INTERVAL) {
            if self.log.len() == limits::DIGEST_LOG {
                self.log.pop_front();
            }
            self.log.push_back((zxid, digest));
        }
    }
}

/// The results of a multi that failed: 0 before the operation that did, its code, then what its txns say.
fn failures(txns: &[Txn<'_>]) -> Vec<MultiResult> {
    let mut after = false;
    txns.iter()
        .map(|txn| match txn {
            Txn::Error { code } => {
                after = true;
                MultiResult::Error(*code)
            }
            _ if after => MultiResult::Error(Code::RuntimeInconsistency.wire()),
            _ => MultiResult::Error(0),
        })
        .collect()
}

impl Tree {
    /// Counts what a quota covers and writes it down. Called by the applier between txns: nothing changes
    /// meanwhile.
    pub(super) fn recount(&self, prefix: &str) {
        let (mut count, mut bytes) = (0, 0);
        self.each_below(prefix, &mut |node| {
            count += 1;
            bytes += node.value().len() as i64;
        });
        let stats = quota::stats_path(prefix);
        let h = self.hash.of(stats.as_bytes());
        let mut shard = self.shard(h).write();
        let Some(node) = shard.find_mut(h, stats.as_bytes()) else { return };
        let mut numbers = Numbers::default();
        numbers.set(Numbers::COUNT, count);
        numbers.set(Numbers::BYTES, bytes);
        let before = node.size();
        node.set_data(Some(numbers.text().as_bytes()), self.config.digest_enabled);
        let grown = node.size() as i64 - before as i64;
        self.data_bytes.fetch_add(grown as u64, Ordering::Relaxed);
    }
}
