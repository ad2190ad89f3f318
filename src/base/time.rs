//! Time as the cores see it: an argument, never a clock.

use std::time::Duration;

/// A moment on the node's own monotonic clock, in microseconds since the node started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// `self` and `duration` later, saturating.
    pub fn after(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(duration.as_micros().min(u128::from(u64::MAX)) as u64))
    }

    /// Time since `earlier`; zero when that lies ahead.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A moment of civil time with nanoseconds, as files carry it; may lie before 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// 0 to 999,999,999, always counted forward.
    pub nanos: u32,
}
