//! The bounds of this crate, each with its reason.

/// Links of learners that one leader takes: far more servers than any ensemble has; connections of strangers count
/// until they are found out.
pub const LEARNERS: usize = 512;

/// Links that wait for the end of an election: as many servers as an ensemble usually has, several times over.
pub const WAITING_LINKS: usize = 64;

/// Bytes of packets of a leader that wait for the disk of a learner, above which its link should not be read: as much as
/// a leader has in flight.
pub const WAITING_BYTES: usize = 64 << 20;

/// Ticks after which a learner that can't connect to the server that was elected looks for another one, unless it is configured
/// otherwise. One that still sends votes but hears nobody wins each round that it speaks in, and is behind in the next: until then
/// nobody leads. The kernel answers a call at once, also of a server that is slow; with the usual tick of 2 s two calls may
/// be lost.
pub const CONNECT_TICKS: u32 = 2;

/// After a hand-over of a leader whose log is full there is none for so long, ms: at first, and at most. It doubles each time:
/// where all logs are full nobody can lead better, and reads should not stand still for ever new elections.
pub const FULL_BACK_OFF_MS: (u64, u64) = (60_000, 3_600_000);

/// How long at least a server looks for a leader before it serves reads without one, ms. Apache's.
pub const READ_ONLY_AFTER_MS: u64 = 2_000;

/// Questions about digests that are remembered, one at each ping: who answers later than this many pings has left its leader by
/// then (`syncLimit`), and is asked anew.
pub const DIGEST_ROUNDS: usize = 16;
