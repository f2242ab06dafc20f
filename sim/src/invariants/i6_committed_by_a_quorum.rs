//! I6: what is committed is on the disks of a quorum, and commits go out in order.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::Zxid;
use proto::peer::kind;

/// See the module.
#[derive(Debug, Default)]
pub struct CommittedByAQuorum;

impl Invariant for CommittedByAQuorum {
    fn name(&self) -> &'static str {
        "CommittedByAQuorum"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let (zxid, who) = match *fact {
            Fact::Applied { server, zxid, .. } if zxid > book.committed() => (zxid, server),
            Fact::Sent { from, link, packet, to_leader: false, .. } if packet.kind == kind::COMMIT => {
                let zxid = Zxid::from_wire(packet.zxid);
                let link = book.links.get(&link);
                if link.is_none_or(|l| l.new_leader.is_none()) {
                    // The history of the leader, while it brings a learner up to date: acknowledged by NEWLEADER's answer.
                    return Ok(());
                }
                let last = link.map_or(Zxid::ZERO, |l| l.committed);
                if zxid <= last {
                    return Err(format!("{from} commits {zxid} after {last} on one link"));
                }
                if zxid <= book.committed() {
                    return Ok(());
                }
                (zxid, from)
            }
            _ => return Ok(()),
        };
        if book.is_quorum(|v| v.had_durably(zxid)) {
            return Ok(());
        }
        Err(format!("{who} commits {zxid}, which is not on the disks of a quorum"))
    }
}
