//! I2: the accepted and the current epoch of a server never decrease.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct EpochsOnlyGrow;

impl Invariant for EpochsOnlyGrow {
    fn name(&self) -> &'static str {
        "EpochsOnlyGrow"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Epochs { server, accepted, current } = *fact else { return Ok(()) };
        let before = book.servers[server].epochs;
        if accepted >= before.0 && current >= before.1 {
            return Ok(());
        }
        Err(format!("{server} went from {before:?} to {accepted} and {current}"))
    }
}
