//! The shell of the server: it moves bytes between clients, disk and node, and decides nothing.
//!
//! Three nouns: an *event loop* owns connections and reads their frames ([`event_loop`]); the *core* is what all
//! threads share, the node behind a try-lock above all ([`core`]); the *log queue* is the way of prepared records to
//! the disk ([`log`]).
//!
//! ```text
//!  client bytes
//!    │ decode   event loop                 frame → request
//!    │ admit    node::gate, per connection order; a read whose turn it is goes straight to the tree
//!    │          Core::submit_write         into the inbox
//!    │ prepare  Core::pump → Node::step    by whoever gets the node's lock
//!    │ append   LogQueue                   by the stepping thread when the log is idle, else by the log thread
//!    │ persist  Core::submit_persisted     the batch is durable
//!    │ commit   Core::pump → Node::step
//!    │ apply    engine::Applier            events go to the outboxes of the watchers
//!    │ reply    Step::reply                then the reply, then the reads that waited behind the write
//!  client bytes ── Conn::flush, by the thread that stepped
//! ```
//!
//! Threads: the event loops, the log thread, the preparer of segments, the snapshot thread, the one that makes memory ready,
//! the one that waits for signals. Death of any of them by a panic ends the process.

pub mod accounting;
pub mod admin;
pub mod audit;
pub mod boot;
pub mod command;
pub mod conn;
pub mod core;
pub mod disk;
pub mod diskcheck;
pub mod event_loop;
pub mod fourletter;
pub mod history;
pub mod import;
pub mod limits;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod outlet;
pub mod peers;
pub mod placement;
pub mod replay;
pub mod requests;
pub mod service_manager;
pub mod snapshots;
pub mod stats;
pub mod version;
