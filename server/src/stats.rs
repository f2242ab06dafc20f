//! Counters of the server: cheap enough for every request, read by the four-letter words.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start or the last reset.
#[derive(Default)]
pub struct ServerStats {
    received: AtomicU64,
    received_bytes: AtomicU64,
    sent: AtomicU64,
    latency: Mutex<Latency>,
    rejected: AtomicU64,
    auth_failed: AtomicU64,
    sessionless_expired: AtomicU64,
    /// Snapshots completed since the start.
    pub snapshots: AtomicU64,
    /// ms that the last snapshot took.
    pub last_snapshot_ms: AtomicU64,
    /// Durable writes of the log.
    pub log_writes: AtomicU64,
    /// Their time in all, µs.
    pub log_write_us: AtomicU64,
    /// The longest of them, µs.
    pub log_write_max_us: AtomicU64,
}

/// Latencies of replies in whole ms, as Apache counts them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// The smallest; 0 when nothing was counted.
    pub min_ms: u64,
    /// The largest.
    pub max_ms: u64,
    total_ms: u64,
    count: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { min_ms: u64::MAX, max_ms: 0, total_ms: 0, count: 0 }
    }
}

impl Latency {
    /// The mean, to four decimal places as Apache prints it; 0 when nothing was counted.
    pub fn average_ms(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        (self.total_ms as f64 / self.count as f64 * 10_000.0).round() / 10_000.0
    }

    /// The smallest, 0 when nothing was counted.
    pub fn min_shown_ms(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min_ms }
    }
}

impl ServerStats {
    /// A frame of `bytes` was read.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A reply was written, `latency_ms` after its request was read.
    pub fn replied(&self, latency_ms: u64) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let mut l = self.latency.lock();
        l.min_ms = l.min_ms.min(latency_ms);
        l.max_ms = l.max_ms.max(latency_ms);
        l.total_ms += latency_ms;
        l.count += 1;
    }

    /// An event was written.
    pub fn event(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was refused.
    pub fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// A credential was refused.
    pub fn auth_failed(&self) {
        self.auth_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection never shook hands.
    pub fn sessionless_expired(&self) {
        self.sessionless_expired.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets packets and latencies, as `srst` does.
    pub fn reset(&self) {
        self.received.store(0, Ordering::Relaxed);
        self.received_bytes.store(0, Ordering::Relaxed);
        self.sent.store(0, Ordering::Relaxed);
        *self.latency.lock() = Latency::default();
    }

    /// Frames read.
    pub fn packets_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes read.
    pub fn bytes_received(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Frames written.
    pub fn packets_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Latencies now.
    pub fn latency(&self) -> Latency {
        *self.latency.lock()
    }

    /// Connections refused.
    pub fn connections_rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Credentials refused.
    pub fn auth_failures(&self) -> u64 {
        self.auth_failed.load(Ordering::Relaxed)
    }

    /// Connections that never shook hands.
    pub fn sessionless_connections_expired(&self) -> u64 {
        self.sessionless_expired.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_rounded_as_apache_rounds_them() {
        let s = ServerStats::default();
        assert_eq!((s.latency().average_ms(), s.latency().min_shown_ms()), (0.0, 0));
        for ms in [1, 1, 2] {
            s.replied(ms);
        }
        assert_eq!(s.latency().average_ms(), 1.3333);
        assert_eq!((s.latency().min_shown_ms(), s.latency().max_ms), (1, 2));
        s.reset();
        assert_eq!(s.latency().max_ms, 0);
    }
}
