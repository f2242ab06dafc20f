//! I8: UPTODATE goes out only when a quorum has entered the epoch: its history is on their disks, or was on one that is lost.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::peer::kind;

/// See the module.
#[derive(Debug, Default)]
pub struct UpToDateAfterAQuorum;

impl Invariant for UpToDateAfterAQuorum {
    fn name(&self) -> &'static str {
        "UpToDateAfterAQuorum"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Sent { from, link, packet, to_leader: false, .. } = *fact else { return Ok(()) };
        if packet.kind != kind::UPTODATE {
            return Ok(());
        }
        let Some(epoch) = book.links.get(&link).and_then(|l| l.new_leader) else {
            return Err(format!("{from} says UPTODATE before NEWLEADER"));
        };
        if book.has_entered(epoch) {
            return Ok(());
        }
        Err(format!("{from} says UPTODATE in epoch {epoch}, which no quorum has entered"))
    }
}
