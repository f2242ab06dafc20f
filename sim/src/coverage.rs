//! What a run has to have seen: every planned fault, every kind of message, every turn of a server's life. A run over many
//! seeds in which one of them never happened has tested less than it says, and fails.

/// The points in their order: as a type, and as a list.
macro_rules! points {
    ($($name:ident,)*) => {
        /// Something worth counting.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[allow(missing_docs, reason = "each is what its name says")]
        pub enum Point {
            $($name,)*
        }

        /// All points, each at its number.
        const NAMES: [Point; [$(Point::$name),*].len()] = [$(Point::$name),*];
    };
}

points! {
    // Faults, when they strike.
    Crash,
    CrashSilent,
    CrashAll,
    CrashAtDiskWrite,
    CrashAtPacket,
    TornWrite,
    LostName,
    Wipe,
    Pause,
    CutWhole,
    CutOneWay,
    CutOnePort,
    HeldBack,
    Reset,
    SlowLink,
    SlowDisk,
    StalledDisk,
    FailedWrite,
    FullDisk,
    LogFull,
    Rot,
    RotRefused,
    WallJump,
    ClockRate,
    CounterNearEnd,
    TinyBuffers,
    // What servers go through.
    BootEmpty,
    BootReplay,
    BootSnapshot,
    TornTail,
    SegmentSwitch,
    SegmentRecycled,
    SnapshotWritten,
    SnapshotFuzzy,
    SnapshotFailed,
    Purged,
    IdleMark,
    NewEpoch,
    Died,
    // What clients go through.
    SessionOpened,
    SessionResumed,
    SessionResumedElsewhere,
    SessionExpired,
    SessionRefused,
    SessionClosed,
    EventDelivered,
    EventCaughtUp,
    MultiFailed,
    MultiDone,
    Sequential,
    EphemeralGone,
    ContainerReaped,
    SyncDone,
    WriteUnknown,
    ReadWaited,
    // Roles and packets of an ensemble.
    Elected,
    LeaderLost,
    LeaderUnreachable,
    Following,
    Observing,
    CutLeader,
    SyncDiff,
    SyncTrunc,
    SyncSnap,
    SnapFuzzy,
    SnapBroken,
    SyncFromLog,
    Reloaded,
    LinkOverfull,
    UncommittedDropped,
    CutFinished,
    PacketInfo,
    PacketLeaderInfo,
    PacketAckEpoch,
    PacketNewLeader,
    PacketUpToDate,
    PacketProposal,
    PacketAck,
    PacketCommit,
    PacketInform,
    PacketPing,
    PacketRevalidate,
    PacketSync,
    PacketRequest,
    Notification,
    HandedOverSlow,
    HandedOverFull,
    // A tree that is silently wrong.
    Spoilt,
    Doubted,
    DifferedFromMajority,
    DifferedUndecided,
    StateTakenBack,
    // Sessions that one server knows, and servers without a quorum.
    LocalOpened,
    LocalUpgraded,
    LocalWrote,
    LocalClosed,
    LocalRefused,
    ReadOnly,
    ReadOnlyOpened,
    ReadOnlyGuest,
    ReadOnlyRead,
    ReadOnlyRefused,
}

const POINTS: usize = NAMES.len();

/// How often each point was met.
#[derive(Clone, Debug)]
pub struct Coverage([u64; POINTS]);

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage([0; POINTS])
    }
}

impl Coverage {
    /// It has happened once more.
    pub fn hit(&mut self, point: Point) {
        self.0[point as usize] += 1;
    }

    /// How often it has happened.
    pub fn count(&self, point: Point) -> u64 {
        self.0[point as usize]
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Coverage) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
    }

    /// The points of a plan that were never met; `alone`: by servers that stand alone. A queue to a peer that overflows is
    /// no part of the plan: the runs are too small for it.
    pub fn missing(&self, alone: bool) -> Vec<Point> {
        let planned = |p: Point| p != Point::LinkOverfull && (!alone || p.applies_alone());
        NAMES.iter().copied().filter(|&p| self.count(p) == 0 && planned(p)).collect()
    }

    /// Every point with its count, in order.
    pub fn all(&self) -> impl Iterator<Item = (Point, u64)> {
        NAMES.iter().map(|&p| (p, self.count(p)))
    }
}

impl Point {
    fn applies_alone(self) -> bool {
        use Point::*;
        self < Elected
            && !matches!(self, Wipe | CrashAll | CrashAtPacket | SessionResumedElsewhere | CutOnePort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_stands_at_its_number() {
        for (i, p) in NAMES.iter().enumerate() {
            assert_eq!(*p as usize, i, "{p:?}");
        }
    }
}
