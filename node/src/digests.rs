//! Whether this server's tree is what the others have: what a server does about its own digest. Who is right is decided by
//! a majority, through the leader (`zab`).
//!
//! | a digest does not fit | then |
//! |---|---|
//! | on a learner of a Falconer | it serves nobody until a verdict comes; without one in `syncLimit` ticks it stops; where some of the followers can't be asked (Apache's) it hears that it may go on |
//! | on a leader | it asks its learners, and goes on until a majority speaks against it |
//! | on a learner of Apache's, or alone | an alarm, as Apache's servers do |
//!
//! A record's digest is the word of one server, of the leader of that time; that replay does not fit it says no more. What a
//! tree was when it was built again is told by the first question of the leader.

use crate::limits;
use crate::machine::{Node, Now};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use proto::mutant::{self, Mutant};
use proto::peer::FromLearner;
use proto::{Instant, Zxid};
use zab::{Differs, Service};

/// What a role knows of its tree's digest.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    /// The tree's mismatches that were looked at.
    seen: u64,
    /// Where the digest is wanted, oldest first; once the tree has been there, with it.
    questions: VecDeque<(Zxid, Option<i64>)>,
    doubt: Option<Doubt>,
    /// The operator has been told in this role, and nobody can say who is right.
    told: bool,
    blur: Blur,
}

/// A tree that one of Apache's servers sent while it changed has other digests than its records until it is of one moment; and
/// nothing says when that is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Blur {
    #[default]
    None,
    /// The tree was built again.
    Rebuilt,
    /// By then it is past: the others would have given up a server that takes as long.
    Until(Instant),
}

/// The own tree is not what somebody says.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    differs: Differs,
    /// No verdict has come by then: this server stops.
    until: Instant,
}

impl Digests {
    /// A new role: `seen` mismatches of the tree are of older ones.
    pub fn new(seen: u64) -> Digests {
        Digests { seen, ..Digests::default() }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.doubt.map(|d| d.until)
    }
}

impl Node {
    /// What came before is of no interest: the tree was built again.
    pub(crate) fn skip_mismatches(&mut self) {
        self.digests.seen = self.tree.digest_mismatches();
        self.digests.blur = Blur::Rebuilt;
    }

    /// Whether digests of records mean nothing yet: behind SNAP from one of Apache's servers.
    fn is_blurred(&mut self, now: Now) -> bool {
        if self.prep.is_some() || self.zab.leader_compares() {
            return false;
        }
        if self.digests.blur == Blur::Rebuilt && self.service != Service::None {
            let ensemble = self.zab.ensemble();
            let ms = ensemble.tick_ms * u64::from(ensemble.init_limit);
            self.digests.blur = Blur::Until(now.mono.plus_ms(ms));
        }
        match self.digests.blur {
            Blur::None => false,
            Blur::Rebuilt => true,
            Blur::Until(at) => now.mono < at,
        }
    }

    /// The digest with exactly `zxid` applied is wanted.
    pub(crate) fn want_digest(&mut self, zxid: Zxid) {
        if self.tree.config().digest_enabled {
            if self.digests.questions.len() == limits::DIGEST_QUESTIONS {
                // The latest is the one that is remembered longest.
                self.digests.questions.pop_front();
            }
            self.digests.questions.push_back((zxid, None));
            self.note_digest();
        }
    }

    /// After each record: is this where the digest is wanted?
    pub(crate) fn note_digest(&mut self) {
        let digests = &mut self.digests;
        let Some((zxid, found)) = digests.questions.iter_mut().find(|q| q.1.is_none()) else { return };
        let (applied, digest) = self.tree.applied_digest();
        // A tree that came while it changed has no digest until it is of one moment.
        if applied == *zxid && self.applier.as_ref().is_some_and(|a| a.is_settled()) {
            *found = Some(digest);
        } else if applied >= *zxid {
            let gone = *zxid;
            digests.questions.retain(|q| q.0 != gone);
        }
    }

    fn tell_digest(&mut self, zxid: Zxid, digest: i64) {
        let doubts = self.digests.doubt.is_some();
        if let Some(link) = self.zab.leader_link() {
            let mut packet = Vec::new();
            FromLearner::Digest { zxid, digest, doubts }.encode(&mut packet);
            self.zab.send(link, packet);
        }
    }

    /// It serves nobody until somebody says who is right.
    fn doubt(&mut self, now: Now, differs: Differs) {
        if mutant::is(Mutant::DifferenceIgnored) {
            return self.zab.doubt(differs);
        }
        let ensemble = self.zab.ensemble();
        let until = now.mono.plus_ms(ensemble.tick_ms * u64::from(ensemble.sync_limit));
        self.digests.doubt = Some(Doubt { differs, until });
        self.zab.doubt(differs);
        self.zab.suspend(true);
    }

    /// The leader says what others have.
    pub(crate) fn judged(&mut self, now: Now, differs: Differs) {
        let fits = differs.wanted == differs.found;
        match self.digests.doubt {
            _ if !fits && differs.by_majority => self.zab.halt(now.mono, differs),
            None if !fits => self.doubt(now, differs),
            Some(d) if fits && d.differs.zxid <= differs.zxid => {
                self.digests.doubt = None;
                // Without a majority nobody knows better. The next record would not fit either.
                self.digests.told |= !differs.by_majority;
                self.zab.suspend(false);
            }
            _ => {}
        }
    }

    /// After everything that could be applied was.
    pub(crate) fn look_at_digests(&mut self, now: Now) {
        let mismatches = self.tree.digest_mismatches();
        if self.is_blurred(now) {
            self.digests.seen = mismatches;
        }
        // A learner that is being brought up to date can't ask yet.
        let can_ask = self.zab.leader_link().is_some() || !self.zab.leader_compares();
        if mismatches > self.digests.seen
            && can_ask
            && let Some(m) = self.tree.last_mismatch()
        {
            self.digests.seen = mismatches;
            let differs = Differs { zxid: m.zxid, wanted: m.wanted, found: m.found, by_majority: false };
            if !self.zab.leader_compares() || self.digests.told {
                // Once in a role: after the first one, every record has a digest that does not fit.
                if !core::mem::replace(&mut self.digests.told, true) {
                    self.zab.want_digests();
                    self.zab.doubt(differs);
                }
            } else if self.digests.doubt.is_none() {
                self.doubt(now, differs);
                self.tell_digest(m.zxid, m.found);
            }
        }
        if let Some(zxid) = self.zab.ask_digests() {
            self.want_digest(zxid);
        }
        let is_leader = self.prep.is_some();
        while (is_leader || self.zab.leader_link().is_some())
            && let Some(&(zxid, Some(digest))) = self.digests.questions.front()
        {
            self.digests.questions.pop_front();
            if is_leader {
                self.zab.own_digest(now.mono, zxid, digest);
            } else {
                self.tell_digest(zxid, digest);
            }
        }
        if let Some(Doubt { differs, until }) = self.digests.doubt
            && now.mono >= until
        {
            self.digests.doubt = None;
            self.zab.halt(now.mono, differs);
        }
    }
}
