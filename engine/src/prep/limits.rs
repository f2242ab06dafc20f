//! The bounds of prepare.

/// The longest encoded record, in bytes, unless configured otherwise: the longest that Apache reads back with
/// its default `jute.maxbuffer` (1048575) and as much extra again. What exceeds it is refused before it is
/// logged, so whatever is logged can be read.
pub const RECORD_BYTES_MAX: usize = 2 * 1_048_575;

/// The longest path allocation, in bytes, that a free slot of the in-flight table keeps for its next use:
/// longer than nearly every path, and small against the record that the slot stood for.
pub(super) const PATH_KEPT_MAX: usize = 1024;
