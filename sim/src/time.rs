//! Virtual time, and the clocks that servers read.

use proto::{Instant, WallMs};

/// A point of virtual time, in ns since the beginning of the run.
pub type Time = u64;

/// Nanoseconds of a microsecond.
pub const US: u64 = 1_000;
/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const S: u64 = 1_000_000_000;

/// The two clocks of one machine. The monotonic one runs at a rate of its own; the wall clock jumps as well.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Where the two lines below meet: virtual time, monotonic ns.
    since: (Time, u64),
    /// Parts in a thousand of virtual time.
    rate: u64,
    /// Added to the monotonic clock for the wall clock, ms.
    wall_offset_ms: i64,
}

/// The wall clock at the beginning of every run, ms since 1970.
const EPOCH_MS: i64 = 1_700_000_000_000;

impl Clock {
    /// A clock that begins at `start_ms` of its own.
    pub fn new(start_ms: u64) -> Clock {
        Clock { since: (0, start_ms * MS), rate: 1000, wall_offset_ms: EPOCH_MS - start_ms as i64 }
    }

    /// The monotonic clock at `now`.
    pub fn mono(&self, now: Time) -> Instant {
        Instant(self.since.1 + (now - self.since.0) * self.rate / 1000)
    }

    /// The wall clock at `now`.
    pub fn wall(&self, now: Time) -> WallMs {
        WallMs(self.mono(now).as_ms() as i64 + self.wall_offset_ms)
    }

    /// The virtual time at which the monotonic clock will show `at`; now if it does already.
    pub fn when(&self, at: Instant, now: Time) -> Time {
        let ahead = at.0.saturating_sub(self.mono(now).0);
        // Rounded up: at that time the clock must not stand a nanosecond before `at`.
        now.saturating_add(ahead.saturating_mul(1000).div_ceil(self.rate))
    }

    /// From `now` on the clock runs at `rate` parts in a thousand.
    pub fn set_rate(&mut self, now: Time, rate: u64) {
        self.since = (now, self.mono(now).0);
        self.rate = rate;
    }

    /// The wall clock jumps by `ms`.
    pub fn jump(&mut self, ms: i64) {
        self.wall_offset_ms += ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_keeps_its_rate_and_never_goes_back() {
        let mut c = Clock::new(5_000);
        assert_eq!(c.mono(2 * S).as_ms(), 7_000);
        c.set_rate(2 * S, 900);
        assert_eq!(c.mono(3 * S).as_ms(), 7_900);
        let due = Instant::from_ms(8_800);
        assert!(c.mono(c.when(due, 3 * S)) >= due);
        assert_eq!(c.when(Instant::from_ms(1), 3 * S), 3 * S);
        let wall = c.wall(3 * S).0;
        c.jump(-3_600_000);
        assert_eq!(c.wall(3 * S).0, wall - 3_600_000);
        assert_eq!(c.mono(3 * S).as_ms(), 7_900);
    }
}
