//! The bounds of this crate, each with its reason.

/// Bytes of a segment unless set otherwise: Apache's preallocation, about a second of heavy load.
pub const SEGMENT_LEN: u64 = 64 << 20;
/// Smallest segment: tests and the simulator want many switches, and a batch of some records must still fit.
pub const SEGMENT_LEN_MIN: u64 = 64 << 10;
/// Largest segment: a record's bound follows from it, and a slot must hold a record.
pub const SEGMENT_LEN_MAX: u64 = vfs::limits::SLOT_MAX as u64;
/// A batch is closed at this many bytes: about 0.3 ms of transfer; bounds the torn region, the buffers and the tail latency.
/// One longer record makes a batch of its own.
pub const BATCH_LEN: usize = 1 << 20;
/// Spares that the preparer keeps ready: one for the next switch, one while the next is being zeroed.
pub const SPARES_MIN: usize = 2;
/// Most spares kept: uncapped recycling has filled other servers' disks.
pub const SPARES_MAX: usize = 4;
/// Bytes zeroed at once: small enough not to disturb commits (measured), large enough for a second per segment.
pub const ZERO_CHUNK: usize = 256 << 10;
/// Pause between such chunks when nobody waits for the segment, ms.
pub const ZERO_PAUSE_MS: u64 = 4;
/// Pause before trying again after the disk was full, ms.
pub const FULL_PAUSE_MS: u64 = 1000;
/// Shortest record: a txn header.
pub const RECORD_MIN: usize = 32;
/// Longest record accepted from an Apache log, bytes: above any sane `jute.maxbuffer`; beyond it a length is damage.
pub const APACHE_RECORD_MAX: usize = 64 << 20;
