//! The bounds of this crate, each with its reason.

/// Requests that wait in one gate. Apache stops reading a connection at 1,000 outstanding requests of the whole
/// server (globalOutstandingLimit); a pipelining client gets the same here for itself, and the server stays
/// bounded through [`GATE_BYTES`] and the shell's limit on connections.
pub const GATE_REQUESTS: usize = 1_000;

/// Bytes of deferred requests in one gate: two of the largest requests.
pub const GATE_BYTES: usize = 2 << 20;

/// Bytes of prepared records that are not committed yet. A second of log at full speed; above it the shell
/// stops reading writes, so that a stalled disk costs memory that was planned.
pub const IN_FLIGHT_BYTES: usize = 64 << 20;

/// Containers handed to the reaper in one go; the rest are found again at the next round.
pub const REAP_BATCH: usize = 10_000;

/// How far behind its schedule the reaper may be and still catch up, in ns: more than ticks are usually late,
/// and at the default of ten thousand a minute no more than 17 removals at once.
pub const REAP_CATCH_UP_NS: u64 = 100_000_000;

/// How long a server that has handed over does not want to lead again, ms: longer than it takes to stop, or for a disk
/// to be looked after.
pub const ABSTAIN_MS: u64 = 60_000;

/// Sessions that only this server knows, with and without a connection: as many as a server has connections. Beyond them
/// new clients are sent away; each of them is gone a time-out after its connection.
pub const LOCAL_SESSIONS: usize = 1 << 20;

/// Sessions that have ended and are remembered, where local sessions are allowed: more than end within the time that a
/// learner may be behind; 1 MiB.
pub const ENDED_SESSIONS: usize = 1 << 15;

/// How long a leader whose disk is slow waits for what is in flight before it goes, ms: many times what a slow disk takes
/// for a write, and short enough for one that stands still. What was not committed by then is answered by nobody.
pub const HAND_OVER_MS: u64 = 1_000;

/// How long a server that has handed over because its log is full does not want to lead, ms: as [`SLOW_ABSTAIN_MS`].
pub const FULL_ABSTAIN_MS: u64 = 5_000;

/// How long a server that has handed over because its disk is slow does not want to lead, ms: longer than the others
/// take for an election, no longer than they could be waited for if one of them died just then.
pub const SLOW_ABSTAIN_MS: u64 = 5_000;

/// Questions of the leader for the digest of the tree that wait until the tree is there: as many as a leader remembers.
pub const DIGEST_QUESTIONS: usize = zab::limits::DIGEST_ROUNDS;
