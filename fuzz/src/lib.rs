//! What must hold for any bytes that come from outside.
//!
//! Each *target* is a function from bytes to nothing that panics when a property is broken: every decoder ends without
//! a panic, takes no memory on the word of a length, reads back what it wrote, and keeps what it promises (zxids that
//! rise, paths that Apache would accept). libFuzzer drives the targets with coverage (`fuzz/libfuzzer`, needs
//! `cargo-fuzz`); `tests/targets.rs` drives the same functions with seeds and fixed mutations, with any compiler.
//!
//! ```text
//!   seeds() ── mutate (libFuzzer, or Mutator) ──► run(bytes)
//! ```
//!
//! Bytes behind a checksum would hardly ever get past it: such targets take a first byte that says whether the
//! checksums are made right again after the mutation.
//!
//! Not here: the sockets (`interop/run-badinput.sh`), and damage to files that somebody acknowledged, where the answer
//! matters and not only that there is one (the tests of `wal` and `snapshot`).

mod files;
mod mutate;
mod peers;
mod records;
mod text;

pub use files::{apache_log, apache_snapshot, snapshot_file, snapshot_part, superblock, wal_segment};
pub use mutate::Mutator;
pub use peers::{peer_initial, peer_notification, peer_packets, peer_tree};
pub use records::{client, state, txn};
pub use text::{path, words, zoo_cfg};

/// A function that must not panic, and inputs near which the interesting ones lie.
pub struct Target {
    /// The name of its libFuzzer program.
    pub name: &'static str,
    /// Panics when a property is broken.
    pub run: fn(&[u8]),
    /// Valid inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "client", run: client, seeds: records::client_seeds },
    Target { name: "txn", run: txn, seeds: records::txn_seeds },
    Target { name: "state", run: state, seeds: records::state_seeds },
    Target { name: "path", run: path, seeds: text::path_seeds },
    Target { name: "words", run: words, seeds: text::word_seeds },
    Target { name: "zoo_cfg", run: zoo_cfg, seeds: text::zoo_cfg_seeds },
    Target { name: "wal_segment", run: wal_segment, seeds: files::wal_segment_seeds },
    Target { name: "superblock", run: superblock, seeds: files::superblock_seeds },
    Target { name: "apache_log", run: apache_log, seeds: files::apache_log_seeds },
    Target { name: "snapshot_file", run: snapshot_file, seeds: files::snapshot_file_seeds },
    Target { name: "snapshot_part", run: snapshot_part, seeds: files::snapshot_part_seeds },
    Target { name: "apache_snapshot", run: apache_snapshot, seeds: files::apache_snapshot_seeds },
    Target { name: "peer_packets", run: peer_packets, seeds: peers::packet_seeds },
    Target { name: "peer_tree", run: peer_tree, seeds: peers::tree_seeds },
    Target { name: "peer_initial", run: peer_initial, seeds: peers::initial_seeds },
    Target { name: "peer_notification", run: peer_notification, seeds: peers::notification_seeds },
];
