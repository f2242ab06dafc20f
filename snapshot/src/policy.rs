//! When the next snapshot is due.
//!
//! Apache's rule proposes: after each transaction, `transactions > snapCount/2 + r1` or `log bytes > S/2 +
//! r2`, with `r1` uniform in `[0, snapCount/2)` and `r2` in `[0, S/2)`, drawn anew each time, so that the
//! servers of an ensemble do not all write theirs at once (SyncRequestProcessor). Falconer starts what was
//! proposed once the log since the last snapshot is larger than that snapshot: a large tree under a heavy
//! stream of small writes is then not written without end, and the log to replay never exceeds what loading
//! costs anyway. An operator's demand waits for neither.
//!
//! Pure: counts and chance are arguments.

/// The settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Transactions between snapshots (`zookeeper.snapCount`, default 100 000); less than 2 counts as 2, as
    /// upstream.
    pub snap_count: u32,
    /// Log bytes between snapshots (`zookeeper.snapSizeLimitInKb` in bytes, default 4 GiB); 0 switches this
    /// half of the rule off.
    pub snap_size_bytes: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { snap_count: 100_000, snap_size_bytes: 4 << 30 }
    }
}

/// Two uniformly distributed numbers, drawn by the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chance {
    /// For the count of transactions.
    pub count: u64,
    /// For the bytes of log.
    pub bytes: u64,
}

/// Why a snapshot is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// An operator asked.
    Demand,
    /// Enough transactions.
    Count,
    /// Enough log.
    Bytes,
}

/// The rule, with what it counts since the last snapshot began.
#[derive(Clone, Debug)]
pub struct Policy {
    settings: Settings,
    /// In `snapCount/2 ..= snapCount - 1`, anew for each snapshot.
    count_threshold: u64,
    /// In `S/2 ..= S - 1`; `None` when that half is off.
    bytes_threshold: Option<u64>,
    txns: u64,
    log_bytes: u64,
    /// Bytes of the last snapshot's file; 0 when there is none.
    last_bytes: u64,
    demanded: bool,
}

impl Policy {
    /// Starts to count. `last_bytes`: the size of the newest valid snapshot's file, 0 if there is none. What
    /// is replayed from the log at start is to be counted with [`Policy::logged`] too, so that a server that
    /// restarts often does not replay ever more.
    pub fn new(settings: Settings, last_bytes: u64, chance: Chance) -> Policy {
        let (count_threshold, bytes_threshold) = thresholds(&settings, chance);
        Policy {
            settings,
            count_threshold,
            bytes_threshold,
            txns: 0,
            log_bytes: 0,
            last_bytes,
            demanded: false,
        }
    }

    /// `txns` more transactions took `bytes` more bytes of log, padding included: lonely writes fill whole
    /// blocks.
    pub fn logged(&mut self, txns: u64, bytes: u64) {
        self.txns = self.txns.saturating_add(txns);
        self.log_bytes = self.log_bytes.saturating_add(bytes);
    }

    /// An operator wants one now. Stays until one is begun.
    pub fn demand(&mut self) {
        self.demanded = true;
    }

    /// Whether to begin one now, and why. To be asked only while none runs.
    pub fn due(&self) -> Option<Why> {
        if self.demanded {
            return Some(Why::Demand);
        }
        if self.log_bytes <= self.last_bytes {
            return None;
        }
        if self.txns > self.count_threshold {
            return Some(Why::Count);
        }
        self.bytes_threshold.filter(|&limit| self.log_bytes > limit).map(|_| Why::Bytes)
    }

    /// One began: counting starts anew, with new thresholds.
    pub fn begun(&mut self, chance: Chance) {
        (self.count_threshold, self.bytes_threshold) = thresholds(&self.settings, chance);
        self.txns = 0;
        self.log_bytes = 0;
        self.demanded = false;
    }

    /// The one that began is durable and its file has `bytes` bytes. (One that failed is not reported: the
    /// counting since it began stands, so the next attempt comes after another full round and a full disk is
    /// not hammered.)
    pub fn completed(&mut self, bytes: u64) {
        self.last_bytes = bytes;
    }

    /// Log bytes since the last one began.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Transactions since the last one began.
    pub fn txns(&self) -> u64 {
        self.txns
    }
}

fn thresholds(settings: &Settings, chance: Chance) -> (u64, Option<u64>) {
    let half = u64::from(settings.snap_count.max(2) / 2);
    // A size limit of one byte has no half; it then means every byte.
    let half_size = (settings.snap_size_bytes / 2).max(1);
    let bytes = (settings.snap_size_bytes > 0).then(|| half_size + chance.bytes % half_size);
    (half + chance.count % half, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANCE: Chance = Chance { count: 0, bytes: 0 };

    fn first_due(policy: &mut Policy, bytes_each: u64) -> (u64, Why) {
        for n in 1.. {
            policy.logged(1, bytes_each);
            if let Some(why) = policy.due() {
                return (n, why);
            }
        }
        unreachable!("the loop ends when the policy says so")
    }

    #[test]
    fn the_count_lies_between_half_and_the_whole_of_snap_count() {
        let settings = Settings { snap_count: 1000, snap_size_bytes: 0 };
        let at = |count| first_due(&mut Policy::new(settings, 0, Chance { count, bytes: 0 }), 100);
        assert_eq!(at(0), (501, Why::Count));
        assert_eq!(at(499), (1000, Why::Count));
        assert_eq!(at(500), (501, Why::Count), "the draw is taken modulo half");
        assert_eq!(at(u64::MAX).1, Why::Count);
    }

    #[test]
    fn snap_counts_below_two_are_two_as_upstream() {
        for snap_count in [0, 1, 2, 3] {
            let settings = Settings { snap_count, snap_size_bytes: 0 };
            assert_eq!(first_due(&mut Policy::new(settings, 0, Chance { count: 9, bytes: 9 }), 1).0, 2);
        }
    }

    #[test]
    fn bytes_of_log_propose_by_themselves_unless_switched_off() {
        let settings = Settings { snap_count: u32::MAX, snap_size_bytes: 100 };
        let at = |bytes| first_due(&mut Policy::new(settings, 0, Chance { count: 0, bytes }), 1);
        assert_eq!(at(0), (51, Why::Bytes));
        assert_eq!(at(49), (100, Why::Bytes));
        let mut off = Policy::new(Settings { snap_size_bytes: 0, ..settings }, 0, CHANCE);
        off.logged(1, u64::MAX);
        assert_eq!(off.due(), None);
    }

    #[test]
    fn a_proposal_waits_until_the_log_outgrew_the_last_snapshot() {
        let settings = Settings { snap_count: 10, snap_size_bytes: 0 };
        let mut policy = Policy::new(settings, 5000, CHANCE);
        assert_eq!(first_due(&mut policy, 100), (51, Why::Count));
        policy.begun(CHANCE);
        policy.completed(300);
        assert_eq!(first_due(&mut policy, 100), (6, Why::Count));
        // One that failed leaves the old size in force and the counting as it is.
        policy.begun(CHANCE);
        assert_eq!((policy.txns(), policy.log_bytes()), (0, 0));
        assert_eq!(first_due(&mut policy, 10), (31, Why::Count));
    }

    #[test]
    fn a_demand_waits_for_nothing_and_is_met_once() {
        let mut policy = Policy::new(Settings::default(), 1 << 40, CHANCE);
        assert_eq!(policy.due(), None);
        policy.demand();
        assert_eq!(policy.due(), Some(Why::Demand));
        policy.begun(CHANCE);
        assert_eq!(policy.due(), None);
    }
}
