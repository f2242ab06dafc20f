//! Every bound of this crate, each with its reason.

/// Uncompressed bytes gathered before a chunk is compressed and written. Independent level-1 frames compress
/// best between 64 KiB and 1 MiB (593 and 566 MB/s, ratio 4.4; 4 KiB frames: 318 MB/s, ratio 3.6); half a MiB
/// keeps a slice of work short beside the commits and gives a parallel loader enough chunks.
pub const CHUNK_RAW_TARGET: usize = 512 * 1024;

/// Uncompressed bytes of one chunk, at most. A part of a walk is never split, and one znode with its value
/// must fit: the largest frame a server can be told to accept (jute.maxbuffer) has to stay below it. It
/// bounds what a loader allocates on the word of a header.
pub const CHUNK_RAW_MAX: usize = 256 * 1024 * 1024;

/// Stored bytes of one chunk, at most: zstd can expand what does not compress, by less than one part in 128
/// plus a few bytes of frame.
pub const CHUNK_STORED_MAX: usize = CHUNK_RAW_MAX + CHUNK_RAW_MAX / 128 + 1024;

/// Written bytes after which the file is synced while it is being written, so that the last sync and the
/// disk's queue stay short beside the log's commits.
pub const SYNC_EVERY: u64 = 8 * 1024 * 1024;

/// Snapshots that a catalogue considers, newest first; Apache stops at the same number.
pub const CONSIDERED_MAX: usize = 100;

/// Bytes of a manifest, at most: a line for each snapshot considered, with room.
pub const MANIFEST_MAX: u64 = 64 * 1024;

/// Decode workers of a loader, at most. More would only hold more chunks in memory.
pub const WORKERS_MAX: usize = 64;

/// One string (path, scheme, id) or value of an Apache snapshot, at most; the same bound as a chunk's, since
/// the record has to fit one. Memory is taken as the bytes arrive, never on the word of a length.
pub const APACHE_FIELD_MAX: usize = CHUNK_RAW_MAX / 4;

/// Entries of one ACL in an Apache snapshot, at most. Apache has no bound; a request that carries one has to
/// fit a frame of 1 MiB, and an entry takes at least 12 bytes.
pub const APACHE_ACL_ENTRIES_MAX: usize = 1 << 20;

/// Bytes that may follow the first seal of an Apache snapshot: the digest section (its longest form holds a
/// number in hexadecimal as a string), the last-processed section, and their seals take less than 200.
pub const APACHE_TAIL_MAX: usize = 4096;

/// Bytes of one part that the Apache reader hands out, before it hands it out; a larger record makes a larger
/// part of its own.
pub const APACHE_PART_TARGET: usize = 256 * 1024;

/// Bytes of one block of a snappy-java stream, compressed or not, at most. Its writer makes blocks of 32 KiB
/// unless told otherwise.
pub const SNAPPY_BLOCK_MAX: usize = 64 * 1024 * 1024;

/// Bytes of `acceptedEpoch`, `currentEpoch` or `myid` that are looked at; a decimal number takes at most 20.
pub const SMALL_FILE_MAX: u64 = 4096;

const _: () = assert!(CHUNK_RAW_TARGET <= CHUNK_RAW_MAX);
const _: () = assert!(CHUNK_STORED_MAX < u32::MAX as usize);
const _: () = assert!(3 * APACHE_FIELD_MAX <= CHUNK_RAW_MAX);
