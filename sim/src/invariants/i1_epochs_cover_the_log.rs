//! I1: accepted epoch >= current epoch >= epoch of the last logged zxid, on disk, at every instant.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;

/// See the module.
#[derive(Debug, Default)]
pub struct EpochsCoverTheLog;

impl Invariant for EpochsCoverTheLog {
    fn name(&self) -> &'static str {
        "EpochsCoverTheLog"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let (server, accepted, current, end) = match *fact {
            Fact::Epochs { server, accepted, current } => {
                (server, accepted, current, book.servers[server].end())
            }
            Fact::Appended { server, zxid, .. } => {
                let (accepted, current) = book.servers[server].epochs;
                (server, accepted, current, zxid)
            }
            _ => return Ok(()),
        };
        if accepted >= current && current >= end.epoch() {
            return Ok(());
        }
        Err(format!("{server} has accepted {accepted}, is in {current}, and logs {end}"))
    }
}
