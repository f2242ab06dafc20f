//! Z2: of the sequences that two servers have applied the shorter one is a prefix of the longer one, byte for byte.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct PrefixConsistency;

impl Invariant for PrefixConsistency {
    fn name(&self) -> &'static str {
        "PrefixConsistency"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Applied { server, zxid, record } = *fact else { return Ok(()) };
        if zxid > book.committed() {
            let before = book.servers[server].applied;
            if before == book.committed() {
                return Ok(());
            }
            return Err(format!(
                "{server} applies {zxid} behind {before}, and others have {}",
                book.committed()
            ));
        }
        match book.place(zxid) {
            None if zxid <= book.origin => Ok(()),
            None => Err(format!("{server} applies {zxid}, which no other has, below {}", book.committed())),
            Some(at) if *book.truth[at].record == *record => Ok(()),
            Some(_) => Err(format!("{server} applies other bytes for {zxid} than the others")),
        }
    }
}
