//! The tree.

use crate::Identity;
use proto::acl::AclBytes;
use proto::client::{ReadOp, WriteReply};
use proto::jute::DecodeError;
use proto::state::SessionRecord;
use proto::txn::TxnHeader;
use proto::{ConnId, SessionId, StatPersisted, WallMs, Xid, Zxid};
use std::sync::Arc;

/// What an operator decides about the tree, once at start.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// Shards, a power of two.
    pub shards: usize,
    /// TTL znodes are recognised (`zookeeper.extendedTypesEnabled`).
    pub extended_types: bool,
    /// Hard quotas refuse (`zookeeper.enforceQuota`).
    pub enforce_quota: bool,
    /// No ACL is checked (`zookeeper.skipACL`).
    pub skip_acl: bool,
    /// The digest is computed and compared (`zookeeper.digest.enabled`).
    pub digest_enabled: bool,
    /// Where the hash of paths starts. It should differ from process to process, so that nobody can prepare
    /// paths that collide; it never reaches an output.
    pub hash_seed: u64,
}

impl Default for TreeConfig {
    fn default() -> TreeConfig {
        TreeConfig {
            shards: 1024,
            extended_types: false,
            enforce_quota: false,
            skip_acl: false,
            digest_enabled: true,
            hash_seed: 0x9e37_79b9_7f4a_7c15,
        }
    }
}

/// Who hears of changes; implemented by `server` and `sim`.
pub trait Audience: Sync {
    /// A whole event frame for a connection. Called while the touched shards are locked, before the change can
    /// be read; must not block and must not call back into the tree.
    fn deliver(&self, to: ConnId, frame: &[u8]);
    /// The identity of a connection, asked only when the ACL of the znode is not readable by everybody.
    /// `None`: the connection is gone.
    fn identity(&self, of: ConnId) -> Option<Arc<Identity>>;
}

/// A connection's output buffer.
pub trait Outbox {
    /// Lets `fill` append to the buffer. Called exactly once per read, while shards are locked.
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>));
}

/// Who asks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The connection, the owner of watches.
    pub conn: ConnId,
    /// Its session, the owner of ephemerals.
    pub session: SessionId,
    /// Its identity.
    pub identity: &'a Identity,
}

/// A znode as it stands, seen under its shard's lock.
pub struct NodeView<'a> {
    /// Its metadata as stored.
    pub stat: &'a StatPersisted,
    /// Its ACL.
    pub acl: AclBytes<'a>,
    /// The ACL is `world:anyone` with all permissions.
    pub acl_is_open: bool,
    /// Its children now.
    pub children: usize,
    /// Its value.
    pub data: Option<&'a [u8]>,
    /// Its contribution to the digest.
    pub digest: u32,
}

/// The quota that covers a path. Each number is −1 where it is not set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuotaView {
    /// The path that carries the quota.
    pub prefix: Box<str>,
    /// Soft limit of znodes.
    pub count_limit: i64,
    /// Hard limit of znodes.
    pub count_hard_limit: i64,
    /// Soft limit of bytes.
    pub bytes_limit: i64,
    /// Hard limit of bytes.
    pub bytes_hard_limit: i64,
    /// Znodes now; `None` when the statistics znode is missing (then nothing is refused).
    pub used: Option<(i64, i64)>,
}

/// Numbers of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TreeStats {
    /// Znodes as Apache counts them: the root twice.
    pub znodes: u64,
    /// Ephemerals.
    pub ephemerals: u64,
    /// Bytes of paths and values.
    pub data_bytes: u64,
    /// Watches in both of Apache's tables (`zk_watch_count`).
    pub watches: u64,
    /// Sessions.
    pub sessions: u64,
}

/// What `wchs` shows; plain child watches are not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatchSummary {
    /// Connections with a watch.
    pub connections: u64,
    /// Paths with a watch.
    pub paths: u64,
    /// Pairs of connection and path.
    pub watches: u64,
}

/// The replicated state. Many readers, one [`Applier`].
pub struct Tree {}

/// The one writer of a [`Tree`].
pub struct Applier {
    tree: Arc<Tree>,
}

/// A fresh tree: `/`, `/zookeeper`, `/zookeeper/quota`, `/zookeeper/config`.
pub fn new(config: TreeConfig) -> (Arc<Tree>, Applier) {
    let _ = config;
    todo!()
}

/// Why a record can't be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ApplyError {
    /// The record is no record.
    Undecodable {
        /// Its zxid, where the header could be read.
        zxid: Option<Zxid>,
        /// What is wrong.
        source: DecodeError,
    },
}

#[allow(unused_variables)]
impl Tree {
    /// The configuration it was made with.
    pub fn config(&self) -> &TreeConfig {
        todo!()
    }
    /// Answers a read: appends the whole reply frame to `out` under the shard's lock, and the catch-up events of
    /// setWatches before it.
    pub fn read(&self, op: &ReadOp<'_>, xid: Xid, who: &Asker<'_>, out: &dyn Outbox) {
        todo!()
    }
    /// The last zxid applied.
    pub fn applied(&self) -> Zxid {
        todo!()
    }
    /// The last zxid applied and the digest of the tree then.
    pub fn applied_digest(&self) -> (Zxid, i64) {
        todo!()
    }
    /// The digest of the tree.
    pub fn digest(&self) -> i64 {
        todo!()
    }
    /// Every 128th zxid with its digest, the last 1024 of them, oldest first.
    pub fn digest_log(&self) -> Vec<(Zxid, i64)> {
        todo!()
    }
    /// Digests in records that differed from the tree's.
    pub fn digest_mismatches(&self) -> u64 {
        todo!()
    }
    /// Removes the watches of a connection that has ended and reads no more.
    pub fn drop_connection(&self, conn: ConnId) {
        todo!()
    }
    /// Looks at a znode; `""` is the root.
    pub fn peek<R>(&self, path: &str, look: impl FnOnce(Option<NodeView<'_>>) -> R) -> R {
        todo!()
    }
    /// The quota that covers `path`.
    pub fn quota_for(&self, path: &str) -> Option<QuotaView> {
        todo!()
    }
    /// The ephemerals of a session.
    pub fn ephemerals_of(&self, session: SessionId) -> Vec<Box<str>> {
        todo!()
    }
    /// All sessions.
    pub fn sessions(&self) -> Vec<SessionRecord> {
        todo!()
    }
    /// The time-out of a session in ms.
    pub fn session_timeout(&self, id: SessionId) -> Option<i32> {
        todo!()
    }
    /// Sessions now.
    pub fn session_count(&self) -> usize {
        todo!()
    }
    /// Containers and TTL znodes to be removed now, at most `max`.
    pub fn due_containers(&self, now: WallMs, never_used_ms: i64, max: usize) -> Vec<String> {
        todo!()
    }
    /// The numbers of the tree.
    pub fn stats(&self) -> TreeStats {
        todo!()
    }
    /// What `wchs` shows.
    pub fn watch_summary(&self) -> WatchSummary {
        todo!()
    }
    /// The ephemerals of each session that has some.
    pub fn ephemerals_by_session(&self) -> Vec<(SessionId, Vec<Box<str>>)> {
        todo!()
    }
    /// The connections that watch each path (data table).
    pub fn watches_by_path(&self) -> Vec<(Box<str>, Vec<ConnId>)> {
        todo!()
    }
    /// The paths that each connection watches (data table).
    pub fn watches_by_connection(&self) -> Vec<(ConnId, Vec<Box<str>>)> {
        todo!()
    }
    /// Starts a walk over the whole state.
    pub fn walk(&self) -> Walk {
        todo!()
    }
    /// After the replay over a fuzzy import: every znode hangs below its parent and every ACL is known.
    pub fn check_links(&self) -> Result<(), LinkError> {
        todo!()
    }
}

#[allow(unused_variables)]
impl Applier {
    /// The tree it writes.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }
    /// Applies one record. Total and idempotent: the same function for live commits and for replay.
    pub fn apply(
        &mut self,
        record: &[u8],
        audience: &dyn Audience,
        reply: &mut dyn FnMut(&TxnHeader, &WriteReply<'_>),
    ) -> Result<(), ApplyError> {
        todo!()
    }
    /// Raises the last applied zxid without a txn: a new leader starts its epoch at counter 0.
    pub fn advance(&mut self, to: Zxid) {
        todo!()
    }
    /// Sets `/zookeeper/config` to this server's configuration; local, outside the digest.
    pub fn set_config(&mut self, text: &[u8], version: i64, time: WallMs, audience: &dyn Audience) {
        todo!()
    }
    /// Empties the tree and starts to import a state.
    pub fn import(&mut self) -> Importer<'_> {
        todo!()
    }
}

/// What the records of a part are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkKind {
    /// `proto::state::SessionRecord`.
    Sessions,
    /// `proto::state::AclRecord`.
    Acls,
    /// `proto::state::NodeRecord`.
    Nodes,
    /// Nothing more.
    Done,
}

/// One part of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkPart {
    /// What was appended.
    pub kind: WalkKind,
    /// Records that were appended.
    pub count: u64,
}

/// A walk over the state: sessions, then ACLs, then znodes.
pub struct Walk {}

#[allow(unused_variables)]
impl Walk {
    /// Every txn up to this zxid is contained.
    pub fn start(&self) -> Zxid {
        todo!()
    }
    /// Appends about `max_bytes` of encoded records of one kind.
    pub fn next(&mut self, tree: &Tree, max_bytes: usize, out: &mut Vec<u8>) -> WalkPart {
        todo!()
    }
    /// Once `Done` was returned: no txn after this zxid is contained; with the digest of the tree there.
    pub fn end(&self) -> Option<(Zxid, i64)> {
        todo!()
    }
}

/// Where an imported state stops being fuzzy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Digests are compared from this zxid on.
    pub zxid: Zxid,
    /// The digest of the tree there, where it is known.
    pub digest: Option<i64>,
}

/// Takes in the records of a walk or of an Apache snapshot. The three methods may be called from several
/// threads; sessions and ACLs first.
pub struct Importer<'a> {
    _applier: &'a mut Applier,
}

#[allow(unused_variables)]
impl Importer<'_> {
    /// Takes in session records.
    pub fn sessions(&self, bytes: &[u8], count: u64) -> Result<(), ImportError> {
        todo!()
    }
    /// Takes in ACL records.
    pub fn acls(&self, bytes: &[u8], count: u64) -> Result<(), ImportError> {
        todo!()
    }
    /// Takes in znodes, in any order.
    pub fn nodes(&self, bytes: &[u8], count: u64) -> Result<(), ImportError> {
        todo!()
    }
    /// Links children to their parents and rebuilds every index. `start`: every txn up to it is contained.
    /// `settled`: where the fuzziness ends; `None` for a state that is not fuzzy.
    pub fn finish(self, start: Zxid, settled: Option<Settled>) -> Result<(), ImportError> {
        todo!()
    }
}

/// Why a state can't be imported.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ImportError {
    /// A record is cut short or malformed.
    Undecodable {
        /// What the record should have been.
        kind: WalkKind,
        /// Its number within the part.
        record: u64,
        /// What is wrong.
        source: DecodeError,
    },
    /// There is no root.
    NoRoot,
}

/// What is wrong with a tree after replay.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LinkError {
    /// A znode without its parent.
    Orphan {
        /// How many there are.
        count: u64,
        /// One of them.
        path: Box<str>,
    },
    /// A znode whose ACL is in no table.
    UnknownAcl {
        /// How many there are.
        count: u64,
        /// One of them.
        path: Box<str>,
    },
}
