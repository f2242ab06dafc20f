//! I3: who sends LEADERINFO, or answers it with ACKEPOCH, has the accepted epoch on disk; it votes for an epoch once.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::peer::kind;
use proto::{Epoch, Zxid};
use std::collections::HashSet;

/// See the module.
#[derive(Debug, Default)]
pub struct PromiseIsDurable {
    promised: HashSet<(usize, Epoch)>,
}

impl Invariant for PromiseIsDurable {
    fn name(&self) -> &'static str {
        "PromiseIsDurable"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        if let Fact::Died { server, wiped: true } = *fact {
            self.promised.retain(|p| p.0 != server);
        }
        if let Fact::Sent { from, packet, to_leader: false, .. } = *fact
            && packet.kind == kind::LEADERINFO
        {
            let (epoch, accepted) = (Zxid::from_wire(packet.zxid).epoch(), book.servers[from].epochs.0);
            if accepted < epoch {
                return Err(format!("{from} proposes epoch {epoch}, and its disk has {accepted}"));
            }
        }
        let Fact::Sent { from, link, packet, to_leader: true, .. } = *fact else { return Ok(()) };
        if packet.kind != kind::ACKEPOCH || !book.voters.contains(&from) {
            return Ok(());
        }
        let Some(epoch) = book.links.get(&link).and_then(|l| l.proposed) else {
            return Err(format!("{from} answers an epoch that nobody proposed"));
        };
        let accepted = book.servers[from].epochs.0;
        if accepted < epoch {
            return Err(format!("{from} promises epoch {epoch}, and its disk has {accepted}"));
        }
        let votes = packet.data.is_some_and(|d| d != [0xff; 4]);
        if votes && !self.promised.insert((from, epoch)) {
            return Err(format!("{from} promises epoch {epoch} twice"));
        }
        Ok(())
    }
}
