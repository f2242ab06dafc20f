//! Every bound of this crate, each with its reason.

/// Bytes of `zoo.cfg` or of a dynamic file. The largest real one (255 members, a line each) is under 64 KiB.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Bytes read of `myid`: its first line is one decimal number.
pub const MYID_BYTES_MAX: u64 = 4096;

/// Bytes of one environment variable that carries JVM flags. Linux itself stops at 128 KiB a string.
pub const FLAGS_BYTES_MAX: usize = 1 << 17;

/// `server.N` lines. A leader holds a connection and a queue per learner; Apache's session ids know 255 servers.
pub const MEMBERS_MAX: usize = 1024;

/// Addresses of one member, as `|` lists; more than a handful of networks per machine is a mistake.
pub const ADDRESSES_PER_MEMBER_MAX: usize = 16;

/// `tickTime` in ms: twenty ticks, the default `maxSessionTimeout`, have to fit the protocol's 32-bit timeout.
pub const TICK_MS_MAX: i64 = (i32::MAX / 20) as i64;

/// `jute.maxbuffer` in bytes. What a request becomes is one record of the log, and a record has to fit one segment of
/// 64 MiB; with its path, ACL and results it may grow to twice the request.
pub const REQUEST_BYTES_MAX: i64 = 32 << 20;

/// Threads that own client connections. More than this only contend for the tree's shards.
pub const EVENT_LOOPS_MAX: i64 = 256;

/// Characters of an unknown key that are compared with the known ones; the longest known key is shorter.
pub const SUGGEST_KEY_LEN_MAX: usize = 80;

/// Characters of a value that reports show; a pasted file in a value must not fill the terminal.
pub const SHOWN_VALUE_LEN_MAX: usize = 120;
