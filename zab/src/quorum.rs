//! Which sets of servers may decide.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proto::ServerId;
use proto::mutant::{self, Mutant};

/// Decides whether a set of servers is a quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verifier {
    /// More than half of these voters (Apache's QuorumMaj).
    Majority {
        /// The voters, without repetition, in ascending order.
        voters: Vec<ServerId>,
    },
    /// More than half of the weight in more than half of the groups that have any (Apache's QuorumHierarchical).
    Hierarchical {
        /// The voters, without repetition, in ascending order.
        voters: Vec<ServerId>,
        /// Each voter's group and weight. Who weighs nothing votes, but can't be elected.
        places: BTreeMap<ServerId, (i64, u64)>,
    },
}

impl Verifier {
    /// A majority of `voters`.
    ///
    /// # Panics
    /// When `voters` is empty: nobody could ever decide anything.
    pub fn majority(mut voters: Vec<ServerId>) -> Verifier {
        voters.sort_unstable();
        voters.dedup();
        assert!(!voters.is_empty(), "an ensemble has at least one voter");
        Verifier::Majority { voters }
    }

    /// Voters in groups, with weights.
    ///
    /// # Panics
    /// When nobody weighs anything: nobody could ever decide anything.
    pub fn hierarchical(places: BTreeMap<ServerId, (i64, u64)>) -> Verifier {
        assert!(places.values().any(|&(_, weight)| weight > 0), "somebody has to weigh something");
        Verifier::Hierarchical { voters: places.keys().copied().collect(), places }
    }

    /// The servers that vote.
    pub fn voters(&self) -> &[ServerId] {
        match self {
            Verifier::Majority { voters } | Verifier::Hierarchical { voters, .. } => voters,
        }
    }

    /// Whether `server` votes.
    pub fn is_voter(&self, server: ServerId) -> bool {
        self.voters().binary_search(&server).is_ok()
    }

    /// What `server` weighs; only who weighs something can be elected.
    pub fn weight(&self, server: ServerId) -> u64 {
        match self {
            Verifier::Majority { .. } => 1,
            Verifier::Hierarchical { places, .. } => places.get(&server).map_or(0, |&(_, weight)| weight),
        }
    }

    /// Whether the voters for which `has` holds are a quorum.
    pub fn is_quorum(&self, mut has: impl FnMut(ServerId) -> bool) -> bool {
        match self {
            Verifier::Majority { voters } => {
                let half =
                    voters.len() / 2 - usize::from(mutant::is(Mutant::QuorumOfHalf) && voters.len() > 1);
                voters.iter().filter(|&&v| has(v)).count() > half
            }
            Verifier::Hierarchical { places, .. } => {
                let mut groups: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
                for (&server, &(group, weight)) in places {
                    let (all, here) = groups.entry(group).or_default();
                    *all += weight;
                    *here += if has(server) { weight } else { 0 };
                }
                groups.retain(|_, &mut (all, _)| all > 0);
                let won = groups.values().filter(|&&(all, here)| here > all / 2).count();
                won > groups.len() / 2
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn more_than_half() {
        for (n, needed) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)] {
            let v = Verifier::majority((1..=n).map(ServerId).collect());
            for have in 0..=n {
                assert_eq!(v.is_quorum(|s| s.0 <= have), have >= needed, "{have} of {n}");
            }
        }
        assert_eq!(Verifier::majority(vec![ServerId(2), ServerId(2)]).voters().len(), 1);
    }

    #[test]
    fn more_than_half_of_the_weight_in_more_than_half_of_the_groups() {
        // Three groups of three; the third server of the last weighs nothing; a fourth group weighs nothing at all.
        let place = |s: i64| (ServerId(s), ((s - 1) / 3, u64::from(s < 9)));
        let v = Verifier::hierarchical((1..=12).map(place).collect());
        let quorum = |set: &[i64]| v.is_quorum(|s| set.contains(&s.0));
        assert!(quorum(&[1, 2, 4, 5]));
        assert!(!quorum(&[1, 4, 7]), "a third of each");
        assert!(!quorum(&[1, 2, 3]), "one whole group");
        assert!(!quorum(&[1, 2, 7, 9]), "half of the weight is not more than half");
        assert!(quorum(&[1, 2, 7, 8]));
        assert_eq!((v.weight(ServerId(9)), v.weight(ServerId(1)), v.weight(ServerId(77))), (0, 1, 0));
        assert!(v.is_voter(ServerId(12)) && !v.is_voter(ServerId(13)));
    }
}
