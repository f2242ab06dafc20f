//! I14: after the same txn the trees of all servers have the same digest.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct DigestsAgree;

impl Invariant for DigestsAgree {
    fn name(&self) -> &'static str {
        "DigestsAgree"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Stands { server, zxid, digest, mismatches } = *fact else { return Ok(()) };
        if book.servers[server].spoilt {
            return Ok(());
        }
        // A leader with a spoilt tree writes digests that are not those of the others.
        if mismatches > 0 && !book.is_spoilt {
            return Err(format!("{server} at {zxid}: {mismatches} digests in records were not the tree's"));
        }
        match book.digests.get(&zxid) {
            Some(&known) if known != digest => {
                Err(format!("{server} at {zxid} has {digest:#x}, others {known:#x}"))
            }
            _ => Ok(()),
        }
    }
}
