//! What the server counts: cheap enough for every request, summed when somebody asks.
//!
//! Each thread that counts much (event loops, log thread) has a *shard* of its own, which it writes with plain loads
//! and stores; all others share the last one. A reader sums the shards. A reset writes to no counter: it remembers
//! what stood there, and what is shown is the difference. Extremes carry a generation that a reset moves on.
//!
//! Clocks are read once for each run of requests, never for each request: the requests of a run share its time, as
//! they share the wait for its end.

mod histogram;

use histogram::add;
pub use histogram::{Counted, Histogram, Run, Writer};
use node::stage::Stage;
use parking_lot::Mutex;
use proto::Instant;
use proto::client::OpCode;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What is counted by ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Counter {
    /// Frames read.
    Received,
    /// Their bytes.
    ReceivedBytes,
    /// Bytes of replies and events that sockets took.
    SentBytes,
    /// Events written.
    Events,
    /// Bytes of events.
    EventBytes,
    /// Handshakes read.
    Handshakes,
    /// Handshakes of sessions that existed.
    Resumptions,
    /// Connections refused because there are too many.
    Rejected,
    /// Credentials refused.
    AuthFailed,
    /// Connections that never shook hands.
    SessionlessExpired,
    /// Connections that ended.
    Dropped,
    /// Frames larger than allowed.
    TooLarge,
    /// Writes handed to the node.
    Admitted,
    /// Records prepared.
    Prepared,
    /// Records handed to the log.
    Queued,
    /// Records applied.
    Applied,
    /// Requests answered with an error.
    Errors,
    /// Requests that were answered late enough to be noted.
    Slow,
    /// Durable writes over `fsync.warningthresholdms`.
    SlowSyncs,
    /// Leadership handed over because the own log was slow.
    SlowHandOvers,
    /// The state was found to be another one than the leader, or a record, says.
    StateDoubts,
    /// Bytes of the log written.
    LogBytes,
    /// Snapshots that could not be written.
    SnapshotErrors,
    /// Snapshots refused by the admin interface since they came too fast.
    SnapshotLimited,
    /// Restores refused the same way.
    RestoreLimited,
    /// Restores that failed.
    RestoreErrors,
    /// Requests to the admin interface, which has no TLS.
    Admin,
    /// Connections closed since nobody was served.
    NotServed,
    /// Sessions that this leader has let expire.
    Expired,
    /// How often this server has begun to look for a leader.
    Looking,
    /// Learners brought up to date by a stretch of the log, a cut, or nothing.
    Diffs,
    /// Learners brought up to date by a snapshot.
    Snaps,
    /// Learners' questions whether a session is alive.
    Revalidations,
    /// Proposals from the leader.
    LearnerProposals,
    /// Commits from the leader.
    LearnerCommits,
}

impl Counter {
    const COUNT: usize = Counter::LearnerCommits as usize + 1;
}

/// What is counted by size. Times are in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Measure {
    /// The stages, in their order; see [`Stage`].
    Stage0,
    #[allow(missing_docs, reason = "the stage of that number")]
    Stage1,
    #[allow(missing_docs, reason = "the stage of that number")]
    Stage2,
    #[allow(missing_docs, reason = "the stage of that number")]
    Stage3,
    #[allow(missing_docs, reason = "the stage of that number")]
    Stage4,
    #[allow(missing_docs, reason = "the stage of that number")]
    Stage5,
    #[allow(missing_docs, reason = "the stage of that number")]
    Stage6,
    #[allow(missing_docs, reason = "the stage of that number")]
    Stage7,
    #[allow(missing_docs, reason = "the stage of that number")]
    Stage8,
    /// A read, from the socket's readiness to its reply.
    Read,
    /// A write or sync, the same.
    Update,
    /// A ping, a handshake, a credential.
    Other,
    /// A durable write of the log, once for each.
    Sync,
    /// Records in such a write.
    BatchRecords,
    /// Records that waited for it.
    LogQueue,
    /// Writes that the node found waiting.
    NodeQueue,
    /// A run of writes being prepared.
    PrepareRun,
    /// A run of records being applied.
    ApplyRun,
    /// A snapshot.
    Snapshot,
    /// A restore, from its request to its answer.
    Restore,
    /// The start: snapshot and log.
    Recovery,
    /// Its first part: loading the snapshot.
    RecoveryLoad,
    /// Its second part: replaying the log.
    RecoveryReplay,
    /// Records replayed.
    RecoveryRecords,
    /// Events of one creation.
    CreatedEvents,
    /// Events of one deletion.
    DeletedEvents,
    /// Events of one change of data.
    ChangedEvents,
    /// Events of one change of children.
    ChildEvents,
    /// Requests of one connection without a reply, when one more comes behind a write.
    BehindWrites,
    /// From a proposal until a quorum has it; of a server alone, until it is durable.
    QuorumAck,
    /// From the time in a record, by the leader's clock, until a learner hears that it is committed.
    CommitPropagation,
    /// From the search for a leader until one is found.
    Election,
    /// From the end of service until it begins again.
    Unavailable,
    /// That, of a server that leads then.
    LeaderUnavailable,
    /// From an election until this follower serves.
    FollowerSync,
    /// The same of an observer.
    ObserverSync,
    /// Learners that are not up to date, when one more begins to be brought up by the log.
    InflightDiffs,
    /// Snapshots on their way to learners, when one more begins.
    InflightSnaps,
    /// This process was not run.
    Pause,
}

impl Measure {
    const COUNT: usize = Measure::Pause as usize + 1;

    /// Where the times of a stage are counted.
    pub const fn stage(stage: Stage) -> usize {
        stage as usize
    }
}

/// Kinds of operations that are counted.
pub const OPS: [OpCode; 29] = [
    OpCode::Create,
    OpCode::Create2,
    OpCode::CreateContainer,
    OpCode::CreateTtl,
    OpCode::Delete,
    OpCode::SetData,
    OpCode::SetAcl,
    OpCode::Multi,
    OpCode::Reconfig,
    OpCode::Sync,
    OpCode::CloseSession,
    OpCode::GetData,
    OpCode::Exists,
    OpCode::GetChildren,
    OpCode::GetChildren2,
    OpCode::GetAcl,
    OpCode::GetEphemerals,
    OpCode::GetAllChildrenNumber,
    OpCode::MultiRead,
    OpCode::AddWatch,
    OpCode::CheckWatches,
    OpCode::RemoveWatches,
    OpCode::SetWatches,
    OpCode::SetWatches2,
    OpCode::WhoAmI,
    OpCode::Ping,
    OpCode::Auth,
    OpCode::Sasl,
    OpCode::CreateSession,
];

/// Cells of the counters of operations: the codes from 0 to 22, from 100 to 107, and the two of sessions.
const OP_CELLS: usize = 40;

fn op_cell(op: OpCode) -> usize {
    match op.wire() {
        code @ 0..=22 => code as usize,
        code @ 100..=110 => code as usize - 100 + 24,
        -11 => 36,
        _ => 37,
    }
}

/// The counters of one thread, or of all that have none of their own.
#[repr(align(128))]
struct Shard {
    writer: Writer,
    generation: AtomicU64,
    counters: [AtomicU64; Counter::COUNT],
    ops: [AtomicU64; OP_CELLS],
    measures: [Histogram; Measure::COUNT],
}

impl Shard {
    fn new(writer: Writer) -> Box<Shard> {
        Box::new(Shard {
            writer,
            generation: AtomicU64::new(1),
            counters: [const { AtomicU64::new(0) }; Counter::COUNT],
            ops: [const { AtomicU64::new(0) }; OP_CELLS],
            measures: std::array::from_fn(|_| Histogram::default()),
        })
    }
}

thread_local! {
    /// The shard of this thread; the last one, shared, unless it has claimed one.
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// All counters since the start or the last reset.
pub struct ServerStats {
    shards: Box<[Box<Shard>]>,
    claimed: AtomicUsize,
    /// `falconer.metrics=false`: nothing but the counts of frames is kept.
    detailed: bool,
    before: Mutex<Before>,
}

/// What stood in the counters at the last reset.
struct Before {
    generation: u64,
    counters: [u64; Counter::COUNT],
    measures: Vec<Counted>,
}

/// Latencies of replies in ms, as Apache shows them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// The smallest, whole ms.
    pub min_ms: u64,
    /// The mean, to four decimal places as Apache prints it.
    pub average_ms: f64,
    /// The largest, whole ms.
    pub max_ms: u64,
}

impl ServerStats {
    /// Counters for `threads` threads that will claim a shard.
    pub fn new(threads: usize, detailed: bool) -> ServerStats {
        let own = (0..threads).map(|_| Shard::new(Writer::One));
        ServerStats {
            shards: own.chain([Shard::new(Writer::Many)]).collect(),
            claimed: AtomicUsize::new(0),
            detailed,
            before: Mutex::new(Before {
                generation: 1,
                counters: [0; Counter::COUNT],
                measures: vec![Counted::default(); Measure::COUNT],
            }),
        }
    }

    /// Gives the calling thread a shard of its own, while there are some; called once by each thread that counts
    /// much.
    pub fn claim(&self) {
        let n = self.claimed.fetch_add(1, Relaxed);
        SHARD.set(if n + 1 < self.shards.len() { n } else { usize::MAX });
    }

    fn shard(&self) -> &Shard {
        &self.shards[SHARD.get().min(self.shards.len() - 1)]
    }

    /// Whether times are taken and operations told apart.
    pub fn is_detailed(&self) -> bool {
        self.detailed
    }

    /// Adds `n`.
    pub fn add(&self, counter: Counter, n: u64) {
        let shard = self.shard();
        add(&shard.counters[counter as usize], n, shard.writer);
    }

    /// A frame of `bytes` was read.
    pub fn received(&self, bytes: usize) {
        let shard = self.shard();
        add(&shard.counters[Counter::Received as usize], 1, shard.writer);
        add(&shard.counters[Counter::ReceivedBytes as usize], bytes as u64, shard.writer);
    }

    /// An operation was asked for `n` times.
    pub fn operations_asked(&self, op: OpCode, n: u64) {
        if self.detailed {
            let shard = self.shard();
            add(&shard.ops[op_cell(op)], n, shard.writer);
        }
    }

    /// `n` times `value`.
    pub fn measure(&self, what: Measure, value: u64, n: u64) {
        if self.detailed {
            self.count(what as usize, value, n);
        }
    }

    /// `n` requests spent the time from `from` to `to` in a stage.
    pub fn stage(&self, stage: Stage, from: Instant, to: Instant, n: u64) {
        if self.detailed {
            self.count(Measure::stage(stage), to.0.saturating_sub(from.0), n);
        }
    }

    /// `n` replies to requests that took `ns`. Counted whatever `falconer.metrics` says: `srvr` shows them.
    pub fn replied(&self, what: Measure, ns: u64, n: u64) {
        self.count(what as usize, ns, n);
    }

    fn count(&self, what: usize, value: u64, n: u64) {
        let shard = self.shard();
        shard.measures[what].record(value, n, shard.generation.load(Relaxed), shard.writer);
    }

    /// Begins anew, as `srst` does.
    pub fn reset(&self) {
        let mut before = self.before.lock();
        before.generation += 1;
        for shard in &self.shards {
            shard.generation.store(before.generation, Relaxed);
        }
        for (i, cell) in before.counters.iter_mut().enumerate() {
            *cell = self.shards.iter().fold(0, |sum, s| sum.wrapping_add(s.counters[i].load(Relaxed)));
        }
        let generation = before.generation;
        for (i, counted) in before.measures.iter_mut().enumerate() {
            *counted = Counted::default();
            self.shards.iter().for_each(|s| s.measures[i].collect(counted, generation));
        }
    }

    /// A counter now.
    pub fn get(&self, counter: Counter) -> u64 {
        let i = counter as usize;
        let now = self.shards.iter().fold(0_u64, |sum, s| sum.wrapping_add(s.counters[i].load(Relaxed)));
        now.wrapping_sub(self.before.lock().counters[i])
    }

    /// How often an operation was asked for since the start.
    pub fn operations(&self, op: OpCode) -> u64 {
        self.shards.iter().map(|s| s.ops[op_cell(op)].load(Relaxed)).sum()
    }

    /// What a measure, by its number, has counted since the start, whatever was reset.
    pub fn total(&self, i: usize) -> Counted {
        let mut out = Counted::default();
        self.shards.iter().for_each(|s| s.measures[i].collect(&mut out, s.generation.load(Relaxed)));
        out
    }

    /// What a counter has counted since the start, whatever was reset.
    pub fn total_of(&self, counter: Counter) -> u64 {
        let i = counter as usize;
        self.shards.iter().fold(0_u64, |sum, s| sum.wrapping_add(s.counters[i].load(Relaxed)))
    }

    /// What was measured.
    pub fn measured(&self, what: Measure) -> Counted {
        self.counted(what as usize)
    }

    /// The times of a stage.
    pub fn staged(&self, stage: Stage) -> Counted {
        self.counted(Measure::stage(stage))
    }

    fn counted(&self, i: usize) -> Counted {
        let before = self.before.lock();
        let mut out = Counted::default();
        self.shards.iter().for_each(|s| s.measures[i].collect(&mut out, before.generation));
        out.since(&before.measures[i]);
        out
    }

    /// Every reply.
    pub fn replies(&self) -> Counted {
        let mut all = self.measured(Measure::Read);
        all.merge(&self.measured(Measure::Update));
        all.merge(&self.measured(Measure::Other));
        all
    }

    /// Frames written.
    pub fn packets_sent(&self) -> u64 {
        self.replies().count() + self.get(Counter::Events)
    }

    /// Latencies now.
    pub fn latency(&self) -> Latency {
        let all = self.replies();
        Latency {
            min_ms: all.min() / 1_000_000,
            average_ms: (all.mean() / 100.0).round() / 10_000.0,
            max_ms: all.max() / 1_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_rounded_as_apache_rounds_them() {
        let s = ServerStats::new(1, true);
        assert_eq!(s.latency(), Latency { min_ms: 0, average_ms: 0.0, max_ms: 0 });
        for ms in [1, 1, 2] {
            s.replied(Measure::Update, ms * 1_000_000, 1);
        }
        assert_eq!(s.latency(), Latency { min_ms: 1, average_ms: 1.3333, max_ms: 2 });
        s.reset();
        assert_eq!(s.latency(), Latency { min_ms: 0, average_ms: 0.0, max_ms: 0 });
    }

    #[test]
    fn shards_are_summed_and_a_reset_loses_nothing_that_comes_later() {
        let s = ServerStats::new(2, true);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    s.claim();
                    for _ in 0..10_000 {
                        s.received(10);
                        s.replied(Measure::Read, 1000, 2);
                    }
                });
            }
        });
        assert_eq!((s.get(Counter::Received), s.get(Counter::ReceivedBytes)), (40_000, 400_000));
        assert_eq!(s.packets_sent(), 80_000);
        s.reset();
        assert_eq!((s.get(Counter::Received), s.packets_sent()), (0, 0));
        s.received(1);
        assert_eq!(s.get(Counter::Received), 1);
    }

    #[test]
    fn each_operation_has_a_cell_of_its_own() {
        let mut cells: Vec<_> = OPS.iter().map(|&op| op_cell(op)).collect();
        cells.sort_unstable();
        cells.dedup();
        assert_eq!(cells.len(), OPS.len());
        assert!(cells.iter().all(|&c| c < OP_CELLS));
    }

    #[test]
    fn stages_are_counted_under_their_own_numbers() {
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(Measure::stage(stage), i);
        }
        assert_eq!(Measure::Read as usize, Stage::ALL.len());
    }
}
