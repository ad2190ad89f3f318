//! Sums that fade: what comes now weighs more than what came before, by how much more the clock says. So nothing has to be touched while
//! time passes, and the order among sums never changes by itself (forward decay: Cormode, Shkapenyuk, Srivastava, Xu 2009).

use crate::base::time::Instant;
use std::cmp::Ordering;

/// Sums fall by half in 64 steps of this length, 41.6 minutes: a steady rate then sums up to what comes in an hour.
const STEP_US: u64 = 38_988_000;
const STEPS: u64 = 64;
/// Two to the power of a step.
const STEP_GAIN: f64 = 1.010_889_286_051_700_5;
/// After so many halvings the sums are made small again.
const HALVINGS_MAX: u64 = 60;
/// More is nothing at all.
const EXPONENT_MAX: u64 = 1000;

/// A fading sum, comparable with others of the same scale.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weight(pub(super) f64);

impl PartialEq for Weight {
    fn eq(&self, other: &Weight) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Weight {}

impl PartialOrd for Weight {
    fn partial_cmp(&self, other: &Weight) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Weight {
    fn cmp(&self, other: &Weight) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What one unit weighs at which time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scale {
    base: u64,
}

impl Scale {
    /// The weight of one unit that comes now. The same on every machine: nothing but products.
    pub(super) fn one(&self, now: Instant) -> f64 {
        let steps = (now.0 / STEP_US).saturating_sub(self.base);
        let halvings = (steps / STEPS).min(EXPONENT_MAX);
        let fraction = (0..steps % STEPS).fold(1.0, |gain, _| gain * STEP_GAIN);
        f64::from_bits((1023 + halvings) << 52) * fraction
    }

    /// What a weight is in units of now.
    pub(super) fn value(&self, now: Instant, weight: Weight) -> f64 {
        weight.0 / self.one(now)
    }

    /// Now and then, by what all weights are to be multiplied from now on.
    pub(super) fn rebase(&mut self, now: Instant) -> Option<f64> {
        let step = now.0 / STEP_US;
        if step.saturating_sub(self.base) < HALVINGS_MAX * STEPS {
            return None;
        }
        let factor = 1.0 / self.one(now);
        self.base = step;
        Some(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000;

    #[test]
    fn a_steady_rate_sums_up_to_what_comes_in_an_hour_whatever_the_hour() {
        let (mut scale, mut sum) = (Scale::default(), Weight(0.0));
        for minute in 0..20_000u64 {
            let now = Instant(minute * 60_000_000);
            if let Some(factor) = scale.rebase(now) {
                sum = Weight(sum.0 * factor);
            }
            sum = Weight(sum.0 + scale.one(now));
            let value = scale.value(now, sum);
            assert!(minute < 400 || (58.0..62.0).contains(&value), "{value} at minute {minute}");
        }
        let last = Instant(20_000 * 60_000_000);
        let half = Instant(last.0 + STEP_US * STEPS);
        let part = scale.value(half, sum) / scale.value(last, sum);
        assert!((0.49..0.51).contains(&part), "{part}");
    }

    #[test]
    fn after_a_long_sleep_nothing_is_left_and_nothing_overflows() {
        let mut scale = Scale::default();
        let sum = Weight(1e6 * scale.one(Instant(0)));
        let now = Instant(365 * 24 * HOUR);
        assert!(scale.value(now, sum) < 1e-100);
        let factor = scale.rebase(now).unwrap();
        assert!(factor.is_finite() && sum.0 * factor < 1e-100);
        assert!((scale.value(now, Weight(scale.one(now))) - 1.0).abs() < 1e-9);
    }
}
