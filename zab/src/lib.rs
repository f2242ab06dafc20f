//! Consensus without I/O: who leads, what is proposed, what is acknowledged, what is committed.
//!
//! Nouns: a *proposal* is a record with the next zxid; an *acknowledgement* says that one server has it on stable
//! storage; a proposal is *committed* when a [`quorum::Verifier`] says that enough servers have acknowledged it. A
//! *learner* follows or observes a leader through a *link*. [`Zab`] is one server's part of it all, [`History`] the end
//! of its log as memory has it.
//!
//! ```text
//!   election     votes go round until a quorum agrees on one               election
//!   discovery    a quorum promises an epoch above all that they knew       leading, learning
//!   sync         each learner gets the leader's history: DIFF, TRUNC, SNAP sync
//!   broadcast    proposals, acknowledgements, commits                      broadcast
//!   digests      have all replicas the same state?                         digests
//!   pace         does the leader's disk hold the others up?                pace
//!
//!   leader:   next_zxid ─ propose ─ take_batch ─► the log, and PROPOSAL to each follower
//!             persisted(Durable), Ack of the followers ─► committed ─► COMMIT, INFORM, next_to_apply
//!   learner:  PROPOSAL ─► take_batch ─► the log ─ persisted(Durable) ─► ACK;  COMMIT ─► next_to_apply
//! ```
//!
//! A server on its own is a quorum of one and takes the same way. Bytes, roles and waits are Apache's (quorum protocol);
//! what Falconers do among themselves beyond it says so where it stands.
//!
//! What holds, asserted in release builds: an acknowledgement of an epoch is built from the proof that its record is
//! durable, and that record from the proof that the history is; nothing is given out to be applied that is not committed
//! and durable here; zxids have no holes; a log is cut only when it stands still.
//!
//! What is not here: sockets, files, clocks, threads, chance, and the meaning of a record.

#![no_std]

extern crate alloc;

pub mod broadcast;
mod config;
mod digests;
mod election;
pub mod history;
mod leading;
mod learning;
pub mod limits;
mod machine;
mod output;
mod pace;
pub mod quorum;
mod sync;

pub use broadcast::{Broadcast, Committed};
pub use config::{ElectionTimes, Ensemble, Recovered, SlowLog};
pub use digests::Differs;
pub use history::History;
pub use machine::Zab;
pub use output::{Output, Records, Service};
pub use pace::Slow;
pub use quorum::Verifier;
