//! Sessions that only this server knows: opened and ended without a txn. They come with `localSessionsEnabled`, and
//! they are all that a read-only server has.
//!
//! ```text
//!   handshake ──► Local ── first ephemeral: createSession ahead of it ──► Global
//!                   └── closeSession, its time-out, the end of the role ──► gone
//! ```
//! A local session can own nothing: `engine::Prep` makes owners only of sessions that the replicated state has.

use crate::limits;
use crate::machine::{Clients, CloseReason, Deferred, Handshake, Node, Now, Origin, PendingSync, Syncer};
use crate::sessions::Reach;
use alloc::sync::Arc;
use engine::Standing;
use proto::client::{ConnectRequest, CreateMode, CreateOp, MultiOp, OpCode, WriteOp, WriteReply};
use proto::jute::Reader;
use proto::session::password;
use proto::{Code, ConnId, SessionId, Xid, Zxid};
use zab::Service;

/// What becomes of new sessions: `localSessionsEnabled` and `localSessionsUpgradingEnabled`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LocalSessions {
    /// They are global.
    #[default]
    Off,
    /// They are local, for good: they get no ephemerals.
    On,
    /// They are local until their first ephemeral.
    Upgradable,
}

/// The requests that make an ephemeral of a local session's client, as Apache looks for them: create and create2, alone
/// or in a multi up to the first operation whose flags are none.
fn wants_ephemeral(op: &WriteOp<'_>) -> bool {
    let mode = |c: &proto::client::Create<'_>| match c.op {
        CreateOp::Create | CreateOp::Create2 => Some(CreateMode::from_flags(c.flags)),
        CreateOp::Container | CreateOp::Ttl => None,
    };
    match op {
        WriteOp::Create(c) => mode(c).flatten().is_some_and(CreateMode::is_ephemeral),
        WriteOp::Multi(ops) => {
            let modes = ops.iter().filter_map(|op| if let MultiOp::Create(c) = op { mode(c) } else { None });
            modes.map_while(|m| m).any(CreateMode::is_ephemeral)
        }
        _ => false,
    }
}

/// What a request means for the local session that it comes from.
pub(crate) enum Effect {
    /// Nothing: the session is not local, or the request makes no ephemeral.
    None,
    /// The session is global from now on; the others are to be told of it with this time-out in ms, ahead of the request.
    Upgraded(i32),
    /// The request fails for being a local session's.
    Refused,
}

impl Node {
    /// Whether a new session is local.
    pub(crate) fn opens_local(&self) -> bool {
        self.service == Service::ReadOnly || self.config.local_sessions != LocalSessions::Off
    }

    /// An id that no session known here has.
    pub(crate) fn new_session(&mut self) -> SessionId {
        // A wall clock that was set back before this start could lead to the ids of sessions that live on.
        while self.tree.session_timeout(self.next_session).is_some()
            || self.sessions.get(self.next_session).is_some()
        {
            self.next_session = proto::session::next_session_id(self.next_session);
        }
        let session = self.next_session;
        self.next_session = proto::session::next_session_id(session);
        session
    }

    pub(crate) fn open_local(&mut self, now: Now, conn: ConnId, timeout_ms: i32, clients: &dyn Clients) {
        if self.sessions.not_global() >= limits::LOCAL_SESSIONS {
            return clients.close(conn, CloseReason::NotServing);
        }
        let session = self.new_session();
        let reach = Reach::Local { opened_ms: timeout_ms };
        let touch = self.sessions.insert(session, timeout_ms, reach, Some(conn), now.mono);
        clients.connected(conn, self.accepted(session, timeout_ms, touch));
    }

    pub(crate) fn accepted(
        &self,
        session: SessionId,
        timeout_ms: i32,
        touch: Arc<crate::sessions::Touch>,
    ) -> Handshake {
        Handshake::Accepted { session, timeout_ms, touch, read_only: self.service == Service::ReadOnly }
    }

    /// A client comes back to a read-only server.
    pub(crate) fn resume_read_only(
        &mut self,
        now: Now,
        conn: ConnId,
        request: &ConnectRequest<'_>,
        timeout_ms: i32,
        clients: &dyn Clients,
    ) {
        let session = request.session;
        if self.tree.session_timeout(session).is_some() {
            // It lives with the quorum, which this server can't ask or tell.
            return clients.close(conn, CloseReason::NotServing);
        }
        if request.password != password(session) {
            return clients.connected(conn, Handshake::Refused { read_only: true });
        }
        match self.sessions.get(session) {
            Some(s) if !s.closing => {}
            // As Apache has it: with local sessions, what is not local and not known is over.
            None if self.config.local_sessions == LocalSessions::Off
                && self.sessions.not_global() < limits::LOCAL_SESSIONS =>
            {
                self.sessions.insert(session, timeout_ms, Reach::Guest, None, now.mono);
            }
            Some(_) | None => return clients.connected(conn, Handshake::Refused { read_only: true }),
        }
        self.attach(now, conn, session, timeout_ms, clients);
    }

    /// A write that came to a read-only server.
    pub(crate) fn refuse_write(
        &mut self,
        conn: ConnId,
        session: SessionId,
        xid: Xid,
        op: OpCode,
        clients: &dyn Clients,
    ) {
        let is_local = matches!(self.sessions.reach(session), Some(Reach::Local { .. }));
        if op == OpCode::CloseSession && is_local {
            self.end_local(conn, xid, session, clients);
        } else {
            clients.reply(conn, xid, self.tree.applied(), &WriteReply::Error(Code::NotReadOnly));
        }
    }

    /// What `op` means for `session`, if that is local.
    pub(crate) fn effect_on_local(&mut self, session: SessionId, op: OpCode, body: &[u8]) -> Effect {
        if self.sessions.not_global() == 0
            || !matches!(self.sessions.reach(session), Some(Reach::Local { .. }))
            || !WriteOp::decode(op, &mut Reader::new(body))
                .and_then(Result::ok)
                .is_some_and(|op| wants_ephemeral(&op))
        {
            return Effect::None;
        }
        match self.config.local_sessions {
            LocalSessions::Upgradable => {
                self.sessions.upgrade(session).map_or(Effect::None, Effect::Upgraded)
            }
            LocalSessions::On | LocalSessions::Off => Effect::Refused,
        }
    }

    /// What this leader knows of a session of its own client that asks for `op`.
    pub(crate) fn standing_of_own(&self, session: SessionId, op: &WriteOp<'_>) -> Standing {
        if self.sessions.not_global() == 0
            || !matches!(self.sessions.reach(session), Some(Reach::Local { .. }))
        {
            return Standing::Replicated;
        }
        let is_refused = wants_ephemeral(op);
        let ephemeral = if is_refused { Code::EphemeralOnLocalSession } else { Code::SessionExpired };
        Standing::Vouched { ephemeral }
    }

    /// What this leader knows of a session that a learner asks for: it is local there unless it is known, or was, or its
    /// id says that it was made here.
    pub(crate) fn standing_of_learners(&self, session: SessionId) -> Standing {
        let made_here = (session.0 ^ (self.config.me.0 << 56)) >> 56 == 0;
        if self.config.local_sessions == LocalSessions::Off || made_here || self.sessions.has_ended(session) {
            return Standing::Replicated;
        }
        Standing::Vouched { ephemeral: Code::SessionExpired }
    }

    /// The client of a local session closes it: answered behind everything that it has asked before.
    pub(crate) fn close_local(&mut self, conn: ConnId, session: SessionId, xid: Xid, clients: &dyn Clients) {
        let Some(s) = self.sessions.get_mut(session) else {
            unreachable!("the caller has looked the session up")
        };
        s.closing = true;
        if self.prep.is_none() {
            return self.close_behind_forwarded(conn, session, xid, clients);
        }
        if !self.deferred.is_empty() {
            return self.deferred.push_back(Deferred::CloseLocal { conn, session, xid });
        }
        self.place_close(conn, session, xid, clients);
    }

    /// Of a leader: behind everything that its client has asked before, and waiting for nobody else: what others have asked
    /// may wait for room in a full log.
    pub(crate) fn place_close(&mut self, conn: ConnId, session: SessionId, xid: Xid, clients: &dyn Clients) {
        let writes = self.origins.iter().any(|o| matches!(o, Origin::Client { conn: c, .. } if *c == conn));
        let syncs =
            || self.syncs.iter().any(|s| matches!(s.who, Syncer::Client { conn: c, .. } if c == conn));
        if !writes && !syncs() {
            return self.end_local(conn, xid, session, clients);
        }
        let after: Zxid = self.zab.proposed();
        let who = Syncer::Closing { conn, session, xid };
        // It asks no quorum anything.
        self.syncs.push_back(PendingSync { after, question: 0, who });
    }

    /// A local session ends, and its client is told.
    pub(crate) fn end_local(&mut self, conn: ConnId, xid: Xid, session: SessionId, clients: &dyn Clients) {
        self.sessions.remove(session);
        clients.reply(conn, xid, self.tree.applied(), &WriteReply::Empty);
        clients.close(conn, CloseReason::SessionClosed);
    }

    /// A session that only this server knows has not been heard of for its time-out.
    pub(crate) fn expire_local(&mut self, session: SessionId, clients: &dyn Clients) {
        if let Some(conn) = self.sessions.remove(session).and_then(|s| s.conn) {
            clients.close(conn, CloseReason::SessionClosed);
        }
    }

    /// Sessions that only this server knows.
    pub fn local_sessions(&self) -> usize {
        self.sessions.not_global()
    }
}
