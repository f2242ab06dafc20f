//! Servers, their disks and the network between them, in virtual time.

use engine::{Applier, Audience, Identity, Importer, PrepConfig, Tree, TreeConfig, WalkKind};
use node::gate::Gate;
use node::sessions::Touch;
use node::{
    Clients, CloseReason, Config, Differs, Handshake, Input, LocalSessions, Node, Now, Output, Service,
};
use proto::client::{ConnectRequest, MultiResult, OpCode, WriteReply};
use proto::jute::{Put, Reader};
use proto::peer::{AuthIds, FromLeader, FromLearner, Notification, Packet};
use proto::session::password;
use proto::txn::RecordBatch;
use proto::{
    Code, ConnId, Durable, DurableEpochs, Epoch, Instant, LinkId, ServerId, SessionId, WallMs, Xid, Zxid,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use zab::{Recovered, Verifier};

pub const TICK_MS: u64 = 100;
const WALL_MS: i64 = 1_700_000_000_000;

pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// What a client has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Connected(SessionId),
    /// By a read-only server.
    ConnectedReadOnly(SessionId),
    Refused,
    Reply {
        xid: i32,
        zxid: Zxid,
        result: Result<String, Code>,
    },
    Closed(CloseReason),
    /// The connection broke: the server died or stopped to serve.
    Broken,
}

#[derive(Default)]
pub struct Line {
    gate: Gate,
    session: Option<(SessionId, Arc<Touch>)>,
    pub seen: Vec<Seen>,
    closed: bool,
    /// Replies that came when it was closed.
    unheard: usize,
}

#[derive(Default)]
pub struct Lines {
    lines: Mutex<BTreeMap<ConnId, Line>>,
}

impl Lines {
    fn on<R>(&self, conn: ConnId, look: impl FnOnce(&mut Line) -> R) -> R {
        look(self.lines.lock().unwrap().entry(conn).or_default())
    }
}

impl Audience for Lines {
    fn deliver(&self, _: ConnId, _: &[u8]) {}

    fn identity(&self, _: ConnId) -> Option<Arc<Identity>> {
        None
    }
}

impl Clients for Lines {
    fn reply(&self, conn: ConnId, xid: Xid, zxid: Zxid, reply: &WriteReply<'_>) {
        self.on(conn, |line| {
            if line.closed {
                line.unheard += 1;
                return;
            }
            line.gate.complete(xid);
            let result = match reply {
                WriteReply::Error(code) => Err(*code),
                WriteReply::Path(path) | WriteReply::PathStat(path, _) => Ok(path.to_string()),
                WriteReply::Multi(results) => Ok(results.iter().map(code_of).collect::<Vec<_>>().join(" ")),
                _ => Ok(String::new()),
            };
            line.seen.push(Seen::Reply { xid: xid.0, zxid, result });
        });
    }

    fn connected(&self, conn: ConnId, outcome: Handshake) {
        self.on(conn, |line| {
            if line.closed {
                return;
            }
            line.seen.push(match outcome {
                Handshake::Accepted { session, touch, read_only, .. } => {
                    line.session = Some((session, touch));
                    if read_only { Seen::ConnectedReadOnly(session) } else { Seen::Connected(session) }
                }
                Handshake::Refused { .. } => Seen::Refused,
            });
        });
    }

    fn close(&self, conn: ConnId, why: CloseReason) {
        self.on(conn, |line| {
            if !line.closed {
                line.closed = true;
                line.seen.push(Seen::Closed(why));
            }
        });
    }
}

/// A whole tree as parts of records, and where it stands.
#[derive(Clone)]
pub struct Dump {
    zxid: Zxid,
    parts: Vec<(WalkKind, u64, Vec<u8>)>,
}

fn dump(tree: &Tree) -> Dump {
    let mut walk = tree.walk();
    let mut parts = Vec::new();
    loop {
        let mut out = Vec::new();
        let part = walk.next(tree, 1 << 16, &mut out);
        if part.kind == WalkKind::Done {
            return Dump { zxid: walk.start(), parts };
        }
        parts.push((part.kind, part.count, out));
    }
}

fn load_tree(applier: &mut Applier, dump: &Dump) {
    let importer = Importer::new(applier);
    for (kind, count, bytes) in &dump.parts {
        match kind {
            WalkKind::Sessions => importer.sessions(bytes, *count).unwrap(),
            WalkKind::Acls => importer.acls(bytes, *count).unwrap(),
            WalkKind::Nodes => importer.nodes(bytes, *count).unwrap(),
            WalkKind::Done => unreachable!(),
        }
    }
    importer.finish(dump.zxid, None).unwrap();
}

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    pub snapshot: Option<Dump>,
    /// Where the log begins.
    pub base: Zxid,
    pub log: Vec<(Zxid, Vec<u8>)>,
    pub accepted: Epoch,
    pub current: Epoch,
    pub joined: bool,
}

impl Disk {
    pub fn end(&self) -> Zxid {
        self.log.last().map_or(self.base, |(z, _)| *z)
    }

    fn durable(&self) -> Durable {
        Durable::from_completed_write(self.end())
    }

    fn epochs(&self) -> DurableEpochs {
        DurableEpochs::from_completed_write(self.accepted, self.current)
    }
}

/// A job of a disk.
enum Job {
    Write(usize),
    Epochs(Epoch, Option<Epoch>, bool),
    Truncate(Zxid, Option<Applier>),
    Reload(Applier),
    Save(Zxid),
    Find(LinkId, Zxid),
}

/// What travels on a link.
#[derive(Clone)]
enum Load {
    Packets(Vec<u8>),
    Snapshot(Dump),
    End,
}

enum What {
    Tick,
    Disk(Job),
    Notify {
        from: usize,
        payload: Arc<[u8]>,
    },
    Reach {
        peer: usize,
        up: bool,
    },
    LinkUp {
        link: LinkId,
        dialled: Option<ServerId>,
    },
    DialFailed {
        to: ServerId,
    },
    /// It ends, for its state is not that of the others.
    End,
    Load {
        link: LinkId,
        load: Load,
    },
    /// The tree for this link is put together.
    Copied {
        link: LinkId,
    },
}

struct Link {
    other: usize,
    other_link: LinkId,
    /// It was dialled here.
    dialled: bool,
    /// The last thing on its way to the other side arrives then.
    last: Instant,
    /// A tree is being put together for it; this waits behind it.
    behind: Option<Vec<Load>>,
}

pub struct Running {
    pub node: Node,
    pub tree: Arc<Tree>,
    pub lines: Arc<Lines>,
    queue: Vec<Arc<RecordBatch>>,
    writing: bool,
    links: BTreeMap<LinkId, Link>,
    /// A tree is expected through this link.
    receiving: Option<LinkId>,
    tick_at: Instant,
    told: BTreeMap<usize, Arc<[u8]>>,
    pub serving: Service,
    next_link: u64,
}

pub struct Server {
    pub disk: Disk,
    pub up: Option<Running>,
    pub life: u64,
    pub disk_us: u64,
    /// Its log has no room.
    pub full: bool,
}

pub struct World {
    pub now: Instant,
    pub servers: Vec<Server>,
    events: BTreeMap<(Instant, u64), (usize, u64, What)>,
    serial: u64,
    pub dice: Dice,
    pub voters: usize,
    /// Pairs that can't reach each other.
    pub cut: BTreeSet<(usize, usize)>,
    /// This server hears nobody any more, and is heard.
    pub deaf: Option<usize>,
    next_conn: u64,
    homes: BTreeMap<ConnId, (usize, u64)>,
    /// Connections of lives that have ended.
    graves: BTreeMap<(usize, u64), Arc<Lines>>,
    // What is checked all the time.
    digests: BTreeMap<Zxid, i64>,
    records: BTreeMap<Zxid, Vec<u8>>,
    leaders: BTreeMap<Epoch, usize>,
    pub acked: BTreeSet<Zxid>,
    pub notes: BTreeMap<&'static str, usize>,
    pub packets: BTreeMap<i32, usize>,
    pub trace: bool,
    kept_records: usize,
    /// `readonlymode.enabled` on all of them.
    pub read_only_mode: bool,
    /// By server.
    pub local_sessions: Vec<LocalSessions>,
    /// Reigns end at this counter.
    pub epoch_end: Option<u32>,
    /// Servers whose state a test has spoilt.
    pub spoilt: BTreeSet<usize>,
    /// Servers that nobody takes for one of Falconer's.
    pub plain: BTreeSet<usize>,
    /// What is proposed to this server arrives with another value in it.
    pub garbled: Option<usize>,
    /// Servers that have found that their state is not that of the others; they have ended.
    pub differ: BTreeMap<usize, Differs>,
}

pub fn id(server: usize) -> ServerId {
    ServerId(server as i64 + 1)
}

fn config(server: usize, local_sessions: LocalSessions) -> Config {
    Config {
        me: id(server),
        tick_ms: TICK_MS,
        session_timeout_ms: 200..=20_000,
        container_check_ms: 60_000,
        containers_per_minute: 10_000,
        container_never_used_ms: 0,
        local_sessions,
        prep: PrepConfig::default(),
    }
}

impl World {
    /// Servers that were never started; the last `observers` of them don't vote.
    pub fn new(servers: usize, observers: usize, seed: u64) -> World {
        World {
            now: Instant::from_ms(1_000),
            servers: (0..servers)
                .map(|_| Server {
                    disk: Disk { joined: true, ..Disk::default() },
                    up: None,
                    life: 0,
                    disk_us: 100,
                    full: false,
                })
                .collect(),
            events: BTreeMap::new(),
            serial: 0,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            voters: servers - observers,
            cut: BTreeSet::new(),
            deaf: None,
            next_conn: 0,
            homes: BTreeMap::new(),
            graves: BTreeMap::new(),
            digests: BTreeMap::new(),
            records: BTreeMap::new(),
            leaders: BTreeMap::new(),
            acked: BTreeSet::new(),
            notes: BTreeMap::new(),
            packets: BTreeMap::new(),
            trace: std::env::var_os("TRACE").is_some(),
            kept_records: 5,
            read_only_mode: false,
            local_sessions: vec![LocalSessions::Off; servers],
            epoch_end: None,
            spoilt: BTreeSet::new(),
            plain: BTreeSet::new(),
            garbled: None,
            differ: BTreeMap::new(),
        }
    }

    pub fn start_all(&mut self) {
        (0..self.servers.len()).for_each(|s| self.start(s));
    }

    pub fn start(&mut self, s: usize) {
        let wall = self.wall();
        let ensemble = zab::Ensemble {
            me: id(s),
            verifier: Verifier::majority((0..self.voters).map(id).collect()),
            observers: (self.voters..self.servers.len()).map(id).collect(),
            tick_ms: TICK_MS,
            init_limit: 10,
            connect_limit: zab::limits::CONNECT_TICKS,
            sync_limit: 5,
            config_text: Arc::from(&b"version=0"[..]),
            config_version: 0,
            election: Default::default(),
            kept_records: self.kept_records,
            read_only_after_ms: self.read_only_mode.then_some(zab::limits::READ_ONLY_AFTER_MS),
            slow_log: Some(zab::SlowLog::default()),
        };
        let server = &mut self.servers[s];
        assert!(server.up.is_none());
        server.life += 1;
        let disk = &server.disk;
        let tree_config = TreeConfig { shards: 8, ..TreeConfig::default() };
        let (_, mut applier) = engine::new(tree_config);
        rebuild(disk, &mut applier);
        let tree = applier.tree().clone();
        if !self.spoilt.contains(&s) {
            assert_eq!(tree.digest_mismatches(), 0, "recovery ends in the state that was logged");
        }
        let mut recent = RecordBatch::new();
        let from = disk.log.len().saturating_sub(self.kept_records);
        disk.log[from..].iter().for_each(|(z, r)| recent.push_with(*z, |out| out.extend_from_slice(r)));
        let recovered =
            Recovered { epochs: disk.epochs(), joined: disk.joined, recent: vec![Arc::new(recent)] };
        let now = Now { mono: self.now, wall };
        let mut node = Node::join(
            config(s, self.local_sessions[s]),
            ensemble,
            recovered,
            disk.durable(),
            tree.clone(),
            applier,
            now,
        );
        if let Some(counter) = self.epoch_end {
            node.end_epochs_at(counter);
        }
        server.up = Some(Running {
            node,
            tree,
            lines: Arc::default(),
            queue: Vec::new(),
            writing: false,
            links: BTreeMap::new(),
            receiving: None,
            tick_at: Instant(u64::MAX),
            told: BTreeMap::new(),
            serving: Service::None,
            next_link: server.life << 32,
        });
        for other in (0..self.servers.len()).filter(|&o| o != s) {
            let up = self.servers[other].up.is_some() && self.reaches(s, other);
            self.at(s, 500, What::Reach { peer: other, up });
            if up {
                self.at(other, 500, What::Reach { peer: s, up });
            }
        }
        self.pump(s);
    }

    /// The server dies; of what was being written, some is there.
    pub fn crash(&mut self, s: usize) {
        let Some(up) = self.servers[s].up.take() else { return };
        for batch in up.queue {
            for (zxid, record) in batch.iter() {
                if self.dice.roll(2) == 0 {
                    break;
                }
                self.servers[s].disk.log.push((zxid, record.to_vec()));
            }
            if self.servers[s].disk.end() != batch.last().unwrap() {
                break;
            }
        }
        for (_, link) in up.links {
            self.at_link(link.other, link.other_link, Load::End);
        }
        for other in (0..self.servers.len()).filter(|&o| o != s) {
            self.at(other, 200, What::Reach { peer: s, up: false });
        }
        let conns: Vec<ConnId> = self.homes.iter().filter(|(_, h)| h.0 == s).map(|(&c, _)| c).collect();
        for conn in conns {
            up.lines.on(conn, |l| {
                if !l.closed {
                    l.closed = true;
                    l.seen.push(Seen::Broken);
                }
            });
        }
        self.dead_lines(s, up.lines);
    }

    fn dead_lines(&mut self, s: usize, lines: Arc<Lines>) {
        // Clients look at what they have seen once more.
        self.graves.insert((s, self.servers[s].life), lines);
    }

    fn wall(&self) -> WallMs {
        WallMs(WALL_MS + self.now.as_ms() as i64)
    }

    fn reaches(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// Two servers can't reach each other any more.
    pub fn cut(&mut self, a: usize, b: usize) {
        if !self.cut.insert((a.min(b), a.max(b))) {
            return;
        }
        for (x, y) in [(a, b), (b, a)] {
            let Some(up) = &mut self.servers[x].up else { continue };
            let broken: Vec<LinkId> =
                up.links.iter().filter(|(_, l)| l.other == y).map(|(&link, _)| link).collect();
            for link in broken {
                self.at_link(x, link, Load::End);
            }
            self.at(x, 300, What::Reach { peer: y, up: false });
        }
    }

    /// The server takes a snapshot and forgets the log before it. Not while the disk is at something.
    pub fn compact(&mut self, s: usize) {
        let busy = self.events.values().any(|(at, life, what)| {
            *at == s
                && *life == self.servers[s].life
                && matches!(what, What::Disk(j) if !matches!(j, Job::Write(_)))
        });
        let Server { disk, up: Some(up), .. } = &mut self.servers[s] else { return };
        let serving = matches!(up.serving, Service::Leading | Service::Following | Service::Observing);
        if serving && !busy {
            let d = dump(&up.tree);
            disk.base = d.zxid;
            disk.log.retain(|(z, _)| *z > d.zxid);
            disk.snapshot = Some(d);
        }
    }

    pub fn heal(&mut self) {
        for (a, b) in std::mem::take(&mut self.cut) {
            if self.servers[a].up.is_some() && self.servers[b].up.is_some() {
                self.at(a, 500, What::Reach { peer: b, up: true });
                self.at(b, 500, What::Reach { peer: a, up: true });
            }
        }
    }

    fn at(&mut self, s: usize, us: u64, what: What) {
        self.serial += 1;
        let life = self.servers[s].life;
        self.events.insert((Instant(self.now.0 + us * 1_000), self.serial), (s, life, what));
    }

    /// What arrives through a link arrives in order.
    fn at_link(&mut self, to: usize, link: LinkId, load: Load) {
        let delay = 50_000 + self.dice.roll(100_000);
        let now = self.now;
        let at = match &mut self.servers[to].up {
            Some(up) => match up.links.get_mut(&link) {
                Some(l) => {
                    l.last = l.last.max(Instant(now.0 + delay));
                    l.last
                }
                None => return,
            },
            None => return,
        };
        self.serial += 1;
        let life = self.servers[to].life;
        self.events.insert((at, self.serial), (to, life, What::Load { link, load }));
    }

    pub fn up(&self, s: usize) -> &Running {
        self.servers[s].up.as_ref().expect("the server is up")
    }

    /// Runs until `ms` have passed.
    pub fn run(&mut self, ms: u64) {
        self.run_us(ms * 1_000);
    }

    pub fn run_us(&mut self, us: u64) {
        let end = Instant(self.now.0 + us * 1_000);
        while let Some((&(at, _), _)) = self.events.first_key_value()
            && at <= end
        {
            let ((at, _), (s, life, what)) = self.events.pop_first().unwrap();
            self.now = self.now.max(at);
            if self.servers[s].up.is_some() && self.servers[s].life == life {
                self.happen(s, what);
            }
        }
        self.now = end;
    }

    /// Runs until `done` holds; panics after `ms`. Gives the time that it took in ms.
    pub fn until(&mut self, ms: u64, what: &str, mut done: impl FnMut(&mut World) -> bool) -> u64 {
        let begin = self.now;
        while !done(self) {
            assert!(
                self.now < begin.plus_ms(ms),
                "{what}: not within {ms} ms; {:?}",
                self.servers
                    .iter()
                    .map(|s| s.up.as_ref().map(|u| (
                        u.serving,
                        u.node.zab().state(),
                        u.node.zab().history().last()
                    )))
                    .collect::<Vec<_>>()
            );
            self.run(1);
        }
        self.now.as_ms() - begin.as_ms()
    }

    fn step(&mut self, s: usize, input: Input<'_>) {
        let now = Now { mono: self.now, wall: self.wall() };
        if self.trace && !matches!(input, Input::Tick) {
            eprintln!("{:>8} s{} <- {input:?}", self.now.0 / 1_000, s + 1);
        }
        let up = self.servers[s].up.as_mut().unwrap();
        let lines = up.lines.clone();
        up.node.step(now, input, &*lines);
        self.pump(s);
    }

    /// A request as it stands, on the link of a learner: what a Falconer would not forward.
    pub fn request(&mut self, learner: usize, session: SessionId, cxid: i32, op: i32, body: &[u8]) {
        let leader = self.leader().unwrap();
        let link = *self.up(leader).links.iter().find(|(_, l)| l.other == learner).unwrap().0;
        let packet = FromLearner::Request { session, cxid: Xid(cxid), op, body, auth: AuthIds::NULL };
        self.step(leader, Input::FromLearner { link, packet });
    }

    pub fn set_full(&mut self, s: usize, full: bool) {
        self.servers[s].full = full;
        self.step(s, Input::LogFull(full));
    }

    pub fn hand_over(&mut self, s: usize) {
        self.step(s, Input::HandOver);
    }

    fn happen(&mut self, s: usize, what: What) {
        match what {
            What::Tick => {
                let up = self.servers[s].up.as_mut().unwrap();
                if up.tick_at > self.now {
                    return;
                }
                up.tick_at = Instant(u64::MAX);
                self.step(s, Input::Tick);
                let next = self.servers[s].up.as_ref().unwrap().node.next_timeout();
                assert!(next > self.now, "a tick that is due is done with: {next:?}");
            }
            What::Disk(job) => self.disk_done(s, job),
            What::Notify { from, payload } => {
                if self.reaches(s, from) && self.deaf != Some(s) {
                    let notification = Notification::decode(&payload).unwrap().unwrap();
                    self.step(s, Input::Notification { from: id(from), notification });
                }
            }
            What::Reach { peer, up } => {
                let up = up && self.reaches(s, peer) && self.servers[peer].up.is_some();
                if up && let Some(last) = self.servers[s].up.as_ref().unwrap().told.get(&peer).cloned() {
                    self.at(peer, 100, What::Notify { from: s, payload: last });
                }
                self.step(s, Input::ElectionLink { peer: id(peer), up });
            }
            What::LinkUp { link, dialled } => self.step(s, Input::LinkUp { link, dialled }),
            What::DialFailed { to } => self.step(s, Input::DialFailed { to }),
            What::End => self.crash(s),
            What::Load { link, load } => self.arrive(s, link, load),
            What::Copied { link } => self.copied(s, link),
        }
    }

    fn arrive(&mut self, s: usize, link: LinkId, load: Load) {
        if self.deaf == Some(s) {
            return;
        }
        let up = self.servers[s].up.as_mut().unwrap();
        let Some(l) = up.links.get(&link) else { return };
        let dialled = l.dialled;
        let is_snapshot = matches!(load, Load::Snapshot(_));
        if up.receiving == Some(link) && (is_snapshot || matches!(load, Load::End)) {
            up.receiving = None;
            let mut applier = up.node.lend_applier();
            let complete = match &load {
                Load::Snapshot(d) => {
                    load_tree(&mut applier, d);
                    true
                }
                _ => false,
            };
            self.step(s, Input::SnapshotReceived { link, applier, complete });
            if !is_snapshot {
                self.arrive(s, link, load);
            }
            return;
        }
        match load {
            Load::End => {
                up.links.remove(&link);
                self.step(s, Input::LinkDown { link });
            }
            Load::Snapshot(_) => {
                // The node has let go of the leader meanwhile.
            }
            Load::Packets(bytes) => {
                let mut r = Reader::new(&bytes);
                while r.remaining() > 0 {
                    let packet = Packet::read(&mut r).unwrap();
                    *self.packets.entry(packet.kind).or_default() += 1;
                    let alive = self.servers[s].up.as_ref().is_some_and(|u| u.links.contains_key(&link));
                    if !alive {
                        return;
                    }
                    if dialled {
                        let packet = FromLeader::parse(&packet).unwrap();
                        self.step(s, Input::FromLeader { link, packet });
                    } else {
                        let packet = FromLearner::parse(&packet).unwrap();
                        self.step(s, Input::FromLearner { link, packet });
                    }
                }
            }
        }
    }

    fn disk_later(&mut self, s: usize, job: Job) {
        let us = self.servers[s].disk_us;
        let us = us / 2 + self.dice.roll(us);
        self.at(s, us, What::Disk(job));
    }

    fn disk_done(&mut self, s: usize, job: Job) {
        let Server { disk, up, .. } = &mut self.servers[s];
        let up = up.as_mut().unwrap();
        match job {
            Job::Write(batches) => {
                for batch in up.queue.drain(..batches) {
                    for (zxid, record) in batch.iter() {
                        assert!(zxid > disk.end(), "the log is written in order");
                        disk.log.push((zxid, record.to_vec()));
                    }
                }
                up.writing = false;
                let durable = disk.durable();
                self.step(s, Input::Persisted(durable));
            }
            Job::Epochs(accepted, current, joined) => {
                assert!(accepted >= disk.accepted && current.is_none_or(|c| c >= disk.current));
                disk.accepted = accepted;
                if let Some(current) = current {
                    assert!(disk.end().epoch() <= current, "the epoch of a history covers it");
                    assert!(joined);
                    disk.current = current;
                }
                disk.joined |= joined;
                let epochs = disk.epochs();
                self.step(s, Input::EpochsPersisted(epochs));
            }
            Job::Truncate(after, mut applier) => {
                assert!(up.queue.is_empty() && !up.writing);
                if after < disk.base {
                    *disk = Disk { accepted: disk.accepted, current: disk.current, ..Disk::default() };
                } else {
                    disk.log.retain(|(z, _)| *z <= after);
                }
                if let Some(applier) = &mut applier {
                    rebuild(disk, applier);
                }
                let durable = disk.durable();
                self.step(s, Input::Truncated { durable, applier });
            }
            Job::Reload(mut applier) => {
                rebuild(disk, &mut applier);
                self.step(s, Input::Reloaded { applier });
            }
            Job::Save(zxid) => {
                assert_eq!(up.tree.applied(), zxid);
                disk.snapshot = Some(dump(&up.tree));
                disk.base = zxid;
                disk.log.clear();
                let durable = disk.durable();
                self.step(s, Input::SnapshotSaved { durable });
            }
            Job::Find(link, zxid) => {
                let found = if zxid < disk.base {
                    None
                } else {
                    let last = disk.log.iter().rev().find(|(z, _)| *z <= zxid);
                    Some(last.map_or(disk.base, |(z, _)| *z))
                };
                self.step(s, Input::FoundInLog { link, found });
            }
        }
    }

    fn send(&mut self, s: usize, link: LinkId, mut load: Load) {
        if let (true, Load::Packets(bytes)) = (self.plain.contains(&s), &mut load)
            && let Some(at) = bytes.windows(8).position(|w| w == b"FALCONER")
        {
            bytes[at] ^= 0xff;
        }
        let Some(l) = self.servers[s].up.as_mut().unwrap().links.get_mut(&link) else { return };
        if let Some(behind) = &mut l.behind {
            return behind.push(load);
        }
        let (other, other_link) = (l.other, l.other_link);
        self.at_link(other, other_link, load);
    }

    /// A tree leaves, the state of this moment, and behind it what was said meanwhile.
    fn copied(&mut self, s: usize, link: LinkId) {
        let up = self.servers[s].up.as_mut().unwrap();
        let Some(behind) = up.links.get_mut(&link).and_then(|l| l.behind.take()) else { return };
        let dump = dump(&up.tree);
        let mut head = Vec::new();
        FromLeader::Snap { zxid: dump.zxid }.encode(&mut head);
        self.send(s, link, Load::Packets(head));
        self.send(s, link, Load::Snapshot(dump));
        behind.into_iter().for_each(|load| self.send(s, link, load));
        self.step(s, Input::SnapshotSent { link });
    }

    fn send_records(&mut self, s: usize, links: &[LinkId], fill: &dyn Fn(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        fill(&mut bytes);
        for &link in links {
            self.send(s, link, Load::Packets(bytes.clone()));
        }
    }

    /// Does what the node asks for, until it asks for nothing more.
    fn pump(&mut self, s: usize) {
        loop {
            let up = self.servers[s].up.as_mut().unwrap();
            while let Some(batch) = up.node.take_batch() {
                for (zxid, record) in batch.iter() {
                    let known = self.records.entry(zxid).or_insert_with(|| record.to_vec());
                    let spoilt = self.spoilt.contains(&s);
                    assert!(spoilt || known == record, "{zxid} stands for one txn, by one leader");
                }
                up.queue.push(batch);
            }
            if !up.writing && !up.queue.is_empty() && !self.servers[s].full {
                let up = self.servers[s].up.as_mut().unwrap();
                up.writing = true;
                let job = Job::Write(up.queue.len());
                self.disk_later(s, job);
            }
            let up = self.servers[s].up.as_mut().unwrap();
            let Some(output) = up.node.next_output() else { break };
            if self.trace {
                eprintln!("{:>8} s{} -> {output:?}", self.now.0 / 1_000, s + 1);
            }
            self.output(s, output);
        }
        self.check(s);
        let up = self.servers[s].up.as_mut().unwrap();
        let next = up.node.next_timeout().max(self.now);
        if next < up.tick_at {
            up.tick_at = next;
            self.serial += 1;
            let life = self.servers[s].life;
            self.events.insert((next, self.serial), (s, life, What::Tick));
        }
    }

    fn output(&mut self, s: usize, output: Output) {
        let up = self.servers[s].up.as_mut().unwrap();
        match output {
            Output::Notify { to, payload } => {
                let to = to.0 as usize - 1;
                up.told.insert(to, payload.clone());
                if self.servers[to].up.is_some() && self.reaches(s, to) {
                    let us = 50 + self.dice.roll(100);
                    self.at(to, us, What::Notify { from: s, payload });
                }
            }
            Output::Dial { to } => {
                let other = to.0 as usize - 1;
                if self.deaf.is_some_and(|d| d == s || d == other) {
                    // Call or answer is lost, and nobody says so.
                    return;
                }
                if self.servers[other].up.is_none() || !self.reaches(s, other) {
                    return self.at(s, 200, What::DialFailed { to });
                }
                let mut name = |s: usize| {
                    let up = self.servers[s].up.as_mut().unwrap();
                    up.next_link += 1;
                    LinkId(up.next_link)
                };
                let (here, there) = (name(s), name(other));
                let now = self.now;
                for (a, link, b, other_link, dialled) in
                    [(s, here, other, there, true), (other, there, s, here, false)]
                {
                    let last = Instant(now.0 + 200_000);
                    let l = Link { other: b, other_link, dialled, last, behind: None };
                    self.servers[a].up.as_mut().unwrap().links.insert(link, l);
                    let dialled = dialled.then_some(to);
                    self.at(a, 100, What::LinkUp { link, dialled });
                }
            }
            Output::Close { link } => {
                if let Some(l) = up.links.remove(&link) {
                    if up.receiving == Some(link) {
                        up.receiving = None;
                        let applier = up.node.lend_applier();
                        self.at_link(l.other, l.other_link, Load::End);
                        return self.step(s, Input::SnapshotReceived { link, applier, complete: false });
                    }
                    self.at_link(l.other, l.other_link, Load::End);
                }
            }
            Output::Send { link, packets } => self.send(s, link, Load::Packets(packets)),
            Output::SendAll { links, packets } => {
                links.iter().for_each(|&l| self.send(s, l, Load::Packets(packets.to_vec())));
            }
            Output::Propose { links, records } => {
                for &link in links.iter() {
                    let to = self.servers[s].up.as_ref().unwrap().links.get(&link).map(|l| l.other);
                    let garbled = to.is_some() && to == self.garbled;
                    self.send_records(s, &[link], &|out| {
                        for (zxid, record) in records.iter() {
                            let mut record = record.to_vec();
                            if garbled {
                                spoil(&mut record);
                            }
                            FromLeader::Proposal { zxid, record: &record }.encode(out);
                        }
                    });
                }
            }
            Output::Inform { links, records } => self.send_records(s, &links, &|out| {
                records.iter().for_each(|(zxid, record)| FromLeader::Inform { zxid, record }.encode(out));
            }),
            Output::SendLog { link, after, upto } => {
                let log = self.servers[s].disk.log.clone();
                if after < self.servers[s].disk.base {
                    // The log was purged meanwhile.
                    let up = self.servers[s].up.as_mut().unwrap();
                    let l = up.links.remove(&link).unwrap();
                    self.at_link(l.other, l.other_link, Load::End);
                    return self.step(s, Input::LinkDown { link });
                }
                self.send_records(s, &[link], &|out| {
                    for (zxid, record) in log.iter().filter(|(z, _)| *z > after && *z <= upto) {
                        FromLeader::Proposal { zxid: *zxid, record }.encode(out);
                        FromLeader::Commit { zxid: *zxid }.encode(out);
                    }
                });
            }
            Output::SendSnapshot { link, .. } => {
                // The leader goes on while its tree is put together.
                if let Some(l) = up.links.get_mut(&link) {
                    l.behind = Some(Vec::new());
                    let us = 500 + self.dice.roll(1_500);
                    self.at(s, us, What::Copied { link });
                }
            }
            Output::FindInLog { link, zxid } => self.disk_later(s, Job::Find(link, zxid)),
            Output::PersistEpochs { accepted, current, joined } => {
                if let Some((_, history)) = current {
                    assert!(history.upto() <= self.servers[s].disk.end(), "history first, then the epoch");
                }
                self.disk_later(s, Job::Epochs(accepted, current.map(|(e, _)| e), joined));
            }
            Output::Truncate { after, reload } => {
                let applier = reload.then(|| up.node.lend_applier());
                self.disk_later(s, Job::Truncate(after, applier));
            }
            Output::Reload => {
                let applier = up.node.lend_applier();
                self.disk_later(s, Job::Reload(applier));
            }
            Output::ReceiveSnapshot { link, .. } => {
                if up.links.contains_key(&link) {
                    up.receiving = Some(link);
                } else {
                    let applier = up.node.lend_applier();
                    self.step(s, Input::SnapshotReceived { link, applier, complete: false });
                }
            }
            Output::SaveSnapshot { zxid } => self.disk_later(s, Job::Save(zxid)),
            Output::Serve(service) => {
                up.serving = service;
                if service == Service::None {
                    self.close_clients(s);
                }
            }
            Output::Differs(differs) => {
                if differs.by_majority {
                    self.servers[s].disk.joined = false;
                }
                self.differ.insert(s, differs);
                self.at(s, 1, What::End);
            }
            Output::Doubt(_) => *self.notes.entry("a doubt").or_default() += 1,
            Output::SlowLog(_) => *self.notes.entry("a slow log").or_default() += 1,
            Output::Note(what) => *self.notes.entry(what).or_default() += 1,
        }
    }

    fn close_clients(&mut self, s: usize) {
        let life = self.servers[s].life;
        let conns: Vec<ConnId> =
            self.homes.iter().filter(|(_, h)| **h == (s, life)).map(|(&c, _)| c).collect();
        let lines = self.up(s).lines.clone();
        for conn in conns {
            let session = lines.on(conn, |l| {
                if l.closed {
                    return None;
                }
                l.closed = true;
                l.seen.push(Seen::Broken);
                Some(l.session.as_ref().map(|s| s.0))
            });
            if let Some(session) = session {
                let now = Now { mono: self.now, wall: self.wall() };
                self.servers[s].up.as_mut().unwrap().node.step(
                    now,
                    Input::Disconnected { conn, session },
                    &*lines,
                );
            }
        }
    }

    /// What holds after each event.
    fn check(&mut self, s: usize) {
        let Server { disk, up, .. } = &self.servers[s];
        let up = up.as_ref().unwrap();
        let (zxid, digest) = up.tree.applied_digest();
        let serving = matches!(up.serving, Service::Leading | Service::Following | Service::Observing);
        if serving && !self.spoilt.contains(&s) {
            assert!(zxid <= disk.end(), "nothing is shown that could be lost");
            let known = *self.digests.entry(zxid).or_insert(digest);
            assert_eq!(known, digest, "replicas agree at {zxid}");
            assert_eq!(up.tree.digest_mismatches(), 0);
        }
        assert!(disk.accepted >= disk.current);
        if up.serving == Service::Leading {
            let epoch = up.node.zab().epoch().unwrap_or(disk.current);
            let leader = *self.leaders.entry(epoch).or_insert(s);
            assert_eq!(leader, s, "epoch {epoch} has one leader");
        }
    }

    pub fn leader(&self) -> Option<usize> {
        (0..self.servers.len())
            .filter(|&s| self.servers[s].up.as_ref().is_some_and(|u| u.serving == Service::Leading))
            .max_by_key(|&s| self.servers[s].disk.current)
    }

    pub fn is_serving(&self, s: usize) -> bool {
        self.servers[s].up.as_ref().is_some_and(|u| !matches!(u.serving, Service::None | Service::ReadOnly))
    }

    pub fn is_read_only(&self, s: usize) -> bool {
        self.servers[s].up.as_ref().is_some_and(|u| u.serving == Service::ReadOnly)
    }

    pub fn all_serve(&self) -> bool {
        (0..self.servers.len()).all(|s| self.is_serving(s))
    }

    /// Every server has applied the same.
    pub fn all_equal(&self) -> bool {
        let mut states = self.servers.iter().filter_map(|s| s.up.as_ref()).map(|u| u.tree.applied_digest());
        let first = states.next();
        states.all(|s| Some(s) == first)
    }

    // Clients.

    pub fn dial(&mut self, s: usize, session: SessionId, timeout_ms: i32, seen: Zxid) -> ConnId {
        self.dial_as(s, session, timeout_ms, seen, None)
    }

    pub fn dial_as(
        &mut self,
        s: usize,
        session: SessionId,
        timeout_ms: i32,
        seen: Zxid,
        read_only: Option<bool>,
    ) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.homes.insert(conn, (s, self.servers[s].life));
        let word = password(session);
        let request = ConnectRequest {
            last_zxid_seen: seen.to_wire(),
            timeout_ms,
            session,
            password: &word,
            read_only,
        };
        self.step(s, Input::Connect { conn, request });
        conn
    }

    /// A new session through server `s`.
    pub fn connect(&mut self, s: usize, timeout_ms: i32) -> (ConnId, SessionId) {
        let conn = self.dial(s, SessionId::NONE, timeout_ms, Zxid::ZERO);
        self.until(1_000, "a session", |w| w.session(conn).is_some());
        (conn, self.session(conn).unwrap())
    }

    fn lines_of(&self, conn: ConnId) -> Arc<Lines> {
        let (s, life) = self.homes[&conn];
        match &self.servers[s].up {
            Some(up) if self.servers[s].life == life => up.lines.clone(),
            _ => self.graves[&(s, life)].clone(),
        }
    }

    pub fn session(&self, conn: ConnId) -> Option<SessionId> {
        self.lines_of(conn).on(conn, |l| l.session.as_ref().map(|s| s.0))
    }

    pub fn is_closed(&self, conn: ConnId) -> bool {
        self.lines_of(conn).on(conn, |l| l.closed)
    }

    /// Replies that came when the connection was closed already.
    pub fn unheard(&self, conn: ConnId) -> usize {
        self.lines_of(conn).on(conn, |l| l.unheard)
    }

    pub fn seen(&mut self, conn: ConnId) -> Vec<Seen> {
        let seen = self.lines_of(conn).on(conn, |l| std::mem::take(&mut l.seen));
        for s in &seen {
            if let Seen::Reply { zxid, result, .. } = s
                && *result != Err(Code::NotReadOnly)
            {
                self.acked.insert(*zxid);
            }
        }
        seen
    }

    pub fn hang_up(&mut self, conn: ConnId) {
        let (s, life) = self.homes[&conn];
        let session = self.session(conn);
        let was_open = !self.lines_of(conn).on(conn, |l| std::mem::replace(&mut l.closed, true));
        if was_open && self.servers[s].life == life && self.servers[s].up.is_some() {
            self.step(s, Input::Disconnected { conn, session });
        }
    }

    pub fn hear(&mut self, conn: ConnId) {
        let now = self.now;
        self.lines_of(conn).on(conn, |l| {
            if let Some((_, touch)) = &l.session {
                touch.touch(now);
            }
        });
    }

    pub fn write(&mut self, conn: ConnId, xid: i32, op: OpCode, body: &[u8]) -> bool {
        if self.is_closed(conn) {
            return false;
        }
        self.hear(conn);
        let (s, _) = self.homes[&conn];
        let session = self.session(conn).unwrap();
        let now = self.now;
        self.lines_of(conn).on(conn, |l| l.gate.admit_ordered(Xid(xid), op.wire(), now));
        if op == OpCode::Sync {
            self.step(s, Input::Sync { conn, session, xid: Xid(xid), path: "/" });
        } else {
            self.step_write(conn, session, xid, op, body);
        }
        true
    }

    /// A write reaches the node, whatever has become of its connection.
    pub fn step_write(&mut self, conn: ConnId, session: SessionId, xid: i32, op: OpCode, body: &[u8]) {
        let (s, _) = self.homes[&conn];
        let identity = Arc::new(Identity::new(vec![proto::acl::Id::new("ip", "127.0.0.1")]));
        self.step(s, Input::Write { conn, session, xid: Xid(xid), identity: &identity, op, body });
    }

    /// A sync that reaches the node at once.
    pub fn step_sync(&mut self, conn: ConnId, session: SessionId, xid: i32, path: &str) {
        let (s, _) = self.homes[&conn];
        self.step(s, Input::Sync { conn, session, xid: Xid(xid), path });
    }

    /// A write that is alone: its result.
    pub fn done(&mut self, conn: ConnId, op: OpCode, body: &[u8]) -> Result<String, Code> {
        self.seen(conn);
        assert!(self.write(conn, 7, op, body), "the connection is open");
        let mut found = None;
        self.until(3_000, "a reply", |w| {
            let seen = w.seen(conn);
            found = seen.into_iter().find_map(|s| match s {
                Seen::Reply { result, .. } => Some(result),
                _ => None,
            });
            found.is_some()
        });
        found.unwrap()
    }

    pub fn exists(&self, s: usize, path: &str) -> bool {
        self.up(s).tree.peek(path, |n| n.is_some())
    }

    /// Each record that a client was told of lies in the log or the snapshot of a quorum.
    pub fn acked_is_durable(&self) {
        for zxid in &self.acked {
            let holders = self.servers[..self.voters]
                .iter()
                .filter(|s| s.disk.base >= *zxid || s.disk.log.iter().any(|(z, _)| z == zxid))
                .count();
            assert!(holders > self.voters / 2, "{zxid} was acknowledged, {holders} servers have it");
        }
    }
}

fn code_of(result: &MultiResult) -> String {
    match result {
        MultiResult::Error(code) => code.to_string(),
        _ => "ok".to_string(),
    }
}

/// Builds the tree of `applier` again, in place.
fn rebuild(disk: &Disk, applier: &mut Applier) {
    match &disk.snapshot {
        Some(d) => load_tree(applier, d),
        None => {
            let (empty, _) = engine::new(applier.tree().config().clone());
            let d = dump(&empty);
            load_tree(applier, &d);
        }
    }
    for (zxid, record) in &disk.log {
        if *zxid > applier.tree().applied() {
            applier.apply(record, &Lines::default(), &mut |_, _| {}).unwrap();
        }
    }
}

/// Makes the value of a create another one, as long as the first.
pub fn spoil(record: &mut [u8]) {
    if let Some(at) = record.windows(5).position(|w| w == b"\0\0\0\x01x") {
        record[at + 4] = b'y';
    }
}

pub fn create(path: &str, flags: i32) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_str(path);
    out.put_buffer(Some(b"x"));
    out.extend_from_slice(proto::acl::OPEN.as_bytes());
    out.put_i32(flags);
    out
}

/// A multi of operations and their bodies.
pub fn multi(ops: &[(OpCode, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (op, body) in ops {
        proto::client::put_multi_header(&mut out, op.wire(), -1);
        out.extend_from_slice(body);
    }
    proto::client::put_multi_end(&mut out);
    out
}
