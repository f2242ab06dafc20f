//! What waits for the learners of this leader: packets on a link, and for the metrics how many they were and how long they
//! waited, by server over all its links.

use crate::limits;
use crate::stats::{Counted, Histogram, Writer};
use proto::ServerId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// What was counted of one learner.
#[derive(Default)]
pub struct Waited {
    packets: Histogram,
    times: Histogram,
}

/// The same, read.
pub struct WaitedCounts {
    /// The learner.
    pub server: ServerId,
    /// Packets that still waited when one had left, once for each that left.
    pub packets: Counted,
    /// How long each waited, ns.
    pub times: Counted,
}

/// All learners that are configured.
pub struct Learners(BTreeMap<ServerId, Arc<Waited>>);

/// Nobody resets these.
const GENERATION: u64 = 1;

impl Learners {
    /// These servers.
    pub fn new(servers: impl Iterator<Item = ServerId>) -> Learners {
        Learners(servers.map(|id| (id, Arc::default())).collect())
    }

    /// Where the packets for a server are counted.
    pub fn of(&self, server: ServerId) -> Option<Arc<Waited>> {
        self.0.get(&server).cloned()
    }

    /// What was counted of each server that got anything.
    pub fn counts(&self) -> Vec<WaitedCounts> {
        let counted = |h: &Histogram| {
            let mut c = Counted::default();
            h.collect(&mut c, GENERATION);
            c
        };
        let all = self.0.iter().map(|(server, waited)| WaitedCounts {
            server: *server,
            packets: counted(&waited.packets),
            times: counted(&waited.times),
        });
        all.filter(|w| w.times.count() > 0).collect()
    }
}

/// Packets that were put into a link together.
#[derive(Clone, Copy)]
pub struct Run {
    /// How many.
    pub packets: u64,
    /// Their length.
    pub bytes: u64,
    /// When.
    pub since: Instant,
}

/// The packets of a link that have not left its socket.
#[derive(Default)]
pub struct Queue {
    /// Bytes put into the socket's outlet since the link began.
    entered: u64,
    /// Each with the number of bytes that have left when it has.
    runs: VecDeque<(u64, Run)>,
    /// Packets in `runs`.
    packets: u64,
}

impl Queue {
    /// Packets go into the outlet.
    pub fn enter(&mut self, run: Run) {
        self.entered += run.bytes;
        self.packets += run.packets;
        let full = self.runs.len() == limits::LINK_RUNS;
        match self.runs.back_mut() {
            // They count as if they had come with those before them.
            Some((end, last)) if full => {
                last.packets += run.packets;
                *end = self.entered;
            }
            _ => self.runs.push_back((self.entered, run)),
        }
    }

    /// Bytes that are no packets go into it.
    pub fn pass(&mut self, bytes: u64) {
        self.entered += bytes;
    }

    /// So many bytes have left since the link began.
    pub fn left(&mut self, bytes: u64, now: Instant, waited: Option<&Waited>) {
        let mut left = 0;
        while let Some(&(end, run)) = self.runs.front()
            && end <= bytes
        {
            self.runs.pop_front();
            left += run.packets;
            if let Some(waited) = waited {
                let ns = now.saturating_duration_since(run.since).as_nanos() as u64;
                waited.times.record(ns, run.packets, GENERATION, Writer::Many);
            }
        }
        self.packets -= left;
        if let Some(waited) = waited {
            waited.packets.record(self.packets, left, GENERATION, Writer::Many);
        }
    }

    /// Packets that have not left.
    pub fn packets(&self) -> u64 {
        self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn packets_count_when_their_last_byte_has_left() {
        let (base, learners) = (Instant::now(), Learners::new([ServerId(2), ServerId(3)].into_iter()));
        let waited = learners.of(ServerId(2)).unwrap();
        let at = |ms| base + Duration::from_millis(ms);
        let mut q = Queue::default();
        // Of before the other end had said who it is.
        q.enter(Run { packets: 1, bytes: 10, since: at(0) });
        q.left(10, at(1), None);
        for (packets, since) in [(1, 0), (3, 2), (1, 4)] {
            q.enter(Run { packets, bytes: 100, since: at(since) });
        }
        q.pass(1000);
        q.enter(Run { packets: 1, bytes: 100, since: at(6) });
        assert_eq!(q.packets(), 6);
        for (bytes, left) in [(109, 6), (110, 5), (309, 2), (1400, 1), (1410, 0)] {
            q.left(bytes, at(10), Some(&waited));
            assert_eq!(q.packets(), left, "after {bytes} bytes");
        }
        let found = learners.counts();
        let [found] = &found[..] else { panic!("server 3 got nothing") };
        assert_eq!((found.packets.count(), found.packets.sum, found.packets.max()), (6, 5 + 3 * 2 + 1, 5));
        assert_eq!((found.times.count(), found.times.sum / 1_000_000), (6, 10 + 3 * 8 + 6 + 4));
    }

    #[test]
    fn a_learner_that_stands_still_costs_no_more_memory_than_its_bytes() {
        let mut q = Queue::default();
        for _ in 0..3 * limits::LINK_RUNS {
            q.enter(Run { packets: 1, bytes: 7, since: Instant::now() });
        }
        assert_eq!((q.runs.len(), q.packets()), (limits::LINK_RUNS, 3 * limits::LINK_RUNS as u64));
        q.left(3 * 7 * limits::LINK_RUNS as u64, Instant::now(), None);
        assert_eq!((q.runs.len(), q.packets()), (0, 0));
    }
}
