//! Z4: of two servers that serve clients one has applied all that the other has: a tree that is shown stands at a committed txn.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use zab::Service;

/// See the module.
#[derive(Debug, Default)]
pub struct Agreement;

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "Agreement"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Serves { server, service, applied } = *fact else { return Ok(()) };
        let shown = !matches!(service, Service::None | Service::ReadOnly);
        // An epoch's start is a place too, just behind the last txn of the epoch before.
        let known = applied <= book.origin || applied.counter() == 0 || book.place(applied).is_some();
        // What a new leader has and nobody has applied yet is committed by its quorum, and applied at once.
        if !shown || known || applied > book.committed() && book.is_quorum(|v| v.had_durably(applied)) {
            return Ok(());
        }
        Err(format!("{server} serves at {applied}, which was not committed"))
    }
}
