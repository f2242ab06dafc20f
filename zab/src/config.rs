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
