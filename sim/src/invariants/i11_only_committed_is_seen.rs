//! I11: nothing uncommitted is visible to a client.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct OnlyCommittedIsSeen;

impl Invariant for OnlyCommittedIsSeen {
    fn name(&self) -> &'static str {
        "OnlyCommittedIsSeen"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Replied { server, zxid, .. } = *fact else { return Ok(()) };
        if zxid <= book.committed() || zxid.counter() == 0 {
            return Ok(());
        }
        Err(format!("{server} shows {zxid}, and {} is committed", book.committed()))
    }
}
