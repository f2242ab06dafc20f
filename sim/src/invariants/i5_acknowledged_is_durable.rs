//! I5: who acknowledges a txn has it and all before it on disk.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::Zxid;
use proto::peer::kind;

/// See the module.
#[derive(Debug, Default)]
pub struct AcknowledgedIsDurable;

impl Invariant for AcknowledgedIsDurable {
    fn name(&self) -> &'static str {
        "AcknowledgedIsDurable"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Sent { from, packet, to_leader: true, .. } = *fact else { return Ok(()) };
        let zxid = Zxid::from_wire(packet.zxid);
        if packet.kind != kind::ACK || zxid.counter() == 0 {
            return Ok(());
        }
        let end = book.servers[from].durable_end();
        if zxid <= end {
            Ok(())
        } else {
            Err(format!("{from} acknowledges {zxid}, and its disk ends at {end}"))
        }
    }
}
