//! Faults of other servers, as switches.
//!
//! Each [`Mutant`] restores one historical bug in this code. The simulator must find every one of them: a mutant that
//! survives says that the tests have lost power. Without the feature `mutants`, which only the simulator's own check of
//! itself switches on, [`is`] is constantly false and nothing of this is left in a program.

/// One bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mutant {
    /// half of the voters are taken for a quorum (a majority off by one).
    QuorumOfHalf,
    /// votes are compared without their zxids (569, 1419).
    VoteWithoutZxid,
    /// NEWLEADER is acknowledged before the history is on disk (3911, 4646, 4785).
    NewLeaderAckedEarly,
    /// NEWLEADER is acknowledged before the current epoch is on disk (1282, 4643).
    EpochAfterAck,
    /// ACKEPOCH leaves before the accepted epoch is on disk (335).
    PromiseBeforeDisk,
    /// a learner goes on as if its log had been cut (3701).
    TruncIgnored,
    /// the tree keeps what was cut off the log (1549, 2845, 5094).
    TreeSurvivesTrunc,
    /// a proposal is acknowledged when it is read (CORDS, 4646).
    AckBeforeDisk,
    /// a leader proposes an epoch that its own disk does not have (1291).
    LeaderEpochNotStored,
    /// a leader serves before a quorum has its history (790).
    LeadsWithoutQuorum,
    /// the first missing record is left out of a DIFF (2846, 4925).
    SyncWithHole,
    /// NEWLEADER is sent before the tree is, and taken before all that the tree shows (3104).
    NewLeaderTooEarly,
    /// a leader takes a follower that has more history, and cuts it (1154).
    FollowersAheadIgnored,
    /// a leader goes on without a quorum of followers (quorum lost).
    LeaderNeverGivesUp,
    /// requests are taken from whatever server a session was once used through (710, 2886).
    SessionNeverMoves,
    /// followers don't report which sessions they have heard of (Keeper 121361).
    TouchesNotReported,
    /// a client is served by a server that has seen less than it (reads go back).
    ClientAheadAccepted,
    /// sessions end a time-out after the beginning of a tick (1366).
    ExpiryOneTickEarly,
    /// the ephemerals of a closed session are not removed (450).
    EphemeralsStay,
    /// replay counts the children again instead of taking the number in the txn (1046).
    CversionCounted,
    /// replaying a delete sets the parent's pzxid back (3125, 3249).
    PzxidGoesBack,
    /// a one-shot watch is not used up (4466).
    WatchFiresTwice,
    /// a durable write that failed is taken for done (2247, fsyncgate).
    FailedWriteIgnored,
    /// names of new segments are not made durable (Keeper 116316).
    NoDirectorySync,
    /// logs go that the kept snapshots still need (1797, 2574, 3231).
    PurgesTooMuch,
    /// a snapshot gets its name before its bytes are on disk (2872, Keeper 115388).
    SnapshotNotSynced,
    /// the name of a snapshot is not made durable before logs go (Keeper 111339).
    SnapshotNameNotSynced,
    /// a server whose state is not that of the others says so and goes on (3114).
    DifferenceIgnored,
}

impl Mutant {
    /// All of them, each with where it was seen and what it does.
    pub const ALL: &'static [(Mutant, &'static str, &'static str)] = &[
        (Mutant::QuorumOfHalf, "a majority off by one", "half of the voters are taken for a quorum"),
        (Mutant::VoteWithoutZxid, "569, 1419", "votes are compared without their zxids"),
        (
            Mutant::NewLeaderAckedEarly,
            "3911, 4646, 4785",
            "NEWLEADER is acknowledged before the history is on disk",
        ),
        (
            Mutant::EpochAfterAck,
            "1282, 4643",
            "NEWLEADER is acknowledged before the current epoch is on disk",
        ),
        (Mutant::PromiseBeforeDisk, "335", "ACKEPOCH leaves before the accepted epoch is on disk"),
        (Mutant::TruncIgnored, "3701", "a learner goes on as if its log had been cut"),
        (Mutant::TreeSurvivesTrunc, "1549, 2845, 5094", "the tree keeps what was cut off the log"),
        (Mutant::AckBeforeDisk, "CORDS, 4646", "a proposal is acknowledged when it is read"),
        (Mutant::LeaderEpochNotStored, "1291", "a leader proposes an epoch that its own disk does not have"),
        (Mutant::LeadsWithoutQuorum, "790", "a leader serves before a quorum has its history"),
        (Mutant::SyncWithHole, "2846, 4925", "the first missing record is left out of a DIFF"),
        (
            Mutant::NewLeaderTooEarly,
            "3104",
            "NEWLEADER is sent before the tree is, and taken before all that the tree shows",
        ),
        (
            Mutant::FollowersAheadIgnored,
            "1154",
            "a leader takes a follower that has more history, and cuts it",
        ),
        (Mutant::LeaderNeverGivesUp, "quorum lost", "a leader goes on without a quorum of followers"),
        (
            Mutant::SessionNeverMoves,
            "710, 2886",
            "requests are taken from whatever server a session was once used through",
        ),
        (
            Mutant::TouchesNotReported,
            "Keeper 121361",
            "followers don't report which sessions they have heard of",
        ),
        (
            Mutant::ClientAheadAccepted,
            "reads go back",
            "a client is served by a server that has seen less than it",
        ),
        (Mutant::ExpiryOneTickEarly, "1366", "sessions end a time-out after the beginning of a tick"),
        (Mutant::EphemeralsStay, "450", "the ephemerals of a closed session are not removed"),
        (
            Mutant::CversionCounted,
            "1046",
            "replay counts the children again instead of taking the number in the txn",
        ),
        (Mutant::PzxidGoesBack, "3125, 3249", "replaying a delete sets the parent's pzxid back"),
        (Mutant::WatchFiresTwice, "4466", "a one-shot watch is not used up"),
        (Mutant::FailedWriteIgnored, "2247, fsyncgate", "a durable write that failed is taken for done"),
        (Mutant::NoDirectorySync, "Keeper 116316", "names of new segments are not made durable"),
        (Mutant::PurgesTooMuch, "1797, 2574, 3231", "logs go that the kept snapshots still need"),
        (
            Mutant::SnapshotNotSynced,
            "2872, Keeper 115388",
            "a snapshot gets its name before its bytes are on disk",
        ),
        (
            Mutant::SnapshotNameNotSynced,
            "Keeper 111339",
            "the name of a snapshot is not made durable before logs go",
        ),
        (
            Mutant::DifferenceIgnored,
            "3114",
            "a server whose state is not that of the others says so and goes on",
        ),
    ];
}

#[cfg(feature = "mutants")]
static ACTIVE: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(u8::MAX);

/// Whether this bug is switched on.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    ACTIVE.load(core::sync::atomic::Ordering::Relaxed) == mutant as u8
}

/// Whether this bug is switched on: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}

/// Switches one bug on, or all off, for the whole process.
#[cfg(feature = "mutants")]
pub fn switch(mutant: Option<Mutant>) {
    ACTIVE.store(mutant.map_or(u8::MAX, |m| m as u8), core::sync::atomic::Ordering::Relaxed);
}
