//! The digests of the replicas, side by side: the leader asks, and a majority says what is right.
//!
//! ```text
//!   leader   DIGEST zxid ──► each Falconer that is up to date: behind UPTODATE, at a ping if something was committed since,
//!                            and when somebody has doubts
//!   learner  ◄── DIGEST zxid, own      when it has applied exactly that
//!   leader   VERDICT zxid, wanted, found ──► who differs, or has doubts
//! ```
//! The zxid is the last that COMMITs were sent of, so nobody can have gone past it when the question comes. Nothing else is
//! said while all agree.
//!
//! A learner that is told that its tree is not the leader's has *doubts*, and so has one that finds a record's digest not to be
//! its tree's: it serves nobody until it hears who is right. Who is told that it differs from a majority stops for good; so
//! does a leader whose digest is not the majority's. Where no majority can be asked, the doubter gives up after a while: nobody
//! can tell which of two is right, and only one of them may go on. But where a server follows that can't be asked, one of
//! Apache's, it is not left to two which of them goes: who has doubts is told to go on, as Apache's servers do.

use crate::limits;
use crate::quorum::Verifier;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use proto::{LinkId, ServerId, Zxid};

/// The digest of a state beside that of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Differs {
    /// With exactly this applied.
    pub zxid: Zxid,
    /// The digest of the others' trees.
    pub wanted: i64,
    /// The digest of this server's tree.
    pub found: i64,
    /// A majority has `wanted`. Else two servers stand against each other, and no third could be asked.
    pub by_majority: bool,
}

/// What a learner has heard of its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Told {
    Nothing,
    /// Compared with the leader's.
    Leaders,
    /// Compared with a majority's.
    Majority,
}

/// What a learner has answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    digest: i64,
    doubts: bool,
    told: Told,
}

impl Answer {
    pub fn new(digest: i64, doubts: bool) -> Answer {
        Answer { digest, doubts, told: Told::Nothing }
    }
}

/// One question with its answers.
#[derive(Debug)]
struct Round {
    zxid: Zxid,
    /// The leader's, once it has applied that much itself.
    own: Option<i64>,
    answers: BTreeMap<LinkId, Answer>,
    /// What each server that votes has answered, the leader included.
    votes: BTreeMap<ServerId, i64>,
    /// What a majority has answered.
    right: Option<i64>,
}

/// What is to be told to one learner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    pub link: LinkId,
    pub differs: Differs,
}

/// Who is to be told what, and what the leader has to hear itself.
type Judged = (Vec<Verdict>, Option<Differs>);

/// Who decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judges<'a> {
    pub verifier: &'a Verifier,
    /// Every server that votes and follows can be asked.
    pub all_can_say: bool,
}

/// The questions of one reign.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    rounds: VecDeque<Round>,
}

impl Digests {
    /// What is the digest at `zxid`? False when that was asked already.
    pub fn ask(&mut self, zxid: Zxid) -> bool {
        if self.rounds.back().is_some_and(|r| r.zxid >= zxid) {
            return false;
        }
        if self.rounds.len() == limits::DIGEST_ROUNDS {
            self.rounds.pop_front();
        }
        let (answers, votes) = (BTreeMap::new(), BTreeMap::new());
        self.rounds.push_back(Round { zxid, own: None, answers, votes, right: None });
        true
    }

    /// The leader, `me`, has `digest` there.
    pub fn own(&mut self, judges: Judges<'_>, me: ServerId, zxid: Zxid, digest: i64) -> Judged {
        let Some(round) = self.rounds.iter_mut().find(|r| r.zxid == zxid) else { return (Vec::new(), None) };
        round.own = Some(digest);
        round.votes.insert(me, digest);
        round.judge(judges)
    }

    /// A learner has answered; `voter`: if it votes, as whom.
    pub fn answer(
        &mut self,
        judges: Judges<'_>,
        (link, voter): (LinkId, Option<ServerId>),
        zxid: Zxid,
        answer: Answer,
    ) -> Judged {
        let Some(round) = self.rounds.iter_mut().find(|r| r.zxid == zxid) else { return (Vec::new(), None) };
        if let Some(server) = voter {
            round.votes.insert(server, answer.digest);
        }
        round.answers.insert(link, answer);
        round.judge(judges)
    }

    /// Whether the digest there was asked for, and answers count.
    pub fn knows(&self, zxid: Zxid) -> bool {
        self.rounds.iter().any(|r| r.zxid == zxid)
    }

    pub fn left(&mut self, link: LinkId) {
        self.rounds.iter_mut().for_each(|r| {
            r.answers.remove(&link);
        });
    }
}

impl Round {
    fn judge(&mut self, judges: Judges<'_>) -> Judged {
        let has = |d: i64| judges.verifier.is_quorum(|s| self.votes.get(&s) == Some(&d));
        self.right = self.right.or_else(|| self.votes.values().copied().find(|&d| has(d)));
        let (wanted, told) = match (self.right, self.own) {
            (Some(right), _) => (right, Told::Majority),
            (None, _) if !judges.all_can_say => return (self.go_on(), None),
            (None, Some(own)) => (own, Told::Leaders),
            (None, None) => return (Vec::new(), None),
        };
        let (zxid, by_majority) = (self.zxid, told == Told::Majority);
        let differs = |found| Differs { zxid, wanted, found, by_majority };
        let mut verdicts = Vec::new();
        for (&link, a) in self.answers.iter_mut().filter(|(_, a)| a.told < told) {
            let was = core::mem::replace(&mut a.told, told);
            // Whose answer fits, and who has no doubts, need not hear of it.
            if a.digest != wanted || a.doubts || was == Told::Leaders {
                verdicts.push(Verdict { link, differs: differs(a.digest) });
            }
        }
        let own = self.own.filter(|&own| by_majority && own != wanted);
        (verdicts, own.map(differs))
    }

    /// Nobody can say who is right: whoever has doubts has them for nothing.
    fn go_on(&mut self) -> Vec<Verdict> {
        let (zxid, by_majority) = (self.zxid, false);
        let doubting = self.answers.iter_mut().filter(|(_, a)| a.doubts && a.told == Told::Nothing);
        let verdict = |(&link, a): (&LinkId, &mut Answer)| {
            a.told = Told::Leaders;
            Verdict { link, differs: Differs { zxid, wanted: a.digest, found: a.digest, by_majority } }
        };
        doubting.map(verdict).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// The leader is 1, has 7, and answers first; servers 2, 3, … answer in turn, each with its digest. Gives who is told that it
    /// differs: from a majority, and from the leader alone.
    fn told(voters: i64, answers: &[(i64, i64)]) -> (Vec<i64>, Vec<i64>) {
        let verifier = Verifier::majority((1..=voters).map(ServerId).collect());
        let judges = Judges { verifier: &verifier, all_can_say: true };
        let zxid = Zxid::from_u64(5);
        let mut digests = Digests::default();
        assert!(digests.ask(zxid));
        let mut judged = vec![digests.own(judges, ServerId(1), zxid, 7)];
        for &(server, digest) in answers {
            let from = (LinkId(server as u64), Some(ServerId(server)).filter(|_| server <= voters));
            judged.push(digests.answer(judges, from, zxid, Answer::new(digest, false)));
        }
        let (mut majority, mut leaders) = (vec![], vec![]);
        for (verdicts, own) in judged {
            majority.extend(own.map(|_| 1));
            for Verdict { link, differs } in
                verdicts.into_iter().filter(|v| v.differs.wanted != v.differs.found)
            {
                if differs.by_majority { &mut majority } else { &mut leaders }.push(link.0 as i64);
            }
        }
        majority.dedup();
        (majority, leaders)
    }

    #[test]
    fn who_is_outside_the_majority_differs() {
        for (voters, answers, majority, leaders) in [
            (3, &[(2, 7), (3, 7)][..], &[][..], &[][..]),
            (3, &[(2, 7), (3, 8)], &[3], &[]),
            (3, &[(2, 8), (3, 7)], &[2], &[2]),
            // The leader is alone with its digest.
            (3, &[(2, 8), (3, 8)], &[1], &[2]),
            // Nobody can tell: one is missing, or all are different.
            (3, &[(2, 8)], &[], &[2]),
            (3, &[(2, 8), (3, 9)], &[], &[2, 3]),
            (5, &[(2, 8), (3, 8), (4, 7)], &[], &[2, 3]),
            (5, &[(2, 8), (3, 8), (4, 7), (5, 7)], &[2, 3], &[2, 3]),
            (5, &[(2, 8), (3, 8), (4, 8), (5, 7)], &[1, 5], &[2, 3]),
            // An observer has no say, and hears the verdict.
            (3, &[(4, 8), (2, 8)], &[], &[4, 2]),
            (3, &[(4, 8), (2, 7)], &[4], &[4]),
            (1, &[(2, 8)], &[2], &[]),
        ] {
            assert_eq!(told(voters, answers), (majority.to_vec(), leaders.to_vec()), "{voters}: {answers:?}");
        }
    }

    #[test]
    fn doubts_end_with_the_word_of_the_leader_or_of_a_majority() {
        let verifier = Verifier::majority((1..=5).map(ServerId).collect());
        let judges = Judges { verifier: &verifier, all_can_say: true };
        let zxid = Zxid::from_u64(5);
        let (two, three) = ((LinkId(2), Some(ServerId(2))), (LinkId(3), Some(ServerId(3))));
        let mut digests = Digests::default();
        digests.ask(zxid);
        // The leader has not come so far itself.
        assert_eq!(digests.answer(judges, two, zxid, Answer::new(7, true)), (vec![], None));
        assert_eq!(digests.answer(judges, three, zxid, Answer::new(7, false)), (vec![], None));
        let fits = Differs { zxid, wanted: 7, found: 7, by_majority: true };
        let verdict = Verdict { link: LinkId(2), differs: fits };
        assert_eq!(digests.own(judges, ServerId(1), zxid, 7), (vec![verdict], None));
        // Who comes later has its answer at once; who has left has none.
        digests.left(LinkId(2));
        let late = (LinkId(9), Some(ServerId(4)));
        let verdict = Verdict { link: LinkId(9), differs: fits };
        assert_eq!(digests.answer(judges, late, zxid, Answer::new(7, true)), (vec![verdict], None));
    }

    #[test]
    fn the_majority_may_be_there_before_the_leader() {
        let verifier = Verifier::majority((1..=3).map(ServerId).collect());
        let judges = Judges { verifier: &verifier, all_can_say: true };
        let zxid = Zxid::from_u64(5);
        let mut digests = Digests::default();
        digests.ask(zxid);
        for server in [2, 3] {
            let from = (LinkId(server as u64), Some(ServerId(server)));
            assert_eq!(digests.answer(judges, from, zxid, Answer::new(8, false)), (vec![], None));
        }
        let differs = Differs { zxid, wanted: 8, found: 7, by_majority: true };
        assert_eq!(digests.own(judges, ServerId(1), zxid, 7), (vec![], Some(differs)));
    }

    #[test]
    fn answers_to_questions_that_nobody_remembers_count_for_nothing() {
        let verifier = Verifier::majority(vec![ServerId(1), ServerId(2)]);
        let judges = Judges { verifier: &verifier, all_can_say: true };
        let mut digests = Digests::default();
        for zxid in 1..=limits::DIGEST_ROUNDS as u64 + 1 {
            assert!(digests.ask(Zxid::from_u64(zxid)));
            assert!(!digests.ask(Zxid::from_u64(zxid)));
            digests.own(judges, ServerId(1), Zxid::from_u64(zxid), 7);
        }
        let mut answer = |zxid| {
            let from = (LinkId(2), Some(ServerId(2)));
            digests.answer(judges, from, Zxid::from_u64(zxid), Answer::new(8, false)).0.len()
        };
        assert_eq!((answer(1), answer(2), answer(99)), (0, 1, 0));
    }

    #[test]
    fn beside_servers_that_can_not_be_asked_only_a_majority_stops_anybody() {
        let verifier = Verifier::majority((1..=5).map(ServerId).collect());
        let judges = Judges { verifier: &verifier, all_can_say: false };
        let zxid = Zxid::from_u64(5);
        let of = |server: i64| (LinkId(server as u64), Some(ServerId(server)));
        let mut digests = Digests::default();
        digests.ask(zxid);
        assert_eq!(digests.own(judges, ServerId(1), zxid, 7), (vec![], None));
        assert_eq!(digests.answer(judges, of(2), zxid, Answer::new(8, false)), (vec![], None));
        // Not even if the leader's is another one.
        let differs = Differs { zxid, wanted: 9, found: 9, by_majority: false };
        let verdict = Verdict { link: LinkId(3), differs };
        assert_eq!(digests.answer(judges, of(3), zxid, Answer::new(9, true)), (vec![verdict], None));
        assert_eq!(digests.answer(judges, of(4), zxid, Answer::new(7, false)), (vec![], None));
        let (verdicts, own) = digests.answer(judges, of(5), zxid, Answer::new(7, false));
        assert!(own.is_none() && verdicts.iter().all(|v| v.differs.wanted == 7 && v.differs.by_majority));
        assert_eq!(verdicts.iter().map(|v| v.link.0).collect::<Vec<_>>(), [2, 3]);
    }
}
