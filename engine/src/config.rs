//! What an operator decides about the tree.

use crate::limits;

/// The settings of a tree, fixed at start.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// Shards: a power of two, at most [`limits::SHARDS_MAX`].
    pub shards: usize,
    /// TTL znodes are recognised (`zookeeper.extendedTypesEnabled`).
    pub extended_types: bool,
    /// Hard quotas refuse (`enforceQuota`).
    pub enforce_quota: bool,
    /// No ACL is checked (`zookeeper.skipACL`).
    pub skip_acl: bool,
    /// The digest is computed and compared (`zookeeper.digest.enabled`).
    pub digest_enabled: bool,
    /// The key of the hash of paths. It should differ from server to server, so that nobody can prepare paths that
    /// collide; it never reaches an output, but a walk goes in the order that it makes. A tree with the key of the tree
    /// that was walked imports it faster.
    pub hash_seed: u64,
}

impl Default for TreeConfig {
    /// Apache's defaults.
    fn default() -> TreeConfig {
        TreeConfig {
            shards: limits::SHARDS,
            extended_types: false,
            enforce_quota: false,
            skip_acl: false,
            digest_enabled: true,
            hash_seed: 0x9e37_79b9_7f4a_7c15,
        }
    }
}
