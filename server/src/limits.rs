//! The bounds of this crate, each with its reason.

/// Bytes read from one socket in one go. Large enough that a pipelining client is read in one call, small enough
/// that a loop comes round to its other connections.
pub const READ_CHUNK: usize = 256 << 10;

/// An outbox keeps a buffer of at most this size when it is idle: a reply of a megabyte should not stay in memory
/// for the life of a connection.
pub const OUTBOX_KEEP: usize = 64 << 10;

/// A connection is not read from while this many bytes wait for its client.
pub const OUTBOX_PAUSE: usize = 4 << 20;

/// A connection is cut when this many bytes wait for it: events, and the replies to requests already taken, can get it
/// there. Two hundred of the largest values, far more than a client that reads lets pile up.
pub const OUTBOX_MAX: usize = 256 << 20;

/// Bytes that may wait in the inbox of the node before loops stop reading writes.
pub const INBOX_BYTES: usize = 64 << 20;

/// Connections accepted in one go, so that a storm of them leaves room for those that exist.
pub const ACCEPT_BATCH: usize = 256;

/// How often a loop looks for connections that never shook hands, in ms.
pub const SWEEP_MS: u64 = 1_000;

/// File descriptors that clients never get: the log, its spares, snapshots, event loops. Without them the server
/// would have to end when a segment can't be opened.
pub const DESCRIPTORS_KEPT: u64 = 64;

/// Outboxes that a stepping thread writes out alone; with more, the other loops are woken to write to their own. Waking one
/// costs about as much as five writes.
pub const FLUSH_ALONE: usize = 128;
