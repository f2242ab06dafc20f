//! The bounds of this crate, each with its reason.

/// Links of learners that one leader takes: far more servers than any ensemble has; connections of strangers count
/// until they are found out.
pub const LEARNERS: usize = 512;

/// Links that wait for the end of an election: as many servers as an ensemble usually has, several times over.
pub const WAITING_LINKS: usize = 64;

/// Bytes of packets of a leader that wait for the disk of a learner, above which its link should not be read: as much as
/// a leader has in flight.
pub const WAITING_BYTES: usize = 64 << 20;

/// How long at least a server looks for a leader before it serves reads without one, ms. Apache's.
pub const READ_ONLY_AFTER_MS: u64 = 2_000;
