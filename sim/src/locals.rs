//! Which sessions of a history only one server knew, and what must hold of these: nothing of them is logged until a server
//! that may do so makes one global, because it wants an ephemeral; and what a server without a quorum opens is never logged.

use crate::history::{Call, History, Seen};
use crate::op::Op;
use crate::time::Time;
use node::LocalSessions;
use proto::Code;
use proto::txn::{Record, Txn};
use std::collections::HashMap;

/// Who knew a session when it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// Every server: a txn had opened it.
    Global,
    /// Its server.
    Local,
    /// Its server, which had no quorum.
    ReadOnly,
}

/// The sessions that clients were given.
pub struct Locals {
    allowed: LocalSessions,
    opened: HashMap<i64, Opened>,
    /// When the first request was sent that makes a session global if it is local.
    demanded: HashMap<i64, Time>,
    /// When the first such request was answered.
    shown: HashMap<i64, Time>,
    /// When the txn that opens a session, or makes it global, was applied first.
    created: HashMap<i64, Time>,
}

impl Locals {
    /// Those of a history, where new sessions are made as `allowed` says. `created`: each session that a txn has opened, with
    /// the time.
    pub fn new(
        history: &History,
        allowed: LocalSessions,
        created: HashMap<i64, Time>,
    ) -> Result<Locals, String> {
        let mut opened = HashMap::new();
        for seen in history.seen.iter().flatten() {
            let Seen::Connected { session, at, resumed: false, read_only, .. } = seen else { continue };
            let how = match created.get(session) {
                _ if *read_only => Opened::ReadOnly,
                Some(created) if created <= at => Opened::Global,
                _ => Opened::Local,
            };
            if (how == Opened::Local) != (allowed != LocalSessions::Off) && how != Opened::ReadOnly {
                return Err(format!(
                    "the session {session:#x} was opened {how:?}, with local sessions {allowed:?}"
                ));
            }
            opened.insert(*session, how);
        }
        let (mut demanded, mut shown) = (HashMap::new(), HashMap::new());
        let first = |times: &mut HashMap<i64, Time>, session, at: Time| {
            let time = times.entry(session).or_insert(at);
            *time = at.min(*time);
        };
        for call in history.calls.iter().filter(|c| c.op.wants_ephemeral() && !c.read_only) {
            first(&mut demanded, call.session, call.sent);
            if let Some(reply) = &call.reply {
                first(&mut shown, call.session, reply.at);
            }
        }
        Ok(Locals { allowed, opened, demanded, shown, created })
    }

    /// The sessions that were local when they were opened.
    pub fn opened_local(&self) -> impl Iterator<Item = i64> {
        self.opened.iter().filter(|(_, how)| **how == Opened::Local).map(|(&session, _)| session)
    }

    /// Whether a txn has opened it, or made it global.
    pub fn was_global(&self, session: i64) -> bool {
        self.created.contains_key(&session)
    }

    /// A txn opens a session that was unknown, at the time `at`.
    pub fn check_create(&self, session: i64, at: Time) -> Result<(), String> {
        let demanded = self.demanded.get(&session).is_some_and(|&sent| sent <= at);
        match (self.opened.get(&session), self.allowed) {
            (Some(Opened::ReadOnly), _) => {
                Err(format!("the session {session:#x} of a server without a quorum became global"))
            }
            (_, LocalSessions::Off) => Ok(()),
            (_, LocalSessions::Upgradable) if demanded => Ok(()),
            (_, allowed) => Err(format!(
                "the local session {session:#x} became global though nobody asked for it, with local sessions {allowed:?}"
            )),
        }
    }

    /// A request of a client was proposed.
    pub fn check_proposed(&self, call: &Call) -> Result<(), String> {
        if call.read_only || self.opened.get(&call.session) == Some(&Opened::ReadOnly) {
            return Err(format!(
                "{:?} of session {:#x} was asked of a server without a quorum, and was proposed",
                call.op, call.session
            ));
        }
        Ok(())
    }

    /// A request was answered as done that no txn has done.
    pub fn may_be_done_without(&self, call: &Call) -> bool {
        // Only its server knew the session.
        call.op == Op::Close
            && !self.was_global(call.session)
            && matches!(self.opened.get(&call.session), Some(Opened::Local | Opened::ReadOnly))
    }

    /// A request was refused with the code of a full log and of a server without a quorum.
    pub fn check_refused(&self, call: &Call) -> Result<(), String> {
        // A session may count as global from the first request on that wants it to.
        let is_local = self.opened.get(&call.session) == Some(&Opened::Local)
            && (self.allowed == LocalSessions::On || !self.demanded.contains_key(&call.session));
        if call.op == Op::Close && is_local && !call.read_only {
            return Err(format!(
                "the end of the local session {:#x} needs no log, and was refused",
                call.session
            ));
        }
        Ok(())
    }

    /// A session that no txn has closed was said to be gone at `at`.
    pub fn may_be_gone(&self, session: i64, at: Time, read_only: bool) -> bool {
        match self.opened.get(&session) {
            // A server without a quorum takes a session that is not in its state for a local one, as Apache's.
            _ if read_only && self.allowed != LocalSessions::Off => true,
            Some(Opened::ReadOnly) => true,
            Some(Opened::Local) => {
                !self.was_global(session) || self.shown.get(&session).is_none_or(|&shown| shown > at)
            }
            Some(Opened::Global) | None => false,
        }
    }
}

/// What a failed request of a local session says that its ephemeral failed with.
pub fn refusal(txn: &Txn<'_>) -> Code {
    let is_it =
        |txn: &Txn<'_>| matches!(txn, Txn::Error { code } if *code == Code::EphemeralOnLocalSession.wire());
    let any = match txn {
        Txn::Multi(all) => all.iter().any(is_it),
        one => is_it(one),
    };
    if any { Code::EphemeralOnLocalSession } else { Code::SessionExpired }
}

/// Whether a request has failed because its session was unknown, though it wanted no ephemeral.
pub fn came_too_late(op: &Op, txn: &Txn<'_>) -> bool {
    let expired = |txn: &Txn<'_>| matches!(txn, Txn::Error { code } if *code == Code::SessionExpired.wire());
    match (op, txn) {
        (Op::Multi(ops), Txn::Multi(txns)) => {
            txns.first().is_some_and(expired) && !ops.first().is_some_and(Op::wants_ephemeral)
        }
        (op, txn) => expired(txn) && !op.wants_ephemeral(),
    }
}

/// When each session was opened, or made global.
pub fn created<'a>(truth: impl Iterator<Item = (&'a [u8], Time)>) -> HashMap<i64, Time> {
    let mut created = HashMap::new();
    for (record, at) in truth {
        if let Ok(Record { header, txn: Txn::CreateSession { .. }, .. }) = Record::decode(record) {
            created.entry(header.session.0).or_insert(at);
        }
    }
    created
}
