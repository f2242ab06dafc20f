//! I10: what a quorum has acknowledged survives: a leader that serves has every committed txn.

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
        let missing = book.truth.iter().map(|e| Zxid::from_wire(e.zxid)).find(|&z| !view.has_durably(z));
        match missing {
            Some(z) => Err(format!("{server} leads epoch {} and lacks {z}", view.epochs.1)),
            None => Ok(()),
        }
    }
}
