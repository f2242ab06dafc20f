//! Z7: what belongs to a smaller epoch is applied first.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct GlobalPrimaryOrder;

impl Invariant for GlobalPrimaryOrder {
    fn name(&self) -> &'static str {
        "GlobalPrimaryOrder"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Applied { server, zxid, .. } = *fact else { return Ok(()) };
        let before = book.servers[server].applied;
        if zxid.epoch() >= before.epoch() {
            return Ok(());
        }
        Err(format!("{server} applies {zxid} after {before}"))
    }
}
