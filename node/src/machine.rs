//! The machine: everything that can happen to a server comes in as an [`Input`], one at a time.

use crate::limits;
use crate::sessions::{Sessions, Touch};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use engine::{Applier, Audience, Identity, Prep, PrepConfig, PrepRequest, Tree};
use proto::client::{ConnectRequest, OpCode, WriteOp, WriteReply};
use proto::jute::Reader;
use proto::peer::{FromLeader, FromLearner, Notification};
use proto::session::{first_session_id, next_session_id, password};
use proto::txn::{RecordBatch, TxnHeader};
use proto::{
    Code, ConnId, Durable, DurableEpochs, Epoch, Instant, LinkId, ServerId, SessionId, WallMs, Xid, Zxid,
};
use zab::{Broadcast, Committed, Output, Verifier};

/// What a server is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its own id; the top byte of the session ids that it makes.
    pub me: ServerId,
    /// Who votes.
    pub verifier: Verifier,
    /// Width of an expiry bucket, in ms.
    pub tick_ms: u64,
    /// Bounds of the negotiated session time-out, in ms.
    pub session_timeout_ms: core::ops::RangeInclusive<i32>,
    /// How often empty containers and expired TTL znodes are looked for, in ms.
    pub container_check_ms: u64,
    /// At most this many are removed per minute.
    pub containers_per_minute: u32,
    /// Containers that never had a child are removed after this many ms; 0: never.
    pub container_never_used_ms: i64,
    /// What requests may do.
    pub prep: PrepConfig,
}

/// The two clocks, read by the shell.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic: sessions and time-outs.
    pub mono: Instant,
    /// Wall clock: ctime, mtime and TTLs only.
    pub wall: WallMs,
}

/// What a handshake led to.
#[derive(Clone, Debug)]
pub enum Handshake {
    /// The session is open, or resumed.
    Accepted {
        /// The session.
        session: SessionId,
        /// The negotiated time-out in ms.
        timeout_ms: i32,
        /// To be touched whenever a frame of the connection is read.
        touch: Arc<Touch>,
    },
    /// The session is gone, or the password is wrong.
    Refused,
}

/// Why the node closes a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The session is closed, by the client or by expiry.
    SessionClosed,
    /// The session was resumed on another connection.
    Replaced,
    /// The client has seen a zxid that this server has not: it must try another one.
    ClientAhead,
}

/// The connections of this server, as the machine sees them. Called while it steps, in the order in which
/// things happen; implemented by the server and by the simulator.
pub trait Clients: Audience {
    /// The oldest ordered request of `conn`, number `xid`, is answered at `zxid`. The gate's local requests
    /// behind it run now.
    fn reply(&self, conn: ConnId, xid: Xid, zxid: Zxid, reply: &WriteReply<'_>);
    /// The handshake of `conn` is done.
    fn connected(&self, conn: ConnId, outcome: Handshake);
    /// `conn` is to be closed once what was written to it has left.
    fn close(&self, conn: ConnId, why: CloseReason);
}

/// What can happen to a server.
#[derive(Debug)]
pub enum Input<'a> {
    /// The first frame of a connection.
    Connect {
        /// The connection.
        conn: ConnId,
        /// The frame.
        request: ConnectRequest<'a>,
    },
    /// A write, whose body has been found to decode.
    Write {
        /// The connection that waits for the reply.
        conn: ConnId,
        /// Its session.
        session: SessionId,
        /// Its number of the request.
        xid: Xid,
        /// Who asks.
        identity: Arc<Identity>,
        /// The operation.
        op: OpCode,
        /// Its body.
        body: &'a [u8],
    },
    /// A sync of `path`.
    Sync {
        /// The connection that waits for the reply.
        conn: ConnId,
        /// Its number of the request.
        xid: Xid,
        /// Echoed in the reply.
        path: &'a str,
    },
    /// A connection is gone.
    Disconnected {
        /// The connection.
        conn: ConnId,
        /// Its session, if the handshake was done.
        session: Option<SessionId>,
    },
    /// The log has everything up to here on stable storage.
    Persisted(Durable),
    /// The answer to [`Output::PersistEpochs`].
    EpochsPersisted(DurableEpochs),
    /// The log is short of space: no new sessions, no expiry, until it is told otherwise. Writes are refused
    /// by the shell, in their place.
    LogFull(bool),
    /// Time has passed.
    Tick,
    /// A notification came through the election port; the shell has found that `from` is configured, and that the
    /// connection is the one that says so.
    Notification {
        /// The server at the other end.
        from: ServerId,
        /// What it says.
        notification: Notification<'a>,
    },
    /// There is a connection to the election port of `peer`, or there is none any more: it was closed, or could not be
    /// made. Told at each change; at start there is none.
    ElectionLink {
        /// The other server.
        peer: ServerId,
        /// Whether there is one.
        up: bool,
    },
    /// A connection of the quorum port: accepted, or dialled as [`Output::Dial`] asked.
    LinkUp {
        /// Its name, never used before.
        link: LinkId,
        /// The server that was dialled; `None`: somebody has connected here.
        dialled: Option<ServerId>,
    },
    /// A link is closed by the other side, broken, or closed by the shell because its queue was full.
    LinkDown {
        /// The link.
        link: LinkId,
    },
    /// No connection could be made as [`Output::Dial`] asked.
    DialFailed {
        /// The server that was dialled.
        to: ServerId,
    },
    /// A packet on an accepted link.
    FromLearner {
        /// The link.
        link: LinkId,
        /// The packet.
        packet: FromLearner<'a>,
    },
    /// A packet on the dialled link. Behind [`FromLeader::Snap`] the shell reads on only when it is asked to by
    /// [`Output::ReceiveSnapshot`].
    FromLeader {
        /// The link.
        link: LinkId,
        /// The packet.
        packet: FromLeader<'a>,
    },
    /// The answer to [`Output::FindInLog`].
    FoundInLog {
        /// The link.
        link: LinkId,
        /// The last zxid at or before the one asked for, if the log reaches back so far, has no hole behind it, and is
        /// not so long behind it that a snapshot would be cheaper.
        found: Option<Zxid>,
    },
    /// The answer to [`Output::Truncate`].
    Truncated {
        /// Where the log ends now.
        durable: Durable,
        /// If it was lent: the applier, its tree being what the log says. When the log does not reach back to the zxid asked
        /// for, everything is gone: an empty log, an empty tree, and `durable` is [`Zxid::ZERO`].
        applier: Option<Applier>,
    },
    /// The answer to [`Output::Reload`]: the tree is what snapshot and log say.
    Reloaded {
        /// The applier.
        applier: Applier,
    },
    /// The answer to [`Output::ReceiveSnapshot`].
    SnapshotReceived {
        /// The link.
        link: LinkId,
        /// The applier.
        applier: Applier,
        /// Whether the tree is complete; else it holds nothing of use.
        complete: bool,
    },
    /// The answer to [`Output::SaveSnapshot`].
    SnapshotSaved {
        /// Where the log begins and ends now.
        durable: Durable,
    },
    /// The server is to stop soon (SIGTERM): a leader hands over to the best follower, if that is a Falconer. The server
    /// may stop once [`Node::has_handed_over`] says so, or after a time that the shell chooses.
    HandOver,
}

/// Who waits for a record to be applied.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// A client's write.
    Client { conn: ConnId, xid: Xid },
    /// The handshake of this connection.
    Handshake { conn: ConnId },
    /// The server itself: expiry, containers.
    Server,
}

/// What waits for the next epoch, in the order in which it came.
#[derive(Debug)]
enum Deferred {
    /// A write: no zxid is left for it.
    Write(DeferredWrite),
    /// A sync behind such a write.
    Sync { conn: ConnId, xid: Xid, path: Box<str> },
}

#[derive(Debug)]
struct DeferredWrite {
    origin: Origin,
    session: SessionId,
    cxid: Xid,
    identity: Arc<Identity>,
    op: DeferredOp,
}

#[derive(Debug)]
enum DeferredOp {
    Client(OpCode, Box<[u8]>),
    CreateSession(i32),
    CloseSession,
    DeleteContainer(String),
}

/// Who asks for a write.
#[derive(Clone, Copy)]
struct Asked<'a> {
    origin: Origin,
    session: SessionId,
    cxid: Xid,
    identity: &'a Identity,
}

/// A sync that waits for the proposals before it.
#[derive(Debug)]
struct PendingSync {
    after: Zxid,
    conn: ConnId,
    xid: Xid,
    path: Box<str>,
}

/// One server. `applied <= committed <= own durable <= proposed`, checked in release builds.
pub struct Node {
    config: Config,
    tree: Arc<Tree>,
    /// Lent to the shell while it rebuilds the tree.
    applier: Option<Applier>,
    prep: Prep,
    broadcast: Broadcast,
    /// Prepared, not yet taken by the log.
    open: RecordBatch,
    /// Taken by the log, not yet applied completely: each batch with the index of its next record.
    sealed: VecDeque<(Arc<RecordBatch>, usize)>,
    /// Who waits, one entry for each record that is not applied, in zxid order.
    origins: VecDeque<Origin>,
    /// Bytes of the records that are not applied, and of the requests that are deferred.
    in_flight_bytes: usize,
    durable: Durable,
    outputs: VecDeque<Output>,
    /// The epoch that was asked for last.
    epoch_asked: Option<Epoch>,
    sessions: Sessions,
    next_session: SessionId,
    /// The identity of the server's own requests: no ids, and none of them is checked.
    own: Arc<Identity>,
    syncs: VecDeque<PendingSync>,
    deferred: VecDeque<Deferred>,
    reaper: Reaper,
    /// When something was applied last, or the log became busy.
    progress: Instant,
    /// Nobody expires before: the log, or the whole server, has stood still, and clients could not be heard.
    held_until: Instant,
    log_full: bool,
}

/// Removes due containers and TTL znodes, evenly spaced.
#[derive(Debug)]
struct Reaper {
    next_check: Instant,
    due: VecDeque<String>,
    next_removal: Instant,
}

impl Node {
    /// A server that runs alone. Its tree is recovered up to the end of `history`. Every recovered session gets a full
    /// time-out.
    ///
    /// # Panics
    /// When the tree is not at the end of the history.
    pub fn new(config: Config, durable: Durable, tree: Arc<Tree>, applier: Applier, now: Now) -> Node {
        let history = durable.upto();
        assert_eq!(tree.applied(), history, "the tree is what the log says");
        let mut sessions = Sessions::new(config.tick_ms);
        for s in tree.sessions() {
            sessions.insert(s.session, s.timeout_ms, None, now.mono);
        }
        Node {
            broadcast: Broadcast::new(config.me, config.verifier.clone(), history),
            prep: Prep::new(&tree, config.prep.clone()),
            open: RecordBatch::new(),
            sealed: VecDeque::new(),
            origins: VecDeque::new(),
            in_flight_bytes: 0,
            durable,
            outputs: VecDeque::new(),
            epoch_asked: None,
            sessions,
            next_session: first_session_id(config.me, now.mono),
            own: Arc::new(Identity::new(Vec::new())),
            syncs: VecDeque::new(),
            deferred: VecDeque::new(),
            reaper: Reaper {
                next_check: now.mono.plus_ms(config.container_check_ms),
                due: VecDeque::new(),
                next_removal: now.mono,
            },
            progress: now.mono,
            held_until: now.mono,
            log_full: false,
            config,
            tree,
            applier: Some(applier),
        }
    }

    /// Takes one input. Replies and events leave through `clients` before this returns.
    pub fn step(&mut self, now: Now, input: Input<'_>, clients: &dyn Clients) {
        match input {
            Input::Connect { conn, request } => self.handle_connect(now, conn, &request, clients),
            Input::Write { conn, session, xid, identity, op, body } => {
                let origin = Origin::Client { conn, xid };
                if self.broadcast.next_zxid().is_none() {
                    self.in_flight_bytes += body.len();
                    let op = DeferredOp::Client(op, body.into());
                    let write = DeferredWrite { origin, session, cxid: xid, identity, op };
                    self.deferred.push_back(Deferred::Write(write));
                } else {
                    let asked = Asked { origin, session, cxid: xid, identity: &identity };
                    self.propose_client(now, asked, op, body);
                }
            }
            Input::Sync { conn, xid, path } => {
                if self.deferred.is_empty() {
                    self.place_sync(conn, xid, path, clients);
                } else {
                    self.in_flight_bytes += path.len();
                    self.deferred.push_back(Deferred::Sync { conn, xid, path: path.into() });
                }
            }
            Input::Disconnected { conn, session } => {
                if let Some(s) = session.and_then(|id| self.sessions.get_mut(id))
                    && s.conn == Some(conn)
                {
                    s.conn = None;
                }
            }
            Input::Persisted(durable) => {
                assert!(durable >= self.durable, "the log went back: {durable:?}");
                self.durable = durable;
                if let Some(committed) = self.broadcast.own_ack(durable) {
                    self.apply_committed(now, committed, clients);
                }
            }
            Input::EpochsPersisted(epochs) => {
                self.broadcast.epoch_durable(epochs.current());
                while let Some(d) = self.deferred.pop_front() {
                    match d {
                        Deferred::Write(write) => self.propose_deferred(now, write),
                        Deferred::Sync { conn, xid, path } => {
                            self.in_flight_bytes -= path.len();
                            self.place_sync(conn, xid, &path, clients);
                        }
                    }
                }
            }
            Input::LogFull(full) => {
                self.log_full = full;
                self.hold_expiry(now);
            }
            Input::Tick => self.handle_tick(now),
            // A server that runs alone has no peers: who connects is shown the door.
            Input::LinkUp { link, .. } => self.outputs.push_back(Output::Close { link }),
            Input::Notification { .. }
            | Input::ElectionLink { .. }
            | Input::LinkDown { .. }
            | Input::DialFailed { .. }
            | Input::FromLearner { .. }
            | Input::FromLeader { .. }
            | Input::FoundInLog { .. }
            | Input::SnapshotSaved { .. }
            | Input::HandOver => {}
            Input::Truncated { .. } | Input::Reloaded { .. } | Input::SnapshotReceived { .. } => {
                unreachable!("a server that runs alone asks for no disk job")
            }
        }
    }

    /// Everything that was prepared since the last call, for the log; `None` when there is nothing.
    pub fn take_batch(&mut self) -> Option<Arc<RecordBatch>> {
        if self.open.is_empty() {
            return None;
        }
        // The next batch is likely as large: growing there step by step would copy it several times over.
        let room = self.open.byte_len().min(limits::BATCH_ROOM);
        let next = RecordBatch::with_capacity(self.open.len().min(limits::BATCH_ROOM / 64), room);
        let batch = Arc::new(core::mem::replace(&mut self.open, next));
        self.sealed.push_back((batch.clone(), 0));
        Some(batch)
    }

    /// What the shell is to do, oldest first; to be asked until there is nothing more, after
    /// [`Node::take_batch`], each time the node was stepped.
    pub fn next_output(&mut self) -> Option<Output> {
        if let Some(epoch) = self.broadcast.epoch_wanted()
            && self.epoch_asked != Some(epoch)
        {
            self.epoch_asked = Some(epoch);
            let history = self.durable;
            self.outputs
                .push_back(Output::PersistEpochs { accepted: epoch, current: Some((epoch, history)) });
        }
        self.outputs.pop_front()
    }

    /// The only writer of the tree, for the outputs that ask for it; the answer brings it back.
    ///
    /// # Panics
    /// When it is lent already.
    pub fn lend_applier(&mut self) -> Applier {
        self.applier.take().expect("the applier is lent once, and comes back with the answer")
    }

    /// Whether [`Input::HandOver`] has been done: another server leads, or none of the others can.
    pub fn has_handed_over(&self) -> bool {
        true
    }

    /// When [`Input::Tick`] is due next.
    pub fn next_timeout(&self) -> Instant {
        let reaper =
            if self.reaper.due.is_empty() { self.reaper.next_check } else { self.reaper.next_removal };
        self.sessions.next_timeout().map_or(reaper, |s| s.min(reaper))
    }

    /// Whether so much is in flight that no more writes should be read.
    pub fn is_saturated(&self) -> bool {
        self.in_flight_bytes >= limits::IN_FLIGHT_BYTES
    }

    /// Writes that are proposed and not applied.
    pub fn in_flight(&self) -> usize {
        self.origins.len()
    }

    /// Live sessions with the end of the bucket that they would expire in, in ms of the monotonic clock.
    pub fn session_expiry(&self) -> Vec<(SessionId, u64)> {
        self.sessions.expiry()
    }

    /// The last zxid that was proposed.
    pub fn proposed(&self) -> Zxid {
        self.broadcast.proposed()
    }

    fn handle_connect(
        &mut self,
        now: Now,
        conn: ConnId,
        request: &ConnectRequest<'_>,
        clients: &dyn Clients,
    ) {
        if request.last_zxid_seen > self.tree.applied().to_wire() {
            return clients.close(conn, CloseReason::ClientAhead);
        }
        let allowed = &self.config.session_timeout_ms;
        let timeout_ms = request.timeout_ms.max(*allowed.start()).min(*allowed.end());
        if request.session == SessionId::NONE {
            if self.log_full {
                return clients.close(conn, CloseReason::ClientAhead);
            }
            // A wall clock that was set back before this start could lead to the ids of sessions that live on.
            while self.sessions.get(self.next_session).is_some() {
                self.next_session = next_session_id(self.next_session);
            }
            let session = self.next_session;
            self.next_session = next_session_id(session);
            return self.propose_own(
                now,
                Origin::Handshake { conn },
                session,
                DeferredOp::CreateSession(timeout_ms),
            );
        }
        // The password first: a stranger who knows an id must not be able to cut its owner off.
        let resumed = match self.sessions.get_mut(request.session) {
            Some(s) if !s.closing && request.password == password(request.session) => s,
            _ => return clients.connected(conn, Handshake::Refused),
        };
        if let Some(old) = resumed.conn.replace(conn).filter(|&old| old != conn) {
            clients.close(old, CloseReason::Replaced);
        }
        let touch = resumed.touch.clone();
        self.sessions.renew(request.session, timeout_ms, now.mono);
        clients.connected(conn, Handshake::Accepted { session: request.session, timeout_ms, touch });
    }

    /// Under a leader of its own, a server's sync only has to stand behind everything proposed before it.
    fn place_sync(&mut self, conn: ConnId, xid: Xid, path: &str, clients: &dyn Clients) {
        let after = self.broadcast.proposed();
        if self.origins.is_empty() {
            return clients.reply(conn, xid, self.tree.applied(), &WriteReply::Path(path));
        }
        self.syncs.push_back(PendingSync { after, conn, xid, path: path.into() });
    }

    fn handle_tick(&mut self, now: Now) {
        let tick_ms = self.config.tick_ms;
        // While the log stands still, clients whose frames wait behind it can't be heard. A tick that comes late
        // means that the server itself was stopped, and what clients have sent meanwhile is not read yet.
        let late = self.sessions.next_timeout().is_some_and(|due| now.mono > due.plus_ms(tick_ms));
        if late || self.log_full || self.is_stalled(now) {
            self.hold_expiry(now);
        }
        let hold = now.mono < self.held_until;
        for session in self.sessions.expire(now.mono, hold) {
            self.propose_own(now, Origin::Server, session, DeferredOp::CloseSession);
        }
        if now.mono >= self.reaper.next_check {
            self.reaper.next_check = now.mono.plus_ms(self.config.container_check_ms);
            // While the log stands still, what was proposed already would be found again.
            if self.reaper.due.is_empty() && !hold {
                let never_used_ms = self.config.container_never_used_ms;
                self.reaper.due =
                    self.tree.due_containers(now.wall, never_used_ms, limits::REAP_BATCH).into();
                self.reaper.next_removal = now.mono;
            }
        }
        if hold || self.is_saturated() {
            self.reaper.next_removal = self.reaper.next_removal.max(now.mono.plus_ms(tick_ms));
        }
        // Ticks come some ms late, which is made good; after a longer time nothing is.
        let spacing_ns = 60_000_000_000 / u64::from(self.config.containers_per_minute.max(1));
        let oldest = Instant(now.mono.0.saturating_sub(limits::REAP_CATCH_UP_NS.max(spacing_ns)));
        self.reaper.next_removal = self.reaper.next_removal.max(oldest);
        while now.mono >= self.reaper.next_removal
            && let Some(path) = self.reaper.due.pop_front()
        {
            self.reaper.next_removal = Instant(self.reaper.next_removal.0 + spacing_ns);
            self.propose_own(now, Origin::Server, SessionId::NONE, DeferredOp::DeleteContainer(path));
        }
    }

    /// Whether the log has work and has made no progress for a tick.
    fn is_stalled(&self, now: Now) -> bool {
        !self.origins.is_empty() && now.mono > self.progress.plus_ms(self.config.tick_ms)
    }

    /// Nobody expires for a tick from now on.
    fn hold_expiry(&mut self, now: Now) {
        self.held_until = now.mono.plus_ms(self.config.tick_ms);
    }

    fn propose_client(&mut self, now: Now, asked: Asked<'_>, op: OpCode, body: &[u8]) {
        let op = WriteOp::decode(op, &mut Reader::new(body))
            .and_then(Result::ok)
            .expect("the connection decoded this body before it took a place in the gate");
        if op == WriteOp::CloseSession
            && let Some(s) = self.sessions.get_mut(asked.session)
        {
            s.closing = true;
        }
        self.propose(now, asked, &op);
    }

    /// Proposes one of the server's own requests, or keeps it until the next epoch is open.
    fn propose_own(&mut self, now: Now, origin: Origin, session: SessionId, op: DeferredOp) {
        let write = DeferredWrite { origin, session, cxid: Xid(0), identity: self.own.clone(), op };
        if self.broadcast.next_zxid().is_none() {
            self.deferred.push_back(Deferred::Write(write));
        } else {
            self.propose_deferred(now, write);
        }
    }

    fn propose_deferred(&mut self, now: Now, d: DeferredWrite) {
        let asked = Asked { origin: d.origin, session: d.session, cxid: d.cxid, identity: &d.identity };
        let op = match d.op {
            DeferredOp::Client(op, body) => {
                self.in_flight_bytes -= body.len();
                return self.propose_client(now, asked, op, &body);
            }
            DeferredOp::CreateSession(timeout_ms) => WriteOp::CreateSession { timeout_ms },
            DeferredOp::CloseSession => WriteOp::CloseSession,
            DeferredOp::DeleteContainer(path) => WriteOp::DeleteContainer { path: path.into() },
        };
        self.propose(now, asked, &op);
    }

    fn propose(&mut self, now: Now, asked: Asked<'_>, op: &WriteOp<'_>) {
        let Asked { origin, session, cxid, identity } = asked;
        let zxid = self.broadcast.next_zxid().expect("callers have checked that a zxid is left");
        if self.origins.is_empty() {
            self.progress = now.mono;
        }
        let before = self.open.byte_len();
        let request = PrepRequest { session, cxid, time: now.wall, identity, op };
        self.prep.prepare(&self.tree, &request, zxid, &mut self.open);
        assert_eq!(self.open.last(), Some(zxid), "each request gives exactly one record");
        self.broadcast.propose(zxid);
        self.origins.push_back(origin);
        self.in_flight_bytes += self.open.byte_len() - before;
    }

    fn apply_committed(&mut self, now: Now, committed: Committed, clients: &dyn Clients) {
        assert!(committed.upto() <= self.durable.upto(), "a server shows only what it could not lose");
        if self.is_stalled(now) {
            self.hold_expiry(now);
        }
        self.progress = now.mono;
        while let Some((batch, mut next)) = self.sealed.pop_front() {
            while let Some((zxid, record)) = batch.get(next)
                && zxid <= committed.upto()
            {
                next += 1;
                let origin = self.origins.pop_front().expect("one origin for each record in flight");
                self.in_flight_bytes -= record.len();
                self.apply_one(now, zxid, record, origin, clients);
                self.release_syncs(zxid, clients);
            }
            if next < batch.len() {
                self.sealed.push_front((batch, next));
                break;
            }
        }
        self.prep.applied(committed.upto());
        assert_eq!(self.tree.applied(), committed.upto(), "everything committed is applied");
    }

    fn apply_one(&mut self, now: Now, zxid: Zxid, record: &[u8], origin: Origin, clients: &dyn Clients) {
        let sessions = &mut self.sessions;
        let mut tell = |header: &TxnHeader, reply: &WriteReply<'_>| {
            let failed = matches!(reply, WriteReply::Error(_));
            match origin {
                Origin::Client { conn, xid } => clients.reply(conn, xid, zxid, reply),
                Origin::Handshake { conn } if failed => clients.connected(conn, Handshake::Refused),
                Origin::Handshake { .. } | Origin::Server => {}
            }
            if header.kind == proto::txn::kind::CLOSE_SESSION
                && let Some(conn) = sessions.remove(header.session).and_then(|s| s.conn)
            {
                clients.close(conn, CloseReason::SessionClosed);
            }
        };
        self.applier
            .as_mut()
            .expect("nothing is committed while the applier is lent")
            .apply(record, clients, &mut tell)
            .expect("a record that this server prepared decodes: prepare and apply share one codec");
        if let Origin::Handshake { conn } = origin
            && let Some(header) = TxnHeader::decode(&mut Reader::new(record)).ok()
            && header.kind == proto::txn::kind::CREATE_SESSION
            && let Some(timeout_ms) = self.tree.session_timeout(header.session)
        {
            let touch = self.sessions.insert(header.session, timeout_ms, Some(conn), now.mono);
            clients.connected(conn, Handshake::Accepted { session: header.session, timeout_ms, touch });
        }
    }

    fn release_syncs(&mut self, applied: Zxid, clients: &dyn Clients) {
        while let Some(sync) = self.syncs.front()
            && sync.after <= applied
        {
            clients.reply(sync.conn, sync.xid, applied, &WriteReply::Path(&sync.path));
            self.syncs.pop_front();
        }
    }
}

/// The code for writes while the log is short of space: the one of a read-only server.
pub const LOG_FULL_CODE: Code = Code::NotReadOnly;
