//! What a peer contributed, forgotten by and by.

use crate::base::time::Instant;
use std::time::Duration;

/// Bytes, decaying.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Contribution {
    bytes: u64,
    at: Instant,
}

impl Contribution {
    /// What is left of it: halved for each half-life, in a straight line in between.
    pub(super) fn left(&self, now: Instant, half_life: Duration) -> u64 {
        let (passed, half) = (now.since(self.at).as_micros(), half_life.as_micros().max(1));
        let halvings = u32::try_from(passed.checked_div(half).unwrap_or(0)).unwrap_or(u32::MAX);
        let Some(whole) = self.bytes.checked_shr(halvings) else { return 0 };
        let part = u128::from(whole).saturating_mul(passed.checked_rem(half).unwrap_or(0));
        let lost = part.checked_div(half.saturating_mul(2)).unwrap_or(0);
        whole.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX))
    }

    /// So much more.
    pub(super) fn add(&mut self, now: Instant, half_life: Duration, bytes: u64) {
        *self = Contribution { bytes: self.left(now, half_life).saturating_add(bytes), at: now };
    }
}
