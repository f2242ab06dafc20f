//! Consensus without I/O: what is proposed, what is acknowledged, what is committed.
//!
//! Three nouns: a *proposal* is a record with the next zxid; an *acknowledgement* says that one server has it
//! on stable storage; a proposal is *committed* when a [`quorum::Verifier`] says that enough servers have
//! acknowledged it.
//!
//! ```text
//!   prepare ── Broadcast::next_zxid ── the record is proposed: to the log, and to each peer
//!   log     ── Broadcast::own_ack(Durable) ─┐
//!   peers   ── Broadcast::peer_ack ─────────┴─ Committed{upto} ── apply
//! ```
//!
//! A server on its own is a quorum of one and takes the same way. Acknowledgements travel in order, so one
//! number per server, the last zxid it has acknowledged, says everything.
//!
//! What is not here: sockets, files, clocks, threads, chance, and the meaning of a record.

#![no_std]

extern crate alloc;

pub mod broadcast;
mod config;
mod output;
pub mod quorum;

pub use broadcast::{Broadcast, Committed};
pub use config::{ElectionTimes, Ensemble, Recovered};
pub use output::{Output, Records, Service};
pub use quorum::Verifier;
