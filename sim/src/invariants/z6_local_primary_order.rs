//! Z6: within an epoch txns are applied in the order of their counters, without a gap, from one on.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct LocalPrimaryOrder;

impl Invariant for LocalPrimaryOrder {
    fn name(&self) -> &'static str {
        "LocalPrimaryOrder"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Applied { zxid, .. } = *fact else { return Ok(()) };
        let last = book.committed();
        if zxid <= last {
            return Ok(());
        }
        let follows =
            if zxid.epoch() == last.epoch() { last.next() == Some(zxid) } else { zxid.counter() == 1 };
        if follows { Ok(()) } else { Err(format!("{zxid} was committed right after {last}")) }
    }
}
