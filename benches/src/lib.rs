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

/// A count with k or M: decimal, znodes are no bytes. `None` when it is none, or above 64 bits.
pub fn count(text: &str) -> Option<u64> {
    let (digits, times) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1_000),
        b'M' => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(times)
}

/// The middle; of an even number the mean of the two in the middle, of none 0.
pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => (all[n / 2 - 1] + all[n / 2]) / 2.0,
        n => all[n / 2],
    }
}
