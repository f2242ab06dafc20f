//! The learner's pipeline: what its clients ask is forwarded, and answered when the leader's records are applied here.
//!
//! Every request that is forwarded becomes exactly one record, and the leader takes the requests of one learner in
//! their order. So the oldest forwarded request waits for the next record of its session and number.

use crate::local::Effect;
use crate::machine::{Clients, CloseReason, Handshake, Node, Now, Origin};
use crate::sessions::Reach;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use engine::Identity;
use proto::client::{OpCode, WriteOp, WriteReply};
use proto::jute::{Put, Reader};
use proto::mutant::{self, Mutant};
use proto::peer::{AuthIds, FromLeader, FromLearner};
use proto::txn::{TxnHeader, kind};
use proto::{Code, ConnId, LinkId, SessionId, Xid, Zxid};
use zab::Differs;

/// A request that is with the leader.
#[derive(Debug)]
struct Forwarded {
    session: SessionId,
    cxid: Xid,
    op: OpCode,
    bytes: usize,
    origin: Origin,
    /// Its place among everything that was asked.
    place: u64,
}

/// A sync that is with the leader, or is answered and waits for what was committed before.
#[derive(Debug)]
struct ForwardedSync {
    conn: ConnId,
    xid: Xid,
    path: Box<str>,
    /// What has to be applied; `None`: not answered yet.
    after: Option<Zxid>,
    /// Its place among everything that was asked.
    place: u64,
}

/// The end of a local session that its client has asked for.
#[derive(Debug)]
struct LocalClose {
    session: SessionId,
    xid: Xid,
    /// Its place among everything that was asked.
    place: u64,
}

/// What a learner has asked its leader.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    requests: VecDeque<Forwarded>,
    syncs: VecDeque<ForwardedSync>,
    /// Who waits for the answer whether a session lives, oldest first, with the time-out asked for.
    revalidations: BTreeMap<SessionId, VecDeque<(ConnId, i32)>>,
    /// Local sessions whose clients close them behind requests that are with the leader: one for each connection, which
    /// asks for nothing more.
    closes: BTreeMap<ConnId, LocalClose>,
    /// Of these connections, those that something was answered to since.
    answered: Vec<ConnId>,
    /// Sessions whose connection is gone since the last ping: their last sign of life is still to be told.
    gone: BTreeMap<SessionId, i32>,
    /// The last ping was answered then, in ms; what was touched before was told.
    told_ms: u64,
    /// How much was asked.
    places: u64,
}

impl Asked {
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    fn place(&mut self) -> u64 {
        self.places += 1;
        self.places
    }

    /// Whether anything that `conn` has asked before `place` is still to be answered.
    fn is_behind(&self, conn: ConnId, place: u64) -> bool {
        self.requests
            .iter()
            .any(|f| f.place < place && matches!(f.origin, Origin::Client { conn: c, .. } if c == conn))
            || self.syncs.iter().any(|s| s.place < place && s.conn == conn)
    }

    /// Something that `conn` has asked is answered, or never will be.
    fn is_answered(&mut self, conn: ConnId) {
        if !self.closes.is_empty() && self.closes.contains_key(&conn) {
            self.answered.push(conn);
        }
    }

    pub fn last_touch(&mut self, session: SessionId, timeout_ms: i32) {
        self.gone.insert(session, timeout_ms);
    }

    pub fn disconnected(&mut self, conn: ConnId) {
        for waiting in self.revalidations.values_mut() {
            for (c, _) in waiting.iter_mut().filter(|(c, _)| *c == conn) {
                // The answer still comes: its place stays.
                *c = GONE;
            }
        }
    }
}

/// A connection that is none.
const GONE: ConnId = ConnId(u64::MAX);

impl Node {
    fn forward(&mut self, packet: &FromLearner<'_>) {
        if let Some(link) = self.zab.leader_link() {
            let mut bytes = Vec::new();
            packet.encode(&mut bytes);
            self.zab.send(link, bytes);
        }
    }

    pub(crate) fn forward_new_session(&mut self, conn: ConnId, session: SessionId, timeout_ms: i32) {
        self.forward_create(session, timeout_ms, Origin::Handshake { conn });
    }

    fn forward_create(&mut self, session: SessionId, timeout_ms: i32, origin: Origin) {
        let op = OpCode::CreateSession;
        let body = timeout_ms.to_be_bytes();
        self.forward(&FromLearner::Request {
            session,
            cxid: Xid(0),
            op: op.wire(),
            body: &body,
            auth: AuthIds::NULL,
        });
        let place = self.asked.place();
        self.asked.requests.push_back(Forwarded { session, cxid: Xid(0), op, bytes: 0, origin, place });
    }

    pub(crate) fn revalidate(
        &mut self,
        conn: ConnId,
        session: SessionId,
        timeout_ms: i32,
        clients: &dyn Clients,
    ) {
        // The client has left its old connection, if there is one. What is still read from it would reach the leader behind
        // this packet, and count as sent by whoever is at the new one.
        if let Some(old) = self.sessions.get(session).and_then(|s| s.conn) {
            self.handle_disconnected(old, Some(session));
            clients.close(old, CloseReason::Replaced);
        }
        self.forward(&FromLearner::Revalidate { session, timeout_ms });
        self.asked.revalidations.entry(session).or_default().push_back((conn, timeout_ms));
    }

    pub(crate) fn forward_write(
        &mut self,
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        identity: &Identity,
        op: OpCode,
        body: &[u8],
    ) {
        let mut ids = Vec::new();
        AuthIds::encode(identity.ids().iter(), &mut ids);
        let auth = AuthIds::decode(&mut Reader::new(&ids)).expect("it was just encoded");
        // A leader must never get a body that it can't decode: Apache's would use a zxid twice and stand still. A multi is
        // the exception: it fails as a whole, and properly.
        assert!(
            matches!(WriteOp::decode(op, &mut Reader::new(body)), Some(Ok(_))),
            "the connection decoded this body before it took a place in the gate"
        );
        let refusal = match self.effect_on_local(session, op, body) {
            Effect::None => None,
            Effect::Upgraded(timeout_ms) => {
                self.forward_create(session, timeout_ms, Origin::Server);
                None
            }
            // The leader refuses it, not knowing why it must; in a multi what it says stands.
            Effect::Refused => (op != OpCode::Multi).then_some(Code::EphemeralOnLocalSession),
        };
        let body = if op == OpCode::CloseSession { &[] } else { body };
        self.forward(&FromLearner::Request { session, cxid: xid, op: op.wire(), body, auth });
        self.in_flight_bytes += body.len();
        let (origin, place) = (Origin::Client { conn, xid, refusal }, self.asked.place());
        self.asked.requests.push_back(Forwarded { session, cxid: xid, op, bytes: body.len(), origin, place });
    }

    pub(crate) fn forward_sync(&mut self, conn: ConnId, session: SessionId, xid: Xid, path: &str) {
        let mut body = Vec::new();
        body.put_str(path);
        self.forward(&FromLearner::Request {
            session,
            cxid: xid,
            op: OpCode::Sync.wire(),
            body: &body,
            auth: AuthIds::NULL,
        });
        let place = self.asked.place();
        self.asked.syncs.push_back(ForwardedSync { conn, xid, path: path.into(), after: None, place });
        // The leader's answer may come behind records of later requests.
        self.held.entry(conn).or_default();
    }

    pub(crate) fn handle_leader(
        &mut self,
        now: Now,
        link: LinkId,
        packet: FromLeader<'_>,
        clients: &dyn Clients,
    ) {
        let serves = self.zab.leader_link() == Some(link);
        match &packet {
            FromLeader::Ping { zxid } if serves => self.answer_ping(now, *zxid),
            FromLeader::Sync if serves => {
                let after = self.zab.committed();
                if let Some(oldest) = self.asked.syncs.iter_mut().find(|s| s.after.is_none()) {
                    oldest.after = Some(after);
                }
            }
            &FromLeader::Digest { zxid } if self.zab.is_link_to_leader(link) => self.want_digest(zxid),
            &FromLeader::Verdict { zxid, wanted, found, by_majority } if serves => {
                self.judged(now, Differs { zxid, wanted, found, by_majority });
            }
            FromLeader::Revalidate { session, valid } if serves => {
                self.revalidated(now, *session, *valid, clients);
            }
            // What is logged must be applicable.
            FromLeader::Proposal { record, .. }
            | FromLeader::Inform { record, .. }
            | FromLeader::InformAndActivate { record, .. }
                if proto::txn::Record::decode(record).is_err() =>
            {
                return self.zab.close(now.mono, link, "the leader sent a record that can't be decoded");
            }
            _ => {}
        }
        self.zab.from_leader(now.mono, link, packet);
    }

    /// The sessions that were heard of since the last ping. What has just been created or has moved here is among them.
    fn answer_ping(&mut self, now: Now, zxid: Zxid) {
        let since = self.asked.told_ms;
        let mut touched = self.sessions.touched_since(since);
        touched.extend(core::mem::take(&mut self.asked.gone));
        if mutant::is(Mutant::TouchesNotReported) {
            touched.clear();
        }
        self.asked.told_ms = now.mono.as_ms();
        if let Some(link) = self.zab.leader_link() {
            let mut packet = Vec::new();
            FromLearner::encode_ping(zxid, touched.into_iter(), &mut packet);
            self.zab.send(link, packet);
        }
    }

    fn revalidated(&mut self, now: Now, session: SessionId, valid: bool, clients: &dyn Clients) {
        let Some(waiting) = self.asked.revalidations.get_mut(&session) else { return };
        let Some((conn, timeout_ms)) = waiting.pop_front() else { return };
        if waiting.is_empty() {
            self.asked.revalidations.remove(&session);
        }
        if conn == GONE {
            return;
        }
        if !valid {
            // To a leader a session is gone when its end is proposed. That may be lost with the leader, and what a client is
            // told of the end of its session is for ever: only what is applied here says so.
            if self.tree.session_timeout(session).is_some() {
                return clients.close(conn, CloseReason::Undecided);
            }
            return clients.connected(conn, Handshake::Refused { read_only: false });
        }
        if self.sessions.get(session).is_none() {
            self.sessions.insert(session, timeout_ms, Reach::Global, None, now.mono);
        }
        self.attach(now, conn, session, timeout_ms, clients);
    }

    /// Whose request has become this record.
    pub(crate) fn answered(&mut self, record: &[u8], clients: &dyn Clients) -> Origin {
        let Some(header) = TxnHeader::decode(&mut Reader::new(record)).ok() else { return Origin::Server };
        let is_it = |f: &Forwarded| {
            f.session == header.session
                && f.cxid == header.cxid
                && (header.kind == kind::ERROR || is_of(f.op, header.kind))
        };
        let Some(place) = self.asked.requests.iter().take(LOOK_AHEAD).position(is_it) else {
            return Origin::Server;
        };
        // What stands before it was lost by the leader: nobody will ever answer it.
        for _ in 0..place {
            if let Some(lost) = self.asked.requests.pop_front() {
                self.in_flight_bytes -= lost.bytes;
                match lost.origin {
                    Origin::Client { conn, .. } | Origin::Handshake { conn } => {
                        self.asked.is_answered(conn);
                        clients.close(conn, CloseReason::NotServing);
                    }
                    // The upgrade of a local session: nobody else knows it, so its client has to come again.
                    Origin::Server => {
                        if let Some(conn) = self.sessions.get(lost.session).and_then(|s| s.conn) {
                            clients.close(conn, CloseReason::NotServing);
                        }
                    }
                }
            }
        }
        let Some(found) = self.asked.requests.pop_front() else { return Origin::Server };
        self.in_flight_bytes -= found.bytes;
        if let Origin::Client { conn, .. } = found.origin {
            self.asked.is_answered(conn);
        }
        found.origin
    }

    /// Syncs that the leader has answered, and whose records are applied.
    pub(crate) fn release_forwarded_syncs(&mut self, now: Now, clients: &dyn Clients) {
        while let Some(sync) = self.asked.syncs.front()
            && sync.after.is_some_and(|after| after <= self.tree.applied())
            && let Some(done) = self.asked.syncs.pop_front()
        {
            // An answer never overtakes that of an earlier request, should a leader have lost one.
            if self.asked.is_behind(done.conn, done.place) {
                clients.close(done.conn, CloseReason::NotServing);
            } else {
                clients.reply(done.conn, done.xid, self.tree.applied(), &WriteReply::Path(&done.path));
            }
            self.asked.is_answered(done.conn);
            self.release_held(now, done.conn, clients);
        }
        while let Some(conn) = self.asked.answered.pop() {
            if let Some(&LocalClose { session, xid, place }) = self.asked.closes.get(&conn)
                && !self.asked.is_behind(conn, place)
            {
                self.asked.closes.remove(&conn);
                self.end_local(conn, xid, session, clients);
            }
        }
    }

    /// The end of a local session behind what its client has asked before.
    pub(crate) fn close_behind_forwarded(
        &mut self,
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        clients: &dyn Clients,
    ) {
        let place = self.asked.place();
        if self.asked.is_behind(conn, place) {
            self.asked.closes.insert(conn, LocalClose { session, xid, place });
            return;
        }
        self.end_local(conn, xid, session, clients);
    }
}

/// How many forwarded requests are looked at for the one that a record answers. It is the first unless a leader has
/// lost some.
const LOOK_AHEAD: usize = 64;

/// Whether a request of `op` becomes a txn of type `kind`, if it does not fail.
fn is_of(op: OpCode, txn_kind: i32) -> bool {
    match op {
        OpCode::CreateSession => txn_kind == kind::CREATE_SESSION,
        OpCode::CloseSession => txn_kind == kind::CLOSE_SESSION,
        _ => txn_kind == op.wire(),
    }
}
