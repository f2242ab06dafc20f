//! The machine: everything that can happen to a server comes in as an [`Input`], one at a time.

use crate::digests::Digests;
use crate::limits;
use crate::local::LocalSessions;
use crate::sessions::{Reach, Sessions, Touch};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use engine::{Applier, Audience, Identity, Prep, PrepConfig, Tree};
use proto::client::{ConnectRequest, OpCode, WriteReply};
use proto::jute::Reader;
use proto::mutant::{self, Mutant};
use proto::peer::{FromLeader, FromLearner, Notification};
use proto::session::{first_session_id, password};
use proto::txn::{RecordBatch, TxnHeader, kind};
use proto::{Code, ConnId, Durable, DurableEpochs, Instant, LinkId, ServerId, SessionId, WallMs, Xid, Zxid};
use zab::{Ensemble, Output, Recovered, Service, Zab};

/// What a server is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its own id; the top byte of the session ids that it makes.
    pub me: ServerId,
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
    /// Whether new sessions are known to this server alone.
    pub local_sessions: LocalSessions,
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
        /// This server is read-only.
        read_only: bool,
    },
    /// The session is gone, or the password is wrong.
    Refused {
        /// This server is read-only.
        read_only: bool,
    },
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
    /// This server serves nobody now, or not this client.
    NotServing,
    /// This server is read-only, and the client has not said that it will do.
    ReadOnly,
    /// The session is used through another server.
    Moved,
    /// The end of the session is proposed, or somebody says that it is gone, and nothing of that is committed here yet: the
    /// client finds out by coming back.
    Undecided,
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
        identity: &'a Arc<Identity>,
        /// The operation.
        op: OpCode,
        /// Its body.
        body: &'a [u8],
    },
    /// A sync of `path`.
    Sync {
        /// The connection that waits for the reply.
        conn: ConnId,
        /// Its session.
        session: SessionId,
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
    /// The answer to [`Output::SendSnapshot`].
    SnapshotSent {
        /// The link.
        link: LinkId,
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
pub(crate) enum Origin {
    /// A client's write. `refusal`: what its failure is told as, whatever it failed with.
    Client { conn: ConnId, xid: Xid, refusal: Option<Code> },
    /// The handshake of this connection.
    Handshake { conn: ConnId },
    /// The server itself, for expiry and containers, or a client of another server.
    Server,
}

/// What waits for the next epoch, in the order in which it came.
#[derive(Debug)]
pub(crate) enum Deferred {
    /// A write: no zxid is left for it.
    Write(DeferredWrite),
    /// A sync behind such a write.
    Sync { conn: ConnId, xid: Xid, path: Box<str> },
    /// The end of a local session behind such a write.
    CloseLocal { conn: ConnId, session: SessionId, xid: Xid },
}

#[derive(Debug)]
pub(crate) struct DeferredWrite {
    pub origin: Origin,
    pub session: SessionId,
    pub cxid: Xid,
    pub identity: Arc<Identity>,
    pub op: DeferredOp,
}

#[derive(Debug)]
pub(crate) enum DeferredOp {
    Client(OpCode, Box<[u8]>),
    CreateSession(i32),
    CloseSession,
    DeleteContainer(String),
}

/// Who asked for a sync, or for what waits as one does.
#[derive(Debug)]
pub(crate) enum Syncer {
    /// A client of this server.
    Client { conn: ConnId, xid: Xid, path: Box<str> },
    /// A learner, whose oldest sync it is.
    Learner(LinkId),
    /// A client of this server that closes its local session.
    Closing { conn: ConnId, session: SessionId, xid: Xid },
}

/// A client whose session the leader does not know, until a quorum has said that this server still leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingRefusal {
    pub question: u64,
    pub who: Stranger,
    pub session: SessionId,
}

/// Where the client of a session that the leader does not know wants to be served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stranger {
    /// Here.
    Client(ConnId),
    /// By the learner on this link, with this time-out.
    Learner(LinkId, i32),
}

/// A sync that waits for the proposals before it, and for a quorum to say that this server still leads.
#[derive(Debug)]
pub(crate) struct PendingSync {
    pub after: Zxid,
    pub question: u64,
    pub who: Syncer,
}

/// A request of a connection that stands behind a sync of the same connection.
#[derive(Debug)]
pub(crate) enum Held {
    Write { session: SessionId, xid: Xid, identity: Arc<Identity>, op: OpCode, body: Box<[u8]> },
    Sync { session: SessionId, xid: Xid, path: Box<str> },
}

/// One server. `applied <= committed <= own durable <= proposed`, checked in release builds.
pub struct Node {
    pub(crate) config: Config,
    pub(crate) tree: Arc<Tree>,
    /// Lent to the shell while it rebuilds the tree.
    pub(crate) applier: Option<Applier>,
    pub(crate) zab: Zab,
    /// The roles that had ended when this one began; everything below belongs to it.
    generation: u64,
    pub(crate) service: Service,
    /// The projected state, while this server leads.
    pub(crate) prep: Option<Prep>,
    /// Who waits, one entry for each record that is not applied, in zxid order, while this server leads.
    pub(crate) origins: VecDeque<Origin>,
    /// Bytes of the records that are not applied, and of the requests that are deferred, held or forwarded.
    pub(crate) in_flight_bytes: usize,
    /// Of a leader: all global sessions. Of a learner: those of them that are attached to its connections. Of both, and of a
    /// read-only server: those that only this server knows.
    pub(crate) sessions: Sessions,
    pub(crate) next_session: SessionId,
    /// The identity of the server's own requests: no ids, and none of them is checked.
    pub(crate) own: Arc<Identity>,
    pub(crate) syncs: VecDeque<PendingSync>,
    /// At most one for each connection of a client, and what learners ask for theirs.
    pub(crate) refusals: VecDeque<PendingRefusal>,
    /// What stands behind syncs that are not confirmed, by connection.
    pub(crate) held: BTreeMap<ConnId, VecDeque<Held>>,
    pub(crate) deferred: VecDeque<Deferred>,
    pub(crate) reaper: Reaper,
    /// What the leader was asked.
    pub(crate) asked: crate::learner::Asked,
    /// When something was applied last, or the log became busy.
    pub(crate) progress: Instant,
    /// Nobody expires before: the log, or the whole server, has stood still, and clients could not be heard.
    pub(crate) held_until: Instant,
    /// The log has no room, since then.
    pub(crate) full_since: Option<Instant>,
    /// Leadership is given up once nothing is in flight.
    pub(crate) handing_over: Option<HandingOver>,
    /// Whether the tree is what the others have.
    pub(crate) digests: Digests,
}

/// Why leadership ends, when it is wanted so.
const ASKED: &str = "leadership is handed over";
/// What the log of a server is told when it hands over because it has no room for more of its own log.
pub const HANDS_OVER_FULL: &str =
    "leadership is handed over: this server's log is full, make room on its disk";

/// Leadership that is being given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandingOver {
    /// What the log of the server is told.
    pub why: &'static str,
    /// For how long it is not wanted back, ms.
    pub abstain_ms: u64,
    /// Then it ends whatever is in flight: the disk may stand still.
    pub patience: Option<Instant>,
}

/// Removes due containers and TTL znodes, evenly spaced.
#[derive(Debug)]
pub(crate) struct Reaper {
    pub next_check: Instant,
    pub due: VecDeque<String>,
    pub next_removal: Instant,
}

impl Node {
    /// A server that runs alone. Its tree is recovered up to the end of `durable`. Every recovered session gets a full
    /// time-out.
    ///
    /// # Panics
    /// When the tree is not at the end of the log.
    pub fn new(config: Config, durable: Durable, tree: Arc<Tree>, applier: Applier, now: Now) -> Node {
        let zab = Zab::alone(config.me, durable);
        let mut node = Node::with(config, zab, durable, tree, applier, now);
        node.begin_to_lead(now);
        node
    }

    /// A server of an ensemble, of which `config` says nothing that `ensemble` does not. Its tree is recovered up to the end
    /// of `durable`; it looks for a leader at once, and serves nobody until [`Output::Serve`] says so.
    ///
    /// # Panics
    /// When the tree is not at the end of the log.
    pub fn join(
        config: Config,
        ensemble: Ensemble,
        recovered: Recovered,
        durable: Durable,
        tree: Arc<Tree>,
        applier: Applier,
        now: Now,
    ) -> Node {
        let zab = Zab::join(ensemble, recovered, durable, now.mono);
        Node::with(config, zab, durable, tree, applier, now)
    }

    fn with(config: Config, zab: Zab, durable: Durable, tree: Arc<Tree>, applier: Applier, now: Now) -> Node {
        assert_eq!(tree.applied(), durable.upto(), "the tree is what the log says");
        Node {
            generation: zab.generation(),
            service: Service::None,
            zab,
            prep: None,
            origins: VecDeque::new(),
            in_flight_bytes: 0,
            sessions: Sessions::of_learner(config.tick_ms),
            next_session: first_session_id(config.me, now.mono),
            own: Arc::new(Identity::new(Vec::new())),
            syncs: VecDeque::new(),
            refusals: VecDeque::new(),
            held: BTreeMap::new(),
            deferred: VecDeque::new(),
            reaper: Reaper::new(),
            asked: Default::default(),
            progress: now.mono,
            held_until: now.mono,
            full_since: None,
            handing_over: None,
            digests: Digests::new(tree.digest_mismatches()),
            config,
            tree,
            applier: Some(applier),
        }
    }

    /// Takes one input. Replies and events leave through `clients` before this returns.
    pub fn step(&mut self, now: Now, input: Input<'_>, clients: &dyn Clients) {
        match input {
            // What clients ask for changes nothing about who leads.
            Input::Write { conn, session, xid, identity, op, body } => {
                return self.handle_write(now, conn, session, xid, identity, op, body, clients);
            }
            Input::Sync { conn, session, xid, path } => {
                return self.handle_sync(now, conn, session, xid, path, clients);
            }
            Input::Connect { conn, request } => return self.handle_connect(now, conn, &request, clients),
            Input::Disconnected { conn, session } => return self.handle_disconnected(conn, session),
            Input::LogFull(full) => {
                self.full_since = full.then(|| self.full_since.unwrap_or(now.mono));
                return self.hold_expiry(now);
            }
            Input::Persisted(durable) => self.zab.persisted(now.mono, durable),
            Input::EpochsPersisted(epochs) => {
                self.zab.epochs_persisted(now.mono, epochs);
                self.propose_all_deferred(now, clients);
            }
            Input::Tick => {
                self.zab.tick(now.mono);
                self.expire_sessions(now, clients);
                if self.prep.is_some() {
                    self.reap(now);
                }
            }
            Input::Notification { from, notification } => {
                self.zab.notification(now.mono, from, &notification);
            }
            Input::ElectionLink { peer, up } => self.zab.election_link(now.mono, peer, up),
            Input::LinkUp { link, dialled } => self.zab.link_up(now.mono, link, dialled),
            Input::LinkDown { link } => {
                self.forget_learner(link);
                self.zab.link_down(now.mono, link);
            }
            Input::DialFailed { to } => self.zab.dial_failed(now.mono, to),
            Input::FromLearner { link, packet } => self.handle_learner(now, link, packet, clients),
            Input::FromLeader { link, packet } => self.handle_leader(now, link, packet, clients),
            Input::FoundInLog { link, found } => self.zab.found_in_log(now.mono, link, found),
            Input::SnapshotSent { link } => self.zab.snapshot_sent(now.mono, link),
            Input::Truncated { durable, applier } => {
                self.take_back(applier);
                self.zab.truncated(now.mono, durable);
            }
            Input::Reloaded { applier } => {
                self.take_back(Some(applier));
                self.zab.reloaded(now.mono);
                assert_eq!(
                    self.tree.applied(),
                    self.zab.history().applied(),
                    "the tree is what the log says"
                );
            }
            Input::SnapshotReceived { link, applier, complete } => {
                let settles = complete.then(|| applier.settles_at());
                self.take_back(Some(applier));
                self.zab.snapshot_received(now.mono, link, settles);
            }
            Input::SnapshotSaved { durable } => self.zab.snapshot_saved(now.mono, durable),
            Input::HandOver if self.zab.has_followers() => self.hand_over(ASKED, limits::ABSTAIN_MS, None),
            Input::HandOver => {}
        }
        self.follow(now, clients);
    }

    /// Does what agreement has decided meanwhile.
    fn follow(&mut self, now: Now, clients: &dyn Clients) {
        if self.zab.generation() != self.generation {
            self.generation = self.zab.generation();
            self.end_role(now);
        }
        if let Some(loose) = self.zab.take_loose() {
            self.apply_loose(&loose, clients);
        }
        self.apply_committed(now, clients);
        if self.zab.service() != self.service {
            self.begin_service(now, clients);
        }
        self.release_syncs(now, clients);
        let before = (self.zab.generation(), self.zab.service());
        self.look_at_digests(now);
        if before != (self.zab.generation(), self.zab.service()) {
            return self.follow(now, clients);
        }
        if self.zab.needs_epoch() && self.handing_over.is_none() {
            // The counter of zxids nears its end: the next reign has a new one.
            self.hand_over(ASKED, 0, None);
        }
        if self.handing_over.is_none() && self.zab.is_held_up(now.mono) {
            let patience = now.mono.plus_ms(limits::HAND_OVER_MS);
            self.hand_over(ASKED, limits::SLOW_ABSTAIN_MS, Some(patience));
        }
        if self.handing_over.is_none()
            && self.full_lead_ends().is_some_and(|at| now.mono >= at)
            && self.zab.may_leave_full(now.mono)
        {
            // Nothing more can come of what is in flight here; what a quorum of the others has got of it, they commit.
            self.hand_over(HANDS_OVER_FULL, limits::FULL_ABSTAIN_MS, Some(now.mono));
        }
        if let Some(HandingOver { why, abstain_ms, patience }) = self.handing_over
            && (self.origins.is_empty() || patience.is_some_and(|p| now.mono >= p))
        {
            self.handing_over = None;
            self.zab.resign(now.mono, why, abstain_ms);
            self.follow(now, clients);
        }
    }

    /// When a leader whose log is full looks whether others can go on without it: room may be made, and a single refusal be
    /// all that clients hear of it.
    fn full_lead_ends(&self) -> Option<Instant> {
        let since = self.full_since.filter(|_| self.service == Service::Leading)?;
        Some(since.plus_ms(self.config.tick_ms))
    }

    /// Everything volatile goes: it belonged to a role that has ended.
    fn end_role(&mut self, now: Now) {
        self.service = Service::None;
        self.prep = None;
        self.origins.clear();
        self.in_flight_bytes = 0;
        self.sessions = Sessions::of_learner(self.config.tick_ms);
        self.syncs.clear();
        self.refusals.clear();
        self.held.clear();
        self.deferred.clear();
        self.reaper = Reaper::new();
        self.asked = Default::default();
        self.progress = now.mono;
        self.held_until = now.mono;
        self.handing_over = None;
        self.digests = Digests::new(self.tree.digest_mismatches());
    }

    fn begin_service(&mut self, now: Now, clients: &dyn Clients) {
        let service = self.zab.service();
        if self.service == Service::ReadOnly {
            // There is a quorum again: who was served without it comes back, and as somebody else.
            self.sessions = Sessions::of_learner(self.config.tick_ms);
        }
        if service == Service::Leading {
            self.begin_to_lead(now);
        }
        if matches!(service, Service::Leading | Service::Following | Service::Observing) {
            let ensemble = self.zab.ensemble();
            let applier = self.applier.as_mut().expect("nobody serves without a tree");
            applier.set_config(&ensemble.config_text, ensemble.config_version, now.wall, clients);
        }
        self.service = service;
    }

    fn begin_to_lead(&mut self, now: Now) {
        assert_eq!(self.tree.applied(), self.zab.history().last(), "a leader has applied its whole history");
        self.sessions = Sessions::new(self.config.tick_ms);
        for s in self.tree.sessions() {
            self.sessions.insert(s.session, s.timeout_ms, Reach::Global, None, now.mono);
        }
        self.prep = Some(Prep::new(&self.tree, self.config.prep.clone()));
        self.reaper.next_check = now.mono.plus_ms(self.config.container_check_ms);
        self.reaper.next_removal = now.mono;
        self.progress = now.mono;
        self.service = Service::Leading;
    }

    /// Everything that was prepared since the last call, for the log; `None` when there is nothing.
    pub fn take_batch(&mut self) -> Option<Arc<RecordBatch>> {
        self.zab.take_batch()
    }

    /// What the shell is to do, oldest first; to be asked until there is nothing more, after [`Node::take_batch`], each
    /// time the node was stepped.
    pub fn next_output(&mut self) -> Option<Output> {
        self.zab.epoch_wanted();
        self.zab.next_output()
    }

    /// The only writer of the tree, for the outputs that ask for it; the answer brings it back.
    ///
    /// # Panics
    /// When it is lent already.
    pub fn lend_applier(&mut self) -> Applier {
        self.applier.take().expect("the applier is lent once, and comes back with the answer")
    }

    fn take_back(&mut self, applier: Option<Applier>) {
        if let Some(applier) = applier {
            assert!(self.applier.is_none(), "the applier comes back once");
            self.applier = Some(applier);
            self.skip_mismatches();
        }
    }

    /// Whether [`Input::HandOver`] has been done: this server does not lead, or there was nobody to hand over to.
    pub fn has_handed_over(&self) -> bool {
        self.handing_over.is_none()
    }

    /// When [`Input::Tick`] is due next.
    pub fn next_timeout(&self) -> Instant {
        let patience = self.handing_over.and_then(|h| h.patience);
        let zab = patience.map_or(self.zab.next_timeout(), |p| p.min(self.zab.next_timeout()));
        let zab = self.digests.deadline().map_or(zab, |d| d.min(zab));
        let agreed = self.sessions.next_timeout().map_or(zab, |s| s.min(zab));
        if self.prep.is_none() {
            return agreed;
        }
        let reaper =
            if self.reaper.due.is_empty() { self.reaper.next_check } else { self.reaper.next_removal };
        agreed.min(reaper)
    }

    /// Whether so much is in flight that no more writes should be read.
    pub fn is_saturated(&self) -> bool {
        self.in_flight_bytes >= limits::IN_FLIGHT_BYTES
    }

    /// Whether so much waits for the disk that the link to the leader should not be read.
    pub fn is_behind(&self) -> bool {
        self.zab.waiting_bytes() >= zab::limits::WAITING_BYTES
    }

    /// Writes that are proposed and not applied, or forwarded and not answered.
    pub fn in_flight(&self) -> usize {
        self.origins.len() + self.asked.len()
    }

    /// Live sessions, the global ones or those that only this server knows, with the end of the bucket that they would
    /// expire in, in ms of the monotonic clock.
    pub fn session_expiry(&self, global: bool) -> Vec<(SessionId, u64)> {
        self.sessions.expiry(global)
    }

    /// The last zxid that was proposed.
    pub fn proposed(&self) -> Zxid {
        self.zab.proposed()
    }

    /// See [`Zab::end_epochs_at`].
    pub fn end_epochs_at(&mut self, counter: u32) {
        self.zab.end_epochs_at(counter);
    }

    /// What agreement knows: roles, epochs, learners.
    pub fn zab(&self) -> &Zab {
        &self.zab
    }

    /// What this server does for clients.
    pub fn service(&self) -> Service {
        self.service
    }

    fn handle_connect(
        &mut self,
        now: Now,
        conn: ConnId,
        request: &ConnectRequest<'_>,
        clients: &dyn Clients,
    ) {
        match self.service {
            Service::None => return clients.close(conn, CloseReason::NotServing),
            // A leader's tree that came while it changed, without all that makes it one of one moment.
            Service::ReadOnly if self.applier.as_ref().is_none_or(|a| !a.is_settled()) => {
                return clients.close(conn, CloseReason::NotServing);
            }
            Service::ReadOnly if request.read_only != Some(true) => {
                return clients.close(conn, CloseReason::ReadOnly);
            }
            Service::ReadOnly | Service::Leading | Service::Following | Service::Observing => {}
        }
        let ahead = request.last_zxid_seen > self.tree.applied().to_wire();
        if ahead && !mutant::is(Mutant::ClientAheadAccepted) {
            return clients.close(conn, CloseReason::ClientAhead);
        }
        let allowed = &self.config.session_timeout_ms;
        let timeout_ms = request.timeout_ms.max(*allowed.start()).min(*allowed.end());
        if request.session == SessionId::NONE {
            if self.opens_local() {
                return self.open_local(now, conn, timeout_ms, clients);
            }
            if self.full_since.is_some() && self.prep.is_some() {
                return clients.close(conn, CloseReason::ClientAhead);
            }
            let session = self.new_session();
            if self.prep.is_none() {
                return self.forward_new_session(conn, session, timeout_ms);
            }
            return self.propose_own(
                now,
                Origin::Handshake { conn },
                session,
                DeferredOp::CreateSession(timeout_ms),
            );
        }
        if self.service == Service::ReadOnly {
            return self.resume_read_only(now, conn, request, timeout_ms, clients);
        }
        // The password first: a stranger who knows an id must not be able to cut its owner off.
        if request.password != password(request.session) {
            return clients.connected(conn, Handshake::Refused { read_only: false });
        }
        let known = self.sessions.get(request.session);
        if self.prep.is_none() && known.is_none_or(|s| s.reach == Reach::Global) {
            return self.revalidate(conn, request.session, timeout_ms, clients);
        }
        match known {
            // What is proposed may be lost with this leader, and the session lives on.
            Some(s) if s.closing && s.reach == Reach::Global => {
                return clients.close(conn, CloseReason::Undecided);
            }
            Some(s) if !s.closing => {}
            None if self.prep.is_some() => {
                return self.place_refusal(now, Stranger::Client(conn), request.session, clients);
            }
            Some(_) | None => return clients.connected(conn, Handshake::Refused { read_only: false }),
        }
        self.sessions.set_owner(request.session, None);
        self.attach(now, conn, request.session, timeout_ms, clients);
    }

    /// The client of a live session is served through `conn` from now on.
    pub(crate) fn attach(
        &mut self,
        now: Now,
        conn: ConnId,
        session: SessionId,
        timeout_ms: i32,
        clients: &dyn Clients,
    ) {
        let Some(s) = self.sessions.get_mut(session) else {
            unreachable!("the caller has looked the session up")
        };
        if let Some(old) = s.conn.replace(conn).filter(|&old| old != conn) {
            clients.close(old, CloseReason::Replaced);
        }
        let touch = s.touch.clone();
        self.sessions.renew(session, timeout_ms, now.mono);
        clients.connected(conn, self.accepted(session, timeout_ms, touch));
    }

    /// Whether what this connection asks for its session is taken. Only the connection that a session is attached to speaks for
    /// it: what is still read from one that its client has left would come behind what the client has asked for since, and its
    /// answer too.
    fn may_ask(&self, conn: ConnId, session: SessionId) -> Result<(), CloseReason> {
        match self.sessions.get(session) {
            _ if self.service == Service::None => Err(CloseReason::NotServing),
            Some(s) if s.conn == Some(conn) => Ok(()),
            _ => Err(CloseReason::Moved),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one input")]
    fn handle_write(
        &mut self,
        now: Now,
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        identity: &Arc<Identity>,
        op: OpCode,
        body: &[u8],
        clients: &dyn Clients,
    ) {
        if !self.held.is_empty()
            && let Some(held) = self.held.get_mut(&conn)
        {
            self.in_flight_bytes += body.len();
            let identity = identity.clone();
            return held.push_back(Held::Write { session, xid, identity, op, body: body.into() });
        }
        if let Err(why) = self.may_ask(conn, session) {
            return clients.close(conn, why);
        }
        let is_local = || matches!(self.sessions.reach(session), Some(Reach::Local { .. }));
        match self.service {
            Service::None => unreachable!("it serves"),
            Service::ReadOnly => self.refuse_write(conn, session, xid, op, clients),
            _ if op == OpCode::CloseSession && is_local() => self.close_local(conn, session, xid, clients),
            Service::Leading => self.lead_write(now, conn, session, xid, identity, op, body),
            Service::Following | Service::Observing => {
                self.forward_write(conn, session, xid, identity, op, body);
            }
        }
    }

    fn handle_sync(
        &mut self,
        now: Now,
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        path: &str,
        clients: &dyn Clients,
    ) {
        if !self.held.is_empty()
            && let Some(held) = self.held.get_mut(&conn)
        {
            self.in_flight_bytes += path.len();
            return held.push_back(Held::Sync { session, xid, path: path.into() });
        }
        if let Err(why) = self.may_ask(conn, session) {
            return clients.close(conn, why);
        }
        match self.service {
            Service::Leading if self.deferred.is_empty() => self.place_sync(now, conn, xid, path, clients),
            Service::Leading => {
                self.in_flight_bytes += path.len();
                self.deferred.push_back(Deferred::Sync { conn, xid, path: path.into() });
            }
            Service::Following | Service::Observing => self.forward_sync(conn, session, xid, path),
            Service::ReadOnly => self.refuse_write(conn, session, xid, OpCode::Sync, clients),
            Service::None => unreachable!("it serves"),
        }
    }

    /// The sync that these requests stood behind is done.
    pub(crate) fn release_held(&mut self, now: Now, conn: ConnId, clients: &dyn Clients) {
        let Some(mut held) = self.held.remove(&conn) else { return };
        while let Some(next) = held.pop_front() {
            match next {
                Held::Write { session, xid, identity, op, body } => {
                    self.in_flight_bytes -= body.len();
                    self.handle_write(now, conn, session, xid, &identity, op, &body, clients);
                }
                Held::Sync { session, xid, path } => {
                    self.in_flight_bytes -= path.len();
                    self.handle_sync(now, conn, session, xid, &path, clients);
                }
            }
            if let Some(again) = self.held.get_mut(&conn) {
                again.append(&mut held);
                return;
            }
        }
    }

    pub(crate) fn handle_disconnected(&mut self, conn: ConnId, session: Option<SessionId>) {
        if let Some(s) = session.and_then(|id| self.sessions.get_mut(id))
            && s.conn == Some(conn)
        {
            s.conn = None;
            let global = session.filter(|_| s.reach == Reach::Global);
            if self.prep.is_none()
                && let Some(id) = global
            {
                // A learner keeps what is attached to its connections; the leader knows the session.
                self.asked.last_touch(id, s.timeout_ms);
                self.sessions.remove(id);
            } else if let Some(id) = global {
                self.sessions.disown(id);
            }
        }
        if self.prep.is_none() {
            self.asked.disconnected(conn);
        }
        self.refusals.retain(|r| !matches!(r.who, Stranger::Client(c) if c == conn));
        if let Some(held) = self.held.get_mut(&conn) {
            for h in held.drain(..) {
                self.in_flight_bytes -= match h {
                    Held::Write { body, .. } => body.len(),
                    Held::Sync { path, .. } => path.len(),
                };
            }
        }
    }

    fn apply_loose(&mut self, records: &RecordBatch, clients: &dyn Clients) {
        let applier = self.applier.as_mut().expect("it came back with the tree");
        for (_, record) in records.iter() {
            applier
                .apply(record, clients, &mut |_, _| {})
                .expect("a record is decoded before it is taken from a leader");
        }
    }

    fn apply_committed(&mut self, now: Now, clients: &dyn Clients) {
        let mut any = false;
        while let Some(records) = self.zab.next_to_apply() {
            if !any && self.is_stalled(now) {
                self.hold_expiry(now);
            }
            any = true;
            for (zxid, record) in records.iter() {
                self.apply_one(now, zxid, record, clients);
                self.note_digest();
                self.release_syncs(now, clients);
            }
        }
        if any {
            self.progress = now.mono;
            let applied = self.zab.history().applied();
            if let Some(prep) = &mut self.prep {
                prep.applied(applied);
            }
            assert_eq!(self.tree.applied(), applied, "everything committed is applied");
        }
    }

    fn apply_one(&mut self, now: Now, zxid: Zxid, record: &[u8], clients: &dyn Clients) {
        let origin = if self.prep.is_some() {
            self.in_flight_bytes -= record.len();
            self.origins.pop_front().expect("one origin for each record in flight")
        } else {
            self.answered(record, clients)
        };
        let is_leader = self.prep.is_some();
        // A learner that is further behind is cut off.
        let ended_for_ms = (is_leader && self.config.local_sessions != LocalSessions::Off).then(|| {
            let ensemble = self.zab.ensemble();
            ensemble.tick_ms * u64::from(ensemble.sync_limit + 1)
        });
        let sessions = &mut self.sessions;
        let mut tell = |header: &TxnHeader, reply: &WriteReply<'_>| {
            let failed = matches!(reply, WriteReply::Error(_));
            match origin {
                // Not an answer but the end of the connection (ZOOKEEPER-710).
                Origin::Client { conn, .. } if *reply == WriteReply::Error(Code::SessionMoved) => {
                    clients.close(conn, CloseReason::Moved);
                }
                Origin::Client { conn, xid, refusal: Some(code) } if failed => {
                    clients.reply(conn, xid, zxid, &WriteReply::Error(code));
                }
                Origin::Client { conn, xid, .. } => clients.reply(conn, xid, zxid, reply),
                Origin::Handshake { conn } if failed => {
                    clients.connected(conn, Handshake::Refused { read_only: false });
                }
                Origin::Handshake { .. } | Origin::Server => {}
            }
            if header.kind == kind::CLOSE_SESSION
                && let Some(for_ms) = ended_for_ms
            {
                sessions.note_end(header.session, now.mono, for_ms);
            }
            if header.kind == kind::CLOSE_SESSION
                && let Some(conn) = sessions.remove(header.session).and_then(|s| s.conn)
            {
                clients.close(conn, CloseReason::SessionClosed);
            }
        };
        self.applier
            .as_mut()
            .expect("nothing is committed while the applier is lent")
            .apply(record, clients, &mut tell)
            .expect("a record decodes: it was prepared here, or decoded before it was taken from a leader");
        let handshake = if let Origin::Handshake { conn } = origin { Some(conn) } else { None };
        if (is_leader || handshake.is_some())
            && let Some(header) = TxnHeader::decode(&mut Reader::new(record)).ok()
            && header.kind == kind::CREATE_SESSION
            && let Some(timeout_ms) = self.tree.session_timeout(header.session)
        {
            let session = header.session;
            match (handshake, self.sessions.get_mut(session)) {
                // Known since it was proposed: a local one that was upgraded, or a learner's.
                (None, Some(s)) => s.touch.touch(now.mono),
                (conn, _) => {
                    let touch = self.sessions.insert(session, timeout_ms, Reach::Global, conn, now.mono);
                    if let Some(conn) = conn {
                        clients.connected(conn, self.accepted(session, timeout_ms, touch));
                    }
                }
            }
        }
    }
}

/// The code for writes while the log is short of space: the one of a read-only server.
pub const LOG_FULL_CODE: Code = Code::NotReadOnly;
