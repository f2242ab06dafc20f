//! Z8: before a leader proposes in its epoch it has everything of smaller epochs that anybody ever applies.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::{Epoch, Zxid};
use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

/// See the module.
#[derive(Debug, Default)]
pub struct PrimaryIntegrity {
    began: BTreeMap<Epoch, HashSet<Zxid>>,
}

impl Invariant for PrimaryIntegrity {
    fn name(&self) -> &'static str {
        "PrimaryIntegrity"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        match *fact {
            Fact::Appended { server, zxid, .. } if !self.began.contains_key(&zxid.epoch()) => {
                let view = &book.servers[server];
                let lacks = |z: &Zxid| z.epoch() < zxid.epoch() && !view.has(*z);
                let missing = book.truth.iter().map(|e| Zxid::from_wire(e.zxid)).find(lacks);
                self.began.insert(zxid.epoch(), view.log.iter().copied().collect());
                match missing {
                    Some(z) => Err(format!("{server} begins epoch {} without {z}", zxid.epoch())),
                    None => Ok(()),
                }
            }
            Fact::Applied { server, zxid, .. } if zxid > book.committed() => {
                let later = self.began.range((Bound::Excluded(zxid.epoch()), Bound::Unbounded));
                for (epoch, had) in later {
                    if !had.contains(&zxid) {
                        return Err(format!(
                            "{server} applies {zxid}, which the leader of {epoch} did not have"
                        ));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
