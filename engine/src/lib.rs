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
pub use prep::{Prep, PrepConfig, PrepRequest};
pub use tree::{
    Applier, ApplyError, Asker, Audience, ImportError, Importer, LinkError, NodeView, Outbox, QuotaView,
    Settled, Tree, TreeStats, Walk, WalkKind, WalkPart, WatchSummary, new,
};
