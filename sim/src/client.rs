//! A client: it keeps a session, asks for things, reconnects elsewhere, and writes down all that it does and sees.

use crate::coverage::Point;
use crate::history::{Asker, History, Reply, Seen};
use crate::kernel::{Event, Kernel};
use crate::net::{Conn, Item, Place, Port, Side};
use crate::op::Op;
use crate::rng::Rng;
use crate::time::{MS, Time};
use proto::client::{ConnectRequest, ConnectResponse, CreateMode, EventType, ReplyHeader};
use proto::jute::Reader;
use proto::{SessionId, Xid};
use std::collections::{BTreeSet, VecDeque};

/// How it behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It asks for one thing after the other.
    Working,
    /// It keeps its session and does what is demanded at the end: a sync, a write, a read.
    Proving,
    /// It keeps its session and asks for nothing.
    Idle,
    /// It is dead.
    Silent,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Off { until: Time },
    Dialing { until: Time },
    Live,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    id: i64,
    password: [u8; 16],
    timeout_ms: i32,
}

/// How often a client that needs no quorum tries to keep its session.
const PATIENCE: u32 = 4;

/// The most watches that a client leaves.
const WATCHES_MAX: usize = 12;

/// See the module.
pub struct Client {
    id: usize,
    place: Place,
    servers: usize,
    rng: Rng,
    mode: Mode,
    state: State,
    conn: Option<Conn>,
    server: usize,
    session: Option<Session>,
    session_server: usize,
    last_zxid: i64,
    next_xid: i32,
    pending: VecDeque<usize>,
    /// By list of setWatches: data, not there, children.
    watches: BTreeSet<(usize, String)>,
    turn: u32,
    heard: Time,
    sent: Time,
    next_op: Time,
    /// Requests that it sends ahead.
    window: usize,
    think_ns: u64,
    timeout_ms: i32,
    made: u32,
    proven: usize,
    /// A server without a quorum will do, for reading.
    reads_alone: bool,
    /// The server has said that it is one.
    read_only: bool,
    /// Connections that ended before a handshake, one after the other.
    turned_away: u32,
}

impl Client {
    /// A client at `place` of an ensemble of `servers`, which may have no quorum while it only reads if it `reads_alone`.
    pub fn new(
        id: usize,
        place: Place,
        servers: usize,
        reads_alone: bool,
        mut rng: Rng,
        think_ns: u64,
        tick_ms: u64,
    ) -> Client {
        let window = *rng.pick(&[1, 1, 2, 4, 8]);
        let timeout_ms = (tick_ms * rng.range(2, 14)) as i32;
        Client {
            id,
            place,
            servers,
            mode: Mode::Working,
            state: State::Off { until: 0 },
            conn: None,
            server: rng.below(servers as u64) as usize,
            session: None,
            session_server: usize::MAX,
            last_zxid: 0,
            next_xid: 1,
            pending: VecDeque::new(),
            watches: BTreeSet::new(),
            turn: 0,
            heard: 0,
            sent: 0,
            next_op: 0,
            window,
            think_ns,
            timeout_ms,
            made: 0,
            proven: 0,
            reads_alone,
            read_only: false,
            turned_away: 0,
            rng,
        }
    }

    /// Its session now.
    pub fn session(&self) -> Option<i64> {
        self.session.map(|s| s.id)
    }

    /// Behaves like this from now on.
    pub fn set_mode(&mut self, k: &mut Kernel, mode: Mode) {
        self.mode = mode;
        self.proven = 0;
        self.next_op = k.now;
        if mode == Mode::Silent {
            // As a machine without power: it says nothing, and hears nothing.
            k.cut_off(self.place, true);
            self.conn = None;
            return;
        }
        self.wake_at(k, k.now);
    }

    /// Whether what was demanded at the end is done.
    pub fn is_proven(&self) -> bool {
        self.proven > PROOF
    }

    fn wake_at(&mut self, k: &mut Kernel, at: Time) {
        self.turn += 1;
        k.schedule(at, Event::Client { client: self.id, turn: self.turn });
    }

    /// Its timer has run off.
    pub fn wake(&mut self, k: &mut Kernel, h: &mut History, turn: u32) {
        if turn != self.turn || self.mode == Mode::Silent {
            return;
        }
        match self.state {
            State::Off { until } if k.now >= until => self.dial(k),
            State::Dialing { until } if k.now >= until => self.leave(k, h),
            State::Live => {
                let patience = self.patience();
                if k.now >= self.heard + patience && !self.pending.is_empty() {
                    self.leave(k, h);
                } else {
                    self.work(k, h);
                    if k.now >= self.sent + patience / 2 {
                        self.send(k, h, Op::Ping, Xid::PING.0);
                    }
                }
            }
            State::Off { .. } | State::Dialing { .. } => {}
        }
        self.rearm(k);
    }

    /// How long without a word until it looks for another server.
    fn patience(&self) -> u64 {
        self.session.map_or(self.timeout_ms, |s| s.timeout_ms) as u64 * MS * 2 / 3
    }

    fn rearm(&mut self, k: &mut Kernel) {
        let at = match self.state {
            State::Off { until } | State::Dialing { until } => until,
            State::Live => {
                let patience = self.patience();
                let mut at = self.sent + patience / 2;
                if !self.pending.is_empty() {
                    at = at.min(self.heard + patience);
                }
                if self.pending.len() < self.window && self.has_work() {
                    at = at.min(self.next_op);
                }
                at
            }
        };
        let at = at.max(k.now + 1);
        self.wake_at(k, at);
    }

    fn has_work(&self) -> bool {
        match self.mode {
            Mode::Working => true,
            Mode::Proving => self.proven <= PROOF && self.pending.is_empty(),
            Mode::Idle | Mode::Silent => false,
        }
    }

    fn dial(&mut self, k: &mut Kernel) {
        self.conn = Some(k.net.dial(k.now, self.place, self.server, Port::Client));
        self.state = State::Dialing { until: k.now + self.patience().min(400 * MS) };
    }

    /// It gives its connection up and looks for another server.
    fn leave(&mut self, k: &mut Kernel, h: &mut History) {
        if let Some(conn) = self.conn {
            k.net.close(k.now, conn, Side::Dialer);
        }
        self.lost(k, h);
    }

    fn lost(&mut self, k: &mut Kernel, h: &mut History) {
        k.tell(|| {
            format!("client {} has lost its connection, {} requests wait", self.id, self.pending.len())
        });
        self.conn = None;
        self.turned_away = if self.state == State::Live { 0 } else { self.turned_away + 1 };
        if self.reads_alone && self.turned_away >= PATIENCE {
            // A server without a quorum does not take over the session of one that had it: who wants to read begins anew.
            self.session = None;
            self.watches.clear();
            self.turned_away = 0;
        }
        h.seen[self.id].push(Seen::Gone);
        if self.pending.iter().any(|&i| h.calls[i].op.is_write()) {
            k.hit(Point::WriteUnknown);
        }
        self.pending.clear();
        self.server = self.rng.below(self.servers as u64) as usize;
        let pause = self.rng.around(5 * MS);
        self.state = State::Off { until: k.now + pause };
    }

    fn send(&mut self, k: &mut Kernel, h: &mut History, op: Op, xid: i32) {
        let Some(conn) = self.conn else { return };
        let frame = op.frame(Xid(xid));
        let session = self.session.map_or(0, |s| s.id);
        k.mix(frame.len() as u64 + ((xid as u64) << 20));
        k.tell(|| format!("client {} sends {xid} of {session:#x}: {:?}", self.id, op.code()));
        let asker = Asker { client: self.id, server: self.server, session, read_only: self.read_only };
        let index = h.send(asker, xid, op, k.now);
        self.pending.push_back(index);
        self.sent = k.now;
        k.net.send(k.now, conn, Side::Dialer, frame);
    }

    fn work(&mut self, k: &mut Kernel, h: &mut History) {
        while self.pending.len() < self.window && self.has_work() && k.now >= self.next_op {
            let op = match self.mode {
                Mode::Proving => self.proof(),
                _ => self.choose(),
            };
            let xid = self.next_xid;
            self.next_xid += 1;
            self.next_op = k.now + self.rng.around(self.think_ns);
            self.send(k, h, op, xid);
        }
    }

    fn proof(&mut self) -> Op {
        let path = format!("/proof-{}", self.id);
        match self.proven {
            0 => Op::Sync { path: "/".into() },
            1 => Op::Create { path, data: vec![1], mode: CreateMode::Persistent, stat: false },
            2 => Op::Get { path, watch: false },
            _ => Op::Children { path: "/".into(), watch: false },
        }
    }

    fn path(&mut self) -> String {
        let top = *self.rng.pick(&["/a", "/b", "/c"]);
        match self.rng.below(4) {
            0 => top.to_string(),
            n => format!("{top}/{n}"),
        }
    }

    fn version(&mut self) -> i32 {
        if self.rng.one_in(4) { self.rng.below(5) as i32 } else { -1 }
    }

    fn data(&mut self) -> Vec<u8> {
        self.made += 1;
        let mut data = (self.id as u32).to_be_bytes().to_vec();
        data.extend_from_slice(&self.made.to_be_bytes());
        if self.rng.one_in(16) {
            data.resize(self.rng.range(200, 3000) as usize, 0x55);
        }
        data
    }

    fn create(&mut self) -> Op {
        let (path, mode) = match self.rng.below(12) {
            0..=5 => (self.path(), CreateMode::Persistent),
            6 | 7 => (format!("/e{}", self.rng.below(4)), CreateMode::Ephemeral),
            8 => ("/a/e".into(), CreateMode::Ephemeral),
            9 => ("/b/q-".into(), CreateMode::PersistentSequential),
            10 => ("/c/s-".into(), CreateMode::EphemeralSequential),
            _ => (format!("/k{}", self.rng.below(2)), CreateMode::Container),
        };
        // Containers get children, or nothing would ever remove them.
        if mode == CreateMode::Container && self.rng.one_in(2) {
            let path = format!("{path}/x");
            return Op::Create { path, data: Vec::new(), mode: CreateMode::Ephemeral, stat: false };
        }
        Op::Create { path, data: self.data(), mode, stat: self.rng.one_in(2) }
    }

    fn simple_write(&mut self) -> Op {
        match self.rng.below(5) {
            0 | 1 => self.create(),
            2 => {
                let path = match self.rng.below(6) {
                    0 => format!("/b/q-{:010}", self.rng.below(12)),
                    1 => format!("/k{}/x", self.rng.below(2)),
                    2 => format!("/e{}", self.rng.below(4)),
                    _ => self.path(),
                };
                Op::Delete { path, version: self.version() }
            }
            _ => Op::Set { path: self.path(), data: self.data(), version: self.version() },
        }
    }

    fn choose(&mut self) -> Op {
        let watch = self.watches.len() < WATCHES_MAX && self.rng.one_in(3);
        match self.rng.below(64) {
            0..=31 => self.simple_write(),
            32..=36 => {
                let n = self.rng.range(2, 5);
                let ops = (0..n).map(|_| match self.rng.below(4) {
                    0 => Op::Check { path: self.path(), version: self.version() },
                    _ => self.simple_write(),
                });
                Op::Multi(ops.collect())
            }
            37..=47 => Op::Get { path: self.path(), watch },
            48..=53 => Op::Exists { path: format!("/e{}", self.rng.below(4)), watch },
            54..=59 => Op::Children { path: (*self.rng.pick(&["/", "/a", "/b", "/c"])).into(), watch },
            60..=62 => Op::Sync { path: "/".into() },
            _ if self.rng.one_in(6) => Op::Close,
            _ => Op::Exists { path: self.path(), watch },
        }
    }

    /// Something arrives.
    pub fn arrive(&mut self, k: &mut Kernel, h: &mut History, conn: Conn, item: Item) {
        if self.conn != Some(conn) || self.mode == Mode::Silent {
            return;
        }
        match item {
            Item::Open => {
                let (session, password) = self.session.map_or((0, [0; 16]), |s| (s.id, s.password));
                let mut frame = Vec::new();
                ConnectRequest {
                    last_zxid_seen: self.last_zxid,
                    timeout_ms: self.timeout_ms,
                    session: SessionId(session),
                    password: &password,
                    read_only: Some(self.reads_alone),
                }
                .encode_frame(&mut frame);
                k.net.send(k.now, conn, Side::Dialer, frame);
            }
            Item::Closed => self.lost(k, h),
            Item::Data(bytes) => {
                self.heard = k.now;
                let mut r = Reader::new(&bytes);
                while let Ok(Some(frame)) = r.buffer() {
                    self.frame(k, h, frame);
                    if self.conn != Some(conn) {
                        break;
                    }
                }
                if self.state == State::Live {
                    self.work(k, h);
                }
            }
        }
        self.rearm(k);
    }

    fn frame(&mut self, k: &mut Kernel, h: &mut History, frame: &[u8]) {
        if self.state != State::Live {
            let r = ConnectResponse::decode(frame).expect("a server's answer to a handshake decodes");
            return self.connected(k, h, &r);
        }
        let mut r = Reader::new(frame);
        let header = ReplyHeader::decode(&mut r).expect("a server's reply decodes");
        k.mix(header.zxid as u64 ^ ((header.xid.0 as u64) << 40));
        if header.xid == Xid::NOTIFICATION {
            let kind = r.i32().expect("an event has a type");
            r.i32().expect("an event has a state");
            let path = r.string().expect("an event has a path").unwrap_or_default().into_owned();
            self.forget_watches(kind, &path);
            k.hit(if header.zxid == -1 { Point::EventCaughtUp } else { Point::EventDelivered });
            if header.zxid > 0 {
                self.last_zxid = self.last_zxid.max(header.zxid);
            }
            h.seen[self.id].push(Seen::Event { zxid: header.zxid, kind, path });
            return;
        }
        let Some(index) = self.pending.pop_front() else {
            return k.judge.condemn(k.now, "replies answer requests", format!("{header:?} answers nothing"));
        };
        let call = &h.calls[index];
        if call.xid != header.xid.0 {
            let how = format!("the reply to {} came where that to {} was due", header.xid.0, call.xid);
            return k.judge.condemn(k.now, "replies come in the order of requests", how);
        }
        if header.zxid > 0 {
            self.last_zxid = self.last_zxid.max(header.zxid);
        }
        self.note_reply(k, &call.op.clone(), header.err, r.rest());
        let reply = Reply { at: k.now, zxid: header.zxid, err: header.err, body: r.rest().to_vec() };
        h.reply(index, reply);
    }

    fn note_reply(&mut self, k: &mut Kernel, op: &Op, err: i32, body: &[u8]) {
        if self.read_only && op.is_read() {
            k.hit(Point::ReadOnlyRead);
        } else if self.read_only && err == proto::Code::NotReadOnly.wire() {
            k.hit(Point::ReadOnlyRefused);
        }
        match op {
            Op::Exists { path, watch: true } => {
                self.watches.insert((usize::from(err != 0), path.clone()));
            }
            Op::Get { path, watch: true } if err == 0 => {
                self.watches.insert((0, path.clone()));
            }
            Op::Children { path, watch: true } if err == 0 => {
                self.watches.insert((2, path.clone()));
            }
            Op::Close if err == 0 => {
                k.hit(Point::SessionClosed);
                self.session = None;
                self.watches.clear();
            }
            Op::Sync { .. } => k.hit(Point::SyncDone),
            Op::Multi(_) => {
                // The type of the first result: −1 for an error.
                let failed = body.starts_with(&[0xff; 4]);
                k.hit(if failed { Point::MultiFailed } else { Point::MultiDone });
            }
            Op::Create { mode, .. } if mode.is_sequential() && err == 0 => k.hit(Point::Sequential),
            _ => {}
        }
        if self.mode == Mode::Proving && !matches!(op, Op::Ping | Op::SetWatches { .. }) {
            // The path of the proof may be there from an attempt whose reply was lost.
            let done = err == 0 || err == proto::Code::NodeExists.wire();
            self.proven = if done { self.proven + 1 } else { 0 };
        }
    }

    fn forget_watches(&mut self, kind: i32, path: &str) {
        let lists: &[usize] = match kind {
            k if k == EventType::NodeDeleted as i32 => &[0, 1, 2],
            k if k == EventType::NodeChildrenChanged as i32 => &[2],
            _ => &[0, 1],
        };
        for &list in lists {
            self.watches.remove(&(list, path.to_string()));
        }
    }

    fn connected(&mut self, k: &mut Kernel, h: &mut History, r: &ConnectResponse) {
        if r.timeout_ms == 0 {
            let old = self.session.take();
            self.watches.clear();
            if let Some(old) = old {
                k.hit(Point::SessionRefused);
                let read_only = r.read_only == Some(true);
                h.seen[self.id].push(Seen::Refused { session: old.id, at: k.now, read_only });
            }
            if let Some(conn) = self.conn {
                k.net.close(k.now, conn, Side::Dialer);
            }
            self.conn = None;
            self.pending.clear();
            let pause = self.rng.around(5 * MS);
            self.state = State::Off { until: k.now + pause };
            return;
        }
        let resumed = self.session.is_some();
        if let Some(old) = self.session
            && old.id != r.session.0
        {
            let how = format!("{:#x} was asked for and {} came", old.id, r.session);
            return k.judge.condemn(k.now, "a session is resumed or refused", how);
        }
        k.hit(if resumed { Point::SessionResumed } else { Point::SessionOpened });
        if resumed && self.session_server != self.server {
            k.hit(Point::SessionResumedElsewhere);
        }
        k.tell(|| {
            format!("client {} has session {} on {}, resumed: {resumed}", self.id, r.session, self.server)
        });
        self.read_only = r.read_only == Some(true);
        if self.read_only && !resumed {
            k.hit(Point::ReadOnlyOpened);
        }
        self.session_server = self.server;
        self.session = Some(Session { id: r.session.0, password: r.password, timeout_ms: r.timeout_ms });
        self.state = State::Live;
        self.heard = k.now;
        h.seen[self.id].push(Seen::Connected {
            session: r.session.0,
            timeout_ms: r.timeout_ms,
            at: k.now,
            resumed,
            read_only: self.read_only,
        });
        if !self.watches.is_empty() {
            let list = |n: usize| self.watches.iter().filter(|w| w.0 == n).map(|w| w.1.clone()).collect();
            let op = Op::SetWatches { since: self.last_zxid, lists: [list(0), list(1), list(2)] };
            self.send(k, h, op, Xid::SET_WATCHES.0);
        }
    }
}

/// Requests of the proof.
const PROOF: usize = 3;
