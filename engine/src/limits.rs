//! The bounds of the engine, each with its reason.

/// Shards of a tree by default. Readers and the applier meet only when they touch the same one; with a thousand
/// of them the index of a shard of a million znodes holds a thousand entries and is rebuilt in microseconds.
pub const SHARDS: usize = 1024;

/// The most shards: beyond it the locks cost more memory than they save time.
pub const SHARDS_MAX: usize = 1 << 16;

/// Bytes of records that a walk encodes under one lock: about ten microseconds, which a commit may wait.
pub const WALK_SLICE_BYTES: usize = 16 * 1024;

/// Digests kept for the four-letter word `hash` (semantics, section 12).
pub const DIGEST_LOG: usize = 1024;

/// Top-level paths whose refusals by hard quotas are counted: with a quota on each of more of them, those refused least are
/// not shown.
pub const QUOTA_REFUSALS: usize = 64;

/// Bytes of a name that tell such a path from others: a name may be as long as a request.
pub const QUOTA_REFUSAL_BYTES: usize = 128;

/// Every zxid divisible by this has its digest kept.
pub const DIGEST_LOG_INTERVAL: u64 = 128;

/// Containers and TTL znodes looked at under one lock when those that are due are collected.
pub const REAP_SLICE: usize = 256;

/// Slots that a walk looks at under one lock, most of which may be empty.
pub const WALK_SLICE_SLOTS: u32 = 4096;

/// The longest encoded record, in bytes, unless configured otherwise: the longest that Apache reads back with
/// its default `jute.maxbuffer` (1048575) and as much extra again. What exceeds it is refused before it is
/// logged, so whatever is logged can be read.
pub const RECORD_BYTES_MAX: usize = 2 * 1_048_575;

/// The longest path allocation, in bytes, that a free slot of prepare's table keeps for its next use: longer
/// than nearly every path, and small against the record that the slot stood for.
pub const PREP_PATH_KEPT_MAX: usize = 1024;

/// Ids that one connection may gain: far more than anybody has, and few enough to look through at each check.
pub const IDS_MAX: usize = 256;

/// Bytes of all ids of one connection: a credential of any length becomes an id, and ids stay as long as the
/// connection.
pub const IDS_BYTES_MAX: usize = 64 * 1024;

/// Bytes that one multiRead may ask for; above it the whole request fails with a marshalling error. Sixty of the largest
/// values: no client's buffer takes more in one reply.
pub const MULTI_READ_BYTES_MAX: usize = 64 << 20;

/// What a child's name counts for in that sum, bytes.
pub const CHILD_WEIGHT: usize = 64;

/// Znodes that an import gathers before it puts them into their shards: each of a thousand shards gets a few, and the batch
/// stays in a core's own cache (with four times as many an import takes half as long again).
pub const IMPORT_BATCH: usize = 8 * 1024;

/// Names that an import gathers before it hangs them below their parents: of a hundred siblings some tens come together, and
/// they tell how many there will be. 15 MB for each thread.
pub const IMPORT_LINKS: usize = 256 * 1024;

/// Bytes of paths of these, at most, but for those of one shard: most paths are much shorter than a hundred bytes.
pub const IMPORT_LINK_BYTES: usize = 32 << 20;

/// Bytes of one part of a tree that comes from another server: some hundred KiB, or one znode, which may be as long as any
/// configuration has ever allowed. Memory grows with what comes.
pub const STREAM_PART_BYTES_MAX: usize = 256 << 20;
