//! The tree of znodes and everything that belongs to it.
//!
//! Locks are taken in this order: recursive watches, shards in ascending order, owners; then, one at a time and only
//! for a moment, watched paths, quotas, sessions, the mark; then the callers' outboxes; then ACLs, under which nothing
//! else is taken. The applier holds recursive watches, shards and owners until the zxid is published, so that a
//! reader sees a txn whole or not at all, and its events before its effects.

pub(crate) mod acls;
mod apply;
mod browse;
mod by_shard;
mod crew;
pub(crate) mod hash;
mod import;
mod names;
mod node;
mod owned;
mod quota;
mod read;
mod refused;
mod replay;
mod report;
mod shard;
mod stream;
mod walk;

pub use apply::{Applier, ApplyError, Settled};
pub use browse::{ChildPage, NodePage};
pub use crew::{Alone, Crew};
pub use import::{ImportError, Importer, LinkError};
pub use replay::Replay;
pub use report::{TreeStats, WatchSummary};
pub use stream::StreamError;
pub use walk::{Walk, WalkKind, WalkPart};

use crate::config::TreeConfig;
use crate::sync::{AtomicU64, Mutex, Ordering, RwLock};
use crate::watch::{RecursiveWatches, WatchedPaths};
use crate::{Identity, limits};
use acls::{AclId, AclTable};
use hash::PathHash;
use node::Node;
use owned::Owned;
use proto::acl::{AclBytes, WORLD_READ};
use proto::state::SessionRecord;
use proto::{ConnId, Owner, SessionId, Stat, StatPersisted, Zxid};
use quota::{Numbers, QuotaPaths};
use refused::Refused;
use shard::Shard;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The znode of the configuration.
const CONFIG: &str = "/zookeeper/config";

/// Who hears of changes; implemented by `server` and `sim`.
pub trait Audience {
    /// A whole event frame for a connection, which may be gone already. Called while the touched shards are
    /// locked, before the change can be read: must not wait and must not call back into the tree.
    fn deliver(&self, to: ConnId, frame: &[u8]);

    /// The identity of a connection, asked only when not everybody may read the znode. `None`: it is gone.
    fn identity(&self, of: ConnId) -> Option<Arc<Identity>>;
}

/// The output buffer of a connection.
pub trait Outbox {
    /// Lets `fill` append to the buffer. Called while shards are locked: must not call back into the tree.
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>));
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The connection, which owns watches. Below 2^56.
    pub conn: ConnId,
    /// Its session, which owns ephemerals.
    pub session: SessionId,
    /// What it has authenticated as.
    pub identity: &'a Identity,
}

/// A znode as it stands, seen under the lock of its shard.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    /// Its metadata as stored.
    pub stat: &'a StatPersisted,
    /// Its list.
    pub acl: AclBytes<'a>,
    /// The list is `world:anyone` with all permissions.
    pub acl_is_open: bool,
    /// Its children now.
    pub children: usize,
    /// Its value.
    pub data: Option<&'a [u8]>,
    /// What it contributes to the digest of the tree.
    pub digest: u32,
}

/// The quota that covers a path. A limit that is not set is −1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuotaView {
    /// The path that carries the quota.
    pub prefix: Box<str>,
    /// Soft limit of znodes.
    pub count_limit: i64,
    /// Hard limit of znodes.
    pub count_hard_limit: i64,
    /// Soft limit of bytes of values.
    pub bytes_limit: i64,
    /// Hard limit of bytes of values.
    pub bytes_hard_limit: i64,
    /// Znodes and bytes now; `None` when nobody counts them, and then nothing is refused.
    pub used: Option<(i64, i64)>,
    /// The last zxid whose change of `used` is counted in: taken under the lock under which it was counted.
    pub counted: Zxid,
}

/// The replicated state of one server. Many readers, one [`Applier`].
#[derive(Debug)]
pub struct Tree {
    config: TreeConfig,
    hash: PathHash,
    shards: Box<[RwLock<Shard>]>,
    acls: AclTable,
    owned: Mutex<Owned>,
    sessions: RwLock<BTreeMap<SessionId, i32>>,
    quotas: RwLock<QuotaPaths>,
    /// 0 while `quotas` is empty, so that most txns need not look.
    has_quotas: AtomicU64,
    recursive: RwLock<RecursiveWatches>,
    watched: WatchedPaths,
    /// The zxid of `mark`, readable without its lock.
    applied: AtomicU64,
    mark: Mutex<Mark>,
    digest_mismatches: AtomicU64,
    refused: Mutex<Refused>,
    znodes: AtomicU64,
    data_bytes: AtomicU64,
}

/// What is published together at the end of a txn.
#[derive(Debug, Default)]
struct Mark {
    zxid: Zxid,
    digest: i64,
    log: VecDeque<(Zxid, i64)>,
    mismatch: Option<Mismatch>,
}

/// A digest that was not the tree's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// With exactly this applied.
    pub zxid: Zxid,
    /// What the record, or the end of the snapshot, says.
    pub wanted: i64,
    /// What the tree has.
    pub found: i64,
}

/// A fresh tree, `/`, `/zookeeper`, `/zookeeper/quota` and `/zookeeper/config`, and its only writer.
///
/// # Panics
/// When `config.shards` is no power of two or above [`limits::SHARDS_MAX`].
pub fn new(config: TreeConfig) -> (Arc<Tree>, Applier) {
    let shards = config.shards;
    assert!(shards.is_power_of_two() && shards <= limits::SHARDS_MAX, "{shards} shards");
    let hash = PathHash::new(config.hash_seed);
    let tree = Arc::new(Tree {
        hash,
        shards: (0..shards).map(|_| RwLock::default()).collect(),
        acls: AclTable::new(hash),
        owned: Mutex::default(),
        sessions: RwLock::default(),
        quotas: RwLock::default(),
        has_quotas: AtomicU64::new(0),
        recursive: RwLock::default(),
        watched: WatchedPaths::new(),
        applied: AtomicU64::new(0),
        mark: Mutex::default(),
        digest_mismatches: AtomicU64::new(0),
        refused: Mutex::default(),
        znodes: AtomicU64::new(0),
        data_bytes: AtomicU64::new(0),
        config,
    });
    let mut applier = Applier::new(Arc::clone(&tree));
    applier.plant();
    (tree, applier)
}

impl Tree {
    /// The settings that it was made with.
    pub fn config(&self) -> &TreeConfig {
        &self.config
    }

    /// The last zxid applied: everything up to it can be read.
    pub fn applied(&self) -> Zxid {
        Zxid::from_u64(self.applied.load(Ordering::Acquire))
    }

    /// The last zxid applied and the digest of the tree there.
    pub fn applied_digest(&self) -> (Zxid, i64) {
        let mark = self.mark.lock();
        (mark.zxid, mark.digest)
    }

    /// The digest of the tree; 0 when digests are disabled.
    pub fn digest(&self) -> i64 {
        self.mark.lock().digest
    }

    /// Digests in records, or at the end of a snapshot, that were not the tree's.
    pub fn digest_mismatches(&self) -> u64 {
        self.digest_mismatches.load(Ordering::Relaxed)
    }

    /// The last one of [`Tree::digest_mismatches`] that a single record has shown ([`Applier::apply`]).
    pub fn last_mismatch(&self) -> Option<Mismatch> {
        self.mark.lock().mismatch
    }

    /// How often this server refused writes for a hard quota: by top-level path without its slash, at most
    /// [`limits::QUOTA_REFUSALS`] of them. In an ensemble the leader does.
    pub fn quota_refusals(&self) -> Vec<(Box<str>, u64)> {
        self.refused.lock().counts()
    }

    /// Notes that a write to `path` was refused for a hard quota.
    pub(crate) fn refused_for_quota(&self, path: &str) {
        self.refused.lock().note(path);
    }

    /// Looks at a znode; the empty path is the root. `look` runs under the lock of a shard and must not call
    /// back into the tree.
    pub fn peek<R>(&self, path: &str, look: impl FnOnce(Option<NodeView<'_>>) -> R) -> R {
        let path = canonical(path);
        let h = self.hash.of(path.as_bytes());
        let shard = self.shard(h).read();
        let Some(node) = shard.find(h, path.as_bytes()) else { return look(None) };
        self.acls.with(node.acl, |acl| {
            look(Some(NodeView {
                stat: node.stat(),
                acl,
                acl_is_open: node.acl == AclId::OPEN,
                children: node.child_count(),
                data: node.data(),
                digest: node.digest(),
            }))
        })
    }

    /// The quota that covers a path, whether or not it is enforced. `None` also while its limits are missing.
    pub fn quota_for(&self, path: &str) -> Option<QuotaView> {
        let prefix: Box<str> = self.quotas.read().covering(path)?.into();
        let numbers =
            |path: String| self.peek(&path, |n| n.map(|n| Numbers::parse(n.data.unwrap_or_default())));
        let limits = numbers(quota::limits_path(&prefix))?;
        let (used, counted) = self.peek(&quota::stats_path(&prefix), |n| {
            (n.map(|n| Numbers::parse(n.data.unwrap_or_default())), self.applied())
        });
        Some(QuotaView {
            count_limit: limits.get(Numbers::COUNT),
            count_hard_limit: limits.get(Numbers::COUNT_HARD),
            bytes_limit: limits.get(Numbers::BYTES),
            bytes_hard_limit: limits.get(Numbers::BYTES_HARD),
            used: used.map(|u| (u.get(Numbers::COUNT), u.get(Numbers::BYTES))),
            counted,
            prefix,
        })
    }

    /// The ephemerals of a session.
    pub fn ephemerals_of(&self, session: SessionId) -> Vec<Box<str>> {
        self.owned.lock().of(session).map(text).collect()
    }

    /// All sessions, by id.
    pub fn sessions(&self) -> Vec<SessionRecord> {
        let record = |(&session, &timeout_ms): (&SessionId, &i32)| SessionRecord { session, timeout_ms };
        self.sessions.read().iter().map(record).collect()
    }

    /// The time-out of a session in ms; `None` if there is no such session.
    pub fn session_timeout(&self, id: SessionId) -> Option<i32> {
        self.sessions.read().get(&id).copied()
    }

    /// Sessions now.
    pub fn session_count(&self) -> usize {
        self.sessions.read().len()
    }

    /// Removes the watches of a connection that has ended; it must read no more. Costs as much as it watched.
    pub fn drop_connection(&self, conn: ConnId) {
        for h in self.watched.take(conn) {
            let shard = self.shard(h).read();
            let counted = shard.watches.lock().drop_watcher(h, &self.hash, conn);
            self.watched.count(-(counted as i64));
        }
        // Few connections watch recursively; the others don't stop the applier.
        if self.recursive.read().watches(conn) {
            let counted = self.recursive.write().drop_connection(conn);
            self.watched.count(-(counted as i64));
        }
    }

    fn shard_number(&self, h: u64) -> usize {
        // The low bits choose the place within a shard's index, the top ones its tag.
        (h >> 32) as usize & (self.shards.len() - 1)
    }

    fn shard(&self, h: u64) -> &RwLock<Shard> {
        &self.shards[self.shard_number(h)]
    }

    fn allows(&self, acl: AclId, perm: i32, who: &Identity) -> bool {
        self.config.skip_acl || self.acls.allows(acl, perm, who)
    }

    fn stat_of(&self, node: &Node) -> Stat {
        node.stat().client_view(node.value().len(), node.child_count(), self.config.extended_types)
    }

    fn owner_of(&self, node: &Node) -> Owner {
        Owner::of(node.stat().ephemeral_owner, self.config.extended_types)
    }

    /// Calls `see` with each znode at and below `path`, one lock at a time: of what changes meanwhile, some
    /// is seen and some is not. Takes memory for a few names at each depth.
    fn each_below(&self, path: &str, see: &mut dyn FnMut(&Node)) {
        // Each with the place among its children to go on at.
        let mut due: Vec<(String, usize)> = vec![(canonical(path).to_owned(), 0)];
        while let Some((path, place)) = due.pop() {
            let h = self.hash.of(path.as_bytes());
            let shard = self.shard(h).read();
            let Some(node) = shard.find(h, path.as_bytes()) else { continue };
            if place == 0 {
                see(node);
            }
            let Some(children) = &node.children else { continue };
            let below: Vec<_> = children.names_at(place).map(|name| (child(&path, name), 0)).collect();
            if place + 1 < children.places() {
                due.push((path, place + 1));
            }
            due.extend(below);
        }
    }
}

/// The path under which the root is kept; `""` is another name of it.
fn canonical(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// The path of a child.
fn child(path: &str, name: &[u8]) -> String {
    let name = std::str::from_utf8(name).expect("names come from paths, which are text");
    if path == "/" { format!("/{name}") } else { format!("{path}/{name}") }
}

/// A path that was kept as bytes.
fn text(path: &[u8]) -> Box<str> {
    std::str::from_utf8(path).expect("paths are text when they come in").into()
}

/// The metadata of the built-in znodes: all zero but for the ACL version of the configuration's. The data version
/// of that one becomes −1 too where an ensemble sets it (`set_config`), not on a server alone.
fn built_in() -> [(&'static str, AclBytes<'static>, StatPersisted); 4] {
    let zero = StatPersisted::default();
    let config = StatPersisted { aversion: -1, ..zero };
    [
        ("/", proto::acl::OPEN, zero),
        ("/zookeeper", proto::acl::OPEN, zero),
        (quota::QUOTA, proto::acl::OPEN, zero),
        (CONFIG, WORLD_READ, config),
    ]
}
