//! The bounds of this crate, each with its reason.

/// Most durable writes in flight at once. Beyond four the measured gain on one device is gone and the tail grows
/// (wal-path measurements, several commits in flight).
pub const DEPTH_MAX: usize = 4;

/// Largest buffer of a slot, bytes: one record may exceed a batch, a record is bounded by `jute.maxbuffer` which operators
/// raise to a few MiB; 64 MiB is a whole log segment.
pub const SLOT_MAX: usize = 64 << 20;
