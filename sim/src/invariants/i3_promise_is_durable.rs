//! I3: who answers LEADERINFO with ACKEPOCH has the accepted epoch on disk; it votes for an epoch once.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::Epoch;
use proto::peer::kind;
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
        let Fact::Sent { from, link, packet, to_leader: true, .. } = *fact else { return Ok(()) };
        if packet.kind != kind::ACKEPOCH {
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
