//! I7: a server applies what stands in its own log, durably: it never shows what it could lose.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct AppliedIsLogged;

impl Invariant for AppliedIsLogged {
    fn name(&self) -> &'static str {
        "AppliedIsLogged"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Applied { server, zxid, .. } = *fact else { return Ok(()) };
        if book.servers[server].has_durably(zxid) {
            return Ok(());
        }
        Err(format!("{server} applies {zxid}, and its disk ends at {}", book.servers[server].durable_end()))
    }
}
