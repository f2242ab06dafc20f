//! How far a start has got, for those who wait for it.

use super::json::Json;
use crate::json;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// What the server is doing until it serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Directories are opened, the log is looked through.
    Opening,
    /// The newest snapshot is loaded.
    Loading,
    /// The log behind it is replayed.
    Replaying,
    /// Everything is there.
    Serving,
    /// The server stops.
    Stopping,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Opening => "opening the data directory",
            Phase::Loading => "loading the snapshot",
            Phase::Replaying => "replaying the log",
            Phase::Serving => "serving",
            Phase::Stopping => "stopping",
        }
    }
}

/// The progress of a start.
pub struct Progress {
    phase: Mutex<(Phase, Instant)>,
    /// Bytes done in this phase.
    done: AtomicU64,
    /// Bytes in all, at most; 0: not known.
    total: AtomicU64,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            phase: Mutex::new((Phase::Opening, Instant::now())),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }
}

impl Progress {
    /// The next phase begins, with so many bytes to go at most.
    pub fn enter(&self, phase: Phase, total: u64) {
        let mut now = self.phase.lock();
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
        *now = (phase, Instant::now());
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// What the server does now.
    pub fn phase(&self) -> Phase {
        self.phase.lock().0
    }

    /// Reason and estimate for those who ask whether the server is ready. The estimate is of this phase, at the pace
    /// so far; an upper bound while the log is replayed, whose end is found by reading.
    pub fn report(&self) -> Json {
        let (phase, since) = *self.phase.lock();
        let (done, total) = (self.done.load(Relaxed), self.total.load(Relaxed));
        let elapsed = since.elapsed().as_secs_f64();
        let mut out = json!({
            "ready": phase == Phase::Serving,
            "reason": phase.name(),
            "seconds_in_phase": (elapsed * 1000.0).round() / 1000.0,
        });
        if matches!(phase, Phase::Loading | Phase::Replaying) && total > 0 {
            out.put("bytes_done", done);
            out.put("bytes_at_most", total);
            if done > 0 {
                let left = total.saturating_sub(done) as f64 * elapsed / done as f64;
                out.put("eta_seconds", (left * 10.0).ceil() / 10.0);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_tells_what_it_does_and_how_long_it_takes() {
        let p = Progress::default();
        assert_eq!(p.report().get("ready"), Some(&Json::Bool(false)));
        p.enter(Phase::Loading, 1000);
        assert_eq!(p.report().get("eta_seconds"), None, "no pace yet");
        p.advance(1000);
        assert_eq!(p.report().get("eta_seconds"), Some(&Json::Real(0.0)));
        assert_eq!(p.report().get("reason"), Some(&Json::Text("loading the snapshot".into())));
        p.enter(Phase::Serving, 0);
        assert_eq!(p.report().get("ready"), Some(&Json::Bool(true)));
    }
}
