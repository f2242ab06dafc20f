//! The client connections of one server: gates, outboxes, handshakes, as the real server keeps them, over the simulated
//! network instead of sockets.

use crate::net::Conn;
use engine::{Asker, Audience, Identity, Outbox, Tree};
use node::gate::Gate;
use node::sessions::Touch;
use node::{Clients, CloseReason, Handshake};
use proto::client::{ConnectResponse, OpCode, ReadOp, RequestHeader, WriteReply};
use proto::jute::Reader;
use proto::session::password;
use proto::{Code, ConnId, SessionId, Xid, Zxid};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The handshake has not come.
    Fresh,
    /// The node has the handshake.
    Connecting,
    /// Requests are run.
    Serving,
    /// The client closes its session: nothing more is run.
    Ending,
    /// What was written leaves, then it is closed.
    Closing,
}

/// One connection.
pub struct Line {
    /// Where it stands.
    pub state: State,
    /// The order of its requests.
    pub gate: Gate,
    /// Its session, once the node has answered.
    pub session: Option<(SessionId, Arc<Touch>)>,
    /// Frames that could not be run yet.
    pub input: VecDeque<Vec<u8>>,
    /// To be sent.
    out: Vec<u8>,
    /// The last zxid shown in `out`.
    shown: Option<Zxid>,
}

impl Line {
    fn new() -> Line {
        Line {
            state: State::Fresh,
            gate: Gate::new(),
            session: None,
            input: VecDeque::new(),
            out: Vec::new(),
            shown: None,
        }
    }
}

struct Inner {
    lines: BTreeMap<Conn, Line>,
    touched: Vec<Conn>,
    waited: u64,
    guests: u64,
}

/// What is to leave for one client.
pub struct Flush {
    /// Through which connection.
    pub conn: Conn,
    /// The bytes; may be none.
    pub bytes: Vec<u8>,
    /// The session.
    pub session: i64,
    /// The newest state that the bytes show.
    pub shown: Option<Zxid>,
    /// The connection is to be closed behind them.
    pub close: bool,
}

/// All connections of a server.
pub struct Lines {
    tree: Arc<Tree>,
    identity: Arc<Identity>,
    inner: Mutex<Inner>,
}

struct Frame(RefCell<Vec<u8>>);

impl Outbox for Frame {
    fn append(&self, fill: &mut dyn FnMut(&mut Vec<u8>)) {
        fill(&mut self.0.borrow_mut());
    }
}

impl Lines {
    /// No connections.
    pub fn new(tree: Arc<Tree>) -> Lines {
        let inner = Inner { lines: BTreeMap::new(), touched: Vec::new(), waited: 0, guests: 0 };
        Lines { tree, identity: Arc::new(Identity::new(Vec::new())), inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a run ends with its first panic")
    }

    /// The identity of all clients.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.clone()
    }

    /// Somebody has connected.
    pub fn accept(&self, conn: Conn) {
        self.inner().lines.insert(conn, Line::new());
    }

    /// Looks at a connection.
    pub fn with<R>(&self, conn: Conn, look: impl FnOnce(&mut Line) -> R) -> Option<R> {
        self.inner().lines.get_mut(&conn).map(look)
    }

    /// A connection is gone; its session.
    pub fn remove(&self, conn: Conn) -> Option<Option<SessionId>> {
        let line = self.inner().lines.remove(&conn)?;
        self.tree.drop_connection(ConnId(conn));
        Some(line.session.map(|s| s.0))
    }

    /// All connections.
    pub fn all(&self) -> Vec<Conn> {
        self.inner().lines.keys().copied().collect()
    }

    /// Whether a client of this session is served.
    pub fn serves(&self, session: i64) -> bool {
        let is_it =
            |l: &Line| l.state == State::Serving && l.session.as_ref().is_some_and(|s| s.0.0 == session);
        self.inner().lines.values().any(is_it)
    }

    /// Requests that had to wait for a write before them, since the last call.
    pub fn take_waited(&self) -> u64 {
        std::mem::take(&mut self.inner().waited)
    }

    /// A read had to wait.
    pub fn note_waited(&self) {
        self.inner().waited += 1;
    }

    /// How many clients a server without a quorum has let in since the last call with sessions of which it knew nothing.
    pub fn take_guests(&self) -> u64 {
        std::mem::take(&mut self.inner().guests)
    }

    /// What is to leave, and for whom.
    pub fn take_flushes(&self) -> Vec<Flush> {
        let inner = &mut *self.inner();
        if inner.touched.is_empty() {
            return Vec::new();
        }
        let mut flushes = Vec::new();
        for conn in inner.touched.drain(..) {
            let Some(line) = inner.lines.get_mut(&conn) else { continue };
            let close = line.state == State::Closing;
            if !line.out.is_empty() || close {
                flushes.push(Flush {
                    conn,
                    bytes: std::mem::take(&mut line.out),
                    session: line.session.as_ref().map_or(0, |s| s.0.0),
                    shown: line.shown.take(),
                    close,
                });
            }
        }
        flushes
    }

    /// Answers a local request, in its turn.
    pub fn answer(&self, conn: Conn, request: &[u8]) {
        let inner = &mut *self.inner();
        inner.touched.push(conn);
        if let Some(line) = inner.lines.get_mut(&conn) {
            self.answer_on(conn, line, request);
        }
    }

    fn answer_on(&self, conn: Conn, line: &mut Line, request: &[u8]) {
        let mut r = Reader::new(request);
        let header = RequestHeader::decode(&mut r).expect("only what decodes is admitted");
        let op = OpCode::from_wire(header.op).expect("only what decodes is admitted");
        let applied = self.tree.applied();
        match ReadOp::decode(op, &mut r) {
            Some(Ok(read)) => {
                let session = line.session.as_ref().map_or(SessionId::NONE, |s| s.0);
                let frame = Frame(RefCell::new(std::mem::take(&mut line.out)));
                let who = Asker { conn: ConnId(conn), session, identity: &self.identity };
                let xid = if matches!(read, ReadOp::Ping) { Xid::PING } else { header.xid };
                self.tree.read(&read, xid, &who, &frame);
                line.out = frame.0.into_inner();
            }
            // A write that was refused before it was ordered.
            _ => WriteReply::Error(node::LOG_FULL_CODE).encode_frame(&mut line.out, header.xid, applied),
        }
        line.shown = Some(applied);
    }
}

impl Audience for Lines {
    fn deliver(&self, to: ConnId, frame: &[u8]) {
        let inner = &mut *self.inner();
        if let Some(line) = inner.lines.get_mut(&to.0) {
            line.out.extend_from_slice(frame);
            inner.touched.push(to.0);
        }
    }

    fn identity(&self, _: ConnId) -> Option<Arc<Identity>> {
        Some(self.identity.clone())
    }
}

impl Clients for Lines {
    fn reply(&self, to: ConnId, xid: Xid, zxid: Zxid, reply: &WriteReply<'_>) {
        let inner = &mut *self.inner();
        let Some(line) = inner.lines.get_mut(&to.0) else { return };
        inner.touched.push(to.0);
        if line.gate.complete(xid).is_none() {
            return;
        }
        reply.encode_frame(&mut line.out, xid, zxid);
        line.shown = Some(zxid);
        while let Some(turn) = line.gate.next_local() {
            self.answer_on(to.0, line, &turn.request);
        }
    }

    fn connected(&self, to: ConnId, outcome: Handshake) {
        let inner = &mut *self.inner();
        let Some(line) = inner.lines.get_mut(&to.0) else { return };
        inner.touched.push(to.0);
        let response = match outcome {
            Handshake::Accepted { session, timeout_ms, touch, read_only } => {
                inner.guests += u64::from(read_only && !touch.is_local());
                line.session = Some((session, touch));
                line.state = State::Serving;
                ConnectResponse {
                    timeout_ms,
                    session,
                    password: password(session),
                    read_only: Some(read_only),
                }
            }
            Handshake::Refused { read_only } => {
                line.state = State::Closing;
                let none = SessionId::NONE;
                ConnectResponse {
                    timeout_ms: 0,
                    session: none,
                    password: [0; 16],
                    read_only: Some(read_only),
                }
            }
        };
        response.encode_frame(&mut line.out);
    }

    fn close(&self, to: ConnId, _: CloseReason) {
        let inner = &mut *self.inner();
        if let Some(line) = inner.lines.get_mut(&to.0) {
            line.state = State::Closing;
            line.gate.end();
            inner.touched.push(to.0);
        }
    }
}

/// The code of a write that a server refuses while its log has no room.
pub const REFUSED: Code = node::LOG_FULL_CODE;
