//! Names, numbers and bytes of the ZooKeeper protocols.
//!
//! Three nouns: a *request* comes from a client ([`client`]); a *txn* is a logged change, whose encoded form is a
//! *record* ([`txn`]); a *state record* is one piece of a snapshot ([`state`]). All of them borrow from the bytes
//! they were read from, and every length is checked once, in [`jute::Reader`], before anything is allocated.
//!
//! ```text
//!   client frame ── client::RequestHeader ── client::ReadOp   answered from the tree
//!                                         └─ client::WriteOp  prepared into a txn::Record
//!   txn::RecordBatch ── the log, the peers, the applier, the exporters: one encoding for all
//! ```
//!
//! The servers of an ensemble speak [`peer`]: votes on the election port, packets on the quorum port.
//!
//! What is not here: sockets, files, clocks, and every rule about when a request succeeds.

#![no_std]

extern crate alloc;

pub mod acl;
pub mod client;
pub mod error;
pub mod ids;
pub mod jute;
pub mod mutant;
pub mod path;
pub mod peer;
pub mod session;
pub mod stat;
pub mod state;
pub mod txn;

pub use error::Code;
pub use ids::{
    ConnId, Durable, DurableEpochs, Epoch, Instant, LinkId, ServerId, SessionId, WallMs, Xid, Zxid,
};
pub use stat::{Owner, Stat, StatPersisted};
