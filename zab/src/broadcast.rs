//! The broadcast phase of a leader: zxids, acknowledgements, commits (Zab paper, section 4.3; quorum protocol,
//! section 4.6).

use crate::quorum::Verifier;
use alloc::collections::BTreeMap;
use proto::{Durable, Epoch, ServerId, Zxid};

/// Proof that everything up to `upto` is committed: only [`Broadcast`] makes one, out of a quorum of
/// acknowledgements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    upto: Zxid,
}

impl Committed {
    /// The last committed zxid.
    pub fn upto(self) -> Zxid {
        self.upto
    }
}

/// How many zxids before the end of the counter the next epoch is asked for. A million proposals last
/// seconds even at full speed, and an epoch record takes milliseconds.
pub const EPOCH_MARGIN: u32 = 1 << 20;

/// The leader's side of the broadcast. Holds `committed <= own durable` and `committed <= proposed`.
#[derive(Debug)]
pub struct Broadcast {
    me: ServerId,
    verifier: Verifier,
    /// Highest zxid given to a proposal.
    proposed: Zxid,
    /// Highest zxid that a quorum has acknowledged; never above `acked[me]`: a server shows only what it
    /// could not lose.
    committed: Zxid,
    /// The last zxid that each server has acknowledged. Non-voters never enter.
    acked: BTreeMap<ServerId, Zxid>,
    /// The epoch whose durable record allows to leave the current one.
    next_epoch: Option<Epoch>,
}

impl Broadcast {
    /// A leader whose history ends at `history`, durable and committed.
    pub fn new(me: ServerId, verifier: Verifier, history: Zxid) -> Broadcast {
        assert!(verifier.is_voter(me), "only a voter can lead");
        Broadcast {
            me,
            verifier,
            proposed: history,
            committed: history,
            acked: BTreeMap::from([(me, history)]),
            next_epoch: None,
        }
    }

    /// The zxid of the next proposal. `None`: the counter is used up and the record of the next epoch is not
    /// durable yet; the caller must wait.
    pub fn next_zxid(&self) -> Option<Zxid> {
        match (self.proposed.next(), self.next_epoch) {
            (_, Some(epoch)) => Some(Zxid::new(epoch, 1)),
            (next, None) => next,
        }
    }

    /// Takes `zxid`, which [`Broadcast::next_zxid`] gave.
    pub fn propose(&mut self, zxid: Zxid) {
        assert_eq!(Some(zxid), self.next_zxid(), "proposals take zxids in order, without holes");
        if self.next_epoch.is_some_and(|e| e == zxid.epoch()) {
            self.next_epoch = None;
        }
        self.proposed = zxid;
    }

    /// The epoch whose record must be made durable now because the counter nears its end (semantics,
    /// section 2: counter wrap). Asked for again at each call until [`Broadcast::epoch_durable`].
    pub fn epoch_wanted(&self) -> Option<Epoch> {
        let near_end = self.proposed.counter() >= u32::MAX - EPOCH_MARGIN;
        (near_end && self.next_epoch.is_none()).then(|| Epoch(self.proposed.epoch().0 + 1))
    }

    /// The record of `epoch` is on stable storage: the next proposal opens it.
    pub fn epoch_durable(&mut self, epoch: Epoch) {
        assert!(epoch > self.proposed.epoch(), "epochs only grow: {epoch} after {}", self.proposed.epoch());
        self.next_epoch = Some(epoch);
    }

    /// The own log has everything up to `durable`.
    pub fn own_ack(&mut self, durable: Durable) -> Option<Committed> {
        assert!(durable.upto() <= self.proposed, "{} was never proposed", durable.upto());
        self.ack(self.me, durable.upto())
    }

    /// `from` has acknowledged everything up to `upto`. Acknowledgements of servers that don't vote or have not joined,
    /// of zxids never proposed and of the past count for nothing.
    pub fn peer_ack(&mut self, from: ServerId, upto: Zxid) -> Option<Committed> {
        if from == self.me || upto > self.proposed || !self.acked.contains_key(&from) {
            return None;
        }
        self.ack(from, upto)
    }

    /// `server` has taken over the history up to `upto`, durably, and the epoch: its acknowledgements count from now on.
    pub fn joined(&mut self, server: ServerId, upto: Zxid) -> Option<Committed> {
        if !self.verifier.is_voter(server) {
            return None;
        }
        self.acked.insert(server, Zxid::ZERO);
        self.peer_ack(server, upto.min(self.proposed))
    }

    /// `server` is gone: what it comes back with is found out then, and may be less.
    pub fn left(&mut self, server: ServerId) {
        if server != self.me {
            self.acked.remove(&server);
        }
    }

    /// What `server` has acknowledged since it joined.
    pub fn acked(&self, server: ServerId) -> Option<Zxid> {
        self.acked.get(&server).copied()
    }

    /// The last zxid that was proposed.
    pub fn proposed(&self) -> Zxid {
        self.proposed
    }

    /// The last zxid that is committed.
    pub fn committed(&self) -> Zxid {
        self.committed
    }

    fn ack(&mut self, from: ServerId, upto: Zxid) -> Option<Committed> {
        let acked = self.acked.entry(from).or_insert(Zxid::ZERO);
        if upto <= *acked {
            return None;
        }
        *acked = upto;
        // The candidates are the acknowledged positions themselves: the best one that a quorum has reached.
        let own = self.acked[&self.me];
        let best = self
            .acked
            .values()
            .copied()
            .filter(|&z| {
                z > self.committed
                    && z <= own
                    && self.verifier.is_quorum(|s| self.acked.get(&s).is_some_and(|&a| a >= z))
            })
            .max()?;
        self.committed = best;
        Some(Committed { upto: best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn z(n: u64) -> Zxid {
        Zxid::from_u64(n)
    }

    fn durable(n: u64) -> Durable {
        Durable::from_completed_write(z(n))
    }

    fn leader_of(n: i64) -> Broadcast {
        let mut b = Broadcast::new(ServerId(1), Verifier::majority((1..=n).map(ServerId).collect()), z(0));
        (2..=n).for_each(|s| assert_eq!(b.joined(ServerId(s), z(0)), None));
        for i in 1..=5 {
            b.propose(z(i));
        }
        b
    }

    #[test]
    fn alone_the_own_log_decides() {
        let mut b = leader_of(1);
        assert_eq!(b.own_ack(durable(3)).map(Committed::upto), Some(z(3)));
        assert_eq!(b.own_ack(durable(3)), None);
        assert_eq!(b.committed(), z(3));
    }

    #[test]
    fn a_minority_commits_nothing_and_the_own_log_is_needed() {
        let mut b = leader_of(3);
        assert_eq!(b.peer_ack(ServerId(2), z(5)), None);
        assert_eq!(
            b.peer_ack(ServerId(3), z(4)),
            None,
            "two followers have it, but the leader could lose it"
        );
        assert_eq!(b.own_ack(durable(2)).map(Committed::upto), Some(z(2)));
        assert_eq!(b.own_ack(durable(5)).map(Committed::upto), Some(z(5)));
    }

    #[test]
    fn strangers_and_futures_count_for_nothing() {
        let mut b = leader_of(3);
        assert_eq!(b.own_ack(durable(5)), None);
        assert_eq!(b.peer_ack(ServerId(9), z(5)), None);
        assert_eq!(b.peer_ack(ServerId(2), z(6)), None);
        assert_eq!(b.peer_ack(ServerId(2), z(1)).map(Committed::upto), Some(z(1)));
    }

    #[test]
    fn who_comes_back_starts_again() {
        let mut b = leader_of(3);
        assert_eq!(b.own_ack(durable(5)), None);
        b.left(ServerId(2));
        assert_eq!(b.peer_ack(ServerId(2), z(5)), None, "it has not joined");
        assert_eq!(b.joined(ServerId(2), z(0)), None);
        assert_eq!(b.joined(ServerId(9), z(5)), None, "nor does it vote");
        assert_eq!(b.peer_ack(ServerId(2), z(3)).map(Committed::upto), Some(z(3)));
        b.left(ServerId(2));
        assert_eq!((b.committed(), b.acked(ServerId(2))), (z(3), None), "committed stays committed");
        assert_eq!(b.joined(ServerId(2), z(4)).map(Committed::upto), Some(z(4)));
    }

    #[test]
    fn the_counter_ends_in_a_new_epoch_and_never_wraps() {
        let end = Zxid::new(Epoch(0), u32::MAX - 1);
        let mut b = Broadcast::new(ServerId(1), Verifier::majority(vec![ServerId(1)]), end);
        assert_eq!(b.epoch_wanted(), Some(Epoch(1)));
        b.propose(Zxid::new(Epoch(0), u32::MAX));
        assert_eq!(b.next_zxid(), None, "without a durable epoch the leader must wait");
        b.epoch_durable(Epoch(1));
        assert_eq!(b.epoch_wanted(), None);
        assert_eq!(b.next_zxid(), Some(Zxid::new(Epoch(1), 1)));
        b.propose(Zxid::new(Epoch(1), 1));
        assert_eq!(b.next_zxid(), Some(Zxid::new(Epoch(1), 2)));
        assert_eq!(
            b.own_ack(Durable::from_completed_write(Zxid::new(Epoch(1), 1))).map(Committed::upto),
            Some(Zxid::new(Epoch(1), 1))
        );
    }
}
