//! What a server of an ensemble is told at its start.

use crate::quorum::Verifier;
use alloc::sync::Arc;
use alloc::vec::Vec;
use proto::txn::RecordBatch;
use proto::{DurableEpochs, ServerId};

/// The ensemble as this server is configured.
#[derive(Clone, Debug)]
pub struct Ensemble {
    /// This server.
    pub me: ServerId,
    /// Who votes. This server is an observer if it is not among them.
    pub verifier: Verifier,
    /// Who follows without a vote.
    pub observers: Vec<ServerId>,
    /// `tickTime` in ms: a leader pings twice a tick.
    pub tick_ms: u64,
    /// `initLimit`: ticks that connecting, discovery and synchronisation may take.
    pub init_limit: u32,
    /// Ticks that a connection to the server that was elected may take to come about, within `init_limit`
    /// (`connectToLearnerMasterLimit`, else [`limits::CONNECT_TICKS`](crate::limits::CONNECT_TICKS)).
    pub connect_limit: u32,
    /// `syncLimit`: ticks without a sign of life after which a leader and a learner part.
    pub sync_limit: u32,
    /// The configuration as text, as it goes into notifications and NEWLEADER.
    pub config_text: Arc<[u8]>,
    /// Its version.
    pub config_version: i64,
    /// Waits of the election.
    pub election: ElectionTimes,
    /// Committed records that are kept in memory for learners that come back (`zookeeper.commitLogCount`).
    pub kept_records: usize,
    /// For so many ms a server looks for a leader before it serves reads without one; `None`: for ever
    /// (`readonlymode.enabled=false`).
    pub read_only_after_ms: Option<u64>,
    /// When a leader hands over because its disk is slow; `None`: never.
    pub slow_log: Option<SlowLog>,
}

/// What makes the log of a leader slow beside those of its followers, all of them Falconers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowLog {
    /// A median below this many µs is never slow, whatever the others take: no client would notice.
    pub floor_us: u64,
    /// So many times what a quorum of the others takes.
    pub factor: u64,
    /// Length of a window, ms.
    pub window_ms: u64,
    /// Slow windows in a row.
    pub windows: u32,
    /// After a hand-over there is none for so long, ms: at first, and at most. It doubles each time.
    pub back_off_ms: (u64, u64),
}

impl Default for SlowLog {
    /// Medians of 20 ms and five times what the others take, for 10 s; then peace for a minute, later for up to an hour.
    fn default() -> SlowLog {
        SlowLog {
            floor_us: 20_000,
            factor: 5,
            window_ms: 2_000,
            windows: 5,
            back_off_ms: (60_000, 3_600_000),
        }
    }
}

/// The waits of the election, in ms, with Apache's defaults.
#[derive(Clone, Copy, Debug)]
pub struct ElectionTimes {
    /// The first wait for notifications before the own one is sent again (`fastleader.minNotificationInterval`).
    pub resend_min_ms: u64,
    /// It doubles up to here (`fastleader.maxNotificationInterval`).
    pub resend_max_ms: u64,
    /// How long better votes are waited for once a quorum agrees. Cut short when nothing better can come: each voter has
    /// sent the same vote, or there is no connection to it.
    pub finalize_ms: u64,
}

impl Default for ElectionTimes {
    fn default() -> ElectionTimes {
        ElectionTimes { resend_min_ms: 200, resend_max_ms: 60_000, finalize_ms: 200 }
    }
}

/// What the disk held at the start.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The superblock's epochs.
    pub epochs: DurableEpochs,
    /// This server has a history to vote with: it has synchronised once, or was told to begin one. Else its vote does not
    /// count until it has followed a leader, or all voters are blank.
    pub joined: bool,
    /// The last records of the log, as many as are wanted of [`Ensemble::kept_records`], in order and without a hole up to
    /// its end; may be empty.
    pub recent: Vec<Arc<RecordBatch>>,
}
