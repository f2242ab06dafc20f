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

/// Items that the node is stepped through in one round. Rounds without an end had all clients wait for each other: two cores idled
/// for a third of the time. Half and twice as many made no difference that could be told from noise.
pub const ROUND_ITEMS: usize = 256;

/// Rounds that one thread makes before it looks after its own work again. Without an end a loop steps the node for others while
/// its own clients wait (p99 of creates 40 ms instead of 14). One and two are like four since sleepers are woken (decision 0012).
pub const ROUNDS: usize = 4;

/// Outboxes that a stepping thread writes out alone; with more, the other loops are woken to write to their own. Waking one
/// costs about as much as five writes.
pub const FLUSH_ALONE: usize = 128;

/// Connections to the admin interface at a time: a few dashboards and people. With more, the oldest that waits for its client
/// ends.
pub const ADMIN_CONNECTIONS: usize = 64;

/// Threads that run commands of the admin interface: one snapshot and some questions beside it.
pub const ADMIN_WORKERS: usize = 4;

/// Bytes of the head of a request to the admin interface, and so of its arguments: a path of the tree may be long.
pub const ADMIN_HEAD_BYTES: usize = 32 << 10;

/// Header fields of such a request. Browsers send about twenty.
pub const ADMIN_HEADERS: usize = 64;

/// Arguments of such a request that are looked at; no command has more than four.
pub const ADMIN_ARGUMENTS: usize = 16;

/// Bytes of the body of such a request: no command takes one.
pub const ADMIN_BODY_BYTES: usize = 64 << 10;

/// How long such a body may take to come.
pub const ADMIN_BODY_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a connection to the admin interface may live: a snapshot of some gigabytes, and no client that reads a byte a
/// minute for ever.
pub const ADMIN_CONNECTION_TIME: std::time::Duration = std::time::Duration::from_secs(900);

/// How long a leader that restored a state may look for a majority besides `initLimit` ticks for the followers to take it:
/// an election among servers that have just lost their leader.
pub const RESTORE_ELECTION: std::time::Duration = std::time::Duration::from_secs(30);

/// Pieces of a snapshot that wait for a client of the admin interface, or of one for this server.
pub const ADMIN_PIECES: usize = 4;

/// An event loop that has not come round for this long is stuck, in ms: far more than any batch takes, less than an
/// orchestrator waits.
pub const STUCK_MS: u64 = 20_000;

/// Top-level paths that one event loop counts: more than most trees have, and a page can show.
pub const NAMESPACES: usize = 64;

/// Bytes of a top-level path that tell it from others.
pub const NAMESPACE_BYTES: usize = 128;

/// Client addresses whose ended connections are remembered: a large site has some thousand hosts.
pub const ADDRESSES: usize = 4096;

/// Requests that took too long which are kept to be shown.
pub const SLOW_REQUESTS: usize = 256;

/// Between two lines about them.
pub const SLOW_LOG_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Paths and clients in metrics and on the page: what a dashboard can show, and a series' cost can bear.
pub const TOP: usize = 16;

/// How often the history looks.
pub const SAMPLE: std::time::Duration = std::time::Duration::from_secs(1);

/// What the history sleeps at a time, a whole part of [`SAMPLE`]: a standstill of the process shows but for this much.
pub const NAP: std::time::Duration = std::time::Duration::from_millis(50);

/// Seconds of history: ten minutes, what a page shows. A megabyte.
pub const SAMPLES: usize = 600;

/// Standstills that are kept to be shown.
pub const STALLS: usize = 64;

/// A wait that is told of, ms: longer than a busy disk or scheduler explains, shorter than a session's time-out.
pub const STALL_MS: u64 = 500;

/// Between two lines about standstills.
pub const STALL_LOG_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);

/// Batches whose proposal is remembered until the followers acknowledge it: seconds of the fastest load.
pub const ACKS: usize = 4096;

/// Znodes of the tree of quotas that are looked at for the metrics: a scrape must not walk a tree that a client has grown.
pub const QUOTAS: usize = 1024;

/// A time without a processor that counts among the pauses: twice what an idle machine shows now and then.
pub const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Children in one page of the tree browser at most.
pub const CHILD_PAGE: usize = 500;

/// Bytes of a value that the tree browser shows.
pub const SHOWN_VALUE_BYTES: usize = 64 << 10;

/// Bytes that may wait for another server on the quorum port. A learner that is further behind is cut off and comes back for
/// a snapshot: its backlog must not become the leader's memory. Seconds of the fastest write load, so that a snapshot of some
/// hundred MB can be sent while writes go on.
pub const LINK_UNSENT_MAX: usize = 256 << 20;

/// Runs of packets on a link that are told apart for the metrics: what comes beyond counts with the last of them. 160 KB where a
/// learner stands still.
pub const LINK_RUNS: usize = 4096;

/// Bytes of a snapshot, or of a stretch of the log, that may wait for the socket before the thread that makes them waits too.
pub const JOB_WINDOW: usize = 1 << 20;

/// Bytes that may wait on a connection of the election port: one notification waits at a time, and the largest is half of it.
pub const ELECTION_UNSENT_MAX: usize = 1 << 20;

/// Sockets of both peer ports together: an ensemble has two for each of at most 255 servers, and for a moment those that
/// replace them. What goes beyond does not belong here.
pub const PEER_SOCKETS_MAX: usize = 2048;

/// The smallest bound of a packet's data, bytes: what Apache's servers take with their defaults, twice `jute.maxbuffer`, and
/// as much again for the sessions that a follower of many clients reports.
pub const PACKET_FLOOR: usize = 4 << 20;
