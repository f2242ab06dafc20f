//! I1: the accepted epoch is never below the current one, nor below the epoch of the last logged zxid; and who serves has a current epoch that covers its log. (While a learner is brought up to date its log may be ahead of its current epoch: the history is made durable first.)

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use zab::Service;

/// See the module.
#[derive(Debug, Default)]
pub struct EpochsCoverTheLog;

impl Invariant for EpochsCoverTheLog {
    fn name(&self) -> &'static str {
        "EpochsCoverTheLog"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let (server, accepted, current, end, serves) = match *fact {
            Fact::Epochs { server, accepted, current } => {
                (server, accepted, current, book.servers[server].end(), false)
            }
            Fact::Appended { server, zxid, .. } => {
                let (accepted, current) = book.servers[server].epochs;
                (server, accepted, current, zxid, false)
            }
            Fact::Serves { server, service, .. } if !matches!(service, Service::None | Service::ReadOnly) => {
                let (accepted, current) = book.servers[server].epochs;
                (server, accepted, current, book.servers[server].end(), true)
            }
            _ => return Ok(()),
        };
        if accepted >= current && accepted >= end.epoch() && (!serves || current >= end.epoch()) {
            return Ok(());
        }
        Err(format!("{server} has accepted {accepted}, is in {current}, and logs {end}"))
    }
}
