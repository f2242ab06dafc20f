//! Sessions as one server knows them, and their expiry where this server is the one to end them: in buckets, as Apache's
//! (semantics, section 9.1). A leader ends those that every server knows; each server ends those that only it knows.
//!
//! A session expires at the end of the bucket of `last touch + time-out`, where buckets are one tick wide: never
//! early, at most one tick late. A touch is one atomic store by whoever read the frame; the buckets are looked
//! at when their time comes, and sessions that were touched meanwhile move on.

use crate::limits;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hashbrown::{HashMap, HashSet};
use proto::mutant::{self, Mutant};
use proto::{ConnId, Instant, LinkId, SessionId};

/// When a session was last heard of, shared between the connection that hears and the machine that expires.
#[derive(Debug)]
pub struct Touch {
    last_ms: AtomicU64,
    local: AtomicBool,
}

impl Touch {
    fn new(now: Instant, reach: Reach) -> Touch {
        let local = matches!(reach, Reach::Local { .. });
        Touch { last_ms: AtomicU64::new(now.as_ms()), local: AtomicBool::new(local) }
    }

    /// The session is heard of at `now`. Never moves backwards.
    pub fn touch(&self, now: Instant) {
        self.last_ms.fetch_max(now.as_ms(), Ordering::Relaxed);
    }

    /// Whether the session is [`Reach::Local`]: its end needs no log, also not one that is full.
    pub fn is_local(&self) -> bool {
        self.local.load(Ordering::Relaxed)
    }

    fn last_ms(&self) -> u64 {
        self.last_ms.load(Ordering::Relaxed)
    }
}

/// Who knows a session, and so who ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Every server, or soon: its createSession is logged, or on its way. The leader ends it.
    Global,
    /// This server alone: nothing of it is logged, and it is gone when the server's role ends.
    Local {
        /// The time-out that it was opened with, in ms: what an upgrade tells the others.
        opened_ms: i32,
    },
    /// A session of which this server, read-only and cut off, knows nothing: it may live elsewhere, so its client may read
    /// here and may not close it.
    Guest,
}

impl Reach {
    /// Whether the session expires on this server, on which global ones do or don't.
    fn expires_here(self, global_do: bool) -> bool {
        global_do || self != Reach::Global
    }
}

/// A session as its server knows it.
#[derive(Debug)]
pub struct Session {
    /// Who else knows it.
    pub reach: Reach,
    /// The connection that it is attached to now.
    pub conn: Option<ConnId>,
    /// Its time-out in ms.
    pub timeout_ms: i32,
    /// When it was last heard of.
    pub touch: Arc<Touch>,
    /// Its close is in flight: it can't be attached to any more.
    pub closing: bool,
    /// The bucket in which it is looked at next; older entries in other buckets are void.
    bucket_ms: u64,
}

/// The hasher of session ids: they count upwards, so a multiplication spreads them enough, and nothing that
/// leaves this crate depends on the order.
#[derive(Clone, Copy, Default, Debug)]
pub struct IdHash;

/// See [`IdHash`].
#[derive(Default, Debug)]
pub struct IdHasher(u64);

impl core::hash::BuildHasher for IdHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher::default()
    }
}

impl core::hash::Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_i64(i64::from(b));
        }
    }

    fn write_i64(&mut self, v: i64) {
        let x = (self.0 ^ v as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = x ^ (x >> 29);
    }
}

/// The link of no learner.
const NOBODY: LinkId = LinkId(u64::MAX);

/// All sessions, with their expiry.
#[derive(Debug)]
pub struct Sessions {
    tick_ms: u64,
    /// Global sessions expire here; the others always do.
    expires_global: bool,
    /// Sessions that are used through a learner, and which.
    owners: HashMap<SessionId, LinkId, IdHash>,
    sessions: HashMap<SessionId, Session, IdHash>,
    /// Those of them that are not global.
    not_global: usize,
    /// Global sessions that have ended lately, in their order, with the time in ms: see [`Sessions::has_ended`].
    ended: VecDeque<(u64, SessionId)>,
    ended_ids: HashSet<SessionId, IdHash>,
    /// Bucket end in ms to the sessions to look at then.
    buckets: BTreeMap<u64, Vec<SessionId>>,
}

impl Sessions {
    /// No sessions; buckets are `tick_ms` wide.
    pub fn new(tick_ms: u64) -> Sessions {
        assert!(tick_ms > 0, "a tick has a length");
        Sessions {
            tick_ms,
            expires_global: true,
            owners: HashMap::default(),
            sessions: HashMap::default(),
            not_global: 0,
            ended: VecDeque::new(),
            ended_ids: HashSet::default(),
            buckets: BTreeMap::new(),
        }
    }

    /// The sessions of a server that does not lead: the global ones expire elsewhere.
    pub fn of_learner(tick_ms: u64) -> Sessions {
        Sessions { expires_global: false, ..Sessions::new(tick_ms) }
    }

    /// The session `id`, newly opened or newly learned of, heard of at `now`.
    pub fn insert(
        &mut self,
        id: SessionId,
        timeout_ms: i32,
        reach: Reach,
        conn: Option<ConnId>,
        now: Instant,
    ) -> Arc<Touch> {
        let touch = Arc::new(Touch::new(now, reach));
        let bucket_ms = self.bucket(now.as_ms(), timeout_ms);
        let session = Session { reach, conn, timeout_ms, touch: touch.clone(), closing: false, bucket_ms };
        if let Some(before) = self.sessions.insert(id, session) {
            self.not_global -= usize::from(before.reach != Reach::Global);
        }
        self.not_global += usize::from(reach != Reach::Global);
        if reach.expires_here(self.expires_global) {
            self.buckets.entry(bucket_ms).or_default().push(id);
        }
        touch
    }

    /// A session by its id.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// A session by its id.
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    /// The session is over.
    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        if !self.owners.is_empty() {
            self.owners.remove(&id);
        }
        let removed = self.sessions.remove(&id);
        self.not_global -= usize::from(removed.as_ref().is_some_and(|s| s.reach != Reach::Global));
        removed
    }

    /// Who knows a session; `None`: not this server.
    pub fn reach(&self, id: SessionId) -> Option<Reach> {
        self.sessions.get(&id).map(|s| s.reach)
    }

    /// A local session becomes global. Returns the time-out that the others are to know it by; `None`: it was not local.
    pub fn upgrade(&mut self, id: SessionId) -> Option<i32> {
        let s = self.sessions.get_mut(&id)?;
        let Reach::Local { opened_ms } = s.reach else { return None };
        s.reach = Reach::Global;
        s.touch.local.store(false, Ordering::Relaxed);
        self.not_global -= 1;
        Some(opened_ms)
    }

    /// Sessions that only this server knows.
    pub fn not_global(&self) -> usize {
        self.not_global
    }

    /// A live session gets a new time-out and counts as heard of at `now`.
    pub fn renew(&mut self, id: SessionId, timeout_ms: i32, now: Instant) {
        let bucket_ms = self.bucket(now.as_ms(), timeout_ms);
        let expires_global = self.expires_global;
        if let Some(s) = self.sessions.get_mut(&id) {
            s.timeout_ms = timeout_ms;
            s.touch.touch(now);
            // A later one is found when the bucket that it is in comes up, as after any touch.
            if s.reach.expires_here(expires_global) && bucket_ms < s.bucket_ms {
                s.bucket_ms = bucket_ms;
                self.buckets.entry(bucket_ms).or_default().push(id);
            }
        }
    }

    /// A learner reports that it has heard of a session.
    pub fn heard(&mut self, id: SessionId, timeout_ms: i32, now: Instant) {
        if self.reach(id) != Some(Reach::Global) {
            return;
        }
        if self.sessions.get(&id).is_some_and(|s| s.timeout_ms == timeout_ms) {
            self.sessions[&id].touch.touch(now);
        } else {
            self.renew(id, timeout_ms, now);
        }
    }

    /// The global sessions with a connection here that were heard of at `since_ms` or later, with their time-outs.
    pub fn touched_since(&self, since_ms: u64) -> Vec<(SessionId, i32)> {
        let is_it =
            |s: &Session| s.reach == Reach::Global && s.conn.is_some() && s.touch.last_ms() >= since_ms;
        let mut all: Vec<_> =
            self.sessions.iter().filter(|(_, s)| is_it(s)).map(|(&id, s)| (id, s.timeout_ms)).collect();
        all.sort_unstable_by_key(|&(id, _)| id);
        all
    }

    /// The learner through which a session is used; `None`: this server, or nobody yet.
    pub fn owner(&self, id: SessionId) -> Option<LinkId> {
        self.owners.get(&id).copied()
    }

    /// A session is used through `link` from now on, or through this server.
    pub fn set_owner(&mut self, id: SessionId, link: Option<LinkId>) {
        match link {
            Some(link) => {
                self.owners.insert(id, link);
            }
            None if self.owners.is_empty() => {}
            None => {
                self.owners.remove(&id);
            }
        }
    }

    /// The connection through which a session was used has ended: it is nobody's, see [`Sessions::forget_owner`].
    pub fn disown(&mut self, id: SessionId) {
        self.owners.insert(id, NOBODY);
    }

    /// The learner is gone: its sessions are nobody's until their clients come back through a server, which revalidates
    /// them. What another server still holds of a session that was used through it before must not come behind what its
    /// client has asked for since.
    pub fn forget_owner(&mut self, link: LinkId) {
        self.owners.values_mut().filter(|l| **l == link).for_each(|l| *l = NOBODY);
    }

    /// A global session has ended, and what a learner sends in its name comes too late: kept for `for_ms` at least, unless
    /// more than [`limits::ENDED_SESSIONS`] end in that time.
    pub fn note_end(&mut self, id: SessionId, now: Instant, for_ms: u64) {
        while let Some(&(at_ms, oldest)) = self.ended.front()
            && (at_ms + for_ms < now.as_ms() || self.ended.len() >= limits::ENDED_SESSIONS)
        {
            self.ended.pop_front();
            self.ended_ids.remove(&oldest);
        }
        if self.ended_ids.insert(id) {
            self.ended.push_back((now.as_ms(), id));
        }
    }

    /// Whether a session is known to have ended, rather than never to have been global.
    pub fn has_ended(&self, id: SessionId) -> bool {
        self.ended_ids.contains(&id)
    }

    /// When the next bucket ends.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.buckets.keys().next().map(|&ms| Instant::from_ms(ms))
    }

    /// The sessions whose time is over at `now`; each is marked as closing. With `hold` none is: their buckets
    /// are looked at again one tick later.
    pub fn expire(&mut self, now: Instant, hold: bool) -> Vec<SessionId> {
        let mut expired = Vec::new();
        while let Some(entry) = self.buckets.first_entry()
            && *entry.key() <= now.as_ms()
        {
            let (ended_ms, ids) = entry.remove_entry();
            for id in ids {
                let Some(s) = self.sessions.get_mut(&id) else { continue };
                // One that was upgraded on a learner has left what it expires.
                let is_elsewhere = !s.reach.expires_here(self.expires_global);
                if s.bucket_ms != ended_ms || s.closing || is_elsewhere {
                    continue;
                }
                let due_ms = bucket(self.tick_ms, s.touch.last_ms(), s.timeout_ms);
                if due_ms <= ended_ms && !hold {
                    s.closing = true;
                    expired.push(id);
                } else {
                    // Touched meanwhile, or held: never in a bucket that has ended already.
                    let held_ms = if hold { bucket(self.tick_ms, now.as_ms(), 0) } else { 0 };
                    s.bucket_ms = due_ms.max(held_ms);
                    self.buckets.entry(s.bucket_ms).or_default().push(id);
                }
            }
        }
        expired
    }

    /// Each session, either the global ones or the others, with the end of the bucket that it would expire in, in ms, for
    /// the four-letter words.
    pub fn expiry(&self, global: bool) -> Vec<(SessionId, u64)> {
        let due = |s: &Session| bucket(self.tick_ms, s.touch.last_ms(), s.timeout_ms);
        let wanted = self.sessions.iter().filter(|(_, s)| (s.reach == Reach::Global) == global);
        let mut all: Vec<_> = wanted.map(|(&id, s)| (id, due(s))).collect();
        all.sort_unstable_by_key(|&(id, ms)| (ms, id.0));
        all
    }

    /// Live sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn bucket(&self, from_ms: u64, timeout_ms: i32) -> u64 {
        bucket(self.tick_ms, from_ms, timeout_ms)
    }
}

/// The end of the bucket that holds `from + timeout`: always later than it.
fn bucket(tick_ms: u64, from_ms: u64, timeout_ms: i32) -> u64 {
    let early = if mutant::is(Mutant::ExpiryOneTickEarly) { tick_ms } else { 0 };
    ((from_ms + u64::try_from(timeout_ms).unwrap_or(0)) / tick_ms + 1) * tick_ms - early
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_ms(ms)
    }

    const ID: SessionId = SessionId(7);

    #[test]
    fn expiry_is_never_early_and_at_most_a_tick_late() {
        // Observed on Apache: tick 1000, time-out 2000 -> 2.9 s after a touch at 100 ms; 2500 -> 3.0 s.
        for (timeout, touched, due) in [(2000, 100, 3000), (2500, 0, 3000), (2000, 0, 3000), (2999, 1, 4000)]
        {
            let mut s = Sessions::new(1000);
            s.insert(ID, timeout, Reach::Global, None, at(touched));
            assert_eq!(s.next_timeout(), Some(at(due)));
            assert_eq!(s.expire(at(due - 1), false), []);
            assert_eq!(s.expire(at(due), false), [ID]);
            assert!(due > touched + timeout as u64 && due <= touched + timeout as u64 + 1000);
        }
    }

    #[test]
    fn a_touch_moves_the_session_on() {
        let mut s = Sessions::new(1000);
        let touch = s.insert(ID, 2000, Reach::Global, None, at(0));
        touch.touch(at(2500));
        assert_eq!(s.expire(at(3000), false), []);
        assert_eq!(s.next_timeout(), Some(at(5000)));
        assert_eq!(s.expire(at(5000), false), [ID]);
        assert!(s.get(ID).is_some_and(|s| s.closing));
        assert_eq!(s.expire(at(9000), false), [], "once is enough");
    }

    #[test]
    fn renewing_with_another_timeout_counts_from_then() {
        let mut s = Sessions::new(1000);
        s.insert(ID, 20_000, Reach::Global, None, at(0));
        s.renew(ID, 2000, at(500));
        assert_eq!(s.expire(at(3000), false), [ID]);
        let mut s = Sessions::new(1000);
        s.insert(ID, 2000, Reach::Global, None, at(0));
        s.renew(ID, 20_000, at(500));
        assert_eq!(s.expire(at(3000), false), []);
        assert_eq!(s.expire(at(21_000), false), [ID]);
    }

    #[test]
    fn while_held_nobody_expires() {
        let mut s = Sessions::new(1000);
        s.insert(ID, 2000, Reach::Global, None, at(0));
        assert_eq!(s.expire(at(7300), true), []);
        assert_eq!(s.expire(at(7300), false), []);
        assert_eq!(s.next_timeout(), Some(at(8000)));
        assert_eq!(s.expire(at(8000), true), [], "nor at the very end of a bucket");
        assert_eq!(s.expire(at(9000), false), [ID]);
    }

    #[test]
    fn resuming_again_and_again_leaves_nothing_behind() {
        let mut s = Sessions::new(1000);
        s.insert(ID, 20_000, Reach::Global, None, at(0));
        for ms in 0..1000 {
            s.renew(ID, if ms % 2 == 0 { 20_000 } else { 2_000 }, at(ms));
        }
        assert!(s.buckets.values().map(Vec::len).sum::<usize>() <= 2);
    }

    #[test]
    fn removed_sessions_never_expire() {
        let mut s = Sessions::new(1000);
        s.insert(ID, 2000, Reach::Global, None, at(0));
        s.remove(ID);
        assert_eq!(s.expire(at(99_000), false), []);
        assert_eq!(s.next_timeout(), None);
    }

    #[test]
    fn a_learner_ends_what_only_it_knows() {
        let mut s = Sessions::of_learner(1000);
        s.insert(ID, 2000, Reach::Local { opened_ms: 2500 }, None, at(0));
        s.insert(SessionId(8), 2000, Reach::Global, None, at(0));
        assert_eq!((s.not_global(), s.expiry(false).len(), s.expiry(true).len()), (1, 1, 1));
        assert_eq!(s.expire(at(3000), false), [ID]);
        s.remove(ID);
        assert_eq!((s.not_global(), s.len()), (0, 1));
    }

    #[test]
    fn an_upgrade_takes_a_session_out_of_what_a_learner_ends_and_not_out_of_what_a_leader_ends() {
        for (mut s, ended) in [(Sessions::of_learner(1000), None), (Sessions::new(1000), Some(ID))] {
            s.insert(ID, 2000, Reach::Local { opened_ms: 2500 }, Some(ConnId(1)), at(0));
            assert_eq!(s.touched_since(0), [], "a leader hears nothing of a local session");
            assert_eq!(
                s.upgrade(ID),
                Some(2500),
                "the others know it by the time-out that it was opened with"
            );
            assert_eq!(s.upgrade(ID), None, "once");
            assert_eq!((s.reach(ID), s.not_global()), (Some(Reach::Global), 0));
            assert_eq!(s.touched_since(0), [(ID, 2000)]);
            assert_eq!(s.expire(at(3000), false), ended.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn ended_sessions_are_remembered_for_their_time_and_within_a_bound() {
        let mut s = Sessions::new(1000);
        s.note_end(ID, at(0), 5000);
        s.note_end(SessionId(8), at(5000), 5000);
        assert!(s.has_ended(ID) && s.has_ended(SessionId(8)));
        s.note_end(SessionId(9), at(5001), 5000);
        assert!(!s.has_ended(ID) && s.has_ended(SessionId(8)));
        for n in 0..limits::ENDED_SESSIONS as i64 {
            s.note_end(SessionId(100 + n), at(5001), 5000);
        }
        assert!(!s.has_ended(SessionId(9)) && s.has_ended(SessionId(100)));
        assert_eq!(s.ended.len(), s.ended_ids.len());
    }
}
