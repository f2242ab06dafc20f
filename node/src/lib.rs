//! One server as a state machine: it composes [`zab`] and [`engine`], and is the only place with ordering rules.
//!
//! Three nouns: an [`Input`] is everything that can happen to a server; the [`Clients`] are told what their
//! writes led to; an [`Output`] is what the shell is to do for agreement. A [`gate::Gate`] keeps the requests of one
//! connection in their order. The stages that a write goes through are named once, in [`stage::Stage`].
//!
//! ```text
//!   leader     Input::Write ── Prep::prepare ── Zab::propose ─► the log, the followers
//!              Input::Persisted, acknowledgements ─► committed ── Applier::apply ── Clients::reply
//!   learner    Input::Write ── REQUEST to the leader
//!              PROPOSAL, COMMIT or INFORM ─► the log ─► committed ── Applier::apply ── whose request was it? ── reply
//!   any        the log ◄── Node::take_batch;  the shell ◄── Node::next_output
//! ```
//!
//! Everything but the applied tree belongs to a role, and goes with it.
//!
//! What is not here: sockets, files, clocks, threads, chance; rules about znodes (engine) or about who may
//! commit (zab). Reads never come here: they go from the gate to the tree.

#![no_std]

extern crate alloc;

mod digests;
pub mod gate;
mod leader;
mod learner;
pub mod limits;
mod local;
mod machine;
pub mod sessions;
pub mod stage;

pub use local::LocalSessions;
pub use machine::{
    Clients, CloseReason, Config, HANDS_OVER_FULL, Handshake, Input, LOG_FULL_CODE, Node, Now,
};
pub use zab::{Differs, Output, Records, Service, Slow};
