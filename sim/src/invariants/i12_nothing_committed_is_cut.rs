//! I12: no log is cut behind less than a quorum has; no start loses what was durable; a tree that takes the place of a
//! server's own state has everything committed that the server had.

use crate::book::{Book, Fact};
use crate::invariants::Invariant;
use proto::Zxid;

/// See the module.
#[derive(Debug, Default)]
pub struct NothingCommittedIsCut;

impl Invariant for NothingCommittedIsCut {
    fn name(&self) -> &'static str {
        "NothingCommittedIsCut"
    }

    fn check(&mut self, book: &Book, fact: &Fact<'_>) -> Result<(), String> {
        let (server, end) = match *fact {
            Fact::Cut { server, end } => (server, end),
            Fact::Installs { server, link, base } => {
                let Some(sent) = book.sent(link, base) else {
                    return Err(format!("{server} installs a tree that nobody has sent"));
                };
                let view = &book.servers[server];
                if view.distrusted {
                    // What was committed when it came back is here before it has a vote again, and what was not is
                    // committed by a quorum without what its old disk had.
                    return Ok(());
                }
                let missing = |z: &&Zxid| book.place(**z).is_some() && sent.binary_search(z).is_err();
                return match view.log[..view.durable].iter().find(missing) {
                    Some(lost) => Err(format!("{server} had {lost} on disk and installs a tree without it")),
                    None => Ok(()),
                };
            }
            Fact::Recovered { server, end, base } => {
                let view = &book.servers[server];
                let gone = |z: &&Zxid| **z > end && **z > base;
                // In an ensemble a cut may have been under way, of what is not committed.
                let alone = book.servers.len() == 1;
                let lost =
                    view.log[..view.durable].iter().find(|z| gone(z) && (alone || book.place(**z).is_some()));
                if let Some(lost) = lost {
                    return Err(format!("{server} had {lost} on disk and comes back with {end}"));
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        if end < book.committed()
            && book.servers[server].log.iter().any(|&z| z > end && book.place(z).is_some())
        {
            return Err(format!("{server} cuts its log behind {end}, and {} is committed", book.committed()));
        }
        Ok(())
    }
}
