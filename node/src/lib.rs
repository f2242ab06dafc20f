//! One server as a state machine: it composes [`zab`] and [`engine`], and is the only place with ordering rules.
//!
//! Three nouns: an [`Input`] is everything that can happen to a server; the [`Clients`] are told what their
//! writes led to; a [`gate::Gate`] keeps the requests of one connection in their order. The stages that a write
//! goes through are named once, in [`stage::Stage`].
//!
//! ```text
//!   Input::Write ── Node::step ── Prep::prepare ── Broadcast::propose ─┐
//!                                                                     ▼
//!   the log  ◄── Node::take_batch: everything prepared since the last call, as one RecordBatch
//!      │
//!   Input::Persisted(Durable) ── Broadcast::own_ack ── Committed ── Applier::apply ── Clients::reply
//! ```
//!
//! What is not here: sockets, files, clocks, threads, chance; rules about znodes (engine) or about who may
//! commit (zab). Reads never come here: they go from the gate to the tree.

#![no_std]

extern crate alloc;

pub mod gate;
pub mod limits;
mod machine;
pub mod sessions;
pub mod stage;

pub use machine::{Clients, CloseReason, Config, Handshake, Input, LOG_FULL_CODE, Node, Now};
pub use zab::{Output, Records, Service};
