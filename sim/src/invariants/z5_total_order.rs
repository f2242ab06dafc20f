//! Z5: what one server applies before something else, no server applies after it: nothing is left out, nothing comes twice.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct TotalOrder;

impl Invariant for TotalOrder {
    fn name(&self) -> &'static str {
        "TotalOrder"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Applied { server, zxid, .. } = *fact else { return Ok(()) };
        let before = book.servers[server].applied;
        if zxid <= before {
            return Err(format!("{server} applies {zxid} after {before}"));
        }
        let from = book.truth.partition_point(|e| e.zxid <= before.to_wire());
        match book.truth.get(from) {
            Some(next) if next.zxid < zxid.to_wire() => {
                Err(format!("{server} applies {zxid} right after {before} and leaves out {:#x}", next.zxid))
            }
            _ => Ok(()),
        }
    }
}
