//! Whether a leader's disk holds the ensemble up: its log is compared with those of its followers.
//!
//! Nothing is committed before the leader's own log has it, so a slow disk under the leader is everybody's. What the
//! others could do is known: the time from a proposal to its acknowledgement, network included. The rule:
//!
//! ```text
//!   own    = median time of the own log, in one window
//!   others = the smallest time T such that followers whose median is at most T are a quorum without this server
//!   slow:    own >= floor  and  own >= factor * others,  in so many windows, one after the other
//! ```
//! Without such a quorum each commit needs this server's disk whoever leads, and nothing would be won. Followers that are
//! Apache's wait seconds for an election: beside one that has a vote nothing is handed over.
//!
//! After a hand-over there is none for a time that doubles with each one, up to a bound, and is short again once as much
//! time has passed in peace. So disks that take turns in being slow move leadership a few times a day at most.

use crate::config::SlowLog;
use crate::quorum::Verifier;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proto::{Instant, LinkId, ServerId, Zxid};

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slow {
    /// The median time of the own log in the last window, µs.
    pub own_us: u64,
    /// What a quorum of the others takes, µs.
    pub others_us: u64,
}

/// Fewer times of the own log than this say nothing about a window.
const TIMES_MIN: u32 = 4;

/// A window with too few times of the own log goes on, up to so many times its length; then too little is written for
/// anybody to wait, and all that was found before is forgotten.
const WINDOWS_MAX: u64 = 5;

/// Four to each doubling, from 1 µs to more than an hour: a median is known to a quarter of its doubling.
const BUCKETS: usize = 4 * 31;

/// The times of one log in one window.
#[derive(Clone, Debug)]
struct Meter {
    /// What is being timed: one at a time.
    probe: Option<(Zxid, Instant)>,
    counts: [u32; BUCKETS],
    total: u32,
    /// The median of the last window that had any.
    last_us: Option<u64>,
}

impl Meter {
    const NEW: Meter = Meter { probe: None, counts: [0; BUCKETS], total: 0, last_us: None };

    fn sent(&mut self, last: Zxid, now: Instant) {
        self.probe.get_or_insert((last, now));
    }

    fn done(&mut self, upto: Zxid, now: Instant) {
        if let Some((_, since)) = self.probe.take_if(|(zxid, _)| *zxid <= upto) {
            self.counts[bucket(since, now)] += 1;
            self.total += 1;
        }
    }

    /// The time that is on its way, if it is longer than a window already.
    fn stuck_us(&self, window_ms: u64, now: Instant) -> Option<u64> {
        let (_, since) = self.probe?;
        (now >= since.plus_ms(window_ms)).then(|| floor_us(bucket(since, now)))
    }

    fn median_us(&self) -> Option<u64> {
        let mut seen = 0;
        let is_half = |n: &u32| {
            seen += n;
            self.total > 0 && 2 * seen >= self.total
        };
        self.counts.iter().position(is_half).map(floor_us)
    }

    /// A new window begins; what is on its way goes on.
    fn begin(&mut self) {
        self.last_us = self.median_us().or(self.last_us);
        (self.counts, self.total) = ([0; BUCKETS], 0);
    }
}

fn bucket(since: Instant, now: Instant) -> usize {
    let us = now.0.saturating_sub(since.0) / 1_000;
    let log2 = us.max(1).ilog2() as usize;
    let quarter = if log2 < 2 { 0 } else { (us >> (log2 - 2)) as usize & 3 };
    (4 * log2 + quarter).min(BUCKETS - 1)
}

/// The least time of a bucket.
fn floor_us(bucket: usize) -> u64 {
    let (log2, quarter) = (bucket / 4, bucket as u64 % 4);
    (1 << log2) + if log2 < 2 { 0 } else { quarter << (log2 - 2) }
}

/// The followers as they are when a window is judged: link, server, whether it is a Falconer that is up to date.
pub(crate) type Follower = (LinkId, ServerId, bool);

/// The times of one reign.
#[derive(Debug)]
pub(crate) struct Pace {
    rule: SlowLog,
    since: Instant,
    own: Meter,
    others: BTreeMap<LinkId, Meter>,
    slow_windows: u32,
}

impl Pace {
    pub fn new(rule: SlowLog, now: Instant) -> Pace {
        Pace { rule, since: now, own: Meter::NEW, others: BTreeMap::new(), slow_windows: 0 }
    }

    /// Proposals up to `last` go to the own log and through `links`.
    pub fn sent(&mut self, now: Instant, last: Zxid, links: &[LinkId]) {
        self.own.sent(last, now);
        for &link in links {
            self.others.entry(link).or_insert(Meter::NEW).sent(last, now);
        }
    }

    /// The own log has everything up to there.
    pub fn own(&mut self, now: Instant, upto: Zxid) {
        self.own.done(upto, now);
    }

    /// A follower has.
    pub fn other(&mut self, now: Instant, link: LinkId, upto: Zxid) {
        if let Some(meter) = self.others.get_mut(&link) {
            meter.done(upto, now);
        }
    }

    pub fn left(&mut self, link: LinkId) {
        self.others.remove(&link);
    }

    /// Looks at the window once it is over. `Some`: this disk was slow for long enough.
    pub fn judge(&mut self, now: Instant, verifier: &Verifier, followers: &[Follower]) -> Option<Slow> {
        let window_ms = self.rule.window_ms;
        if now < self.since.plus_ms(window_ms) {
            return None;
        }
        let enough = self.own.total >= TIMES_MIN;
        let own_us = self.own.stuck_us(window_ms, now).or_else(|| self.own.median_us().filter(|_| enough));
        if own_us.is_none() && now < self.since.plus_ms(WINDOWS_MAX * window_ms) {
            return None;
        }
        let found = own_us.and_then(|own_us| {
            let others_us = self.others_us(now, verifier, followers)?;
            let is_slow = own_us >= self.rule.floor_us && own_us >= self.rule.factor * others_us;
            is_slow.then_some(Slow { own_us, others_us })
        });
        self.slow_windows = if found.is_some() { self.slow_windows + 1 } else { 0 };
        self.since = now;
        self.own.begin();
        self.others.values_mut().for_each(Meter::begin);
        found.filter(|_| self.slow_windows >= self.rule.windows)
    }

    /// What a quorum of Falconers without this server takes.
    fn others_us(&self, now: Instant, verifier: &Verifier, followers: &[Follower]) -> Option<u64> {
        if followers.iter().any(|(_, _, ready)| !ready) {
            return None;
        }
        let mut times: Vec<(u64, ServerId)> = followers
            .iter()
            .filter_map(|(link, server, _)| {
                let meter = self.others.get(link)?;
                // While the own log stands still, little is sent that they could be timed by.
                let us = meter.stuck_us(self.rule.window_ms, now).or(meter.median_us()).or(meter.last_us)?;
                Some((us, *server))
            })
            .collect();
        times.sort_unstable();
        (1..=times.len())
            .find(|&n| verifier.is_quorum(|s| times[..n].iter().any(|(_, x)| *x == s)))
            .map(|n| times[n - 1].0)
    }
}

/// When the next hand-over may be; outlives reigns.
#[derive(Debug)]
pub(crate) struct BackOff {
    not_before: Instant,
    wait_ms: u64,
}

impl BackOff {
    /// `first_ms`: the wait after the first one.
    pub fn new(first_ms: u64, now: Instant) -> BackOff {
        BackOff { not_before: now, wait_ms: first_ms }
    }

    /// Whether there may be one now; then it is taken as done.
    pub fn take(&mut self, (first_ms, most_ms): (u64, u64), now: Instant) -> bool {
        if now < self.not_before {
            return false;
        }
        if now >= self.not_before.plus_ms(self.wait_ms) {
            self.wait_ms = first_ms;
        }
        self.not_before = now.plus_ms(self.wait_ms);
        self.wait_ms = (2 * self.wait_ms).min(most_ms);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const RULE: SlowLog = SlowLog {
        floor_us: 20_000,
        factor: 5,
        window_ms: 2_000,
        windows: 5,
        back_off_ms: (60_000, 3_600_000),
    };

    /// Writes one after the other for 30 s, each when the slowest of quorum and own log has it; `own`, `others`: what a log
    /// takes, ms. Gives the second in which slowness is found.
    fn found(own: impl Fn(u64) -> u64, others: &[u64], falconers: bool, pause_ms: u64) -> Option<u64> {
        let verifier = Verifier::majority((1..=others.len() as i64 + 1).map(ServerId).collect());
        let mut pace = Pace::new(RULE, Instant(0));
        let links: Vec<LinkId> = (0..others.len() as u64).map(LinkId).collect();
        let followers: Vec<Follower> =
            links.iter().map(|&l| (l, ServerId(l.0 as i64 + 2), falconers || l.0 > 0)).collect();
        let (mut now_ms, mut zxid, mut tick_ms) = (0, 0, 0);
        while now_ms < 40_000 {
            zxid += 1;
            let (z, took) = (Zxid::from_u64(zxid), own(now_ms));
            pace.sent(Instant::from_ms(now_ms), z, &links);
            let mut events: Vec<(u64, Option<usize>)> =
                others.iter().enumerate().map(|(i, ms)| (now_ms + ms, Some(i))).collect();
            events.push((now_ms + took, None));
            events.sort_unstable();
            for (at, who) in events {
                while tick_ms <= at {
                    if pace.judge(Instant::from_ms(tick_ms), &verifier, &followers).is_some() {
                        return Some(tick_ms / 1_000);
                    }
                    tick_ms += 500;
                }
                match who {
                    Some(i) => pace.other(Instant::from_ms(at), links[i], z),
                    None => pace.own(Instant::from_ms(at), z),
                }
                now_ms = at;
            }
            now_ms += pause_ms;
        }
        None
    }

    #[test]
    fn only_a_log_that_a_quorum_of_the_others_beats_for_long_is_slow() {
        let always = |ms| move |_: u64| ms;
        // Slow for 9 s, then well again.
        let passing = |now: u64| if now < 9_000 { 100 } else { 1 };
        // Every fourth write stands still: the median does not mind.
        let spikes = |now: u64| if (now / 10).is_multiple_of(4) { 60 } else { 2 };
        for (row, (found, wanted)) in [
            (found(always(100), &[1, 1], true, 1), Some(10)),
            (found(always(1_000), &[1, 1], true, 1), Some(20)),
            // Not even one write a window.
            (found(always(7_000), &[1, 1], true, 1), Some(11)),
            (found(always(100), &[1, 1, 1, 1], true, 1), Some(10)),
            // Two of four others are not enough without this server.
            (found(always(100), &[1, 1, 90, 90], true, 1), None),
            (found(always(100), &[1, 1, 1, 90], true, 1), Some(10)),
            // The other quorum needs a slow one too.
            (found(always(100), &[1, 100], true, 1), None),
            (found(always(100), &[1], true, 1), None),
            (found(always(100), &[], true, 1), None),
            // Below the floor, and below the factor.
            (found(always(15), &[1, 1], true, 1), None),
            (found(always(100), &[30, 30], true, 1), None),
            (found(passing, &[1, 1], true, 1), None),
            (found(spikes, &[1, 1], true, 1), None),
            // Apache's among them.
            (found(always(100), &[1, 1], false, 1), None),
            // A write now and then: nobody waits.
            (found(always(100), &[1, 1], true, 5_000), None),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(found, wanted, "row {row}");
        }
    }

    #[test]
    fn times_are_known_to_a_quarter_of_their_doubling() {
        for us in [0, 1, 2, 3, 4, 5, 7, 8, 100, 999, 20_000, 1_000_000, 1 << 31, u64::MAX / 1_000] {
            let floor = floor_us(bucket(Instant(0), Instant(us * 1_000)));
            assert!(floor <= us.max(1) && (!(2..1 << 31).contains(&us) || floor > us / 2), "{us}: {floor}");
            if (4..1 << 31).contains(&us) {
                assert!(4 * us < 5 * (floor + 1), "{us}: {floor}");
            }
        }
    }

    #[test]
    fn hand_overs_become_rarer_the_more_there_are() {
        let second = |s: u64| Instant::from_ms(1_000 * s);
        let mut back_off = BackOff::new(RULE.back_off_ms.0, second(0));
        let mut done = vec![];
        for s in 0..86_400 {
            if back_off.take(RULE.back_off_ms, second(s)) {
                done.push(s);
            }
        }
        assert_eq!(&done[..7], [0, 60, 180, 420, 900, 1_860, 3_780]);
        assert!(done.len() < 32, "{} in a day", done.len());
        // A day in peace.
        let quiet = 3 * 86_400;
        assert!(back_off.take(RULE.back_off_ms, second(quiet)));
        assert!(
            !back_off.take(RULE.back_off_ms, second(quiet + 59))
                && back_off.take(RULE.back_off_ms, second(quiet + 60))
        );
    }
}
