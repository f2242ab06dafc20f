//! What the numbers mean, in words, and the configuration they suggest.

use super::lane::{Lane, Outcome, Space, Way};
use super::{Findings, STALLS};
use crate::render::{bytes, grouped, nanos};

/// How good a home for a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Grade {
    /// p99 below a millisecond.
    Excellent,
    /// p99 below ten milliseconds, the customary limit for a consensus log.
    Good,
    /// Sessions and elections will suffer now and then.
    Poor,
    /// Not for a log: it forgets, or it stalls for longer than a heartbeat.
    Unfit,
}

impl Grade {
    /// The word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Grade::Excellent => "excellent",
            Grade::Good => "good",
            Grade::Poor => "poor",
            Grade::Unfit => "unfit",
        }
    }
}

/// The judgement.
#[derive(Debug)]
pub struct Verdict {
    /// In one word.
    pub grade: Grade,
    /// In sentences.
    pub words: Vec<String>,
    /// Lines for `zoo.cfg`, with comments.
    pub configuration: Vec<String>,
}

/// Commits in this time at the 99th percentile are excellent; in the second one good; beyond the third unfit.
const EXCELLENT_NS: u64 = 1_000_000;
const GOOD_NS: u64 = 10_000_000;
const UNFIT_NS: u64 = 1_000_000_000;
/// A flush of a device with a write-back cache that is faster than this never reached flash or a platter.
const CHEAP_FLUSH_NS: u64 = 150_000;
/// A spinning disk can't flush faster than a good part of a turn.
const CHEAP_SPIN_NS: u64 = 2_000_000;
/// A way must be this much faster than what `auto` takes to be worth naming.
const WORTH_NAMING: f64 = 0.8;

/// The lane that a log should use: one small commit at a time, on written space; the fastest at the median
/// of the ways that the server has.
pub fn best(outcomes: &[Outcome]) -> Option<usize> {
    let usable = |o: &Outcome| {
        let written = o.lane.space == Space::Prepared;
        let single = matches!(o.lane.way, Way::Buffered | Way::Direct | Way::Uring(1));
        o.refused.is_none() && !o.latency.is_empty() && written && single && o.lane.size == vfs::BLOCK
    };
    (0..outcomes.len()).filter(|i| usable(&outcomes[*i])).min_by_key(|i| outcomes[*i].at(50.0))
}

impl Verdict {
    /// Judges.
    pub fn of(found: &Findings) -> Verdict {
        let t = &found.timeline;
        let (p50, p99, max) =
            (t.latency.value_at_quantile(0.5), t.latency.value_at_quantile(0.99), t.latency.max());
        let grade = match (p99, max) {
            _ if found.facts.is_memory() => Grade::Unfit,
            (p99, _) if p99 >= UNFIT_NS => Grade::Unfit,
            (_, max) if max >= 2 * UNFIT_NS => Grade::Unfit,
            (p99, max) if p99 >= GOOD_NS || max >= UNFIT_NS => Grade::Poor,
            (p99, _) if p99 >= EXCELLENT_NS => Grade::Good,
            _ => Grade::Excellent,
        };
        let mut v = Verdict { grade, words: Vec::new(), configuration: Vec::new() };
        v.words.push(match grade {
            _ if found.facts.is_memory() => format!(
                "Unfit: {} lives in memory; nothing written here survives a restart of the machine.",
                found.facts.file_system
            ),
            Grade::Excellent => format!("Excellent for a log: a commit takes {} (p99 {}).", nanos(p50), nanos(p99)),
            Grade::Good => format!("Good for a log: a commit takes {} (p99 {}, under 10 ms).", nanos(p50), nanos(p99)),
            Grade::Poor => format!(
                "Poor for a log: p99 is {} and the slowest commit took {}; clients will see it as latency, and leaders \
                 may be deposed.",
                nanos(p99),
                nanos(max)
            ),
            Grade::Unfit => format!(
                "Unfit for a log: p99 is {} and the slowest commit took {}, longer than a heartbeat.",
                nanos(p99),
                nanos(max)
            ),
        });
        if found.facts.is_memory() {
            v.configuration.push("# another directory, on a disk, for dataDir and dataLogDir".into());
            return v;
        }
        v.throughput(found);
        v.space(found);
        v.stalls(found);
        v.flush(found);
        v.configure(found);
        v
    }

    fn throughput(&mut self, found: &Findings) {
        let batch =
            |o: &&Outcome| o.lane.size == 64 << 10 && o.refused.is_none() && o.lane.way == Way::Direct;
        if let Some(o) = found.outcomes.iter().find(batch) {
            let rate = o.rate();
            self.words.push(format!(
                "Batches of {} commit {} times per second ({} per second): writes that arrive together share a commit, so \
                 the disk limits bytes, not requests.",
                bytes(o.lane.size as u64),
                grouped(rate as u64),
                bytes((rate * o.lane.size as f64) as u64)
            ));
        }
    }

    fn space(&mut self, found: &Findings) {
        let p50 = |space, way| p50(found, Lane { size: vfs::BLOCK, space, way });
        if let (Some(append), Some(best)) = (p50(Space::Append, Way::Buffered), best(&found.outcomes)) {
            let prepared = found.outcomes[best].at(50.0);
            let ratio = append as f64 / prepared.max(1) as f64;
            if ratio >= 1.15 {
                self.words.push(format!(
                    "Preparing space ahead pays: {} instead of {} for appending ({ratio:.1} times as fast). Falconer does \
                     it by itself, ZooKeeper's padding does not ({}).",
                    nanos(prepared),
                    nanos(append),
                    p50(Space::Hole, Way::Buffered).map_or("not measured".into(), nanos)
                ));
            }
        }
    }

    fn stalls(&mut self, found: &Findings) {
        let t = &found.timeline;
        let worst = STALLS.iter().zip(t.stalls).rev().find(|(_, n)| *n > 0);
        self.words.push(match worst {
            None => format!("No commit of {} took longer than 10 ms.", grouped(t.latency.len())),
            Some((bound, n)) => format!(
                "Stalls: {} of {} commits took longer than {}, the slowest {}. Look for other users of the disk \
                 (snapshots, backups, neighbours).",
                grouped(n),
                grouped(t.latency.len()),
                nanos(bound.as_nanos() as u64),
                nanos(t.latency.max())
            ),
        });
    }

    fn flush(&mut self, found: &Findings) {
        let facts = &found.facts;
        let Some(f) = &found.flush else {
            self.words.push("Direct I/O is refused here, so the cost of a flush can't be told apart.".into());
            return;
        };
        if facts.is_remote() {
            self.words.push(format!(
                "{} is remote: whether a flush means durable is decided at the other end.",
                facts.file_system
            ));
            return;
        }
        if let Some((asked, 0)) = f.counted
            && facts.write_cache.as_deref() == Some("write back")
        {
            self.words.push(format!(
                "Suspicious: the device has a write-back cache, yet of {asked} flushes none reached it. Check the mount \
                 options (barrier, nobarrier: {}).",
                facts.options
            ));
            return;
        }
        let flush = f.both.saturating_sub(f.write).min(f.empty.max(1));
        let through = facts.write_cache.as_deref() == Some("write through");
        let grows = f.after.last().is_some_and(|(_, ns)| *ns > 4 * f.empty.max(1));
        if facts.rotational == Some(true) && f.both < CHEAP_SPIN_NS {
            self.words.push(format!(
                "Suspiciously cheap: a disk that says it rotates makes a write durable in {}. Either a battery-backed \
                 cache is below it, or flushes are ignored: ask whoever runs it.",
                nanos(f.both)
            ));
        } else if through {
            self.words.push(format!(
                "The device says that it has no volatile cache: a write is durable when it returns ({}).",
                nanos(f.write)
            ));
        } else if flush < CHEAP_FLUSH_NS && !grows {
            self.words.push(format!(
                "The flush is suspiciously cheap: {}, whatever was written before it. Either the device has power-loss \
                 protection, or something below (a hypervisor, a controller) ignores flushes; from here this can't be \
                 told apart. Ask whoever runs the disk before you trust it.",
                nanos(flush)
            ));
        } else {
            self.words.push(format!(
                "A flush costs {} and depends on what was written: it does something.",
                nanos(flush)
            ));
        }
    }

    fn configure(&mut self, found: &Findings) {
        let p50 = |way| p50(found, Lane { size: vfs::BLOCK, space: Space::Prepared, way });
        let (ring, direct, buffered) = (p50(Way::Uring(1)), p50(Way::Direct), p50(Way::Buffered));
        // Auto takes the first that works of uring, pwritev2, buffered.
        let auto = ring.or(direct).or(buffered);
        let faster =
            |way: Option<u64>| way.zip(auto).is_some_and(|(w, a)| (w as f64) < WORTH_NAMING * a as f64);
        let mut line = |text: String| self.configuration.push(text);
        line(format!("dataLogDir={}", found.dir.display()));
        if faster(direct) {
            line("falconer.walBackend=pwritev2    # clearly faster here than io_uring".into());
        } else if faster(buffered) {
            line("falconer.walBackend=buffered    # clearly faster here than direct I/O".into());
        } else {
            let which = match (ring, direct) {
                (Some(_), _) => "io_uring",
                (None, Some(_)) => "pwritev2, io_uring being refused",
                (None, None) => "buffered, direct I/O being refused",
            };
            line(format!("falconer.walBackend=auto        # takes {which}"));
        }
        let max = found.timeline.latency.max();
        if self.grade >= Grade::Poor {
            // A stall must fit well into the time after which followers give up on a leader (syncLimit ticks).
            let tick = (max / 1_000_000).next_multiple_of(1000).clamp(2000, 10_000);
            line(format!(
                "tickTime={tick}                   # stalls of {} must not look like death",
                nanos(max)
            ));
        }
        if self.grade == Grade::Unfit {
            line("# better: another disk for dataLogDir".into());
        }
    }
}

fn p50(found: &Findings, lane: Lane) -> Option<u64> {
    let o = found.outcomes.iter().find(|o| o.lane == lane)?;
    (o.refused.is_none() && !o.latency.is_empty()).then(|| o.at(50.0))
}

#[cfg(test)]
mod tests {
    use super::super::facts::Facts;
    use super::super::{Flush, Timeline, lane};
    use super::*;
    use std::time::Duration;

    fn found(ns: &[u64], flush_ns: u64, facts: Facts, ring_ns: Option<u64>) -> Findings {
        let mut latency = lane::commits();
        ns.iter().for_each(|v| latency.saturating_record(*v));
        let outcomes = lane::lanes(true)
            .into_iter()
            .map(|lane| {
                let refused =
                    (matches!(lane.way, Way::Uring(_)) && ring_ns.is_none()).then(|| "EPERM".to_string());
                let mut h = lane::commits();
                let mine = if matches!(lane.way, Way::Uring(_)) { ring_ns.unwrap_or(1) } else { 80_000 };
                h.saturating_record(mine);
                Outcome { lane, latency: h, busy: Duration::from_millis(1), refused }
            })
            .collect();
        let lane = lane::lanes(true)[5];
        let stalls = STALLS.map(|b| ns.iter().filter(|v| u128::from(**v) > b.as_nanos()).count() as u64);
        Findings {
            dir: "/data".into(),
            facts,
            outcomes,
            flush: Some(Flush {
                write: 40_000,
                empty: flush_ns,
                both: 40_000 + flush_ns,
                after: vec![(64 << 20, flush_ns)],
                counted: Some((400, 400)),
            }),
            timeline: Timeline { lane, latency, points: Vec::new(), stalls, busy: Duration::from_secs(1) },
        }
    }

    fn back() -> Facts {
        Facts { file_system: "ext4".into(), write_cache: Some("write back".into()), ..Facts::default() }
    }

    #[test]
    fn grades_follow_the_tail() {
        let grade = |ns: &[u64]| Verdict::of(&found(ns, 40_000, back(), Some(80_000))).grade;
        assert_eq!(grade(&[80_000; 100]), Grade::Excellent);
        assert_eq!(grade(&[2_000_000; 100]), Grade::Good);
        assert_eq!(grade(&[20_000_000; 100]), Grade::Poor);
        assert_eq!(grade(&[1_500_000_000; 100]), Grade::Unfit);
        let memory = Facts { file_system: "tmpfs".into(), ..Facts::default() };
        assert_eq!(Verdict::of(&found(&[1_000; 100], 1, memory, None)).grade, Grade::Unfit);
    }

    #[test]
    fn a_cheap_flush_is_doubted_and_an_honest_one_is_not() {
        let words = |flush| Verdict::of(&found(&[80_000; 9], flush, back(), None)).words.join("\n");
        assert!(words(40_000).contains("suspiciously cheap"));
        assert!(words(900_000).contains("it does something"));
        let spinning = Facts { rotational: Some(true), ..back() };
        let words = Verdict::of(&found(&[80_000; 9], 40_000, spinning, None)).words.join("\n");
        assert!(words.contains("says it rotates"));
        let mut none = found(&[80_000; 9], 40_000, back(), None);
        none.flush.as_mut().unwrap().counted = Some((400, 0));
        assert!(Verdict::of(&none).words.join("\n").contains("none reached it"));
    }

    #[test]
    fn the_suggestion_names_a_backend_only_when_it_is_worth_it() {
        let config = |ring| Verdict::of(&found(&[80_000; 9], 40_000, back(), ring)).configuration.join("\n");
        assert!(config(Some(85_000)).contains("walBackend=auto        # takes io_uring"));
        assert!(config(Some(200_000)).contains("walBackend=pwritev2"));
        assert!(config(None).contains("io_uring being refused"));
    }
}
