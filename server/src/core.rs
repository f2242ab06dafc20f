//! What the threads share: the node behind a try-lock with its inbox, the queue to the log, the connections.
//!
//! Whoever has work for the node puts it into the inbox and tries the lock. Who gets it steps the node through
//! everything that waits; who does not can go on, for the holder looks into the inbox once more after it let go.

use crate::conn::{AttachedSession, Conn, ConnTable, Flush};
use crate::event_loop::{LoopHandle, Message};
use crate::limits;
use crate::log::LogQueue;
use crate::stats::ServerStats;
use engine::acl::Schemes;
use engine::{Asker, Audience, Identity, Outbox, Tree};
use node::gate::Turn;
use node::{Clients, CloseReason, Handshake, Input, Node, Now, Output};
use parking_lot::Mutex;
use proto::client::{ConnectRequest, ConnectResponse, OpCode, ReadOp, RequestHeader, WriteReply};
use proto::jute::{Reader, begin_frame, end_frame};
use proto::session::password;
use proto::{Code, ConnId, Durable, DurableEpochs, Instant, SessionId, WallMs, Xid, Zxid};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Connections counted between a look at the table and the insertion: one batch of accepts for each loop.
const ACCEPTED_MAX: usize = ConnTable::MAX - 64 * limits::ACCEPT_BATCH;

/// Everything the threads share.
pub struct Core {
    /// How the server was configured.
    pub settings: Arc<config::Settings>,
    /// The applied state.
    pub tree: Arc<Tree>,
    /// The largest frame that is read: jute.maxbuffer.
    pub frame_max: usize,
    /// Who can prove to be who.
    pub schemes: Schemes,
    /// Connections that the descriptors of this process leave room for.
    pub connections_max: usize,
    node: Mutex<Stepper>,
    inbox: Mutex<Inbox>,
    /// The connections.
    pub conns: ConnTable,
    /// The way to the log.
    pub log: LogQueue,
    /// The event loops.
    pub loops: Vec<LoopHandle>,
    /// Counters.
    pub stats: ServerStats,
    /// Too much is in flight: loops read no more writes.
    saturated: AtomicBool,
    /// The log is short of space: writes are refused.
    log_full: AtomicBool,
    /// When the node wants its next tick, in ns of the monotonic clock.
    next_tick: AtomicU64,
    /// Requests that wait for their reply.
    pub outstanding: AtomicUsize,
    /// The server stops.
    pub stopping: AtomicBool,
    started: Instant,
    clock: Clock,
    client_port: Option<u16>,
}

/// The node, with the buffers that its stepping thread reuses.
struct Stepper {
    node: Node,
    work: Inbox,
}

/// What waits for the node.
#[derive(Default)]
struct Inbox {
    items: Vec<Item>,
    /// Bodies of the writes, one after the other.
    bytes: Vec<u8>,
}

enum Item {
    Connect {
        conn: ConnId,
        request: OwnedConnect,
    },
    Write {
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        identity: Arc<Identity>,
        op: OpCode,
        start: usize,
        end: usize,
    },
    Sync {
        conn: ConnId,
        xid: Xid,
        start: usize,
        end: usize,
    },
    Disconnected {
        conn: ConnId,
        session: Option<SessionId>,
    },
    Persisted(Durable),
    EpochsPersisted(DurableEpochs),
    LogFull(bool),
    Tick,
}

/// A handshake whose frame may be gone.
struct OwnedConnect {
    last_zxid_seen: i64,
    timeout_ms: i32,
    session: SessionId,
    password: Vec<u8>,
    read_only: Option<bool>,
}

/// The two clocks.
pub struct Clock {
    start: std::time::Instant,
    /// Added to the monotonic clock so that it does not start at zero: session ids carry forty bits of it, and
    /// a restart must not give the ids of the run before.
    base_ms: u64,
}

/// The wall clock; 0 if it stands before 1970.
pub fn wall_now() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(since.as_millis() as i64)
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { start: std::time::Instant::now(), base_ms: wall_now().0 as u64 }
    }

    /// The monotonic clock.
    pub fn mono(&self) -> Instant {
        Instant(self.start.elapsed().as_nanos() as u64 + self.base_ms * 1_000_000)
    }

    /// The wall-clock time, in ms, of a point on the monotonic clock in ms.
    pub fn wall_of(&self, mono_ms: u64) -> i64 {
        let now = self.now();
        now.wall.0 + mono_ms as i64 - now.mono.as_ms() as i64
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        Now { mono: self.mono(), wall: wall_now() }
    }
}

impl Core {
    /// The parts of a server, ready to run.
    #[expect(clippy::too_many_arguments, reason = "boot puts the parts together, once")]
    pub fn new(
        settings: Arc<config::Settings>,
        tree: Arc<Tree>,
        schemes: Schemes,
        node: Node,
        log: LogQueue,
        loops: Vec<LoopHandle>,
        clock: Clock,
        client_port: Option<u16>,
        descriptors: u64,
    ) -> Core {
        let next_tick = AtomicU64::new(node.next_timeout().0);
        Core {
            frame_max: settings.client.request_bytes_max as usize,
            schemes,
            connections_max: (descriptors.saturating_sub(limits::DESCRIPTORS_KEPT) as usize)
                .min(ACCEPTED_MAX),
            settings,
            tree,
            node: Mutex::new(Stepper { node, work: Inbox::default() }),
            inbox: Mutex::default(),
            conns: ConnTable::default(),
            log,
            loops,
            stats: ServerStats::default(),
            saturated: AtomicBool::new(false),
            log_full: AtomicBool::new(false),
            next_tick,
            outstanding: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            started: clock.mono(),
            clock,
            client_port,
        }
    }

    /// The port that clients reach, as it was bound.
    pub fn client_port(&self) -> Option<u16> {
        self.client_port
    }

    /// Time since the server began to serve, in ms.
    pub fn uptime_ms(&self) -> u64 {
        self.clock.mono().as_ms() - self.started.as_ms()
    }

    /// When an idle connection would be closed, in ms of the monotonic clock: for `dump`.
    pub fn connection_expiry_ms(&self, conn: &Conn) -> u64 {
        let heard = conn.stats.last_response_ms.load(Ordering::Relaxed);
        let (from, patience) = match conn.session() {
            Some(s) => (heard, s.timeout_ms as u64),
            None => (self.started.as_ms(), u64::from(self.settings.client.sessionless_timeout_ms)),
        };
        let bucket = u64::from(self.settings.client.sessionless_timeout_ms).max(1);
        ((from + patience) / bucket + 1) * bucket
    }

    /// The clocks.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// When the node wants its next tick.
    pub fn next_tick(&self) -> Instant {
        Instant(self.next_tick.load(Ordering::Relaxed))
    }

    /// Whether so much is in flight that loops should not read writes.
    pub fn is_saturated(&self) -> bool {
        self.saturated.load(Ordering::Relaxed)
    }

    /// Whether writes are refused because the log is short of space.
    pub fn is_log_full(&self) -> bool {
        self.log_full.load(Ordering::Relaxed)
    }

    /// The log has or has no space.
    pub fn set_log_full(&self, full: bool) {
        if self.log_full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!(
                    "the log's disk is full: writes are refused until there is room, reads and pings go on"
                );
            } else {
                tracing::info!("the log has room again: writes are taken");
            }
            self.inbox.lock().items.push(Item::LogFull(full));
            self.pump();
        }
    }

    /// A connection shakes hands.
    pub fn submit_connect(&self, conn: ConnId, r: &ConnectRequest<'_>) {
        let request = OwnedConnect {
            last_zxid_seen: r.last_zxid_seen,
            timeout_ms: r.timeout_ms,
            session: r.session,
            password: r.password.to_vec(),
            read_only: r.read_only,
        };
        self.inbox.lock().items.push(Item::Connect { conn, request });
    }

    /// A write has taken its place in the gate.
    pub fn submit_write(
        &self,
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        identity: Arc<Identity>,
        op: OpCode,
        body: &[u8],
    ) {
        let mut inbox = self.inbox.lock();
        let start = inbox.bytes.len();
        inbox.bytes.extend_from_slice(body);
        let end = inbox.bytes.len();
        inbox.items.push(Item::Write { conn, session, xid, identity, op, start, end });
        if end >= limits::INBOX_BYTES {
            self.saturated.store(true, Ordering::Relaxed);
        }
    }

    /// A sync has taken its place in the gate.
    pub fn submit_sync(&self, conn: ConnId, xid: Xid, path: &str) {
        let mut inbox = self.inbox.lock();
        let start = inbox.bytes.len();
        inbox.bytes.extend_from_slice(path.as_bytes());
        let end = inbox.bytes.len();
        inbox.items.push(Item::Sync { conn, xid, start, end });
    }

    /// A connection is gone.
    pub fn submit_disconnected(&self, conn: ConnId, session: Option<SessionId>) {
        self.inbox.lock().items.push(Item::Disconnected { conn, session });
    }

    /// The log has made a batch durable.
    pub fn submit_persisted(&self, durable: Durable) {
        self.inbox.lock().items.push(Item::Persisted(durable));
    }

    /// Epochs are durable.
    pub fn submit_epochs(&self, epochs: DurableEpochs) {
        self.inbox.lock().items.push(Item::EpochsPersisted(epochs));
    }

    /// Time has passed.
    pub fn submit_tick(&self) {
        // Asked for once: whoever steps the node sets the next one.
        self.next_tick.store(u64::MAX, Ordering::Relaxed);
        self.inbox.lock().items.push(Item::Tick);
    }

    /// Steps the node through everything that waits, unless another thread is at it: then that one does.
    pub fn pump(&self) {
        loop {
            let Some(mut stepper) = self.node.try_lock() else { return };
            let stepper_ref = &mut *stepper;
            std::mem::swap(&mut *self.inbox.lock(), &mut stepper_ref.work);
            let now = self.clock.now();
            let step = Step { core: self, now: now.mono, touched: Mutex::new(Vec::new()) };
            let Inbox { items, bytes } = &mut stepper_ref.work;
            let node = &mut stepper_ref.node;
            for item in items.drain(..) {
                node.step(now, item.as_input(bytes), &step);
            }
            bytes.clear();
            if bytes.capacity() > limits::INBOX_BYTES {
                *bytes = Vec::new();
            }
            if let Some(batch) = node.take_batch() {
                self.log.push(batch);
            }
            while let Some(output) = node.next_output() {
                match output {
                    Output::PersistEpochs { current: Some((epoch, _)), .. } => self.log.want_epoch(epoch),
                    other => unreachable!("a server that runs alone has no peers: {other:?}"),
                }
            }
            self.next_tick.store(node.next_timeout().0, Ordering::Relaxed);
            let saturated = node.is_saturated();
            let was = self.saturated.swap(saturated, Ordering::Relaxed);
            drop(stepper);
            let mut touched = step.touched.into_inner();
            if touched.len() >= limits::FLUSH_ALONE && self.loops.len() > 1 {
                // A fan-out: each loop writes to its own sockets, all cores at once.
                touched.sort_unstable_by_key(|c| c.owner);
                let mut groups = touched.chunk_by(|a, b| a.owner == b.owner);
                let own = groups.next().map_or(0, <[_]>::len);
                for group in groups {
                    self.loops[group[0].owner].send(Message::Flush(group.to_vec()));
                }
                touched.truncate(own);
            }
            touched.iter().for_each(|c| self.flush_touched(c));
            if was && !saturated {
                self.loops.iter().for_each(|l| l.send(Message::ResumeAll));
            }
            let inbox = self.inbox.lock();
            if inbox.items.is_empty() {
                return;
            }
        }
    }

    /// Writes out what the node has left in the outbox of a connection.
    pub fn flush_touched(&self, conn: &Conn) {
        conn.marked.store(false, Ordering::Release);
        // The owner may have paused it for what has just left, while another thread was writing.
        if conn.flush() == Flush::Done {
            self.wake_if_paused(conn);
        }
    }

    /// Tells the owner of a paused connection to look again, once.
    fn wake_if_paused(&self, conn: &Conn) {
        if conn.paused.swap(false, Ordering::AcqRel) {
            self.loops[conn.owner].send(Message::Resume(conn.id));
        }
    }

    /// Looks at the node, waiting for the lock: for the four-letter words only.
    pub fn with_node<R>(&self, look: impl FnOnce(&Node) -> R) -> R {
        let r = look(&self.node.lock().node);
        // Whoever came meanwhile has left its work to us.
        self.pump();
        r
    }

    /// Answers a request from the tree, in its turn; the caller holds the gate. `request` is the frame's
    /// payload.
    pub fn answer_locally(&self, conn: &Conn, request: &[u8], received_ms: u64, now: Instant) {
        let mut r = Reader::new(request);
        let Ok(header) = RequestHeader::decode(&mut r) else { return conn.cut() };
        let op = OpCode::from_wire(header.op);
        match op.map(|op| (op, ReadOp::decode(op, &mut r))) {
            Some((_, Some(Ok(read)))) => {
                let session = conn.session().map_or(SessionId::NONE, |s| s.id);
                let identity = conn.identity();
                let asker = Asker { conn: conn.id, session, identity: &identity };
                let xid = if matches!(read, ReadOp::Ping) { Xid::PING } else { header.xid };
                self.tree.read(&read, xid, &asker, conn);
            }
            Some((_, Some(Err(_)))) => self.refuse(conn, header.xid, Code::MarshallingError),
            // A write that found its place here was refused before it was ordered.
            Some((op, None)) => {
                let mut r = Reader::new(&request[RequestHeader::LEN..]);
                let decodes = match op {
                    OpCode::Sync => r.string().is_ok(),
                    _ => matches!(proto::client::WriteOp::decode(op, &mut r), Some(Ok(_))),
                };
                let code = if decodes { node::LOG_FULL_CODE } else { Code::MarshallingError };
                self.refuse(conn, header.xid, code);
            }
            None => self.refuse(conn, header.xid, Code::Unimplemented),
        }
        self.count_reply(conn, header.op, header.xid, self.tree.applied(), received_ms, now);
    }

    fn refuse(&self, conn: &Conn, xid: Xid, code: Code) {
        conn.append(&mut |out| WriteReply::Error(code).encode_frame(out, xid, self.tree.applied()));
    }

    fn count_reply(&self, conn: &Conn, op: i32, xid: Xid, zxid: Zxid, received_ms: u64, now: Instant) {
        let latency_ms = now.as_ms().saturating_sub(received_ms);
        conn.stats.replied(op, xid.0, zxid.to_wire(), now, latency_ms);
        self.stats.replied(latency_ms);
    }
}

impl Item {
    fn as_input<'a>(&'a self, bytes: &'a [u8]) -> Input<'a> {
        match self {
            Item::Connect { conn, request } => Input::Connect {
                conn: *conn,
                request: ConnectRequest {
                    last_zxid_seen: request.last_zxid_seen,
                    timeout_ms: request.timeout_ms,
                    session: request.session,
                    password: &request.password,
                    read_only: request.read_only,
                },
            },
            Item::Write { conn, session, xid, identity, op, start, end } => Input::Write {
                conn: *conn,
                session: *session,
                xid: *xid,
                identity: identity.clone(),
                op: *op,
                body: &bytes[*start..*end],
            },
            Item::Sync { conn, xid, start, end } => Input::Sync {
                conn: *conn,
                xid: *xid,
                path: std::str::from_utf8(&bytes[*start..*end]).expect("it was copied from a str"),
            },
            Item::Disconnected { conn, session } => Input::Disconnected { conn: *conn, session: *session },
            Item::Persisted(durable) => Input::Persisted(*durable),
            Item::EpochsPersisted(epochs) => Input::EpochsPersisted(*epochs),
            Item::LogFull(full) => Input::LogFull(*full),
            Item::Tick => Input::Tick,
        }
    }
}

/// The connections during one round of steps.
struct Step<'a> {
    core: &'a Core,
    now: Instant,
    /// Connections with something to flush, each once.
    touched: Mutex<Vec<Arc<Conn>>>,
}

impl Step<'_> {
    fn touch(&self, conn: Arc<Conn>) {
        if !conn.marked.swap(true, Ordering::AcqRel) {
            self.touched.lock().push(conn);
        }
    }
}

impl Audience for Step<'_> {
    fn deliver(&self, to: ConnId, frame: &[u8]) {
        if let Some(conn) = self.core.conns.get(to) {
            conn.append(&mut |out| out.extend_from_slice(frame));
            self.core.stats.event();
            self.touch(conn);
        }
    }

    fn identity(&self, of: ConnId) -> Option<Arc<Identity>> {
        self.core.conns.get(of).map(|c| c.identity())
    }
}

impl Clients for Step<'_> {
    fn reply(&self, to: ConnId, xid: Xid, zxid: Zxid, reply: &WriteReply<'_>) {
        let Some(conn) = self.core.conns.get(to) else { return };
        let mut state = conn.gate.lock();
        if state.closed {
            return;
        }
        let (op, received_ms) = state.gate.complete(xid);
        conn.append(&mut |out| reply.encode_frame(out, xid, zxid));
        self.core.count_reply(&conn, op, xid, zxid, received_ms, self.now);
        let mut done = 1;
        while let Some(Turn { request, received_ms }) = state.gate.next_local() {
            done += 1;
            if conn.is_cut() {
                continue;
            }
            self.core.answer_locally(&conn, &request, received_ms, self.now);
            if conn.unsent() >= limits::OUTBOX_PAUSE {
                conn.flush();
            }
        }
        self.core.outstanding.fetch_sub(done, Ordering::Relaxed);
        let resume = !state.gate.is_full();
        drop(state);
        if resume {
            self.core.wake_if_paused(&conn);
        }
        self.touch(conn);
    }

    fn connected(&self, to: ConnId, outcome: Handshake) {
        let Some(conn) = self.core.conns.get(to) else { return };
        let read_only = conn.gate.lock().read_only;
        let read_only = read_only.map(|_| false);
        // The answer first: the owner runs pipelined requests as soon as it sees the session, and a flush cuts a
        // closing connection as soon as it is empty.
        match outcome {
            Handshake::Accepted { session, timeout_ms, touch } => {
                let password = password(session);
                let response = ConnectResponse { timeout_ms, session, password, read_only };
                conn.append(&mut |out| response.encode_frame(out));
                conn.attach(AttachedSession { id: session, timeout_ms, touch });
            }
            Handshake::Refused => {
                let (session, password) = (SessionId::NONE, [0; 16]);
                let response = ConnectResponse { timeout_ms: 0, session, password, read_only };
                conn.append(&mut |out| response.encode_frame(out));
                conn.close_when_flushed();
            }
        }
        self.core.stats.replied(0);
        self.core.loops[conn.owner].send(Message::Resume(conn.id));
        self.touch(conn);
    }

    fn close(&self, to: ConnId, why: CloseReason) {
        let Some(conn) = self.core.conns.get(to) else { return };
        tracing::debug!(peer = %conn.peer, ?why, "closing a connection");
        conn.close_when_flushed();
        self.touch(conn);
    }
}

/// Appends a reply that has only a head.
pub fn put_header_reply(out: &mut Vec<u8>, xid: Xid, zxid: i64, err: i32) {
    let at = begin_frame(out);
    proto::client::put_reply_header(out, xid, Zxid::from_wire(zxid), err);
    end_frame(out, at);
}
