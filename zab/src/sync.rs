//! How a learner is brought up to date: decided by the last zxid of its history (quorum protocol, section 4.3).
//!
//! ```text
//!   own history:   ... q ........ committed .... last
//!   learner:       ... q = last                          DIFF from q
//!   learner:       ... q, x, y                           TRUNC to q, then what follows q
//!   learner:       ends before what is in memory         ask the log on disk, else SNAP
//! ```
//! q is the last record of the own history at or before the learner's. It is the learner's too: histories differ only
//! in what an earlier leader proposed without a quorum.

use crate::history::History;
use proto::Zxid;

/// What is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plan {
    /// Everything behind `from`, which the learner has.
    Diff { from: Zxid },
    /// Drop everything behind `to`, then as a DIFF.
    Trunc { to: Zxid },
    /// The tree.
    Snap,
    /// Memory does not reach back so far.
    AskLog,
}

/// The plan, out of what is in memory. `falconer`: the learner can cut its log
/// anywhere, which Apache's can't across epochs, and may keep what is still in flight.
pub(crate) fn plan(history: &History, committed: Zxid, last: Zxid, falconer: bool) -> Plan {
    if last.to_wire() < 0 {
        // It has nothing, or does not trust what it has.
        return Plan::Snap;
    }
    match history.find(last) {
        Some(q) => decide(last, q, committed, falconer),
        None => Plan::AskLog,
    }
}

/// The plan, after the log on disk was asked.
pub(crate) fn with_log(committed: Zxid, last: Zxid, found: Option<Zxid>, falconer: bool) -> Plan {
    found.map_or(Plan::Snap, |q| decide(last, q, committed, falconer))
}

fn decide(last: Zxid, q: Zxid, committed: Zxid, falconer: bool) -> Plan {
    // The start of an epoch is no record: who stands there has everything before it.
    let has_it = q == last || last.counter() == 0;
    if has_it && (falconer || q <= committed) {
        Plan::Diff { from: q }
    } else if falconer || q >= committed || q.epoch() == last.epoch() {
        // What is in flight is cut too: TRUNC can't say that it is not committed yet. It is sent again behind it, and
        // no acknowledgement of it counts any more.
        Plan::Trunc { to: q.min(committed) }
    } else {
        Plan::Snap
    }
}
