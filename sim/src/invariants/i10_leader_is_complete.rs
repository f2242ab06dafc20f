//! I10: what a quorum has acknowledged survives: a leader that comes to serve has every committed txn up to its epoch. (One that
//! stood still meanwhile may find the acknowledgements of its epoch when it wakes, while others are in a later one already: it
//! serves, and commits nothing.)

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::Zxid;
use zab::Service;

/// See the module.
#[derive(Debug, Default)]
pub struct LeaderIsComplete;

impl Invariant for LeaderIsComplete {
    fn name(&self) -> &'static str {
        "LeaderIsComplete"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Serves { server, service: Service::Leading, .. } = *fact else { return Ok(()) };
        let view = &book.servers[server];
        let lacks = |z: &Zxid| z.epoch() <= view.epochs.1 && !view.has_durably(*z);
        let missing = book.truth.iter().map(|e| Zxid::from_wire(e.zxid)).find(lacks);
        match missing {
            Some(z) => Err(format!("{server} leads epoch {} and lacks {z}", view.epochs.1)),
            None => Ok(()),
        }
    }
}
