//! I4: who acknowledges NEWLEADER has everything that was sent before it on disk, and then the epoch.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::Zxid;
use proto::peer::kind;

/// See the module.
#[derive(Debug, Default)]
pub struct NewLeaderIsDurable;

impl Invariant for NewLeaderIsDurable {
    fn name(&self) -> &'static str {
        "NewLeaderIsDurable"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Sent { from, link, packet, to_leader: true, .. } = *fact else { return Ok(()) };
        let zxid = Zxid::from_wire(packet.zxid);
        if packet.kind != kind::ACK || zxid.counter() != 0 {
            return Ok(());
        }
        let Some(link) = book.links.get(&link) else { return Ok(()) };
        let view = &book.servers[from];
        if view.epochs.1 < zxid.epoch() {
            return Err(format!(
                "{from} acknowledges epoch {}, and its disk has {}",
                zxid.epoch(),
                view.epochs.1
            ));
        }
        if link.sync_end != Zxid::ZERO && !view.has_durably(link.sync_end) && link.sync_end.counter() != 0 {
            return Err(format!(
                "{from} acknowledges epoch {} without {} on disk",
                zxid.epoch(),
                link.sync_end
            ));
        }
        Ok(())
    }
}
