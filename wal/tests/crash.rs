//! A power cut after every operation of a workload, in many ways: whole, with any subset of what was not synced lost, torn at
//! 512 bytes, names included. What comes back is everything that was acknowledged and nothing that was never proposed; a
//! second recovery finds what the first found; a crash during recovery changes nothing.
//!
//! `WAL_CRASH_STATES` sets how many states are tried. A failure prints the seed, the operation and the way of the cut.

use proto::{Epoch, ServerId, Zxid};
use std::fmt::Debug;
use vfs::mem::{Disk, Op, Platter, Question};
use wal::{Config, Identity, Log, Recovery, Superblock};

const CONFIG: Config = Config { segment_len: 64 << 10, depth: 1, device: vfs::Choice::Auto };
const IDENTITY: Identity = Identity { server: ServerId(3), cluster: 0xc1 };

/// splitmix64: small, and the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A proposed record: its zxid, and a number that no other record has.
type Rec = (Zxid, u64);

/// What a crash may leave: a log that holds `full` after some base up to `base_max`, at least up to `acked`.
#[derive(Clone, Debug, PartialEq)]
struct Allowed {
    base_max: Zxid,
    acked: Zxid,
    full: Vec<Rec>,
}

fn bytes(rec: Rec, len: usize) -> Vec<u8> {
    let mut b = vec![0u8; len.max(40)];
    b[..8].copy_from_slice(&rec.1.to_be_bytes());
    b[12..20].copy_from_slice(&rec.0.as_u64().to_be_bytes());
    let fill = rec.1 as u8;
    b[20..].fill(fill);
    b
}

fn rec(zxid: Zxid, bytes: &[u8]) -> Rec {
    assert!(bytes[20..].iter().all(|&b| b == bytes[7]), "the bytes of {zxid} changed");
    (zxid, u64::from_be_bytes(bytes[..8].try_into().unwrap()))
}

/// Runs a random workload on a recorded disk; each mark in the trace indexes into the states allowed from there on.
struct Workload {
    disk: Disk,
    rng: Rng,
    superblock: Superblock,
    log: Option<Log>,
    history: Vec<Rec>,
    base: Zxid,
    acked: Zxid,
    ids: u64,
    epoch: u32,
    marks: Vec<Vec<Allowed>>,
    depth: usize,
}

impl Workload {
    fn run(seed: u64, steps: usize) -> (Disk, Vec<Vec<Allowed>>) {
        let disk = Disk::new();
        disk.dir("data");
        disk.dir("data/log");
        disk.record();
        disk.mark(0);
        let mut superblock = Superblock::create(&*disk.dir("data"), IDENTITY, seed ^ 0x5a17).unwrap();
        let depth = 1 + (seed % 4) as usize;
        let log = open(&disk, &mut superblock, depth, Zxid::ZERO);
        let mut w = Workload {
            disk,
            rng: Rng(seed),
            superblock,
            log: Some(log),
            history: Vec::new(),
            base: Zxid::ZERO,
            acked: Zxid::ZERO,
            ids: 0,
            epoch: 0,
            marks: vec![vec![Allowed { base_max: Zxid::ZERO, acked: Zxid::ZERO, full: Vec::new() }]],
            depth,
        };
        for _ in 0..steps {
            w.step();
        }
        w.log = None;
        (w.disk, w.marks)
    }

    fn now(&self) -> Allowed {
        Allowed { base_max: self.base, acked: self.acked, full: self.history.clone() }
    }

    fn mark(&mut self, allowed: Vec<Allowed>) {
        self.disk.mark(self.marks.len() as u64);
        self.marks.push(allowed);
    }

    fn last(&self) -> Zxid {
        self.history.last().map_or(self.base, |r| r.0)
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..70 => self.write(),
            70..78 => self.prepare(),
            78..81 => self.role(),
            81..86 => self.truncate(),
            86..92 => self.purge(),
            92..95 => self.idle(),
            95..96 => self.anew(),
            _ => self.restart(),
        }
        self.prepare();
    }

    fn propose(&mut self) {
        let n = 1 + self.rng.below(4);
        let mut batch = Vec::new();
        for _ in 0..n {
            let last = self.last();
            let zxid = match last.epoch().0 == self.epoch {
                true => last.next().unwrap(),
                false => Zxid::new(Epoch(self.epoch), 1),
            };
            self.ids += 1;
            let len = match self.rng.below(20) {
                0 => 30_000,
                1..5 => 5_000,
                _ => 100,
            };
            let len = 40 + self.rng.below(len) as usize;
            self.history.push((zxid, self.ids));
            batch.push((zxid, bytes((zxid, self.ids), len)));
        }
        self.mark(vec![self.now()]);
        let log = self.log.as_mut().unwrap();
        log.appender.append(batch.iter().map(|(z, b)| (*z, &b[..]))).unwrap();
    }

    fn write(&mut self) {
        for _ in 0..self.depth {
            self.propose();
            self.log.as_mut().unwrap().appender.submit().unwrap();
        }
        // Some stay in flight into the next step, so that slots are used again while older batches wait.
        let stay = self.rng.below(self.depth as u64 + 1) as usize;
        while self.log.as_ref().unwrap().appender.in_flight() > stay {
            self.log.as_mut().unwrap().appender.complete().unwrap();
            self.settle();
        }
    }

    /// Notes what is acknowledged by now.
    fn settle(&mut self) {
        self.acked = self.log.as_ref().unwrap().appender.durable().upto();
        self.mark(vec![self.now()]);
    }

    fn prepare(&mut self) {
        for _ in 0..self.rng.below(4) {
            let _ = self.log.as_mut().unwrap().preparer.step().unwrap();
        }
    }

    fn role(&mut self) {
        self.epoch += 1;
        let appender = &mut self.log.as_mut().unwrap().appender;
        let history = appender.change_role().unwrap();
        self.superblock.accept_epoch(Epoch(self.epoch)).unwrap();
        self.superblock.enter_epoch(Epoch(self.epoch), history).unwrap();
        self.settle();
        assert_eq!(self.acked, self.last());
    }

    fn idle(&mut self) {
        self.log.as_mut().unwrap().appender.mark_idle().unwrap();
        self.settle();
        assert_eq!(self.acked, self.last());
    }

    fn truncate(&mut self) {
        let above: Vec<Zxid> = self.history.iter().map(|r| r.0).filter(|z| *z >= self.base).collect();
        let Some(&last) = above.get(self.rng.below(above.len().max(1) as u64) as usize) else { return };
        let before = self.now();
        let mut after = before.clone();
        after.full.retain(|r| r.0 <= last);
        after.acked = last;
        self.mark(vec![before, after.clone()]);
        let appender = &mut self.log.as_mut().unwrap().appender;
        assert_eq!(appender.truncate_after(last, &mut self.superblock).unwrap().upto(), last);
        self.history = after.full.clone();
        self.acked = last;
        // A leader's epoch goes on: the next record must follow the cut.
        self.epoch = self.epoch.max(last.epoch().0);
        self.mark(vec![after]);
    }

    fn purge(&mut self) {
        let Some(&(keep, _)) = self.history.get(self.history.len() / 2) else { return };
        let before = self.now();
        let appender = &mut self.log.as_mut().unwrap().appender;
        let Some(purge) = appender.purgeable(keep) else { return };
        let after = Allowed { base_max: keep, ..before.clone() };
        self.mark(vec![before, after.clone()]);
        let purged = self.superblock.purge(&purge).unwrap();
        let appender = &mut self.log.as_mut().unwrap().appender;
        appender.forget(purged);
        self.base = appender.base();
        assert!(self.base <= keep);
        self.mark(vec![Allowed { base_max: self.base, ..after }]);
    }

    fn anew(&mut self) {
        let base = Zxid::new(Epoch(self.epoch), self.last().counter() + 1000);
        let before = self.now();
        let after = Allowed { base_max: base, acked: base, full: Vec::new() };
        self.mark(vec![before, after.clone()]);
        let appender = &mut self.log.as_mut().unwrap().appender;
        appender.begin_anew(base, &mut self.superblock).unwrap();
        (self.history, self.base, self.acked) = (Vec::new(), base, base);
        self.mark(vec![after]);
    }

    fn restart(&mut self) {
        self.log = None;
        self.superblock = Superblock::open(&*self.disk.dir("data")).unwrap().unwrap();
        let log = open(&self.disk, &mut self.superblock, self.depth, Zxid::ZERO);
        assert_eq!(log.appender.last(), self.last());
        self.log = Some(log);
        self.settle();
    }
}

fn open(disk: &Disk, superblock: &mut Superblock, depth: usize, state: Zxid) -> Log {
    let config = Config { depth, ..CONFIG };
    Recovery::open(disk.dir("data/log"), superblock, config).unwrap().finish(superblock, state).unwrap()
}

/// What is found on a disk.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    base: Zxid,
    last: Zxid,
    records: Vec<Rec>,
}

/// Recovers the disk; `None` if there is no superblock yet.
fn recover(disk: &Disk) -> Option<(Found, Superblock, Log)> {
    let mut superblock = Superblock::open(&*disk.dir("data")).unwrap()?;
    let mut recovery = Recovery::open(disk.dir("data/log"), &superblock, CONFIG).unwrap();
    let mut records = Vec::new();
    let base = recovery.base();
    let taken: Result<(), wal::Error> = recovery.replay(base, |z, b| {
        records.push(rec(z, b));
        Ok(())
    });
    taken.unwrap();
    let log = recovery.finish(&mut superblock, Zxid::ZERO).unwrap();
    let found = Found { base, last: log.appender.last(), records };
    assert_eq!(found.records.last().map_or(base, |r| r.0), found.last);
    Some((found, superblock, log))
}

fn check(found: &Found, allowed: &[Allowed]) -> Result<(), String> {
    let fits = |a: &Allowed| {
        let wanted: Vec<Rec> =
            a.full.iter().copied().filter(|r| r.0 > found.base && r.0 <= found.last).collect();
        found.base <= a.base_max && found.last >= a.acked && found.records == wanted
    };
    let tell =
        |a: &Allowed| format!("base <= {}, acked {}, full to {:?}", a.base_max, a.acked, a.full.last());
    match allowed.iter().any(fits) {
        true => Ok(()),
        false => Err(format!(
            "found base {}, last {}, {} records; allowed: {}",
            found.base,
            found.last,
            found.records.len(),
            allowed.iter().map(tell).collect::<Vec<_>>().join(" or ")
        )),
    }
}

/// The ways of a cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    LoseAll,
    KeepAll,
    LoseOne(u64),
    KeepOne(u64),
    /// Of the last write the first (or last) sectors only; all else kept.
    TearLast {
        sectors: u64,
        front: bool,
    },
    Random(u64),
    RandomWhole(u64),
}

impl Cut {
    fn pick(rng: &mut Rng, pending: u64) -> Cut {
        match rng.below(10) {
            0 => Cut::LoseAll,
            1 => Cut::KeepAll,
            2 => Cut::LoseOne(rng.below(pending)),
            3 => Cut::KeepOne(rng.below(pending)),
            4..6 => Cut::TearLast { sectors: rng.below(16), front: rng.below(2) == 0 },
            6..8 => Cut::RandomWhole(rng.next()),
            _ => Cut::Random(rng.next()),
        }
    }

    fn apply(self, platter: &Platter) -> Disk {
        let is_write = |op: &Op| matches!(op, Op::Write { .. });
        let last_write = platter.pending().enumerate().filter(|(_, op)| is_write(op)).map(|(i, _)| i).last();
        let mut rng = Rng(match self {
            Cut::Random(seed) | Cut::RandomWhole(seed) => seed,
            _ => 0,
        });
        let wholes: Vec<bool> = (0..platter.pending().len()).map(|_| rng.below(2) == 0).collect();
        platter.crash(&mut |q: Question<'_>| match self {
            Cut::LoseAll => false,
            Cut::KeepAll => true,
            Cut::LoseOne(i) => q.index as u64 != i,
            Cut::KeepOne(i) => q.index as u64 == i,
            Cut::TearLast { sectors, front } => {
                Some(q.index) != last_write || ((q.sector as u64) < sectors) == front
            }
            Cut::RandomWhole(_) => wholes[q.index],
            Cut::Random(_) => rng.below(2) == 0,
        })
    }
}

fn wanted_states() -> usize {
    let default = if cfg!(debug_assertions) { 3_000 } else { 20_000 };
    std::env::var("WAL_CRASH_STATES").ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_unproposed_appears() {
    let wanted = wanted_states();
    let mut tried = 0;
    let mut seed = 0;
    while tried < wanted {
        seed += 1;
        let (disk, marks) = Workload::run(seed, 40);
        tried += cut_everywhere(seed, &disk, &marks);
    }
    println!("{tried} crash states of {seed} workloads");
}

fn cut_everywhere(seed: u64, disk: &Disk, marks: &[Vec<Allowed>]) -> usize {
    let trace = disk.trace();
    let mut platter = trace.start();
    let mut rng = Rng(seed);
    let mut allowed = &marks[0];
    let mut tried = 0;
    for (at, op) in trace.ops().iter().enumerate() {
        platter.step(op);
        if let Op::Mark(mark) = op {
            allowed = &marks[*mark as usize];
        }
        let pending = platter.pending().len() as u64;
        let cuts = if pending == 0 { 1 } else { 2 };
        for _ in 0..cuts {
            let cut = if pending == 0 { Cut::LoseAll } else { Cut::pick(&mut rng, pending) };
            let after = cut.apply(&platter);
            let context = format_args!("seed {seed}, operation {at}, {cut:?}").to_string();
            cut_once(&after, allowed, &mut rng, &context);
            tried += 1;
        }
    }
    tried
}

fn cut_once(disk: &Disk, allowed: &[Allowed], rng: &mut Rng, context: &dyn Debug) {
    disk.record();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| recover(disk)));
    let outcome = outcome.unwrap_or_else(|_| panic!("recovery failed: {context:?}"));
    let Some((found, mut superblock, mut log)) = outcome else {
        assert!(allowed.iter().all(|a| a.full.is_empty()), "the superblock is gone: {context:?}");
        return;
    };
    check(&found, allowed).unwrap_or_else(|e| panic!("{e}: {context:?}"));
    let recovery_ops = disk.trace();

    // A second recovery finds the same, whatever happened to what the first one left unsynced.
    let again = disk.crash(&mut |_| rng.below(2) == 0);
    let (second, ..) = recover(&again).expect("the superblock stays");
    assert_eq!(second, found, "a second recovery differs: {context:?}");

    // What is written behind it stays, and so does what was found.
    if rng.below(4) == 0 {
        while matches!(log.preparer.step().unwrap(), wal::Step::Again) {}
        let history = log.appender.change_role().unwrap();
        let epoch = Epoch(superblock.contents().accepted_epoch.0.max(found.last.epoch().0) + 1);
        superblock.enter_epoch(epoch, history).unwrap();
        let mut wanted = found.clone();
        for i in 1..=3 {
            let zxid = Zxid::new(epoch, i);
            let rec = (zxid, u64::MAX - u64::from(i));
            log.appender.append([(zxid, &bytes(rec, 500)[..])]).unwrap();
            log.appender.commit().unwrap();
            wanted.records.push(rec);
            wanted.last = zxid;
        }
        let (third, superblock, _) = recover(&disk.crash(&mut |_| rng.below(2) == 0)).unwrap();
        assert_eq!(third, wanted, "writing after recovery: {context:?}");
        assert_eq!(superblock.contents().current_epoch, epoch);
    }

    // A crash during the recovery changes nothing.
    let at = rng.below(recovery_ops.ops().len() as u64 + 1) as usize;
    let mut platter = recovery_ops.start();
    recovery_ops.ops()[..at].iter().for_each(|op| platter.step(op));
    let pending = platter.pending().len() as u64;
    let cut = if pending == 0 { Cut::LoseAll } else { Cut::pick(rng, pending) };
    let (third, ..) = recover(&cut.apply(&platter)).expect("the superblock stays");
    check(&third, allowed).unwrap_or_else(|e| panic!("{e}: crash in recovery at {at}, {cut:?}: {context:?}"));
}
