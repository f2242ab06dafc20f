//! What a member of an ensemble goes through, for the metrics: elections, and the times without service.

use crate::stats::{Counter, Measure, ServerStats};
use node::{Node, Service};
use proto::Instant;
use proto::peer::PeerState;

/// The role as it was last seen, with the beginnings of what has not ended.
#[derive(Default)]
pub struct Watch {
    state: Option<PeerState>,
    looking_since: Option<Instant>,
    found_at: Option<Instant>,
    unavailable_since: Option<Instant>,
    serves: bool,
}

impl Watch {
    /// Looks at a node that was just stepped.
    pub fn look(&mut self, node: &Node, now: Instant, stats: &ServerStats) {
        self.see(node.zab().state(), node.service(), now, stats);
    }

    fn see(&mut self, state: PeerState, service: Service, now: Instant, stats: &ServerStats) {
        let took = |since: Instant| now.0.saturating_sub(since.0);
        let was = self.state.replace(state);
        if state == PeerState::Looking && was != Some(PeerState::Looking) {
            stats.add(Counter::Looking, 1);
            self.looking_since = Some(now);
        }
        if state != PeerState::Looking
            && let Some(since) = self.looking_since.take()
        {
            stats.measure(Measure::Election, took(since), 1);
            self.found_at = Some(now);
        }
        let serves = matches!(service, Service::Leading | Service::Following | Service::Observing);
        if !serves && self.unavailable_since.is_none() {
            self.unavailable_since = Some(now);
        }
        if serves && !self.serves {
            if let Some(since) = self.unavailable_since.take() {
                stats.measure(Measure::Unavailable, took(since), 1);
                if service == Service::Leading {
                    stats.measure(Measure::LeaderUnavailable, took(since), 1);
                }
            }
            let synchronised = match service {
                Service::Following => Some(Measure::FollowerSync),
                Service::Observing => Some(Measure::ObserverSync),
                _ => None,
            };
            if let (Some(measure), Some(found)) = (synchronised, self.found_at.take()) {
                stats.measure(measure, took(found), 1);
            }
        }
        self.serves = serves;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elections_and_times_without_service_are_counted_once_each() {
        use PeerState::{Following, Leading, Looking};
        let stats = ServerStats::new(1, true);
        let mut watch = Watch::default();
        for (state, service, at) in [
            (Looking, Service::None, 100),
            (Looking, Service::None, 150),
            (Following, Service::None, 300),
            (Following, Service::None, 310),
            (Following, Service::Following, 700),
            (Following, Service::Following, 900),
            // The leader is gone; this one leads next.
            (Looking, Service::None, 1000),
            (Leading, Service::None, 1040),
            (Leading, Service::Leading, 1100),
        ] {
            watch.see(state, service, Instant(at), &stats);
        }
        let all = |m| (stats.measured(m).count(), stats.measured(m).sum);
        assert_eq!(stats.get(Counter::Looking), 2);
        assert_eq!(all(Measure::Election), (2, 200 + 40));
        assert_eq!(all(Measure::Unavailable), (2, 600 + 100));
        assert_eq!(all(Measure::LeaderUnavailable), (1, 100));
        assert_eq!(all(Measure::FollowerSync), (1, 400));
        assert_eq!(all(Measure::ObserverSync), (0, 0));
    }
}
