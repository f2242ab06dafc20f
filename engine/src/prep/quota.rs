//! Quotas, with what is in flight counted in (semantics, section 7).

use crate::Tree;
use proto::{Code, Zxid};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// By how much a txn changes the use of a quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Use {
    pub znodes: i64,
    pub bytes: i64,
}

/// The changes of quotas' use by txns that the tree may not have applied yet.
///
/// Apache compares with the applied use, so that a client that pipelines its creates can exceed a hard limit.
/// Here each request sees those before it. Changes of the limits themselves count once they are applied.
#[derive(Debug, Default)]
pub(super) struct InFlightUse {
    changes: VecDeque<(Zxid, Box<str>, Use)>,
    sums: HashMap<Box<str>, Use, BuildHasherDefault<DefaultHasher>>,
}

impl InFlightUse {
    /// Whether `path` may change the use of its quota, if it has one, by `change`. Returns the path that carries
    /// the quota, for [`InFlightUse::note`].
    pub fn check(&mut self, tree: &Tree, path: &str, change: Use) -> Result<Option<Box<str>>, Code> {
        let Some(quota) = tree.quota_for(path) else { return Ok(None) };
        // Txns are applied beside this: what the tree has counted must not count as in flight, and the other way round.
        self.applied(quota.counted);
        if let Some((znodes, bytes)) = quota.used {
            let in_flight = self.sums.get(&quota.prefix).copied().unwrap_or_default();
            let exceeds = |limit: i64, used: i64, in_flight: i64, change: i64| {
                limit > -1 && change != 0 && used.saturating_add(in_flight).saturating_add(change) > limit
            };
            if exceeds(quota.count_hard_limit, znodes, in_flight.znodes, change.znodes)
                || exceeds(quota.bytes_hard_limit, bytes, in_flight.bytes, change.bytes)
            {
                return Err(Code::QuotaExceeded);
            }
        }
        Ok(Some(quota.prefix))
    }

    /// Notes that `zxid` changes the use of the quota at `prefix`.
    pub fn note(&mut self, zxid: Zxid, prefix: Box<str>, change: Use) {
        let sum = self.sums.entry(prefix.clone()).or_default();
        sum.znodes += change.znodes;
        sum.bytes += change.bytes;
        self.changes.push_back((zxid, prefix, change));
    }

    /// Forgets the changes up to `upto`: the tree counts them.
    pub fn applied(&mut self, upto: Zxid) {
        while self.changes.front().is_some_and(|&(zxid, ..)| zxid <= upto) {
            if let Some((_, prefix, change)) = self.changes.pop_front() {
                self.subtract(&prefix, change);
            }
        }
        if self.changes.is_empty() {
            self.sums.clear();
        }
    }

    /// Forgets the changes by `zxid`, the last one.
    pub fn roll_back(&mut self, zxid: Zxid) {
        while self.changes.back().is_some_and(|&(at, ..)| at == zxid) {
            if let Some((_, prefix, change)) = self.changes.pop_back() {
                self.subtract(&prefix, change);
            }
        }
    }

    fn subtract(&mut self, prefix: &str, change: Use) {
        if let Some(sum) = self.sums.get_mut(prefix) {
            sum.znodes -= change.znodes;
            sum.bytes -= change.bytes;
        }
    }
}
