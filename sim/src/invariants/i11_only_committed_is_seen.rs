//! I11: nothing uncommitted is visible to a client; of a server without a quorum, nothing that it could lose.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use zab::Service;

/// See the module.
#[derive(Debug, Default)]
pub struct OnlyCommittedIsSeen;

impl Invariant for OnlyCommittedIsSeen {
    fn name(&self) -> &'static str {
        "OnlyCommittedIsSeen"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Replied { server, zxid, .. } = *fact else { return Ok(()) };
        if zxid <= book.committed() || zxid.counter() == 0 {
            return Ok(());
        }
        let view = &book.servers[server];
        if view.service == Some(Service::ReadOnly) && zxid <= view.durable_end() {
            return Ok(());
        }
        Err(format!("{server} shows {zxid}, and {} is committed", book.committed()))
    }
}
