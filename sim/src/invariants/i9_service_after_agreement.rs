//! I9: clients are served only when a quorum has entered the epoch, by a learner only behind UPTODATE.

use crate::book::{Book, Fact, LinkView};
use crate::invariants::Invariant;
use zab::Service;

/// See the module.
#[derive(Debug, Default)]
pub struct ServiceAfterAgreement;

impl Invariant for ServiceAfterAgreement {
    fn name(&self) -> &'static str {
        "ServiceAfterAgreement"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Serves { server, service, .. } = *fact else { return Ok(()) };
        let epoch = book.servers[server].epochs.1;
        match service {
            Service::None | Service::ReadOnly => Ok(()),
            Service::Leading if book.has_entered(epoch) => Ok(()),
            Service::Leading => {
                Err(format!("{server} serves as leader of {epoch}, which no quorum has entered"))
            }
            Service::Following | Service::Observing => {
                let told = |l: &LinkView| l.learner == server && l.up_to_date && l.new_leader == Some(epoch);
                if book.links.values().any(told) {
                    return Ok(());
                }
                Err(format!("{server} serves in epoch {epoch}, and was never told UPTODATE"))
            }
        }
    }
}
