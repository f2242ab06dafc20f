//! The replicated state of a server: znodes, ACLs, sessions, watches, quotas and the digest over them.
//!
//! Three nouns. The [`Tree`] is the state; any number of threads read it. The [`Applier`] is the only one who
//! changes it, one txn after the other. [`Prep`] is the leader's view ahead: it turns requests into txns against
//! the tree plus everything that is on its way to it.
//!
//! ```text
//!  WriteOp ── Prep::prepare ──► record ══ log, quorum ══► Applier::apply ──► events to the Audience
//!                 ▲ peek                                       │             reply to the client
//!                 │                                            ▼
//!  ReadOp ─── Tree::read ──────────────────────────────────── Tree ── Walk ──► state records (snapshots)
//!                 └──► reply into the Outbox                   ▲
//!                                                          Importer ◄── state records
//! ```
//!
//! The tree lies in shards, each behind a lock. A read takes one lock, puts its reply into the connection's outbox
//! and gives the lock back; a txn takes those of all that it touches, puts its events into the outboxes, publishes
//! its zxid and gives them back. So events come before whatever shows their cause, and a multi is seen whole or not
//! at all. Applying is total and idempotent: replay over a walk that was taken while writes went on ends in exactly
//! the tree that was walked (see [`tree`]).
//!
//! ```
//! use engine::{Applier, Audience, Identity, TreeConfig};
//! use proto::txn::{CreateTxnKind, Record, Txn, TxnHeader};
//! use proto::{ConnId, SessionId, WallMs, Xid, Zxid, acl};
//!
//! struct Nobody;
//! impl Audience for Nobody {
//!     fn deliver(&self, _: ConnId, _: &[u8]) {}
//!     fn identity(&self, _: ConnId) -> Option<std::sync::Arc<Identity>> {
//!         None
//!     }
//! }
//!
//! let (tree, mut applier) = engine::new(TreeConfig::default());
//! let txn = Txn::Create {
//!     kind: CreateTxnKind::Create,
//!     path: "/a".into(),
//!     data: Some(b"value"),
//!     acl: acl::OPEN,
//!     ephemeral: false,
//!     parent_cversion: 1,
//! };
//! let header = TxnHeader {
//!     session: SessionId(1),
//!     cxid: Xid(1),
//!     zxid: Zxid::from_u64(1),
//!     time: WallMs(1_700_000_000_000),
//!     kind: txn.kind(),
//! };
//! let mut record = Vec::new();
//! Record { header, txn, digest: None }.encode(&mut record);
//! applier.apply(&record, &Nobody, &mut |_, reply| println!("{reply:?}"))?;
//! assert_eq!(tree.peek("/a", |node| node.map(|n| n.stat.czxid)), Some(1));
//! # Ok::<(), engine::ApplyError>(())
//! ```
//!
//! What is not here: files, sockets, clocks, threads, chance, and every decision about order.

pub mod acl;
mod config;
pub mod digest;
pub mod limits;
pub mod prep;
mod sync;
pub mod tree;
mod watch;

pub use acl::Identity;
pub use config::TreeConfig;
pub use prep::{Prep, PrepConfig, PrepRequest, Standing};
pub use tree::{
    Alone, Applier, ApplyError, Asker, Audience, ChildPage, Crew, ImportError, Importer, LinkError, Mismatch,
    NodePage, NodeView, Outbox, QuotaView, Replay, Settled, StreamError, Tree, TreeStats, Walk, WalkKind,
    WalkPart, WatchSummary, new,
};
