//! Sessions as the next request will see them.

use super::Standing;
use super::outstanding::Outstanding;
use crate::Tree;
use proto::{Code, SessionId, Zxid};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// What is known of sessions beyond the tree's table.
///
/// Only prepare opens and closes sessions, so one that was once found alive is alive until its close is
/// prepared, and the tree need not be asked again.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: HashMap<SessionId, Session, BuildHasherDefault<DefaultHasher>>,
    closing: VecDeque<(Zxid, SessionId)>,
    /// What to restore when the multi that is being prepared fails, newest last.
    undo: Vec<(SessionId, Session)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Session {
    /// The zxid that closes it: every request behind that one is refused.
    closing: Option<Zxid>,
    /// Encoded bytes of its ephemerals' paths as its closing txn will list them; `None` until they matter.
    ephemeral_bytes: Option<usize>,
    /// The last txn that made it an ephemeral.
    last_ephemeral: Zxid,
}

/// A session that may ask.
#[derive(Clone, Copy, Debug)]
pub(super) enum Open {
    Replicated(ReplicatedSession),
    Local { ephemeral: Code },
}

/// A session that the replicated state has: only [`Sessions::check`] makes one, and only one can own an ephemeral.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplicatedSession(SessionId);

impl Open {
    /// The session as the owner of an ephemeral.
    pub fn as_owner(self) -> Result<ReplicatedSession, Code> {
        match self {
            Open::Replicated(session) => Ok(session),
            Open::Local { ephemeral } => Err(ephemeral),
        }
    }
}

impl ReplicatedSession {
    /// Its id.
    pub fn id(self) -> SessionId {
        self.0
    }
}

/// The bytes that a path takes in a closing txn.
pub(super) fn listed_len(path: &str) -> usize {
    4 + path.len()
}

impl Sessions {
    /// The session is open.
    pub fn check(&mut self, tree: &Tree, id: SessionId, standing: Standing) -> Result<Open, Code> {
        match (self.known.get(&id), standing) {
            (Some(Session { closing: None, .. }), _) => Ok(Open::Replicated(ReplicatedSession(id))),
            (Some(_), _) => Err(Code::SessionExpired),
            (None, _) if tree.session_timeout(id).is_some() => {
                self.known.insert(id, Session::default());
                Ok(Open::Replicated(ReplicatedSession(id)))
            }
            (None, Standing::Vouched { ephemeral }) => Ok(Open::Local { ephemeral }),
            (None, Standing::Replicated) => Err(Code::SessionExpired),
        }
    }

    /// Opens a session. An id that is being closed can't be opened again: the two txns would cross.
    pub fn open(&mut self, id: SessionId) -> Result<(), Code> {
        match self.known.entry(id).or_default().closing {
            None => Ok(()),
            Some(_) => Err(Code::SessionExpired),
        }
    }

    /// Marks a session closed by `zxid`.
    pub fn close(&mut self, id: SessionId, zxid: Zxid) {
        self.known.entry(id).or_default().closing = Some(zxid);
        self.closing.push_back((zxid, id));
    }

    /// Forgets the sessions that `upto` and its predecessors closed: the tree lacks them now.
    pub fn applied(&mut self, upto: Zxid) {
        while let Some(&(zxid, id)) = self.closing.front().filter(|&&(zxid, _)| zxid <= upto) {
            self.closing.pop_front();
            if self.known.get(&id).is_some_and(|s| s.closing == Some(zxid)) {
                self.known.remove(&id);
            }
        }
    }

    /// The bytes of the session's ephemerals in its closing txn, with those in flight.
    pub fn ephemeral_bytes(&mut self, tree: &Tree, changes: &Outstanding, id: SessionId) -> usize {
        let session = self.known.entry(id).or_default();
        // Before the first count there is no creation in flight, only the deletions of older ephemerals.
        *session.ephemeral_bytes.get_or_insert_with(|| {
            let applied = tree.ephemerals_of(id);
            applied.iter().filter(|p| is_still(changes, p, id)).map(|p| listed_len(p)).sum()
        })
    }

    /// `zxid` makes `path` an ephemeral of the session, whose bytes have been asked for.
    pub fn gained(&mut self, ReplicatedSession(id): ReplicatedSession, path: &str, zxid: Zxid) {
        let session = self.known.entry(id).or_default();
        self.undo.push((id, *session));
        session.ephemeral_bytes = session.ephemeral_bytes.map(|n| n + listed_len(path));
        session.last_ephemeral = zxid;
    }

    /// `path` is no longer an ephemeral of the session.
    pub fn lost(&mut self, id: SessionId, path: &str) {
        if let Some(session) = self.known.get_mut(&id) {
            self.undo.push((id, *session));
            session.ephemeral_bytes = session.ephemeral_bytes.map(|n| n.saturating_sub(listed_len(path)));
        }
    }

    /// The changes so far stand.
    pub fn keep(&mut self) {
        self.undo.clear();
    }

    /// Undoes the changes since the last [`Sessions::keep`].
    pub fn roll_back(&mut self) {
        for (id, before) in self.undo.drain(..).rev() {
            self.known.insert(id, before);
        }
    }

    /// The ephemerals of the session: the applied ones and those in flight, without those whose deletion is in
    /// flight. Sorted, so that a run can be repeated. `applied`: everything up to there is in the tree.
    pub fn ephemerals(
        &self,
        tree: &Tree,
        changes: &Outstanding,
        id: SessionId,
        applied: Zxid,
    ) -> Vec<Box<str>> {
        let mut paths = tree.ephemerals_of(id);
        paths.retain(|p| is_still(changes, p, id));
        if self.known.get(&id).is_some_and(|s| s.last_ephemeral > applied) {
            let in_flight = changes.present().filter(|(_, node)| node.stat.ephemeral_owner == id.0);
            paths.extend(in_flight.map(|(path, _)| Box::from(path)));
        }
        paths.sort_unstable();
        paths.dedup();
        paths
    }
}

/// Nothing in flight takes `path` from the session.
fn is_still(changes: &Outstanding, path: &str, id: SessionId) -> bool {
    changes.get(path).is_none_or(|n| n.is_some_and(|n| n.stat.ephemeral_owner == id.0))
}
