//! What operators type besides the server: the parts of the `falconer` binary.
//!
//! Each subcommand is one module with a clap `Args` and a `run`. None of them needs a running server of ours:
//! [`bench`] loads any server of the protocol, [`disk`] measures a disk before it is trusted.
//!
//! ```text
//!   main ── bench::run     sockets → latencies          load generator
//!        ├─ disk::run      commits → latencies, verdict what a log would get from a disk
//!        └─ render, svg         tables, bars, progress       all that a terminal shows
//! ```
//!
//! What is not here: the server's own code. `tools` sees formats (`wal`, `snapshot`) and the protocol
//! (`proto`), never `node` or `server`.

pub mod bench;
pub mod disk;
pub mod render;
pub mod svg;
