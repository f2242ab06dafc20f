//! The leader's pipeline: Prep, Proposal, and what only a leader does: sessions expire, containers are reaped, learners'
//! requests are taken.

use crate::limits;
use crate::local::Effect;
use crate::machine::{
    Clients, CloseReason, Deferred, DeferredOp, DeferredWrite, HandingOver, Handshake, Node, Now, Origin,
    PendingRefusal, PendingSync, Reaper, Stranger, Syncer,
};
use crate::sessions::Reach;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use engine::{Identity, PrepRequest, Standing};
use proto::client::{OpCode, WriteOp, WriteReply};
use proto::jute::Reader;
use proto::mutant::{self, Mutant};
use proto::peer::{AuthIds, FromLeader, FromLearner};
use proto::txn::{Record, Txn, TxnHeader};
use proto::{Code, ConnId, Instant, LinkId, SessionId, Xid};

/// Who asks for a write.
#[derive(Clone, Copy)]
struct Asked<'a> {
    origin: Origin,
    session: SessionId,
    standing: Standing,
    cxid: Xid,
    identity: &'a Identity,
}

impl Reaper {
    pub(crate) fn new() -> Reaper {
        Reaper { next_check: Instant(u64::MAX), due: VecDeque::new(), next_removal: Instant(u64::MAX) }
    }
}

impl Node {
    #[expect(clippy::too_many_arguments, reason = "the fields of one input")]
    pub(crate) fn lead_write(
        &mut self,
        now: Now,
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        identity: &Arc<Identity>,
        op: OpCode,
        body: &[u8],
    ) {
        let origin = Origin::Client { conn, xid, refusal: None };
        if let Effect::Upgraded(timeout_ms) = self.effect_on_local(session, op, body) {
            self.propose_own(now, Origin::Server, session, DeferredOp::CreateSession(timeout_ms));
        }
        if self.zab.next_zxid().is_none() {
            self.in_flight_bytes += body.len();
            let op = DeferredOp::Client(op, body.into());
            let write = DeferredWrite { origin, session, cxid: xid, identity: identity.clone(), op };
            return self.deferred.push_back(Deferred::Write(write));
        }
        self.propose_client(now, origin, session, xid, identity, op, body);
    }

    /// A sync stands behind everything proposed before it, and behind the answer of a quorum that this server still leads:
    /// a read behind it sees whatever was acknowledged before, by anybody.
    pub(crate) fn place_sync(&mut self, now: Now, conn: ConnId, xid: Xid, path: &str, clients: &dyn Clients) {
        let question = self.zab.confirm(now.mono);
        let confirmed = self.zab.confirmed() >= question;
        if self.origins.is_empty() && confirmed && self.syncs.is_empty() {
            return clients.reply(conn, xid, self.tree.applied(), &WriteReply::Path(path));
        }
        let who = Syncer::Client { conn, xid, path: path.into() };
        self.syncs.push_back(PendingSync { after: self.zab.proposed(), question, who });
        if !confirmed {
            self.held.entry(conn).or_default();
        }
    }

    pub(crate) fn release_syncs(&mut self, now: Now, clients: &dyn Clients) {
        if self.prep.is_none() {
            return self.release_forwarded_syncs(now, clients);
        }
        self.release_refusals(now, clients);
        while let Some(sync) = self.syncs.front()
            && sync.after <= self.tree.applied()
            && sync.question <= self.zab.confirmed()
            && let Some(done) = self.syncs.pop_front()
        {
            match done.who {
                Syncer::Client { conn, xid, path } => {
                    clients.reply(conn, xid, self.tree.applied(), &WriteReply::Path(&path));
                    self.release_held(now, conn, clients);
                }
                Syncer::Closing { conn, session, xid } => self.end_local(conn, xid, session, clients),
                Syncer::Learner(link) => {
                    let mut packet = Vec::new();
                    FromLeader::Sync.encode(&mut packet);
                    self.zab.send(link, packet);
                }
            }
        }
    }

    /// A session that this leader does not know may have begun under another one, if this one is cut off and does not know it
    /// yet; and what its client is told of its end is for ever. So it is refused once a quorum has said that this server
    /// still leads.
    pub(crate) fn place_refusal(
        &mut self,
        now: Now,
        who: Stranger,
        session: SessionId,
        clients: &dyn Clients,
    ) {
        let question = self.zab.confirm(now.mono);
        self.refusals.push_back(PendingRefusal { question, who, session });
        self.release_refusals(now, clients);
    }

    pub(crate) fn release_refusals(&mut self, now: Now, clients: &dyn Clients) {
        while let Some(&PendingRefusal { question, who, session }) = self.refusals.front()
            && question <= self.zab.confirmed()
        {
            self.refusals.pop_front();
            match who {
                // It has begun since: its client has guessed its id.
                Stranger::Client(conn) if self.sessions.get(session).is_some() => {
                    clients.close(conn, CloseReason::Undecided);
                }
                Stranger::Client(conn) => clients.connected(conn, Handshake::Refused { read_only: false }),
                Stranger::Learner(link, timeout_ms) => {
                    self.revalidate_for(now, link, session, timeout_ms, clients);
                }
            }
        }
    }

    /// What is true of the session now is the answer.
    fn revalidate_for(
        &mut self,
        now: Now,
        link: LinkId,
        session: SessionId,
        timeout_ms: i32,
        clients: &dyn Clients,
    ) {
        let valid = self.sessions.get(session).is_some_and(|s| s.reach == Reach::Global && !s.closing);
        if valid {
            self.sessions.renew(session, timeout_ms, now.mono);
            self.move_to(session, link, clients);
        }
        let mut answer = Vec::new();
        FromLeader::Revalidate { session, valid }.encode(&mut answer);
        self.zab.send(link, answer);
    }

    /// Whose time-out is over ends: a global session by a txn.
    pub(crate) fn expire_sessions(&mut self, now: Now, clients: &dyn Clients) {
        let tick_ms = self.config.tick_ms;
        // While the log stands still, clients whose frames wait behind it can't be heard. A tick that comes late
        // means that the server itself was stopped, and what clients have sent meanwhile is not read yet.
        let late = self.sessions.next_timeout().is_some_and(|due| now.mono > due.plus_ms(tick_ms));
        if late || self.full_since.is_some() || self.is_stalled(now) {
            self.hold_expiry(now);
        }
        for session in self.sessions.expire(now.mono, self.holds_expiry(now)) {
            match self.sessions.reach(session) {
                Some(Reach::Global) => {
                    self.propose_own(now, Origin::Server, session, DeferredOp::CloseSession);
                }
                _ => self.expire_local(session, clients),
            }
        }
    }

    fn holds_expiry(&self, now: Now) -> bool {
        now.mono < self.held_until
    }

    /// Empty containers and TTL znodes whose time is over are removed.
    pub(crate) fn reap(&mut self, now: Now) {
        let hold = self.holds_expiry(now);
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
            self.reaper.next_removal = self.reaper.next_removal.max(now.mono.plus_ms(self.config.tick_ms));
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
    pub(crate) fn is_stalled(&self, now: Now) -> bool {
        !self.origins.is_empty() && now.mono > self.progress.plus_ms(self.config.tick_ms)
    }

    /// Nobody expires for a tick from now on.
    pub(crate) fn hold_expiry(&mut self, now: Now) {
        self.held_until = now.mono.plus_ms(self.config.tick_ms);
    }

    /// No more is proposed; once everything in flight is applied, leadership ends and is not wanted back for a time.
    pub(crate) fn hand_over(&mut self, why: &'static str, abstain_ms: u64, patience: Option<Instant>) {
        if self.prep.is_some() {
            self.zab.hand_over();
            self.handing_over = Some(HandingOver { why, abstain_ms, patience });
        }
    }

    /// What waited for an epoch goes on, once there is one.
    pub(crate) fn propose_all_deferred(&mut self, now: Now, clients: &dyn Clients) {
        while self.zab.next_zxid().is_some()
            && let Some(d) = self.deferred.pop_front()
        {
            match d {
                Deferred::Write(write) => self.propose_deferred(now, write),
                Deferred::Sync { conn, xid, path } => {
                    self.in_flight_bytes -= path.len();
                    self.place_sync(now, conn, xid, &path, clients);
                }
                Deferred::CloseLocal { conn, session, xid } => self.place_close(conn, session, xid, clients),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one input")]
    fn propose_client(
        &mut self,
        now: Now,
        origin: Origin,
        session: SessionId,
        cxid: Xid,
        identity: &Identity,
        op: OpCode,
        body: &[u8],
    ) {
        let op = WriteOp::decode(op, &mut Reader::new(body))
            .and_then(Result::ok)
            .expect("the connection decoded this body before it took a place in the gate");
        if op == WriteOp::CloseSession
            && let Some(s) = self.sessions.get_mut(session)
        {
            s.closing = true;
        }
        let standing = self.standing_of_own(session, &op);
        self.propose(now, Asked { origin, session, standing, cxid, identity }, &op);
    }

    /// Proposes one of the server's own requests, or keeps it until the next epoch is open.
    pub(crate) fn propose_own(&mut self, now: Now, origin: Origin, session: SessionId, op: DeferredOp) {
        let write = DeferredWrite { origin, session, cxid: Xid(0), identity: self.own.clone(), op };
        if self.zab.next_zxid().is_none() {
            self.deferred.push_back(Deferred::Write(write));
        } else {
            self.propose_deferred(now, write);
        }
    }

    fn propose_deferred(&mut self, now: Now, d: DeferredWrite) {
        let DeferredWrite { origin, session, cxid, identity, op } = d;
        let op = match op {
            DeferredOp::Client(op, body) => {
                self.in_flight_bytes -= body.len();
                return self.propose_client(now, origin, session, cxid, &identity, op, &body);
            }
            DeferredOp::CreateSession(timeout_ms) => WriteOp::CreateSession { timeout_ms },
            DeferredOp::CloseSession => WriteOp::CloseSession,
            DeferredOp::DeleteContainer(path) => WriteOp::DeleteContainer { path: path.into() },
        };
        let standing = Standing::Replicated;
        self.propose(now, Asked { origin, session, standing, cxid, identity: &identity }, &op);
    }

    fn propose(&mut self, now: Now, asked: Asked<'_>, op: &WriteOp<'_>) {
        let Asked { origin, session, standing, cxid, identity } = asked;
        let zxid = self.zab.next_zxid().expect("callers have checked that a zxid is left");
        if self.origins.is_empty() {
            self.progress = now.mono;
        }
        let open = self.zab.propose(zxid);
        let before = open.byte_len();
        let request = PrepRequest { session, standing, cxid, time: now.wall, identity, op };
        self.prep.as_mut().expect("a leader prepares").prepare(&self.tree, &request, zxid, open);
        assert_eq!(open.last(), Some(zxid), "each request gives exactly one record");
        self.origins.push_back(origin);
        self.in_flight_bytes += open.byte_len() - before;
    }

    /// A request that fails before it is prepared still takes a zxid: whoever sent it waits for its record.
    fn propose_error(&mut self, now: Now, session: SessionId, cxid: Xid, code: Code) {
        let Some(zxid) = self.zab.next_zxid() else { return };
        let open = self.zab.propose(zxid);
        let before = open.byte_len();
        let txn = Txn::Error { code: code.wire() };
        let header = TxnHeader { session, cxid, zxid, time: now.wall, kind: txn.kind() };
        open.push_with(zxid, |out| Record { header, txn, digest: None }.encode(out));
        self.in_flight_bytes += open.byte_len() - before;
        self.origins.push_back(Origin::Server);
    }

    // Learners.

    pub(crate) fn handle_learner(
        &mut self,
        now: Now,
        link: LinkId,
        packet: FromLearner<'_>,
        clients: &dyn Clients,
    ) {
        self.zab.from_learner(now.mono, link, &packet);
        if !self.zab.serves(link) || self.prep.is_none() {
            return;
        }
        match packet {
            FromLearner::Ping { touches, .. } => {
                for (session, timeout_ms) in touches.iter() {
                    self.sessions.heard(session, timeout_ms, now.mono);
                }
            }
            FromLearner::Revalidate { session, timeout_ms } => {
                let who = Stranger::Learner(link, timeout_ms);
                // The learner tells its questions of one session apart by their order alone.
                let waits = |r: &PendingRefusal| {
                    r.session == session && matches!(r.who, Stranger::Learner(l, _) if l == link)
                };
                if self.sessions.get(session).is_none() || self.refusals.iter().any(waits) {
                    return self.place_refusal(now, who, session, clients);
                }
                self.revalidate_for(now, link, session, timeout_ms, clients);
            }
            FromLearner::Request { session, cxid, op, body, auth } => {
                self.handle_request(now, link, session, cxid, op, body, auth);
            }
            FromLearner::Info { .. } | FromLearner::AckEpoch { .. } | FromLearner::Ack { .. } => {}
            FromLearner::Digest { .. } => {}
        }
    }

    /// The session is used through the learner on `link`. Should its client come back to this server, nothing that is
    /// still read from the connection that it has left may come behind what it asks for then.
    fn move_to(&mut self, session: SessionId, link: LinkId, clients: &dyn Clients) {
        if let Some(old) = self.sessions.get_mut(session).and_then(|s| s.conn.take()) {
            clients.close(old, CloseReason::Moved);
        }
        self.sessions.set_owner(session, Some(link));
    }

    /// The learner is gone: its sessions are nobody's until their clients come back.
    pub(crate) fn forget_learner(&mut self, link: LinkId) {
        self.sessions.forget_owner(link);
        self.syncs.retain(|s| !matches!(s.who, Syncer::Learner(l) if l == link));
        self.refusals.retain(|r| !matches!(r.who, Stranger::Learner(l, _) if l == link));
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one packet")]
    fn handle_request(
        &mut self,
        now: Now,
        link: LinkId,
        session: SessionId,
        cxid: Xid,
        op: i32,
        body: &[u8],
        auth: AuthIds<'_>,
    ) {
        let Some(op) = OpCode::from_wire(op) else {
            return self.propose_error(now, session, cxid, Code::Unimplemented);
        };
        if self.zab.next_zxid().is_none() {
            // Leadership is being handed over: nothing more is answered, so that nothing is answered out of turn. The
            // learner's clients come back under the next leader.
            return;
        }
        if op == OpCode::Sync {
            let question = self.zab.confirm(now.mono);
            let who = Syncer::Learner(link);
            self.syncs.push_back(PendingSync { after: self.zab.proposed(), question, who });
            return;
        }
        let mut r = Reader::new(body);
        let decoded = match op {
            OpCode::CreateSession => r.i32().map(|timeout_ms| WriteOp::CreateSession { timeout_ms }).ok(),
            _ => WriteOp::decode(op, &mut r).and_then(Result::ok),
        };
        // Always under a zxid of its own: one that is used twice would stop the ensemble.
        let Some(write) = decoded else {
            let code = if op == OpCode::Check { Code::Unimplemented } else { Code::MarshallingError };
            return self.propose_error(now, session, cxid, code);
        };
        if op != OpCode::CreateSession && !mutant::is(Mutant::SessionNeverMoves) {
            match self.sessions.get(session) {
                Some(s) if s.conn.is_some() => {
                    return self.propose_error(now, session, cxid, Code::SessionMoved);
                }
                Some(_) => match self.sessions.owner(session) {
                    Some(owner) if owner != link => {
                        return self.propose_error(now, session, cxid, Code::SessionMoved);
                    }
                    Some(_) => {}
                    None => self.sessions.set_owner(session, Some(link)),
                },
                None => {}
            }
        }
        if op == OpCode::CloseSession
            && let Some(s) = self.sessions.get_mut(session)
        {
            s.closing = true;
        }
        let identity =
            if auth.is_null() { self.own.clone() } else { Arc::new(Identity::new(auth.ids().collect())) };
        let standing = self.standing_of_learners(session);
        let asked = Asked { origin: Origin::Server, session, standing, cxid, identity: &identity };
        self.propose(now, asked, &write);
        if let WriteOp::CreateSession { timeout_ms } = write
            && self.sessions.get(session).is_none()
        {
            // From now on, not from when it is applied: an upgraded session may come back before that.
            self.sessions.insert(session, timeout_ms, Reach::Global, None, now.mono);
            self.sessions.set_owner(session, Some(link));
        }
    }
}
