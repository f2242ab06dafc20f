//! The last minutes, second by second: what the page draws, and what a standstill is told from.
//!
//! One thread wakes every second, takes what was counted since, and looks whether requests had to wait. If they had, it
//! says in one line what they waited for: the disk, the processor, the network, a peer. Of each of these it speaks at most once in
//! [`limits::STALL_LOG_INTERVAL`], so that a disk that is slow all the time does not hide that the process was stopped.

use crate::core::{Core, wall_now};
use crate::limits;
use crate::metrics::Process;
use crate::stats::{Counted, Counter, Measure};
use node::Service;
use node::stage::Stage;
use parking_lot::Mutex;
use proto::{ServerId, WallMs};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Acquire;
use std::time::{Duration, Instant};

/// A second.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Counts up from 1.
    pub number: u64,
    /// Its end.
    pub at: WallMs,
    /// Its length, s.
    pub seconds: f64,
    /// Reads, updates, others: how many, p50 and p99 in ns.
    pub requests: [Spread; 3],
    /// The time that requests spent in each stage, in the order of [`Stage::ALL`].
    pub stages: [Spread; 9],
    /// Durable writes of the log.
    pub sync: Spread,
    /// Records in one of them, the mean.
    pub batch: f64,
    /// Connections at its end.
    pub connections: u64,
    /// Requests without a reply at its end.
    pub outstanding: u64,
    /// Events sent.
    pub events: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Processor time of the process, in cores.
    pub cores: f64,
}

/// A number of values and how they lie, ns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    /// How many.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// Half are below.
    pub p50: u64,
    /// 99 % are below.
    pub p99: u64,
    /// The largest, to within an eighth.
    pub max: u64,
}

impl Spread {
    /// How the values lie that were counted.
    pub fn of(c: &Counted) -> Spread {
        Spread {
            count: c.count(),
            mean: c.mean(),
            p50: c.quantile(0.5),
            p99: c.quantile(0.99),
            max: c.quantile(1.0),
        }
    }
}

/// A standstill and what it was put down to.
#[derive(Clone, Debug)]
pub struct Stall {
    /// When it was seen.
    pub at: WallMs,
    /// One line.
    pub text: String,
}

/// The last minutes.
#[derive(Default)]
pub struct History {
    samples: Mutex<VecDeque<Sample>>,
    stalls: Mutex<VecDeque<Stall>>,
    /// What the start found out about the disk, if it looked.
    disk: Mutex<Option<String>>,
}

/// What is measured each second, in the order of [`Before::measures`].
const MEASURES: [Measure; 5] =
    [Measure::Read, Measure::Update, Measure::Other, Measure::Sync, Measure::BatchRecords];
const COUNTERS: [Counter; 3] = [Counter::Events, Counter::Errors, Counter::ReceivedBytes];

/// The totals at the end of the last second.
struct Before {
    at: Instant,
    measures: Vec<Counted>,
    counters: [u64; 3],
    cpu: f64,
    pressure: Pressure,
    /// The longest time in that second for which this process was not run.
    late: Duration,
    /// How long the followers of this leader took to acknowledge.
    acks: Vec<(ServerId, Counted)>,
}

/// What a wait is put down to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Disk,
    Processor,
    Network,
    Peer,
    Unknown,
}

impl Cause {
    const COUNT: usize = Cause::Unknown as usize + 1;
}

/// What is known of a second in which requests may have had to wait.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// The slowest request that was answered, ns.
    slowest: u64,
    /// The durable write that is under way has taken so long, ns.
    writing: u64,
    /// The slowest durable write, ns; half of them took less than the second number.
    sync: (u64, u64),
    /// This process was not run for so long, in this second or the one before: what stood still in that one may be answered
    /// in this.
    late: Duration,
    /// Requests are open and none was answered.
    stuck: bool,
    /// Its length, ns.
    length: u64,
    outstanding: u64,
    /// Of the second, in %: tasks waited for I/O, for a processor, the cgroup was throttled.
    io: u64,
    cpu: u64,
    throttled: u64,
    cores: f64,
    /// TCP segments of this machine.
    retransmitted: u64,
    /// Bytes for clients.
    unsent: usize,
    /// The stage that took longest, ns.
    stage: (&'static str, u64),
    /// The slowest read that was answered, ns.
    read: u64,
    /// What requests wait for besides this server, in an ensemble.
    peers: Peered,
}

/// What is known of the other servers.
#[derive(Clone, Debug, Default)]
enum Peered {
    /// There are none.
    #[default]
    Alone,
    /// This server leads: how long each follower took to acknowledge, or takes so far, ns; and how long records waited for
    /// a quorum that were durable here.
    Leads(Vec<(ServerId, u64)>, u64),
    /// Writes go through this one.
    Learns(Option<ServerId>),
}

/// What the kernel says that tasks waited for, µs in all; 0 where it does not say.
#[derive(Clone, Copy, Default)]
struct Pressure {
    cpu_us: u64,
    io_us: u64,
    throttled_us: u64,
    retransmitted: u64,
}

impl Pressure {
    fn read() -> Pressure {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let total = |path: &str| {
            let text = text(path);
            let some = text.lines().find(|l| l.starts_with("some "));
            some.and_then(|l| l.rsplit_once("total=")?.1.trim().parse().ok()).unwrap_or(0)
        };
        let field = |text: &str, name: &str| -> u64 {
            text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
        };
        let snmp = text("/proc/net/snmp");
        let mut tcp =
            snmp.lines().filter_map(|l| l.strip_prefix("Tcp: ")).map(|l| l.split(' ').collect::<Vec<_>>());
        let retransmitted = tcp.next().zip(tcp.next()).and_then(|(names, values)| {
            let at = names.iter().position(|n| *n == "RetransSegs")?;
            values.get(at)?.parse().ok()
        });
        Pressure {
            cpu_us: total("/proc/pressure/cpu"),
            io_us: total("/proc/pressure/io"),
            throttled_us: field(&text("/sys/fs/cgroup/cpu.stat"), "throttled_usec"),
            retransmitted: retransmitted.unwrap_or(0),
        }
    }
}

impl History {
    /// The seconds behind number `after`.
    pub fn since(&self, after: u64) -> Vec<Sample> {
        self.samples.lock().iter().filter(|s| s.number > after).cloned().collect()
    }

    /// Standstills, the latest last.
    pub fn stalls(&self) -> Vec<Stall> {
        self.stalls.lock().iter().cloned().collect()
    }

    /// What the start found out about the disk.
    pub fn disk(&self) -> Option<String> {
        self.disk.lock().clone()
    }

    /// The life of the thread that looks every second. `disk` is the check of the start, whose result is kept.
    pub fn run(&self, core: &Core, mut disk: Option<std::thread::JoinHandle<String>>) {
        let totals = || {
            let stage = Stage::ALL.iter().map(|s| core.stats.total(*s as usize));
            stage.chain(MEASURES.iter().map(|m| core.stats.total(*m as usize))).collect::<Vec<_>>()
        };
        let acks = || core.peers().map_or_else(Vec::new, |peers| peers.acks.times());
        let mut before = Before {
            at: Instant::now(),
            measures: totals(),
            counters: COUNTERS.map(|c| core.stats.total_of(c)),
            cpu: Process::read_cpu(),
            pressure: Pressure::read(),
            late: Duration::ZERO,
            acks: acks(),
        };
        let mut number = 0;
        let mut told: [Option<Instant>; Cause::COUNT] = [None; Cause::COUNT];
        let mut woken = Instant::now();
        while !core.stopping.load(Acquire) {
            // In short naps: from one long sleep, a standstill at its beginning would wake this thread hardly late. From one
            // awakening to the next, since it may as well fall into the work between two naps.
            let mut late = Duration::ZERO;
            for _ in 0..limits::SAMPLE.as_millis() / limits::NAP.as_millis() {
                std::thread::sleep(limits::NAP);
                let before = std::mem::replace(&mut woken, Instant::now());
                late = late.max((woken - before).saturating_sub(limits::NAP));
            }
            let now = Before {
                at: Instant::now(),
                measures: totals(),
                counters: COUNTERS.map(|c| core.stats.total_of(c)),
                cpu: Process::read_cpu(),
                pressure: Pressure::read(),
                late,
                acks: acks(),
            };
            if late >= limits::PAUSE {
                core.stats.measure(Measure::Pause, late.as_nanos() as u64, 1);
            }
            number += 1;
            if disk.as_ref().is_some_and(|d| d.is_finished())
                && let Some(Ok(verdict)) = disk.take().map(std::thread::JoinHandle::join)
            {
                *self.disk.lock() = Some(verdict);
            }
            let sample = sample(core, number, &before, &now);
            let stall = attribute(&facts(core, &sample, &before, &now));
            before = now;
            if let Some((cause, text)) = stall
                && told[cause as usize].is_none_or(|at| at.elapsed() >= limits::STALL_LOG_INTERVAL)
            {
                told[cause as usize] = Some(Instant::now());
                tracing::warn!("{text}");
                let mut stalls = self.stalls.lock();
                if stalls.len() == limits::STALLS {
                    stalls.pop_front();
                }
                stalls.push_back(Stall { at: wall_now(), text });
            }
            let mut samples = self.samples.lock();
            if samples.len() == limits::SAMPLES {
                samples.pop_front();
            }
            samples.push_back(sample);
        }
    }
}

fn sample(core: &Core, number: u64, before: &Before, now: &Before) -> Sample {
    let part = |i: usize| {
        let mut c = now.measures[i].clone();
        c.since(&before.measures[i]);
        c
    };
    let seconds = (now.at - before.at).as_secs_f64();
    let counter = |i: usize| now.counters[i].wrapping_sub(before.counters[i]);
    let stages = Stage::ALL.len();
    Sample {
        number,
        at: wall_now(),
        seconds,
        requests: [0, 1, 2].map(|i| Spread::of(&part(stages + i))),
        stages: std::array::from_fn(|i| Spread::of(&part(i))),
        sync: Spread::of(&part(stages + 3)),
        batch: part(stages + 4).mean(),
        connections: core.conns.count() as u64,
        outstanding: core.outstanding(),
        events: counter(0),
        errors: counter(1),
        received_bytes: counter(2),
        cores: ((now.cpu - before.cpu) / seconds).max(0.0),
    }
}

fn facts(core: &Core, s: &Sample, before: &Before, now: &Before) -> Facts {
    let window_us = ((s.seconds * 1e6) as u64).max(1);
    let share = |now: u64, before: u64| now.saturating_sub(before) * 100 / window_us;
    let slowest_stage = s.stages.iter().zip(Stage::ALL).max_by_key(|(spread, _)| spread.max);
    Facts {
        slowest: s.requests[0].max.max(s.requests[1].max),
        writing: core.log.writing_for(core.clock().mono()).unwrap_or(0),
        sync: (s.sync.max, s.sync.p50),
        late: now.late.max(before.late),
        stuck: s.outstanding > 0 && s.requests.iter().all(|r| r.count == 0),
        length: (s.seconds * 1e9) as u64,
        outstanding: s.outstanding,
        io: share(now.pressure.io_us, before.pressure.io_us),
        cpu: share(now.pressure.cpu_us, before.pressure.cpu_us),
        throttled: share(now.pressure.throttled_us, before.pressure.throttled_us),
        cores: s.cores,
        retransmitted: now.pressure.retransmitted.saturating_sub(before.pressure.retransmitted),
        unsent: core.conns.all().iter().map(|c| c.unsent()).sum(),
        stage: slowest_stage.map(|(spread, stage)| (stage.name(), spread.max)).unwrap_or_default(),
        read: s.requests[0].max,
        peers: peered(core, s, before, now),
    }
}

fn peered(core: &Core, s: &Sample, before: &Before, now: &Before) -> Peered {
    match core.service() {
        Some(Service::Leading) => {
            let mono = core.clock().mono();
            let mut took: BTreeMap<ServerId, u64> = BTreeMap::new();
            for (id, acks) in &now.acks {
                let mut acks = acks.clone();
                if let Some((_, earlier)) = before.acks.iter().find(|(of, _)| of == id) {
                    acks.since(earlier);
                }
                took.insert(*id, acks.quantile(1.0));
            }
            let peers = core.peers().expect("a leader has peers");
            let votes =
                |id: &ServerId| core.settings.ensemble().is_some_and(|e| e.voters().any(|m| m.id == *id));
            for id in peers.links().iter().filter_map(|link| link.learner.get()).filter(|id| votes(id)) {
                let so_far = took.entry(*id).or_default();
                let waits = peers.acks.waiting_since(*id).map_or(0, |since| mono.0.saturating_sub(since.0));
                *so_far = (*so_far).max(waits);
            }
            Peered::Leads(took.into_iter().collect(), s.stages[Stage::Commit as usize].max)
        }
        Some(Service::Following | Service::Observing) => Peered::Learns(core.with_node(|n| n.zab().leader())),
        _ => Peered::Alone,
    }
}

/// What a wait of `waited` ns has to do with other servers, if it has.
fn blame_peers(f: &Facts, waited: u64) -> Option<String> {
    let ms = |ns: u64| ns / 1_000_000;
    match &f.peers {
        Peered::Alone => None,
        Peered::Leads(followers, commit) => {
            let slow: Vec<_> = followers.iter().filter(|(_, ns)| ns * 2 >= waited).collect();
            if slow.is_empty() || (commit * 2 < waited && !f.stuck) {
                return None;
            }
            let named = slow.iter().map(|(id, ns)| format!("server {id} ({} ms)", ms(*ns)));
            let named = named.collect::<Vec<_>>().join(", ");
            Some(format!(
                "records were durable here and waited {} ms for a quorum; late with their acknowledgements: {named}: their \
                 disks, their processors, or the network to them",
                ms(*commit)
            ))
        }
        // Reads are answered here: if they went on, it was not this server that stood still.
        Peered::Learns(leader) if f.read * 2 < waited => {
            let leader = leader.map_or("the leader".to_owned(), |id| format!("server {id}, which leads,"));
            Some(format!(
                "writes waited for {leader} or for the way to it: nothing here took as long; look at the warnings of that server"
            ))
        }
        Peered::Learns(_) => None,
    }
}

/// Why requests had to wait in this second, if they had to wait long.
fn attribute(f: &Facts) -> Option<(Cause, String)> {
    const STALL: u64 = limits::STALL_MS * 1_000_000;
    let ms = |ns: u64| ns / 1_000_000;
    let late = f.late.as_nanos() as u64;
    let (waited, head) = match f {
        Facts { slowest, .. } if *slowest >= STALL => (*slowest, "requests waited up to"),
        Facts { writing, .. } if *writing >= STALL => (*writing, "requests wait, so far for"),
        _ if late >= STALL => (late, "this server stood still for"),
        Facts { stuck: true, length, .. } => (*length, "no request was answered for"),
        _ => return None,
    };
    let head = format!("{head} {} ms", ms(waited));
    let Facts { io, cpu, throttled, retransmitted, .. } = f;
    let sync = f.sync.0.max(f.writing);
    Some(if late * 2 >= waited {
        // Before the disk: a durable write that the standstill has caught took as long.
        let text = format!(
            "{head}: the processor: this process was not run for {} ms (cgroup throttled {throttled} % of the time, others \
             waited for a processor {cpu} %): stopped, suspended, or too little of the machine",
            ms(late)
        );
        (Cause::Processor, text)
    } else if sync * 2 >= waited {
        let text = format!(
            "{head}: the disk: a durable write of the log took {} ms, usually {:.1} ms (tasks waited for I/O {io} % of the \
             time): who else writes to it?",
            ms(sync),
            f.sync.1 as f64 / 1e6
        );
        (Cause::Disk, text)
    } else if let Some(why) = blame_peers(f, waited) {
        (Cause::Peer, format!("{head}: a peer: {why}"))
    } else if *throttled >= 20 || *cpu >= 40 {
        let text = format!(
            "{head}: the processor: tasks waited for one {cpu} % of the time, the cgroup was throttled {throttled} %, this \
             process used {:.1} cores",
            f.cores
        );
        (Cause::Processor, text)
    } else if f.unsent > limits::OUTBOX_PAUSE || *retransmitted > 100 {
        let text = format!(
            "{head}: the network, or clients that do not read: {} KiB wait to be sent, {retransmitted} segments were sent again",
            f.unsent >> 10
        );
        (Cause::Network, text)
    } else {
        let (stage, spent) = f.stage;
        let text = format!(
            "{head}: neither disk ({} ms) nor processor ({cpu} %) nor network stands out; most of it in the stage {stage} \
             ({} ms), {} requests in flight",
            ms(sync),
            ms(spent),
            f.outstanding
        );
        (Cause::Unknown, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn second(change: impl FnOnce(&mut Facts)) -> Option<(Cause, String)> {
        let mut facts = Facts { length: 1000 * MS, sync: (3 * MS, MS), slowest: 4 * MS, ..Facts::default() };
        change(&mut facts);
        attribute(&facts)
    }

    fn cause(change: impl FnOnce(&mut Facts)) -> Option<Cause> {
        second(change).map(|(cause, _)| cause)
    }

    #[test]
    fn a_wait_is_put_down_to_what_took_as_long() {
        let stopped = Duration::from_millis(1150);
        assert_eq!(cause(|_| {}), None);
        assert_eq!(cause(|f| f.late = Duration::from_millis(400)), None, "nobody waited for long");
        assert_eq!(cause(|f| (f.slowest, f.sync.0) = (900 * MS, 880 * MS)), Some(Cause::Disk));
        assert_eq!(cause(|f| f.writing = 700 * MS), Some(Cause::Disk), "a write that has not ended");
        assert_eq!(cause(|f| (f.slowest, f.cpu) = (600 * MS, 60)), Some(Cause::Processor));
        assert_eq!(cause(|f| (f.slowest, f.throttled) = (600 * MS, 30)), Some(Cause::Processor));
        assert_eq!(cause(|f| (f.slowest, f.unsent) = (600 * MS, 64 << 20)), Some(Cause::Network));
        assert_eq!(cause(|f| (f.slowest, f.retransmitted) = (600 * MS, 500)), Some(Cause::Network));
        assert_eq!(cause(|f| f.slowest = 600 * MS), Some(Cause::Unknown));
        assert_eq!(cause(|f| (f.stuck, f.outstanding) = (true, 9)), Some(Cause::Unknown));
        // A process that was stopped: nothing asked for, requests answered in the same second, in the next one, and with a
        // durable write that it caught.
        assert_eq!(cause(|f| f.late = stopped), Some(Cause::Processor));
        assert_eq!(cause(|f| (f.slowest, f.late) = (1300 * MS, stopped)), Some(Cause::Processor));
        let caught = second(|f| (f.slowest, f.sync.0, f.late) = (1300 * MS, 1201 * MS, stopped));
        let (cause, text) = caught.unwrap();
        assert_eq!(cause, Cause::Processor);
        assert!(text.contains("1300 ms") && text.contains("was not run for 1150 ms"), "{text}");
    }

    #[test]
    fn a_peer_is_named_when_nothing_here_took_as_long() {
        let leads = |two: u64, three: u64, commit: u64| {
            Peered::Leads(vec![(ServerId(2), two * MS), (ServerId(3), three * MS)], commit * MS)
        };
        let (found, text) = second(|f| (f.slowest, f.peers) = (900 * MS, leads(880, 2, 870))).unwrap();
        assert_eq!(found, Cause::Peer);
        assert!(text.contains("server 2 (880 ms)") && !text.contains("server 3"), "{text}");
        // One that is slow while a quorum goes on without it is not what anybody waits for.
        assert_eq!(cause(|f| (f.slowest, f.peers) = (900 * MS, leads(880, 2, 3))), Some(Cause::Unknown));
        // Nothing has been answered yet.
        assert_eq!(
            cause(|f| (f.stuck, f.outstanding, f.peers) = (true, 9, leads(990, 990, 0))),
            Some(Cause::Peer)
        );
        // This server's own disk is the reason why it did not get there.
        assert_eq!(
            cause(|f| (f.slowest, f.sync.0, f.peers) = (900 * MS, 890 * MS, leads(880, 880, 880))),
            Some(Cause::Disk)
        );
        let learns = || Peered::Learns(Some(ServerId(3)));
        let (found, text) = second(|f| (f.slowest, f.read, f.peers) = (900 * MS, MS, learns())).unwrap();
        assert_eq!(found, Cause::Peer);
        assert!(text.contains("server 3, which leads"), "{text}");
        let own = cause(|f| (f.slowest, f.read, f.peers) = (900 * MS, 880 * MS, learns()));
        assert_eq!(own, Some(Cause::Unknown), "reads stood still too");
    }

    /// A stop of 400 ms beside a write that took five seconds is not what requests waited for.
    #[test]
    fn a_short_standstill_does_not_excuse_a_slow_disk() {
        let found = cause(|f| {
            (f.slowest, f.sync.0, f.late) = (5000 * MS, 4900 * MS, Duration::from_millis(400));
        });
        assert_eq!(found, Some(Cause::Disk));
    }
}
