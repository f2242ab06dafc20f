//! The world around one [`Node`]: clocks, connections with their gates, a disk.

use engine::{Applier, Asker, Audience, Identity, Outbox, PrepConfig, Tree, TreeConfig};
use node::gate::Gate;
use node::sessions::Touch;
use node::{Clients, CloseReason, Config, Handshake, Input, LocalSessions, Node, Now, Output};
use proto::client::{ConnectRequest, OpCode, ReadOp, ReplyHeader, RequestHeader, WriteReply};
use proto::jute::{Put, Reader};
use proto::session::password;
use proto::txn::Record;
use proto::{Code, ConnId, Durable, DurableEpochs, Epoch, Instant, ServerId, SessionId, WallMs, Xid, Zxid};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

pub const TICK_MS: u64 = 1_000;
pub const EPHEMERAL: i32 = 1;
/// A wall clock that has nothing to do with the monotonic one.
const WALL_MS: i64 = 1_700_000_000_000;
const XID_EVENT: i32 = -1;

/// What a client sees of its connection, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Connected { session: SessionId, timeout_ms: i32 },
    Refused,
    Written { xid: i32, zxid: Zxid, result: Result<String, Code> },
    Read { xid: i32, zxid: i64, err: i32, body: Vec<u8> },
    Event { kind: i32, path: String },
    Closed(CloseReason),
}

#[derive(Default)]
pub struct Line {
    gate: Gate,
    session: Option<(SessionId, Arc<Touch>)>,
    pub seen: Vec<Seen>,
    closed: bool,
}

/// All connections, alive or not.
pub struct Lines {
    tree: Arc<Tree>,
    lines: Mutex<BTreeMap<ConnId, Line>>,
}

struct Frame(RefCell<Vec<u8>>);

impl Outbox for Frame {
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        fill(&mut self.0.borrow_mut());
    }
}

impl Lines {
    fn on<R>(&self, conn: ConnId, look: impl FnOnce(&mut Line) -> R) -> R {
        look(self.lines.lock().unwrap().entry(conn).or_default())
    }

    /// Runs a local request, as the server does.
    fn answer(&self, conn: ConnId, session: SessionId, request: &[u8]) -> Seen {
        let mut r = Reader::new(request);
        let header = RequestHeader::decode(&mut r).unwrap();
        let op = ReadOp::decode(OpCode::from_wire(header.op).unwrap(), &mut r).unwrap().unwrap();
        let frame = Frame(RefCell::default());
        let identity = Identity::new(Vec::new());
        self.tree.read(&op, header.xid, &Asker { conn, session, identity: &identity }, &frame);
        let bytes = frame.0.into_inner();
        let mut r = Reader::new(&bytes[4..]);
        let h = ReplyHeader::decode(&mut r).unwrap();
        Seen::Read { xid: header.xid.0, zxid: h.zxid, err: h.err, body: r.rest().to_vec() }
    }
}

impl Audience for Lines {
    fn deliver(&self, to: ConnId, frame: &[u8]) {
        let mut r = Reader::new(&frame[4..]);
        assert_eq!(ReplyHeader::decode(&mut r).unwrap().xid, Xid(XID_EVENT));
        let kind = r.i32().unwrap();
        r.i32().unwrap();
        let path = r.string().unwrap().unwrap().into_owned();
        self.on(to, |line| line.seen.push(Seen::Event { kind, path }));
    }

    fn identity(&self, _: ConnId) -> Option<Arc<Identity>> {
        None
    }
}

impl Clients for Lines {
    fn reply(&self, conn: ConnId, xid: Xid, zxid: Zxid, reply: &WriteReply<'_>) {
        self.on(conn, |line| {
            if line.closed {
                return;
            }
            assert_eq!(self.tree.applied(), zxid, "nothing later is applied when the reply is given");
            line.gate.complete(xid);
            let result = match reply {
                WriteReply::Error(code) => Err(*code),
                WriteReply::Path(path) | WriteReply::PathStat(path, _) => Ok(path.to_string()),
                _ => Ok(String::new()),
            };
            line.seen.push(Seen::Written { xid: xid.0, zxid, result });
            let session = line.session.as_ref().expect("who writes has a session").0;
            while let Some(turn) = line.gate.next_local() {
                let seen = self.answer(conn, session, &turn.request);
                line.seen.push(seen);
            }
        });
    }

    fn connected(&self, conn: ConnId, outcome: Handshake) {
        self.on(conn, |line| {
            line.seen.push(match outcome {
                Handshake::Accepted { session, timeout_ms, touch, .. } => {
                    line.session = Some((session, touch));
                    Seen::Connected { session, timeout_ms }
                }
                Handshake::Refused { .. } => Seen::Refused,
            });
        });
    }

    fn close(&self, conn: ConnId, why: CloseReason) {
        self.on(conn, |line| {
            line.closed = true;
            line.seen.push(Seen::Closed(why));
        });
    }
}

/// One server and all that it touches.
pub struct World {
    pub now: Instant,
    pub wall: WallMs,
    pub node: Node,
    pub tree: Arc<Tree>,
    pub lines: Lines,
    /// What is on stable storage.
    pub durable: Vec<Vec<u8>>,
    /// With the log, not durable.
    pub queue: VecDeque<(Zxid, Vec<u8>)>,
    pub config: Config,
    next_conn: u64,
}

pub fn config() -> Config {
    Config {
        me: ServerId(1),
        tick_ms: TICK_MS,
        session_timeout_ms: 2_000..=20_000,
        container_check_ms: 60_000,
        containers_per_minute: 10_000,
        container_never_used_ms: 0,
        local_sessions: LocalSessions::Off,
        prep: PrepConfig::default(),
    }
}

fn fresh() -> (Arc<Tree>, Applier) {
    engine::new(TreeConfig { shards: 8, extended_types: true, ..TreeConfig::default() })
}

/// The zxid of a record.
pub fn zxid_of(record: &[u8]) -> Zxid {
    Record::decode(record).unwrap().header.zxid
}

impl World {
    pub fn new() -> World {
        World::over(Vec::new(), Instant::from_ms(5_000), config())
    }

    /// A server that recovers from `durable`.
    pub fn over(durable: Vec<Vec<u8>>, now: Instant, config: Config) -> World {
        let (tree, mut applier) = fresh();
        let lines = Lines { tree: tree.clone(), lines: Mutex::default() };
        for record in &durable {
            applier.apply(record, &lines, &mut |_, _| {}).unwrap();
        }
        assert_eq!(tree.digest_mismatches(), 0, "replay ends in the state that was logged");
        let wall = WallMs(WALL_MS + now.as_ms() as i64);
        let history = Durable::from_completed_write(tree.applied());
        let node = Node::new(config.clone(), history, tree.clone(), applier, Now { mono: now, wall });
        World { now, wall, node, tree, lines, durable, queue: VecDeque::new(), config, next_conn: 0 }
    }

    /// A server whose history ends at `zxid`, as if a request had failed there.
    pub fn ending_at(zxid: Zxid) -> World {
        World::over(vec![failed_request(zxid)], Instant::from_ms(5_000), config())
    }

    /// The server dies and comes back a millisecond later with what is durable. Connections are gone.
    pub fn crash(self) -> World {
        let next_conn = self.next_conn;
        let mut world = World::over(self.durable, self.now.plus_ms(1), self.config);
        world.next_conn = next_conn;
        world
    }

    pub fn step(&mut self, input: Input<'_>) {
        let now = Now { mono: self.now, wall: self.wall };
        self.node.step(now, input, &self.lines);
        let durable = self.durable.last().map_or(Zxid::ZERO, |r| zxid_of(r));
        assert!(self.tree.applied() <= durable, "nothing is shown that could be lost");
        assert!(durable <= self.node.proposed());
    }

    /// Hands what is prepared to the log.
    pub fn flush(&mut self) {
        if let Some(batch) = self.node.take_batch() {
            self.queue.extend(batch.iter().map(|(zxid, record)| (zxid, record.to_vec())));
        }
    }

    /// The disk has taken the next `n` records; the server hears of it.
    pub fn persist_next(&mut self, n: usize) {
        let n = n.min(self.queue.len());
        let Some(&(upto, _)) = n.checked_sub(1).and_then(|last| self.queue.get(last)) else { return };
        self.durable.extend(self.queue.drain(..n).map(|(_, record)| record));
        self.step(Input::Persisted(Durable::from_completed_write(upto)));
    }

    /// The disk takes everything, and what that leads to.
    pub fn persist(&mut self) {
        loop {
            self.flush();
            if self.queue.is_empty() {
                return;
            }
            self.persist_next(usize::MAX);
        }
    }

    /// The epoch that the server asks for; once for each.
    pub fn epoch_wanted(&mut self) -> Option<Epoch> {
        match self.node.next_output()? {
            Output::PersistEpochs { accepted, current: Some((epoch, _)), .. } if accepted == epoch => {
                Some(epoch)
            }
            other => panic!("a server that runs alone asks for {other:?}"),
        }
    }

    /// The record of the epoch that is wanted is durable.
    pub fn persist_epoch(&mut self) -> Option<Epoch> {
        let epoch = self.epoch_wanted()?;
        self.step(Input::EpochsPersisted(DurableEpochs::from_completed_write(epoch, epoch)));
        Some(epoch)
    }

    /// Time passes up to `ms` after the start of counting; ticks come when they are due, the disk is idle.
    pub fn until(&mut self, ms: u64) {
        let end = Instant::from_ms(ms);
        while self.node.next_timeout() <= end {
            let due = self.node.next_timeout().max(self.now);
            self.set_clock(due);
            self.step(Input::Tick);
        }
        self.set_clock(end);
    }

    /// As [`World::until`], with a disk that takes everything at once.
    pub fn live_until(&mut self, ms: u64) {
        let end = Instant::from_ms(ms);
        self.persist();
        while self.node.next_timeout() <= end {
            let due = self.node.next_timeout().max(self.now);
            self.set_clock(due);
            self.step(Input::Tick);
            self.persist();
        }
        self.set_clock(end);
    }

    pub fn set_clock(&mut self, to: Instant) {
        assert!(to >= self.now);
        self.wall.0 += (to.as_ms() - self.now.as_ms()) as i64;
        self.now = to;
    }

    /// A handshake is sent.
    pub fn dial(&mut self, session: SessionId, word: &[u8], timeout_ms: i32, last_zxid_seen: i64) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let request = ConnectRequest { last_zxid_seen, timeout_ms, session, password: word, read_only: None };
        self.step(Input::Connect { conn, request });
        conn
    }

    /// A new session, opened.
    pub fn connect(&mut self, timeout_ms: i32) -> (ConnId, SessionId) {
        let conn = self.dial(SessionId::NONE, &[], timeout_ms, 0);
        self.persist();
        let session = self.session(conn).expect("nothing speaks against a new session");
        (conn, session)
    }

    pub fn resume(&mut self, session: SessionId, timeout_ms: i32) -> ConnId {
        self.dial(session, &password(session), timeout_ms, 0)
    }

    pub fn session(&self, conn: ConnId) -> Option<SessionId> {
        self.lines.on(conn, |line| line.session.as_ref().map(|s| s.0))
    }

    pub fn is_closed(&self, conn: ConnId) -> bool {
        self.lines.on(conn, |line| line.closed)
    }

    pub fn hang_up(&mut self, conn: ConnId) {
        let session = self.session(conn);
        self.lines.on(conn, |line| line.closed = true);
        self.step(Input::Disconnected { conn, session });
    }

    /// The frame of a request is read: its session is heard of.
    pub fn hear(&mut self, conn: ConnId) {
        let now = self.now;
        self.lines.on(conn, |line| line.session.as_ref().unwrap().1.touch(now));
    }

    pub fn write(&mut self, conn: ConnId, xid: i32, op: OpCode, body: &[u8]) {
        self.hear(conn);
        let (session, now) = (self.session(conn).unwrap(), self.now);
        self.lines.on(conn, |line| line.gate.admit_ordered(Xid(xid), op.wire(), now));
        let identity = Arc::new(Identity::new(Vec::new()));
        self.step(Input::Write { conn, session, xid: Xid(xid), identity: &identity, op, body });
    }

    pub fn sync(&mut self, conn: ConnId, xid: i32, path: &str) {
        self.hear(conn);
        let now = self.now;
        self.lines.on(conn, |line| line.gate.admit_ordered(Xid(xid), OpCode::Sync.wire(), now));
        let session = self.session(conn).unwrap();
        self.step(Input::Sync { conn, session, xid: Xid(xid), path });
    }

    pub fn read(&mut self, conn: ConnId, xid: i32, op: OpCode, body: &[u8]) {
        self.hear(conn);
        let session = self.session(conn).unwrap();
        let mut request = Vec::new();
        request.put_i32(xid);
        request.put_i32(op.wire());
        request.extend_from_slice(body);
        let now = self.now;
        self.lines.on(conn, |line| {
            if line.gate.is_open() {
                let seen = self.lines.answer(conn, session, &request);
                line.seen.push(seen);
            } else {
                line.gate.admit_local(&request, now);
            }
        });
    }

    /// What `conn` has seen since the last call.
    pub fn seen(&self, conn: ConnId) -> Vec<Seen> {
        self.lines.on(conn, |line| std::mem::take(&mut line.seen))
    }

    /// A write that is alone: its result.
    pub fn done(&mut self, conn: ConnId, op: OpCode, body: &[u8]) -> Result<String, Code> {
        self.seen(conn);
        self.write(conn, 1_000_000, op, body);
        self.persist();
        match self.seen(conn).into_iter().find(|s| matches!(s, Seen::Written { .. })) {
            Some(Seen::Written { result, .. }) => result,
            other => panic!("no reply: {other:?}"),
        }
    }

    pub fn exists(&self, path: &str) -> bool {
        self.tree.peek(path, |n| n.is_some())
    }

    pub fn data(&self, path: &str) -> Option<Vec<u8>> {
        self.tree.peek(path, |n| n.map(|n| n.data.unwrap_or_default().to_vec()))
    }
}

pub fn failed_request(zxid: Zxid) -> Vec<u8> {
    let txn = proto::txn::Txn::Error { code: Code::NoNode.wire() };
    let header = proto::txn::TxnHeader {
        session: SessionId(1),
        cxid: Xid(0),
        zxid,
        time: WallMs(WALL_MS),
        kind: txn.kind(),
    };
    let mut record = Vec::new();
    Record { header, txn, digest: None }.encode(&mut record);
    record
}

pub fn create(path: &str, data: &[u8], flags: i32) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_str(path);
    out.put_buffer(Some(data));
    out.extend_from_slice(proto::acl::OPEN.as_bytes());
    out.put_i32(flags);
    out
}

pub fn create_ttl(path: &str, ttl_ms: i64) -> Vec<u8> {
    let mut out = create(path, b"", 5);
    out.put_i64(ttl_ms);
    out
}

pub fn set(path: &str, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_str(path);
    out.put_buffer(Some(data));
    out.put_i32(-1);
    out
}

pub fn delete(path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_str(path);
    out.put_i32(-1);
    out
}

/// The body of exists, getData and getChildren.
pub fn look(path: &str, watch: bool) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_str(path);
    out.put_bool(watch);
    out
}

/// The value in the body of a getData reply.
pub fn value(body: &[u8]) -> Vec<u8> {
    Reader::new(body).buffer().unwrap().unwrap_or_default().to_vec()
}
