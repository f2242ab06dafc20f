//! Z1: in each epoch at most one server ever leads: sends NEWLEADER, or serves clients as the leader.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::peer::kind;
use proto::{Epoch, Zxid};
use std::collections::BTreeMap;
use zab::Service;

/// See the module.
#[derive(Debug, Default)]
pub struct Leadership {
    leaders: BTreeMap<Epoch, usize>,
}

impl Invariant for Leadership {
    fn name(&self) -> &'static str {
        "Leadership"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let (epoch, server) = match *fact {
            Fact::Sent { from, packet, to_leader: false, .. } if packet.kind == kind::NEWLEADER => {
                (Zxid::from_wire(packet.zxid).epoch(), from)
            }
            Fact::Serves { server, service: Service::Leading, .. } => (book.servers[server].epochs.1, server),
            _ => return Ok(()),
        };
        let known = *self.leaders.entry(epoch).or_insert(server);
        // A server that stands alone keeps its epoch over restarts.
        if known == server { Ok(()) } else { Err(format!("{known} and {server} both lead epoch {epoch}")) }
    }
}
