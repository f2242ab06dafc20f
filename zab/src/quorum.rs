//! Which sets of servers may decide.

use alloc::vec::Vec;
use proto::ServerId;

/// Decides whether a set of servers is a quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verifier {
    /// More than half of these voters (Apache's QuorumMaj).
    Majority {
        /// The voters, without repetition, in ascending order.
        voters: Vec<ServerId>,
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

    /// The servers that vote.
    pub fn voters(&self) -> &[ServerId] {
        match self {
            Verifier::Majority { voters } => voters,
        }
    }

    /// Whether `server` votes.
    pub fn is_voter(&self, server: ServerId) -> bool {
        self.voters().binary_search(&server).is_ok()
    }

    /// Whether the voters for which `has` holds are a quorum.
    pub fn is_quorum(&self, mut has: impl FnMut(ServerId) -> bool) -> bool {
        match self {
            Verifier::Majority { voters } => voters.iter().filter(|&&v| has(v)).count() > voters.len() / 2,
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
}
