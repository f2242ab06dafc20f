//! The replicated state of a ZooKeeper server: znodes, ACLs, sessions, watches, quotas, digest.

pub mod acl;
pub mod digest;
pub mod prep;
pub mod tree;

pub use acl::Identity;
pub use prep::{Prep, PrepConfig, PrepRequest};
pub use tree::{
    Applier, ApplyError, Asker, Audience, ImportError, Importer, LinkError, NodeView, Outbox, QuotaView,
    Settled, Tree, TreeConfig, TreeStats, Walk, WalkKind, WalkPart, WatchSummary, new,
};
