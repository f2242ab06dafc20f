//! How long the followers of this leader take to acknowledge: by server, for the metrics and for what a stall is put down to.

use crate::limits;
use crate::stats::{Counted, Histogram, Writer};
use parking_lot::Mutex;
use proto::{Instant, ServerId, Zxid};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Proposals on their way, and the times of those that were acknowledged.
pub struct Acks {
    /// The last zxid of each batch that was proposed, and when; the latest last.
    proposed: Mutex<VecDeque<(Zxid, Instant)>>,
    by: BTreeMap<ServerId, Follower>,
}

#[derive(Default)]
struct Follower {
    times: Histogram,
    /// What it has acknowledged.
    upto: AtomicU64,
}

/// Nobody resets these times.
const GENERATION: u64 = 1;

impl Acks {
    /// For these servers.
    pub fn new(servers: impl Iterator<Item = ServerId>) -> Acks {
        Acks { proposed: Mutex::default(), by: servers.map(|id| (id, Follower::default())).collect() }
    }

    /// A batch up to `last` was proposed.
    pub fn proposed(&self, last: Zxid, at: Instant) {
        let mut proposed = self.proposed.lock();
        if proposed.back().is_some_and(|(zxid, _)| *zxid >= last) {
            // Another epoch of another leader came between.
            proposed.clear();
        }
        if proposed.len() == limits::ACKS {
            proposed.pop_front();
        }
        proposed.push_back((last, at));
    }

    /// `by` acknowledges everything up to `zxid`.
    pub fn acknowledged(&self, by: ServerId, zxid: Zxid, now: Instant) {
        let Some(follower) = self.by.get(&by) else { return };
        follower.upto.store(zxid.as_u64(), Relaxed);
        let sent = {
            let proposed = self.proposed.lock();
            let at = proposed.partition_point(|(last, _)| *last < zxid);
            // Of another epoch, or so old that it is forgotten.
            proposed.get(at).filter(|(last, _)| last.epoch() == zxid.epoch() && zxid.counter() > 0).copied()
        };
        if let Some((_, sent)) = sent {
            follower.times.record(now.0.saturating_sub(sent.0), 1, GENERATION, Writer::Many);
        }
    }

    /// A connection of that server begins: what it has not acknowledged counts from its next proposal on.
    pub fn begins(&self, server: ServerId) {
        if let Some(follower) = self.by.get(&server) {
            let newest = self.proposed.lock().back().map_or(0, |(zxid, _)| zxid.as_u64());
            follower.upto.store(newest, Relaxed);
        }
    }

    /// When the oldest proposal was sent that this server has not acknowledged.
    pub fn waiting_since(&self, server: ServerId) -> Option<Instant> {
        let upto = Zxid::from_u64(self.by.get(&server)?.upto.load(Relaxed));
        let proposed = self.proposed.lock();
        let at = proposed.partition_point(|(last, _)| *last <= upto);
        proposed.get(at).map(|(_, sent)| *sent)
    }

    /// What was counted of each server that has acknowledged anything.
    pub fn times(&self) -> Vec<(ServerId, Counted)> {
        let counted = |f: &Follower| {
            let mut c = Counted::default();
            f.times.collect(&mut c, GENERATION);
            c
        };
        self.by.iter().map(|(id, f)| (*id, counted(f))).filter(|(_, c)| c.count() > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Epoch;

    #[test]
    fn an_acknowledgement_takes_from_its_proposal_on() {
        let z = |epoch, n| Zxid::new(Epoch(epoch), n);
        let acks = Acks::new([ServerId(2), ServerId(3)].into_iter());
        for (n, at) in [(3, 100), (5, 200), (9, 300)] {
            acks.proposed(z(1, n), Instant(at));
        }
        acks.acknowledged(ServerId(2), z(1, 5), Instant(1200));
        // In the middle of a batch, as Apache's followers do.
        acks.acknowledged(ServerId(3), z(1, 6), Instant(1300));
        for (server, zxid) in [(2, z(1, 10)), (2, z(0, 5)), (7, z(1, 5)), (2, z(1, 0))] {
            acks.acknowledged(ServerId(server), zxid, Instant(9_000_000));
        }
        let found: Vec<_> = acks.times().into_iter().map(|(id, c)| (id.0, c.count(), c.max())).collect();
        assert_eq!(found, [(2, 1, 1000), (3, 1, 1000)]);
        let waiting = |id| acks.waiting_since(ServerId(id)).map(|at| at.0);
        acks.acknowledged(ServerId(2), z(1, 5), Instant(1200));
        acks.acknowledged(ServerId(3), z(1, 9), Instant(1300));
        assert_eq!((waiting(2), waiting(3), waiting(7)), (Some(300), None, None));
        acks.begins(ServerId(2));
        assert_eq!(waiting(2), None);
        // What is proposed again after another leader's epoch begins anew.
        acks.proposed(z(1, 4), Instant(5000));
        acks.acknowledged(ServerId(2), z(1, 9), Instant(9_000_000));
        assert_eq!(acks.times()[0].1.count(), 2);
        for n in 5..2 * limits::ACKS as u32 {
            acks.proposed(z(1, n), Instant(0));
        }
        assert_eq!(acks.proposed.lock().len(), limits::ACKS);
    }
}
