//! What systemd is told: that the server serves, that it stops, and, where the unit sets `WatchdogSec`, that it gets on.
//!
//! A heartbeat would prove only that one thread lives. The watchdog is fed after a look at the node, which waits for its
//! lock, and only while writes that are on their way become applied: what clients do is the canary, so an idle server
//! writes nothing for it. A durable write that never comes back ends the process by itself before (`log::watch`).

use crate::boot::Failure;
use crate::core::Core;
use config::Membership;
use proto::Zxid;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The part of the watchdog's time after which it is fed, as systemd advises.
const FEEDS_PER_TIMEOUT: u32 = 2;

/// Says in one line what the server is doing, before it serves.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Says that the server serves, and begins to feed the watchdog if there is one.
///
/// # Errors
/// When there is a watchdog and no thread for it.
pub fn ready(core: &Arc<Core>, serving: &str) -> Result<(), Failure> {
    tell(&[NotifyState::Ready, NotifyState::Status(serving)]);
    let Some(timeout) = sd_notify::watchdog_enabled() else { return Ok(()) };
    let core = Arc::clone(core);
    let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || feed(&core, timeout));
    thread.map(drop).map_err(|e| Failure::System(format!("the thread watchdog can't be started: {e}")))
}

/// Says that the server stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a service manager this does nothing.
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("the service manager can't be told {state:?}: {e}");
    }
}

fn feed(core: &Core, timeout: Duration) {
    let mut before = Progress::default();
    while !core.stopping.load(Ordering::Acquire) {
        let in_flight = core.with_node(node::Node::in_flight);
        // Without space writes wait for the operator, and where a quorum is needed for others.
        let may_wait = core.is_log_full() || core.settings.membership != Membership::Standalone;
        let now = Progress { applied: core.tree.applied(), in_flight };
        if may_wait || now.follows(before) {
            tell(&[NotifyState::Watchdog]);
            before = now;
        } else {
            tracing::error!(applied = %now.applied, in_flight, "writes on their way are not applied: the watchdog gets nothing");
        }
        std::thread::sleep(timeout / FEEDS_PER_TIMEOUT);
    }
}

/// How far the server had come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    applied: Zxid,
    in_flight: usize,
}

impl Progress {
    /// Whether the server has got on since `before`, or had nothing to do.
    fn follows(self, before: Progress) -> bool {
        before.in_flight == 0 || self.applied > before.applied || self.in_flight == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_stay_on_their_way_are_no_progress() {
        let at = |zxid, in_flight| Progress { applied: Zxid::from_u64(zxid), in_flight };
        for (before, now, fed) in [
            (at(5, 0), at(5, 0), true),
            (at(5, 0), at(5, 3), true),
            (at(5, 3), at(5, 3), false),
            (at(5, 3), at(5, 9), false),
            (at(5, 3), at(6, 9), true),
            (at(5, 3), at(5, 0), true),
        ] {
            assert_eq!(now.follows(before), fed, "{before:?} {now:?}");
        }
    }
}
