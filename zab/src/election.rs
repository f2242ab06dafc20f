//! Fast leader election: votes go round until a quorum agrees (quorum protocol, section 3).
//!
//! Votes are ordered by epoch, zxid and server id. Each server begins with itself, tells everybody, takes over every
//! better vote that it hears of in its round, and tells everybody again. A server that comes late is told by those
//! that are done, and joins when a quorum of them, the leader included, follows one leader.
//!
//! Apache's rules, and one more: the wait for better votes ends at once when nothing better can come.

use crate::config::ElectionTimes;
use crate::quorum::Verifier;
use alloc::collections::{BTreeMap, BTreeSet};
use proto::mutant::{self, Mutant};
use proto::peer::{Notification, PeerState, Vote};
use proto::{Instant, ServerId};

/// What an observer votes for: nobody.
pub(crate) const NO_VOTE: Vote = Vote { leader: ServerId(i64::MIN), zxid: i64::MIN, peer_epoch: i64::MIN };

/// The zxid that says "do not count me": this server may have lost what it once acknowledged.
pub(crate) const BLANK: i64 = -1;

/// A notification without its configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub state: PeerState,
    pub vote: Vote,
    pub round: i64,
    pub version: i32,
}

impl Heard {
    pub fn of(n: &Notification<'_>) -> Heard {
        Heard { state: n.state, vote: n.vote, round: n.round, version: n.version }
    }
}

/// Whether there is a connection to the election port of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    Up,
    Down,
}

/// What the election needs of its surroundings.
pub(crate) struct Around<'a> {
    pub me: ServerId,
    pub verifier: &'a Verifier,
    pub times: &'a ElectionTimes,
    /// Connections that were told of.
    pub reach: &'a BTreeMap<ServerId, Reach>,
    pub now: Instant,
}

/// What is to be done after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Go on waiting.
    Wait,
    /// The own vote is to be sent to all voters.
    TellAll,
    /// The own vote is to be sent to one server.
    Tell(ServerId),
    /// This is the vote that decides.
    Elected { vote: Vote, round: i64 },
}

/// One election, from the first own vote to the decision.
#[derive(Debug)]
pub(crate) struct Election {
    pub round: i64,
    /// The own vote at the start.
    init: Vote,
    /// This server has no history.
    blank: bool,
    /// Nobody has one: the ensemble begins with this election.
    pub begins: bool,
    pub proposal: Vote,
    /// Votes of this round, by sender.
    received: BTreeMap<ServerId, Heard>,
    /// Votes of those that are done, of any round, by sender.
    outside: BTreeMap<ServerId, Heard>,
    /// Who has said that it has no history.
    empty: BTreeSet<ServerId>,
    /// Who does not want to be counted.
    abstaining: BTreeSet<ServerId>,
    /// Who was told, in which of their rounds, that this server does not count.
    told: BTreeMap<ServerId, i64>,
    wait_ms: u64,
    resend_at: Instant,
    /// A quorum agrees; better votes are waited for until then.
    finalize_at: Option<Instant>,
}

/// Whether `new` is the better vote.
fn better(v: &Verifier, new: &Vote, current: &Vote) -> bool {
    let zxid = |v: &Vote| if mutant::is(Mutant::VoteWithoutZxid) { 0 } else { v.zxid };
    let key = |v: &Vote| (v.peer_epoch, zxid(v), v.leader);
    v.weight(new.leader) > 0 && key(new) > key(current)
}

/// Whether the established vote `stored` supports the established leader of `probe`. Zxids and rounds differ legitimately.
fn same_leader(stored: &Heard, stored_version: i32, probe: &Heard) -> bool {
    if stored.state == PeerState::Looking {
        return stored.vote == probe.vote && stored.round == probe.round;
    }
    let one_is_new = (stored_version > 0) != (probe.version > 0);
    stored.vote.leader == probe.vote.leader && (one_is_new || stored.vote.peer_epoch == probe.vote.peer_epoch)
}

impl Election {
    /// Begins round `round` with the vote `init`, which is to be told to all. `blank`: this server has no history.
    pub fn begin(round: i64, init: Vote, blank: bool, around: &Around<'_>) -> Election {
        let wait_ms = around.times.resend_min_ms;
        Election {
            round,
            init,
            blank,
            begins: false,
            proposal: init,
            received: BTreeMap::new(),
            outside: BTreeMap::new(),
            empty: BTreeSet::new(),
            abstaining: BTreeSet::new(),
            told: BTreeMap::new(),
            wait_ms,
            resend_at: around.now.plus_ms(wait_ms),
            finalize_at: None,
        }
    }

    /// Whether this server began by saying that it is not to be counted.
    pub fn abstains(&self) -> bool {
        self.init.zxid == BLANK
    }

    /// When [`Election::tick`] is due.
    pub fn next_timeout(&self) -> Instant {
        self.finalize_at.map_or(self.resend_at, |f| f.min(self.resend_at))
    }

    /// Time has passed.
    pub fn tick(&mut self, around: &Around<'_>) -> Next {
        if self.finalize_at.is_some_and(|at| around.now >= at) {
            return Next::Elected { vote: self.proposal, round: self.round };
        }
        if around.now >= self.resend_at {
            self.wait_ms = (self.wait_ms * 2).min(around.times.resend_max_ms);
            self.resend_at = around.now.plus_ms(self.wait_ms);
            return Next::TellAll;
        }
        Next::Wait
    }

    /// Whether a quorum agrees and nothing better can come: to be asked after each step, and when a connection is lost.
    pub fn is_decided(&mut self, around: &Around<'_>) -> Option<Next> {
        self.settle(around);
        self.finalize_at?;
        let nothing_can_come = |v: &ServerId| {
            *v == around.me
                || self.received.get(v).is_some_and(|h| h.vote == self.proposal)
                || self.abstaining.contains(v)
                || around.reach.get(v) == Some(&Reach::Down)
        };
        around
            .verifier
            .voters()
            .iter()
            .all(nothing_can_come)
            .then_some(Next::Elected { vote: self.proposal, round: self.round })
    }

    /// A voter has spoken.
    pub fn heard(&mut self, from: ServerId, n: Heard, around: &Around<'_>) -> Next {
        if !around.verifier.is_voter(from) || !around.verifier.is_voter(n.vote.leader) {
            return Next::Wait;
        }
        match n.state {
            PeerState::Looking => self.heard_looking(from, n, around),
            PeerState::Following | PeerState::Leading => self.heard_done(from, n, around),
            PeerState::Observing => Next::Wait,
        }
    }

    fn heard_looking(&mut self, from: ServerId, n: Heard, around: &Around<'_>) -> Next {
        if matches!(n.vote.zxid, BLANK | 0) && n.vote.peer_epoch <= 0 {
            self.empty.insert(from);
            let all_empty = |v: &ServerId| *v == around.me || self.empty.contains(v);
            if self.blank && !self.begins && around.verifier.voters().iter().all(all_empty) {
                // Nobody has anything, so nothing can be lost: the ensemble begins here.
                self.begins = true;
                self.init.zxid = 0;
                self.proposal = self.init;
                self.round = self.round.max(n.round);
                self.received.clear();
                self.finalize_at = None;
                return Next::TellAll;
            }
        } else {
            self.empty.remove(&from);
        }
        if n.vote.zxid == BLANK {
            self.abstaining.insert(from);
        } else {
            self.abstaining.remove(&from);
        }
        if self.init.zxid == BLANK {
            // Who begins a round is told, once, that nothing is to be expected from here.
            let is_new = self.told.insert(from, n.round) != Some(n.round);
            return if is_new && n.vote.zxid != BLANK { Next::Tell(from) } else { Next::Wait };
        }
        if n.vote.zxid == BLANK {
            return Next::Wait;
        }
        let mut next = Next::Wait;
        if n.round > self.round {
            self.round = n.round;
            self.received.clear();
            self.finalize_at = None;
            self.proposal = if better(around.verifier, &n.vote, &self.init) { n.vote } else { self.init };
            next = Next::TellAll;
        } else if n.round < self.round {
            return Next::Tell(from);
        } else if better(around.verifier, &n.vote, &self.proposal) {
            self.proposal = n.vote;
            self.finalize_at = None;
            next = Next::TellAll;
        }
        let is_new = self.received.insert(from, n).is_none();
        self.settle(around);
        if next == Next::Wait && (is_new || n.vote != self.proposal) {
            // It may have begun after the own vote was sent, which did not count while it still followed the last leader, and
            // would hear of it only when it is sent again.
            return Next::Tell(from);
        }
        next
    }

    /// Begins the wait for better votes once a quorum has the own vote.
    fn settle(&mut self, around: &Around<'_>) {
        if self.finalize_at.is_some() || self.init.zxid == BLANK || self.proposal == NO_VOTE {
            return;
        }
        let agrees = |s: ServerId| {
            s == around.me
                || self
                    .received
                    .get(&s)
                    .is_some_and(|h| h.state == PeerState::Looking && h.vote == self.proposal)
        };
        if around.verifier.is_quorum(agrees) {
            self.finalize_at = Some(around.now.plus_ms(around.times.finalize_ms));
        }
    }

    fn heard_done(&mut self, from: ServerId, n: Heard, around: &Around<'_>) -> Next {
        let elected = Next::Elected { vote: n.vote, round: n.round };
        if n.round == self.round {
            self.received.insert(from, n);
            // Apache keeps these votes without their version, so leaders alone are compared.
            let agrees = |s: ServerId| self.received.get(&s).is_some_and(|h| same_leader(h, 0, &n));
            if around.verifier.is_quorum(agrees) && self.leads(&self.received, &n, around.me) {
                return elected;
            }
        }
        self.outside.insert(from, n);
        let agrees = |s: ServerId| self.outside.get(&s).is_some_and(|h| same_leader(h, h.version, &n));
        if around.verifier.is_quorum(agrees) && self.leads(&self.outside, &n, around.me) {
            return elected;
        }
        Next::Wait
    }

    /// The leader itself says that it leads; who is named itself must be in the same round.
    fn leads(&self, votes: &BTreeMap<ServerId, Heard>, n: &Heard, me: ServerId) -> bool {
        if n.vote.leader == me {
            return n.round == self.round;
        }
        votes.get(&n.vote.leader).is_some_and(|h| h.state == PeerState::Leading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn who_comes_late_with_a_worse_vote_hears_of_the_better_one_at_once() {
        let verifier = Verifier::majority(vec![ServerId(1), ServerId(2), ServerId(3)]);
        let (times, reach) = (ElectionTimes::default(), BTreeMap::new());
        let at = |me| Around {
            me: ServerId(me),
            verifier: &verifier,
            times: &times,
            reach: &reach,
            now: Instant(0),
        };
        let vote = |leader, zxid| Vote { leader: ServerId(leader), zxid, peer_epoch: 2 };
        let says = |vote| Heard { state: PeerState::Looking, vote, round: 7, version: 2 };
        let mut one = Election::begin(7, vote(1, 0x2_0000_0009), false, &at(1));
        let mut three = Election::begin(7, vote(3, 0x2_0000_0008), false, &at(3));
        // What 1 sent at its beginning was lost on 3, which still followed somebody.
        assert_eq!(one.heard(ServerId(3), says(three.proposal), &at(1)), Next::Tell(ServerId(3)));
        assert_eq!(three.heard(ServerId(1), says(one.proposal), &at(3)), Next::TellAll);
        // Agreed: nothing more is said.
        assert_eq!(one.heard(ServerId(3), says(three.proposal), &at(1)), Next::Wait);
        assert_eq!((one.proposal, three.proposal), (vote(1, 0x2_0000_0009), vote(1, 0x2_0000_0009)));
    }
}
