//! How long nodes stay: session lengths of a published measurement.

use crate::base::random::Random;
use std::time::Duration;

/// Of the peers that joined IPFS's table in the week from 2022-04-28, half had left after about 2 hours and 80 % after 8
/// (ProbeLab, RFM 2 "Uptime and churn", crawls every 30 minutes). A Weibull distribution through these two points:
const SHAPE: f64 = 0.6077;
const SCALE_HOURS: f64 = 3.656;
/// Lengths kept, equally likely.
const QUANTILES: usize = 4096;

/// Session lengths to draw from.
#[derive(Debug)]
pub struct Sessions {
    lengths: Vec<Duration>,
    /// Sum of all up to each.
    sums: Vec<u64>,
}

impl Sessions {
    /// As they were measured.
    pub fn measured() -> Sessions {
        let length = |quantile: usize| {
            let part = (quantile as f64 + 0.5) / QUANTILES as f64;
            Duration::from_secs_f64(3600.0 * SCALE_HOURS * (-(1.0 - part).ln()).powf(1.0 / SHAPE))
        };
        let lengths: Vec<Duration> = (0..QUANTILES).map(length).collect();
        let mut sum = 0;
        let sums = lengths.iter().map(|length| {
            sum += length.as_micros() as u64;
            sum
        });
        let sums = sums.collect();
        Sessions { lengths, sums }
    }

    /// How long one stays who comes now.
    pub fn fresh(&self, random: &mut Random) -> Duration {
        random.pick(&self.lengths).copied().unwrap_or_default()
    }

    /// How long one still stays who is met at a random moment: long sessions are met more often than short ones.
    pub fn rest(&self, random: &mut Random) -> Duration {
        let met = random.below(self.sums.last().copied().unwrap_or(0));
        let place = self.sums.partition_point(|sum| *sum <= met);
        let length = self.lengths.get(place).copied().unwrap_or_default().as_micros() as u64;
        Duration::from_micros(random.below(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_as_long_as_was_measured() {
        let sessions = Sessions::measured();
        let mut random = Random::new(1);
        let hours = |length: Duration| length.as_secs_f64() / 3600.0;
        let mut fresh: Vec<f64> = (0..20_000).map(|_| hours(sessions.fresh(&mut random))).collect();
        fresh.sort_by(f64::total_cmp);
        assert!((1.9..2.1).contains(&fresh[10_000]) && (7.7..8.3).contains(&fresh[16_000]), "{}", fresh[16_000]);
        let mean = |lengths: &[f64]| lengths.iter().sum::<f64>() / lengths.len() as f64;
        let rest: Vec<f64> = (0..20_000).map(|_| hours(sessions.rest(&mut random))).collect();
        assert!(mean(&rest) > 1.5 * mean(&fresh), "{} {}", mean(&rest), mean(&fresh));
    }
}
