//! Z3: whatever a server applies was proposed, and with these bytes; whoever logs a zxid logs the same bytes.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct Integrity;

impl Invariant for Integrity {
    fn name(&self) -> &'static str {
        "Integrity"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let (server, zxid, record) = match *fact {
            Fact::Applied { server, zxid, record } | Fact::Appended { server, zxid, record } => {
                (server, zxid, record)
            }
            _ => return Ok(()),
        };
        match book.proposals.get(&zxid) {
            Some(known) if **known != *record => {
                Err(format!("{server} has other bytes for {zxid} than were proposed"))
            }
            None if matches!(fact, Fact::Applied { .. }) && zxid > book.origin => {
                Err(format!("{server} applies {zxid}, which nobody proposed"))
            }
            _ => Ok(()),
        }
    }
}
