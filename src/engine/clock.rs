//! The one clock: time since the engine started, as the cores count it.

use crate::base::time::Instant;
use std::time::Duration;

/// Started once with the engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: tokio::time::Instant,
}

impl Clock {
    /// A clock that begins at zero.
    pub(super) fn start() -> Clock {
        Clock { start: tokio::time::Instant::now() }
    }

    /// Now.
    pub(super) fn now(&self) -> Instant {
        Instant(self.start.elapsed().as_micros() as u64)
    }

    /// The runtime's moment for `at`.
    pub(super) fn at(&self, at: Instant) -> tokio::time::Instant {
        // A deadline beyond a year is as good as none; the runtime's clock may not reach further.
        self.start + Duration::from_micros(at.0.min(366 * 86_400 * 1_000_000))
    }
}
