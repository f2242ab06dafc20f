//! One server: the real node over the real log, snapshots and tree, with a simulated disk, clock and network.
//!
//! It is the shell of the simulation: what threads and sockets do in `falconerd` happens here as events. A server
//! lives from its start to its death; its disk and its clock outlive it.

use crate::book::Fact;
use crate::coverage::Point;
use crate::kernel::{Due, Event, Kernel};
use crate::lines::{Flush, Lines, State};
use crate::net::{Conn, Item, Port, Side};
use crate::peers::{Election, Link, Receiving, cut};
use crate::rng::Rng;
use crate::time::{Clock, MS, Time, US};
use engine::{Applier, PrepConfig, Tree, TreeConfig};
use node::{Config, Input, LocalSessions, Node, Now};
use proto::client::{ConnectRequest, OpCode, RequestHeader, WriteOp};
use proto::jute::Reader;
use proto::txn::{DIGEST_VERSION, Record, RecordBatch, Txn, TxnHeader};
use proto::{ConnId, ServerId, WallMs, Xid, Zxid};
use snapshot::policy::Chance;
use snapshot::{Catalogue, Digest, Header, Kind, Policy};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use vfs::mem::{Disk, Op as DiskOp};
use wal::{Appender, Identity, Preparer, Recovery, Space, Superblock};
use zab::Service;

/// How servers of a run are made.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Servers that vote.
    pub voters: usize,
    /// Servers that follow without a vote.
    pub observers: usize,
    /// The tick, ms.
    pub tick_ms: u64,
    /// Bytes of a segment of the log.
    pub segment_len: u64,
    /// Batches in flight.
    pub depth: usize,
    /// Txns between snapshots.
    pub snap_count: u32,
    /// Snapshots that are kept.
    pub keep: usize,
    /// Bytes of a slice of a snapshot.
    pub slice: usize,
    /// The counter of the first zxid: near its end in some runs.
    pub counter: u32,
    /// Committed records that are kept in memory for learners.
    pub kept_records: usize,
    /// At the beginning no server was told to begin a history.
    pub all_blank: bool,
    /// A durable write takes this long, ns.
    pub write_ns: u64,
    /// The preparer of segments gets its turn so many times as late.
    pub starved: u64,
    /// What becomes of new sessions.
    pub local_sessions: LocalSessions,
    /// A server that has looked for a leader for so long serves reads without one.
    pub read_only_after_ms: Option<u64>,
}

/// How long a disk is taken for full before it is tried again.
const FULL_PAUSE: u64 = 20 * MS;
/// How long a learner may take to come about, ticks.
pub(crate) const INIT_LIMIT: u64 = 10;
/// The factors of slow disks that come together, at most: a write that began meanwhile must not outlast the demand for service.
const SLOWEST: u64 = 1_000;
/// How long the log is idle before the durability of its last batch is recorded.
const IDLE: u64 = 200 * MS;

/// A machine.
pub struct Server {
    /// Its number: place in the network, and id − 1.
    pub id: usize,
    pub(crate) setting: Arc<Setting>,
    /// Its disk.
    pub disk: Disk,
    /// Its clocks.
    pub clock: Clock,
    /// The process, if it runs.
    pub process: Option<Box<Process>>,
    /// Lives so far.
    pub life: u32,
    /// It stands still until then.
    pub paused_until: Time,
    /// Durable writes take so many times as long.
    pub slow: u64,
    /// Durable writes do not come back before this time.
    pub stalled_until: Time,
    /// It has lost power: nobody is answered.
    pub dark: bool,
    /// Something on its disk was changed by a fault; a refusal to start is then right.
    pub rotten: Option<Rotten>,
    /// The next start builds a tree that is silently wrong.
    pub spoil: bool,
    /// The next failure of its disk is a loss of power.
    pub power_fails: bool,
    /// Cut after so many packets more: for crashes between two of them.
    pub packets_left: Option<u64>,
    /// Now and then a connection breaks while a tree goes out through it: it takes too short a time for other faults to meet it.
    pub trees_break: bool,
    /// It is to die now.
    pub(crate) doomed: bool,
    /// Its disk was wiped, its history was cut off whole, or it was begun without one, and it has not served since.
    pub blank: bool,
    pub(crate) rng: Rng,
}

/// A bit that a fault has turned over, and where.
#[derive(Clone, Debug)]
pub struct Rotten {
    /// The directory.
    pub dir: &'static str,
    /// The file.
    pub name: String,
    /// The byte.
    pub offset: u64,
    /// The bit.
    pub bit: u8,
}

pub(crate) struct Running {
    walk: engine::Walk,
    writer: snapshot::Writer,
}

/// A job that the node has asked the disk for.
pub(crate) enum Job {
    Epochs { accepted: proto::Epoch, current: Option<(proto::Epoch, proto::Durable)>, joined: bool },
    Truncate { after: Zxid, applier: Option<Applier> },
    Reload { applier: Applier },
    Save { zxid: Zxid },
    Find { link: Conn, zxid: Zxid },
    End { by_majority: bool },
}

/// A process.
pub struct Process {
    life: u32,
    /// The machine.
    pub node: Node,
    /// The state.
    pub tree: Arc<Tree>,
    /// The clients.
    pub lines: Arc<Lines>,
    pub(crate) appender: Appender,
    preparer: Preparer,
    pub(crate) superblock: Superblock,
    pub(crate) catalogue: Catalogue,
    policy: Policy,
    pub(crate) snapshot: Option<Running>,
    queue: VecDeque<Arc<RecordBatch>>,
    /// Handed to the log and not applied, for the book.
    pub(crate) handed: VecDeque<(Zxid, Arc<RecordBatch>, usize)>,
    writing: bool,
    retrying: bool,
    log_full: bool,
    segments: u64,
    counted: wal::Counts,
    preparing: bool,
    idle: u32,
    tick: (u32, Time),
    pub(crate) jobs: VecDeque<Job>,
    /// What it does for clients.
    pub service: Service,
    pub(crate) election: BTreeMap<usize, Election>,
    /// Connections of the quorum port that were dialled and have not come about, with whom.
    pub(crate) dialing: BTreeMap<Conn, usize>,
    pub(crate) links: BTreeMap<Conn, Link>,
    /// Links whose queue is too long.
    pub(crate) overfull: Vec<Conn>,
    pub(crate) receiving: Option<Receiving>,
    /// Through which link the last whole tree came.
    pub(crate) received: Option<Conn>,
}

/// Why a server could not start, or a job of its disk failed.
pub(crate) enum Refusal {
    /// Damage to something that was acknowledged.
    Damage(String),
    /// The disk fails or is full.
    Disk(String),
}

impl From<wal::Error> for Refusal {
    fn from(e: wal::Error) -> Refusal {
        match e {
            wal::Error::Io { .. } | wal::Error::NoSpace { .. } => Refusal::Disk(e.to_string()),
            _ => Refusal::Damage(e.to_string()),
        }
    }
}

impl From<snapshot::Error> for Refusal {
    fn from(e: snapshot::Error) -> Refusal {
        if e.is_damage() { Refusal::Damage(e.to_string()) } else { Refusal::Disk(e.to_string()) }
    }
}

impl Server {
    /// A machine with an empty disk.
    pub fn new(id: usize, setting: Arc<Setting>, rng: Rng) -> Server {
        let blank = setting.all_blank;
        Server {
            id,
            setting,
            disk: Disk::new(),
            clock: Clock::new(1_000_000 + 77_777 * id as u64),
            blank,
            process: None,
            life: 0,
            paused_until: 0,
            slow: 1,
            stalled_until: 0,
            dark: false,
            rotten: None,
            spoil: false,
            power_fails: false,
            packets_left: None,
            trees_break: true,
            doomed: false,
            rng,
        }
    }

    fn now(&self, k: &Kernel) -> Now {
        Now { mono: self.clock.mono(k.now), wall: self.clock.wall(k.now) }
    }

    pub(crate) fn event(&self, what: Due) -> Event {
        Event::Server { server: self.id, life: self.life, what }
    }

    /// The process dies; what was not durable is settled by chance. `silent`: the machine loses power, and nobody is
    /// told; else only the process dies, and the disk forgets nothing.
    pub fn die(&mut self, k: &mut Kernel, silent: bool, wipe: bool) {
        self.process = None;
        self.dark = silent;
        k.cut_off(self.id, silent);
        self.packets_left = None;
        if wipe {
            self.disk = Disk::new();
            self.blank = true;
        } else if silent {
            let rng = &mut self.rng;
            // Some cuts lose everything, some nothing, most a part.
            let mode = rng.below(4);
            let (mut torn, mut lost_name) = (false, false);
            self.disk = self.disk.crash(&mut |q| {
                let keep = match mode {
                    0 => false,
                    1 => true,
                    _ => rng.one_in(2),
                };
                match q.op {
                    DiskOp::Write { .. } => torn |= !keep,
                    _ => lost_name |= !keep,
                }
                keep
            });
            if torn {
                k.hit(Point::TornWrite);
            }
            if lost_name {
                k.hit(Point::LostName);
            }
        } else {
            // The page cache outlives the process.
            self.disk = self.disk.crash(&mut |_| true);
        }
        k.fact(&Fact::Died { server: self.id, wiped: wipe });
    }

    /// Starts the process: superblock, snapshot, log, node. A disk that fails makes the start fail; it is tried again.
    pub fn boot(&mut self, k: &mut Kernel) {
        assert!(self.process.is_none(), "a server is started once");
        self.life += 1;
        self.dark = false;
        if k.story.is_some() {
            let files = self.describe_files();
            k.tell(|| format!("{} starts with {files}", self.id));
        }
        match self.recover(k) {
            Ok(process) => {
                self.process = Some(Box::new(process));
                self.pump(k);
                self.prepare(k);
            }
            Err(Refusal::Disk(why)) => {
                k.tell(|| format!("{} can't start, the disk fails: {why}", self.id));
                k.after(50 * MS, Event::Boot { server: self.id });
            }
            Err(Refusal::Damage(why)) => {
                let Some(rot) = self.rotten.take() else {
                    let how = format!("{} refuses to start: {why}", self.id);
                    return k.judge.condemn(k.now, "starts after every crash", how);
                };
                // It says so and does not vote: the operator brings the file back.
                k.tell(|| format!("{} refuses to start, rightly: {why}", self.id));
                k.hit(Point::RotRefused);
                self.disk.flip(rot.dir, &rot.name, rot.offset, rot.bit);
                k.after(50 * MS, Event::Boot { server: self.id });
            }
        }
    }

    fn recover(&mut self, k: &mut Kernel) -> Result<Process, Refusal> {
        let data = self.disk.dir("data");
        let snapshot_dir = self.disk.dir("data/snapshot");
        let log_dir = self.disk.dir("data/log");
        let identity = Identity { server: ServerId(self.id as i64 + 1), cluster: 0 };
        let mut superblock = match Superblock::open(&*data)? {
            Some(superblock) => {
                superblock.check_identity(identity)?;
                superblock
            }
            None => {
                k.hit(Point::BootEmpty);
                let made = Identity { cluster: 7, ..identity };
                let mut superblock = Superblock::create(&*data, made, self.rng.next())?;
                if self.setting.counter > 0 {
                    k.judge.book.origin = self.age(snapshot_dir.clone(), k.now)?;
                }
                if !self.blank {
                    superblock.set_joined()?;
                }
                superblock
            }
        };
        let config = wal::Config {
            segment_len: self.setting.segment_len,
            depth: self.setting.depth,
            device: vfs::Choice::Auto,
        };
        if let Some(after) = superblock.contents().cut {
            // The last life was about to cut log and snapshots: that is finished before anything is read.
            k.hit(Point::CutFinished);
            let mut catalogue = Catalogue::open(snapshot_dir.clone(), Some(cluster_bytes()))?;
            let recovery = Recovery::open(log_dir.clone(), &superblock, config)?;
            let mut log = recovery.finish(&mut superblock, Zxid::ZERO)?;
            let durable = cut(&mut log.appender, &mut superblock, &mut catalogue, after)?;
            self.blank |= !superblock.contents().joined;
            k.fact(&Fact::Cut { server: self.id, end: durable.upto() });
        }
        let mut recovery = Recovery::open(log_dir, &superblock, config)?;
        let mut catalogue = Catalogue::open(snapshot_dir, Some(cluster_bytes()))?;
        catalogue.sweep()?;
        let newest_usable = catalogue.entries().first().map_or(Zxid::ZERO, |e| e.start());
        for skipped in catalogue.skipped() {
            let ours = !matches!(skipped.why, snapshot::Error::Foreign { .. });
            if skipped.start > newest_usable && ours && !skipped.why.is_damage() {
                return Err(Refusal::Disk(skipped.why.to_string()));
            }
        }
        let wall = self.clock.wall(k.now);
        let (tree, mut applier, loaded_end) =
            load_newest(&mut catalogue, recovery.base(), wall, self.rng.next())?;
        let start = tree.applied();
        if start > Zxid::ZERO {
            k.hit(Point::BootSnapshot);
        }
        let mut replayed = (0_u64, 0_u64);
        let mut recent: VecDeque<(Zxid, Vec<u8>)> = VecDeque::new();
        let kept = self.setting.kept_records;
        recovery.replay::<Refusal>(start, |zxid, record| {
            apply_logged(&mut applier, record)?;
            replayed = (replayed.0 + 1, replayed.1 + record.len() as u64);
            recent.push_back((zxid, record.to_vec()));
            if recent.len() > kept {
                recent.pop_front();
            }
            Ok(())
        })?;
        if replayed.0 > 0 {
            k.hit(Point::BootReplay);
        }
        if tree.applied() < loaded_end {
            return Err(Refusal::Damage(format!(
                "the log ends before {loaded_end}, where the snapshot does"
            )));
        }
        tree.check_links().map_err(|e| Refusal::Damage(format!("snapshot and log do not fit: {e}")))?;
        if std::mem::take(&mut self.spoil) && tree.applied() > Zxid::ZERO {
            k.hit(Point::Spoilt);
            k.fact(&Fact::Spoilt { server: self.id });
            apply_logged(&mut applier, &wrong(tree.applied(), wall))?;
        }
        let log = recovery.finish(&mut superblock, start)?;
        if log.found.torn.is_some() {
            k.hit(Point::TornTail);
        }
        let end = log.appender.durable();
        k.fact(&Fact::Recovered { server: self.id, base: log.appender.base(), end: end.upto() });
        let epochs = superblock.epochs();
        k.fact(&Fact::Epochs { server: self.id, accepted: epochs.accepted(), current: epochs.current() });
        let mut policy = Policy::new(
            snapshot::policy::Settings { snap_count: self.setting.snap_count, snap_size_bytes: 0 },
            // The rule that a snapshot waits until the log outgrew the last one would make them rare.
            0,
            self.chance(),
        );
        policy.logged(replayed.0, replayed.1);
        let config = self.node_config();
        let (node, service) = if self.setting.voters + self.setting.observers == 1 {
            (Node::new(config, end, tree.clone(), applier, self.now(k)), Service::Leading)
        } else {
            let mut batch = RecordBatch::new();
            recent.iter().for_each(|(z, r)| batch.push_with(*z, |out| out.extend_from_slice(r)));
            let recent = if batch.is_empty() { Vec::new() } else { vec![Arc::new(batch)] };
            let joined = superblock.contents().joined;
            let recovered = zab::Recovered { epochs, joined, recent };
            let now = self.now(k);
            (Node::join(config, self.ensemble(), recovered, end, tree.clone(), applier, now), Service::None)
        };
        let lines = Arc::new(Lines::new(tree.clone()));
        let counted = log.appender.counts();
        self.stand(k, &tree);
        if service == Service::Leading {
            k.fact(&Fact::Serves { server: self.id, service, applied: tree.applied() });
        }
        Ok(Process {
            life: self.life,
            node,
            tree,
            lines,
            segments: counted.segments,
            counted,
            appender: log.appender,
            preparer: log.preparer,
            superblock,
            catalogue,
            policy,
            snapshot: None,
            queue: VecDeque::new(),
            handed: VecDeque::new(),
            writing: false,
            retrying: false,
            log_full: false,
            preparing: false,
            idle: 0,
            tick: (0, Time::MAX),
            jobs: VecDeque::new(),
            service,
            election: BTreeMap::new(),
            dialing: BTreeMap::new(),
            links: BTreeMap::new(),
            overfull: Vec::new(),
            receiving: None,
            received: None,
        })
    }

    /// Puts the state of a long history on the disk: nothing is in it, and its counter is near its end.
    fn age(&self, dir: Arc<dyn vfs::Dir>, now: Time) -> Result<Zxid, Refusal> {
        let origin = Zxid::new(proto::Epoch(0), self.setting.counter);
        let (tree, mut applier) = engine::new(tree_config(0));
        applier.advance(origin);
        let mut walk = tree.walk();
        let wall = self.clock.wall(now);
        let server = ServerId(self.id as i64 + 1);
        let header = Header { cluster: cluster_bytes(), server, start: walk.start(), written: wall };
        let mut writer = snapshot::Writer::create(dir, header, Box::new(|_| ControlFlow::Continue(())))?;
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let part = walk.next(&tree, 4096, &mut buffer);
            let Some(kind) = kind_of(part.kind) else { break };
            writer.part(kind, part.count as u32, &buffer)?;
        }
        let (end, digest) = walk.end().expect("a walk that is done has an end");
        writer.finish(end, Some(Digest { version: DIGEST_VERSION as u32, value: digest }), wall)?;
        Ok(origin)
    }

    pub(crate) fn stand(&self, k: &mut Kernel, tree: &Tree) {
        let (zxid, digest) = tree.applied_digest();
        k.fact(&Fact::Stands { server: self.id, zxid, digest, mismatches: tree.digest_mismatches() });
    }

    fn chance(&mut self) -> Chance {
        Chance { count: self.rng.next(), bytes: self.rng.next() }
    }

    fn node_config(&self) -> Config {
        let tick = self.setting.tick_ms;
        Config {
            me: ServerId(self.id as i64 + 1),
            tick_ms: tick,
            session_timeout_ms: 2 * tick as i32..=20 * tick as i32,
            container_check_ms: 3 * tick,
            containers_per_minute: 100_000,
            container_never_used_ms: 0,
            local_sessions: self.setting.local_sessions,
            prep: PrepConfig::default(),
        }
    }

    fn ensemble(&self) -> zab::Ensemble {
        let id = |n: usize| ServerId(n as i64 + 1);
        let Setting { voters, observers, tick_ms, kept_records, read_only_after_ms, .. } = *self.setting;
        zab::Ensemble {
            me: id(self.id),
            verifier: zab::Verifier::majority((0..voters).map(id).collect()),
            observers: (voters..voters + observers).map(id).collect(),
            tick_ms,
            init_limit: INIT_LIMIT as u32,
            connect_limit: zab::limits::CONNECT_TICKS,
            sync_limit: 5,
            config_text: Arc::from(&b"version=0"[..]),
            config_version: 0,
            election: zab::ElectionTimes::default(),
            kept_records,
            read_only_after_ms,
            slow_log: Some(zab::SlowLog {
                floor_us: 1_000,
                factor: 3,
                window_ms: tick_ms,
                windows: 2,
                back_off_ms: (4 * tick_ms, 40 * tick_ms),
            }),
        }
    }

    /// The process, if its life is still the one that `life` says.
    fn alive(&mut self, life: u32) -> Option<&mut Process> {
        self.process.as_deref_mut().filter(|p| p.life == life)
    }

    /// Something is due.
    pub fn due(&mut self, k: &mut Kernel, life: u32, what: Due) {
        if self.alive(life).is_none() {
            return;
        }
        match what {
            Due::Tick(turn) => {
                if self.process().tick.0 == turn {
                    self.process().tick.1 = Time::MAX;
                    self.step(k, Input::Tick);
                }
            }
            Due::Written => self.written(k),
            Due::Retry => {
                let p = self.process();
                p.retrying = false;
                let full = p.appender.space() == Space::Full;
                self.set_full(k, full);
                self.write(k);
                if self.process.is_some() {
                    self.pump(k);
                }
                if self.process.is_some() {
                    self.prepare(k);
                }
            }
            Due::Idle(turn) => self.idle(k, turn),
            Due::Prepare => {
                self.process().preparing = false;
                self.prepare(k);
            }
            Due::Snapshot => self.snapshot(k),
            Due::Job => self.job(k),
            Due::Stream(conn) => self.stream(k, conn),
            Due::DialLate(conn) => self.dial_late(k, conn),
            Due::Stalled(conn) => self.stalled(k, conn),
        }
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_deref_mut().expect("callers have looked")
    }

    /// Gives the node an input, and does what follows.
    pub(crate) fn step(&mut self, k: &mut Kernel, input: Input<'_>) {
        let now = self.now(k);
        let p = self.process();
        p.node.step(now, input, &*p.lines);
        self.pump(k);
    }

    /// What the node has to say.
    fn pump(&mut self, k: &mut Kernel) {
        let id = self.id;
        loop {
            let p = self.process();
            while let Some(batch) = p.node.take_batch() {
                for (i, (zxid, record)) in batch.iter().enumerate() {
                    k.fact(&Fact::Appended { server: id, zxid, record });
                    p.handed.push_back((zxid, batch.clone(), i));
                }
                p.queue.push_back(batch);
            }
            let Some(output) = p.node.next_output() else { break };
            self.output(k, output);
            if self.process.is_none() {
                return;
            }
        }
        self.account_applied(k);
        self.flush(k);
        self.write(k);
        self.drop_overfull(k);
        if std::mem::take(&mut self.doomed) && self.process.is_some() {
            k.hit(Point::CrashAtPacket);
            self.die(k, false, false);
            k.after(100 * MS, Event::Boot { server: id });
        }
        if self.process.is_none() {
            return;
        }
        let due = self.process().node.next_timeout();
        let at = self.clock.when(due, k.now);
        let p = self.process();
        if at != p.tick.1 {
            p.tick = (p.tick.0 + 1, at);
            let event = Event::Server { server: id, life: p.life, what: Due::Tick(p.tick.0) };
            k.schedule(at, event);
        }
    }

    pub(crate) fn account_applied(&mut self, k: &mut Kernel) {
        let id = self.id;
        let p = self.process();
        let applied = p.tree.applied();
        let mut any = false;
        while let Some((zxid, batch, i)) = p.handed.front()
            && *zxid <= applied
        {
            let (zxid, record) = batch.get(*i).expect("it was counted");
            any = true;
            k.fact(&Fact::Applied { server: id, zxid, record });
            p.handed.pop_front();
        }
        if any {
            let tree = p.tree.clone();
            self.stand(k, &tree);
        }
    }

    fn flush(&mut self, k: &mut Kernel) {
        let id = self.id;
        let p = self.process();
        let lines = p.lines.clone();
        (0..lines.take_guests()).for_each(|_| k.hit(Point::ReadOnlyGuest));
        for Flush { conn, bytes, session, shown, close } in lines.take_flushes() {
            if self.process.is_none() {
                return;
            }
            if let Some(zxid) = shown {
                k.fact(&Fact::Replied { server: id, session, zxid });
            }
            if !bytes.is_empty() {
                k.net.send(k.now, conn, Side::Listener, bytes);
            }
            if close {
                k.net.close(k.now, conn, Side::Listener);
                self.forget(k, conn);
            } else {
                self.run_waiting(k, conn);
            }
        }
    }

    /// A client's connection is gone.
    pub(crate) fn forget(&mut self, k: &mut Kernel, conn: Conn) {
        let p = self.process();
        if let Some(session) = p.lines.remove(conn) {
            self.step(k, Input::Disconnected { conn: ConnId(conn), session });
        }
    }

    /// How long a durable write takes now.
    pub(crate) fn disk_ns(&mut self, k: &Kernel) -> u64 {
        let ns = self.rng.around(self.setting.write_ns) * self.slow.min(SLOWEST);
        ns.max(self.stalled_until.saturating_sub(k.now))
    }

    /// The disk has failed: the process ends, as the real one does.
    pub(crate) fn fail(&mut self, k: &mut Kernel, e: &dyn std::fmt::Display) {
        k.tell(|| format!("{} stops, its disk fails: {e}", self.id));
        k.hit(Point::Died);
        let silent = std::mem::take(&mut self.power_fails);
        self.die(k, silent, false);
        self.disk.heal();
        k.after(100 * MS, Event::Boot { server: self.id });
    }

    /// Begins a write of the log, if there is something to write and none is under way.
    fn write(&mut self, k: &mut Kernel) {
        let Some(p) = self.process.as_deref_mut() else { return };
        // A batch that found no room waits inside the appender.
        if p.writing || p.retrying || (p.queue.is_empty() && p.appender.waiting() == 0) {
            return;
        }
        while let Some(batch) = p.queue.front() {
            let last = p.appender.last();
            match p.appender.append(batch.iter().filter(|(zxid, _)| *zxid > last)) {
                Ok(()) => {
                    p.queue.pop_front();
                }
                Err(wal::Error::NoSpace { .. }) => break,
                Err(e) => return self.fail(k, &e),
            }
        }
        match p.appender.submit() {
            Ok(()) => {}
            Err(wal::Error::NoSpace { .. }) => return self.full(k),
            Err(e) => return self.fail(k, &e),
        }
        if p.appender.in_flight() == 0 {
            return self.full(k);
        }
        p.writing = true;
        let event = self.event(Due::Written);
        k.after(self.disk_ns(k), event);
    }

    fn full(&mut self, k: &mut Kernel) {
        self.set_full(k, true);
    }

    fn set_full(&mut self, k: &mut Kernel, full: bool) {
        let p = self.process();
        if full && !p.retrying {
            p.retrying = true;
            let event = self.event(Due::Retry);
            k.after(FULL_PAUSE, event);
        }
        let p = self.process();
        if p.log_full != full {
            p.log_full = full;
            if full {
                k.hit(Point::LogFull);
            }
            let now = self.now(k);
            let p = self.process();
            p.node.step(now, Input::LogFull(full), &*p.lines);
        }
    }

    /// A write of the log comes back.
    fn written(&mut self, k: &mut Kernel) {
        let id = self.id;
        let p = self.process();
        let durable = loop {
            match p.appender.complete() {
                Ok(Some(_)) if p.appender.in_flight() > 0 => {}
                Ok(Some(durable)) => break durable,
                Ok(None) => break p.appender.durable(),
                Err(e) => return self.fail(k, &e),
            }
        };
        p.writing = false;
        k.fact(&Fact::Durable { server: id, upto: durable.upto() });
        let counts = p.appender.counts();
        p.policy.logged(counts.records - p.counted.records, counts.bytes - p.counted.bytes);
        let switched = counts.segments != p.segments;
        if switched {
            k.hit(Point::SegmentSwitch);
            p.segments = counts.segments;
        }
        p.counted = counts;
        p.idle += 1;
        let turn = p.idle;
        let idle = self.event(Due::Idle(turn));
        k.after(IDLE, idle);
        let space = self.process().appender.space();
        self.set_full(k, space == Space::Full);
        self.step(k, Input::Persisted(durable));
        self.run_links(k);
        if self.process.is_none() {
            return;
        }
        self.begin_snapshot(k);
        if switched && self.process.is_some() {
            self.prepare(k);
        }
    }

    fn idle(&mut self, k: &mut Kernel, turn: u32) {
        let p = self.process();
        let busy = p.writing || !p.queue.is_empty() || p.appender.waiting() > 0;
        if p.idle != turn || busy || !p.appender.wants_mark() {
            return;
        }
        k.hit(Point::IdleMark);
        match p.appender.mark_idle() {
            Ok(()) | Err(wal::Error::NoSpace { .. }) => {}
            Err(e) => self.fail(k, &e),
        }
    }

    /// The preparer's turn.
    fn prepare(&mut self, k: &mut Kernel) {
        if self.process.is_none() || self.process().preparing {
            return;
        }
        let starved = self.setting.starved;
        let p = self.process();
        let pause = match p.preparer.step() {
            Ok(wal::Step::Again) => 20 * US * starved,
            Ok(wal::Step::Pause(pause)) => pause.as_nanos() as u64 / 10,
            Ok(wal::Step::Idle) => {
                return;
            }
            Err(e) => return self.fail(k, &e),
        };
        p.preparing = true;
        let event = self.event(Due::Prepare);
        k.after(pause, event);
    }

    fn begin_snapshot(&mut self, k: &mut Kernel) {
        let chance = self.chance();
        let wall = self.clock.wall(k.now);
        let server = ServerId(self.id as i64 + 1);
        let dir = self.disk.dir("data/snapshot");
        let p = self.process();
        if p.snapshot.is_some() || p.appender.space() != Space::Ok || p.policy.due().is_none() {
            return;
        }
        p.policy.begun(chance);
        let walk = p.tree.walk();
        let header = Header { cluster: cluster_bytes(), server, start: walk.start(), written: wall };
        match snapshot::Writer::create(dir, header, Box::new(|_| ControlFlow::Continue(()))) {
            Ok(writer) => {
                p.snapshot = Some(Running { walk, writer });
                let event = self.event(Due::Snapshot);
                k.after(50 * US, event);
            }
            Err(e) => self.snapshot_failed(k, &e),
        }
    }

    fn snapshot_failed(&mut self, k: &mut Kernel, e: &snapshot::Error) {
        if self.power_fails {
            return self.fail(k, e);
        }
        k.tell(|| format!("{} writes no snapshot: {e}", self.id));
        k.hit(Point::SnapshotFailed);
        self.process().snapshot = None;
    }

    /// A snapshot goes on by one slice.
    fn snapshot(&mut self, k: &mut Kernel) {
        let slice = self.setting.slice;
        let wall = self.clock.wall(k.now);
        let p = self.process();
        let Some(running) = &mut p.snapshot else { return };
        let mut buffer = Vec::new();
        let part = running.walk.next(&p.tree, slice, &mut buffer);
        let kind = match kind_of(part.kind) {
            Some(kind) => kind,
            None => {
                let Running { walk, writer } = p.snapshot.take().expect("it runs");
                let start = walk.start();
                let (end, digest) = walk.end().expect("a walk that is done has an end");
                let digest = Some(Digest { version: DIGEST_VERSION as u32, value: digest });
                match writer.finish(end, digest, wall) {
                    Ok(entry) => {
                        p.catalogue.add(entry);
                        k.hit(Point::SnapshotWritten);
                        if end > start {
                            k.hit(Point::SnapshotFuzzy);
                        }
                        self.retire(k, wall);
                    }
                    Err(e) => self.snapshot_failed(k, &e),
                }
                return;
            }
        };
        if part.count > 0
            && let Err(e) = running.writer.part(kind, part.count as u32, &buffer)
        {
            return self.snapshot_failed(k, &e);
        }
        let event = self.event(Due::Snapshot);
        let ns = self.rng.around(self.setting.write_ns);
        k.after(ns, event);
    }

    /// Forgets what a verified snapshot and the log behind it make redundant.
    fn retire(&mut self, k: &mut Kernel, wall: WallMs) {
        let keep = self.setting.keep;
        let p = self.process();
        let retired = p.catalogue.verify_newest(keep, 1, wall).and_then(|()| {
            let retention = p.catalogue.retention(keep);
            p.catalogue.remove(&retention)?;
            Ok(retention.log_needed_after)
        });
        let needed_after = match retired {
            Ok(Some(zxid)) => zxid,
            Ok(None) => return,
            Err(e) => return self.snapshot_failed(k, &e),
        };
        let Some(purge) = p.appender.purgeable(needed_after) else { return };
        match p.superblock.purge(&purge) {
            Ok(purged) => {
                p.appender.forget(purged);
                k.hit(Point::Purged);
                k.hit(Point::SegmentRecycled);
                self.prepare(k);
            }
            Err(e) => self.fail(k, &e),
        }
    }

    /// Something arrives at a port.
    pub fn arrive(&mut self, k: &mut Kernel, conn: Conn, side: Side, port: Port, item: Item) {
        match (port, item) {
            (Port::Client, Item::Open) => {
                let p = self.process();
                if p.service == Service::None {
                    return k.net.close(k.now, conn, side);
                }
                p.lines.accept(conn);
            }
            (Port::Client, Item::Data(frame)) => {
                let p = self.process();
                if p.lines.with(conn, |line| line.input.push_back(frame)).is_some() {
                    self.run_waiting(k, conn);
                    if self.process.is_some() {
                        self.pump(k);
                    }
                }
            }
            (Port::Client, Item::Closed) => self.forget(k, conn),
            (Port::Quorum | Port::Election, item) => self.arrive_peer(k, conn, side, port, item),
        }
    }

    /// Runs the frames of a connection that may be run.
    fn run_waiting(&mut self, k: &mut Kernel, conn: Conn) {
        let lines = self.process().lines.clone();
        loop {
            let p = self.process();
            let saturated = p.node.is_saturated();
            let next = lines.with(conn, |line| match line.state {
                State::Connecting => None,
                State::Ending | State::Closing => {
                    line.input.clear();
                    None
                }
                State::Serving if line.gate.is_full() => None,
                State::Serving if saturated && line.input.front().is_some_and(|f| is_write(&f[4..])) => None,
                State::Fresh | State::Serving => line.input.pop_front(),
            });
            let Some(Some(frame)) = next else { return };
            self.run_frame(k, conn, &frame[4..]);
        }
    }

    fn run_frame(&mut self, k: &mut Kernel, conn: Conn, payload: &[u8]) {
        let now = self.now(k);
        let p = self.process();
        let lines = p.lines.clone();
        let fresh = lines.with(conn, |line| {
            let fresh = line.state == State::Fresh;
            if fresh {
                line.state = State::Connecting;
            }
            fresh
        });
        if fresh == Some(true) {
            let request =
                ConnectRequest::decode(payload).expect("clients of the simulation shake hands well");
            return p.node.step(now, Input::Connect { conn: ConnId(conn), request }, &*lines);
        }
        let mut r = Reader::new(payload);
        let header = RequestHeader::decode(&mut r).expect("clients of the simulation send whole requests");
        let body = r.rest();
        let op = OpCode::from_wire(header.op).expect("clients of the simulation know their operations");
        let log_full = p.log_full;
        let received = now.mono;
        let decodes = match op {
            OpCode::Sync => r.string().is_ok(),
            _ => matches!(WriteOp::decode(op, &mut r), Some(Ok(_))),
        };
        let admitted = lines.with(conn, |line| {
            let (session, touch) = line.session.as_ref().expect("it serves");
            touch.touch(now.mono);
            let needs_log = op != OpCode::CloseSession || !touch.is_local();
            let ordered = decodes && !(needs_log && log_full);
            let session = *session;
            if ordered {
                line.gate.admit_ordered(header.xid, header.op, received);
                if op == OpCode::CloseSession {
                    line.state = State::Ending;
                }
            } else if !line.gate.is_open() {
                line.gate.admit_local(payload, received);
                return (session, ordered, false);
            }
            (session, ordered, true)
        });
        let Some((session, ordered, at_once)) = admitted else { return };
        if !at_once {
            k.hit(Point::ReadWaited);
        } else if !ordered {
            lines.answer(conn, payload);
        } else if op == OpCode::Sync {
            let path = Reader::new(body).string().ok().flatten().unwrap_or_default();
            let input = Input::Sync { conn: ConnId(conn), session, xid: header.xid, path: &path };
            p.node.step(now, input, &*lines);
        } else {
            let identity = &lines.identity();
            let xid: Xid = header.xid;
            p.node.step(now, Input::Write { conn: ConnId(conn), session, xid, identity, op, body }, &*lines);
        }
    }

    /// The files of its log, in a line.
    pub fn describe_files(&self) -> String {
        match wal::inventory(&*self.disk.dir("data/log"), None) {
            Ok(files) => {
                let files: Vec<String> = files.iter().map(|(n, s)| format!("{n} {s:?}")).collect();
                files.join("; ")
            }
            Err(e) => e.to_string(),
        }
    }

    /// Where its log stands, in a line.
    pub fn describe(&self, now: Time) -> String {
        let Some(p) = &self.process else { return format!("{} is down", self.id) };
        let a = &p.appender;
        format!(
            "{}: log {:?}, {} B wait, {} in flight, spares {}, {:?}; writing {}, retrying {}, preparing {}, full {}, queue {}, service {:?}, tree {}, clock {} ms, sessions {:x?}",
            self.id,
            a.last(),
            a.waiting(),
            a.in_flight(),
            a.spares(),
            a.space(),
            p.writing,
            p.retrying,
            p.preparing,
            p.log_full,
            p.queue.len(),
            p.service,
            p.tree.applied(),
            self.clock.mono(now).as_ms(),
            p.node.session_expiry(true),
        )
    }
}

/// What the records of a part of a walk are; `None`: the walk is done.
pub(crate) fn kind_of(kind: engine::WalkKind) -> Option<Kind> {
    Some(match kind {
        engine::WalkKind::Sessions => Kind::Sessions,
        engine::WalkKind::Acls => Kind::Acls,
        engine::WalkKind::Nodes => Kind::Nodes,
        engine::WalkKind::Done => return None,
    })
}

fn is_write(payload: &[u8]) -> bool {
    let mut r = Reader::new(payload);
    let op = RequestHeader::decode(&mut r).ok().and_then(|h| OpCode::from_wire(h.op));
    op.is_some_and(|op| WriteOp::decode(op, &mut Reader::new(&[])).is_some())
}

/// Applies a record of the own log.
pub(crate) fn apply_logged(applier: &mut Applier, record: &[u8]) -> Result<(), Refusal> {
    applier
        .apply(record, &Nobody, &mut |_, _| {})
        .map_err(|e| Refusal::Damage(format!("a logged txn can't be applied: {e}")))
}

/// A record that nobody has proposed. No client of the simulation reads the znode: what is wrong would be seen until it is
/// found out.
fn wrong(zxid: Zxid, time: WallMs) -> Vec<u8> {
    let txn = Txn::SetData { path: "/zookeeper".into(), data: Some(b"wrong"), version: 0, reconfig: false };
    let header = TxnHeader { session: proto::SessionId(0), cxid: Xid(0), zxid, time, kind: txn.kind() };
    let mut record = Vec::new();
    Record { header, txn, digest: None }.encode(&mut record);
    record
}

/// Nobody listens while a server recovers.
struct Nobody;

impl engine::Audience for Nobody {
    fn deliver(&self, _: ConnId, _: &[u8]) {}

    fn identity(&self, _: ConnId) -> Option<Arc<engine::Identity>> {
        None
    }
}

pub(crate) fn cluster_bytes() -> [u8; 16] {
    let mut out = [0; 16];
    out[15] = 7;
    out
}

fn tree_config(hash_seed: u64) -> TreeConfig {
    TreeConfig { shards: 4, hash_seed, ..TreeConfig::default() }
}

/// The newest snapshot that loads and that the log reaches back to; a fresh tree when there is none and the log
/// begins at the beginning. The rule of `falconerd`'s start.
fn load_newest(
    catalogue: &mut Catalogue,
    log_base: Zxid,
    wall: WallMs,
    hash_seed: u64,
) -> Result<(Arc<Tree>, Applier, Zxid), Refusal> {
    let (tree, mut applier) = engine::new(tree_config(hash_seed));
    let end = load_into(catalogue, log_base, wall, &mut applier, true)?;
    Ok((tree, applier, end))
}

/// Fills the tree of `applier`, which is `fresh` or not, with the newest usable snapshot; its end.
fn load_into(
    catalogue: &mut Catalogue,
    log_base: Zxid,
    wall: WallMs,
    applier: &mut Applier,
    fresh: bool,
) -> Result<Zxid, Refusal> {
    while let Some(entry) = catalogue.entries().first().cloned() {
        if entry.start() < log_base {
            break;
        }
        let importer = applier.import();
        let loaded = catalogue.snapshot(&entry).map_err(snapshot::LoadError::Snapshot).and_then(|s| {
            s.load(1, &|kind, count, bytes| match kind {
                Kind::Sessions => importer.sessions(bytes, u64::from(count)),
                Kind::Acls => importer.acls(bytes, u64::from(count)),
                Kind::Nodes => importer.nodes(bytes, u64::from(count)),
            })
        });
        let digest = entry.footer().digest.map(|d| d.value);
        let settled = Some(engine::Settled { zxid: entry.end(), digest });
        let unfit = |e: engine::ImportError| snapshot::Error::Damaged {
            path: format!("{} ({e:?})", entry.name()),
            offset: 0,
            damage: snapshot::Damage::Rule("the records do not form a state"),
        };
        let done = match loaded {
            Ok(()) => importer.finish(entry.start(), settled).map_err(unfit),
            Err(snapshot::LoadError::Snapshot(e)) => Err(e),
            Err(snapshot::LoadError::Sink(e)) => Err(unfit(e)),
        };
        match done {
            Ok(()) => {
                // A manifest that can't be written costs a verification, nothing else.
                let _ = catalogue.mark_verified(entry.start(), wall);
                return Ok(entry.end());
            }
            Err(why) if !why.is_damage() => return Err(Refusal::Disk(why.to_string())),
            Err(why) => catalogue.reject(entry.start(), why),
        }
        // What a damaged snapshot has left behind.
        applier.reset();
    }
    if log_base > Zxid::ZERO {
        return Err(Refusal::Damage(format!(
            "the log begins after {log_base}, and no snapshot reaches that far"
        )));
    }
    if !fresh {
        applier.reset();
    }
    Ok(Zxid::ZERO)
}

/// Builds the tree of `applier` again from snapshot and log.
pub(crate) fn rebuild(
    catalogue: &mut Catalogue,
    appender: &Appender,
    applier: &mut Applier,
    wall: WallMs,
) -> Result<(), Refusal> {
    let loaded_end = load_into(catalogue, appender.base(), wall, applier, false)?;
    let start = applier.tree().applied();
    appender
        .reader(start.max(appender.base()))?
        .replay::<Refusal>(start, |_, record| apply_logged(applier, record))?;
    if applier.tree().applied() < loaded_end {
        return Err(Refusal::Damage(format!("the log ends before {loaded_end}, where the snapshot does")));
    }
    Ok(())
}
