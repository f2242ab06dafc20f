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
    if is_outside(path.as_bytes()) {
        return 0;
    }
    let (path, data) = (if path == "/" { &[] } else { path.as_bytes() }, data.unwrap_or_default());
    // A checksum of one piece costs less than that of three, and most znodes are small.
    let mut piece = [0; 512];
    let (at, end) = (path.len(), path.len() + data.len());
    if let Some(all) = piece.get_mut(..end + StatPersisted::LEN) {
        all[..at].copy_from_slice(path);
        all[at..end].copy_from_slice(data);
        all[end..].copy_from_slice(&stat_block(stat));
        return crc32fast::hash(all);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(path);
    crc.update(data);
    crc.update(&stat_block(stat));
    crc.finalize()
}

/// The CRC of what precedes the metadata: a path of `path_len` bytes and the value behind it.
pub(crate) fn prefix(body: &[u8], path_len: usize) -> u32 {
    crc32fast::hash(if &body[..path_len] == b"/" { &body[1..] } else { body })
}

/// The contribution of a znode whose path and value have the CRC `prefix`.
pub(crate) fn of_prefix(path: &[u8], prefix: u32, stat: &StatPersisted) -> u32 {
    if is_outside(path) {
        return 0;
    }
    let mut crc = crc32fast::Hasher::new_with_initial(prefix);
    crc.update(&stat_block(stat));
    crc.finalize()
}

/// Whether the znode at `path` does not count.
pub(crate) fn is_outside(path: &[u8]) -> bool {
    path.starts_with(EXCLUDED)
}

/// The metadata as the digest reads it (semantics, section 12).
pub(crate) fn stat_block(s: &StatPersisted) -> [u8; StatPersisted::LEN] {
    let mut block = [0; StatPersisted::LEN];
    for (field, long) in block.chunks_exact_mut(8).zip([s.czxid, s.mzxid, s.pzxid, s.ctime, s.mtime]) {
        field.copy_from_slice(&long.to_be_bytes());
    }
    for (field, int) in block[40..52].chunks_exact_mut(4).zip([s.version, s.cversion, s.aversion]) {
        field.copy_from_slice(&int.to_be_bytes());
    }
    block[52..].copy_from_slice(&s.ephemeral_owner.to_be_bytes());
    block
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
    fn one_piece_and_three_have_the_same_digest() {
        let stat = StatPersisted {
            czxid: 3,
            mtime: -5,
            version: 7,
            ephemeral_owner: i64::MIN,
            ..Default::default()
        };
        for path in ["/", "", "/a", "/zookeeper", "/zookeeper/x"] {
            for len in [0, 1, 100, 440, 447, 448, 449, 450, 451, 452, 512, 1024] {
                let data = vec![len as u8; len];
                let body = [path.as_bytes(), &data].concat();
                let wanted = of_prefix(path.as_bytes(), prefix(&body, path.len()), &stat);
                assert_eq!(node_digest(path, Some(&data), &stat), wanted, "{path} {len}");
            }
        }
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
