//! The simulator: the real `node`, `zab`, `engine`, `wal` and `snapshot` of whole ensembles, with clients, in one thread
//! from one seed.
//!
//! A *run* is one world out of one seed: servers, clients, a network, disks and clocks, and a *plan* of *faults* that strike
//! them. Everything that happens is an *event* of virtual time. What is true from some moment on is told as a *fact* to the
//! *book*; the *invariants* are asked about every fact. At the end of a run nothing is broken any more and service is
//! demanded; then the *history* of all clients is judged against a plain *model*.
//!
//! ```text
//!   seed ── Rng ──► plan of faults, delays, what clients ask for
//!                     │
//!   Kernel: events in the order of virtual time ──► Server (node, log, snapshots over vfs::mem) ──► facts ──► invariants
//!                     │                     └─────► Client ──► history ──► check: writes, reads, sessions, watches
//!                     └─ Net: connections that break, cut links, delays
//!   a failing seed ──► shrink ──► the one command that replays it
//! ```
//!
//! The same seed gives the same run, event by event: the sum in [`run::Outcome::trace`] is equal on every machine and in
//! every build.
//!
//! What is not here: threads (they are loom's and the real processes' business), sockets, and the shell of `falconerd`: what
//! that does between the node and the system, [`server`] does here with events.

pub mod book;
pub mod check;
pub mod client;
pub mod coverage;
pub mod fault;
pub mod history;
pub mod invariants;
pub mod kernel;
pub mod lines;
pub mod locals;
pub mod model;
pub mod net;
pub mod op;
pub mod peers;
pub mod rng;
pub mod run;
pub mod server;
pub mod shrink;
pub mod time;
