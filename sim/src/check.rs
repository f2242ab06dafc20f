//! Judges the history of a run against the one sequence of transactions that was committed.
//!
//! Every reply bears a zxid, so the order is given and nothing has to be searched: the transactions are replayed over the
//! [`Model`], each write must have had the result that the model gives at its place, each read must show the state at
//! its zxid, and then the order in real time, within sessions and of watches is compared with what clients saw. The
//! time it takes is linear in the length of the run.

use crate::coverage::Point;
use crate::history::{Call, History, Seen};
use crate::locals::{self, Locals};
use crate::model::{Answer, Ask, Model};
use crate::op::Op;
use crate::time::{MS, Time};
use node::LocalSessions;
use proto::client::{EventType, WriteReply};
use proto::jute::{Put, Reader};
use proto::txn::{Record, Txn};
use proto::{Code, Xid, Zxid};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A committed transaction.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its zxid.
    pub zxid: i64,
    /// Its bytes, as logged and proposed.
    pub record: Arc<[u8]>,
    /// When the first server applied it.
    pub at: Time,
}

/// How much earlier than its time-out a session may end, as seen with perfect clocks.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    /// Parts in a thousand by which the clock of a server may run too fast.
    pub fast: u64,
    /// ms for which what a server has heard may be unknown to the one that expires. A server that stands still
    /// does not find out meanwhile that nobody listens to it: that time does not count.
    pub unheard_ms: u64,
}

type Verdict<T> = Result<T, String>;

/// What was found right.
pub struct Judged {
    /// The final state.
    pub model: Model,
    /// Sessions that a txn has opened, or made global.
    pub global: HashSet<i64>,
    /// What local sessions went through, each time.
    pub met: Vec<Point>,
}

/// Judges everything. `local` is what servers make of new sessions.
pub fn check(history: &History, truth: &[Entry], expiry: Expiry, local: LocalSessions) -> Verdict<Judged> {
    let mut replay = Replay::new(history, truth, local)?;
    replay.at_zxid(0, true)?;
    for entry in truth {
        replay.entry(entry)?;
    }
    replay.all_seen()?;
    sessions_in_order(history)?;
    expiry_not_early(history, &replay, expiry)?;
    for seen in &history.seen {
        watches(history, seen, &replay)?;
    }
    Ok(Judged { model: replay.model, global: replay.global, met: replay.met })
}

struct Replay<'a> {
    history: &'a History,
    model: Model,
    /// Writes by session and xid: the call, and the zxid that it took.
    writes: HashMap<(i64, i32), (usize, Option<i64>)>,
    /// Reads and setWatches with their replies, by zxid, latest first.
    reads: Vec<(i64, usize)>,
    /// What watches of a path hear of, in order.
    changes: HashMap<String, Vec<(i64, EventType)>>,
    /// What a setWatches had to tell at once.
    caught_up: HashMap<usize, Vec<(i32, String)>>,
    /// The last xid of each session in the committed order.
    last_xid: HashMap<i64, i32>,
    /// Sessions that were closed: when, and by whom.
    closed: HashMap<i64, (Time, bool)>,
    locals: Locals,
    /// Sessions that a txn has opened, or made global.
    global: HashSet<i64>,
    met: Vec<Point>,
}

impl<'a> Replay<'a> {
    fn new(history: &'a History, truth: &[Entry], local: LocalSessions) -> Verdict<Replay<'a>> {
        let created = locals::created(truth.iter().map(|e| (&*e.record, e.at)));
        let locals = Locals::new(history, local, created)?;
        let mut writes = HashMap::new();
        let mut reads = Vec::new();
        for (i, call) in history.calls.iter().enumerate() {
            if call.op.is_write() {
                writes.insert((call.session, call.xid), (i, None));
            } else if let Some(reply) = &call.reply
                && (call.op.is_read() || matches!(call.op, Op::SetWatches { .. }))
            {
                reads.push((reply.zxid, i));
            }
        }
        reads.sort_unstable_by_key(|&(zxid, i)| std::cmp::Reverse((zxid, i)));
        let model = Model::with_local(locals.opened_local());
        let met = vec![Point::LocalOpened; model.local.len()];
        Ok(Replay {
            history,
            model,
            writes,
            reads,
            changes: HashMap::new(),
            caught_up: HashMap::new(),
            last_xid: HashMap::new(),
            closed: HashMap::new(),
            locals,
            global: HashSet::new(),
            met,
        })
    }

    fn entry(&mut self, entry: &Entry) -> Verdict<()> {
        let zxid = entry.zxid;
        self.at_zxid(zxid - 1, false)?;
        let record =
            Record::decode(&entry.record).map_err(|e| format!("the txn {zxid:#x} is no txn: {e}"))?;
        let header = record.header;
        let ask = Ask { session: header.session.0, zxid, time: header.time.0 };
        match &record.txn {
            Txn::CreateSession { timeout_ms } => {
                self.locals.check_create(ask.session, entry.at)?;
                self.global.insert(ask.session);
                if self.model.local.contains(&ask.session) {
                    self.met.push(Point::LocalUpgraded);
                }
                self.model.create_session(ask, *timeout_ms);
            }
            Txn::CloseSession { .. } if header.cxid == Xid(0) => {
                self.model.close_session(ask);
                self.closed.insert(ask.session, (entry.at, true));
            }
            Txn::Delete { path, container: true } => {
                let done = self.model.delete_container(ask, path);
                done.map_err(|code| format!("the removal of {path} at {zxid:#x} had to fail with {code:?}"))?;
            }
            // A request of the server itself that failed.
            Txn::Error { .. } if header.cxid == Xid(0) => {}
            txn => self.write(entry, ask, header.cxid.0, txn)?,
        }
        for change in self.model.take_changes() {
            self.changes.entry(change.path).or_default().push((zxid, change.event));
        }
        self.at_zxid(zxid, true)
    }

    fn write(&mut self, entry: &Entry, ask: Ask, xid: i32, txn: &Txn<'_>) -> Verdict<()> {
        let zxid = entry.zxid;
        let Some((index, taken)) = self.writes.get_mut(&(ask.session, xid)) else {
            return Err(format!(
                "Integrity: nobody asked for the txn {zxid:#x}: {txn:?} of {:#x}",
                ask.session
            ));
        };
        if let Some(before) = taken.replace(zxid) {
            return Err(format!("one request took two zxids, {before:#x} and {zxid:#x}"));
        }
        let call = &self.history.calls[*index];
        self.locals.check_proposed(call)?;
        if let Txn::Error { code } = txn
            && *code == Code::SessionMoved.wire()
        {
            // Sent through a server from which the session had moved away: it is refused, whenever it comes, and that
            // connection is closed.
            return match &call.reply {
                Some(reply) => Err(format!("{:?} was refused at {zxid:#x} and answered {reply:?}", call.op)),
                None => Ok(()),
            };
        }
        // A connection that the client has left is read late: what it asked for there comes when the session has ended, and
        // changes nothing any more.
        let local = self.model.local.contains(&ask.session);
        let ended = !local && !self.model.sessions.contains_key(&ask.session);
        if let Some(last) = self.last_xid.insert(ask.session, xid)
            && last >= xid
            && !ended
        {
            return Err(format!("session order: request {xid} of {:#x} came after {last}", ask.session));
        }
        if zxid <= call.known {
            return Err(format!(
                "linearizable writes: {:?} took {zxid:#x}, but was sent after {:#x} had been acknowledged",
                call.op, call.known
            ));
        }
        if local && locals::came_too_late(&call.op, txn) {
            // Its leader has ended the session, and nobody can be told.
            return match &call.reply {
                Some(reply) => Err(format!("{:?} of a local session was answered {reply:?}", call.op)),
                None => Ok(()),
            };
        }
        self.model.refusal = locals::refusal(txn);
        let mut answer = self.model.execute(ask, &call.op);
        if call.op == Op::Close {
            self.closed.insert(ask.session, (entry.at, false));
        }
        let failed = match txn {
            Txn::Error { code } => Some(*code),
            _ => None,
        };
        let wanted = if let Answer::Error(code) = &answer { Some(code.wire()) } else { None };
        if failed != wanted {
            return Err(format!(
                "{:?} at {zxid:#x} was logged as {txn:?}, and had to be {answer:?}",
                call.op
            ));
        }
        if local {
            self.met.push(if failed.is_none() { Point::LocalWrote } else { Point::LocalRefused });
            if let (Answer::Error(code @ Code::SessionExpired), true) =
                (&mut answer, call.op.wants_ephemeral())
            {
                // The leader does not know why it refuses a learner's; the learner does.
                *code = Code::EphemeralOnLocalSession;
            }
        }
        let Some(reply) = &call.reply else { return Ok(()) };
        let mut frame = Vec::new();
        answer.with_reply(|r: &WriteReply<'_>| r.encode_frame(&mut frame, Xid(xid), Zxid::from_wire(zxid)));
        let mut found = Vec::new();
        found.put_i32(xid);
        found.put_i64(reply.zxid);
        found.put_i32(reply.err);
        found.extend_from_slice(&reply.body);
        if found != frame[4..] {
            return Err(format!(
                "the reply to {:?} at {zxid:#x} was err {} zxid {:#x} {:02x?}, and had to be {answer:?}",
                call.op, reply.err, reply.zxid, reply.body
            ));
        }
        Ok(())
    }

    /// Judges the reads that bear `zxid` (`exact`), and finds those that bear a zxid nobody committed.
    fn at_zxid(&mut self, zxid: i64, exact: bool) -> Verdict<()> {
        while let Some(&(z, index)) = self.reads.last()
            && z <= zxid
        {
            self.reads.pop();
            let call = &self.history.calls[index];
            if !exact && call.read_only {
                // A server that has started without a quorum shows what its log holds, the tail that nobody committed too.
                continue;
            }
            // Before the first txn there is a state too, and its zxid can be any that a log began behind.
            if !exact && !self.last_xid.is_empty() {
                return Err(format!("{:?} bears {z:#x}, which was never committed", call.op));
            }
            self.read(index, call)?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize, call: &Call) -> Verdict<()> {
        let reply = call.reply.as_ref().expect("reads without a reply are not listed");
        let mut body = Vec::new();
        let stat = |path: &str| self.model.stat(path);
        let data = |path: &str| self.model.znodes[path].data.as_slice();
        let mut found = reply.body.clone();
        let err = match &call.op {
            Op::Exists { path, .. } => match stat(path) {
                Some(s) => {
                    s.encode(&mut body);
                    0
                }
                None => Code::NoNode.wire(),
            },
            Op::Get { path, .. } => match stat(path) {
                Some(s) => {
                    body.put_buffer(Some(data(path)));
                    s.encode(&mut body);
                    0
                }
                None => Code::NoNode.wire(),
            },
            Op::Children { path, .. } => match stat(path) {
                Some(s) => {
                    let put = |mut names: Vec<String>, out: &mut Vec<u8>| {
                        // In which order they come is nobody's promise.
                        names.sort();
                        out.put_count(names.len());
                        names.iter().for_each(|n| out.put_str(n));
                    };
                    put(self.model.children(path).map(str::to_string).collect(), &mut body);
                    s.encode(&mut body);
                    let mut r = Reader::new(&reply.body);
                    if let Ok(Some(names)) = r.strings() {
                        found.clear();
                        put(names.into_iter().map(|n| n.into_owned()).collect(), &mut found);
                        found.extend_from_slice(r.rest());
                    }
                    0
                }
                None => Code::NoNode.wire(),
            },
            Op::SetWatches { since, lists } => {
                let due = self.model.missed(*since, lists);
                self.caught_up.insert(index, due);
                0
            }
            other => unreachable!("{other:?} is no read"),
        };
        if reply.err != err || found != body {
            return Err(format!(
                "{:?} at {:#x} gave err {} {:02x?}, and had to give err {err} {body:02x?}",
                call.op, reply.zxid, reply.err, found
            ));
        }
        Ok(())
    }

    fn all_seen(&self) -> Verdict<()> {
        let committed = |(_, index): &&(i64, usize)| !self.history.calls[*index].read_only;
        if let Some(&(zxid, index)) = self.reads.iter().find(committed) {
            let op = &self.history.calls[index].op;
            return Err(format!("{op:?} bears {zxid:#x}, which was never committed"));
        }
        for (index, taken) in self.writes.values() {
            let call = &self.history.calls[*index];
            let Some(reply) = &call.reply else { continue };
            let refused = reply.err == Code::NotReadOnly.wire();
            if refused {
                self.locals.check_refused(call)?;
            }
            if reply.err == 0 && taken.is_none() && self.locals.may_be_done_without(call) {
                continue;
            }
            if refused && let Some(zxid) = taken {
                return Err(format!("{:?} was refused and took {zxid:#x} nevertheless", call.op));
            }
            if !refused && taken.is_none() {
                return Err(format!(
                    "durability: {:?} of session {:#x} was acknowledged at {:#x}, and is lost",
                    call.op, call.session, reply.zxid
                ));
            }
        }
        Ok(())
    }

    /// The first change behind `zxid` that a watch on `path` hears of.
    fn next_change(&self, path: &str, child: bool, zxid: i64) -> Option<(i64, EventType)> {
        let all = self.changes.get(path)?;
        let from = all.partition_point(|(z, _)| *z <= zxid);
        all[from..].iter().copied().find(|(_, event)| hears(child, *event))
    }
}

fn hears(child: bool, event: EventType) -> bool {
    match event {
        EventType::NodeDeleted => true,
        EventType::NodeChildrenChanged => child,
        EventType::NodeCreated | EventType::NodeDataChanged => !child,
    }
}

impl Model {
    /// What setWatches has to tell at once (client protocol: setWatches).
    fn missed(&self, since: i64, lists: &[Vec<String>; 3]) -> Vec<(i32, String)> {
        let mut due = Vec::new();
        for (table, list) in lists.iter().enumerate() {
            for path in list {
                let z = self.znodes.get(path);
                let event = match (table, z) {
                    (0, None) | (2, None) => Some(EventType::NodeDeleted),
                    (0, Some(z)) => (z.stat.mzxid > since).then_some(EventType::NodeDataChanged),
                    (1, z) => z.map(|_| EventType::NodeCreated),
                    (_, Some(z)) => (z.stat.pzxid > since).then_some(EventType::NodeChildrenChanged),
                    (_, None) => None,
                };
                due.extend(event.map(|e| (e as i32, path.clone())));
            }
        }
        due
    }
}

/// What a client sees never goes back, and a sync shows what was acknowledged before it.
fn sessions_in_order(history: &History) -> Verdict<()> {
    let mut floors: BTreeMap<usize, i64> = BTreeMap::new();
    let mut synced: BTreeMap<usize, i64> = BTreeMap::new();
    for (client, seen) in history.seen.iter().enumerate() {
        for seen in seen {
            let Seen::Reply(index) = seen else { continue };
            let call = &history.calls[*index];
            let reply = call.reply.as_ref().expect("it was seen");
            let floor = floors.entry(client).or_default();
            if reply.zxid < *floor {
                return Err(format!(
                    "session order: {:?} of client {client} shows {:#x} after {floor:#x}",
                    call.op, reply.zxid
                ));
            }
            *floor = reply.zxid;
            let at_least = synced.get(&client).copied().unwrap_or(0);
            if call.op.is_read() && reply.zxid < at_least {
                return Err(format!(
                    "sync then read: {:?} of client {client} shows {:#x}, and {at_least:#x} was acknowledged before its sync",
                    call.op, reply.zxid
                ));
            }
            if matches!(call.op, Op::Sync { .. }) && reply.err == 0 {
                let at_least = synced.entry(client).or_default();
                *at_least = call.known.max(*at_least);
            }
        }
    }
    Ok(())
}

/// No session ends before its time-out, and none is said to be gone that is not.
fn expiry_not_early(history: &History, replay: &Replay<'_>, expiry: Expiry) -> Verdict<()> {
    // By session: since when the leader knew of it at least, and when it was used.
    let mut heard: HashMap<i64, (Time, Time)> = HashMap::new();
    for call in &history.calls {
        // A server that is paused hears of a request after it wakes, which may be after the session has ended: only an
        // answer before the end shows that the request was heard by then.
        let Some(reply) = &call.reply else { continue };
        if replay.closed.get(&call.session).is_some_and(|(end, _)| reply.at > *end) {
            continue;
        }
        // What a server without a quorum hears, nobody else does.
        if call.read_only {
            continue;
        }
        let known_at = history.awake_before(call.server, call.sent, expiry.unheard_ms * MS);
        let last = heard.entry(call.session).or_default();
        *last = (known_at, call.sent).max(*last);
    }
    let mut timeouts: HashMap<i64, i32> = HashMap::new();
    for seen in history.seen.iter().flatten() {
        match seen {
            Seen::Connected { session, timeout_ms, .. } => {
                timeouts.insert(*session, *timeout_ms);
            }
            Seen::Refused { session, at, read_only }
                if !replay.closed.contains_key(session)
                    && !replay.locals.may_be_gone(*session, *at, *read_only) =>
            {
                return Err(format!("the session {session:#x} was refused at {at} ns, and was never closed"));
            }
            _ => {}
        }
    }
    for (session, (at, expired)) in &replay.closed {
        let (Some(&(known_at, last)), Some(&timeout_ms), true) =
            (heard.get(session), timeouts.get(session), expired)
        else {
            continue;
        };
        if *at < known_at + timeout_ms as u64 * 1000 / expiry.fast * MS {
            return Err(format!(
                "the session {session:#x} with a time-out of {timeout_ms} ms expired {} ms after it was heard of",
                (at - last.min(*at)) / MS
            ));
        }
    }
    Ok(())
}

/// Each one-shot watch gives one event, of the right change, before anything that shows the change.
fn watches(history: &History, seen: &[Seen], replay: &Replay<'_>) -> Verdict<()> {
    // By path and table (children or not): what is to be heard next.
    let mut watched: BTreeMap<(String, bool), Option<(i64, EventType)>> = BTreeMap::new();
    let mut caught_up: Vec<(i32, String)> = Vec::new();
    let leave = |watched: &mut BTreeMap<_, _>, path: &str, child: bool, zxid: i64| {
        watched.entry((path.to_string(), child)).or_insert_with(|| replay.next_change(path, child, zxid));
    };
    for seen in seen {
        match seen {
            Seen::Connected { .. } | Seen::Gone => {
                watched.clear();
                caught_up.clear();
            }
            Seen::Refused { .. } => {}
            Seen::Event { zxid: -1, kind, path } => caught_up.push((*kind, path.clone())),
            Seen::Event { zxid, kind, path } => {
                let mut met = false;
                for child in [false, true] {
                    let key = (path.clone(), child);
                    if let Some(Some((z, event))) = watched.get(&key)
                        && z == zxid
                        && *event as i32 == *kind
                    {
                        watched.remove(&key);
                        met = true;
                    }
                }
                if !met {
                    return Err(format!(
                        "watches: an event {kind} of {path} at {zxid:#x} that no watch waited for (or a second one)"
                    ));
                }
            }
            Seen::Reply(index) => {
                let call = &history.calls[*index];
                let reply = call.reply.as_ref().expect("it was seen");
                for ((path, _), next) in &watched {
                    if let Some((z, event)) = next
                        && *z <= reply.zxid
                    {
                        return Err(format!(
                            "watches: {:?} shows {:#x}, and {event:?} of {path} at {z:#x} was not told before",
                            call.op, reply.zxid
                        ));
                    }
                }
                match &call.op {
                    Op::Exists { path, watch: true } => leave(&mut watched, path, false, reply.zxid),
                    Op::Get { path, watch: true } if reply.err == 0 => {
                        leave(&mut watched, path, false, reply.zxid);
                    }
                    Op::Children { path, watch: true } if reply.err == 0 => {
                        leave(&mut watched, path, true, reply.zxid);
                    }
                    Op::SetWatches { lists, .. } => {
                        let due = replay.caught_up.get(index);
                        if due.is_some_and(|due| *due != caught_up) {
                            return Err(format!(
                                "watches: {:?} had to be told {due:?} at once, and was told {caught_up:?}",
                                call.op
                            ));
                        }
                        for (table, list) in lists.iter().enumerate() {
                            for path in list {
                                let told = |k: &(i32, String)| k.1 == *path && table_of(k.0, table);
                                if !caught_up.iter().any(told) {
                                    leave(&mut watched, path, table == 2, reply.zxid);
                                }
                            }
                        }
                        caught_up.clear();
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Whether a catch-up event of this kind can come from this list of a setWatches.
fn table_of(kind: i32, table: usize) -> bool {
    match table {
        0 => kind == EventType::NodeDeleted as i32 || kind == EventType::NodeDataChanged as i32,
        1 => kind == EventType::NodeCreated as i32,
        _ => kind == EventType::NodeDeleted as i32 || kind == EventType::NodeChildrenChanged as i32,
    }
}

/// Compares the tree of a server with the model.
pub fn compare(model: &Model, tree: &engine::Tree) -> Verdict<()> {
    for (path, z) in &model.znodes {
        let wanted = model.stat(path).expect("it is there");
        tree.peek(path, |found| {
            let Some(found) = found else { return Err(format!("{path} is missing")) };
            if path != "/zookeeper" && found.data.unwrap_or_default() != z.data {
                return Err(format!("{path} holds {:02x?} and had to hold {:02x?}", found.data, z.data));
            }
            let stat = found.stat.client_view(z.data.len(), found.children, false);
            let stat =
                proto::Stat { ephemeral_owner: if z.container { 0 } else { stat.ephemeral_owner }, ..stat };
            if stat != wanted {
                return Err(format!("the stat of {path} is {stat:?} and had to be {wanted:?}"));
            }
            Ok(())
        })?;
    }
    // Neither /zookeeper/quota, /zookeeper/config nor the second name of the root, which Apache counts, are in the model.
    let znodes = tree.stats().znodes as usize;
    if znodes != model.znodes.len() + 3 {
        return Err(format!("there are {znodes} znodes, {} had to be there", model.znodes.len() + 3));
    }
    let found: BTreeMap<i64, i32> = tree.sessions().iter().map(|s| (s.session.0, s.timeout_ms)).collect();
    if found != model.sessions {
        return Err(format!("the sessions are {found:x?} and had to be {:x?}", model.sessions));
    }
    Ok(())
}
