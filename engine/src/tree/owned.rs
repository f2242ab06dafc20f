//! Which znodes wait for something: ephemerals for the end of their session, containers for their last child,
//! TTL znodes for their time.

use super::hash::PathHash;
use super::names::NameSet;
use proto::{Owner, SessionId};
use std::collections::BTreeMap;

/// The indexes by owner.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    ephemerals: BTreeMap<SessionId, NameSet>,
    ephemeral_count: usize,
    pub(crate) containers: NameSet,
    pub(crate) ttls: NameSet,
}

impl Owned {
    pub(crate) fn add(&mut self, hash: &PathHash, owner: Owner, path: &[u8]) {
        match owner {
            Owner::Persistent => {}
            Owner::Session(id) => {
                let added = self.ephemerals.entry(SessionId(id)).or_default().insert(hash, path);
                self.ephemeral_count += usize::from(added);
            }
            Owner::Container => {
                self.containers.insert(hash, path);
            }
            Owner::Ttl(_) => {
                self.ttls.insert(hash, path);
            }
        }
    }

    pub(crate) fn remove(&mut self, hash: &PathHash, owner: Owner, path: &[u8]) {
        match owner {
            Owner::Persistent => {}
            Owner::Session(id) => {
                let Some(paths) = self.ephemerals.get_mut(&SessionId(id)) else { return };
                self.ephemeral_count -= usize::from(paths.remove(hash, path));
                if paths.is_empty() {
                    self.ephemerals.remove(&SessionId(id));
                }
            }
            Owner::Container => {
                self.containers.remove(hash, path);
            }
            Owner::Ttl(_) => {
                self.ttls.remove(hash, path);
            }
        }
    }

    /// The ephemerals of a session, which are forgotten here.
    pub(crate) fn take(&mut self, session: SessionId) -> NameSet {
        let paths = self.ephemerals.remove(&session).unwrap_or_default();
        self.ephemeral_count -= paths.len();
        paths
    }

    pub(crate) fn of(&self, session: SessionId) -> impl Iterator<Item = &[u8]> {
        self.ephemerals.get(&session).into_iter().flat_map(NameSet::iter)
    }

    pub(crate) fn by_session(&self) -> impl Iterator<Item = (SessionId, &NameSet)> {
        self.ephemerals.iter().map(|(&s, paths)| (s, paths))
    }

    pub(crate) fn ephemeral_count(&self) -> usize {
        self.ephemeral_count
    }
}
