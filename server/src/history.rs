//! The last minutes, second by second: what the page draws, and what a standstill is told from.
//!
//! One thread wakes every second, takes what was counted since, and looks whether requests had to wait. If they had, it
//! says in one line what they waited for: the disk, the processor, the network.

use crate::core::{Core, wall_now};
use crate::limits;
use crate::metrics::Process;
use crate::stats::{Counted, Counter, Measure};
use node::stage::Stage;
use parking_lot::Mutex;
use proto::WallMs;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
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
    fn of(c: &Counted) -> Spread {
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
        let mut before = Before {
            at: Instant::now(),
            measures: totals(),
            counters: COUNTERS.map(|c| core.stats.total_of(c)),
            cpu: Process::read_cpu(),
            pressure: Pressure::read(),
        };
        let mut number = 0;
        let mut told: Option<Instant> = None;
        while !core.stopping.load(Acquire) {
            // In short naps: from one long sleep, a standstill at its beginning would wake this thread hardly late.
            let mut late = Duration::ZERO;
            for _ in 0..limits::SAMPLE.as_millis() / limits::NAP.as_millis() {
                let asleep = Instant::now();
                std::thread::sleep(limits::NAP);
                late = late.max(asleep.elapsed().saturating_sub(limits::NAP));
            }
            let now = Before {
                at: Instant::now(),
                measures: totals(),
                counters: COUNTERS.map(|c| core.stats.total_of(c)),
                cpu: Process::read_cpu(),
                pressure: Pressure::read(),
            };
            number += 1;
            if disk.as_ref().is_some_and(|d| d.is_finished())
                && let Some(Ok(verdict)) = disk.take().map(std::thread::JoinHandle::join)
            {
                *self.disk.lock() = Some(verdict);
            }
            let sample = sample(core, number, &before, &now);
            let stall = attribute(core, &sample, &before, &now, late);
            before = now;
            if let Some(text) = stall
                && told.is_none_or(|at| at.elapsed() >= limits::STALL_LOG_INTERVAL)
            {
                told = Some(Instant::now());
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
        outstanding: core.outstanding.load(Relaxed) as u64,
        events: counter(0),
        errors: counter(1),
        received_bytes: counter(2),
        cores: ((now.cpu - before.cpu) / seconds).max(0.0),
    }
}

/// Why requests had to wait in this second, if they had to wait long.
fn attribute(core: &Core, s: &Sample, before: &Before, now: &Before, late: Duration) -> Option<String> {
    let ms = |ns: u64| ns / 1_000_000;
    let writing = core.log.writing_for(core.clock().mono());
    let slowest = s.requests[0].max.max(s.requests[1].max);
    let answered = s.requests.iter().map(|r| r.count).sum::<u64>();
    let waited = match (slowest, writing) {
        (slowest, _) if ms(slowest) >= limits::STALL_MS => slowest,
        (_, Some(ns)) if ms(ns) >= limits::STALL_MS => ns,
        _ if late.as_millis() as u64 >= limits::STALL_MS => late.as_nanos() as u64,
        _ if answered == 0 && s.outstanding > 0 => (s.seconds * 1e9) as u64,
        _ => return None,
    };
    let window_us = (s.seconds * 1e6) as u64;
    let share = |now: u64, before: u64| now.saturating_sub(before) * 100 / window_us.max(1);
    let io = share(now.pressure.io_us, before.pressure.io_us);
    let cpu = share(now.pressure.cpu_us, before.pressure.cpu_us);
    let throttled = share(now.pressure.throttled_us, before.pressure.throttled_us);
    let retransmitted = now.pressure.retransmitted.saturating_sub(before.pressure.retransmitted);
    let sync = s.sync.max.max(writing.unwrap_or(0));
    let unsent: usize = core.conns.all().iter().map(|c| c.unsent()).sum();
    let head = format!("requests waited up to {} ms", ms(waited));
    Some(if late.as_nanos() as u64 * 2 >= waited {
        format!(
            "{head}: the processor: this process was not run for {} ms (cgroup throttled {throttled} % of the time, others \
             waited for a processor {cpu} %): stopped, suspended, or too little of the machine",
            late.as_millis()
        )
    } else if sync * 2 >= waited {
        format!(
            "{head}: the disk: a durable write of the log took {} ms, usually {:.1} ms (tasks waited for I/O {io} % of the \
             time): who else writes to it?",
            ms(sync),
            s.sync.p50 as f64 / 1e6
        )
    } else if throttled >= 20 || cpu >= 40 {
        format!(
            "{head}: the processor: tasks waited for one {cpu} % of the time, the cgroup was throttled {throttled} %, this \
             process used {:.1} cores",
            s.cores
        )
    } else if unsent > limits::OUTBOX_PAUSE || retransmitted > 100 {
        format!(
            "{head}: the network, or clients that do not read: {} KiB wait to be sent, {retransmitted} segments were sent again",
            unsent >> 10
        )
    } else {
        let slow = s.stages.iter().zip(Stage::ALL).max_by_key(|(spread, _)| spread.max);
        let (spread, stage) = slow.map(|(spread, stage)| (spread.max, stage.name())).unwrap_or_default();
        format!(
            "{head}: neither disk ({} ms) nor processor ({cpu} %) nor network stands out; most of it in the stage {stage} \
             ({} ms), {} requests in flight",
            ms(sync),
            ms(spread),
            s.outstanding
        )
    })
}
