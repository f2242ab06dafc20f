//! Measurements, none of them a test: numbers depend on the machine and are shown, never asserted.
//!
//! | what | command | shows |
//! |---|---|---|
//! | `micro/` | `cargo bench -p benches --bench micro` | single steps: codec, prepare, apply, lookup, append, checksum, snapshot chunk |
//! | `commit/` | `cargo run --release -p benches --bin commit -- DIR` | the log's ways to commit in turns, tokio-uring among them |
//! | `compare/` | `cargo run --release -p benches --bin compare` | Falconer and Apache ZooKeeper in turns under the same load |
//! | `tails/` | `cargo run --release -p benches --bin tails` | latency at a fixed rate over trees of several sizes, while snapshots are written and while none is |
//!
//! criterion measures means of tight loops, so it serves `micro/` only; a commit is judged by its tail and next to
//! its rivals in the same minute, so `commit/` and `compare/` keep histograms and take turns.

pub mod server;
