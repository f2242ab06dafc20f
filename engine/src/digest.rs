//! The digest of the tree: Apache's formula, version 2 (semantics, section 12).
//!
//! ```text
//! znode  = CRC-32( path | value | czxid mzxid pzxid ctime mtime version cversion aversion owner )
//! tree   = wrapping sum of all znodes; the root counts once, with the empty path;
//!          znodes below /zookeeper/ count 0
//! ```
//!
//! Most changes touch a parent's metadata only. So each znode keeps the CRC of its path and value, and a change
//! of the metadata costs sixty more bytes, never the value again.

use proto::StatPersisted;

/// What begins the path of each znode that does not count.
const EXCLUDED: &[u8] = b"/zookeeper/";

/// The contribution of one znode to the digest of the tree; 0 below `/zookeeper/`. The root's path may be given
/// as `/` or as the empty string.
pub fn node_digest(path: &str, data: Option<&[u8]>, stat: &StatPersisted) -> u32 {
    let body = [path.as_bytes(), data.unwrap_or_default()].concat();
    of_prefix(path.as_bytes(), prefix(&body, path.len()), stat)
}

/// The CRC of what precedes the metadata: a path of `path_len` bytes and the value behind it.
pub(crate) fn prefix(body: &[u8], path_len: usize) -> u32 {
    crc32fast::hash(if &body[..path_len] == b"/" { &body[1..] } else { body })
}

/// The contribution of a znode whose path and value have the CRC `prefix`.
pub(crate) fn of_prefix(path: &[u8], prefix: u32, stat: &StatPersisted) -> u32 {
    if path.starts_with(EXCLUDED) {
        return 0;
    }
    let mut block = [0; StatPersisted::LEN];
    let longs = [stat.czxid, stat.mzxid, stat.pzxid, stat.ctime, stat.mtime];
    for (field, v) in block.chunks_exact_mut(8).zip(longs) {
        field.copy_from_slice(&v.to_be_bytes());
    }
    block[40..44].copy_from_slice(&stat.version.to_be_bytes());
    block[44..48].copy_from_slice(&stat.cversion.to_be_bytes());
    block[48..52].copy_from_slice(&stat.aversion.to_be_bytes());
    block[52..60].copy_from_slice(&stat.ephemeral_owner.to_be_bytes());
    let mut crc = crc32fast::Hasher::new_with_initial(prefix);
    crc.update(&block);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_tree_has_the_digest_of_apache() {
        // Observed in a log written by Apache (storage format, section 3.2): root and /zookeeper, all zero.
        let zero = StatPersisted::default();
        let sum = u64::from(node_digest("", Some(b""), &zero))
            + u64::from(node_digest("/zookeeper", Some(b""), &zero));
        assert_eq!(sum, 0x51c6_d660);
        assert_eq!(node_digest("/", None, &zero), node_digest("", Some(b""), &zero));
        assert_eq!(node_digest("/zookeeper/config", Some(b"x"), &zero), 0);
        assert_ne!(node_digest("/zookeeperish", None, &zero), 0);
    }

    #[test]
    fn every_field_counts() {
        let base = StatPersisted::default();
        let variants = [
            StatPersisted { czxid: 1, ..base },
            StatPersisted { mzxid: 1, ..base },
            StatPersisted { pzxid: 1, ..base },
            StatPersisted { ctime: 1, ..base },
            StatPersisted { mtime: 1, ..base },
            StatPersisted { version: 1, ..base },
            StatPersisted { cversion: 1, ..base },
            StatPersisted { aversion: 1, ..base },
            StatPersisted { ephemeral_owner: 1, ..base },
            base,
        ];
        let mut seen: Vec<u32> = variants.iter().map(|s| node_digest("/a", Some(b"v"), s)).collect();
        seen.push(node_digest("/b", Some(b"v"), &base));
        seen.push(node_digest("/a", Some(b"w"), &base));
        let n = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), n);
    }
}
